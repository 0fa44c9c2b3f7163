package datapath

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// farMAC is a host behind the uplink.
var farMAC = net.HardwareAddr{0, 0x50, 0x56, 9, 9, 9}

// toFar and fromFar are of a connection of VM 0 with it.
func toFar() pkt   { p := udp(vm4, open4, 5, 7); p.dst = farMAC; return p }
func fromFar() pkt { p := udp(open4, vm4, 7, 5); p.src, p.dst = farMAC, testMAC; return p }

// saysFar sends a datagram from VM 0, and says how it came to the uplink's other end.
func (f *fastLAN) saysFar(t *testing.T, p pkt) string {
	t.Helper()
	f.said++
	what := fmt.Sprintf("text %d.", f.said)
	f.far.tags()
	f.wires[0].send(text(p, what))
	switch _, tci, tagged, ok := f.far.caught(what); {
	case !ok:
		return ""
	case tagged && tci != uplinkTag:
		t.Errorf("a packet has tag %d", tci)
		fallthrough
	case tagged:
		return "fast"
	}
	return "bridge"
}

// hear has VM 0's port hear the host, and so be answered.
func (f *fastLAN) hear(t *testing.T) {
	t.Helper()
	f.far.send(text(fromFar(), "from afar"))
	if !f.wires[0].got("from afar", 5*time.Second) {
		t.Fatal("a packet from the uplink is lost")
	}
}

// What belongs to an established connection goes past the bridge to whom the port hears by its
// uplink, with the tag that its VLAN has there.
func TestFastPathUplink(t *testing.T) {
	modes(t, func(t *testing.T, m AttachMode) {
		f := newFastLAN(t, Config{Attach: m})
		is := func(when, want string) {
			t.Helper()
			if way := f.saysFar(t, toFar()); way != want {
				t.Errorf("%s: a packet went by %q, want %q", when, way, want)
			}
		}
		is("nobody has answered", "bridge")
		f.hear(t)
		for range 3 {
			is("established", "fast")
			f.nextTick(t)
		}
		if got := f.counters(t, 0, FromVM); got[policy.ReasonEstablished] != 3 || got[policy.ReasonDefaultAllow] != 1 || len(got) != 2 {
			t.Errorf("counted %v", got)
		}
		// It has been silent for long.
		key := portHpFastKey{Bridge: uint32(f.bridge), Vlan: 100, Mac: [6]uint8(farMAC)}
		var far portHpFastFar
		if err := f.maps[portMapFastFar].Lookup(key, &far); err != nil {
			t.Fatal(err)
		}
		far.Heard -= 11
		if err := f.maps[portMapFastFar].Put(key, far); err != nil {
			t.Fatal(err)
		}
		is("silent for long", "bridge")
		f.hear(t)
		is("heard again", "fast")

		// It is heard elsewhere: by an interface at the bridge that is neither a port nor the uplink.
		other, end := newVeth(t, "other", "end")
		near := newWire(t, end)
		join(t, other, f.bridge)
		arp := pkt{src: farMAC, dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, ether: layers.EthernetTypeARP, l4: make([]byte, 46)}
		near.send(arp.bytes())
		for deadline := time.Now().Add(5 * time.Second); f.maps[portMapFastFar].Lookup(key, &far) == nil; {
			if time.Now().After(deadline) {
				t.Fatal("it is still behind the uplink")
			}
		}
		f.wires[0].send(text(toFar(), "to where it is"))
		if !near.got("to where it is", 5*time.Second) {
			t.Error("what is for a host that has moved does not go where it is")
		}
		f.hear(t)
		is("back", "fast")

		// Nobody has listened for a while.
		if _, err := f.SetFastPath(nil); err != nil {
			t.Fatal(err)
		}
		f.lost(t)
		is("where it was heard before", "bridge")
		f.at(t, f.host[0].Index).Since -= 2
		is("and where since", "fast")
		f.fast(t)

		// It is somebody of this node, whoever pretends to be it.
		if _, err := f.SetFastPath(f.both(), FastMAC{Bridge: f.bridge, VLAN: 100, MAC: [6]byte(farMAC)}); err != nil {
			t.Fatal(err)
		}
		f.hear(t)
		is("a station of this node", "bridge")
		// Which the ports are, too.
		f.open(t, ping, pong)
		if _, err := f.SetFastPath(f.both(), FastMAC{Bridge: f.bridge, VLAN: 100, MAC: [6]byte(peerMAC)}); err != nil {
			t.Fatal(err)
		}
		if way := f.says(t, 0, ping); way != "fast" {
			t.Errorf("named twice, a port got a packet by %q", way)
		}
		f.fast(t)
		is("it is none any more", "fast")

		for when, uplink := range map[string]int{"the uplink is not for it": 0, "it was heard by another": other.Index} {
			ports := f.both()
			of := ports[f.host[0].Index]
			of.Uplink = uplink
			ports[f.host[0].Index] = of
			if _, err := f.SetFastPath(ports); err != nil {
				t.Fatal(err)
			}
			f.at(t, f.host[0].Index).Since = 0
			is(when, "bridge")
			f.fast(t)
			is("it is again", "fast")
		}
		c := lanPort(0)
		c.VLANs.PVID = 101
		if err := f.UpdatePort(f.host[0].Index, c); err != nil {
			t.Fatal(err)
		}
		is("another VLAN", "bridge")
		f.hear(t)
		is("established there, whose tag nobody has said", "bridge")
		if err := f.UpdatePort(f.host[0].Index, lanPort(0)); err != nil {
			t.Fatal(err)
		}

		// Without a tag it is told from the bridge's where that has no way.
		ports := f.both()
		of := ports[f.host[0].Index]
		of.Tag = 0
		ports[f.host[0].Index] = of
		if _, err := f.SetFastPath(ports); err != nil {
			t.Fatal(err)
		}
		f.at(t, f.host[0].Index).Since = 0
		if err := netlink.LinkSetNoMaster(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: f.uplink.Index}}); err != nil {
			t.Fatal(err)
		}
		if way := f.saysFar(t, toFar()); way == "" {
			t.Error("a packet without a tag is lost")
		}
	})
}

// A VM's MAC that is heard by the uplink is not looked for there past the bridge, also if its own port
// takes no part.
func TestFastPathUplinkImpostor(t *testing.T) {
	f := newFastLAN(t, Config{})
	f.open(t, ping, pong)
	f.far.send(text(pong, "from an impostor"))
	if !f.wires[0].got("from an impostor", 5*time.Second) {
		t.Fatal("a packet from the uplink is lost")
	}
	if way := f.saysFar(t, ping); way != "bridge" { // where the bridge has it
		t.Errorf("a packet went by %q", way)
	}
	if way := f.says(t, 1, pong); way != "fast" { // who is here after all, which the bridge is told
		t.Errorf("of the VM itself a packet went by %q", way)
	}
	if way := f.says(t, 0, ping); way != "bridge" {
		t.Errorf("a packet went by %q", way)
	}
	ports := f.both()
	delete(ports, f.host[1].Index)
	f.far.send(text(pong, "once more"))
	if _, err := f.SetFastPath(ports); err != nil || !f.wires[0].got("once more", 5*time.Second) {
		t.Fatal("a packet from the uplink is lost", err)
	}
	f.wires[1].send(text(pong, "and from itself"))
	if !f.wires[0].got("and from itself", 5*time.Second) {
		t.Fatal("a packet of the VM is lost")
	}
	if way := f.says(t, 0, ping); way != "bridge" {
		t.Errorf("a packet went by %q, after its VM was heard last", way)
	}
}
