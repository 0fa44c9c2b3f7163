package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// kernel is the node's bridge and port programs, in the words of plans and of
// the loop.
type kernel struct {
	net      *bridge.Net
	dp       *datapath.Datapath
	log      *slog.Logger
	poolUsed chan struct{} // a port slot was taken
	flat     bool          // Config.Flat
}

func openKernel(cfg *Config) (*kernel, error) {
	n, err := bridge.Open()
	if err != nil {
		return nil, err
	}
	dp, err := datapath.Open(datapath.Config{BPFFS: cfg.BPFFS})
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return &kernel{net: n, dp: dp, log: cfg.Log, poolUsed: make(chan struct{}, 1), flat: cfg.Flat}, nil
}

var (
	_ attach.Bridge   = (*kernel)(nil)
	_ attach.Datapath = (*kernel)(nil)
)

// Close lets go of the kernel; nothing in it changes.
func (k *kernel) Close() error { return errors.Join(k.net.Close(), k.dp.Close()) }

func ref(i attach.Interface) bridge.Ref { return bridge.Ref{Index: i.Index, Name: i.Name} }

func (k *kernel) portVLANs(v attach.VLANs) bridge.VLANs {
	return bridge.VLANs{PVID: v.PVID, Tagged: v.Tagged, Flat: k.flat}
}

// TakeOut implements attach.Bridge.
func (k *kernel) TakeOut(i attach.Interface) error {
	err := k.net.TakeOut(ref(i))
	if errors.Is(err, bridge.ErrNotFound) { // undo of a port that is gone
		return nil
	}
	return err
}

// SetMTU implements attach.Bridge.
func (k *kernel) SetMTU(i attach.Interface, mtu int) error { return k.net.SetMTU(ref(i), mtu) }

// Join implements attach.Bridge.
func (k *kernel) Join(i attach.Interface, name string) error {
	return k.net.Join(ref(i), bridge.Ref{Name: name})
}

// SetVLANs implements attach.Bridge.
func (k *kernel) SetVLANs(i attach.Interface, v attach.VLANs) error {
	if err := k.net.SetVLANs(ref(i), k.portVLANs(v)); err != nil {
		return err
	}
	if err := k.net.SetPortFlags(ref(i), bridge.GuestFlags()); err != nil {
		return err
	}
	return k.net.VerifyVLANs(ref(i), k.portVLANs(v))
}

// SetUp implements attach.Bridge.
func (k *kernel) SetUp(i attach.Interface) error { return k.net.SetUp(ref(i)) }

// Delete implements attach.Bridge.
func (k *kernel) Delete(i attach.Interface) error {
	l, err := k.port(i)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return k.net.DeleteVethFast(l.Ref())
}

// Alive says whether the port's interface is there, whatever its name. What
// cannot be found out counts as alive: a living port must not be taken for a dead
// one.
func (k *kernel) Alive(i attach.Interface) bool {
	_, err := k.port(i)
	return !errors.Is(err, bridge.ErrNotFound)
}

// port finds a port by its index. Under another name it is the same one if our
// programs are at it or it is in its bridge: anyone can rename an interface, and
// one that moves here from another namespace can bring a free index with it.
func (k *kernel) port(i attach.Interface) (bridge.Link, error) {
	l, err := k.net.LinkInfo(bridge.Ref{Index: i.Index})
	if err != nil || l.Name == i.Name || k.dp.VerifyPort(i.Index) == nil {
		return l, err
	}
	if br, err := k.net.LinkInfo(bridge.Ref{Name: i.Bridge}); err == nil && l.Master == br.Index {
		return l, nil
	}
	return bridge.Link{}, fmt.Errorf("interface %d is %s, not %s: %w", i.Index, l.Name, i.Name, bridge.ErrNotFound)
}

// Unfinished says whether an attachment of the record was cut short: its last step
// was never done, and its host end is down. A port that was open is up; one whose
// program was lost, or that a repair has just given a new one, too.
func (k *kernel) Unfinished(r *attach.Record) bool {
	state, known := k.State(r.HostIfIndex)
	if known && state != attach.Dark {
		return false
	}
	l, err := k.net.LinkInfo(bridge.Ref{Index: r.HostIfIndex})
	return err == nil && !l.Up && (known || l.Master == 0)
}

// InBridge says whether the record's interface is a port of its bridge.
func (k *kernel) InBridge(r *attach.Record) bool {
	l, err := k.net.LinkInfo(ref(r.HostEnd()))
	if err != nil || l.Master == 0 {
		return false
	}
	br, err := k.net.LinkInfo(bridge.Ref{Name: r.Bridge})
	return err == nil && br.Index == l.Master
}

// checkHostEnd refuses what is no host end of a veth pair.
func (k *kernel) checkHostEnd(i attach.Interface) error {
	l, err := k.net.LinkInfo(ref(i))
	if err != nil {
		return &attach.Error{Kind: attach.InvalidConfig, Field: "interface",
			Message: fmt.Sprintf("host interface %s: %v", i.Name, err), Remedy: "the plugin before homeport in the chain must leave a host veth"}
	}
	if l.Kind != "veth" {
		return &attach.Error{Kind: attach.InvalidConfig, Field: "interface",
			Message: fmt.Sprintf("host interface %s is no veth", i.Name), Remedy: "chain homeport behind a plugin that makes a veth pair, as bridge does"}
	}
	return nil
}

// DeleteOrphan deletes the veth that the key's name stands for: a port whose
// record was lost.
func (k *kernel) DeleteOrphan(key attach.Key) error {
	l, err := k.net.LinkInfo(bridge.Ref{Name: bridge.HostVethName(key.ContainerID, key.IfName)})
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	if err == nil {
		err = k.net.DeleteVethFast(l.Ref())
	}
	if err == nil {
		err = k.dp.DetachPort(l.Index)
	}
	return err
}

// ownVeth is the shape of bridge.HostVethName.
var ownVeth = regexp.MustCompile(`^veth[0-9a-f]{11}$`)

// Watch announces that something in the kernel has changed.
func (k *kernel) Watch(ctx context.Context) (<-chan bridge.Event, error) { return k.net.Watch(ctx) }

func (k *kernel) trunkSpec(t desired.Trunk) bridge.TrunkSpec {
	return bridge.TrunkSpec{Bridge: t.Bridge, Managed: t.Managed, Uplink: t.Uplink, Allowed: t.AllowedVLANs,
		Native: t.NativeVLAN, Management: t.Management, MTU: t.MTU, Flat: k.flat}
}

// VLANs lists the trunk's ports with what they carry, uplink first.
func (k *kernel) VLANs(t desired.Trunk, ours map[int]bool) ([]wire.PortVLANs, error) {
	o, err := k.net.Observe(t.Bridge)
	if err != nil {
		return nil, err
	}
	var uplink, rest []wire.PortVLANs
	for _, p := range o.SortedPorts() {
		row := wire.PortVLANs{Bridge: t.Bridge, Interface: p.Name, Role: "other", VLANs: p.VLANs.Members, PVID: p.VLANs.PVID, Untagged: p.VLANs.Untagged}
		switch {
		case p.Name == t.Uplink:
			row.Role = "uplink"
			uplink = append(uplink, row)
			continue
		case ours[p.Index]:
			row.Role = "port"
		}
		rest = append(rest, row)
	}
	return append(uplink, rest...), nil
}
