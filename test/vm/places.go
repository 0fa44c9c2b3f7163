package vm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// wireEnd is the guest's end of a wire to the node VM, which outlives each QEMU that
// has it: whole frames cross it, so none is cut when a QEMU ends. While no QEMU has
// it, what comes is thrown away, as by a tap that nobody holds open.
type wireEnd struct {
	fd         int
	stop, done chan struct{} // of the throwing away; nil while a QEMU has the wire
}

// newWire gives both ends: the guest's, which is idle, and the node VM's.
func newWire(what string) (*wireEnd, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("wire of %s: %w", what, err)
	}
	w := &wireEnd{fd: fds[0]}
	w.idle()
	return w, os.NewFile(uintptr(fds[1]), what), nil
}

// take gives a QEMU its copy of the end.
func (w *wireEnd) take() (*os.File, error) {
	w.busy()
	fd, err := unix.FcntlInt(uintptr(w.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		w.idle()
		return nil, fmt.Errorf("wire: %w", err)
	}
	return os.NewFile(uintptr(fd), "wire"), nil
}

// idle says that no QEMU has the wire.
func (w *wireEnd) idle() {
	if w.stop != nil {
		return
	}
	stop, done := make(chan struct{}), make(chan struct{})
	w.stop, w.done = stop, done
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			select {
			case <-stop:
				return
			default:
			}
			ready := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
			if n, err := unix.Poll(ready, 50); err != nil || n == 0 {
				continue // a signal, or nothing in this time
			}
			if ready[0].Revents&unix.POLLIN == 0 {
				return // the node VM has ended
			}
			_, _, _ = unix.Recvfrom(w.fd, buf, unix.MSG_DONTWAIT) // thrown away
		}
	}()
}

func (w *wireEnd) busy() {
	if w.stop == nil {
		return
	}
	close(w.stop)
	<-w.done
	w.stop, w.done = nil, nil
}

func (w *wireEnd) close() error {
	w.busy()
	return unix.Close(w.fd)
}

// relay is the control channel of a guest that can move: the node VM's end stays, the
// other one is that of the QEMU in which the guest runs. Requests that come while it
// runs in none wait.
type relay struct {
	node *os.File
	mu   sync.Mutex
	turn *sync.Cond
	to   *os.File
	over bool
}

func newRelay(node *os.File) *relay {
	r := &relay{node: node}
	r.turn = sync.NewCond(&r.mu)
	go r.requests()
	return r
}

// point says where requests go; nil lets them wait.
func (r *relay) point(to *os.File) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.to = to
	r.turn.Broadcast()
}

// requests passes whole lines on, so that none is cut by a move.
func (r *relay) requests() {
	in := bufio.NewReaderSize(r.node, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return // the node VM has ended
		}
		r.mu.Lock()
		for r.to == nil && !r.over {
			r.turn.Wait()
		}
		if !r.over {
			_, _ = r.to.Write(line) // who asks a dead guest has no answer
		}
		r.mu.Unlock()
	}
}

// answers passes on what a QEMU's guest says, until that QEMU ends.
func (r *relay) answers(from *os.File) {
	in := bufio.NewReaderSize(from, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		r.mu.Lock()
		_, err = r.node.Write(line)
		r.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// close ends the relay once the node VM has ended.
func (r *relay) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	r.turn.Broadcast()
	return errors.Join(r.node.Close())
}
