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
	"errors"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// What declares beside the sources of a wire.Owner.
const (
	sourceCNI      = "CNI"        // the result of plugins before ours, or of an IPAM plugin
	sourceIdentity = "VMIdentity" // another node knows of a declaration
	sourceManual   = "spec.addresses of the VMIdentity"
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
	far      map[learn.NIC]desired.Identity
	heard    map[farClaim]time.Time     // when last
	manual   map[learn.NIC]map[Key]bool // what people have set
	twins    map[attach.Key]*twin       // of ports of this node
	put      map[Key]Holder
	touched  map[Key]bool // to be looked at for the map
	segments map[learn.Segment]bool
	disputes map[Key]*dispute // conflicts that have changed of late
	asked    map[Key]question // of late, and not answered
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
		nics: map[learn.NIC]nic{}, macs: map[learn.MAC]int{}, far: map[learn.NIC]desired.Identity{}, put: map[Key]Holder{}, touched: map[Key]bool{}, segments: map[learn.Segment]bool{}, left: map[learn.NIC]time.Time{}, heard: map[farClaim]time.Time{}, disputes: map[Key]*dispute{}, asked: map[Key]question{}, manual: map[learn.NIC]map[Key]bool{}, twins: map[attach.Key]*twin{}}
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

// Follow has the book know these networks, ports and identities, and no others. Identities that are nil are not known: those of
// before stay.
func (k *Keeper) Follow(networks map[string]desired.Network, ports []Port, identities []desired.Identity) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.followed = true
	k.followNetworks(networks)
	k.followPorts(ports)
	if identities != nil {
		k.followIdentities(identities)
		k.forgetGhosts()
	}
	k.followSegments()
	k.flush()
}

// Followed says that there was a Follow.
func (k *Keeper) Followed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.followed
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

// Heard takes a frame that the program of a port has told of. It is false if no such port is known.
func (k *Keeper) Heard(ifindex int, f snoop.Frame) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	p := k.byIndex[ifindex]
	if p == nil {
		return false
	}
	f.Port = snoop.Port{ID: portID(p.Key), MAC: macOf(p.MAC)}
	if f.FromItself() {
		k.hearTwin(p, f.VLAN, f.At)
		return true
	}
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
			k.answered(e, p.nic)
		case snoop.Asks:
			k.ask(e)
			continue
		case snoop.Withdraws:
			e.Kind = learn.EventWithdraw
		case snoop.Foreign:
			if k.isClaimed(at, s.Addr) { // of answers the programs tell more than were asked for
				k.hearForeign(e)
			}
			continue
		}
		k.apply(e)
	}
	k.flush()
	return true
}

// FoundOutside takes that somebody was heard at a trunk's uplink to have an address, or to want it, whom no port has heard.
func (k *Keeper) FoundOutside(at Key, mac learn.MAC) {
	k.mu.Lock()
	defer k.mu.Unlock()
	by := learn.ND
	if at.Addr.Is4() {
		by = learn.ARP
	}
	k.hearForeign(learn.Event{At: k.cfg.Now(), Segment: learn.Segment{Trunk: at.Trunk, VLAN: at.VLAN}, Addr: at.Addr, MAC: mac, Provenance: by})
	k.flush()
}

// hearForeign takes what came by an uplink.
func (k *Keeper) hearForeign(e learn.Event) {
	k.answered(e, learn.NIC{})
	if k.macs[e.MAC] > 0 {
		k.hearFar(e.MAC, e)
		return
	}
	e.Kind, e.NIC, e.Provenance, e.Place = learn.EventOutside, learn.NIC{}, 0, k.uplinkPlace(e.Segment.Trunk)
	k.apply(e)
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

// Count is how many addresses NICs of this node have, by network and state; and in how many conflicts they are, those about MACs
// among them.
func (k *Keeper) Count() (byNetwork map[string]map[string]int, conflicts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	byNetwork = map[string]map[string]int{}
	seen := map[Key]bool{}
	for _, t := range k.twins {
		if t.told() {
			conflicts++
		}
	}
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
	k.take(k.book.Expire(k.now()))
	k.endFar()
	k.endTwins(k.cfg.Now())
	k.forgetAsked()
	later := k.tellDisputes()
	k.flush()
	if next := k.book.Next(); later.IsZero() || !next.IsZero() && next.Before(later) {
		return next
	}
	return later
}

// apply tells the book. What is said to come was said by a clock that is ahead: the book would go there, and end all that ends till then.
func (k *Keeper) apply(e learn.Event) {
	if now := k.now(); e.At.After(now) {
		e.At = now
	}
	k.take(k.book.Apply(e))
}

// now is the time, and the book is not ahead of it: the clock may have been set back.
func (k *Keeper) now() time.Time {
	now := k.cfg.Now()
	k.take(k.book.Rewind(now))
	return now
}

// take follows the changes of the book.
func (k *Keeper) take(changes []learn.Change) {
	for _, c := range changes {
		if c.Kind == learn.Refused { // of which a guest can make as many as it likes
			k.cfg.Log.Debug("an address is not taken", "what", c.String())
			continue
		}
		k.touch(c.Claim.Segment, c.Claim.Addr)
		at := Key{c.Claim.Segment.Trunk, c.Claim.Segment.VLAN, c.Claim.Addr}
		switch c.Kind {
		case learn.ConflictChanged:
			if k.tellLater(at, &c) {
				continue
			}
			fallthrough
		case learn.ConflictBegan:
			k.cfg.Log.Warn("an address is in conflict", "what", c.String())
		case learn.ConflictEnded:
			delete(k.disputes, at)
			k.cfg.Log.Info("an address is in conflict no more", "what", c.String())
		}
		k.unsaved = true
		k.cfg.News()
	}
}
