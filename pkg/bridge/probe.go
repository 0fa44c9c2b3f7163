package bridge

import (
	"runtime"

	"github.com/vishvananda/netns"
)

// ProbeVLANFiltering tries whether this kernel can keep VLANs apart at a bridge,
// with a bridge in a network namespace that it makes and throws away. The error
// is ErrNoVLANFiltering if it cannot; any other means that it could not be told.
func ProbeVLANFiltering() error {
	result := make(chan error)
	go func() {
		// Never unlocked: the thread, and the namespace with it, ends here.
		runtime.LockOSThread()
		result <- probeVLANFiltering()
	}()
	return <-result
}

func probeVLANFiltering() error {
	ns, err := netns.New()
	if err != nil {
		return err
	}
	n, err := open(ns)
	if err != nil {
		return err
	}
	defer n.Close()
	_, err = n.EnsureTrunk(TrunkSpec{Bridge: "probe0", Managed: true})
	return err
}
