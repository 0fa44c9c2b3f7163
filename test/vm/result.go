package vm

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// resultReader unpacks the tar stream that comes in pieces. Without a folder
// the stream is read and dropped.
type resultReader struct {
	dir  string
	w    *io.PipeWriter
	done chan error
}

func (r *resultReader) write(p []byte) error {
	if r.w == nil {
		pr, pw := io.Pipe()
		r.w, r.done = pw, make(chan error, 1)
		go func() {
			err := unpack(pr, r.dir)
			_, _ = io.Copy(io.Discard, pr)
			r.done <- err
		}()
	}
	_, err := r.w.Write(p)
	return err
}

// close waits for the last file and tells what went wrong.
func (r *resultReader) close() error {
	if r.w == nil {
		return nil
	}
	r.w.Close()
	if err := <-r.done; err != nil {
		return fmt.Errorf("files from the VM: %w", err)
	}
	return nil
}

// unpack writes folders and regular files below dir; a name that would leave
// it is refused.
func unpack(in io.Reader, dir string) error {
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if dir == "" {
			continue
		}
		if !filepath.IsLocal(h.Name) {
			return fmt.Errorf("%q leads out of the -out folder", h.Name)
		}
		to := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(to, 0o755)
		} else {
			err = writeFrom(to, t, os.FileMode(h.Mode).Perm())
		}
		if err != nil {
			return err
		}
	}
}

func writeFrom(name string, from io.Reader, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode|0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}

// died makes an error of what the console log and QEMU itself say.
func (r *run) died(cause error) error {
	what := "without saying why"
	log, _ := os.ReadFile(r.node.console)
	text := string(log)
	switch {
	case strings.Contains(text, "Kernel panic"):
		_, rest, _ := strings.Cut(text, "Kernel panic")
		line, _, _ := strings.Cut(rest, "\n")
		what = "of a kernel panic" + strings.TrimRight(line, "\r")
	case strings.Contains(text, "init: error:"):
		_, rest, _ := strings.Cut(text, "init: error:")
		line, _, _ := strings.Cut(rest, "\n")
		what = "as its init failed:" + strings.TrimRight(line, "\r")
	case strings.Contains(text, "reboot: Power down"), strings.Contains(text, "reboot: Restarting"):
		what = "as it was powered off before the command had ended"
	case len(r.node.output.b) > 0:
		what = "as QEMU said: " + strings.TrimSpace(string(r.node.output.b))
	}
	if takenBack(text) {
		when := errBooting
		if r.started {
			when = errors.New("in the middle")
		}
		return fmt.Errorf("%w, kernel %s: %w %w%s", ErrDied, r.kernel.Release, errPatched, when, consoleTail(r.node.console))
	}
	detail := ""
	if !errors.Is(cause, io.EOF) {
		detail = fmt.Sprintf(" (%v)", cause)
	}
	return fmt.Errorf("%w %s, kernel %s%s%s", ErrDied, what, r.kernel.Release, detail, consoleTail(r.node.console))
}

// ownBreakpoint is how a kernel's oops begins for a breakpoint that it knows nothing
// of, as up to 6.6 and as since, and then the byte where that was: behind it stands the
// instruction pointer.
var ownBreakpoint = regexp.MustCompile(`(?m)^(?:\[ *[0-9.]+\] )?(?:Oops: )?int3: 0000 \[#1\](?s:.*?) Code: [0-9a-f ]*\b([0-9a-f]{2}) <`)

// takenBack says whether a kernel died of a breakpoint that is not there any more. One
// that is, somebody has put there.
func takenBack(console string) bool {
	m := ownBreakpoint.FindStringSubmatch(console)
	return m != nil && m[1] != "cc"
}

var trouble = regexp.MustCompile(`BUG:|Oops|int3:|Kernel panic`)

// consoleTail gives the telling lines of a console log for an error message:
// from the first sign of trouble on, else the last ones.
func consoleTail(name string) string {
	const lines = 30
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	text := strings.TrimSpace(strings.ReplaceAll(string(b), "\r", ""))
	if text == "" {
		return "; its console is empty"
	}
	all := strings.Split(text, "\n")
	for i, line := range all { // what the kernel says first about its trouble matters most
		if trouble.MatchString(line) {
			all = all[i:min(len(all), i+lines)]
			break
		}
	}
	if len(all) > lines {
		all = all[len(all)-lines:]
	}
	return "; its console says:\n  " + strings.Join(all, "\n  ")
}
