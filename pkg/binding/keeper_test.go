package binding

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// rig is a Keeper with a map and a clock of its own.
type rig struct {
	*testing.T
	*Keeper
	has   map[Key]Holder
	fails error
	full  int // how many it takes; 0: any
	now   time.Time
	news  int

	networks map[string]desired.Network
	ports    []Port
	others   []desired.Identity
}

func (r *rig) Put(k Key, h Holder) error {
	if _, has := r.has[k]; r.fails == nil && !has && r.full > 0 && len(r.has) >= r.full {
		return errors.New("the map is full")
	}
	if r.fails == nil {
		r.has[k] = h
	}
	return r.fails
}

func (r *rig) Drop(k Key) error {
	if r.fails == nil {
		delete(r.has, k)
	}
	return r.fails
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, has: map[Key]Holder{}, now: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC), networks: map[string]desired.Network{
		"lan":  lan(learn.ModeObserved),
		"tags": {Name: "tags", Trunk: "trunk0", Mode: vlan.Trunk, Tagged: set("200-201"), Addressing: desired.Addressing{Mode: learn.ModeObserved}},
	}}
	r.restart(nil)
	return r
}

func lan(mode learn.Mode) desired.Network {
	return desired.Network{Name: "lan", Trunk: "trunk0", PVID: 100, Addressing: desired.Addressing{Mode: mode, Shared: []netip.Prefix{netip.MustParsePrefix("10.0.0.200/32")}},
		Subnets: []desired.Subnet{{CIDR: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}}}
}

func set(text string) vlan.Set {
	s, err := vlan.ParseSet(text)
	if err != nil {
		panic(err)
	}
	return s
}

// restart goes on with another Keeper.
func (r *rig) restart(s *State) {
	r.Helper()
	k, err := New(Config{Node: "n1", Map: r, Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Now: func() time.Time { return r.now },
		Uplink: func(string) string { return "sw1 port 7" }, News: func() { r.news++ }}, s)
	if err != nil {
		r.Fatal(err)
	}
	r.Keeper = k
}

func (r *rig) follow() {
	r.Keeper.Follow(r.networks, r.ports, append([]desired.Identity{}, r.others...))
}

func mac(n int) attach.MAC { return attach.MAC{0x00, 0x50, 0x56, 0, 0, byte(n)} }

// port is one of the node: pod pN, MAC N, interface number N.
func (r *rig) port(n int, network string) attach.Key {
	net := r.networks[network]
	key := attach.Key{ContainerID: fmt.Sprint("c", n), IfName: "net1"}
	r.ports = append(r.ports, Port{Key: key, IfIndex: n, Trunk: "trunk0", Network: network, MAC: mac(n), VLANs: attach.VLANs{Mode: net.Mode, PVID: net.PVID, Tagged: net.Tagged},
		Pod: attach.Pod{Namespace: "shop", Name: fmt.Sprint("p", n), UID: fmt.Sprint("u", n)}})
	r.follow()
	return key
}

func (r *rig) end(n int) {
	r.ports = slices.DeleteFunc(r.ports, func(p Port) bool { return p.IfIndex == n })
	r.follow()
}

// arp is heard at port n: what the station with MAC m says to have.
func (r *rig) arp(n, m int, v vlan.ID, addr string, out bool) {
	r.Helper()
	a := netip.MustParseAddr(addr).As4()
	frame := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac(m), []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac(m), a[:], make([]byte, 6), a[:])
	if !r.Heard(n, snoop.Frame{At: r.now, Out: out, VLAN: v, Data: frame}) {
		r.Fatalf("no port %d", n)
	}
}

func (r *rig) says(n int, addr string) { r.Helper(); r.arp(n, n, 100, addr, true) }

// want compares the map, as "addr mac flags".
func (r *rig) want(what string, lines ...string) {
	r.Helper()
	got := []string{}
	for k, h := range r.has {
		flags := ""
		for _, f := range []struct {
			name string
			on   bool
		}{{" firm", h.Firm}, {" shared", h.Shared}, {" waits", h.Waits}, {" nobody's", h.Nobodys}, {" disputed", h.Disputed}} {
			if f.on {
				flags += f.name
			}
		}
		if k.Trunk != "trunk0" {
			flags += " of " + k.Trunk
		}
		got = append(got, fmt.Sprintf("%v/%v %d%s", k.Addr, k.VLAN, h.MAC[5], flags))
	}
	slices.Sort(got)
	slices.Sort(lines)
	if !slices.Equal(got, lines) {
		r.Errorf("%s: the map has\n  %s\nwant\n  %s", what, strings.Join(got, "\n  "), strings.Join(lines, "\n  "))
	}
}

// states are what a port's NIC has, as "addr state how".
func (r *rig) states(key attach.Key) string {
	var out []string
	list, conflicts := r.Of(key)
	for _, a := range list {
		out = append(out, fmt.Sprintf("%v %s %s", a.Address, a.State, a.Provenance))
	}
	for _, c := range conflicts {
		out = append(out, fmt.Sprintf("conflict %v %s of %d", c.Address, c.Kind, len(c.Claimants)))
	}
	return strings.Join(out, ", ")
}

func (r *rig) wantStates(what string, key attach.Key, want string) {
	r.Helper()
	if got := r.states(key); got != want {
		r.Errorf("%s: %q, want %q", what, got, want)
	}
}

const gateway = "10.0.0.1/100 0 nobody's"

func TestLearn(t *testing.T) {
	r := newRig(t)
	r.follow()
	r.want("no port is there: nobody asks")
	one := r.port(1, "lan")
	r.want("the gateway is nobody's", gateway)
	r.says(1, "10.0.0.5")
	r.want("learnt", gateway, "10.0.0.5/100 1")
	r.wantStates("learnt", one, "10.0.0.5 Held ARP")
	two := r.port(2, "lan")
	r.says(2, "10.0.0.5")
	r.want("the first has it", gateway, "10.0.0.5/100 1 disputed")
	r.wantStates("and both are in conflict", two, "10.0.0.5 Aside ARP, conflict 10.0.0.5 Inside of 2")
	r.says(2, "10.0.0.1")
	r.says(2, "10.9.9.9")
	r.want("neither a gateway nor what is outside", gateway, "10.0.0.5/100 1 disputed")
	r.says(1, "10.0.0.200")
	r.now = r.now.Add(time.Second)
	r.says(2, "10.0.0.200")
	r.want("a shared one is the last one's", gateway, "10.0.0.5/100 1 disputed", "10.0.0.200/100 2 shared")
	r.end(1)
	r.want("a pod that is gone leaves what it had", gateway, "10.0.0.5/100 2", "10.0.0.200/100 2 shared")
	r.end(2)
	r.want("nobody is left")
	if r.Heard(2, snoop.Frame{At: r.now, Out: true, VLAN: 100}) {
		t.Error("a port that is gone is heard")
	}
}

func TestTagged(t *testing.T) {
	r := newRig(t)
	r.port(3, "tags")
	r.arp(3, 3, 200, "10.2.0.5", true)
	r.arp(3, 3, 201, "10.2.0.5", true)
	r.want("each VLAN apart", "10.2.0.5/200 3", "10.2.0.5/201 3")
}

func TestOutside(t *testing.T) {
	r := newRig(t)
	one, _ := r.port(1, "lan"), r.port(2, "lan")
	r.says(1, "10.0.0.5")
	r.arp(1, 2, 100, "10.0.0.5", false)
	r.wantStates("a NIC's own port tells of it", one, "10.0.0.5 Held ARP")
	r.arp(1, 9, 100, "10.0.0.5", false)
	r.wantStates("somebody else has it", one, "10.0.0.5 Held ARP, conflict 10.0.0.5 Outside of 2")
	_, conflicts := r.Of(one)
	if c := conflicts[0].Claimants[1]; !c.Outside || c.MAC.String() != mac(9).String() || c.Place != "uplink of n1, sw1 port 7" {
		t.Errorf("outside is %+v", c)
	}
	var states []string
	for _, a := range r.Addresses("10.0.0.5") {
		states = append(states, a.State)
	}
	if got := strings.Join(states, " "); got != "Held Outside" {
		t.Errorf("asked for the address: %s", got)
	}
	r.now = r.now.Add(learn.DefaultOutside)
	r.Tick()
	r.wantStates("and is silent since", one, "10.0.0.5 Held ARP")
}

func TestOwner(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.says(1, "10.0.0.5")
	since := r.Addresses("")[0].Since
	r.now = r.now.Add(time.Minute)
	vm := wire.Owner{Name: "web", UID: "vm-1", VM: true, Says: []wire.Says{{Source: "Multus", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}},
		{Source: "guest", Guest: true, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.8"), netip.MustParseAddr("::ffff:10.0.0.9")}}}}
	if !r.Own(key, vm) || r.Own(key, vm) {
		t.Error("it is news once")
	}
	if r.Own(attach.Key{ContainerID: "other"}, vm) {
		t.Error("a port that is not there is news")
	}
	r.wantStates("what the pod had is the VM's", key, "10.0.0.5 Held ARP, 10.0.0.7 Held Declared, 10.0.0.8 Held GuestAgent, 10.0.0.9 Held GuestAgent")
	r.want("and firm is what is declared", gateway, "10.0.0.5/100 1", "10.0.0.7/100 1 firm", "10.0.0.8/100 1", "10.0.0.9/100 1")
	if a := r.Addresses("shop/web"); len(a) != 4 || !a[0].Since.Equal(since) || !a[0].VM || a[0].UID != "vm-1" {
		t.Errorf("it has %+v, and the first since %v", a, since)
	}
	vm.Says = vm.Says[1:]
	vm.Says[0].Addresses = vm.Says[0].Addresses[:1]
	r.Own(key, vm)
	r.wantStates("what is said no more is over", key, "10.0.0.5 Held ARP, 10.0.0.8 Held GuestAgent")
	r.end(1)
	r.want("nobody is there to be told")
	if got := len(r.Addresses("web")); got != 2 {
		t.Errorf("a VM that is stopped has %d addresses", got)
	}
	r.port(1, "lan")
	r.Own(key, vm)
	r.want("and has them when it is back", gateway, "10.0.0.5/100 1", "10.0.0.8/100 1")
}

func TestIdentities(t *testing.T) {
	r := newRig(t)
	r.networks["lan"] = lan(learn.ModeApproved)
	r.port(1, "lan")
	web := desired.Identity{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7), Addresses: []desired.IdentityAddress{
		{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP, Since: r.now.Add(-time.Hour), Approved: "ann"},
		{Addr: netip.MustParseAddr("10.0.0.8"), Provenance: learn.Declared, Since: r.now.Add(-time.Hour)}}}
	elsewhere := web
	elsewhere.Name, elsewhere.Network = "web.2", "unknown"
	r.others = []desired.Identity{web, elsewhere}
	r.follow()
	r.want("another node's", gateway, "10.0.0.7/100 7 firm", "10.0.0.8/100 7 firm")
	r.now = r.now.Add(100 * time.Hour)
	r.Tick()
	r.want("which hears it", gateway, "10.0.0.7/100 7 firm", "10.0.0.8/100 7 firm")
	r.arp(1, 7, 100, "10.0.0.7", false)
	r.says(1, "10.0.0.7")
	if got := r.Addresses("10.0.0.7"); len(got) != 2 || got[0].Name != "web" || got[0].Node != "n2" || got[1].State != wire.AddressWaiting {
		t.Errorf("it has %+v", got)
	}

	// It comes here.
	key := r.port(7, "lan")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true, Says: []wire.Says{{Source: "Multus", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.8")}}}})
	r.want("here", gateway, "10.0.0.7/100 7 firm disputed", "10.0.0.8/100 7 firm")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true})
	r.want("this node is told itself what is declared", gateway, "10.0.0.7/100 7 firm disputed")
	web.Node, web.Addresses = "n1", web.Addresses[:1]
	r.others = []desired.Identity{web}
	r.follow()
	r.want("what this node wrote is no news", gateway, "10.0.0.7/100 7 firm disputed")

	// And goes.
	r.end(7)
	web.Node, web.Addresses = "n2", []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.9"), Provenance: learn.DHCP, Until: r.now.Add(time.Hour), Approved: "ann"}}
	r.others = []desired.Identity{web}
	r.follow()
	r.want("the other node's word", gateway, "10.0.0.7/100 1 waits", "10.0.0.9/100 7 firm")
	web.MAC = mac(8)
	r.others = []desired.Identity{web}
	r.follow()
	r.want("another MAC", gateway, "10.0.0.7/100 1 waits", "10.0.0.9/100 8 firm")
	r.others = nil
	r.follow()
	r.want("the VM was deleted", gateway, "10.0.0.7/100 1 waits")
}

func TestDecide(t *testing.T) {
	r := newRig(t)
	r.networks["lan"] = lan(learn.ModeApproved)
	key := r.port(1, "lan")
	r.says(1, "10.0.0.5")
	r.want("waits", gateway, "10.0.0.5/100 1 waits")
	decide := func(who, addr string, deny bool, want string) {
		t.Helper()
		err := r.Decide(Decision{Who: who, Addr: netip.MustParseAddr(addr), Deny: deny, By: "ann"})
		if got := fmt.Sprint(err); err == nil && want != "" || !strings.Contains(got, want) {
			t.Errorf("decided about %s of %s: %q, want %q", addr, who, got, want)
		}
	}
	decide("p1", "10.0.0.6", false, "10.0.0.6 is not claimed by p1")
	decide("p9", "10.0.0.5", false, `no VM or pod "p9"`)
	decide("shop/p1", "10.0.0.5", false, "")
	r.want("approved", gateway, "10.0.0.5/100 1 firm")
	if a := r.Addresses("p1"); len(a) != 1 || a[0].ApprovedBy != "ann" {
		t.Errorf("it has %+v", a)
	}
	decide("p1", "10.0.0.5", true, "")
	r.want("denied", gateway)
	r.says(1, "10.0.0.5")
	r.wantStates("and again", key, "")
	decide("p1", "10.0.0.5", false, "") // somebody has changed their mind
	r.says(1, "10.0.0.5")
	r.want("approved after all", gateway, "10.0.0.5/100 1 firm")
	r.ports = append(r.ports, Port{Key: attach.Key{ContainerID: "x"}, IfIndex: 33, Trunk: "trunk0", Network: "lan", MAC: mac(33), VLANs: attach.VLANs{PVID: 100}, Pod: attach.Pod{Namespace: "other", Name: "p1"}})
	r.follow()
	r.says(33, "10.0.0.33")
	decide("p1", "10.0.0.5", false, "is the name of several")
	decide("other/p1", "10.0.0.33", false, "")
}

// TestRestart: an agent goes on where one before it was, whatever has come and gone meanwhile.
func TestRestart(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true, Says: []wire.Says{{Source: "Multus", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.8")}}}})
	r.says(1, "10.0.0.5")
	r.port(2, "lan")
	r.says(2, "10.0.0.6")
	r.port(3, "tags")
	r.arp(3, 3, 200, "10.2.0.5", true)
	before := maps.Clone(r.has)
	s := r.State(false)
	if s == nil || r.State(false) != nil {
		t.Fatal("what is new is saved once")
	}
	r.restart(s)
	r.follow()
	r.Sync(before)
	if !maps.Equal(r.has, before) {
		t.Errorf("the map has\n%v\nwant\n%v", r.has, before)
	}
	r.wantStates("as before", key, "10.0.0.5 Held ARP, 10.0.0.8 Held Declared")

	// Meanwhile pod 2 has gone, and a network.
	r.ports = slices.DeleteFunc(r.ports, func(p Port) bool { return p.IfIndex != 1 })
	delete(r.networks, "tags")
	r.restart(s)
	r.follow()
	r.Sync(before)
	r.want("what has gone", gateway, "10.0.0.5/100 1", "10.0.0.8/100 1 firm")
	if got := r.Addresses("p2"); len(got) != 0 {
		t.Errorf("the pod that is gone has %+v", got)
	}

	// A book that is lost: what the programs have of living ports is learnt again, and nothing else.
	r.restart(nil)
	r.follow()
	before[Key{"trunk0", 100, netip.MustParseAddr("10.0.0.66")}] = Holder{MAC: learn.MAC(mac(2))}
	before[Key{"trunk0", 100, netip.MustParseAddr("10.0.0.67")}] = Holder{MAC: learn.MAC(mac(1)), Waits: true}
	r.has = maps.Clone(before)
	r.Sync(before)
	r.want("by the map", gateway, "10.0.0.5/100 1", "10.0.0.8/100 1 firm")
	r.Sync(map[Key]Holder{})
	r.want("and only once", gateway, "10.0.0.5/100 1", "10.0.0.8/100 1 firm")
	r.now = r.now.Add(recoveredFor)
	r.Tick()
	r.want("if nobody says so again", gateway, "10.0.0.5/100 1")

	s.Book.NICs[0].NIC = learn.NIC{}
	if k, err := New(Config{Node: "n1", Map: r, Log: slog.New(slog.DiscardHandler), Now: time.Now, News: func() {}}, s); err == nil || k == nil || k.book == nil {
		t.Errorf("a State that makes no sense: %v, %v", k, err)
	}
}

func TestMapFails(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	r.fails = errors.New("no room")
	r.says(1, "10.0.0.5")
	r.want("it cannot be told", gateway)
	r.fails = nil
	r.Tick()
	r.want("not at once", gateway)
	r.now = r.now.Add(retryAfter)
	r.Tick()
	r.want("tried again", gateway, "10.0.0.5/100 1")
}

// TestMapFull: what the map has no room for keeps nothing else from it, and what goes makes room.
func TestMapFull(t *testing.T) {
	r := newRig(t)
	var log bytes.Buffer
	r.cfg.Log = slog.New(slog.NewTextHandler(&log, nil))
	const ports = 8
	for n := 1; n <= ports; n++ {
		r.port(n, "lan")
		r.says(n, fmt.Sprint("10.0.0.", 10+n))
	}
	r.full = len(r.has)
	r.Keeper.mu.Lock()
	for n := 1; n <= ports; n++ { // each has another one, and all but two go
		at := learn.Segment{Trunk: "trunk0", VLAN: 100}
		e := learn.Event{At: r.now, NIC: r.byIndex[n].nic, Segment: at, MAC: learn.MAC(mac(n)), Provenance: learn.ARP}
		e.Kind, e.Addr = learn.EventClaim, netip.MustParseAddr(fmt.Sprint("10.0.0.", 20+n))
		r.apply(e)
		if e.Kind, e.Addr = learn.EventWithdraw, netip.MustParseAddr(fmt.Sprint("10.0.0.", 10+n)); n > 2 {
			r.apply(e)
		}
	}
	r.flush()
	r.Keeper.mu.Unlock()
	if len(r.has) != r.full || len(r.touched) != 2 || strings.Count(log.String(), "level=WARN") != 1 || !strings.Contains(log.String(), "addresses=2 ") {
		t.Errorf("of %d there are %d, %d are to be told; the log: %s", r.full, len(r.has), len(r.touched), log.String())
	}
	r.end(1)
	r.now = r.now.Add(retryAfter)
	r.Tick()
	if len(r.touched) > 0 {
		t.Errorf("%v are to be told", r.touched)
	}
}

func TestSighted(t *testing.T) {
	r := newRig(t)
	n := lan(learn.ModeObserved)
	n.Addressing.Expiry = time.Hour
	r.networks["lan"] = n
	r.port(1, "lan")
	r.says(1, "10.0.0.5")
	at := Key{"trunk0", 100, netip.MustParseAddr("10.0.0.5")}
	for range 3 {
		r.now = r.now.Add(59 * time.Minute)
		r.Sighted(at, learn.MAC(mac(1)), r.now)
		r.Tick()
	}
	r.want("heard", gateway, "10.0.0.5/100 1")
	r.now = r.now.Add(time.Hour)
	r.Sighted(at, learn.MAC(mac(2)), r.now)
	if next := r.Tick(); !next.IsZero() {
		t.Errorf("the next is due at %v", next)
	}
	r.want("silent", gateway)
}

func TestNews(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	r.says(1, "10.0.0.5")
	was := r.news
	r.says(1, "10.0.0.5")
	r.follow()
	if r.news != was {
		t.Error("what is known is news")
	}
	r.says(1, "10.0.0.6")
	if r.news == was {
		t.Error("what is learnt is none")
	}
}
