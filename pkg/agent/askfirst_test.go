package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// others is a segment whose hosts are the test's.
type others struct {
	mu    sync.Mutex
	asked []string
	has   map[string]probe.Taken
	err   error
	while func() // what happens while it is waited for
}

func (o *others) detect(ctx context.Context, t desired.Trunk, v vlan.ID, own probe.MAC, addresses []netip.Addr) (out []probe.Taken, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked = append(o.asked, fmt.Sprint(t.Uplink, " ", v, " ", own, " ", addresses))
	for _, ip := range addresses {
		if x, ok := o.has[ip.String()]; ok {
			x.Address = ip
			out = append(out, x)
		}
	}
	if o.while != nil {
		o.while()
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return out, o.err
}

// were gives what was asked since it was last called.
func (o *others) were() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	s := strings.Join(o.asked, ", ")
	o.asked = nil
	return s
}

// declares is a Source that knows what a pod's annotations declare.
type declares struct {
	*moving
	addresses []netip.Addr
}

func (d *declares) Declared(_, _, _, ifName string) []netip.Addr {
	if ifName != "net1" {
		return nil
	}
	return d.addresses
}

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

// asking is an agent whose trunk has an uplink, and whose network asks.
func asking(t *testing.T, p desired.Probe) (live, *others) {
	t.Helper()
	l := newLive(t)
	l.veth("eth1", 9)
	peer, err := netlink.LinkByName("eth1p")
	l.must(err)
	l.must(netlink.LinkSetUp(peer))
	for end := time.Now().Add(20 * time.Second); l.kernel.linkState("eth1") != wire.LinkUp; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			l.Fatalf("eth1 is %s", l.kernel.linkState("eth1"))
		}
	}
	s, _ := snapshot(t)
	s.Revision = 2
	open, web := s.Trunks["open"], s.Networks["web"]
	open.Uplink = "eth1"
	web.Addressing = desired.Addressing{Mode: learn.ModeObserved, Probe: p, Shared: []netip.Prefix{netip.MustParsePrefix("10.1.0.200/32")}}
	s.Trunks["open"], s.Networks["web"] = open, web
	l.take(s)
	l.trunksAreUp()
	o := &others{has: map[string]probe.Taken{}}
	l.segment = o
	return l, o
}

// at is a request of pod p1 for a veth.
func (l live) at(name string, mac byte, addresses ...string) *attach.Request {
	rec := l.veth(name, mac)
	req := rec.Request
	req.Network, req.Inline, req.Addresses = "web", nil, addrs(addresses...)
	req.Pod = attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	req.IfName = "net1"
	return &req
}

var legacy = probe.MAC{2, 0, 0, 0, 0x0d, 1}

// TestRefuseTaken: who answers is the error, which says where; nothing is left of the port.
func TestRefuseTaken(t *testing.T) {
	l, o := asking(t, desired.ProbeRefuse)
	req := l.at("veth1", 1, "10.1.0.5", "10.1.0.200", "fd00::5", "10.1.0.5")
	for _, tt := range []struct {
		name  string
		taken probe.Taken
		want  string
	}{
		{"he has it", probe.Taken{MAC: legacy}, "addresses: 10.1.0.5 is somebody else's in VLAN 100: 02:00:00:00:0d:01 has answered for it, at uplink eth1; give one of both another"},
		{"he wants it", probe.Taken{MAC: legacy, Wants: true}, "02:00:00:00:0d:01, at uplink eth1, is about to take it"},
		{"here", probe.Taken{MAC: legacy, Wants: true, Here: true}, "the NIC 02:00:00:00:0d:01, which is being attached to this node, is to have it"},
	} {
		o.has["10.1.0.5"] = tt.taken
		_, err := l.attach(t.Context(), req)
		if !isRefusal(err, attach.Conflict, "addresses") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got, want := o.were(), fmt.Sprintf("eth1 100 %v [10.1.0.5 fd00::5]", req.MAC); got != want {
			t.Errorf("%s: asked %q, want %q", tt.name, got, want)
		}
	}
	if len(l.table.list()) != 0 || len(l.records()) != 0 || len(l.addresses.Addresses("")) != 0 {
		t.Errorf("left: %+v, %+v, %+v", l.table.list(), l.records(), l.addresses.Addresses(""))
	}
	o.err = errors.New("no socket")
	if _, err := l.attach(t.Context(), req); !isRefusal(err, attach.Conflict, "addresses") {
		t.Errorf("one is known to be taken, others cannot be asked for: %v", err)
	}
	clear(o.has)
	if _, err := l.attach(t.Context(), req); !isRefusal(err, attach.TryAgain, "addresses") || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("nobody could be asked: %v", err)
	}
	o.err = unix.ENETDOWN
	if _, tell, err := l.askBefore(t.Context(), req); tell == nil || err != nil {
		t.Errorf("the uplink has gone down meanwhile: %v", err)
	}
}

// TestAskNobody: of whom nothing is asked.
func TestAskNobody(t *testing.T) {
	l, o := asking(t, desired.ProbeRefuse)
	o.has["10.1.0.5"] = probe.Taken{MAC: legacy}
	src := &declares{l.follows(), addrs("10.1.0.5")}
	l.cfg.Source = src
	req := l.at("veth1", 1)
	passes := func(what string) {
		t.Helper()
		if _, _, err := l.askBefore(t.Context(), req); err != nil || o.were() != "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, s := range []desired.MoveState{desired.MoveUnknown, desired.MoveTarget, desired.MoveArrived, desired.MoveLeft} {
		src.moves["p1"] = desired.Move{State: s}
		passes("of a migration: " + s.String())
	}
	src.moves["p1"] = desired.Move{State: desired.MoveNone}
	if _, _, err := l.askBefore(t.Context(), req); !isRefusal(err, attach.Conflict, "addresses") || o.were() == "" {
		t.Errorf("what the pod's annotations declare: %v", err)
	}
	src.addresses = nil
	passes("nothing is declared")
	src.addresses = addrs("10.1.0.5")
	peer, err := netlink.LinkByName("eth1p")
	l.must(err)
	l.must(netlink.LinkSetDown(peer))
	passes("no carrier")
	l.must(netlink.LinkSetUp(peer))
	src.addresses = nil
	set := desired.Identity{Namespace: "shop", Network: "web", MAC: req.MAC, Manual: addrs("10.1.0.5")}
	other, elsewhere, its := set, set, set
	other.MAC, elsewhere.Namespace, its.Network = attach.MAC{2, 0, 0, 0, 0, 9}, "bank", "db"
	l.world.snap.Identities = []desired.Identity{other, elsewhere, its}
	passes("what is set for others")
	l.world.snap.Identities = append(l.world.snap.Identities, set)
	if _, _, err := l.askBefore(t.Context(), req); !isRefusal(err, attach.Conflict, "addresses") || o.were() == "" {
		t.Errorf("what a person has set: %v", err)
	}
	web := l.world.snap.Networks["web"]
	web.Addressing.Probe = ""
	l.world.snap.Networks["web"] = web
	passes("the network does not ask")
}

// TestAskingWaitsForNobody: while it is asked the port is not there, others of its key are served, and who hangs up is not waited for.
func TestAskingWaitsForNobody(t *testing.T) {
	l, o := asking(t, desired.ProbeReport)
	req := l.at("veth1", 1, "10.1.0.5")
	ctx, hangUp := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	o.while = func() {
		if len(l.table.list()) != 0 {
			t.Errorf("ports: %+v", l.table.list())
		}
		if out, err := l.detach(t.Context(), &wire.DetachRequest{Key: req.Key}); err != nil || out.(wire.Detached).Found {
			t.Errorf("DEL: %+v, %v", out, err)
		}
		hangUp(gone)
	}
	if _, err := l.attach(ctx, req); !errors.Is(err, gone) || o.were() == "" || len(l.table.list()) != 0 {
		t.Errorf("attach: %v", err)
	}
}

// TestDeclareTaken: what an IPAM plugin has given, and what this node's NICs hold.
func TestDeclareTaken(t *testing.T) {
	l, o := asking(t, desired.ProbeReport)
	has := func(name string, mac byte) *attach.Record {
		rec := l.veth(name, mac)
		rec.Network, rec.Policy, rec.Trunk, rec.Pod = "web", "web", "open", attach.Pod{Namespace: "shop", Name: name, UID: name}
		return l.openAs(rec)
	}
	one, two := has("veth1", 1), has("veth2", 2)
	l.followAddresses()
	declare := func(rec *attach.Record, texts ...string) error {
		_, err := l.declare(t.Context(), &wire.DeclareRequest{Key: rec.Key, Addresses: addrs(texts...)})
		return err
	}
	o.has["10.1.0.5"] = probe.Taken{MAC: legacy}
	l.must(declare(one, "10.1.0.5"))
	l.has("10.1.0.5", "10.1.0.5 Held Declared veth1, 10.1.0.5 Outside  ")
	if _, conflicts := l.addresses.Of(one.Key); len(conflicts) != 1 || len(conflicts[0].Claimants) != 2 || conflicts[0].Claimants[1].MAC.String() != legacy.String() {
		t.Errorf("conflicts: %+v", conflicts)
	}
	o.err = errors.New("no socket")
	l.must(declare(one, "10.1.0.5", "10.1.0.6"))
	o.err = nil
	o.were()

	web := l.world.snap.Networks["web"]
	web.Addressing.Probe = desired.ProbeRefuse
	l.world.snap.Networks["web"] = web
	if err := declare(two, "10.1.0.6"); !isRefusal(err, attach.Conflict, "addresses") || !strings.Contains(err.Error(), "shop/veth1 (02:00:00:00:00:01) on this node holds it") || o.were() != "" {
		t.Errorf("held by another: %v", err)
	}
	l.must(declare(one, "10.1.0.6"))
	o.while = func() { l.must(declareNow(l, one, "10.1.0.7")) }
	if err := declare(two, "10.1.0.7"); !isRefusal(err, attach.Conflict, "addresses") {
		t.Errorf("held by another meanwhile: %v", err)
	}
	o.while = nil
	if kept, err := l.store.Get(two.Key); err != nil || len(kept.Addresses) != 0 {
		t.Errorf("of what was refused the disk has %+v, %v", kept, err)
	}
}

// declareNow is what declare does once nobody has answered.
func declareNow(l live, rec *attach.Record, texts ...string) error {
	return l.withPort(*rec, func(now attach.Record) error {
		now.Addresses = addrs(texts...)
		l.table.replace(&now)
		l.addresses.FollowPorts(l.bookedPorts())
		return nil
	})
}

// TestAskLate: what becomes known of an active port that this agent has attached is asked for once, and told.
func TestAskLate(t *testing.T) {
	l, o := asking(t, desired.ProbeRefuse)
	o.has["10.1.0.5"] = probe.Taken{MAC: legacy}
	rec := l.veth("veth1", 1)
	rec.Network, rec.Policy, rec.Trunk, rec.Pod = "web", "web", "open", attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	l.openAs(rec)
	l.followAddresses()
	says := wire.Owner{Name: "p1", UID: "u1", Says: []wire.Says{{Source: "Multus", Addresses: addrs("10.1.0.5", "10.1.0.6")}, {Source: "guest agent", Guest: true, Addresses: addrs("10.1.0.7")}}}
	view := View{l.Agent}
	view.Own(rec.Key, says)
	if got := o.were(); got != "" {
		t.Errorf("of a port that an agent before this one has attached: %s", got)
	}
	e, unlock := l.table.lock(rec.Key)
	l.table.noteAsked(e, addrs("10.1.0.6"))
	unlock()
	for range 2 {
		view.Own(rec.Key, says)
	}
	l.has("10.1.0.5", "10.1.0.5 Held Declared p1, 10.1.0.5 Outside  ")
	if got, want := o.were(), fmt.Sprintf("eth1 100 %v [10.1.0.5]", rec.MAC); got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	if held := l.recordOfInterface(rec.HostIfIndex); held == nil || held.Wanted() != attach.Active {
		t.Errorf("the port is %+v", held)
	}
	// One after the other, however often they change; what is said no more is not kept, and asked for when it is said again.
	began, waits := make(chan bool), make(chan bool)
	o.mu.Lock()
	o.while = func() { began <- true; <-waits }
	o.mu.Unlock()
	say := func(address string) {
		says.Says[0].Addresses = addrs(address)
		view.Own(rec.Key, says)
	}
	asks := func(address string) {
		t.Helper()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			say(address)
			select {
			case <-began:
				return
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("nobody is asked for %s", address)
			}
		}
	}
	asks("10.1.0.8")
	for i := range 9 {
		say(fmt.Sprintf("10.1.0.%d", 10+i))
	}
	waits <- true
	o.mu.Lock() // the last is done
	o.err = errors.New("no socket")
	o.mu.Unlock()
	asks("10.1.0.5") // which fails
	waits <- true
	for n := 0; n == 0; time.Sleep(time.Millisecond) { // until it is tried again
		say("10.1.0.5")
		l.table.mu.Lock()
		if e := l.table.ports[rec.Key]; !e.asked.after.IsZero() {
			e.asked.after, n = time.Time{}, 1
		}
		l.table.mu.Unlock()
	}
	o.mu.Lock()
	o.err = nil
	o.mu.Unlock()
	asks("10.1.0.5")
	waits <- true
	if got, want := o.were(), fmt.Sprintf("eth1 100 %v [10.1.0.8], eth1 100 %[1]v [10.1.0.5], eth1 100 %[1]v [10.1.0.5]", rec.MAC); got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// TestEar: at a real interface, who asks together shares a socket, which is known as the agent's own and goes with the last of them.
func TestEar(t *testing.T) {
	l, _ := asking(t, desired.ProbeReport)
	p := newProber(l.Agent, "n1", noKeys{})
	ctx, stop := context.WithCancel(t.Context())
	link, err := l.kernel.net.LinkInfo(bridge.Ref{Name: "eth1"})
	l.must(err)
	one, err := p.lendEar(link, "eth1")
	l.must(err)
	two, err := p.lendEar(link, "eth1")
	if l.must(err); one != two || len(p.sockets) != 1 || !p.isOwn(one.socket.Inode()) {
		t.Errorf("%d sockets", len(p.sockets))
	}
	answered := make(chan error, 1)
	go func() {
		_, err := one.detector.Ask(ctx, 100, probe.MAC{2, 0, 0, 0, 0, 1}, addrs("10.1.0.5", "fd00::5"))
		answered <- err
	}()
	stop()
	if err := <-answered; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	p.giveBack(link.Index, two)
	if len(p.ears) != 1 {
		t.Error("it is closed while somebody asks")
	}
	p.closeAll()
	p.giveBack(link.Index, one)
	if len(p.ears) != 0 || len(p.sockets) != 0 {
		t.Errorf("left: %d ears, %d sockets", len(p.ears), len(p.sockets))
	}
	if _, err := one.detector.Ask(t.Context(), 100, probe.MAC{2, 0, 0, 0, 0, 1}, addrs("10.1.0.5")); !errors.Is(err, net.ErrClosed) {
		t.Error("it asks though it is closed")
	}
}
