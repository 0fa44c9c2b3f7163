package bridge

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Want is a trunk and its ports as they should be.
type Want struct {
	Trunk TrunkSpec
	// MAC and MTU (bytes) of the bridge are those of TrunkStatus; nil and 0
	// are not looked at.
	MAC net.HardwareAddr
	MTU int
	// UplinkMTU is the least that the uplink must have, in bytes: what the trunk
	// was set up with and what its ports have; 0 is not looked at.
	UplinkMTU int
	Ports     []WantPort
}

// Refs are the interfaces that Observe should look up besides the bridge's
// ports, so that Diff can tell what was taken away from what is gone.
func (w Want) Refs() []Ref {
	var refs []Ref
	if w.Trunk.Uplink != "" {
		refs = append(refs, Ref{Name: w.Trunk.Uplink})
	}
	for _, p := range w.Ports {
		refs = append(refs, p.Ref)
	}
	return refs
}

// WantPort is one VM's port. It should be up, in the bridge, and have the flags
// of GuestFlags.
type WantPort struct {
	Ref
	VLANs VLANs
	MTU   int // bytes; 0 is not looked at
}

// Kind says what has drifted.
type Kind string

// The kinds, in the order in which Diff gives them and they are best repaired.
const (
	BridgeMissing     Kind = "BridgeMissing"
	BridgeReplaced    Kind = "BridgeReplaced" // there is something else of that name
	VLANFilteringOff  Kind = "VLANFilteringOff"
	BridgeSettings    Kind = "BridgeSettings" // default PVID, STP, snooping of a managed bridge
	BridgeMACChanged  Kind = "BridgeMACChanged"
	MTUShrunk         Kind = "MTUShrunk"
	BridgeVLANExtra   Kind = "BridgeVLANExtra" // a managed bridge is itself in a guest VLAN
	BridgeDown        Kind = "BridgeDown"
	UplinkMissing     Kind = "UplinkMissing"
	UplinkUnslaved    Kind = "UplinkUnslaved"
	UplinkVLANMissing Kind = "UplinkVLANMissing"
	UplinkVLANExtra   Kind = "UplinkVLANExtra"
	UplinkMTUShrunk   Kind = "UplinkMTUShrunk" // its owner's: not to be repaired here
	UplinkDown        Kind = "UplinkDown"
	PortMissing       Kind = "PortMissing" // the interface is gone: not to be repaired here
	PortUnslaved      Kind = "PortUnslaved"
	PVIDAdded         Kind = "PVIDAdded" // untagged frames go where they should not
	PortVLANExtra     Kind = "PortVLANExtra"
	PortVLANMissing   Kind = "PortVLANMissing"
	PortFlagsChanged  Kind = "PortFlagsChanged"
	PortMTUChanged    Kind = "PortMTUChanged"
	PortDown          Kind = "PortDown"
)

// Drift is one thing that is not as it should be.
type Drift struct {
	Kind Kind `json:"kind"`
	// Subject is the bridge, the uplink or the port.
	Subject Ref `json:"subject"`
	// Want and Got are for people.
	Want string `json:"want"`
	Got  string `json:"got"`
}

// String prints it on one line.
func (d Drift) String() string {
	return fmt.Sprintf("%s %s: want %s, got %s", d.Kind, d.Subject, d.Want, d.Got)
}

// Diff compares what should be with what is, as Observe(w.Trunk.Bridge,
// w.Refs()...) gives it. It is a function of its arguments alone. Management VLANs count on guest ports, where they have no business,
// but never on the uplink or the bridge.
func Diff(want Want, got Observed) []Drift {
	ds := diffBridge(want, got)
	ds = append(ds, diffUplink(want, got)...)
	ports := slices.Clone(want.Ports)
	slices.SortStableFunc(ports, func(a, b WantPort) int { return a.Index - b.Index })
	for _, p := range ports {
		ds = append(ds, diffPort(p, got)...)
	}
	return ds
}

func diffBridge(w Want, got Observed) []Drift {
	br := Ref{Index: got.Bridge.Index, Name: w.Trunk.Bridge}
	switch {
	case !got.Exists:
		return []Drift{{BridgeMissing, br, "a bridge", "nothing"}}
	case !got.IsBridge:
		return []Drift{{BridgeReplaced, br, "a bridge", "another kind of interface"}}
	}
	var ds []Drift
	add := func(when bool, kind Kind, want, is string) {
		if when {
			ds = append(ds, Drift{kind, br, want, is})
		}
	}
	add(!w.Trunk.Flat && !got.VLANFiltering, VLANFilteringOff, "vlan_filtering 1", "vlan_filtering 0")
	if w.Trunk.Managed {
		should, is := w.Trunk.wantBridge(), got.BridgeAttrs
		is.VLANFiltering = should.VLANFiltering // told above
		add(!w.Trunk.fits(is), BridgeSettings, should.settings(), is.settings())
	}
	add(w.MAC != nil && !bytes.Equal(w.MAC, got.MAC), BridgeMACChanged, w.MAC.String(), got.MAC.String())
	least := w.MTU
	if up, ok := portNamed(got.Ports, w.Trunk.Uplink); ok { // a lower one is told at the uplink
		least = min(least, up.MTU)
	}
	add(got.MTU < least, MTUShrunk, strconv.Itoa(least), strconv.Itoa(got.MTU))
	if w.Trunk.Managed && !w.Trunk.Flat {
		extra := got.Self.Members.Minus(w.Trunk.Management)
		add(!extra.Empty(), BridgeVLANExtra, "none but management VLANs", extra.String())
	}
	add(!got.Up, BridgeDown, "up", "down")
	return ds
}

func (b BridgeAttrs) settings() string {
	onOff := func(on bool) int {
		if on {
			return 1
		}
		return 0
	}
	return fmt.Sprintf("vlan_default_pvid %d, stp_state %d, mcast_snooping %d", b.DefaultPVID, onOff(b.STP), onOff(b.McastSnooping))
}

func portNamed(ps map[int]ObservedPort, name string) (ObservedPort, bool) {
	for _, p := range ps {
		if p.Name == name {
			return p, true
		}
	}
	return ObservedPort{}, false
}

func diffUplink(w Want, got Observed) []Drift {
	t := w.Trunk
	if t.Uplink == "" {
		return nil
	}
	up, ok := portNamed(got.Ports, t.Uplink)
	if !ok {
		loose, exists := portNamed(got.Loose, t.Uplink)
		if !exists {
			return []Drift{{UplinkMissing, Ref{Name: t.Uplink}, "an interface", "nothing"}}
		}
		return []Drift{{UplinkUnslaved, loose.Ref, "a port of " + t.Bridge, masterWords(loose.Master)}}
	}
	var ds []Drift
	if !t.Flat {
		c := t.uplinkChange(up.VLANs)
		if !c.add.Empty() {
			ds = append(ds, Drift{UplinkVLANMissing, up.Ref, c.want.String(), up.VLANs.String()})
		}
		if !c.del.Empty() || c.pvid {
			ds = append(ds, Drift{UplinkVLANExtra, up.Ref, c.want.String(), up.VLANs.String()})
		}
	}
	if up.MTU < w.UplinkMTU {
		ds = append(ds, Drift{UplinkMTUShrunk, up.Ref, strconv.Itoa(w.UplinkMTU), strconv.Itoa(up.MTU)})
	}
	if !up.Up {
		ds = append(ds, Drift{UplinkDown, up.Ref, "up", "down"})
	}
	return ds
}

// uplinkChange is what must happen to the uplink's VLANs.
type uplinkChange struct {
	want PortVLANs // in the end, besides keep
	keep vlan.Set  // not ours: neither added nor removed
	add  vlan.Set  // missing, or with other flags
	del  vlan.Set  // too much
	pvid bool      // a PVID is to be taken away from a VLAN that stays
}

// uplinkChange says how the uplink's VLANs become exactly ours on a managed
// bridge; on an adopted one, whatever else is there stays as it is but for what
// we added, a PVID too unless the trunk names a native VLAN.
func (s TrunkSpec) uplinkChange(have PortVLANs) uplinkChange {
	c := uplinkChange{want: s.UplinkVLANs(), keep: s.Management}
	if !s.Managed {
		ours := have.same(s.Added)
		c.keep = c.keep.Union(have.Members.Minus(c.want.Members).Minus(ours))
		if c.want.PVID == 0 && c.want.Members.Minus(ours).Contains(have.PVID) {
			// One VLAN of ours is somebody's native VLAN: theirs to say.
			c.keep = c.keep.Union(single(have.PVID))
		}
	}
	if c.want.PVID == 0 && c.keep.Contains(have.PVID) {
		c.want.PVID = have.PVID
	}
	c.add = have.differs(c.want).Minus(c.keep)
	c.del = have.Members.Minus(c.want.Members).Minus(c.keep)
	c.pvid = c.want.PVID == 0 && c.want.Members.Contains(have.PVID)
	return c
}

// same is the VLANs that p and q have in the same way.
func (p PortVLANs) same(q PortVLANs) vlan.Set {
	s := p.Members.Intersect(q.Members)
	s = s.Minus(p.Untagged.Minus(q.Untagged)).Minus(q.Untagged.Minus(p.Untagged))
	if p.PVID != q.PVID {
		s = s.Minus(single(p.PVID)).Minus(single(q.PVID))
	}
	return s
}

func masterWords(index int) string {
	if index == 0 {
		return "a port of nothing"
	}
	return "a port of " + Ref{Index: index}.String()
}

func diffPort(w WantPort, got Observed) []Drift {
	p, ok := got.Ports[w.Index]
	if !ok || w.Name != "" && p.Name != w.Name {
		loose, exists := got.Loose[w.Index]
		if !exists || w.Name != "" && loose.Name != w.Name {
			return []Drift{{PortMissing, w.Ref, "an interface", "nothing"}}
		}
		return []Drift{{PortUnslaved, w.Ref, "a port of " + got.Bridge.Name, masterWords(loose.Master)}}
	}
	var ds []Drift
	add := func(when bool, kind Kind, want, is string) {
		if when {
			ds = append(ds, Drift{kind, w.Ref, want, is})
		}
	}
	if !w.VLANs.Flat {
		k := w.VLANs.kernel()
		add(p.VLANs.PVID != 0 && p.VLANs.PVID != k.PVID, PVIDAdded, k.String(), p.VLANs.String())
		add(!p.VLANs.Members.Minus(k.Members).Empty(), PortVLANExtra, k.String(), p.VLANs.String())
		add(!p.VLANs.differs(k).Empty(), PortVLANMissing, k.String(), p.VLANs.String())
	}
	add(p.Flags != GuestFlags(), PortFlagsChanged, flagWords(GuestFlags()), flagWords(p.Flags))
	add(w.MTU != 0 && p.MTU != w.MTU, PortMTUChanged, strconv.Itoa(w.MTU), strconv.Itoa(p.MTU))
	add(!p.Up, PortDown, "up", "down")
	return ds
}
