package binding

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
)

func at(addr string) Key { return Key{"trunk0", 100, netip.MustParseAddr(addr)} }

// TestFoundOutside: who was found to have an address is in conflict with the NIC that comes to hold it, and with no NIC of this node; what a
// NIC here holds is another's to know of.
func TestFoundOutside(t *testing.T) {
	r := newRig(t)
	at := Key{Trunk: "trunk0", VLAN: 100, Addr: netip.MustParseAddr("10.0.0.8")}
	if o := r.HeldHere(at, mac(2)); o != nil {
		t.Errorf("nobody's: %+v", o)
	}
	key := r.port(1, "lan")
	r.FoundOutside(at, learn.MAC(mac(9)))
	r.FoundOutside(at, learn.MAC(mac(1))) // the NIC's own, which its port tells of
	if _, conflicts := r.Of(key); len(conflicts) != 0 {
		t.Errorf("before it holds it: %+v", conflicts)
	}
	r.ports[0].Declared = []netip.Addr{at.Addr}
	r.follow()
	_, conflicts := r.Of(key)
	if len(conflicts) != 1 || len(conflicts[0].Claimants) != 2 || !conflicts[0].Claimants[1].Outside || conflicts[0].Claimants[1].Place != "uplink of n1, sw1 port 7" {
		t.Errorf("%+v", conflicts)
	}
	if o := r.HeldHere(at, mac(2)); o == nil || o.Name != "p1" {
		t.Errorf("held by p1: %+v", o)
	}
	if o := r.HeldHere(at, mac(1)); o != nil {
		t.Errorf("its own: %+v", o)
	}
	r.end(1)
	if o := r.HeldHere(at, mac(2)); o != nil {
		t.Errorf("it is gone: %+v", o)
	}
}

// TestAway: while no agent listened nobody was silent, and leases were renewed.
func TestAway(t *testing.T) {
	r := newRig(t)
	n := lan(learn.ModeObserved)
	n.Addressing.Expiry = time.Hour
	r.networks["lan"] = n
	r.port(1, "lan")
	r.says(1, "10.0.0.5")
	r.Keeper.mu.Lock()
	r.apply(learn.Event{Kind: learn.EventClaim, At: r.now, NIC: r.Keeper.ports[r.ports[0].Key].nic, Segment: learn.Segment{Trunk: "trunk0", VLAN: 100}, Addr: netip.MustParseAddr("10.0.0.6"), Provenance: learn.DHCP, Until: r.now.Add(time.Hour)})
	r.flush()
	r.Keeper.mu.Unlock()
	r.now = r.now.Add(30 * time.Minute)
	r.Sighted(at("10.0.0.5"), learn.MAC(mac(1)), r.now)
	r.State(false)
	r.Sighted(at("10.0.0.5"), learn.MAC(mac(1)), r.now)
	if r.State(false) != nil {
		t.Error("each sighting is saved")
	}
	s := r.State(true)
	if s == nil {
		t.Fatal("at the end sightings are not saved")
	}
	r.now = r.now.Add(10 * time.Hour)
	r.restart(s)
	r.follow()
	r.Tick()
	r.want("after ten hours without an agent", gateway, "10.0.0.5/100 1", "10.0.0.6/100 1 firm")
	r.now = r.now.Add(31 * time.Minute)
	r.Tick()
	r.want("the lease ends as if those had not been", gateway, "10.0.0.5/100 1")
}

// TestLeaseLost: an identity that was leased, and is seen since, is what it says it is.
func TestLeaseLost(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	web := desired.Identity{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7), Addresses: []desired.IdentityAddress{
		{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.DHCP, Since: r.now.Add(-time.Hour), Until: r.now.Add(time.Hour)}}}
	r.others = []desired.Identity{web}
	r.follow()
	r.want("leased", gateway, "10.0.0.7/100 7 firm")
	web.Addresses = []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP, Since: r.now.Add(-time.Minute)}}
	r.now = r.now.Add(time.Second)
	r.others = []desired.Identity{web}
	r.follow()
	r.want("seen", gateway, "10.0.0.7/100 7")
}

// TestSameSecond: two nodes whose VMs take an address in one second agree on who has it, whoever hears of whom first.
func TestSameSecond(t *testing.T) {
	holders := map[string]bool{}
	for _, node := range []int{1, 2} {
		r := newRig(t)
		r.now = r.now.Add(time.Duration(node) * 100 * time.Millisecond)
		r.port(node, "lan")
		r.says(node, "10.0.0.5")
		other := 3 - node
		r.others = []desired.Identity{{Namespace: "shop", Name: "other", Pod: map[int]string{1: "p1", 2: "p2"}[other], UID: map[int]string{1: "u1", 2: "u2"}[other], Network: "lan", Node: "n2", MAC: mac(other),
			Addresses: []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.5"), Provenance: learn.ARP, Since: r.now.Truncate(time.Second)}}}}
		r.follow()
		for _, a := range r.Addresses("10.0.0.5") {
			if a.State == wire.AddressHeld {
				holders[a.Name] = true
			}
		}
	}
	if len(holders) != 1 {
		t.Errorf("nodes say that %v have it", holders)
	}
}

func TestDecideElsewhere(t *testing.T) {
	r := newRig(t)
	r.networks["lan"] = lan(learn.ModeApproved)
	r.port(1, "lan")
	r.others = []desired.Identity{{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7),
		Waiting: []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP, Since: r.now}}}}
	r.follow()
	r.want("waits there", gateway, "10.0.0.7/100 7 waits")
	if err := r.Decide(Decision{Who: "web", Addr: netip.MustParseAddr("10.0.0.7"), By: "ann"}); err == nil || !strings.Contains(err.Error(), "on node n2") {
		t.Errorf("decided about a VM of another node: %v", err)
	}
}

// TestGhost: a VM that is gone, and of which there never was an identity, does not keep its address for ever.
func TestGhost(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true})
	r.says(1, "10.0.0.5")
	r.end(1)
	r.now = r.now.Add(ghostFor - time.Second)
	r.follow()
	if len(r.Addresses("web")) != 1 {
		t.Error("it is forgotten at once")
	}
	r.now = r.now.Add(time.Second)
	r.follow()
	if got := r.Addresses("web"); len(got) > 0 {
		t.Errorf("it has %+v", got)
	}
}

// TestGuestSays: what a guest agent lists counts as long as it does.
func TestGuestSays(t *testing.T) {
	r := newRig(t)
	n := lan(learn.ModeObserved)
	n.Addressing.Expiry = time.Hour
	r.networks["lan"] = n
	key := r.port(1, "lan")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true, Says: []wire.Says{{Source: "guest agent", Guest: true, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.8")}}}})
	for range 5 {
		r.now = r.now.Add(50 * time.Minute)
		r.follow()
		r.Tick()
	}
	r.want("still listed", gateway, "10.0.0.8/100 1")
}

// TestSharedElsewhere: news of a node that has announced a shared address before do not take it back.
func TestSharedElsewhere(t *testing.T) {
	r := newRig(t)
	old := desired.Identity{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7), Addresses: []desired.IdentityAddress{
		{Addr: netip.MustParseAddr("10.0.0.200"), Provenance: learn.ARP, Since: r.now.Add(-time.Hour)}}}
	r.port(1, "lan")
	r.others = []desired.Identity{old}
	r.follow()
	r.says(1, "10.0.0.200")
	r.want("announced here", gateway, "10.0.0.200/100 1 shared")
	r.now = r.now.Add(time.Second)
	old.Addresses = append(old.Addresses, desired.IdentityAddress{Addr: netip.MustParseAddr("10.0.0.9"), Provenance: learn.ARP, Since: r.now})
	r.others = []desired.Identity{old}
	r.follow()
	r.want("whatever else there is", gateway, "10.0.0.200/100 1 shared", "10.0.0.9/100 7")
}

// TestBeforeFollow: before anybody has said which ports there are, nothing is taken from the programs.
func TestBeforeFollow(t *testing.T) {
	r := newRig(t)
	r.has[at("10.0.0.5")] = Holder{MAC: learn.MAC(mac(1))}
	r.Sync(r.has)
	r.want("as it was", "10.0.0.5/100 1")
	r.port(1, "lan")
	r.Sync(map[Key]Holder{at("10.0.0.5"): {MAC: learn.MAC(mac(1))}})
	r.want("heard again", gateway, "10.0.0.5/100 1")
}

// TestRefusedIsNoNews: a guest that claims what it cannot have makes nobody write.
func TestRefusedIsNoNews(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	r.State(false)
	was := r.news
	r.says(1, "10.9.9.9")
	if r.news != was || r.State(false) != nil {
		t.Error("it does")
	}
}

// TestConflictElsewhere: the node of who holds an address knows of a VM elsewhere that claims it, too, as long as it is heard.
func TestConflictElsewhere(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.says(1, "10.0.0.5")
	r.others = []desired.Identity{{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7)}}
	r.follow()
	r.now = r.now.Add(time.Second)
	r.arp(1, 7, 100, "10.0.0.5", false)
	r.wantStates("heard", key, "10.0.0.5 Held ARP, conflict 10.0.0.5 Inside of 2")
	r.want("and held by the first", gateway, "10.0.0.5/100 1 disputed")
	r.now = r.now.Add(learn.DefaultOutside - time.Second)
	r.Tick()
	r.arp(1, 7, 100, "10.0.0.5", false)
	r.now = r.now.Add(learn.DefaultOutside - time.Second)
	r.Tick()
	r.wantStates("heard again", key, "10.0.0.5 Held ARP, conflict 10.0.0.5 Inside of 2")
	r.now = r.now.Add(time.Second)
	r.Tick()
	r.wantStates("silent", key, "10.0.0.5 Held ARP")
	r.want("and nobody disputes it", gateway, "10.0.0.5/100 1")
}

// TestConflictLost: who was heard to claim an address, and has it since by the word of his node, has it when he is heard here no more.
func TestConflictLost(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	r.port(2, "lan")
	r.says(1, "10.0.0.5")
	web := desired.Identity{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7)}
	r.others = []desired.Identity{web}
	r.follow()
	r.arp(1, 7, 100, "10.0.0.5", false)
	r.want("two claim it", gateway, "10.0.0.5/100 1 disputed")
	web.Addresses = []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.5"), Provenance: learn.ARP, Since: r.now}}
	r.others = []desired.Identity{web}
	r.end(1)
	r.now = r.now.Add(learn.DefaultOutside)
	r.Tick()
	r.want("the other one has it", gateway, "10.0.0.5/100 7")
}

// TestIdentitiesUnknown: an agent that cannot read what others know goes on with what was known before.
func TestIdentitiesUnknown(t *testing.T) {
	r := newRig(t)
	r.port(1, "lan")
	r.others = []desired.Identity{{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7),
		Addresses: []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP, Since: r.now}}}}
	r.follow()
	r.restart(r.State(false))
	r.Keeper.Follow(r.networks, r.ports, nil)
	r.want("not known", gateway, "10.0.0.7/100 7")
	r.others = nil
	r.follow()
	r.want("none", gateway)
}

// TestTwoNICs: of a VM with two NICs on a network each has what is its own on the node that it goes to, before it has spoken there; one
// that is no more there loses it.
func TestTwoNICs(t *testing.T) {
	r := newRig(t)
	r.port(3, "lan") // of somebody else's
	nic := func(n int, addr string) desired.Identity {
		o := webOf("n2")
		o.MAC = mac(n)
		o.Addresses = []desired.IdentityAddress{{Addr: netip.MustParseAddr(addr), Provenance: learn.ARP, Since: r.now.Add(-time.Hour)}}
		return o
	}
	first, second := nic(1, "10.0.0.5"), nic(2, "10.0.0.6")
	second.Decisions = []desired.IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.7"), Denied: true, By: "ann", At: r.now}}
	r.others = []desired.Identity{first, second}
	r.follow()
	r.want("on another node", gateway, "10.0.0.5/100 1", "10.0.0.6/100 2")
	for n := 1; n <= 2; n++ {
		r.Own(r.port(n, "lan"), wire.Owner{Name: "web", UID: "vm-1", VM: true})
	}
	r.follow()
	r.restart(r.State(true))
	r.follow()
	r.says(2, "10.0.0.6")
	r.says(2, "10.0.0.7")
	r.want("here", gateway, "10.0.0.5/100 1", "10.0.0.6/100 2")
	r.end(1)
	r.end(2)
	r.others = []desired.Identity{first}
	r.follow()
	r.want("the second is no more", gateway, "10.0.0.5/100 1")
}
