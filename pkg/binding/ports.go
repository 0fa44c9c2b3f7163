package binding

import (
	"cmp"
	"net/netip"
	"reflect"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Port is a port of this node.
type Port struct {
	Key      attach.Key
	IfIndex  int
	Trunk    string // or the bridge's name, where there is none
	Network  string
	MAC      attach.MAC
	VLANs    attach.VLANs
	Pod      attach.Pod
	Held     bool         // its VM is not there yet, or no more
	Declared []netip.Addr // by a CNI plugin before ours or an IPAM plugin, for its untagged VLAN
}

type port struct {
	Port
	nic  learn.NIC
	vm   bool
	said map[said]bool // what was fed of declarations and the guest agent
}

// said is an address by a source.
type said struct {
	addr   netip.Addr
	source string
	by     learn.Provenance
}

// FollowPorts has the book know these ports, and no others.
func (k *Keeper) FollowPorts(ports []Port) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.followPorts(ports)
	k.followSegments()
	k.flush()
}

func (k *Keeper) followPorts(ports []Port) {
	living := map[attach.Key]bool{}
	for _, p := range ports {
		living[p.Key] = true
	}
	// Who ends comes first: a MAC or an interface's number may be another's by now.
	for key, p := range k.ports {
		if !living[key] {
			k.endPort(p)
		}
	}
	for key := range k.owners {
		if !living[key] {
			delete(k.owners, key)
		}
	}
	for _, p := range ports {
		k.followPort(p)
	}
}

func (k *Keeper) followPort(p Port) {
	id, vm := k.nicOf(p)
	is := k.ports[p.Key]
	if is == nil {
		is = &port{nic: id, said: map[said]bool{}}
		k.ports[p.Key] = is
		k.arrive(id, p.MAC, vm)
	} else if is.nic != id {
		k.rename(is.nic, id, p.MAC, vm)
		is.nic = id
	}
	if k.byIndex[is.IfIndex] == is {
		delete(k.byIndex, is.IfIndex)
	}
	k.moved = k.moved || is.Trunk != p.Trunk || is.VLANs != p.VLANs
	if p.Held || is.Held {
		k.endTwin(p.Key)
	}
	is.Port, is.vm = p, vm
	k.byIndex[p.IfIndex] = is
	k.declare(is)
}

// nicOf is the NIC of a port, and whether it is a VM's.
func (k *Keeper) nicOf(p Port) (learn.NIC, bool) {
	o, known := k.owners[p.Key]
	if !known {
		o = wire.Owner{Name: cmp.Or(p.Pod.Name, p.Key.ContainerID), UID: p.Pod.UID}
	}
	return nicID(p.Pod.Namespace, o.Name, o.UID, p.Network, p.MAC), o.VM
}

// nicID names a NIC: a VM may have several on a network, which their MACs tell apart.
func nicID(namespace, name, uid, network string, mac attach.MAC) learn.NIC {
	return learn.NIC{Namespace: namespace, Name: name, UID: uid + "/" + mac.String(), Network: network}
}

func (k *Keeper) arrive(id learn.NIC, mac attach.MAC, vm bool) {
	delete(k.left, id)
	n := k.nics[id]
	if n.ports++; n.ports == 1 {
		k.note(id, nic{mac: macOf(mac), node: k.cfg.Node, ports: 1, vm: vm})
		k.apply(learn.Event{Kind: learn.EventPresent, At: k.cfg.Now(), NIC: id})
		return
	}
	n.vm = vm
	k.nics[id] = n
}

// note knows a NIC as it is now.
func (k *Keeper) note(id learn.NIC, n nic) {
	was, known := k.nics[id]
	k.nics[id] = n
	if known && was.mac == n.mac {
		return
	}
	if known {
		k.unnote(was)
	}
	k.macs[n.mac]++
	for _, c := range k.book.Claims(id) { // the map has them by the NIC's MAC
		k.touch(c.Segment, c.Addr)
	}
}

func (k *Keeper) unnote(n nic) {
	if k.macs[n.mac]--; k.macs[n.mac] <= 0 {
		delete(k.macs, n.mac)
	}
}

// rename gives what one NIC has to another: it has turned out to be that.
func (k *Keeper) rename(from, to learn.NIC, mac attach.MAC, vm bool) {
	claims := k.book.Claims(from)
	k.leave(from, false)
	k.arrive(to, mac, vm)
	for _, c := range claims {
		for _, e := range c.Evidence {
			if e.Provenance.Firm() && e.Source != sourceIdentity {
				continue // fed anew
			}
			k.again(to, c, e)
		}
	}
	for at, q := range k.asked {
		if q.nic == from {
			k.asked[at] = question{to, q.at}
		}
	}
	for _, p := range k.ports {
		if p.nic == from {
			clear(p.said)
		}
	}
}

// again feeds evidence that is there already: as seen first, and as seen last.
func (k *Keeper) again(id learn.NIC, c learn.Claim, e learn.Evidence) {
	ev := learn.Event{Kind: learn.EventClaim, At: e.Since, NIC: id, Segment: c.Segment, Addr: c.Addr, MAC: e.MAC, Provenance: e.Provenance, Source: e.Source, Place: e.Place, Until: e.Until}
	k.apply(ev)
	if ev.At = e.Seen; e.Seen.After(e.Since) {
		k.apply(ev)
	}
}

func (k *Keeper) endPort(p *port) {
	k.moved = true
	k.endTwin(p.Key)
	delete(k.ports, p.Key)
	if k.byIndex[p.IfIndex] == p {
		delete(k.byIndex, p.IfIndex)
	}
	k.frames.Forget(portID(p.Key))
	k.leave(p.nic, p.vm)
}

// leave takes a port from a NIC. With its last one a pod is gone, and a VM absent.
func (k *Keeper) leave(id learn.NIC, vm bool) {
	n := k.nics[id]
	if n.ports--; n.ports > 0 {
		k.nics[id] = n
		return
	}
	if vm {
		k.nics[id] = n
		k.left[id] = k.cfg.Now()
		k.apply(learn.Event{Kind: learn.EventAbsent, At: k.cfg.Now(), NIC: id})
		return
	}
	k.forget(id)
}

func (k *Keeper) forget(id learn.NIC) {
	delete(k.left, id)
	delete(k.manual, id)
	if n, ok := k.nics[id]; ok {
		k.unnote(n)
		delete(k.nics, id)
	}
	k.apply(learn.Event{Kind: learn.EventGone, At: k.cfg.Now(), NIC: id})
}

// declare feeds what is declared for a port, and what its guest agent says, as far as that is news.
func (k *Keeper) declare(p *port) {
	want := map[said]bool{}
	for _, a := range p.Declared {
		want[said{a.Unmap(), sourceCNI, learn.Declared}] = true
	}
	owner, known := k.owners[p.Key]
	for _, s := range owner.Says {
		by := learn.Declared
		if s.Guest {
			by = learn.GuestAgent
		}
		for _, a := range s.Addresses {
			want[said{a.Unmap(), s.Source, by}] = true
		}
	}
	at, now := p.segment(p.VLANs.PVID), k.cfg.Now()
	if at.VLAN.Validate() != nil { // of a guest that tags all, nobody says in which VLAN
		return
	}
	event := func(kind learn.EventKind, s said) {
		k.apply(learn.Event{Kind: kind, At: now, NIC: p.nic, Segment: at, Addr: s.addr, MAC: macOf(p.MAC), Provenance: s.by, Source: s.source, Place: k.cfg.Node})
	}
	for s := range want {
		if !p.said[s] || s.by == learn.GuestAgent { // which is a sighting, and counts as long as it is said again
			event(learn.EventClaim, s)
		}
	}
	for s := range p.said {
		if !want[s] {
			event(learn.EventWithdraw, s)
		}
	}
	p.said = want
	if known { // now this node is told itself what another one was
		for _, c := range k.book.Claims(p.nic) {
			event := learn.Event{Kind: learn.EventWithdraw, At: now, NIC: p.nic, Segment: c.Segment, Addr: c.Addr, Source: sourceIdentity}
			for _, e := range c.Evidence {
				if event.Provenance = e.Provenance; e.Source == sourceIdentity {
					k.apply(event)
				}
			}
		}
	}
}

func (p *port) segment(v vlan.ID) learn.Segment { return learn.Segment{Trunk: p.Trunk, VLAN: v} }

// Own says whose a port is. It is true if that is news, and what there is to read of the port may be other than before.
func (k *Keeper) Own(key attach.Key, o wire.Owner) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.ports[key]
	if was, ok := k.owners[key]; p == nil || !k.followed || ok && reflect.DeepEqual(was, o) {
		return false
	}
	k.owners[key] = o
	k.followPort(p.Port)
	k.unsaved = true
	k.flush()
	return true
}

func macOf(m attach.MAC) (out learn.MAC) {
	copy(out[:], m)
	return out
}

func portID(k attach.Key) string { return strings.Join([]string{k.ContainerID, k.IfName}, "/") }
