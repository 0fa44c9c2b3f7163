package datapath

import (
	"net"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// unicastScenarios: to whom nothing has come from goes one frame in far less than a second; to others all.
func unicastScenarios() []scenario {
	pass, over := policy.ReasonDefaultAllow, policy.ReasonUnicastLimit
	frame := func(mac ...byte) pkt { return pkt{dst: net.HardwareAddr(mac), ether: 0x1234, l4: make([]byte, 46)} }
	known, other := frame(2, 0, 0, 0, 0, 2), frame(2, 0, 0, 0, 0, 9)
	from := func(p pkt, src, dst net.HardwareAddr) pkt { p.src, p.dst = src, dst; return p }
	one := secured(attach.Security{UnicastLimit: 1})
	tagged := func(p pkt, id uint16) pkt { return p.tagged(tag{ctag, id}) }
	return []scenario{
		{name: "more to who is not known than in a second", port: one, steps: []step{
			out(known, pass), out(known, over), out(other, over), out(udp(vm4, peer4, 5, 53), over),
			// Groups are of other limits.
			out(frame(255, 255, 255, 255, 255, 255), pass), out(frame(3, 0, 0, 0, 0, 2), pass),
			// He speaks, to it or to all.
			in(from(known, peerMAC, testMAC), pass), out(known, pass), out(known, pass), out(udp(vm4, peer4, 5, 53), pass), out(other, over),
			in(from(other, other.dst, everybody), pass), out(other, pass), out(frame(2, 0, 0, 0, 0, 10), over),
			// What does not come to it says nothing.
			in(from(known, net.HardwareAddr{2, 0, 0, 0, 0, 11}, net.HardwareAddr{2, 0, 0, 0, 0, 12}), policy.ReasonNotForPort), out(frame(2, 0, 0, 0, 0, 11), over),
		}},
		{name: "unicast, as another port", port: one, steps: []step{out(known, pass), out(known, over)}},
		{name: "unicast, unlimited", port: secured(attach.Security{}), steps: []step{out(known, pass), out(other, pass), out(other, pass)}},
		{name: "unicast, in VLANs of a trunk", port: func(c *attach.PortConfig) {
			trunkPort(c)
			one(c)
		}, steps: []step{
			out(tagged(known, 10), pass), in(tagged(from(known, peerMAC, testMAC), 10), pass), out(tagged(known, 10), pass), out(tagged(known, 11), over),
		}},
	}
}

// TestUnicastLimit: as much passes as a second has, and then as it fills; who was silent for long is not known any more.
func TestUnicastLimit(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	const rate = 20
	c := accessPort()
	secured(attach.Security{UnicastLimit: rate})(&c)
	b.port(c)
	p := udp(vm4, peer4, 5, 53)
	passes := func(n int) (passed int) {
		for range n {
			switch r := b.reason(FromVM, p.bytes()); r {
			case policy.ReasonDefaultAllow, policy.ReasonEstablished:
				passed++
			case policy.ReasonUnicastLimit:
			default:
				t.Fatal(r)
			}
		}
		return passed
	}
	begun := time.Now()
	n := passes(200)
	if most := rate + int(time.Since(begun).Seconds()*rate*1.1) + 1; n < rate || n > most {
		t.Errorf("%d passed, want %d to %d", n, rate, most)
	}
	b.run(ToVM, udp(peer4, vm4, 53, 5).bytes())
	if n := passes(200); n != 200 {
		t.Errorf("to who is known %d of 200", n)
	}
	var k portHpStationKey
	var heard uint32
	if !b.maps[portMapPeers].Iterate().Next(&k, &heard) || k.Mac != [6]uint8(peerMAC) || k.Vlan != 100 {
		t.Fatalf("%+v", k)
	}
	for ago, all := range map[uint32]bool{265: true, 281: false} {
		now, err := coarseTime()
		if err != nil {
			t.Fatal(err)
		}
		if err := b.maps[portMapPeers].Put(k, uint32(now>>handoverShift)-ago); err != nil {
			t.Fatal(err)
		}
		passes(2 * rate)
		begun := time.Now()
		n := passes(200)
		if most := int(time.Since(begun).Seconds()*rate*1.1) + 1; all && n != 200 || !all && n > most {
			t.Errorf("heard %d of 2^30 ns ago: %d of 200", ago, n)
		}
	}
	// A new limit is in force at once.
	c.Security.UnicastLimit = 0
	if err := b.UpdatePort(loopback, c); err != nil {
		t.Fatal(err)
	}
	if n := passes(200); n != 200 {
		t.Errorf("without a limit %d of 200", n)
	}
}
