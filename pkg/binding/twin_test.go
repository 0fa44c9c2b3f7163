package binding

import (
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// TestMACConflict: what comes to a port from its own MAC for a while is told, with place, times and who of the cluster has that MAC, until
// it was not heard for ten minutes; not what comes while the VM comes or goes, nor what has come once.
func TestMACConflict(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.port(2, "lan")
	began := r.now
	hears := func(from int) { // ARP at port 1
		t.Helper()
		r.arp(1, from, 100, "10.0.0.5", false)
	}
	conflict := func(what string, want bool) *wire.MACConflict {
		t.Helper()
		c, all := r.MACConflict(key), r.MACConflicts("shop/p1")
		if (c != nil) != want || (len(all) == 1) != want || len(r.MACConflicts("p2")) > 0 {
			t.Errorf("%s: %+v, %+v", what, c, all)
		}
		if _, n := r.Count(); (n == 1) != want {
			t.Errorf("%s: %d conflicts are counted", what, n)
		}
		return c
	}
	hears(1)
	conflict("once", false)
	r.now = r.now.Add(9 * time.Second)
	hears(1)
	hears(3) // somebody else
	conflict("for a moment", false)
	r.now = r.now.Add(time.Second)
	hears(1)
	c := conflict("for a while", true)
	if c == nil || c.VM || c.Name != "p1" || c.VLAN != 100 || c.MAC.String() != mac(1).String() || !c.Since.Equal(began) || !c.Seen.Equal(r.now) || c.Place != "uplink of n1, sw1 port 7" || len(c.Others) != 0 ||
		!strings.Contains(c.String(), "of shop/p1 is in VLAN 100 used elsewhere, too, at uplink of n1, sw1 port 7, since "+began.UTC().Format(time.RFC3339)+": by a station outside the cluster, or by a loop") {
		t.Errorf("it is %+v: %s", c, c)
	}
	r.others = []desired.Identity{webOf("n2"), {Namespace: "shop", Name: "db.1", VM: "db", UID: "vm-2", Network: "lan", Node: "n2", MAC: mac(2)}}
	r.follow()
	if c := conflict("of the cluster", true); c == nil || len(c.Others) != 1 || !strings.Contains(c.String(), "by shop/web on n2, or by a loop") {
		t.Errorf("it is %+v: %s", c, c)
	}
	r.now = r.now.Add(10*time.Minute - time.Second)
	r.Tick()
	conflict("nine minutes ago", true)
	r.now = r.now.Add(time.Second)
	r.Tick()
	conflict("ten minutes ago", false)

	// The VM of a port that waits is elsewhere.
	held := func(is bool) {
		r.ports[0].Held = is
		r.follow()
	}
	held(true)
	hears(1)
	r.now = r.now.Add(time.Minute)
	hears(1)
	conflict("before the VM has come", false)
	held(false)
	hears(1)
	conflict("it has just come", false)
	r.now = r.now.Add(time.Minute)
	hears(1)
	conflict("it is here", true)
	held(true)
	conflict("it has left", false)
	held(false)
	hears(1)
	r.now = r.now.Add(time.Minute)
	hears(1)
	conflict("it is here again", true)
	r.end(1)
	if len(r.twins) > 0 {
		t.Errorf("left is %+v", r.twins)
	}
}
