package datapath

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// inboundLAN is a fastLAN with both ports also in the fast path from the uplink, where their
// VLAN, 100, has a tag or is the native one, and whose host farMAC was heard there.
type inboundLAN struct {
	*fastLAN
	tag vlan.ID // 0: native
}

func newInboundLAN(t *testing.T, cfg Config, tag vlan.ID) *inboundLAN {
	t.Helper()
	l := &inboundLAN{newFastLAN(t, cfg), tag}
	l.inbound(t)
	l.known(t, farMAC)
	return l
}

// both are both ports with what they have in common.
func (l *inboundLAN) both() map[int]FastPort {
	of := FastPort{Bridge: l.bridge, MTU: 1500, Uplink: l.uplink.Index, Tag: l.tag, Inbound: true}
	return map[int]FastPort{l.host[0].Index: of, l.host[1].Index: of}
}

// inbound has both ports take part, where they are.
func (l *inboundLAN) inbound(t *testing.T) { t.Helper(); l.give(t, l.both()) }

func (l *inboundLAN) give(t *testing.T, ports map[int]FastPort) {
	t.Helper()
	var uplinks []int
	for _, of := range ports {
		if of.Inbound {
			uplinks = append(uplinks, of.Uplink)
		}
	}
	if failed, err := l.AttachInbound(uplinks...); err != nil || len(failed) > 0 {
		t.Fatal(failed, err)
	}
	if _, err := l.SetFastPath(ports); err != nil {
		t.Fatal(err)
	}
	for ifindex, of := range ports {
		if found, err := l.FoundFast(ifindex, of); err != nil || !found {
			t.Fatalf("found %v: %v", found, err)
		}
		l.at(t, ifindex).Reminded, l.at(t, ifindex).Since = l.now(t), 0
	}
}

// now is the programs' time.
func (l *inboundLAN) now(t *testing.T) uint32 {
	t.Helper()
	now, err := coarseTime()
	if err != nil {
		t.Fatal(err)
	}
	return uint32(now >> handoverShift)
}

// known has the programs know a host behind the uplink. The bridge of these tests forwards no tagged frame to a
// port, so a host whose frames have tags cannot be heard like others.
func (l *inboundLAN) known(t *testing.T, mac net.HardwareAddr) {
	t.Helper()
	far := portHpFastFar{Uplink: uint32(l.uplink.Index), Heard: l.now(t)}
	if err := l.maps[portMapFastFar].Put(l.farKey(mac), far); err != nil {
		t.Fatal(err)
	}
}

func (l *inboundLAN) farKey(mac net.HardwareAddr) portHpFastKey {
	return portHpFastKey{Bridge: uint32(l.bridge), Vlan: 100, Mac: [6]uint8(mac)}
}

const priority = 0xb000 // some, and DEI

// wire is a datagram as it is at the uplink.
func (l *inboundLAN) wire(p pkt, what string) []byte {
	if l.tag != 0 {
		p = p.tagged(tag{ctag, uint16(l.tag) | priority})
	}
	return text(p, what)
}

// comes sends a datagram from the uplink, and says how it came to VM i: "bridge", "fast", or "" if it did not.
func (l *inboundLAN) comes(t *testing.T, i int, p pkt) string {
	t.Helper()
	return l.comesIn(t, i, p, 5*time.Second)
}

// noTime is for what is not there: long enough for what is.
const noTime = 100 * time.Millisecond

func (l *inboundLAN) comesIn(t *testing.T, i int, p pkt, wait time.Duration) string {
	t.Helper()
	l.said++
	what := fmt.Sprintf("text %d.", l.said)
	before := l.sentTo(t, i)
	l.far.send(l.wire(p, what))
	if !l.wires[i].got(what, wait) {
		return ""
	}
	if l.sentTo(t, i) > before {
		return "bridge"
	}
	return "fast"
}

// inbounds are the tests' two uplinks: with a tag, and without.
func inbounds(t *testing.T, test func(t *testing.T, cfg Config, tag vlan.ID)) {
	for name, tag := range map[string]vlan.ID{"tagged": 100, "native": 0} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, m AttachMode) { test(t, Config{Attach: m}, tag) })
		})
	}
}

// What comes by the uplink for a VM goes past the bridge, without its tag, and is judged and counted
// at the port as ever.
func TestInbound(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, tag vlan.ID) {
		l := newInboundLAN(t, cfg, tag)
		before := l.counters(t, 0, ToVM)
		for n, p := range []pkt{
			fromFar(), fromFar(), fromFar().with(func(p *pkt) { p.more = true }),
			func() pkt { p := udp(open4, vm4, 8, 8); p.src, p.dst = farMAC, testMAC; return p }(),
		} {
			l.known(t, farMAC)
			if way := l.comes(t, 0, p); way != "fast" {
				t.Errorf("packet %d came by %q", n, way)
			}
			l.nextTick(t)
		}
		after := l.counters(t, 0, ToVM)
		for r, n := range map[policy.Reason]uint64{policy.ReasonDefaultAllow: 2, policy.ReasonEstablished: 2} {
			if got := after[r] - before[r]; got != n {
				t.Errorf("%v: counted %d, want %d (%v)", r, got, n, after)
			}
		}
		// As one for its receiver, and without a tag.
		l.wires[0].tags()
		l.known(t, farMAC)
		l.far.send(l.wire(fromFar(), "for whom"))
		if kind, tci, tagged, ok := l.wires[0].caught("for whom"); kind != unix.PACKET_HOST || tagged || !ok {
			t.Errorf("a packet comes: %v; as of kind %d, with tag %d, %v", ok, kind, tci, tagged)
		}
		// And what the VM answers.
		l.far.tags()
		l.known(t, farMAC)
		l.wires[0].send(text(toFar(), "the first, which makes it a connection"))
		l.wires[0].send(text(toFar(), "answer"))
		if _, tci, tagged, ok := l.far.caught("answer"); tci != uint16(tag) || tagged != (tag != 0) || !ok {
			t.Errorf("the answer comes: %v; with tag %d, %v, want %d", ok, tci, tagged, tag)
		}
	})
}

// Each thing that has packets from the uplink go by the bridge.
func TestInboundByBridge(t *testing.T) {
	for name, tag := range map[string]vlan.ID{"tagged": 100, "native": 0} {
		t.Run(name, func(t *testing.T) {
			l := newInboundLAN(t, Config{}, tag)
			for _, s := range byBridgeCases() { // no subtests, which are in other network namespaces
				if err := errors.Join(l.UpdatePort(l.host[0].Index, lanPort(0)), l.maps[portMapInboundJump].Put(uint32(0), l.into)); err != nil {
					t.Fatal(err)
				}
				l.inbound(t)
				l.known(t, farMAC)
				p := fromFar()
				if way := l.comes(t, 0, p); way != "fast" {
					t.Errorf("before, %s: a packet came by %q", s.name, way)
				}
				if s.do != nil {
					s.do(t, l)
				}
				if len(s.p.src) > 0 {
					p = s.p
				}
				want, wait := "bridge", 5*time.Second
				// Tags it does not take off in these tests, and takes nothing of nobody.
				if l.tag != 0 || p.src[0]&1 == 1 || p.src[5] == 0 {
					want, wait = "", noTime
				}
				if way := l.comesIn(t, 0, p, wait); way != want {
					t.Errorf("%s: a packet came by %q, want %q", s.name, way, want)
				}
			}
		})
	}
}

type byBridgeCase struct {
	name string
	do   func(t *testing.T, l *inboundLAN)
	p    pkt
}

func byBridgeCases() []byBridgeCase {
	return []byBridgeCase{
		{name: "the sender is new", do: func(t *testing.T, l *inboundLAN) {
			if err := l.maps[portMapFastFar].Delete(l.farKey(farMAC)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the sender was heard by another uplink", do: func(t *testing.T, l *inboundLAN) {
			l.changeFar(t, func(far *portHpFastFar) { far.Uplink++ })
		}},
		{name: "the sender is a VM of this node", p: func() pkt { p := fromFar(); p.src = peerMAC; return p }()},
		{name: "the sender is a group", p: func() pkt { p := fromFar(); p.src = net.HardwareAddr{1, 2, 3, 4, 5, 6}; return p }()},
		{name: "the sender is nobody", p: func() pkt { p := fromFar(); p.src = make(net.HardwareAddr, 6); return p }()},
		{name: "the receiver is lost", do: func(t *testing.T, l *inboundLAN) {
			if err := l.LoseFast(l.host[0].Index, l.both()[l.host[0].Index]); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "the receiver takes no part", do: func(t *testing.T, l *inboundLAN) {
			ports := l.both()
			delete(ports, l.host[0].Index)
			l.give(t, ports)
		}},
		{name: "nor does the receiver from the uplink", do: func(t *testing.T, l *inboundLAN) {
			ports := l.both()
			for i, of := range ports {
				of.Inbound = false
				ports[i] = of
			}
			l.give(t, ports)
			if err := l.verifyHook(l.uplink.Index, inbound); !errors.Is(err, ErrNotAttached) {
				t.Errorf("at an uplink that nobody wants there is %v", err)
			}
		}},
		{name: "the receiver has another uplink", do: func(t *testing.T, l *inboundLAN) {
			l.at(t, l.host[0].Index).Uplink.Ifindex++
		}},
		{name: "nor does the receiver, where others do", do: func(t *testing.T, l *inboundLAN) {
			ports := l.both()
			of := ports[l.host[0].Index]
			of.Inbound = false
			ports[l.host[0].Index] = of
			l.give(t, ports)
			if err := l.verifyHook(l.uplink.Index, inbound); err != nil {
				t.Error(err)
			}
		}},
		{name: "what is written is of an earlier version", do: func(t *testing.T, l *inboundLAN) {
			l.at(t, l.host[0].Index).Uplink.Tag &= 4095
		}},
		{name: "the receiver's VLAN has another tag there", do: func(t *testing.T, l *inboundLAN) {
			l.at(t, l.host[0].Index).Uplink.Tag++
		}},
		{name: "what is written is of another VLAN", do: func(t *testing.T, l *inboundLAN) {
			l.at(t, l.host[0].Index).Uplink.Vlan++
		}},
		{name: "the receiver's port has other VLANs", do: func(t *testing.T, l *inboundLAN) {
			rec, err := l.record(l.host[0].Index)
			if err != nil {
				t.Fatal(err)
			}
			rec.Pvid++
			if err := l.ports.put(l.host[0].Index, rec); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "there is nowhere to jump", do: func(t *testing.T, l *inboundLAN) {
			if err := l.maps[portMapInboundJump].Delete(uint32(0)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "no VLAN is looked after", do: func(t *testing.T, l *inboundLAN) {
			up := portHpUplink{Bridge: uint32(l.bridge), Native: 100}
			if err := l.maps[portMapFastUplinks].Put(uint32(l.uplink.Index), up); err != nil {
				t.Fatal(err)
			}
		}},
	}
}

func (l *inboundLAN) changeFar(t *testing.T, change func(*portHpFastFar)) {
	t.Helper()
	var far portHpFastFar
	m, key := l.maps[portMapFastFar], l.farKey(farMAC)
	if err := m.Lookup(key, &far); err != nil {
		t.Fatal(err)
	}
	change(&far)
	if err := m.Put(key, far); err != nil {
		t.Fatal(err)
	}
}

// What the fast path does not take the bridge gets as it was at the uplink, tag and priority with it.
func TestInboundTagStays(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, tag vlan.ID) {
		for name, do := range map[string]func(l *inboundLAN) error{
			"the port is not as it was": func(l *inboundLAN) error { return l.SetState(l.host[0].Index, attach.Quarantined) },
			"nowhere to jump":           func(l *inboundLAN) error { return l.maps[portMapInboundJump].Delete(uint32(0)) },
			"no port any more":          func(l *inboundLAN) error { l.forget(t); return nil },
		} {
			t.Run(name, func(t *testing.T) {
				l := newInboundLAN(t, cfg, tag)
				// The bridge last heard the VM at another interface, where one can look.
				other, end := newVeth(t, "other", "end")
				near := newWire(t, end)
				join(t, other, l.bridge)
				p := fromFar()
				p.src, p.dst = testMAC, net.HardwareAddr{2, 2, 2, 2, 2, 2}
				near.send(text(p, "I am here"))
				if !l.far.got("I am here", 5*time.Second) {
					t.Fatal("a flooded packet is lost")
				}
				l.inbound(t) // as if that had not been heard
				l.known(t, farMAC)
				if way := l.comes(t, 0, fromFar()); way != "fast" {
					t.Fatalf("before, a packet came by %q", way)
				}
				if err := do(l); err != nil {
					t.Fatal(err)
				}
				l.known(t, farMAC)
				near.tags()
				l.far.send(l.wire(fromFar(), "as it was"))
				want := uint16(tag)
				if tag != 0 {
					want |= priority
				}
				if _, tci, tagged, ok := near.caught("as it was"); tci != want || tagged != (tag != 0) || !ok {
					t.Errorf("the bridge has it: %v; with tag %#x, want %#x", ok, tci, want)
				}
			})
		}
	})
}

// forget forgets the record of VM 0's port, and leaves all else.
func (l *inboundLAN) forget(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports.remove(l.host[0].Index)
}

// A packet that is too long for the port is not for it past the bridge either.
func TestInboundMTU(t *testing.T) {
	l := newInboundLAN(t, Config{}, 100)
	for _, name := range []string{"up", "switch"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMTU(link, 9000); err != nil {
			t.Fatal(err)
		}
	}
	send := func(size int) string {
		l.known(t, farMAC)
		p := fromFar()
		p.l4 = append(p.l4[:8:8], make([]byte, size-28)...)
		binary.BigEndian.PutUint16(p.l4[4:], uint16(size-20))
		l.far.send(p.tagged(tag{ctag, 100}).bytes())
		wait := noTime
		if size <= 1500 {
			wait = 5 * time.Second
		}
		end := time.Now().Add(wait)
		buf := make([]byte, 9000)
		for time.Now().Before(end) {
			if n, err := unix.Read(l.wires[0].fd, buf); err == nil && n == size+14 {
				return "fast"
			}
		}
		return ""
	}
	for size, want := range map[int]string{1500: "fast", 1501: ""} {
		if way := send(size); way != want {
			t.Errorf("a packet of %d bytes came by %q, want %q", size, way, want)
		}
	}
}

// Two networks whose frames have no tag at an uplink cannot be told there.
func TestInboundNatives(t *testing.T) {
	l := newInboundLAN(t, Config{}, 0)
	c := lanPort(1)
	c.VLANs.PVID = 101
	if err := l.UpdatePort(l.host[1].Index, c); err != nil {
		t.Fatal(err)
	}
	l.inbound(t)
	for i, mac := range []net.HardwareAddr{testMAC, peerMAC} {
		l.known(t, farMAC)
		p := fromFar()
		p.dst = mac
		if way := l.comes(t, i, p); way != "bridge" {
			t.Errorf("a packet of either network came by %q", way)
		}
	}
	ports := l.both()
	delete(ports, l.host[1].Index)
	l.give(t, ports)
	l.known(t, farMAC)
	if way := l.comes(t, 0, fromFar()); way != "fast" {
		t.Errorf("a packet of the one that is left came by %q", way)
	}
	// Where it has no tag, what has one is for the bridge, which does not take it off here.
	for _, tags := range [][]tag{{{ctag, 100}}, {{ctag, priority}}, {{stag, priority}}} {
		l.known(t, farMAC)
		l.far.send(text(fromFar().tagged(tags...), "with a tag"))
		if l.wires[0].got("with a tag", noTime) {
			t.Errorf("a packet with tag %v came", tags)
		}
	}
}

// What the kernel has not cut into segments yet is as long as these.
func TestInboundGSO(t *testing.T) {
	l := newInboundLAN(t, Config{}, 0)
	// struct __sk_buff up to gso_size.
	type context struct {
		_       [10]uint32
		Ifindex uint32
		_       [30]uint32
		GsoSegs uint32
		_       [2]uint32
		GsoSize uint32
		_       [3]uint32
	}
	p := tcp(open4, vm4, 443, 1000, "S")
	p.src, p.dst = farMAC, testMAC
	p.l4 = append(p.l4, make([]byte, 3000)...)
	for segments, want := range map[uint32]uint32{0: uint32(unspec), 3: redirect} {
		l.known(t, farMAC)
		ret, err := l.progs[inbound].Run(&ebpf.RunOptions{Data: p.bytes(), Context: context{Ifindex: uint32(l.uplink.Index), GsoSegs: segments, GsoSize: 1000 * min(segments, 1)}})
		if err != nil {
			t.Fatal(err)
		}
		if ret != want {
			t.Errorf("of %d segments: %d, want %d", segments, int32(ret), int32(want))
		}
	}
}

// TC_ACT_* of linux/pkt_cls.h.
const (
	unspec   = ^uint32(0)
	redirect = uint32(7)
)

// The policy of the port holds, and its refusals find the way back.
func TestInboundPolicy(t *testing.T) {
	inbounds(t, func(t *testing.T, cfg Config, tag vlan.ID) {
		l := newInboundLAN(t, cfg, tag)
		b := &bench{TB: t, Datapath: l.Datapath}
		sets := testSets(t)
		for _, act := range []policy.Action{policy.Drop, policy.Reject} {
			for i := range sets {
				if sets[i].Network == "net-b" {
					sets[i].Rules = []policy.Rule{{Key: key(9), Action: act, Directions: policy.OnlyIn, Services: service(t, "udp/5"), Log: true}}
				}
			}
			b.sync(sets...)
			l.known(t, farMAC)
			before := l.counters(t, 0, ToVM)[policy.ReasonRuleDrop]
			if way := l.comesIn(t, 0, fromFar(), noTime); way != "" {
				t.Errorf("%v: a packet came by %q", act, way)
			}
			if got := l.counters(t, 0, ToVM)[policy.ReasonRuleDrop] - before; got != 1 {
				t.Errorf("%v: %d drops counted", act, got)
			}
			wait := map[policy.Action]time.Duration{policy.Drop: noTime, policy.Reject: 5 * time.Second}[act]
			if answered := l.far.got("\x03\x0d", wait); answered != (act == policy.Reject) {
				t.Errorf("%v: the sender is told: %v", act, answered)
			}
		}
	})
}
