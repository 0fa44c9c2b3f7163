package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// runCommand runs the job's command and gives its exit code: 128+n when signal
// n killed it, 127 when it could not be started, as a shell does.
func runCommand(job *wire.Job, w *wire.Writer) int {
	for _, kv := range job.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && os.Setenv(k, v) != nil {
			fmt.Fprintf(w.Stream(wire.Stderr), "init: cannot set %s\n", kv)
		}
	}
	file, err := exec.LookPath(job.Argv[0])
	if err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %s: %v; add it with -file\n", job.Argv[0], err)
		return 127
	}
	stdout, outDone, err := pipeTo(w.Stream(wire.Stdout))
	if err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %v\n", err)
		return 127
	}
	stderr, errDone, err := pipeTo(w.Stream(wire.Stderr))
	if err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %v\n", err)
		return 127
	}
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %v\n", err)
		return 127
	}
	p, err := os.StartProcess(file, job.Argv, &os.ProcAttr{
		Dir: "/root", Env: os.Environ(), Files: []*os.File{stdin, stdout, stderr},
		Sys: &unix.SysProcAttr{Setsid: true},
	})
	stdout.Close()
	stderr.Close()
	stdin.Close()
	if err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %s: %v\n", file, err)
		return 127
	}
	code := reapUntil(p.Pid)
	// Processes that it left behind may hold the pipes: what they print
	// afterwards is not waited for.
	late := time.After(500 * time.Millisecond)
	for _, done := range []<-chan struct{}{outDone, errDone} {
		select {
		case <-done:
		case <-late:
		}
	}
	return code
}

// reapUntil is PID 1's duty: it collects every child that ends, until the
// command itself does.
func reapUntil(pid int) int {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 125
		case got == pid && ws.Exited():
			return ws.ExitStatus()
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		}
	}
}

// pipeTo gives a pipe's writing end and copies what comes out of it.
func pipeTo(to io.Writer) (*os.File, <-chan struct{}, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer r.Close()
		_, _ = io.Copy(to, r)
	}()
	return w, done, nil
}

// sendOut streams /out as tar; nothing at all when it is empty.
func sendOut(w *wire.Writer) error {
	entries, err := os.ReadDir(wire.OutDir)
	if err != nil || len(entries) == 0 {
		return err
	}
	t := tar.NewWriter(w.Stream(wire.Tar))
	err = filepath.WalkDir(wire.OutDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(wire.OutDir, name)
		if err != nil || rel == "." || !(d.IsDir() || d.Type().IsRegular()) {
			return err
		}
		return sendFile(t, name, rel, d)
	})
	if err != nil {
		return fmt.Errorf("copying %s back: %w", wire.OutDir, err)
	}
	return t.Close()
}

// sendFile reads the whole file first: one that grows meanwhile must not break
// the stream.
func sendFile(t *tar.Writer, name, rel string, d fs.DirEntry) error {
	if d.IsDir() {
		return t.WriteHeader(&tar.Header{Name: rel + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	h := &tar.Header{Name: rel, Mode: int64(info.Mode().Perm()), Size: int64(len(b)), ModTime: info.ModTime(), Typeflag: tar.TypeReg}
	if err := t.WriteHeader(h); err != nil {
		return err
	}
	_, err = t.Write(b)
	return err
}
