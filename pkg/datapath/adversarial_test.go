package datapath

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// second makes a port at an interface of its own.
func (b *bench) second(c attach.PortConfig) (ifindex int) {
	b.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "second"}, PeerName: "secondp"}); err != nil {
		b.Fatal(err)
	}
	l, err := netlink.LinkByName("second")
	if err != nil {
		b.Fatal(err)
	}
	slot, err := b.claim()
	if err != nil {
		b.Fatal(err)
	}
	ifindex = l.Attrs().Index
	if err := b.putConfig(ifindex, portHpPort{Slot: slot, Serial: b.control.nextSerial(), State: uint32(attach.Active)}, c); err != nil {
		b.Fatal(err)
	}
	return ifindex
}

// at judges one frame at an interface, and says whether it passed.
func (b *bench) at(ifindex int, h Hook, frame []byte) bool {
	ret, err := b.progs[h].Run(&ebpf.RunOptions{Data: facing(h, frame), Context: skbContext{Ifindex: uint32(ifindex)}})
	if err != nil {
		b.Fatal(err)
	}
	return ret == passVerdict
}

// unanswered counts the flows of the whole node that nobody has answered.
func (b *bench) unanswered() (n int) {
	b.Helper()
	var cursor ebpf.MapBatchCursor
	keys, flows := make([]portHpNewKey, flowBatch), make([]portHpFlow, flowBatch)
	for {
		got, err := b.maps[portMapConnsNew].BatchLookup(&cursor, keys, flows, nil)
		n += got
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

// Whatever strangers send, connections that are open live on, at the port that is attacked
// and at its neighbours, and new ones can be opened.
func TestConnectionsOutliveFloods(t *testing.T) {
	b := newBench(t, Config{ConnsQuota: 64})
	b.sync(testSets(t)...)
	b.port(accessPort())
	neighbour := b.second(accessPort())
	est, allow, none := policy.ReasonEstablished, policy.ReasonRuleAllow, policy.ReasonDefaultDrop
	dns := netip.MustParseAddr("192.0.2.8")
	open := func(hooks func(Hook, pkt) bool) {
		t.Helper()
		for _, s := range []struct {
			h Hook
			p pkt
		}{{FromVM, tcp(vm4, peer4, 1000, 80, "S")}, {ToVM, tcp(peer4, vm4, 80, 1000, "SA")}, {FromVM, udp(vm4, dns, 5, 53)}, {ToVM, udp(dns, vm4, 53, 5)},
			{ToVM, tcp(dns, vm4, 7, 22, "S")}, {FromVM, tcp(vm4, dns, 22, 7, "SA")}} {
			if !hooks(s.h, s.p) {
				t.Fatalf("%v does not open", s)
			}
		}
	}
	open(func(h Hook, p pkt) bool { return b.run(h, p.bytes()) })
	open(func(h Hook, p pkt) bool { return b.at(neighbour, h, p.bytes()) })
	alive := func(what string) {
		t.Helper()
		b.expect(what, in(tcp(peer4, vm4, 80, 1000, "A"), est), out(tcp(vm4, peer4, 1000, 80, "A"), est), in(udp(dns, vm4, 53, 5), est), out(udp(vm4, dns, 5, 53), est),
			in(tcp(dns, vm4, 7, 22, "A"), est), out(tcp(vm4, dns, 22, 7, "A"), est))
		for _, p := range []pkt{tcp(peer4, vm4, 80, 1000, "A"), udp(dns, vm4, 53, 5), tcp(dns, vm4, 7, 22, "A")} {
			if !b.at(neighbour, ToVM, p.bytes()) {
				t.Errorf("%s: a connection of the neighbour is gone", what)
			}
		}
	}
	alive("before")

	unanswered := size(t, "HOMEPORT_UNANSWERED", 131072, 16384) // HP_CONNS_NEW, if it can be: more push out others
	flood := func(n int, each func(from netip.Addr, port uint16)) {
		for i := range n {
			each(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i>>14)}), uint16(1024+i%(1<<14)))
		}
	}
	flood(unanswered+unanswered/4, func(from netip.Addr, port uint16) {
		if !b.run(ToVM, tcp(from, vm4, port, 22, "S").bytes()) {
			t.Fatal("the flood is dropped, and proves nothing")
		}
	})
	if n := b.unanswered(); n < unanswered/2 {
		t.Errorf("%d flows nobody answered; the flood proves nothing", n)
	}
	alive("SYN flood")

	flood(unanswered/8, func(from netip.Addr, port uint16) {
		b.run(ToVM, tcp(from, vm4, port, 22, "S").bytes())
		b.run(FromVM, tcp(vm4, from, 22, port, "SA").bytes())
	})
	if conns, err := b.Conns(loopback); err != nil || len(conns) != 64 {
		t.Errorf("%d answered flows, want the port's quota: %v", len(conns), err)
	}
	alive("two packets a flow")
	b.expect("another opens, with the port's table full", out(tcp(vm4, peer4, 2000, 80, "S"), allow), in(tcp(peer4, vm4, 80, 2000, "SA"), est), out(tcp(vm4, peer4, 2000, 80, "A"), est))

	before := b.unanswered()
	for port := range uint16(20_000) {
		b.run(ToVM, tcp(other4, vm4, 1, port+1, "S").bytes())
		b.run(ToVM, udp(other4, vm4, 1, port+1).bytes())
	}
	if after := b.unanswered(); after > before {
		t.Errorf("a scan that is dropped left %d flows", after-before)
	}
	alive("scan")

	for id := range uint16(9000) { // more datagrams than are remembered
		if !b.run(ToVM, tcp(dns, vm4, 9, 22, "S").with(func(p *pkt) { p.more, p.id = true, id }).bytes()) {
			t.Fatal("a first fragment is dropped, and proves nothing")
		}
	}
	alive("first fragments")

	ping, pong := echo(vm4, peer4, true, 7), echo(peer4, vm4, false, 7)
	b.expect("ping", out(ping, allow), in(pong, est))
	for range 3 {
		b.expect("its identifier, by others", in(echo(other4, vm4, false, 7), none), in(echo(peer4, vm4, true, 7), none), in(echo(peer4, vm4, false, 8), none),
			in(pong, est), out(ping, est))
	}
	b.expect("ports of a connection, by others", in(tcp(other4, vm4, 80, 1000, "A"), none), in(tcp(other4, vm4, 80, 1000, "R"), none),
		in(udp(other4, vm4, 53, 5), none), in(icmpError(other4, vm4, 3, tcp(vm4, other4, 1000, 80, "S"), 8), none))
	alive("end")
}
