package bridge

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// The steps below each do one thing to one interface and leave it to the caller
// to order and undo them. Each is idempotent: it sends nothing to the kernel
// when things are as they should be.

// TakeOut brings an interface down and takes it out of whatever bridge it is
// in, as a chained plugin must with a port that another plugin has opened. The
// kernel waits for a grace period before it answers.
func (n *Net) TakeOut(ref Ref) error {
	l, err := n.LinkInfo(ref)
	if err != nil {
		return err
	}
	if l.Up {
		// First, and on its own: nothing passes while the rest is changed.
		if err := n.setFlagUp(l, false); err != nil {
			return err
		}
	}
	return n.leave(l)
}

// Leave takes an interface out of its bridge and leaves it as it is otherwise.
// One that is gone or in no bridge is not an error.
func (n *Net) Leave(ref Ref) error {
	l, err := n.LinkInfo(ref)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return n.leave(l)
}

func (n *Net) leave(l Link) error {
	if l.Master == 0 {
		return nil
	}
	if err := n.setLink(l.Index, nil, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(0))); err != nil {
		return fmt.Errorf("take %s out of its bridge: %w", l.Ref(), err)
	}
	return nil
}

// Join makes an interface a port of a bridge and keeps IPv6 off it. The
// interface must be down (a port starts with the bridge's default VLAN, and
// nothing may pass before SetVLANs has taken that away), and in no other bridge.
func (n *Net) Join(ref, bridge Ref) error {
	l, err := n.LinkInfo(ref)
	if err != nil {
		return err
	}
	br, err := n.bridgeLink(bridge)
	if err != nil {
		return err
	}
	switch {
	case l.Master == br.Index:
		return n.quiet(l)
	case l.Master != 0:
		return fmt.Errorf("put %s into bridge %s: %w: it is already in %s; take it out of there first",
			l.Ref(), br.Name, ErrRefused, n.linkName(l.Master))
	case l.Up:
		return fmt.Errorf("put %s into bridge %s: %w: it is up, and would pass frames before its VLANs are set; bring it down first",
			l.Ref(), br.Name, ErrRefused)
	}
	if err := n.quiet(l); err != nil {
		return err
	}
	if err := n.setLink(l.Index, nil, nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(br.Index)))); err != nil {
		return fmt.Errorf("put %s into bridge %s: %w", l.Ref(), br.Name, err)
	}
	return nil
}

// bridgeLink finds a bridge and makes sure that it is one.
func (n *Net) bridgeLink(ref Ref) (Link, error) {
	l, err := n.LinkInfo(ref)
	if err != nil {
		return Link{}, fmt.Errorf("bridge %w", err)
	}
	if l.Bridge == nil {
		return Link{}, fmt.Errorf("bridge %s: %w: it is no bridge but %s", l.Ref(), ErrRefused, kindName(l.Kind))
	}
	return l, nil
}

// linkName is for messages: the name of an index, or the number when it has none.
func (n *Net) linkName(index int) string {
	l, err := n.LinkInfo(Ref{Index: index})
	if err != nil {
		return Ref{Index: index}.String()
	}
	return l.Name
}

// SetPortFlags makes the port's flags exactly those (GuestFlags for a VM's
// port). Flags that the kernel does not know are off by nature and are ignored.
func (n *Net) SetPortFlags(ref Ref, want PortFlags) error {
	l, err := n.portLink(ref)
	if err != nil {
		return err
	}
	info := nl.NewRtAttr(unix.IFLA_PROTINFO|unix.NLA_F_NESTED, nil)
	have := l.Port.Flags.flagBits()
	changes := 0
	for i, bit := range want.flagBits() {
		if *bit.on == *have[i].on {
			continue
		}
		v := nl.Uint8Attr(0)
		if *bit.on {
			v = nl.Uint8Attr(1)
		}
		info.AddRtAttr(bit.attr, v)
		changes++
	}
	if changes == 0 {
		return nil
	}
	if err := n.setPort(l.Index, unix.RTM_SETLINK, info); err != nil {
		return fmt.Errorf("set the bridge port flags of %s: %w", l.Ref(), err)
	}
	return nil
}

// portLink finds an interface that is the port of a bridge.
func (n *Net) portLink(ref Ref) (Link, error) {
	l, err := n.LinkInfo(ref)
	if err != nil {
		return Link{}, err
	}
	if l.Port == nil {
		return Link{}, fmt.Errorf("%s: %w: it is the port of no bridge", l.Ref(), ErrRefused)
	}
	return l, nil
}

// setPort sends an AF_BRIDGE message about one port (net/bridge/br_netlink.c,
// br_setlink and br_dellink).
func (n *Net) setPort(index, msgType int, parts ...nl.NetlinkRequestData) error {
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	return n.do(msgType, 0, append([]nl.NetlinkRequestData{msg}, parts...)...)
}

// SetUp brings an interface up.
func (n *Net) SetUp(ref Ref) error { return n.setUp(ref, true) }

// SetDown brings an interface down.
func (n *Net) SetDown(ref Ref) error { return n.setUp(ref, false) }

func (n *Net) setUp(ref Ref, up bool) error {
	l, err := n.LinkInfo(ref)
	if err != nil || l.Up == up {
		return err
	}
	return n.setFlagUp(l, up)
}

func (n *Net) setFlagUp(l Link, up bool) error {
	if err := n.setLink(l.Index, &up); err != nil {
		word := "down"
		if up {
			word = "up"
		}
		return fmt.Errorf("bring %s %s: %w", l.Ref(), word, err)
	}
	return nil
}

// SetMTU sets an interface's MTU, bytes.
func (n *Net) SetMTU(ref Ref, mtu int) error {
	l, err := n.LinkInfo(ref)
	if err != nil || l.MTU == mtu {
		return err
	}
	if err := n.setLink(l.Index, nil, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(uint32(mtu)))); err != nil {
		return fmt.Errorf("set the MTU of %s to %d: %w", l.Ref(), mtu, err)
	}
	return nil
}
