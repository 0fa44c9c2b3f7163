package datapath

import (
	"net/netip"
	"testing"
)

// quota is what a port, or the node, has told in this moment.
func (b *bench) quota(of uint32) (q portHpQuota) {
	b.Helper()
	if err := b.maps[portMapHeardQuotas].Lookup(of, &q); err != nil {
		b.Fatal(err)
	}
	return q
}

// What a DHCP server answers a VM is told, whatever else is heard: what it answers others, who says that he has the VM's address, and
// what other ports tell.
func TestHeardLeases(t *testing.T) {
	b, c := heardBench(t)
	b.hold(held{vm4.String(): mine, vm6.String(): mine}, 100)
	heard := b.hears()
	all4 := netip.MustParseAddr("255.255.255.255")
	ack, reply := dhcp(peer4, all4, 67, 68, 300).with(from(peerMAC)), dhcp(peer6, vm6, 547, 546, 60)
	request := dhcp(netip.IPv4Unspecified(), all4, 68, 67, 300)
	others := ack.with(client(thief))
	isTold := func(h Hook, p pkt) bool {
		t.Helper()
		for heard.next(t) != nil {
		}
		b.run(h, p.bytes())
		return heard.next(t) != nil
	}
	for name, noise := range map[string]pkt{
		"others' leases": others, "another's ARP": arpBy(2, thief, vm4, peer4).with(from(thief)), "another's advertisements": nd(136, peer6, vm6, linkLayer(2, thief)...).with(from(thief)),
	} {
		b.quiet()
		for range 10 * HeardOfPort {
			b.run(ToVM, noise.bytes())
		}
		if !isTold(ToVM, ack) || !isTold(ToVM, reply) {
			t.Errorf("after %s an answer is not told", name)
		}
	}
	// Nor do they keep the VM's own words from being told.
	b.quiet()
	for range 10 * HeardOfPort {
		b.run(ToVM, ack.bytes())
	}
	if !isTold(FromVM, request) || !isTold(ToVM, arpBy(2, thief, vm4, peer4).with(from(thief))) {
		t.Error("after answers nothing else is told")
	}
	// Of all ports, too.
	b.quiet()
	isTold(FromVM, arpBy(1, testMAC, other4, peer4))
	node := b.quota(PortsMax)
	node.Used[0] = HeardOfNode
	if err := b.maps[portMapHeardQuotas].Put(uint32(PortsMax), node); err != nil {
		t.Fatal(err)
	}
	if !isTold(FromVM, request) || !isTold(ToVM, ack) || !isTold(ToVM, reply) {
		t.Error("where ports tell of no more claims, nothing is told of DHCP")
	}
	// Where there may be others inside the VM they have leases, too.
	c.Security.ForgedTransmits = true
	b.port(c)
	b.quiet()
	if !isTold(ToVM, others) || !isTold(ToVM, ack) {
		t.Error("at a port with forged transmits an answer is not told")
	}
}

// Duplicate address detection is answered before the agent can know of it, and so that is told, too.
func TestHeardOfDuplicates(t *testing.T) {
	b, _ := heardBench(t)
	heard := b.hears()
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	answer := nd(136, peer6, vm6, linkLayer(2, thief)...).with(func(p *pkt) { p.src = thief })
	for _, tt := range []struct {
		name   string
		hold   held
		before uint32 // moments ago it asked
		silent bool
		frame  pkt
		want   bool
	}{
		{name: "an answer", frame: answer, want: true},
		{name: "an answer a moment later", before: 1, frame: answer, want: true},
		{name: "much later", before: 2, frame: answer},
		{name: "it has not asked", silent: true, frame: answer},
		{name: "the agent was faster", hold: held{vm6.String(): mine}, silent: true, frame: answer, want: true},
		{name: "another's, of another NIC's", hold: held{vm6.String(): theirs}, frame: answer},
		{name: "to itself alone", frame: answer.with(func(p *pkt) { p.dst = testMAC })},
		{name: "another asks, too", frame: nd(135, zero6, vm6).with(func(p *pkt) { p.src = thief })},
		{name: "a solicitation", frame: nd(135, vm6, peer6).with(func(p *pkt) { p.src = thief })},
		{name: "ARP", frame: arpBy(2, thief, vm4, peer4).with(from(thief))},
	} {
		b.quiet()
		b.hold(nil, 100)
		if !tt.silent {
			b.run(FromVM, nd(135, zero6, vm6).bytes())
			if heard.next(t) == nil {
				t.Errorf("%s: the question is not told", tt.name)
			}
			q := b.quota(rec.Slot)
			q.Window -= tt.before
			if err := b.maps[portMapHeardQuotas].Put(rec.Slot, q); err != nil {
				t.Fatal(err)
			}
		}
		b.hold(tt.hold, 100)
		b.run(ToVM, tt.frame.bytes())
		if h := heard.next(t); (h != nil) != tt.want {
			t.Errorf("%s: told %+v", tt.name, h)
		}
	}
}
