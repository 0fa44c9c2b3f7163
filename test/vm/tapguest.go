package vm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/homeport-cni/homeport/test/vm/control"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// TapGuest is a guest that runs on this machine, its NIC on a tap, where the
// node is no VM either.
type TapGuest struct {
	guest   wire.Guest
	machine *machine
	// fifos keeps the channel open, so that nobody who asks before QEMU is up
	// finds its end.
	fifos []*os.File
}

// Folders says where a guest's files are.
type Folders struct {
	Helpers string // has the program guest
	Work    string // takes the initramfs
	Out     string // takes the console log
}

// StartGuest boots a guest from the network namespace of the calling thread. It
// makes the FIFOs of its control channel and takes the tap over.
func StartGuest(g wire.Guest, tap *os.File, f Folders) (*TapGuest, error) {
	m, err := guestMachine(g, "", f.Helpers, f.Work, f.Out)
	if err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	m.tapNIC(g.MAC, tap)
	m.fifos(wire.ControlPort(g.Name), g.Control)
	t := &TapGuest{guest: g, machine: m}
	if t.fifos, err = control.MakeFIFOs(g.Control); err != nil {
		return nil, errors.Join(err, tap.Close())
	}
	if err := m.start(); err != nil {
		return nil, errors.Join(err, t.Stop())
	}
	return t, nil
}

// Ready waits until the guest answers.
func (t *TapGuest) Ready(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-t.machine.done:
			cancel(fmt.Errorf("%w: QEMU ended", ErrDied))
		case <-ctx.Done():
		}
	}()
	a, err := control.Ask(ctx, t.guest, "ip")
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("guest %s: %w %s%s", t.guest.Name, context.Cause(ctx), t.said(), consoleTail(t.machine.console))
	case err == nil && !a.OK:
		return fmt.Errorf("guest %s: %s", t.guest.Name, a.Error)
	}
	return err
}

// said is what QEMU itself complained about; it is complete once QEMU has ended.
func (t *TapGuest) said() []byte {
	select {
	case <-t.machine.done:
		return bytes.TrimSpace(t.machine.output.b)
	default:
		return nil
	}
}

// Stop ends the guest.
func (t *TapGuest) Stop() error {
	t.machine.stop(0)
	var errs []error
	for _, f := range t.fifos {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
