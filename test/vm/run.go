package vm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Exit codes of Run that are not the command's own.
const (
	CodePatched = 123 // QEMU ran a breakpoint that the kernel had taken back: nobody's test failed
	CodeTimeout = 124 // the time was up
	CodeDied    = 125 // the VM died without saying, or could not be started
)

// ErrDied is returned when the VM ended before it told an exit code.
var ErrDied = errors.New("the VM died")

// errPatched is returned when the kernel fell over a breakpoint of its own. A kernel that
// changes its code puts one there for the time that takes; QEMU before 8.1 can run code
// that it translated in that moment, but that has become whole again by the time the
// breakpoint's handler looks, and that handler then knows of none. Most such changes are
// made while booting. It says nothing about what is tested.
var errPatched = errors.New("QEMU ran a breakpoint that the kernel had taken back")

// errBooting beside it: the command had not begun.
var errBooting = errors.New("while it booted")

// ErrTimeout is returned when the VM was ended because its time was up.
var ErrTimeout = errors.New("time is up")

// run is one run in progress.
type run struct {
	spec    Spec
	kernel  Kernel
	work    string // temporary folder
	out     string // folder for logs and results
	stdout  io.Writer
	stderr  io.Writer
	node    *machine
	guests  []*machine
	host    host
	port    *os.File
	begun   time.Time
	started bool // the command has begun
	results resultReader
}

// boots is how often a VM is started for one command: see errBooting.
const boots = 3

// Run boots the VM, runs the command and returns its exit code. The error is
// nil whenever the code is the command's own.
func Run(ctx context.Context, s Spec, stdout, stderr io.Writer) (code int, err error) {
	if err := s.Check(); err != nil {
		return 2, err
	}
	return untilBooted(stderr, func() (int, error) { return runOnce(ctx, s, stdout, stderr) })
}

// untilBooted runs a VM again whose boot failed by QEMU's fault, and says so.
func untilBooted(stderr io.Writer, once func() (int, error)) (code int, err error) {
	for try := 1; ; try++ {
		code, err = once()
		if !errors.Is(err, errBooting) || try == boots {
			return code, err
		}
		fmt.Fprintf(stderr, "vmrun: booting again, for %v\n", err)
	}
}

func runOnce(ctx context.Context, s Spec, stdout, stderr io.Writer) (code int, err error) {
	r := &run{spec: s, stdout: stdout, stderr: stderr, begun: time.Now()}
	if r.work, err = os.MkdirTemp("", "vmrun-"); err != nil {
		return CodeDied, fmt.Errorf("temporary folder: %w", err)
	}
	defer os.RemoveAll(r.work)
	if r.out = s.Out; r.out == "" {
		r.out = r.work
	}
	if err := os.MkdirAll(r.out, 0o755); err != nil {
		return CodeDied, fmt.Errorf("-out folder: %w", err)
	}
	if err := r.prepare(ctx); err != nil {
		return CodeDied, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.Timeout, ErrTimeout)
	defer cancel()
	defer r.stop()
	if err := r.start(); err != nil {
		return CodeDied, err
	}
	return r.wait(ctx)
}

// prepare builds everything that the machines boot from.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.kernel, err = FindKernel(r.spec.Kernel); err != nil {
		return err
	}
	if r.spec.Coarse {
		r.kernel.Args = CoarseTimers
	}
	helpers := filepath.Join(r.work, "helpers")
	if err := os.Mkdir(helpers, 0o755); err != nil {
		return fmt.Errorf("helpers: %w", err)
	}
	if err := buildHelpers(ctx, helpers, len(r.spec.Guests) > 0); err != nil {
		return err
	}
	r.say("helpers built")
	guests := append([]wire.Guest(nil), r.spec.Guests...)
	for i := range guests {
		guests[i].NodeMAC = fmt.Sprintf("52:54:00:68:70:%02x", i+1)
		if guests[i].Second != nil {
			guests[i].Second = &wire.Place{NodeMAC: fmt.Sprintf("52:54:00:68:71:%02x", i+1)}
		}
	}
	im, err := nodeImage(r.kernel, r.spec, helpers, guests)
	if err != nil {
		return err
	}
	initramfs := filepath.Join(r.work, "node.cpio")
	if err := im.writeFile(initramfs); err != nil {
		return err
	}
	r.say("initramfs built")
	r.node = newMachine("node", r.kernel, initramfs, filepath.Join(r.out, "console.log"), r.spec.Mem, r.spec.SMP, r.spec.OneThread)
	ours, theirs, err := socketPair("main port")
	if err != nil {
		return err
	}
	r.port = ours
	r.node.port(wire.MainPort, theirs)
	for _, g := range guests {
		if err := r.addGuest(g, helpers); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) addGuest(g wire.Guest, helpers string) error {
	if g.Second != nil {
		m, err := newMovable(r.node, g, helpers, r.work, r.out)
		if err != nil {
			return err
		}
		return r.host.add(r.node, m)
	}
	m, err := guestMachine(g, r.kernel.Args, helpers, r.work, r.out)
	if err != nil {
		return err
	}
	r.guests = append(r.guests, m)
	return join(r.node, m, g)
}

func (r *run) start() error {
	for _, m := range append([]*machine{r.node}, r.guests...) {
		if err := m.start(); err != nil {
			return err
		}
	}
	r.say("QEMU started")
	go r.host.serve()
	return nil
}

func (r *run) stop() {
	for _, m := range r.guests {
		m.stop(0)
		if m.output != nil && len(m.output.b) > 0 {
			fmt.Fprintf(r.stderr, "vmrun: guest %s: QEMU said: %s\n", m.name, bytes.TrimSpace(m.output.b))
		}
	}
	r.node.stop(0)
	r.port.Close()
	if err := r.host.close(); err != nil {
		fmt.Fprintf(r.stderr, "vmrun: guests that can move: %v\n", err)
	}
}

// wait reads frames until the exit frame, the end of the VM or of the time.
func (r *run) wait(ctx context.Context) (int, error) {
	type end struct {
		code int
		err  error
	}
	ended := make(chan end, 1)
	go func() {
		code, err := r.read()
		ended <- end{code, err}
	}()
	select {
	case e := <-ended:
		if e.err == nil {
			r.say("exit code %d", e.code)
			return e.code, r.results.close()
		}
		r.node.stop(time.Second) // let the console log become complete
		code, err := CodeDied, r.died(e.err)
		if errors.Is(err, errPatched) {
			code = CodePatched
		}
		return code, err
	case <-ctx.Done():
		r.node.stop(0)
		<-ended
		err := errors.Join(r.results.close(), context.Cause(ctx))
		if errors.Is(err, ErrTimeout) {
			return CodeTimeout, fmt.Errorf("%w: %v were not enough for %q in kernel %s%s",
				err, r.spec.Timeout, r.spec.Argv[0], r.kernel.Release, consoleTail(r.node.console))
		}
		return 130, fmt.Errorf("interrupted: %w", err)
	}
}

// read handles the frames that come from the node VM.
func (r *run) read() (int, error) {
	r.results = resultReader{dir: r.spec.Out}
	in := bufio.NewReaderSize(r.port, 1<<17)
	for {
		kind, p, err := wire.Read(in)
		if err != nil {
			return 0, err
		}
		switch kind {
		case wire.Stdout:
			_, err = r.stdout.Write(p)
		case wire.Stderr:
			_, err = r.stderr.Write(p)
		case wire.Start:
			var st wire.Started
			err, r.started = json.Unmarshal(p, &st), true
			r.say("kernel %s: init at %.2f s of uptime, command at %.2f s", st.Kernel, st.Init, st.Command)
		case wire.Tar:
			err = r.results.write(p)
		case wire.Exit:
			return strconv.Atoi(string(p))
		default:
			err = fmt.Errorf("%w: kind %q", wire.ErrFrame, kind)
		}
		if err != nil {
			return 0, err
		}
	}
}

// say tells a stage and the time since the beginning, when asked to.
func (r *run) say(format string, args ...any) {
	if r.spec.Verbose {
		fmt.Fprintf(r.stderr, "vmrun: %6.2f s  %s\n", time.Since(r.begun).Seconds(), fmt.Sprintf(format, args...))
	}
}
