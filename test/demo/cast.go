package main

import (
	"context"

	"github.com/homeport-cni/homeport/test/netns"
)

// vm1 is the VM with a kernel of its own: how it gets into its launcher pod
// depends on where the demo runs.
type vm1 interface {
	MAC() string
	// Join wires the pod for it, as KubeVirt does after ADD.
	Join(ctx context.Context, pod *netns.Pod) error
	Close() error
}

// beside is a VM beside the one that this runs in.
type beside struct{ guest netns.RealGuest }

func (b beside) MAC() string                                  { return b.guest.MAC }
func (b beside) Join(_ context.Context, pod *netns.Pod) error { return pod.Attach(b.guest, network) }
func (b beside) Close() error                                 { return nil }

func cast(o options) (vm1, error) {
	if o.native {
		return newOnTap(o)
	}
	guests, err := netns.RealGuests()
	if err != nil {
		return nil, err
	}
	return beside{guests[0]}, nil
}
