package datapath

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// thief is another station's MAC, and link6 an address that the VM may have given itself.
var (
	thief   = net.HardwareAddr{2, 0, 0, 0, 0, 7}
	link6   = netip.MustParseAddr("fe80::5")
	groupND = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	allMAC  = net.HardwareAddr{255, 255, 255, 255, 255, 255}
)

// arpBy is of the VM at FromVM, and else of whom with says.
func arpBy(operation uint16, sha net.HardwareAddr, spa netip.Addr, tpa netip.Addr) pkt {
	b := binary.BigEndian.AppendUint16([]byte{0, 1, 8, 0, 6, 4}, operation)
	b = append(append(b, sha...), spa.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), tpa.AsSlice()...)
	return pkt{src: testMAC, dst: allMAC, ether: layers.EthernetTypeARP, l4: b}
}

func from(mac net.HardwareAddr) func(*pkt) { return func(p *pkt) { p.src, p.dst = mac, allMAC } }

// nd is a message of neighbour discovery about target, with options behind it.
func nd(typ uint8, source, target netip.Addr, options ...byte) pkt {
	body := make([]byte, 4)
	if typ != 133 {
		body = append(body, target.AsSlice()...)
	}
	return icmp(source, peer6, typ, 0, append(body, options...)...).with(func(p *pkt) { p.src, p.dst, p.hops = testMAC, groupND, 255 })
}

// linkLayer is an option of neighbour discovery.
func linkLayer(typ byte, mac net.HardwareAddr) []byte { return append([]byte{typ, 1}, mac...) }

// dhcp is of a client, or to it, with so many bytes of payload. To one, it is the VM.
func dhcp(from, to netip.Addr, sport, dport uint16, size int) pkt {
	u := layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport), Length: uint16(8 + size)}
	p := udp(from, to, sport, dport)
	p.l4 = append(serialize(&u), bytes.Repeat([]byte{0xd5}, size)...)
	if dport == 68 {
		copy(p.l4[8+28:], testMAC)
	}
	return p
}

// client has DHCPv4 be about the station with this MAC.
func client(mac net.HardwareAddr) func(*pkt) {
	return func(p *pkt) { p.l4 = slices.Clone(p.l4); copy(p.l4[8+28:], mac) }
}

// heardBench has an access port of net-b.
func heardBench(t *testing.T) (*bench, attach.PortConfig) {
	t.Helper()
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	netB(&c)
	b.port(c)
	return b, c
}

// hears opens the reader of what the programs tell.
func (b *bench) hears() *HeardReader {
	b.Helper()
	r, err := b.Heard()
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = r.Close() })
	return r
}

// next is the next frame; nil: there is none.
func (r *HeardReader) next(tb testing.TB) *Heard {
	tb.Helper()
	r.reader.SetDeadline(time.Unix(1, 0)) // what is there is read nevertheless
	h, err := r.Read()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		tb.Fatal(err)
	}
	return &h
}

// quiet gives the port and the node their whole quotas back.
func (b *bench) quiet() {
	b.Helper()
	rec, err := b.record(loopback)
	if err != nil {
		b.Fatal(err)
	}
	for _, of := range []uint32{rec.Slot, PortsMax} {
		if err := b.maps[portMapHeardQuotas].Put(of, portHpQuota{}); err != nil {
			b.Fatal(err)
		}
	}
}

// held are addresses of the trunk net-b, on which ports of the network of that name are.
type held map[string]AddressHolder

var (
	mine      = AddressHolder{MAC: [6]byte(testMAC)}
	mineFirm  = AddressHolder{MAC: [6]byte(testMAC), Firm: true}
	mineWaits = AddressHolder{MAC: [6]byte(testMAC), Waits: true}
	theirs    = AddressHolder{MAC: [6]byte(thief)}
	theirWait = AddressHolder{MAC: [6]byte(thief), Waits: true}
	shared    = AddressHolder{MAC: [6]byte(thief), Shared: true}
	mineShare = AddressHolder{MAC: [6]byte(testMAC), Shared: true}
	nobodys   = AddressHolder{Nobodys: true}
)

// hold makes these all that the programs know.
func (b *bench) hold(h held, id vlan.ID) {
	b.Helper()
	if left, err := b.Addresses(); err != nil || len(left) > 0 { // which forgets all
		b.Fatal(left, err)
	}
	for addr, of := range h {
		if err := b.PutAddress(AddressKey{"net-b", id, netip.MustParseAddr(addr)}, of); err != nil {
			b.Fatal(err)
		}
	}
	b.vouch(time.Hour)
}

func (b *bench) vouch(period time.Duration) {
	b.Helper()
	if err := b.Vouch(period); err != nil {
		b.Fatal(err)
	}
}

// What is told, and of what it is only noted when it was said.
func TestHeard(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	heard := b.hears()
	v4, v6, ll := vm4.String(), vm6.String(), link6.String()
	zero4, all4, group6 := netip.IPv4Unspecified(), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("ff02::1:2")
	theirARP := arpBy(2, thief, vm4, peer4).with(from(thief))
	theirNA := nd(136, peer6, vm6, linkLayer(2, thief)...).with(from(thief))
	short := func(n int) func(*pkt) { return func(p *pkt) { p.l4 = p.l4[:n] } }
	odd := func(at int, v byte) func(*pkt) { return func(p *pkt) { p.l4 = slices.Clone(p.l4); p.l4[at] = v } }
	ext := func(p *pkt) {
		p.ext = []extension{pad(layers.IPProtocolIPv6HopByHop), pad(layers.IPProtocolIPv6Destination)}
	}
	const none, seen, told = "", "seen", "told"
	for _, tt := range []struct {
		name  string
		hold  held
		hook  Hook
		frame pkt
		want  string
	}{
		{"ARP request", nil, FromVM, arpBy(1, testMAC, vm4, peer4), told},
		{"ARP reply", nil, FromVM, arpBy(2, testMAC, vm4, peer4), told},
		{"ARP announcement", nil, FromVM, arpBy(1, testMAC, vm4, vm4), told},
		{"ARP probe", nil, FromVM, arpBy(1, testMAC, zero4, vm4), none},
		{"ARP cut short", nil, FromVM, arpBy(1, testMAC, vm4, peer4).with(short(27)), none},
		{"ARP of another hardware", nil, FromVM, arpBy(1, testMAC, vm4, peer4).with(odd(1, 6)), none},
		{"ARP for another protocol", nil, FromVM, arpBy(1, testMAC, vm4, peer4).with(odd(2, 9)), none},
		{"ARP of longer addresses", nil, FromVM, arpBy(1, testMAC, vm4, peer4).with(odd(4, 8)), none},
		{"ARP of what it holds", held{v4: mine}, FromVM, arpBy(1, testMAC, vm4, peer4), seen},
		{"ARP of what it holds firmly", held{v4: mineFirm}, FromVM, arpBy(1, testMAC, vm4, peer4), seen},
		{"ARP of what it waits for", held{v4: mineWaits}, FromVM, arpBy(1, testMAC, vm4, peer4), seen},
		{"ARP of what is shared", held{v4: mineShare}, FromVM, arpBy(1, testMAC, vm4, peer4), told},
		{"ARP of another's", held{v4: theirs}, FromVM, arpBy(1, testMAC, vm4, peer4), told},
		{"ARP of nobody's", held{v4: nobodys}, FromVM, arpBy(1, testMAC, vm4, peer4), told},
		{"ARP of another address", held{v4: mine}, FromVM, arpBy(1, testMAC, other4, peer4), told},

		{"solicitation", nil, FromVM, nd(135, vm6, peer6), told},
		{"solicitation behind headers", nil, FromVM, nd(135, vm6, peer6).with(ext), told},
		{"solicitation of what it holds", held{v6: mine}, FromVM, nd(135, vm6, peer6).with(ext), seen},
		{"solicitation of link-local", held{ll: mineFirm}, FromVM, nd(135, link6, peer6), seen},
		{"duplicate detection", nil, FromVM, nd(135, zero6, vm6), told},
		{"duplicate detection of what it holds", held{v6: mine}, FromVM, nd(135, zero6, vm6), seen},
		{"duplicate detection cut short", nil, FromVM, nd(135, zero6, vm6).with(func(p *pkt) { p.l4 = p.l4[:20] }), none},
		{"another's duplicate detection of what it holds", held{v6: mine}, ToVM, nd(135, zero6, vm6).with(from(thief)), none},
		{"router solicitation", nil, FromVM, nd(133, link6, zero6), told},
		{"router solicitation without address", nil, FromVM, nd(133, zero6, zero6), none},
		{"advertisement", held{link6.String(): mine}, FromVM, nd(136, link6, vm6), told},
		{"advertisement of what it holds", held{v6: mine}, FromVM, nd(136, link6, vm6), seen},
		{"advertisement cut short", nil, FromVM, nd(136, link6, vm6).with(func(p *pkt) { p.l4 = p.l4[:20] }), none},
		{"router advertisement", nil, FromVM, nd(134, link6, vm6), none},
		{"redirect", nil, FromVM, nd(137, link6, vm6), none},
		{"a solicitation that was forwarded", nil, FromVM, nd(135, vm6, peer6).with(func(p *pkt) { p.hops = 254 }), none},

		{"another's ARP", nil, ToVM, theirARP, none},
		{"another's ARP of what it holds", held{v4: mine}, ToVM, theirARP, told},
		{"another's ARP of what it waits for", held{v4: mineWaits}, ToVM, theirARP, none},
		{"another's ARP of what is shared", held{v4: mineShare}, ToVM, theirARP, none},
		{"another's ARP of what another holds", held{v4: theirs}, ToVM, theirARP, none},
		{"its own ARP comes back", held{v4: mine}, ToVM, arpBy(2, testMAC, vm4, peer4), told},
		{"from its own MAC, of what it does not hold", nil, ToVM, arpBy(2, testMAC, vm4, peer4), told},
		{"from its own MAC, discovery", held{v6: theirs}, ToVM, nd(136, vm6, peer6).with(from(testMAC)), told},
		{"another's advertisement", nil, ToVM, theirNA, none},
		{"another's advertisement of what it holds", held{v6: mineFirm}, ToVM, theirNA, told},
		{"another's solicitation of what it holds", held{v6: mineFirm}, ToVM, nd(135, vm6, peer6).with(from(thief)), told},
		{"another's solicitation for it", held{v6: mineFirm}, ToVM, nd(135, peer6, vm6).with(from(thief)), none},

		{"DHCP from the VM", nil, FromVM, dhcp(zero4, all4, 68, 67, 300), told},
		{"DHCPv6 from the VM", nil, FromVM, dhcp(link6, group6, 546, 547, 60), told},
		{"DHCP to the VM", nil, ToVM, dhcp(peer4, vm4, 67, 68, 300), told},
		{"DHCP to all", nil, ToVM, dhcp(peer4, all4, 67, 68, 300).with(from(peerMAC)), told},
		{"DHCP to all, behind options", nil, ToVM, dhcp(peer4, all4, 67, 68, 300).with(from(peerMAC)).with(func(p *pkt) { p.options = 8 }), told},
		{"another's DHCP to all", nil, ToVM, dhcp(peer4, all4, 67, 68, 300).with(from(peerMAC)).with(client(thief)), none},
		{"another's DHCP to the VM", nil, ToVM, dhcp(peer4, vm4, 67, 68, 300).with(client(thief)), none},
		{"DHCP cut in the client's MAC", nil, ToVM, dhcp(peer4, vm4, 67, 68, 33), none},
		{"DHCPv6 to the VM", nil, ToVM, dhcp(peer6, vm6, 547, 546, 60), told},
		{"DHCP from a server", nil, FromVM, dhcp(vm4, all4, 67, 68, 300), none},
		{"DHCP to a server", nil, ToVM, dhcp(peer4, vm4, 68, 67, 300), none},
		{"DHCPv6's port in IPv4", nil, FromVM, dhcp(vm4, peer4, 546, 547, 300), none},
		{"DHCP's port in TCP", nil, FromVM, tcp(vm4, peer4, 68, 67, "S"), none},
		{"DHCP that a rule drops", nil, FromVM, dhcp(vm4, bad4, 68, 67, 300), none},
		{"other UDP", nil, FromVM, dhcp(vm4, peer4, 68, 53, 300), none},
		{"RARP", nil, FromVM, pkt{ether: rarp, l4: make([]byte, 28)}, none},
	} {
		for _, tags := range [][]tag{nil, {{ctag, 11}}} {
			name, id := tt.name, vlan.ID(100)
			c := accessPort()
			if tags != nil {
				name, id = tt.name+", tagged", 11
				trunkPort(&c)
			}
			c.Policy = "net-b"
			if err := b.FillPool(1); err != nil {
				t.Fatal(err)
			}
			b.port(c)
			b.quiet()
			b.hold(tt.hold, id)
			frame := tt.frame.tagged(tags...).bytes()
			b.run(tt.hook, frame)
			got := heard.next(t)
			switch {
			case (got != nil) != (tt.want == told):
				t.Errorf("%s: told %+v, want %q", name, got, tt.want)
			case got != nil:
				b.checkHeard(name, got, tt.hook, frame, id)
			}
			if more := heard.next(t); more != nil {
				t.Errorf("%s: told twice, %+v", name, more)
			}
			known := b.addresses()
			if len(known) != len(tt.hold) {
				t.Errorf("%s: %d addresses, put were %d", name, len(known), len(tt.hold))
			}
			for _, a := range known {
				said := tt.want == seen && !a.Seen.IsZero()
				if tt.want != seen && !a.Seen.IsZero() || tt.want == seen && !said {
					t.Errorf("%s: %+v, want %q", name, a, tt.want)
				}
				if ago := time.Since(a.Seen); said && (ago < -3*time.Second || ago > time.Minute) {
					t.Errorf("%s: seen %v ago", name, ago)
				}
			}
		}
	}
	if lost, err := b.HeardLost(); lost > 0 || err != nil {
		t.Errorf("lost %d: %v", lost, err)
	}
}

// checkHeard compares what was told of a frame with it.
func (b *bench) checkHeard(name string, got *Heard, h Hook, frame []byte, id vlan.ID) {
	b.Helper()
	most := HeardShort
	if bytes.Contains(frame, []byte{0xd5, 0xd5, 0xd5}) {
		most = HeardLong
	}
	want := Heard{At: got.At, IfIndex: loopback, Out: h == FromVM, VLAN: id, Frame: facing(h, frame), Length: len(frame)}
	want.Frame = want.Frame[:min(len(want.Frame), most)]
	if g, w := fmt.Sprintf("%+v", *got), fmt.Sprintf("%+v", want); g != w {
		b.Errorf("%s: told\n%s, want\n%s", name, g, w)
	}
	if ago := time.Since(got.At); ago < -time.Minute || ago > time.Minute {
		b.Errorf("%s: of %v ago", name, ago)
	}
}

// As much is told of a frame as there is room for, and of a GSO packet no more.
func TestHeardOfLongFrames(t *testing.T) {
	b, _ := heardBench(t)
	heard := b.hears()
	for _, tt := range []struct {
		p   pkt
		gso uint32
	}{
		{dhcp(vm4, peer4, 68, 67, 957), 0}, {dhcp(vm4, peer4, 68, 67, 958), 0}, {dhcp(vm4, peer4, 68, 67, 959), 0}, {dhcp(vm4, peer4, 68, 67, 1400), 0},
		{dhcp(vm4, peer4, 68, 67, 3000), 1000}, {arpBy(1, testMAC, vm4, peer4).with(func(p *pkt) { p.l4 = append(p.l4, make([]byte, 86)...) }), 0},
		{arpBy(1, testMAC, vm4, peer4).with(func(p *pkt) { p.l4 = append(p.l4, make([]byte, 87)...) }), 0},
		{nd(135, vm6, peer6, make([]byte, 1000)...), 0},
	} {
		frame := tt.p.bytes()
		opts := &ebpf.RunOptions{Data: frame}
		if tt.gso > 0 {
			opts.Context = gsoContext(tt.gso)
		}
		if ret, err := b.progs[FromVM].Run(opts); err != nil || ret != passVerdict {
			t.Fatalf("%d bytes: %#x, %v", len(frame), ret, err)
		}
		got := heard.next(t)
		if got == nil {
			t.Errorf("%d bytes: not told", len(frame))
			continue
		}
		b.checkHeard(fmt.Sprint(len(frame), " bytes"), got, FromVM, frame, 100)
	}
}

// gsoContext is a context of a packet of segments of this size: struct __sk_buff up to gso_size.
func gsoContext(size uint32) any {
	return struct {
		_       [41]uint32
		GsoSegs uint32
		_       [2]uint32
		GsoSize uint32
		_       uint32
	}{GsoSegs: 3, GsoSize: size}
}

// A port tells of so many frames a moment and direction, and all of a node of so many; the rest is lost, and counted.
func TestHeardQuota(t *testing.T) {
	b, _ := heardBench(t)
	b.hold(held{vm4.String(): mine}, 100)
	heard := b.hears()
	claim, duplicate := arpBy(1, testMAC, other4, peer4).bytes(), arpBy(2, thief, vm4, peer4).with(from(thief)).bytes()
	count := func() (n int) {
		for heard.next(t) != nil {
			n++
		}
		return n
	}
	lost := func() uint64 {
		t.Helper()
		n, err := b.HeardLost()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	flood := func(h Hook, frame []byte, n uint32) (moments int) {
		begun := time.Now()
		if ret, err := b.progs[h].Run(&ebpf.RunOptions{Data: frame, Repeat: n}); err != nil || ret != passVerdict {
			t.Fatalf("%#x, %v", ret, err)
		}
		return int(time.Since(begun)>>30) + 2
	}
	for h, frame := range map[Hook][]byte{FromVM: claim, ToVM: duplicate} {
		before := lost()
		moments := flood(h, frame, 1000)
		if told := count(); told < HeardOfPort || told > moments*HeardOfPort || uint64(told)+lost()-before < 1000 {
			t.Errorf("%v: told of %d of 1000 in up to %d moments, lost %d", h, told, moments, lost()-before)
		}
	}
	// What is known takes nothing from it.
	b.quiet()
	before := lost()
	flood(FromVM, arpBy(1, testMAC, vm4, peer4).bytes(), 1000)
	if told := count(); told > 0 || lost() != before {
		t.Errorf("of what is known %d were told, and %d lost", told, lost()-before)
	}
	// All ports together.
	b.quiet()
	told, sent := 0, 0
	before = lost()
	begun := time.Now()
	for ; sent < HeardOfNode+20*HeardOfPort; sent += HeardOfPort {
		rec, err := b.record(loopback)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.maps[portMapHeardQuotas].Put(rec.Slot, portHpQuota{}); err != nil { // as another port
			t.Fatal(err)
		}
		flood(FromVM, claim, HeardOfPort)
		told += count()
	}
	if moments := int(time.Since(begun)>>30) + 2; told > moments*HeardOfNode || uint64(told)+lost()-before < uint64(sent) || told < HeardOfNode {
		t.Errorf("ports told of %d of %d in up to %d moments, lost %d", told, sent, moments, lost()-before)
	}
	// A buffer that nobody reads is full some time, and what does not fit is lost.
	before = lost()
	const long = 1 << 20 / 1032
	for range long/HeardOfPort + 2 {
		b.quiet()
		if ret, err := b.progs[FromVM].Run(&ebpf.RunOptions{Data: dhcp(vm4, peer4, 68, 67, 1200).bytes(), Repeat: HeardOfPort}); err != nil || ret != passVerdict {
			t.Fatalf("%#x, %v", ret, err)
		}
	}
	if told := count(); told < long-1 || told > long {
		t.Errorf("%d frames were kept for a reader, want %d", told, long)
	}
	if lost() == before {
		t.Error("what did not fit is not counted as lost")
	}
	b.quiet()
	if b.run(FromVM, claim); count() != 1 {
		t.Error("nothing is told after a flood")
	}
}

// An established flow of DHCP goes the long way, and every answer is told.
func TestHeardOfFlows(t *testing.T) {
	b, _ := heardBench(t)
	heard := b.hears()
	told := 0
	for range 20 {
		for _, s := range []step{out(dhcp(vm4, peer4, 68, 67, 300), 0), in(dhcp(peer4, vm4, 67, 68, 300), 0), out(dhcp(vm6, peer6, 546, 547, 60), 0), in(dhcp(peer6, vm6, 547, 546, 60), 0)} {
			b.quiet()
			if r := b.reason(s.hook, s.frame); r.Drops() {
				t.Fatal(r)
			}
			if heard.next(t) != nil {
				told++
			}
		}
	}
	if told != 80 {
		t.Errorf("told of %d of 80", told)
	}
	// After a change of rules, too, when a flow is judged anew.
	b.sync(testSets(t)[1])
	b.reason(ToVM, dhcp(peer4, vm4, 67, 68, 300).bytes())
	if heard.next(t) == nil {
		t.Error("an answer under other rules is not told")
	}
}

// A dry run tells nothing, and notes nothing; nor does what is dropped.
func TestHeardOfDrops(t *testing.T) {
	b, _ := heardBench(t)
	b.hold(held{vm4.String(): mine}, 100)
	heard := b.hears()
	for _, p := range []pkt{arpBy(1, testMAC, vm4, peer4), arpBy(1, testMAC, other4, peer4), nd(135, vm6, peer6), dhcp(vm4, peer4, 68, 67, 300)} {
		if e, err := b.traced(FromVM, p.bytes()); err != nil || e.Reason.Drops() {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if err := b.SetState(loopback, attach.Quarantined); err != nil {
		t.Fatal(err)
	}
	for _, p := range []pkt{arpBy(1, testMAC, vm4, peer4), arpBy(1, testMAC, other4, peer4), nd(135, vm6, peer6), dhcp(vm4, peer4, 68, 67, 300)} {
		if r := b.reason(FromVM, p.bytes()); r != policy.ReasonPortQuarantined {
			t.Fatal(r)
		}
	}
	if h := heard.next(t); h != nil {
		t.Errorf("told %+v", h)
	}
	if known, err := b.Addresses("net-b"); err != nil || len(known) != 1 || !known[0].Seen.IsZero() {
		t.Errorf("%+v, %v", known, err)
	}
}

// FuzzHeard: whatever bytes the buffer holds, reading them gives a frame or an error.
func FuzzHeard(f *testing.F) {
	head := binary.Size(portHpHeard{})
	right, _ := binary.Append(nil, binary.NativeEndian, portHpHeard{Head: uint16(head), Size: 14})
	f.Add(append(right, make([]byte, HeardShort)...))
	f.Add(right)
	f.Add([]byte{1})
	f.Add(bytes.Repeat([]byte{0xff}, head+HeardLong))
	f.Fuzz(func(t *testing.T, raw []byte) {
		h, err := decodeHeard(raw, time.Now(), time.Hour)
		if err != nil && !errors.Is(err, ErrForeignEvent) || len(h.Frame) > max(0, len(raw)-head) {
			t.Fatalf("%d bytes: %+v, %v", len(raw), h, err)
		}
	})
}
