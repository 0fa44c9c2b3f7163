package datapath

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

const (
	experimental = layers.EthernetType(0x88b5)
	helloMagic   = "HPrt"
)

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// local is a frame for experiments, a hello if its payload begins like one; hello is that.
func local(payload string) pkt { return pkt{ether: experimental, l4: []byte(payload)} }
func hello(rest string) pkt    { return local(helloMagic + rest) }

// everywhere is the frame to all, from another.
func (p pkt) everywhere() pkt {
	p.src, p.dst = peerMAC, everybody
	return p
}

// helloScenarios: hellos neither leave a port nor enter one; what only looks like them is what it was.
func helloScenarios() []scenario {
	is, spoof, def := policy.ReasonHello, policy.ReasonMACSpoof, policy.ReasonDefaultAllow
	h := hello("who is there?")
	foreign := h.with(func(p *pkt) { p.src, p.dst = peerMAC, everybody })
	elsewhere := h.with(func(p *pkt) { p.src, p.dst = peerMAC, net.HardwareAddr{2, 0, 0, 0, 0, 9} })
	var unlike []step
	for n := range helloMagic {
		unlike = append(unlike, both(local(helloMagic[:n]), def)...) // ends before
		other := []byte(helloMagic + "...")
		for bit := range 8 {
			other[n] ^= 1 << bit
			unlike = append(unlike, both(local(string(other)), def)...)
			other[n] ^= 1 << bit
		}
	}
	for _, p := range []pkt{
		local("." + helloMagic), local("....." + helloMagic), hello("").with(func(p *pkt) { p.ether = 0x88b6 }),
		hello("").with(func(p *pkt) { p.ether = 0xb588 }), local("HPRT"), local("trPH"),
	} {
		unlike = append(unlike, both(p, def)...)
	}
	tagged := func(vid uint16) pkt { return h.tagged(tag{ctag, vid}) }
	return []scenario{
		{name: "hellos", steps: append(both(h, is), out(h.with(func(p *pkt) { p.dst = everybody }), is), in(h.everywhere(), is),
			out(hello(""), is), in(hello("").everywhere(), is), out(foreign, spoof), in(elsewhere, policy.ReasonNotForPort))},
		{name: "hellos where all may pass", port: netB, steps: append(both(h, is), in(h.everywhere(), is))},
		{name: "no hellos", port: netB, steps: unlike},
		{name: "hellos without a policy", port: func(c *attach.PortConfig) { c.Policy = "net-c" }, steps: both(h, is)},
		{name: "hellos on a trunk port", port: func(c *attach.PortConfig) { trunkPort(c); netB(c) }, steps: []step{
			out(tagged(10), is), in(tagged(11), is), in(tagged(10).everywhere(), is), in(tagged(0xa000|10).everywhere(), is),
			out(hello("").tagged(tag{ctag, 10}), is), out(foreign.tagged(tag{ctag, 10}), spoof),
			out(local("HPr").tagged(tag{ctag, 10}), def), in(local("HPrT").tagged(tag{ctag, 10}), def),
			out(h, policy.ReasonUntagged), in(tagged(12), policy.ReasonVLANNotAllowed), out(h.tagged(tag{ctag, 10}, tag{ctag, 11}), policy.ReasonGuestTag)}},
		{name: "hellos on a native port", port: nativePort, steps: append(both(h, is), both(tagged(10), is)...)},
		{name: "tagged hellos on an access port", steps: both(tagged(100), policy.ReasonGuestTag)},
		{name: "hellos at a quarantined port", state: attach.Quarantined, steps: both(h, policy.ReasonPortQuarantined)},
		{name: "hellos at a released port", state: attach.Released, steps: append(both(h, is), both(local("HPr"), policy.ReasonPortReleased)...)},
		{name: "hellos at a port of a state to come", state: 77, steps: both(h, policy.ReasonPortDark)},
	}
}

// No Ethernet rule has a say about hellos, nor counts or logs them. What a guest sends is told, once somebody
// wants to know; what comes in is not: it comes to all ports, again and again.
func TestHelloEvents(t *testing.T) {
	b := newBench(t, Config{})
	logged := func(r policy.Rule) policy.Rule { r.Log = true; return r }
	watched := logged(frame(t, 1, policy.Drop))
	watched.Monitored = true
	set := policy.Set{Network: "net-a", Default: policy.Allow, Rules: []policy.Rule{watched, logged(frame(t, 2, policy.Allow)), frame(t, 3, policy.Drop)}}
	counters := b.sync(set)
	names := map[uint32]string{counters[policy.DefaultKey("net-a")]: "default", counters[key(1)]: "1", counters[key(2)]: "2", counters[key(3)]: "3"}
	c := accessPort()
	nativePort(&c)
	c.Policy = "net-a"
	b.port(c)
	w := b.watch(false)
	h, v := hello("who is there?"), hello("who is there?").tagged(tag{ctag, 10})
	for n, tt := range []struct {
		step
		all string // while somebody watches; else nothing
	}{
		{out(h, policy.ReasonHello), "Out Hello by nobody: 020000000001 > 020000000002 88b5"},
		{out(v, policy.ReasonHello), "Out Hello by nobody: 020000000001 > 020000000002 88b5 vlan 10"},
		{in(h, policy.ReasonHello), ""},
		{in(h.everywhere(), policy.ReasonHello), ""},
		{in(v.everywhere(), policy.ReasonHello), ""},
	} {
		for _, all := range []bool{false, true} {
			if err := b.Watch(all); err != nil {
				t.Fatal(err)
			}
			want := ""
			if all {
				want = tt.all
			}
			b.expect(fmt.Sprintf("frame %d", n), tt.step)
			if got := brief(w.next(), names); got != want {
				t.Errorf("frame %d, watched %v: told %q, want %q", n, all, got, want)
			}
			if e := w.next(); e != nil {
				t.Errorf("frame %d, watched %v: then %q", n, all, brief(e, names))
			}
		}
		if e, err := b.traced(tt.hook, tt.frame); err != nil || e.Reason != policy.ReasonHello || e.Rule != NoRule || e.Monitored != NoRule {
			t.Errorf("frame %d: a dry run says %+v, %v", n, e, err)
		}
	}
	hits, err := b.RuleCounters([]uint32{counters[key(1)], counters[key(2)], counters[key(3)]})
	if err != nil {
		t.Fatal(err)
	}
	for c, n := range hits {
		if n.Packets != 0 {
			t.Errorf("rule %s was asked about %d hellos", names[c], n.Packets)
		}
	}
	b.expect("what is none", out(local("hello"), policy.ReasonRuleAllow), in(local("hello").everywhere(), policy.ReasonRuleAllow))
}

// Between a VM and a bridge: a frame of which the headers alone are linear, as a guest's driver may well have
// it, is looked into as well, with a tag and without.
func TestHelloBehindLinearPart(t *testing.T) {
	const large, headers = 6000, 14 // the kernel keeps what fits a page in one piece
	for name, port := range map[string]struct {
		change func(*attach.PortConfig)
		tags   []tag
	}{"access": {change: netB}, "trunk": {func(c *attach.PortConfig) { trunkPort(c); netB(c) }, []tag{{ctag, 10}}}} {
		t.Run(name, func(t *testing.T) {
			l := newLAN(t, Config{})
			for _, name := range []string{"h0", "v0", "h1", "v1", "br"} {
				link, err := netlink.LinkByName(name)
				if err == nil {
					err = netlink.LinkSetMTU(link, 9000)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			loadSets(t, l.Datapath)
			c := accessPort()
			port.change(&c)
			if err := l.AttachPort(l.host[0], c); err != nil {
				t.Fatal(err)
			}
			if err := l.SetState(l.host[0].Index, attach.Active); err != nil {
				t.Fatal(err)
			}
			for i, w := range l.wires { // VM 0 has a port, and the other is what else there is at the bridge
				for _, start := range []string{helloMagic, "Hprt"} {
					p := local(start + fmt.Sprintf(" from %d", i)).with(func(p *pkt) { p.src, p.dst, p.tags = testMAC, everybody, port.tags })
					if i == 1 {
						p.src = peerMAC
					}
					p.l4 = append(p.l4, make([]byte, large)...)
					w.send(p.bytes())
					w.sendLinear(p.bytes(), headers)
				}
				what := fmt.Sprintf(" from %d", i)
				if n := l.wires[1-i].count("Hprt"+what, 2); n != 2 {
					t.Errorf("%d frames that are no hellos came from %d, want 2", n, i)
				}
			}
			for i, h := range []Hook{FromVM, ToVM} {
				got := l.counters(t, 0, h)
				if got[policy.ReasonHello] != 2 || got[policy.ReasonDefaultAllow] != 2 {
					t.Errorf("%s, from %d: %v, want 2 hellos and 2 others", h, i, got)
				}
			}
		})
	}
}

// sendLinear sends a frame of more than a page of which so many bytes are linear.
func (w *wire) sendLinear(frame []byte, linear int) {
	w.Helper()
	if err := unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		w.Fatal(err)
	}
	defer func() { _ = unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 0) }()
	head := make([]byte, 10) // struct virtio_net_hdr
	binary.NativeEndian.PutUint16(head[2:], uint16(linear))
	w.send(append(head, frame...))
}

// A hello that comes by the uplink enters no VM, neither by the bridge nor, if it names the VM, past it; and
// packets go past the bridge as before.
func TestHelloInbound(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, of vlan.ID) {
		l := newInboundLAN(t, cfg, of)
		comes := func(when string) {
			t.Helper()
			l.known(t, farMAC)
			if way := l.comes(t, 0, fromFar()); way != "fast" {
				t.Errorf("%s: a packet came by %q", when, way)
			}
		}
		comes("before")
		byBridge := l.sentTo(t, 0)
		send := func(p pkt) {
			t.Helper()
			p.src = farMAC
			if l.tag != 0 {
				p = p.tagged(tag{ctag, uint16(l.tag)})
			}
			l.known(t, farMAC)
			l.far.send(p.bytes())
		}
		send(hello(" to it").with(func(p *pkt) { p.dst = testMAC }))
		send(local("no hello to it").with(func(p *pkt) { p.dst = testMAC }))
		if l.wires[0].count(" to it", 1) != 1 {
			t.Error("the VM got a hello, or not what is none")
		}
		if n := l.counters(t, 0, ToVM)[policy.ReasonHello]; n != 1 || l.sentTo(t, 0) != byBridge {
			t.Errorf("%d hellos were dropped, want 1, and %d frames came by the bridge", n, l.sentTo(t, 0)-byBridge)
		}
		comes("after a hello to the VM")
		if l.tag != 0 {
			return // the bridge of these tests leaves tags as they are
		}
		send(hello(" to all").with(func(p *pkt) { p.dst = everybody }))
		send(local("no hello to all").with(func(p *pkt) { p.dst = everybody }))
		for i, w := range l.wires {
			if w.count(" to all", 1) != 1 {
				t.Errorf("VM %d got a hello, or not what is none", i)
			}
			if n, want := l.counters(t, i, ToVM)[policy.ReasonHello], uint64(2-i); n != want {
				t.Errorf("at VM %d %d hellos were dropped, want %d", i, n, want)
			}
		}
		comes("after one to all")
	})
}
