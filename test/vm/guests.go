package vm

import (
	"path/filepath"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// A guest is a machine of its own with a kernel of its own, always the same
// one, whatever kernel the node runs.
const (
	guestKernel = "6.1"
	guestMem    = 160 // MiB
)

// guestMachine describes a guest that stays where it boots.
func guestMachine(g wire.Guest, kernelArgs, helpers, work, out string) (*machine, error) {
	k, initramfs, err := guestImage(g, kernelArgs, helpers, work)
	if err != nil {
		return nil, err
	}
	return newMachine(g.Name, k, initramfs, filepath.Join(out, "guest-"+g.Name+".log"), guestMem, 1, false), nil
}

// guestImage builds a guest's initramfs: its /init (test/vm/guest), busybox
// and the few modules that its NIC and control channel need.
func guestImage(g wire.Guest, kernelArgs, helpers, work string) (k Kernel, initramfs string, err error) {
	if k, err = FindKernel(guestKernel); err != nil {
		return k, "", err
	}
	k.Args = kernelArgs
	im := newImage()
	if err := im.file("/init", filepath.Join(helpers, "guest")); err != nil {
		return k, "", err
	}
	if err := addBusybox(im); err != nil {
		return k, "", err
	}
	names := []string{"virtio_pci", "virtio_net", "virtio_console"}
	if g.VLAN != 0 {
		names = append(names, "8021q")
	}
	load, err := addModules(im, k, names, nil)
	if err != nil {
		return k, "", err
	}
	if err := addJob(im, wire.Job{Hostname: g.Name, Modules: load, Self: &g}); err != nil {
		return k, "", err
	}
	initramfs = filepath.Join(work, "guest-"+g.Name+".cpio")
	return k, initramfs, im.writeFile(initramfs)
}
