package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/binding"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
)

// learns has the agent learn until the returned function is called.
func (l live) learns() (stop func()) {
	ctx, cancel := context.WithCancel(l.Context())
	done := make(chan error, 1)
	go func() { done <- l.keepAddresses(ctx) }()
	return func() {
		l.Helper()
		cancel()
		l.must(<-done)
	}
}

// arp is a request by a MAC with an address.
func arp(mac attach.MAC, addr string) []byte {
	a := netip.MustParseAddr(addr).As4()
	return slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 1}, mac, a[:], make([]byte, 6), a[:], make([]byte, 18))
}

// has waits until the book says so.
func (l live) has(name, want string) {
	l.Helper()
	var got []string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got = nil
		for _, a := range l.addressList(name).Items {
			got = append(got, fmt.Sprintf("%v %s %s %s", a.Address, a.State, a.Provenance, a.Name))
		}
		if strings.Join(got, ", ") == want {
			return
		}
	}
	l.Errorf("%q has %q, want %q", name, got, want)
}

// TestAddresses: what a VM says on the wire is known, put before the programs, kept over a kill and a restart, and gone with the
// pod.
func TestAddresses(t *testing.T) {
	l := newLive(t)
	rec := l.veth("veth1", 1)
	rec.Policy, rec.Trunk, rec.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	l.openAs(rec)
	l.followAddresses()
	stop := l.learns()
	l.sendFrom("veth1p", arp(rec.MAC, "10.1.0.5"))
	l.has("", "10.1.0.5 Held ARP p1")
	known, err := l.kernel.dp.Addresses("open")
	if l.must(err); len(known) != 1 || known[0].MAC != [6]byte(rec.MAC) || known[0].VLAN != 100 {
		t.Errorf("the programs know %+v", known)
	}
	ports, _, _ := l.readPorts()
	if len(ports) != 1 || len(ports[0].Bindings) != 1 || ports[0].Bindings[0].Address.String() != "10.1.0.5" {
		t.Errorf("ports say %+v", ports)
	}
	// One that comes after the last round is known with its first frame.
	two := l.veth("veth2", 2)
	two.Policy, two.Trunk, two.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: "p2", UID: "u2"}
	l.openAs(two)
	l.sendFrom("veth2p", arp(two.MAC, "10.1.0.6"))
	l.has("shop/p2", "10.1.0.6 Held ARP p2")
	l.sendFrom("veth2p", arp(two.MAC, "10.1.0.5"))
	l.has("10.1.0.5", "10.1.0.5 Held ARP p1, 10.1.0.5 Aside ARP p2")
	if got := l.addressesOf(rec); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.1.0.5")}) {
		t.Errorf("after a migration %v would be announced", got)
	}

	// Killed before it has saved anything, and ended as it should be.
	stop()
	l.must(os.Remove(l.statePath(addressesFile)))
	l = l.restart()
	l.must(l.adoptRecords())
	l.followAddresses()
	l.has("", "")
	l.sightAddresses()
	l.has("", "10.1.0.5 Held ARP p1, 10.1.0.6 Held ARP p2")
	l.learns()()
	l = l.restart()
	l.has("", "10.1.0.5 Held ARP p1, 10.1.0.6 Held ARP p2")
}

// TestConflictEnds: a host outside that says to have a VM's address is told until ten minutes after its last word, and then nobody
// speaks of it: not the port, not the count that metrics have, not the list; and whoever reports is told that there is news.
func TestConflictEnds(t *testing.T) {
	l := newLive(t)
	var ahead atomic.Int64
	book, err := binding.New(binding.Config{Node: "n1", Map: addressMap{l.kernel.dp}, Log: l.log, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
		Uplink: l.switchOf, News: func() { l.tell(); ask(l.addresses.kick) }}, nil)
	l.must(err)
	l.addresses.Keeper = book
	rec := l.veth("veth1", 1)
	rec.Policy, rec.Trunk, rec.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	l.openAs(rec)
	l.followAddresses()
	defer l.learns()()
	l.sendFrom("veth1p", arp(rec.MAC, "10.1.0.5"))
	l.has("", "10.1.0.5 Held ARP p1")
	is := func(what string, want int) {
		t.Helper()
		ports, _, err := l.readPorts()
		l.must(err)
		_, counted := l.addresses.Count()
		told := 0
		for _, a := range l.addressList("").Items {
			if a.Conflict {
				told++
			}
		}
		if len(ports[0].Conflicts) != want || counted != want || told != want {
			t.Errorf("%s the port has %+v, %d are counted, %d told", what, ports[0].Conflicts, counted, told)
		}
	}
	is("before", 0)
	host := attach.MAC{2, 0, 0, 0, 0, 9}
	l.sendFrom("veth1", arp(host, "10.1.0.5"))
	l.has("", "10.1.0.5 Held ARP p1, 10.1.0.5 Outside  ")
	is("while it speaks", 1)
	for len(l.news) > 0 {
		<-l.news
	}
	ahead.Store(int64(learn.DefaultOutside) - int64(30*time.Second))
	ask(l.addresses.kick)
	l.addresses.Tick()
	is("before ten minutes are over", 1)
	ahead.Store(int64(learn.DefaultOutside) + int64(time.Second))
	ask(l.addresses.kick)
	l.has("", "10.1.0.5 Held ARP p1")
	is("then", 0)
	select {
	case <-l.news:
	case <-time.After(20 * time.Second):
		t.Error("nobody is told")
	}
}

func TestDecideAddress(t *testing.T) {
	l := newLive(t)
	s := *l.world.snap
	web := s.Networks["web"]
	web.Addressing = desired.Addressing{Mode: learn.ModeApproved}
	s.Networks = map[string]desired.Network{"web": web}
	l.take(&s)
	rec := l.veth("veth1", 1)
	rec.Policy, rec.Trunk, rec.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	l.openAs(rec)
	l.followAddresses()
	defer l.learns()()
	l.sendFrom("veth1p", arp(rec.MAC, "10.1.0.5"))
	l.has("", "10.1.0.5 Waiting ARP p1")
	five := netip.MustParseAddr("10.1.0.5")
	for _, bad := range []struct {
		d     wire.AddressDecision
		field string
	}{
		{wire.AddressDecision{Address: five, By: "ann"}, "name"},
		{wire.AddressDecision{Name: "p1", By: "ann"}, "address"},
		{wire.AddressDecision{Name: "p1", Address: netip.MustParseAddr("fe80::1%eth0"), By: "ann"}, "address"},
		{wire.AddressDecision{Name: "p1", Address: five}, "by"},
		{wire.AddressDecision{Name: "p1", Address: netip.MustParseAddr("10.1.0.6"), By: "ann"}, "address"},
		{wire.AddressDecision{Name: "p2", Address: five, By: "ann"}, "name"},
	} {
		if _, err := l.decideAddress(t.Context(), &bad.d); !isRefusal(err, attach.InvalidConfig, bad.field) {
			t.Errorf("%+v: %v, want one about %s", bad.d, err, bad.field)
		}
	}
	_, err := l.decideAddress(t.Context(), &wire.AddressDecision{Name: "shop/p1", Address: five, By: "ann"})
	l.must(err)
	l.has("", "10.1.0.5 Held ARP p1")
	if known, err := l.kernel.dp.Addresses("open"); err != nil || len(known) != 1 || !known[0].Firm {
		t.Errorf("the programs know %+v, %v", known, err)
	}
}

// What an IPAM plugin has given after attach is declared, kept on disk, and replaced as a whole.
func TestDeclare(t *testing.T) {
	l := newLive(t)
	rec := l.veth("veth1", 1)
	rec.Policy, rec.Trunk, rec.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: "p1", UID: "u1"}
	l.openAs(rec)
	l.followAddresses()
	declare := func(key attach.Key, addrs ...string) error {
		req := &wire.DeclareRequest{Key: key}
		for _, a := range addrs {
			req.Addresses = append(req.Addresses, netip.MustParseAddr(a))
		}
		_, err := l.declare(l.Context(), req)
		return err
	}
	for _, tt := range []struct {
		addrs []string
		want  string
	}{
		{[]string{"10.1.0.9", "10.1.0.8"}, "10.1.0.8 Held Declared p1, 10.1.0.9 Held Declared p1"},
		{[]string{"10.1.0.9"}, "10.1.0.9 Held Declared p1"},
		{nil, ""},
	} {
		l.must(declare(rec.Key, tt.addrs...))
		l.has("shop/p1", tt.want)
		if kept, err := l.store.Get(rec.Key); err != nil || len(kept.Addresses) != len(tt.addrs) || kept.HostIfIndex != rec.HostIfIndex {
			t.Errorf("after %v the disk has %+v, %v", tt.addrs, kept, err)
		}
	}
	if err := declare(attach.Key{ContainerID: "c9", IfName: "net1"}, "10.1.0.9"); !isRefusal(err, attach.TryAgain, "CNI_CONTAINERID, CNI_IFNAME") {
		t.Errorf("no port: %v", err)
	}
	gone, cancel := context.WithCancel(l.Context())
	cancel()
	if _, err := l.declare(gone, &wire.DeclareRequest{Key: rec.Key, Addresses: []netip.Addr{netip.MustParseAddr("10.1.0.7")}}); err == nil {
		t.Error("who is gone is served")
	}
}
