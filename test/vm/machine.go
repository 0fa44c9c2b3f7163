package vm

import (
	"bytes"
	"os"
	"time"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Machine is a QEMU process that its caller equips, starts and ends: for tests
// whose machines do more than run one command (test/cluster).
type Machine struct{ m *machine }

// NewMachine describes a machine that boots a kernel with an initramfs; its
// console goes to a file, mem is in MiB.
func NewMachine(name string, k Kernel, initramfs, console string, mem, smp int) *Machine {
	return &Machine{newMachine(name, k, initramfs, console, mem, smp, false)}
}

// Args adds arguments of QEMU.
func (m *Machine) Args(args ...string) { m.m.args = append(m.m.args, args...) }

// NIC adds a virtio NIC and gives the other end of its wire: a stream of frames,
// each behind its length in 4 bytes, most significant first.
func (m *Machine) NIC(mac string) (*os.File, error) {
	ours, theirs, err := socketPair(m.m.name + " NIC")
	if err != nil {
		return nil, err
	}
	m.m.nic(mac, theirs)
	return ours, nil
}

// Guest makes the machine of a guest beside this one, joined to it by g.NodeMAC's
// NIC and the guest's control channel. Both are still to be started.
func (m *Machine) Guest(g wire.Guest, f Folders) (*Machine, error) {
	guest, err := guestMachine(g, m.m.kernelArgs, f.Helpers, f.Work, f.Out)
	if err != nil {
		return nil, err
	}
	return &Machine{guest}, join(m.m, guest, g)
}

// Start runs QEMU, which ends with the calling process at the latest.
func (m *Machine) Start() error { return m.m.start() }

// Stop gives the machine a moment to end by itself, then kills it.
func (m *Machine) Stop(grace time.Duration) { m.m.stop(grace) }

// Done is closed when the machine has ended; valid after Start.
func (m *Machine) Done() <-chan struct{} { return m.m.done }

// LastWords gives the end of the console, and what QEMU said once it has ended.
func (m *Machine) LastWords() string {
	select {
	case <-m.m.done:
		return string(bytes.TrimSpace(m.m.output.b)) + consoleTail(m.m.console)
	default:
		return consoleTail(m.m.console)
	}
}

// WriteNode writes the initramfs of a machine as Run boots it, with the program
// helpers/init as its /init: programs, busybox, modules, and of s the files,
// folders, modules, environment and command.
func WriteNode(name string, k Kernel, s Spec, helpers string, guests []wire.Guest) error {
	im, err := nodeImage(k, s, helpers, guests)
	if err != nil {
		return err
	}
	return im.writeFile(name)
}
