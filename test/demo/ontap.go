package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/homeport-cni/homeport/test/netns"
	"github.com/homeport-cni/homeport/test/vm"
	"github.com/homeport-cni/homeport/test/vm/control"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// onTap is vm1 where the demo runs natively: QEMU inside the launcher pod's
// network namespace, its NIC on the pod's tap, as KubeVirt has it.
type onTap struct {
	guest   wire.Guest
	folders vm.Folders
	standIn bool
	limit   time.Duration // for it to come up

	qemu *vm.TapGuest
	held []*os.File
	cmd  *exec.Cmd // plays the guest if a namespace does
}

// newOnTap prepares vm1 and makes it known to guestctl.
func newOnTap(o options) (*onTap, error) {
	g, err := vm.ParseGuest(o.guest)
	if err != nil {
		return nil, fmt.Errorf("-guest %q: %w", o.guest, err)
	}
	dir := filepath.Dir(netns.GuestsFile)
	g.Control = filepath.Join(dir, g.Name)
	b, err := json.Marshal([]wire.Guest{g})
	if err != nil {
		return nil, err
	}
	helpers, err := filepath.Abs(o.helpers)
	if err != nil {
		return nil, err
	}
	if err := os.Setenv("PATH", os.Getenv("PATH")+":"+helpers); err != nil { // for guestctl
		return nil, err
	}
	v := &onTap{guest: g, standIn: o.standIn, limit: o.limit, folders: vm.Folders{Helpers: helpers, Work: dir, Out: o.out}}
	return v, os.WriteFile(netns.GuestsFile, b, 0o644)
}

func (v *onTap) MAC() string { return v.guest.MAC }

func (v *onTap) Join(ctx context.Context, pod *netns.Pod) error {
	if v.standIn {
		return v.joinStandIn(pod)
	}
	tap, err := pod.AttachTap(network, v.guest.MAC)
	if err != nil {
		return err
	}
	if err := v.boot(pod.Space, tap); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, v.limit)
	defer cancel()
	return v.qemu.Ready(ctx)
}

// boot starts the VM in the namespace of its tap.
func (v *onTap) boot(s *netns.Space, tap *os.File) error {
	return s.Do(func() error {
		var err error
		v.qemu, err = vm.StartGuest(v.guest, tap, v.folders)
		return err
	})
}

// joinStandIn makes the guest's program act in a namespace behind the tap.
func (v *onTap) joinStandIn(pod *netns.Pod) error {
	var err error
	if v.held, err = control.MakeFIFOs(v.guest.Control); err != nil {
		return err
	}
	m, err := pod.Machine(v.guest.Name, network, v.guest.IP)
	if err != nil {
		return err
	}
	v.cmd = m.Command(context.Background(), filepath.Join(v.folders.Helpers, "guest"), v.guest.Name, "eth0", v.guest.Control)
	v.cmd.Stderr = os.Stderr
	return m.Start(v.cmd)
}

func (v *onTap) Close() error {
	var errs []error
	if v.qemu != nil {
		errs = append(errs, v.qemu.Stop())
	}
	if v.cmd != nil && v.cmd.Process != nil {
		errs = append(errs, v.cmd.Process.Kill())
		_ = v.cmd.Wait() // it was killed
	}
	for _, f := range v.held {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}
