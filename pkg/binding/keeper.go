// Package binding keeps a node's book of addresses: it feeds pkg/learn with what ports hear, with what objects and
// people say and what other nodes know, and has the port programs' map of addresses follow it.
//
// A NIC is known by its VM (or pod), network and MAC, so that one which migrates is the same on both nodes. Until somebody
// says which VM a pod runs, its NIC is the pod's; what was learnt goes over to the VM's.
//
// Of a NIC that is on another node the VMIdentity is the whole truth: that node hears it. Silence ends nothing here then.
// When it comes here, what is known of it is what this node goes on with.
package binding

import (
	"cmp"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Key is an address in a VLAN of a trunk, as the programs' map has it.
type Key struct {
	Trunk string
	VLAN  vlan.ID
	Addr  netip.Addr
}

// Holder is what that map says of it: the MAC of the NIC that holds the address, and how much that is worth.
type Holder struct {
	MAC     learn.MAC
	Firm    bool // somebody vouches for it
	Shared  bool // it moves between NICs
	Waits   bool // nobody holds it: a claim of this NIC waits for approval
	Nobodys bool // a gateway's
}

// Map is the programs' map.
type Map interface {
	Put(Key, Holder) error
	Drop(Key) error
}

// Port is a port of this node.
type Port struct {
	Key      attach.Key
	IfIndex  int
	Trunk    string // or the bridge's name, where there is none
	Network  string
	MAC      attach.MAC
	VLANs    attach.VLANs
	Pod      attach.Pod
	Declared []netip.Addr // by a CNI plugin before ours, for its untagged VLAN
}

// What declares beside the sources of a wire.Owner.
const (
	sourceCNI      = "CNI"        // the result of plugins before ours
	sourceIdentity = "VMIdentity" // another node knows of a declaration
)

// Config is what a Keeper is made of.
type Config struct {
	Node string
	Map  Map
	Log  *slog.Logger
	Now  func() time.Time
	// Uplink says where what comes by a trunk's uplink comes from, as "sw1 port 7"; "" is not known.
	Uplink func(trunk string) string
	// News is called, by whoever changes the book, when a NIC's addresses or conflicts have changed. It must not call back.
	News func()
}

// Keeper is safe for use by several goroutines.
type Keeper struct {
	cfg Config

	mu       sync.Mutex
	book     *learn.Book
	frames   *snoop.Reader
	networks map[string]network // as the book knows them
	ports    map[attach.Key]*port
	byIndex  map[int]*port
	owners   map[attach.Key]wire.Owner
	nics     map[learn.NIC]nic
	macs     map[learn.MAC]int // of NICs, how many have it
	far      map[string]desired.Identity
	put      map[Key]Holder
	touched  map[Key]bool // to be looked at for the map
	segments map[learn.Segment]bool
	unsaved  bool
	sighted  bool // unsaved is no more than when addresses were last seen
	saved    time.Time
	followed bool // there was a Follow
	synced   bool
	moved    bool                    // ports have come, gone or changed since followSegments looked
	failing  time.Time               // since when flush waits, after an error
	left     map[learn.NIC]time.Time // since when a VM's NIC has no port here
}

type network struct {
	trunk    string
	vlans    vlan.Set
	home     vlan.ID
	settings learn.Network
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

// nic is what is known of a NIC beside its claims.
type nic struct {
	mac   learn.MAC
	node  string
	ports int // of this node
	vm    bool
}

// New makes a Keeper of what State has given; nil is nothing. Settings of a book that was saved are those of then until
// Follow is told others.
func New(cfg Config, saved *State) (*Keeper, error) {
	k := &Keeper{cfg: cfg, frames: snoop.New(), networks: map[string]network{}, ports: map[attach.Key]*port{}, byIndex: map[int]*port{}, owners: map[attach.Key]wire.Owner{},
		nics: map[learn.NIC]nic{}, macs: map[learn.MAC]int{}, far: map[string]desired.Identity{}, put: map[Key]Holder{}, touched: map[Key]bool{}, segments: map[learn.Segment]bool{}, left: map[learn.NIC]time.Time{}}
	var err error
	if saved != nil {
		if err = k.load(saved); err == nil {
			return k, nil
		}
	}
	// A port without a network is in nobody's.
	var fresh error
	k.book, fresh = learn.New(learn.Settings{Networks: map[string]learn.Network{"": {Mode: learn.ModeObserved}}})
	return k, errors.Join(err, fresh)
}

// Follow has the book know these networks, ports and identities, and no others.
func (k *Keeper) Follow(networks map[string]desired.Network, ports []Port, identities []desired.Identity) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.followed = true
	k.followNetworks(networks)
	k.followPorts(ports)
	k.followIdentities(identities)
	k.forgetGhosts()
	k.followSegments()
	k.flush()
}

// Followed says that there was a Follow.
func (k *Keeper) Followed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.followed
}

// FollowPorts has the book know these ports, and no others.
func (k *Keeper) FollowPorts(ports []Port) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.followPorts(ports)
	k.followSegments()
	k.flush()
}

func (k *Keeper) followNetworks(networks map[string]desired.Network) {
	now := k.cfg.Now()
	for name := range k.networks {
		if _, ok := networks[name]; !ok && name != "" {
			k.touchGateways(k.networks[name])
			delete(k.networks, name)
			k.apply(learn.Event{Kind: learn.EventNetworkGone, At: now, Network: name})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(networks)) {
		n := networks[name]
		is := network{trunk: n.Trunk, vlans: attach.VLANs{PVID: n.PVID, Tagged: n.Tagged}.All(), home: n.PVID, settings: n.Learn()}
		was, known := k.networks[name]
		if known && reflect.DeepEqual(was, is) {
			continue
		}
		k.touchGateways(was)
		k.touchGateways(is)
		k.networks[name] = is
		k.apply(learn.Event{Kind: learn.EventNetwork, At: now, Network: name, Settings: &is.settings})
	}
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

// ghostFor is how long a VM's NIC is known that is nowhere, and that no identity is of: one may be on its way.
const ghostFor = 10 * time.Minute

// forgetGhosts forgets such NICs: of a VM that was deleted before it had an identity, or on no network, nobody else says so.
func (k *Keeper) forgetGhosts() {
	if len(k.left) == 0 {
		return
	}
	has := map[learn.NIC]bool{}
	for _, o := range k.far {
		has[identityNIC(&o)] = true
	}
	for id, since := range k.left {
		if n := k.nics[id]; n.ports > 0 || has[id] {
			continue
		}
		if k.cfg.Now().Sub(since) >= ghostFor {
			k.forget(id)
		}
	}
}

func (k *Keeper) forget(id learn.NIC) {
	delete(k.left, id)
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

// followIdentities takes what other nodes know of NICs.
func (k *Keeper) followIdentities(identities []desired.Identity) {
	seen := map[string]bool{}
	for i := range identities {
		o := &identities[i]
		if _, ours := k.networks[o.Network]; !ours || len(o.MAC) != 6 {
			continue
		}
		name := o.Namespace + "/" + o.Name
		seen[name] = true
		was, known := k.far[name]
		id := identityNIC(o)
		if known && identityNIC(&was) != id { // another MAC: the NIC that it was is no more
			k.lose(identityNIC(&was))
		}
		local := k.nics[id].ports > 0
		if known && reflect.DeepEqual(was, *o) && (local || k.nics[id].node == o.Node) {
			continue
		}
		k.far[name] = *o
		switch {
		case !local:
			k.note(id, nic{mac: macOf(o.MAC), node: o.Node, vm: o.VM != ""})
			k.apply(learn.Event{Kind: learn.EventAbsent, At: k.cfg.Now(), NIC: id})
			k.believe(id, o)
		case !known && (o.Node != k.cfg.Node || len(k.book.Claims(id)) == 0): // the node that it came from knew, or an agent before this one
			k.hearsay(id, o)
		}
	}
	for name, o := range k.far {
		if !seen[name] {
			k.lose(identityNIC(&o))
			delete(k.far, name)
		}
	}
}

func identityNIC(o *desired.Identity) learn.NIC {
	return nicID(o.Namespace, cmp.Or(o.VM, o.Pod), o.UID, o.Network, o.MAC)
}

// lose forgets a NIC that no identity is of, unless it is here.
func (k *Keeper) lose(id learn.NIC) {
	if n, ok := k.nics[id]; ok && n.ports == 0 {
		k.forget(id)
	}
}

// hearsay has the book know of a NIC what its identity says.
func (k *Keeper) hearsay(id learn.NIC, o *desired.Identity) {
	n, now := k.networks[o.Network], k.cfg.Now()
	for _, a := range slices.Concat(o.Addresses, o.Waiting) {
		at := learn.Segment{Trunk: n.trunk, VLAN: cmp.Or(a.VLAN, n.home)}
		if at.VLAN.Validate() != nil || a.Provenance == 0 {
			continue
		}
		e := learn.Evidence{Provenance: a.Provenance, MAC: macOf(o.MAC), Place: o.Node, Since: a.Since, Seen: now, Until: a.Until}
		if a.Provenance.Firm() {
			e.Source = sourceIdentity
		}
		if e.Since.IsZero() || e.Since.After(now) {
			e.Since = now
		}
		if n.shares(a.Addr) { // who has announced it last, the identity does not say
			e.Seen = e.Since
		}
		k.again(id, learn.Claim{Segment: at, Addr: a.Addr}, e)
		if a.Approved != "" {
			k.apply(learn.Event{Kind: learn.EventApprove, At: e.Since, NIC: id, Segment: at, Addr: a.Addr, By: a.Approved})
		}
	}
}

// believe has the book know of a NIC what its identity says, and nothing better. That comes last: with a lease goes what was
// seen while it ran.
func (k *Keeper) believe(id learn.NIC, o *desired.Identity) {
	n, now := k.networks[o.Network], k.cfg.Now()
	says := map[Key]learn.Provenance{}
	for _, a := range slices.Concat(o.Addresses, o.Waiting) {
		says[Key{n.trunk, cmp.Or(a.VLAN, n.home), a.Addr}] = a.Provenance
	}
	defer k.hearsay(id, o)
	for _, c := range k.book.Claims(id) {
		best, still := says[Key{c.Segment.Trunk, c.Segment.VLAN, c.Addr}]
		for _, e := range c.Evidence {
			if !still || e.Provenance > best {
				k.apply(learn.Event{Kind: learn.EventWithdraw, At: now, NIC: id, Segment: c.Segment, Addr: c.Addr, Provenance: e.Provenance, Source: e.Source})
			}
		}
	}
}

// Heard takes a frame that the program of a port has told of. It is false if no such port is known.
func (k *Keeper) Heard(ifindex int, f snoop.Frame) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.byIndex[ifindex]
	if p == nil {
		return false
	}
	f.Port = snoop.Port{ID: portID(p.Key), MAC: macOf(p.MAC)}
	for _, s := range k.frames.Read(f) {
		at := p.segment(s.VLAN)
		n := k.networks[p.Network]
		e := learn.Event{At: f.At, NIC: p.nic, Segment: at, Addr: s.Addr, MAC: s.MAC, Provenance: s.Provenance, Until: s.Until, Place: k.cfg.Node}
		switch s.Kind {
		case snoop.Claims:
			e.Kind = learn.EventClaim
			if !n.shares(s.Addr) { // what others hear of by its VMIdentity is so, too: nodes must agree on who was first
				e.At = e.At.Truncate(time.Second)
			}
			k.unsaved = k.unsaved || s.Provenance == learn.DHCP // a lease that is renewed is no change
		case snoop.Withdraws:
			e.Kind = learn.EventWithdraw
		case snoop.Foreign:
			if k.macs[s.MAC] > 0 {
				continue // a NIC's, of which its own port tells
			}
			e.Kind, e.NIC, e.Provenance, e.Place = learn.EventOutside, learn.NIC{}, 0, "uplink of "+k.cfg.Node
			if at := k.cfg.Uplink(p.Trunk); at != "" {
				e.Place += ", " + at
			}
		}
		k.apply(e)
	}
	k.flush()
	return true
}

// Sighted says when a NIC of this node has last said that it has an address, as the programs have noted.
func (k *Keeper) Sighted(at Key, mac learn.MAC, when time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}
	by := learn.ND
	if at.Addr.Is4() {
		by = learn.ARP
	}
	who := k.book.Who(s, at.Addr)
	claims := append(who.Waiting, who.Aside...)
	if who.Holder != nil {
		claims = append(claims, *who.Holder)
	}
	for _, c := range claims {
		if n := k.nics[c.NIC]; n.ports > 0 && n.mac == mac {
			k.sighted = true
			k.apply(learn.Event{Kind: learn.EventClaim, At: when, NIC: c.NIC, Segment: s, Addr: at.Addr, MAC: c.MAC, Provenance: by, Place: k.cfg.Node})
			break
		}
	}
	k.flush()
}

// Count is how many addresses NICs of this node have, by network and state; and in how many conflicts they are.
func (k *Keeper) Count() (byNetwork map[string]map[string]int, conflicts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	byNetwork = map[string]map[string]int{}
	seen := map[Key]bool{}
	for id, n := range k.nics {
		if n.ports == 0 {
			continue
		}
		for _, c := range k.book.Claims(id) {
			if byNetwork[id.Network] == nil {
				byNetwork[id.Network] = map[string]int{}
			}
			byNetwork[id.Network][stateOf(c.Role)]++
			if at := (Key{c.Segment.Trunk, c.Segment.VLAN, c.Addr}); !seen[at] && k.book.Conflict(c.Segment, c.Addr) != nil {
				seen[at] = true
				conflicts++
			}
		}
	}
	return byNetwork, conflicts
}

// Tick does what is due, and says when to come again; the zero time is not before something happens.
func (k *Keeper) Tick() time.Time {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.take(k.book.Expire(k.cfg.Now()))
	k.flush()
	return k.book.Next()
}

func (k *Keeper) apply(e learn.Event) { k.take(k.book.Apply(e)) }

// take follows the changes of the book.
func (k *Keeper) take(changes []learn.Change) {
	for _, c := range changes {
		if c.Kind != learn.Refused { // of which a guest can make as many as it likes
			k.unsaved = true
			k.cfg.News()
		}
		switch c.Kind {
		case learn.ConflictBegan, learn.ConflictChanged:
			k.cfg.Log.Warn("an address is in conflict", "what", c.String())
		case learn.ConflictEnded:
			k.cfg.Log.Info("an address is in conflict no more", "what", c.String())
		case learn.Refused:
			k.cfg.Log.Debug("an address is not taken", "what", c.String())
		default:
			k.touch(c.Claim.Segment, c.Claim.Addr)
		}
	}
}

func (k *Keeper) touch(s learn.Segment, a netip.Addr) { k.touched[Key{s.Trunk, s.VLAN, a}] = true }

// maxGatewayVLANs is in how many VLANs of a network its gateways are kept from guests: those of a guest that tags a
// thousand are hardly the same in each.
const maxGatewayVLANs = 64

func (n *network) shares(a netip.Addr) bool {
	return slices.ContainsFunc(n.settings.Shared, func(p netip.Prefix) bool { return p.Contains(a) })
}

func (n *network) gatewayKeys() (out []Key) {
	if n.vlans.Len() > maxGatewayVLANs {
		return nil
	}
	for v := range n.vlans.All() {
		for _, a := range n.settings.Gateways {
			out = append(out, Key{n.trunk, v, a})
		}
	}
	return out
}

func (k *Keeper) touchGateways(n network) {
	for _, at := range n.gatewayKeys() {
		k.touched[at] = true
	}
}

// followSegments has the map know the addresses of those VLANs that a port is in, alone.
func (k *Keeper) followSegments() {
	if !k.moved {
		return
	}
	k.moved = false
	now := map[learn.Segment]bool{}
	for _, p := range k.ports {
		for v := range p.VLANs.All().All() {
			now[p.segment(v)] = true
		}
	}
	if maps.Equal(now, k.segments) {
		return
	}
	changed := func(s learn.Segment) bool { return now[s] != k.segments[s] }
	for _, id := range k.book.NICs() {
		for _, c := range k.book.Claims(id) {
			if changed(c.Segment) {
				k.touch(c.Segment, c.Addr)
			}
		}
	}
	for _, n := range k.networks {
		k.touchGateways(n)
	}
	k.segments = now
}

// retryAfter is how long the map is left alone after it could not be written.
const retryAfter = 10 * time.Second

// flush brings what was touched into the map. What cannot be put is tried again later.
func (k *Keeper) flush() {
	if !k.failing.IsZero() && k.cfg.Now().Sub(k.failing) < retryAfter {
		return
	}
	k.failing = time.Time{}
	for at := range k.touched {
		want, some := k.wanted(at)
		is, has := k.put[at]
		var err error
		switch {
		case some && (!has || is != want):
			if err = k.cfg.Map.Put(at, want); err == nil {
				k.put[at] = want
			}
		case !some && has:
			if err = k.cfg.Map.Drop(at); err == nil {
				delete(k.put, at)
			}
		}
		if err != nil {
			k.failing = k.cfg.Now()
			k.cfg.Log.Warn("the port programs cannot be told who has an address; tried again", "address", at.Addr, "vlan", at.VLAN, "waiting", len(k.touched), "err", err)
			return
		}
		delete(k.touched, at)
	}
}

// wanted is what the map should have of an address.
func (k *Keeper) wanted(at Key) (h Holder, some bool) {
	s := learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}
	if !k.segments[s] {
		return h, false
	}
	for _, n := range k.networks {
		if n.trunk == at.Trunk && n.vlans.Contains(at.VLAN) && n.vlans.Len() <= maxGatewayVLANs && slices.Contains(n.settings.Gateways, at.Addr) {
			return Holder{Nobodys: true}, true
		}
	}
	who := k.book.Who(s, at.Addr)
	switch c := who.Holder; {
	case c != nil:
		vouched := c.Provenance >= learn.DHCP || !c.Approved.At.IsZero() && !c.Approved.Denied || at.Addr.Is6() && at.Addr.IsLinkLocalUnicast()
		return Holder{MAC: k.nics[c.NIC].mac, Firm: vouched, Shared: who.Shared}, true
	case len(who.Waiting) > 0:
		return Holder{MAC: k.nics[who.Waiting[0].NIC].mac, Waits: true}, true
	}
	return h, false
}

// Sync has the map be as it was put, given all that is in it: what an agent before this one has left goes. The first time
// it says more than the book knows, perhaps, if that agent was killed before it could save: what it says of NICs that are here
// is heard again.
func (k *Keeper) Sync(have map[Key]Holder) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.followed { // nobody has said which ports there are
		return
	}
	if !k.synced {
		k.synced = true
		k.recover(have)
	}
	for at, h := range have {
		if k.put[at] != h {
			k.put[at] = h
			k.touched[at] = true
		}
	}
	for at := range k.put {
		if _, ok := have[at]; !ok {
			delete(k.put, at)
			k.touched[at] = true
		}
	}
	k.flush()
}

func (k *Keeper) recover(have map[Key]Holder) {
	for at, h := range have {
		s := learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}
		if who := k.book.Who(s, at.Addr); h.Waits || h.Nobodys || who.Holder != nil || len(who.Waiting) > 0 {
			continue
		}
		by := learn.ND
		if at.Addr.Is4() {
			by = learn.ARP
		}
		for _, p := range k.ports {
			if macOf(p.MAC) == h.MAC && p.Trunk == at.Trunk && p.VLANs.All().Contains(at.VLAN) {
				k.apply(learn.Event{Kind: learn.EventClaim, At: k.cfg.Now(), NIC: p.nic, Segment: s, Addr: at.Addr, MAC: h.MAC, Provenance: by, Place: k.cfg.Node})
				break
			}
		}
	}
}

func macOf(m attach.MAC) (out learn.MAC) {
	copy(out[:], m)
	return out
}

func portID(k attach.Key) string { return strings.Join([]string{k.ContainerID, k.IfName}, "/") }
