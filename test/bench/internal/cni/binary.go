package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Aims of the binary itself.
var (
	AimSize = ratio.Aim{Ours: 4 << 20}
	AimRSS  = ratio.Aim{Ours: 5e6}
)

// BinaryRows compares the binaries: size, start, memory of an ADD.
func BinaryRows(ctx context.Context, c Config) ([]ratio.Row, error) {
	base := c.Baselines[0]
	size, err := sizes(c.Ours, base)
	if err != nil {
		return nil, err
	}
	var start, rss []ratio.Pair
	for range max(c.Rounds, 1) {
		p, err := inTurn(c.Ours, base, func(s Side) (float64, error) {
			done, err := s.Call(ctx, "VERSION", Attachment{})
			return done.Elapsed.Seconds(), err
		})
		if err != nil {
			return nil, err
		}
		start = append(start, p)
	}
	b := newBench(c)
	for range min(max(c.Rounds/10, 1), 10) {
		p, err := inTurn(c.Ours, base, func(s Side) (float64, error) { return b.peak(ctx, s) })
		if err != nil {
			return nil, err
		}
		rss = append(rss, p)
	}
	var rows []ratio.Row
	for _, m := range []struct {
		name  string
		unit  ratio.Unit
		aim   ratio.Aim
		pairs []ratio.Pair
		note  string
	}{
		{"plugin-size", ratio.Bytes, AimSize, []ratio.Pair{size}, "both built with -trimpath -ldflags='-s -w', CGO_ENABLED=0"},
		{"plugin-start", ratio.Seconds, ratio.Aim{}, start, "VERSION, exec to exit"},
		{"plugin-rss", ratio.Bytes, AimRSS, rss, "VmHWM at the end of ADD, the binary's own pages included"},
	} {
		row, err := ratio.Compare(m.name, base.Name, m.unit, m.aim, m.pairs)
		if err != nil {
			return rows, err
		}
		row.Note = m.note
		rows = append(rows, row)
	}
	return rows, nil
}

func sizes(ours, base Side) (ratio.Pair, error) {
	a, err := os.Stat(ours.Binary)
	if err != nil {
		return ratio.Pair{}, err
	}
	b, err := os.Stat(base.Binary)
	if err != nil {
		return ratio.Pair{}, err
	}
	return ratio.Pair{Ours: float64(a.Size()), Baseline: float64(b.Size())}, nil
}

// inTurn measures both sides once, in random order.
func inTurn(ours, base Side, measure func(Side) (float64, error)) (p ratio.Pair, err error) {
	sides := []Side{ours, base}
	rand.Shuffle(2, func(i, j int) { sides[i], sides[j] = sides[j], sides[i] })
	for _, s := range sides {
		v, err := measure(s)
		if err != nil {
			return p, err
		}
		if s.Name == ours.Name {
			p.Ours = v
		} else {
			p.Baseline = v
		}
	}
	return p, nil
}

// peak is the memory of an ADD in bytes; a DEL follows.
func (b *bench) peak(ctx context.Context, s Side) (_ float64, err error) {
	a, ns, err := b.attachment()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, ns.Delete()) }()
	rss, err := peakRSS(s.Plugin, "ADD", a)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.Name, err)
	}
	_, err = s.Call(ctx, "DEL", a)
	return float64(rss), err
}

// peakRSS runs the plugin and reads its VmHWM in its last moment. What wait4
// says of a child's memory will not do: ru_maxrss starts with that of the
// process that forked it (fs/exec.c, exec_mmap).
func peakRSS(p Plugin, verb string, a Attachment) (int64, error) {
	stdin, err := memFile(p.Conf)
	if err != nil {
		return 0, err
	}
	defer stdin.Close()
	out, err := memFile("")
	if err != nil {
		return 0, err
	}
	defer out.Close()
	runtime.LockOSThread() // a tracee has one thread for its tracer
	defer runtime.UnlockOSThread()
	proc, err := os.StartProcess(p.Binary, []string{p.Binary}, &os.ProcAttr{
		Env: p.environ(verb, a), Files: []*os.File{stdin, out, out}, Sys: &unix.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return 0, fmt.Errorf("trace %s: %w", p.Binary, err)
	}
	peak, code, err := traceToExit(proc.Pid)
	if err == nil && (code != 0 || peak == 0) {
		b := make([]byte, 2048)
		n, _ := out.ReadAt(b, 0)
		err = fmt.Errorf("%s exited %d: %s", verb, code, b[:n])
	}
	return peak, err
}

// traceToExit lets a tracee that stands at its exec run, and reads its peak
// memory when it is about to exit.
func traceToExit(pid int) (peak int64, code int, err error) {
	var ws unix.WaitStatus
	for first := true; ; first = false {
		if _, err := unix.Wait4(pid, &ws, unix.WALL, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return 0, 0, fmt.Errorf("wait for the tracee: %w", err)
		}
		sig := 0
		switch {
		case ws.Exited():
			return peak, ws.ExitStatus(), nil
		case ws.Signaled():
			return peak, 128 + int(ws.Signal()), nil
		case first:
			if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACEEXIT|unix.PTRACE_O_EXITKILL); err != nil {
				return 0, 0, fmt.Errorf("trace: %w", err)
			}
		case ws.TrapCause() == unix.PTRACE_EVENT_EXIT:
			if peak, err = vmHWM(pid); err != nil {
				return 0, 0, err
			}
		case ws.StopSignal() != unix.SIGTRAP:
			sig = int(ws.StopSignal())
		}
		if err := unix.PtraceCont(pid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
			return 0, 0, fmt.Errorf("trace: %w", err)
		}
	}
}

func vmHWM(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range bytes.Split(b, []byte("\n")) {
		if rest, ok := strings.CutPrefix(string(line), "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("status of process %d has no VmHWM", pid)
}

func memFile(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("bench", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("memory file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memory")
	if _, err := f.WriteAt([]byte(content), 0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
