package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// OpenTap makes a tap in the namespace, down, and gives its open end: whoever
// holds that is the NIC. The tap goes when it is closed everywhere. It is of the
// kind that virt-handler makes and QEMU takes (IFF_VNET_HDR).
func (s *Space) OpenTap(name string) (tap *os.File, err error) {
	err = s.Do(func() error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: /dev/net/tun: %w", s.Name, err)
		}
		req, err := unix.NewIfreq(name)
		if err == nil {
			req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("%s: tap %s: %w", s.Name, name, err), unix.Close(fd))
		}
		tap = os.NewFile(uintptr(fd), name)
		return nil
	})
	return tap, err
}

// AttachTap wires the pod for a VM that runs on this machine: the result is the
// open end of the pod's tap, for its NIC with this MAC.
func (p *Pod) AttachTap(network, mac string) (*os.File, error) {
	w, err := p.wireFor(network, mac)
	if err != nil {
		return nil, err
	}
	tap, err := p.OpenTap(w.Tap)
	if err != nil {
		return nil, err
	}
	if err := p.plugTap(w, w.Tap); err != nil {
		return nil, errors.Join(fmt.Errorf("pod %s: tap: %w", p.Name, err), tap.Close())
	}
	return tap, nil
}

// Try builds, in a lab of its own, one of each thing that the others are made
// of: it says what this machine lacks for them.
func Try() (err error) {
	lab, err := New("try", Binaries{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lab.Close()) }()
	sw, err := lab.Switch("switch")
	if err != nil {
		return err
	}
	pod, err := lab.Pod("pod")
	if err != nil {
		return err
	}
	if err := lab.plug(sw, pod.Space, PodIfName("try"), SwitchPort{PVID: 100, Tagged: []uint16{200}}); err != nil {
		return err
	}
	nic, err := pod.Link.LinkByName(PodIfName("try"))
	if err != nil {
		return err
	}
	tap, err := pod.AttachTap("try", nic.Attrs().HardwareAddr.String())
	if err != nil {
		return err
	}
	return tap.Close()
}

// tapCable joins two namespaces by a tap in each, with all offloads, as QEMU
// joins a VM: checksums are left to the other side, and frames are up to 64 KiB.
func (l *Lab) tapCable(a *Space, aName string, b *Space, bName string) error {
	x, err := a.OpenTap(aName)
	if err != nil {
		return err
	}
	y, err := b.OpenTap(bName)
	if err != nil {
		return errors.Join(err, x.Close())
	}
	l.atEnd(func() error { return errors.Join(x.Close(), y.Close()) })
	const offloads = unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6
	for _, t := range []*os.File{x, y} {
		if err := unix.IoctlSetInt(int(t.Fd()), unix.TUNSETOFFLOAD, offloads); err != nil {
			return fmt.Errorf("offloads of tap %s: %w", t.Name(), err)
		}
	}
	for _, pair := range [][2]*os.File{{x, y}, {y, x}} {
		go func() {
			buf := make([]byte, 1<<17)
			for {
				n, err := pair[0].Read(buf)
				if err != nil {
					return
				}
				_, _ = pair[1].Write(buf[:n]) // an interface that is down takes nothing
			}
		}()
	}
	return nil
}
