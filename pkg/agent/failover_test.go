package agent

import (
	"context"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestWayOut: what makes switches look for VMs in the wrong place, and what does not.
func TestWayOut(t *testing.T) {
	nic := wayOut{Uplink: 3, Forwards: true}
	bond := wayOut{Uplink: 4, Member: 5, Forwards: true}
	down := func(w wayOut) wayOut { w.Forwards = false; return w }
	member := func(w wayOut, i int) wayOut { w.Member = i; return w }
	const another, active, again = "the trunk has another uplink", "the bond has another active member", "the uplink forwards again"
	for name, tt := range map[string]struct {
		was, now wayOut
		want     string
	}{
		"nothing":                          {nic, nic, ""},
		"nothing, of a bond":               {bond, bond, ""},
		"never had one":                    {wayOut{}, wayOut{}, ""},
		"carrier lost":                     {nic, down(nic), ""},
		"carrier back":                     {down(nic), nic, again},
		"still without":                    {down(nic), down(nic), ""},
		"failover":                         {bond, member(bond, 6), active},
		"failover, not yet forwarding":     {bond, down(member(bond, 6)), ""},
		"then forwarding":                  {down(member(bond, 6)), member(bond, 6), again},
		"the last member lost":             {bond, member(bond, 0), ""},
		"the carrier follows":              {member(bond, 0), down(member(bond, 0)), ""},
		"a member back before the carrier": {member(bond, 0), bond, active},
		"a member back":                    {down(member(bond, 0)), bond, active},
		"the uplink is gone":               {nic, wayOut{}, ""},
		"the uplink is made anew":          {wayOut{}, nic, another},
		"another uplink":                   {nic, bond, another},
		"another uplink, not forwarding":   {nic, down(bond), ""},
		"LACP, where no member is active":  {wayOut{Uplink: 4, Forwards: true}, wayOut{Uplink: 4, Forwards: true}, ""},
	} {
		if got := tt.now.since(tt.was); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}

// TestWatchedUplinks: only events of uplinks, and lost ones, make the agent look.
func TestWatchedUplinks(t *testing.T) {
	w := watchedUplinks{news: make(chan struct{}, 1)}
	w.watch(map[string]wayOut{"br0": {Uplink: 3}, "br1": {}, "br2": {Uplink: 9}})
	for name, tt := range map[string]struct {
		e    bridge.Event
		want bool
	}{
		"an uplink":            {bridge.Event{Indexes: []int{1, 3, 4}}, true},
		"another uplink":       {bridge.Event{Indexes: []int{9}}, true},
		"some other interface": {bridge.Event{Indexes: []int{1, 2, 4}}, false},
		"nothing":              {bridge.Event{}, false},
		"announcements lost":   {bridge.Event{Resync: true}, true},
	} {
		w.note(tt.e)
		got := len(w.news) > 0
		if got {
			<-w.news
		}
		if got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestFailover: when the uplink has its carrier back, the VMs of all Active ports
// of the trunk are announced with the addresses that are known, and no others. The
// first look is no reason, nor is one that finds all as it was.
func TestFailover(t *testing.T) {
	w := newWired(t)
	one := w.open("vm1", 11, attach.VLANs{Mode: vlan.Native, PVID: 7, Tagged: set(t, "100,200")})
	two := w.open("vm2", 12, access(100))
	two.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.12")}
	three := w.open("vm3", 13, access(200))
	w.must(w.kernel.SetState(three.HostIfIndex, attach.Released))
	must := func(l netlink.Link, err error) netlink.Link { t.Helper(); w.must(err); return l }
	far := must(netlink.LinkByName("port0"))

	ways := map[string]wayOut{}
	look := func() { ways = w.lookAtWays(t.Context(), ways) }
	look()
	look()
	if want := (wayOut{Uplink: w.uplink, Forwards: true}); ways["br9"] != want {
		t.Errorf("the way out is %+v, want %+v", ways["br9"], want)
	}
	w.hears("at first", map[string]int{})
	w.must(netlink.LinkSetDown(far))
	w.eventually("the carrier is lost", func() bool { look(); return !ways["br9"].Forwards })
	w.must(netlink.LinkSetUp(far))
	w.eventually("the carrier is back", func() bool { look(); return ways["br9"].Forwards })
	w.hears("the carrier is back", map[string]int{"8035 11 0": 5, "8035 11 100": 5, "8035 11 200": 5, "8035 12 100": 5, "0806 12 100": 5})
	if n := w.announcer.counts(); n[causeFailover] != 2 || n[causeHandOver] != 0 {
		t.Errorf("counted %v", n)
	}
	if at := w.at(one.MAC); len(at) != 0 {
		t.Errorf("for the bridge nothing has moved, and yet it has %v", at)
	}
	look()
	w.hears("as it was", map[string]int{})

	// Another way than the last agent's: it changed while none ran. One is remembered
	// that has not changed.
	for _, c := range []struct {
		name  string
		last  wayOut
		hears map[string]int
	}{
		{"the bond is none any more", wayOut{Uplink: w.uplink, Member: 5, Forwards: true}, map[string]int{}},
		{"another uplink without an agent", wayOut{Uplink: w.uplink + 100, Forwards: true}, map[string]int{"8035 11 0": 5, "8035 11 100": 5, "8035 11 200": 5, "8035 12 100": 5, "0806 12 100": 5}},
		{"nothing new", wayOut{Uplink: w.uplink, Forwards: true}, map[string]int{}},
	} {
		w.save(waysFile, map[string]wayOut{"br9": c.last}, "")
		w.watched.watch(nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- w.followUplinks(ctx) }()
		w.eventually(c.name, func() bool {
			var now map[string]wayOut
			w.must(readJSON(w.statePath(waysFile), &now))
			w.watched.mu.Lock()
			looked := w.watched.at[w.uplink]
			w.watched.mu.Unlock()
			return looked && now["br9"] == wayOut{Uplink: w.uplink, Forwards: true} && (len(c.hears) == 0 || w.announcer.counts()[causeFailover] == 4)
		})
		w.announcer.wg.Wait()
		cancel()
		w.must(<-ended)
		w.hears(c.name, c.hears)
	}

	// The last port of a trunk goes, and there is nobody to announce.
	for _, r := range []*attach.Record{one, two, three} {
		e, unlock := w.table.lock(r.Key)
		w.must(w.end(e, r))
		unlock()
	}
	ways["br9"] = wayOut{Uplink: w.uplink}
	look()
	w.hears("without ports", map[string]int{})
	w.must(w.announcer.close())
}

// TestActiveMember: the bond's active member is where its traffic goes, and the
// agent hears of a change by the bond's own events.
func TestActiveMember(t *testing.T) {
	w := newWired(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	spec := netlink.NewLinkBond(netlink.LinkAttrs{Name: "bond0"})
	spec.Mode, spec.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 50
	w.must(netlink.LinkAdd(spec))
	bond, err := netlink.LinkByName("bond0")
	w.must(err)
	members := map[string]int{}
	for _, name := range []string{"m1", "m2"} {
		w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}))
		w.must(w.kernel.net.SetUp(bridge.Ref{Name: name + "p"}))
		m, err := netlink.LinkByName(name)
		w.must(err)
		w.must(netlink.LinkSetMaster(m, bond))
		members[name] = m.Attrs().Index
	}
	w.must(netlink.LinkSetUp(bond))
	active := func() int {
		l, err := w.kernel.net.LinkInfo(bridge.Ref{Name: "bond0"})
		w.must(err)
		return l.ActiveMember
	}
	w.eventually("the first is active", func() bool { return active() == members["m1"] })

	events, err := w.kernel.Watch(ctx)
	w.must(err)
	w.watched.watch(map[string]wayOut{"br9": {Uplink: bond.Attrs().Index}})
	w.must(w.kernel.net.SetDown(bridge.Ref{Name: "m1p"}))
	w.eventually("the second is active", func() bool { return active() == members["m2"] })
	w.eventually("an event of the bond", func() bool {
		select {
		case e := <-events:
			w.watched.note(e)
		default:
		}
		return len(w.watched.news) > 0
	})
	w.must(w.kernel.net.SetDown(bridge.Ref{Name: "m2p"}))
	w.eventually("none is active", func() bool { return active() == 0 })
}
