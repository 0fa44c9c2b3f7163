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

func addrs(list ...string) (out []netip.Addr) {
	for _, a := range list {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// webOf is the identity of a VM whose NIC has MAC 1, on a node.
func webOf(node string, manual ...string) desired.Identity {
	return desired.Identity{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: node, MAC: mac(1), Manual: addrs(manual...)}
}

// TestManual: what a person sets is held before what was seen and declared, on each node, until it is taken back; over a restart,
// too.
func TestManual(t *testing.T) {
	r := newRig(t)
	key := r.port(1, "lan")
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true})
	r.port(2, "lan")
	r.says(2, "10.0.0.5")
	r.says(1, "10.0.0.6")
	r.others = []desired.Identity{webOf("n1", "10.0.0.5", "10.9.0.5", "10.0.0.1")}
	r.follow()
	r.want("set", gateway, "10.0.0.5/100 1 firm disputed", "10.0.0.6/100 1")
	var unfit []string
	for _, a := range r.Unfit(key) {
		unfit = append(unfit, a.Address.String()+" "+a.Provenance+" "+a.Why)
	}
	if text := strings.Join(unfit, "; "); !strings.Contains(text, "10.9.0.5 Manual is in none of the network's subnets") || !strings.Contains(text, "10.0.0.1 Manual is a gateway") || len(unfit) != 2 {
		t.Errorf("unfit: %s", text)
	}
	for _, a := range r.Addresses("10.0.0.5") {
		if a.State == wire.AddressHeld && (a.Provenance != "Manual" || a.Source != sourceManual) {
			t.Errorf("held as %+v", a)
		}
	}
	r.follow() // the same again
	r.restart(r.State(true))
	r.others = []desired.Identity{webOf("n1", "10.0.0.7")}
	r.follow()
	r.want("another, after a restart", gateway, "10.0.0.5/100 2", "10.0.0.6/100 1", "10.0.0.7/100 1 firm")
	n := r.networks["lan"]
	n.PVID = 101
	r.networks["lan"] = n
	r.follow()
	if got := r.Addresses("10.0.0.7"); len(got) != 1 || got[0].VLAN != 101 {
		t.Errorf("on another VLAN it is %+v", got)
	}
	r.networks["lan"] = lan(learn.ModeObserved)
	r.others = nil
	r.follow()
	r.want("the identity is gone", gateway, "10.0.0.5/100 2", "10.0.0.6/100 1")
	if len(r.Unfit(key)) > 0 {
		t.Errorf("still unfit: %v", r.Unfit(key))
	}
}

// TestManualElsewhere: a NIC of another node has what a person set, although that node has not said so yet; and no more once it is
// taken back.
func TestManualElsewhere(t *testing.T) {
	r := newRig(t)
	r.port(2, "lan")
	r.says(2, "10.0.0.5")
	r.others = []desired.Identity{webOf("n2", "10.0.0.5")}
	r.follow()
	r.want("set", gateway, "10.0.0.5/100 1 firm disputed")
	said := webOf("n2", "10.0.0.5")
	said.Addresses = []desired.IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.5"), Provenance: learn.Manual, Since: r.now}}
	r.others = []desired.Identity{said}
	r.follow()
	said.Manual = nil
	r.others = []desired.Identity{said}
	r.follow()
	r.want("that node goes by it still", gateway, "10.0.0.5/100 1 firm disputed")
	r.others = []desired.Identity{webOf("n2")}
	r.follow()
	r.want("taken back", gateway, "10.0.0.5/100 2")
}

// TestDecisionsTravel: what was decided on the node that a VM comes from is known on the one that it goes to, before it comes:
// also of what was decided while its port there waits, and of what it does not claim.
func TestDecisionsTravel(t *testing.T) {
	r := newRig(t)
	r.networks["lan"] = lan(learn.ModeApproved)
	decided := func(n int, deny bool) desired.IdentityDecision {
		return desired.IdentityDecision{Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), Denied: deny, By: "ann", At: r.now}
	}
	web := webOf("n2")
	web.Decisions = []desired.IdentityDecision{decided(5, false), decided(6, true)}
	r.others = []desired.Identity{web}
	r.follow()
	key := r.port(1, "lan") // the migration's target
	r.Own(key, wire.Owner{Name: "web", UID: "vm-1", VM: true})
	r.now = r.now.Add(time.Second)
	web.Decisions = append([]desired.IdentityDecision{}, append(web.Decisions, decided(7, true), decided(8, false))...)
	r.others = []desired.Identity{web}
	r.follow()
	r.restart(r.State(true))
	r.follow()
	if got := r.Decided(key); len(got) != 4 || got[0].Denied || !got[1].Denied || got[1].By != "ann" || got[1].VLAN != 100 || !got[2].At.Equal(r.now) {
		t.Errorf("known are %+v", got)
	}
	for _, a := range []string{"10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.0.9"} {
		r.says(1, a)
	}
	r.want("the VM has come", gateway, "10.0.0.5/100 1 firm", "10.0.0.8/100 1 firm", "10.0.0.9/100 1 waits")
	// It is this node's now: what that identity had of before is no news.
	if err := r.Decide(Decision{Who: "web", Addr: netip.MustParseAddr("10.0.0.6"), By: "bob"}); err != nil {
		t.Fatal(err)
	}
	web.Node = "n1"
	r.others = []desired.Identity{web}
	r.follow()
	if got := r.Decided(key); len(got) != 2 || got[0].By != "bob" || got[0].Denied {
		t.Errorf("decided here: %+v", got)
	}
}
