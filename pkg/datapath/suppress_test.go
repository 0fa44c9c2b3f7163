package datapath

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

var (
	quiet      = attach.Security{Suppression: true}
	theirFirm  = AddressHolder{MAC: [6]byte(thief), Firm: true}
	disputed   = AddressHolder{MAC: [6]byte(thief), Firm: true, Disputed: true}
	firmShared = AddressHolder{MAC: [6]byte(thief), Firm: true, Shared: true}
	firmWaits  = AddressHolder{MAC: [6]byte(thief), Firm: true, Waits: true}
	gateway4   = netip.MustParseAddr("10.1.0.1")
)

// suppressScenarios are of what comes to a port, and of what leaves one that has no way past the bridge.
func suppressScenarios() []scenario {
	watching, all := quiet, held{vm4.String(): mineFirm, vm6.String(): mineFirm, peer4.String(): theirFirm, peer6.String(): theirFirm}
	watching.Promiscuous = true
	trunk := func(c *attach.PortConfig) {
		trunkPort(c)
		secured(quiet)(c)
	}
	ask4, ask6 := arpBy(1, peerMAC, other4, peer4).with(from(peerMAC)), nd(135, other6, peer6).with(from(peerMAC))
	ask6.dst = groupND
	passes := func(p pkt) []step {
		if p.ether == layers.EthernetTypeARP {
			return both(p, policy.ReasonARP)
		}
		return both(p, policy.ReasonND)
	}
	with := func(name string, h AddressHolder) scenario {
		return scenario{name: "suppression, of an address that is " + name, port: secured(quiet), hold: held{peer4.String(): h, peer6.String(): h}, steps: []step{in(ask4, policy.ReasonARP), in(ask6, policy.ReasonND)}}
	}
	return []scenario{
		{name: "suppression", port: secured(quiet), hold: all, steps: suppressSteps(ask4, ask6)},
		{name: "suppression, of a gateway's request", port: secured(quiet), hold: held{peer4.String(): theirFirm, gateway4.String(): nobodys}, steps: []step{
			in(arpBy(1, peerMAC, gateway4, peer4).with(from(peerMAC)), policy.ReasonSuppressed),
		}},
		with("not known surely", theirs), with("shared", firmShared), with("waited for", firmWaits), with("nobody's", nobodys), with("in conflict", disputed), with("this port's", mineFirm),
		{name: "suppression, of an address that is not known", port: secured(quiet), hold: held{}, steps: []step{in(ask4, policy.ReasonARP), in(ask6, policy.ReasonND)}},
		{name: "suppression, where all is watched", port: secured(watching), hold: all, steps: []step{in(ask4, policy.ReasonARP), in(ask6, policy.ReasonND)}},
		{name: "no suppression", port: secured(attach.Security{}), hold: all, steps: []step{in(ask4, policy.ReasonARP), in(ask6, policy.ReasonND)}},
		{name: "suppression, in VLANs of a trunk", port: trunk, hold: all, steps: []step{
			in(ask4.tagged(tag{ctag, 11}), policy.ReasonSuppressed), in(ask4.tagged(tag{ctag, 10}), policy.ReasonARP),
			in(ask6.tagged(tag{ctag, 11}), policy.ReasonSuppressed), in(ask6.tagged(tag{ctag, 10}), policy.ReasonND),
		}},
		{name: "suppression, of what leaves a port without a way past the bridge", port: secured(quiet), hold: all, steps: append(passes(arpBy(1, testMAC, vm4, peer4)), passes(nd(135, vm6, peer6))...)},
	}
}

// suppressSteps: vm4 and vm6 are the port's, peer4 and peer6 another's for whom the requests ask.
func suppressSteps(ask4, ask6 pkt) []step {
	off, pass4, pass6 := policy.ReasonSuppressed, policy.ReasonARP, policy.ReasonND
	arp := func(op uint16, spa, tpa netip.Addr) pkt { return arpBy(op, peerMAC, spa, tpa).with(from(peerMAC)) }
	ns := func(typ uint8, source, target netip.Addr, o ...byte) pkt {
		return nd(typ, source, target, o...).with(func(p *pkt) { p.src = peerMAC })
	}
	alone := func(p *pkt) { p.dst = testMAC }
	zero4 := netip.IPv4Unspecified()
	steps := []step{
		in(ask4, off), in(ask6, off), in(ns(135, other6, peer6, linkLayer(1, peerMAC)...), off), in(ns(135, link6, peer6), off),
		in(ask6.with(func(p *pkt) { p.ext = []extension{pad(layers.IPProtocolIPv6Destination)} }), off),
		in(ask4.with(func(p *pkt) { p.l4 = append(p.l4[:28:28], make([]byte, 18)...) }), off),
		// Probes, announcements, answers, and what asks one alone.
		in(arp(1, zero4, peer4), pass4), in(arp(1, peer4, peer4), pass4), in(arp(2, peer4, peer4), pass4), in(arp(2, other4, peer4), pass4), in(ask4.with(alone), pass4),
		in(ns(135, zero6, peer6), pass6), in(ns(135, peer6, peer6), pass6), in(ns(136, peer6, peer6), pass6), in(ns(136, other6, peer6), pass6), in(ask6.with(alone), pass6),
		in(ns(133, other6, zero6), pass6), in(ns(134, link6, zero6), pass6),
		// The VM hears of who has its own address, whatever he asks for.
		in(arp(1, vm4, peer4), pass4), in(ns(135, vm6, peer6), pass6),
		in(arp(1, other4, vm4), pass4), in(ns(135, other6, vm6), pass6), in(arp(1, other4, open4), pass4), in(ns(135, other6, open6), pass6),
		// What is for all, and asks nothing.
		in(udp(other4, netip.MustParseAddr("255.255.255.255"), 5, 9).with(from(peerMAC)), policy.ReasonDefaultAllow),
		in(ns(135, other6, peer6).with(func(p *pkt) { p.hops = 254 }), policy.ReasonDefaultAllow),
	}
	for n := range 28 {
		steps = append(steps, in(ask4.with(func(p *pkt) { p.l4 = p.l4[:n] }), pass4))
	}
	for at := range 8 { // what it is between, and what it is
		steps = append(steps, in(ask4.with(func(p *pkt) { p.l4 = append([]byte{}, p.l4...); p.l4[at] = 0x77 }), pass4))
	}
	return steps
}

// asking is a request of VM 0 that can be told from others.
func (f *fastLAN) asking(p pkt) (frame []byte, text string) {
	f.said++
	text = fmt.Sprintf("ask %010d", f.said) // 14 bytes
	if p.ether == layers.EthernetTypeARP {
		p.l4 = append(append([]byte{}, p.l4...), text...)
		return p.bytes(), text
	}
	return p.bytes(), text
}

// A request for what a VM of the node has goes to that VM as it is, and nowhere else; the bridge learns of it who has asked. Where anything is
// not sure, it goes everywhere.
func TestSuppressOnWire(t *testing.T) {
	f := newFastLAN(t, Config{})
	config := func(i int, s attach.Security) {
		t.Helper()
		c := lanPort(i)
		c.Trunk, c.Security = "net-b", s
		if err := f.UpdatePort(f.host[i].Index, c); err != nil {
			t.Fatal(err)
		}
	}
	there := AddressHolder{MAC: [6]byte(peerMAC), Firm: true}
	known := held{vm4.String(): mine, vm6.String(): mine, peer4.String(): there, peer6.String(): there}
	b := &bench{TB: t, Datapath: f.Datapath}
	but := func(more held) func() {
		return func() {
			h := maps.Clone(known)
			for a, is := range more {
				if h[a] = is; is == (AddressHolder{}) {
					delete(h, a)
				}
			}
			b.hold(h, 100)
		}
	}
	as := func(h AddressHolder, mac net.HardwareAddr) AddressHolder { h.MAC = [6]byte(mac); return h }
	arp, loose := arpBy(1, testMAC, vm4, peer4), func(p *pkt) { p.dst = peerMAC }
	ns := func(source, target netip.Addr) pkt {
		option := append([]byte{14, 2}, fmt.Sprintf("ask %010d", f.said+1)...)
		return nd(135, source, target, option...)
	}
	toHolder, pass := policy.ReasonToHolder, policy.ReasonARP
	for _, tt := range []struct {
		name    string
		before  func()
		p       func() pkt
		want    policy.Reason // at VM 0
		at1     policy.Reason // at VM 1
		far     int
		nothing bool // comes to VM 1
	}{
		{name: "ARP", p: func() pkt { return arp }, want: toHolder, at1: pass},
		{name: "ND", p: func() pkt { return ns(vm6, peer6) }, want: toHolder, at1: policy.ReasonND},
		{name: "the bridge knows nobody", before: func() { f.flush(t) }, p: func() pkt { return arp }, want: toHolder, at1: pass},
		{name: "off", before: func() { config(0, attach.Security{}) }, p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "a probe", p: func() pkt { return arpBy(1, testMAC, netip.IPv4Unspecified(), peer4) }, want: pass, at1: pass, far: 1},
		{name: "an announcement", p: func() pkt { return arpBy(1, testMAC, vm4, vm4) }, want: pass, at1: pass, far: 1},
		{name: "an answer", p: func() pkt { return arpBy(2, testMAC, vm4, peer4) }, want: pass, at1: pass, far: 1},
		{name: "duplicate detection", p: func() pkt { return ns(zero6, peer6) }, want: policy.ReasonND, at1: policy.ReasonND, far: 1},
		{name: "for one alone", before: func() { f.teach(t) }, p: func() pkt { return arp.with(loose) }, want: pass, at1: pass},
		{name: "nobody is known there", before: but(held{peer4.String(): {}}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "hearsay", before: but(held{peer4.String(): as(mine, peerMAC)}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "in conflict", before: but(held{peer4.String(): as(disputed, peerMAC)}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "shared", before: but(held{peer4.String(): as(firmShared, peerMAC)}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "of another node", before: but(held{peer4.String(): theirFirm}), p: func() pkt { return arp }, want: pass, at1: policy.ReasonSuppressed, far: 1, nothing: true},
		{name: "of another node, and nobody looks after what is known", before: func() { but(held{peer4.String(): theirFirm})(); b.vouch(-5 * time.Second) }, p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "nobody looks after what is known", before: func() { b.vouch(-5 * time.Second) }, p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "nobody knows who asks", before: but(held{vm4.String(): {}}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "who asks waits", before: but(held{vm4.String(): mineWaits}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "who asks is in conflict", before: but(held{vm4.String(): as(disputed, testMAC)}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "who asks shares", before: but(held{vm4.String(): mineShare}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "in another's name", before: but(held{vm4.String(): theirs}), p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "from another MAC", before: func() { config(0, attach.Security{Suppression: true, ForgedTransmits: true}) }, p: func() pkt { return arp.with(from(thief)) }, want: pass, at1: pass, far: 1},
		{name: "the VM may be elsewhere", before: func() {
			if err := f.LoseFast(f.host[1].Index, f.both()[f.host[1].Index]); err != nil {
				t.Fatal(err)
			}
		}, p: func() pkt { return arp }, want: pass, at1: pass, far: 1},
		{name: "the VM has left", before: func() {
			if err := f.SetState(f.host[1].Index, attach.Released); err != nil {
				t.Fatal(err)
			}
		}, p: func() pkt { return arp }, want: pass, at1: policy.ReasonPortReleased, far: 1, nothing: true},
	} {
		config(0, quiet)
		config(1, quiet)
		b.hold(known, 100)
		if err := f.SetState(f.host[1].Index, attach.Active); err != nil {
			t.Fatal(err)
		}
		f.fast(t)
		if tt.before != nil {
			tt.before()
		}
		before := [2]map[policy.Reason]uint64{f.counters(t, 0, FromVM), f.counters(t, 1, ToVM)}
		frame, text := f.asking(tt.p())
		f.wires[0].send(frame)
		came := 1
		if tt.nothing {
			came = 0
		}
		if n := f.wires[1].count(text, came); n != came {
			t.Errorf("%s: came %d times, want %d", tt.name, n, came)
		}
		if n := f.far.count(text, tt.far); n != tt.far {
			t.Errorf("%s: left by the uplink %d times, want %d", tt.name, n, tt.far)
		}
		if tt.want == toHolder && !f.bridgeKnows(t, testMAC, f.host[0].Index) {
			t.Errorf("%s: the bridge does not know who asks", tt.name)
		}
		for i, want := range []policy.Reason{tt.want, tt.at1} {
			got := f.counters(t, i, Hook(i))
			for r, n := range before[i] {
				if got[r] -= n; got[r] == 0 {
					delete(got, r)
				}
			}
			if d := cmp.Diff(map[policy.Reason]uint64{want: 1}, got); d != "" {
				t.Errorf("%s, VM %d: counted (-want +got)\n%s", tt.name, i, d)
			}
		}
	}
}

// What is suppressed, or will be, is heard as ever, where it says something of this port's addresses.
func TestSuppressHears(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(quiet)(&c)
	b.port(c)
	b.hold(held{vm4.String(): mineFirm, peer4.String(): theirFirm}, 100)
	heard := b.hears()
	for _, tt := range []struct {
		hook Hook
		p    pkt
		told bool
	}{
		{FromVM, arpBy(1, testMAC, vm4, peer4), false}, {FromVM, arpBy(1, testMAC, other4, peer4), true},
		{ToVM, arpBy(1, thief, other4, peer4).with(from(thief)), false}, {ToVM, arpBy(1, thief, vm4, peer4).with(from(thief)), true},
	} {
		b.run(tt.hook, tt.p.bytes())
		if h := heard.next(t); (h != nil) != tt.told {
			t.Errorf("%x: told %+v", tt.p.bytes(), h)
		}
	}
	for _, a := range b.addresses() {
		if a.Seen.IsZero() != (a.Addr != vm4) {
			t.Errorf("%+v", a)
		}
	}
}

// A question about a request gives it to nobody.
func TestSuppressTrace(t *testing.T) {
	f := newFastLAN(t, Config{})
	c := lanPort(0)
	c.Trunk, c.Security = "net-b", quiet
	if err := f.UpdatePort(f.host[0].Index, c); err != nil {
		t.Fatal(err)
	}
	b := &bench{TB: t, Datapath: f.Datapath}
	b.hold(held{vm4.String(): mine, peer4.String(): {MAC: [6]byte(peerMAC), Firm: true}}, 100)
	frame, text := f.asking(arpBy(1, testMAC, vm4, peer4))
	if e, err := f.Trace(f.host[0].Index, FromVM, frame); err != nil || e.Reason != policy.ReasonToHolder {
		t.Errorf("%+v, %v", e, err)
	}
	if f.wires[1].got(text, 50*time.Millisecond) || f.far.got(text, 0) {
		t.Error("what was asked about was sent")
	}
}
