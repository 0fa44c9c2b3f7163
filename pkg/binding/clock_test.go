package binding

import (
	"net/netip"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
)

const year = 365 * 24 * time.Hour

// lease feeds what a server gives the NIC of port n for an hour.
func (r *rig) lease(n int, addr string) {
	r.Keeper.mu.Lock()
	defer r.Keeper.mu.Unlock()
	r.apply(learn.Event{Kind: learn.EventClaim, At: r.now, NIC: r.byIndex[n].nic, Segment: learn.Segment{Trunk: "trunk0", VLAN: 100}, Addr: netip.MustParseAddr(addr), MAC: learn.MAC(mac(n)), Provenance: learn.DHCP, Until: r.now.Add(time.Hour)})
	r.flush()
}

// TestClockSetBack: a node begins with its clock a year ahead. When it is set, leases go on to their ends, whether the agent runs on or
// is started then.
func TestClockSetBack(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		r := newRig(t)
		n := lan(learn.ModeObserved)
		n.Addressing.Expiry = 2 * time.Hour
		r.networks["lan"] = n
		r.now = r.now.Add(year)
		r.port(1, "lan")
		r.lease(1, "10.0.0.5")
		r.says(1, "10.0.0.6")
		r.now = r.now.Add(-year)
		if restarted {
			if r.restart(r.State(true)); r.book.Dump().Now.After(r.now) {
				t.Error("the book is ahead")
			}
		}
		r.follow()
		r.lease(1, "10.0.0.7")
		r.Tick()
		r.want("set back", gateway, "10.0.0.5/100 1 firm", "10.0.0.6/100 1", "10.0.0.7/100 1 firm")
		r.now = r.now.Add(time.Hour - time.Second)
		r.says(1, "10.0.0.8")
		r.Tick()
		r.want("an hour later", gateway, "10.0.0.5/100 1 firm", "10.0.0.6/100 1", "10.0.0.7/100 1 firm", "10.0.0.8/100 1")
		r.now = r.now.Add(time.Second)
		r.Tick()
		r.want("the leases are over", gateway, "10.0.0.6/100 1", "10.0.0.8/100 1")
	}
}

// TestClockElsewhere: a decision by a node whose clock is ahead ends nothing here, and counts from when it came: until that node, or
// this one, decides otherwise.
func TestClockElsewhere(t *testing.T) {
	r := newRig(t)
	r.port(2, "lan")
	r.lease(2, "10.0.0.5")
	web := webOf("n2")
	web.Decisions = []desired.IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.7"), By: "ann", At: r.now.Add(year)}}
	r.others = []desired.Identity{web}
	r.follow()
	r.Tick()
	r.want("the lease goes on", gateway, "10.0.0.5/100 2 firm")
	id := identityNIC(&web)
	is := func(what string, denied bool, at time.Time) {
		t.Helper()
		if d := r.book.Decisions(id); len(d) != 1 || d[0].Denied != denied || !d[0].At.Equal(at) {
			t.Errorf("%s: %+v", what, d)
		}
	}
	is("when it came", false, r.now)
	came := r.now
	r.now = r.now.Add(time.Minute)
	web.Addresses = []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.9"), Provenance: learn.ARP, Since: r.now}}
	r.others = []desired.Identity{web}
	r.follow()
	is("which is once", false, came)
	web.Decisions = []desired.IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.7"), Denied: true, By: "ann", At: came.Add(year + time.Second)}}
	r.others = []desired.Identity{web}
	r.follow()
	is("decided otherwise there", true, r.now)
	r.now = r.now.Add(time.Minute)
	web.Decisions = []desired.IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.7"), By: "bob", At: r.now.Add(-time.Second)}}
	r.others = []desired.Identity{web}
	r.follow()
	is("and by a node whose clock is right", false, r.now.Add(-time.Second))
}

// TestClockDecide: what was decided by a clock that was ahead can be decided otherwise.
func TestClockDecide(t *testing.T) {
	r := newRig(t)
	r.networks["lan"] = lan(learn.ModeApproved)
	r.port(1, "lan")
	r.now = r.now.Add(year)
	r.says(1, "10.0.0.5")
	for _, deny := range []bool{true, false} {
		if err := r.Decide(Decision{Who: "p1", Addr: netip.MustParseAddr("10.0.0.5"), By: "ann", Deny: deny}); err != nil {
			t.Fatal(err)
		}
		r.now = r.now.Add(-year)
	}
	r.says(1, "10.0.0.5")
	r.want("approved after all", gateway, "10.0.0.5/100 1 firm")
}
