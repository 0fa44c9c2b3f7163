package announce

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

var testMAC = net.HardwareAddr{0x00, 0x50, 0x56, 0xaa, 0x01, 0x02}

func set(tb testing.TB, text string) vlan.Set {
	tb.Helper()
	s, err := vlan.ParseSet(text)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func addrs(texts ...string) (list []netip.Addr) {
	for _, t := range texts {
		list = append(list, netip.MustParseAddr(t))
	}
	return list
}

// tell reads a frame as another implementation does, and says what it is in a line.
func tell(t *testing.T, frame []byte) string {
	t.Helper()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	eth := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	if !bytes.Equal(eth.SrcMAC, testMAC) {
		t.Errorf("sent by %v", eth.SrcMAC)
	}
	where, kind := "untagged", eth.EthernetType
	if q, ok := p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
		where, kind = fmt.Sprint("tag ", q.VLANIdentifier), q.Type
		frame = frame[tagLen:] // what is left when a switch takes the tag off
		if q.Priority != 0 || q.DropEligible {
			t.Errorf("priority %d, drop eligible %v", q.Priority, q.DropEligible)
		}
	}
	if len(frame) < 60 {
		t.Errorf("%d bytes without tag, want 60 at least", len(frame))
	}
	if e := p.ErrorLayer(); e != nil && kind != 0x8035 { // which gopacket does not know
		t.Fatalf("% x: %v", frame, e.Error())
	}
	switch kind {
	case 0x8035, layers.EthernetTypeARP:
		return where + " " + tellARP(t, eth, kind, frame[14:])
	case layers.EthernetTypeIPv6:
		return where + " " + tellNA(t, eth, p)
	}
	return fmt.Sprintf("%s type %04x", where, int(kind))
}

func tellARP(t *testing.T, eth *layers.Ethernet, kind layers.EthernetType, body []byte) string {
	t.Helper()
	var a layers.ARP
	if err := a.DecodeFromBytes(body, gopacket.NilDecodeFeedback); err != nil {
		t.Fatal(err)
	}
	if eth.DstMAC.String() != "ff:ff:ff:ff:ff:ff" || a.AddrType != layers.LinkTypeEthernet || a.Protocol != layers.EthernetTypeIPv4 || !bytes.Equal(a.SourceHwAddress, testMAC) {
		t.Errorf("to %v: %+v", eth.DstMAC, a)
	}
	name := "arp"
	if kind == 0x8035 {
		name = "rarp"
	}
	return fmt.Sprintf("%s op %d from %v to %v %v", name, a.Operation, net.IP(a.SourceProtAddress), net.HardwareAddr(a.DstHwAddress), net.IP(a.DstProtAddress))
}

func tellNA(t *testing.T, eth *layers.Ethernet, p gopacket.Packet) string {
	t.Helper()
	ip := p.Layer(layers.LayerTypeIPv6).(*layers.IPv6)
	na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok {
		t.Fatalf("no advertisement: %v", p)
	}
	if err := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6).SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	if err, wrong := p.VerifyChecksums(); err != nil || len(wrong) > 0 {
		t.Errorf("checksums: %v, %v", err, wrong)
	}
	if eth.DstMAC.String() != "33:33:00:00:00:01" || ip.HopLimit != 255 || !na.TargetAddress.Equal(ip.SrcIP) ||
		!na.Override() || na.Solicited() || na.Router() || len(na.Options) != 1 ||
		na.Options[0].Type != layers.ICMPv6OptTargetAddress || !bytes.Equal(na.Options[0].Data, testMAC) {
		t.Errorf("to %v: %+v, %+v", eth.DstMAC, ip, na)
	}
	return fmt.Sprintf("na from %v to %v", ip.SrcIP, ip.DstIP)
}

func TestFrames(t *testing.T) {
	const rarp = "rarp op 3 from 0.0.0.0 to 00:50:56:aa:01:02 0.0.0.0"
	arp := func(a string) string { return "arp op 1 from " + a + " to 00:00:00:00:00:00 " + a }
	all := Uplink{VLANs: set(t, "1-4094")}
	for name, tt := range map[string]struct {
		station Station
		up      Uplink
		want    []string
	}{
		"access": {Station{VLANs: set(t, "100"), PVID: 100}, all, []string{"tag 100 " + rarp}},
		"access in the uplink's native VLAN": {
			Station{VLANs: set(t, "7"), PVID: 7, Addresses: addrs("192.0.2.7", "fd00::7")},
			Uplink{VLANs: set(t, "7,100"), Untagged: set(t, "7")},
			[]string{"untagged " + rarp, "untagged " + arp("192.0.2.7"), "untagged na from fd00::7 to ff02::1"}},
		"trunk: in each VLAN, and no address in any": {
			Station{VLANs: set(t, "100-101,4094"), Addresses: addrs("192.0.2.7", "fd00::7")}, all,
			[]string{"tag 100 " + rarp, "tag 101 " + rarp, "tag 4094 " + rarp}},
		"native: addresses are in the untagged VLAN alone": {
			Station{VLANs: set(t, "100,200"), PVID: 200, Addresses: addrs("192.0.2.7", "fe80::1%eth0", "::ffff:192.0.2.8")}, all,
			[]string{"tag 100 " + rarp, "tag 200 " + rarp, "tag 200 " + arp("192.0.2.7"), "tag 200 na from fe80::1 to ff02::1", "tag 200 " + arp("192.0.2.8")}},
		"tagged and untagged on the uplink": {
			Station{VLANs: set(t, "100,200,300")}, Uplink{VLANs: set(t, "100,200,300"), Untagged: set(t, "200")},
			[]string{"tag 100 " + rarp, "untagged " + rarp, "tag 300 " + rarp}},
		"nothing in VLANs that the uplink does not carry": {
			Station{VLANs: set(t, "100,200"), PVID: 100, Addresses: addrs("192.0.2.7")}, Uplink{VLANs: set(t, "200,300")},
			[]string{"tag 200 " + rarp}},
		"addresses that are nobody's": {
			Station{VLANs: set(t, "100"), PVID: 100, Addresses: append(addrs("0.0.0.0", "::", "224.0.0.1", "ff02::1", "127.0.0.1", "::1"), netip.Addr{})}, all,
			[]string{"tag 100 " + rarp}},
		"no VLAN": {Station{}, all, nil},
	} {
		t.Run(name, func(t *testing.T) {
			tt.station.MAC = testMAC
			var got []string
			for f := range tt.station.Frames(tt.up) {
				got = append(got, tell(t, f))
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			for range tt.station.Frames(tt.up) {
				break // it may be left early
			}
		})
	}
	if got := slices.Collect((Station{VLANs: set(t, "100")}).Frames(all)); got != nil {
		t.Errorf("a station without a MAC is announced: % x", got)
	}
}

// TestQEMUsFrame: without a tag, the RARP is what QEMU sends, byte for byte
// (net/announce.c, announce_self_create).
func TestQEMUsFrame(t *testing.T) {
	mac := []byte(testMAC)
	want := slices.Concat(bytes.Repeat([]byte{0xff}, 6), mac, []byte{0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3},
		mac, make([]byte, 4), mac, make([]byte, 4), make([]byte, 18))
	for f := range (Station{MAC: testMAC, VLANs: set(t, "1")}).Frames(Uplink{VLANs: set(t, "1"), Untagged: set(t, "1")}) {
		if !bytes.Equal(f, want) {
			t.Errorf("got  % x\nwant % x", f, want)
		}
	}
}

// TestAllVLANs: a port of all VLANs is announced in each, once.
func TestAllVLANs(t *testing.T) {
	var seen vlan.Set
	n := 0
	s := Station{MAC: testMAC, VLANs: set(t, "1-4094")}
	for f := range s.Frames(Uplink{VLANs: s.VLANs}) {
		id := vlan.ID(f[14])<<8 | vlan.ID(f[15])
		if err := seen.Add(id); err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 4094 || seen != s.VLANs {
		t.Errorf("%d frames, VLANs %s", n, seen)
	}
}
