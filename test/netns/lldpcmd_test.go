package netns

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink/nl"
)

// Multicast MACs of IEEE 802 that bridges answer to themselves.
var (
	lldpMAC = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0x0e}
	stpMAC  = net.HardwareAddr{0x01, 0x80, 0xc2, 0, 0, 0}
)

const (
	// teller's interval, and for how long its LLDP is good.
	tellEvery = time.Second
	lldpTTL   = 4
	// lldpRoom is for TLVs: VLANs beyond it are not told.
	lldpRoom = 1400
)

// repeat does something at once and then every so often, until the lab ends or stop.
func (l *Lab) repeat(every time.Duration, f func()) (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			f()
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	}()
	stop = sync.OnceFunc(func() { close(end); <-done })
	l.atEnd(func() error { stop(); return nil })
	return stop
}

// teller sends what a switch tells its neighbors, LLDP or BPDUs, out of its ports. A
// host may tell too, of no VLANs.
type teller struct {
	space   *Space
	chassis net.HardwareAddr
	frame   func(t *teller, p tellingPort) []byte
	out     *Sender

	mu      sync.Mutex
	on      bool
	besides map[string]bool // ports that are not as the others
}

// tellingPort is a port as it is now.
type tellingPort struct {
	name  string
	to    string
	index int // from 1
	mac   net.HardwareAddr
	mtu   int
	vlans []*nl.BridgeVlanInfo
}

// teller makes one that says nothing yet.
func (l *Lab) teller(space *Space, frame func(*teller, tellingPort) []byte) (*teller, error) {
	own := hostIf
	if len(l.portsOf(space)) > 0 {
		own = switchBridge
	}
	link, err := space.Link.LinkByName(own)
	if err != nil {
		return nil, err
	}
	out, err := space.Sender()
	if err != nil {
		return nil, err
	}
	l.atEnd(out.Close)
	t := &teller{space: space, chassis: slices.Clone(link.Attrs().HardwareAddr), frame: frame, out: out, besides: map[string]bool{}}
	l.repeat(tellEvery, func() {
		ports, err := l.tellingPorts(space)
		if err != nil {
			return // the space is gone
		}
		for _, p := range ports {
			if t.tells(p.name) {
				_ = t.out.Send(p.name, t.frame(t, p), 1) // a cable may be unplugged meanwhile
			}
		}
	})
	return t, nil
}

func (t *teller) tells(port string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if on, ok := t.besides[port]; ok {
		return on
	}
	return t.on
}

// turn switches all ports on or off, or only some.
func (t *teller) turn(on bool, ports []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(ports) == 0 {
		t.on = on
		clear(t.besides)
	}
	for _, p := range ports {
		t.besides[p] = on
	}
}

// tellingPorts asks the kernel.
func (l *Lab) tellingPorts(space *Space) ([]tellingPort, error) {
	ports := l.portsOf(space)
	if len(ports) == 0 {
		ports = []switchPort{{sw: space, name: hostIf}}
	}
	vlans, err := space.Link.BridgeVlanList()
	if err != nil {
		return nil, err
	}
	var out []tellingPort
	for i, p := range ports {
		link, err := space.Link.LinkByName(p.name)
		if err != nil {
			continue // not any more, or not yet
		}
		t := tellingPort{name: p.name, index: i + 1, mac: link.Attrs().HardwareAddr, mtu: l.mtuOf(p, link.Attrs().MTU), vlans: vlans[int32(link.Attrs().Index)]}
		if p.to != nil {
			t.to = p.to.Name
		}
		out = append(out, t)
	}
	return out, nil
}

// lldpFrame is an LLDPDU of IEEE 802.1AB with TLVs of 802.1 (Port VLAN ID, VLAN Name)
// and 802.3 (Maximum Frame Size, which is the MTU and 18 bytes).
func lldpFrame(t *teller, p tellingPort) []byte {
	d := layers.LinkLayerDiscovery{TTL: lldpTTL,
		ChassisID: layers.LLDPChassisID{Subtype: layers.LLDPChassisIDSubTypeMACAddr, ID: t.chassis},
		PortID:    layers.LLDPPortID{Subtype: layers.LLDPPortIDSubtypeIfaceName, ID: []byte(p.name)}}
	room := lldpRoom
	tlv := func(typ layers.LLDPTLVType, value []byte) {
		if room -= 2 + len(value); room >= 0 {
			d.Values = append(d.Values, layers.LinkLayerDiscoveryValue{Type: typ, Length: uint16(len(value)), Value: value})
		}
	}
	org := func(oui layers.IEEEOUI, subtype byte, value []byte) {
		tlv(layers.LLDPTLVOrgSpecific, append([]byte{byte(oui >> 16), byte(oui >> 8), byte(oui), subtype}, value...))
	}
	tlv(layers.LLDPTLVSysName, []byte(t.space.Name))
	org(layers.IEEEOUI8023, layers.LLDP8023SubtypeMTU, binary.BigEndian.AppendUint16(nil, uint16(p.mtu+18)))
	if p.to != "" {
		tlv(layers.LLDPTLVPortDescription, []byte("to "+p.to))
		org(layers.IEEEOUI8021, layers.LLDP8021SubtypePortVLANID, binary.BigEndian.AppendUint16(nil, native(p.vlans)))
	}
	for _, v := range p.vlans {
		name := fmt.Sprintf("vlan%d", v.Vid)
		org(layers.IEEEOUI8021, layers.LLDP8021SubtypeVLANName, append(append(binary.BigEndian.AppendUint16(nil, v.Vid), byte(len(name))), name...))
	}
	return frameOf(&layers.Ethernet{SrcMAC: p.mac, DstMAC: lldpMAC, EthernetType: layers.EthernetTypeLinkLayerDiscovery}, &d)
}

// bpduFrame is a configuration BPDU of IEEE 802.1D: the switch is the root.
func bpduFrame(t *teller, p tellingPort) []byte {
	id := layers.STPSwitchID{Priority: 0x8000, HwAddr: t.chassis}
	const second = 256
	return frameOf(&layers.Ethernet{SrcMAC: p.mac, DstMAC: stpMAC, EthernetType: layers.EthernetTypeLLC},
		&layers.LLC{DSAP: 0x42, SSAP: 0x42, Control: 3},
		&layers.STP{RouteID: id, BridgeID: id, PortID: 0x8000 | uint16(p.index), MaxAge: 20 * second, HelloTime: 2 * second, FDelay: 15 * second},
		gopacket.Payload(make([]byte, 8)))
}

// frameOf puts layers together, with their lengths and checksums.
func frameOf(l ...gopacket.SerializableLayer) []byte {
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(err) // the layers are the lab's own
	}
	return b.Bytes()
}

// cmdLLDP: lldp SWITCH on|off [NAME...]: LLDP out of all ports, each second, or out of
// those that lead to the names; a host may send it as well.
func cmdLLDP(s *session, _ io.Writer, args []string) error {
	return s.tell("lldp", lldpFrame, args)
}

// cmdSTP: stp SWITCH on|off [NAME...]: BPDUs likewise. The switch does not act on any.
func cmdSTP(s *session, _ io.Writer, args []string) error {
	return s.tell("stp", bpduFrame, args)
}

func (s *session) tell(what string, frame func(*teller, tellingPort) []byte, args []string) error {
	usage := what + " SWITCH on|off [NAME...]"
	if len(args) < 2 || args[1] != "on" && args[1] != "off" {
		return &usageError{usage}
	}
	space, err := s.lab.Space(args[0])
	if err != nil {
		return err
	}
	var ports []string
	for _, name := range args[2:] {
		p, err := s.lab.findPort(args[0] + ":" + name)
		if err != nil {
			return err
		}
		ports = append(ports, p.name)
	}
	key := what + " " + args[0]
	t := s.tellers[key]
	if t == nil {
		if t, err = s.lab.teller(space, frame); err != nil {
			return err
		}
		s.tellers[key] = t
	}
	t.turn(args[1] == "on", ports)
	return nil
}

func TestLLDPFrame(t *testing.T) {
	t.Parallel()
	sender := &teller{space: &Space{Name: "sw1"}, chassis: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	port := tellingPort{name: "n1.1", to: "n1", index: 1, mac: net.HardwareAddr{2, 0, 0, 0, 0, 2}, mtu: 1500,
		vlans: []*nl.BridgeVlanInfo{{Vid: 5, Flags: nl.BRIDGE_VLAN_INFO_PVID | nl.BRIDGE_VLAN_INFO_UNTAGGED}, {Vid: 100}}}
	p := gopacket.NewPacket(lldpFrame(sender, port), layers.LayerTypeEthernet, gopacket.Default)
	d, _ := p.Layer(layers.LayerTypeLinkLayerDiscovery).(*layers.LinkLayerDiscovery)
	info, _ := p.Layer(layers.LayerTypeLinkLayerDiscoveryInfo).(*layers.LinkLayerDiscoveryInfo)
	if d == nil || info == nil || p.ErrorLayer() != nil {
		t.Fatalf("no LLDP: %v", p)
	}
	vlan, err := info.Decode8021()
	if err != nil {
		t.Fatal(err)
	}
	phy, err := info.Decode8023()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%x %s %d %s, %s: %d %v %d", d.ChassisID.ID, d.PortID.ID, d.TTL, info.SysName, info.PortDescription, vlan.PVID, vlan.VLANNames, phy.MTU)
	if want := "020000000001 n1.1 4 sw1, to n1: 5 [{5 vlan5} {100 vlan100}] 1518"; got != want {
		t.Errorf("it says\n%s, not\n%s", got, want)
	}

	port.vlans = nil
	for vid := range uint16(4094) {
		port.vlans = append(port.vlans, &nl.BridgeVlanInfo{Vid: vid + 1})
	}
	if n := len(lldpFrame(sender, port)); n > 1514 {
		t.Errorf("with all VLANs it has %d bytes", n)
	}
}

func TestBPDUFrame(t *testing.T) {
	t.Parallel()
	sender := &teller{space: &Space{Name: "sw1"}, chassis: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	p := gopacket.NewPacket(bpduFrame(sender, tellingPort{index: 3, mac: sender.chassis}), layers.LayerTypeEthernet, gopacket.Default)
	d, _ := p.Layer(layers.LayerTypeSTP).(*layers.STP)
	if d == nil || d.Type != 0 || d.PortID != 0x8003 || d.BridgeID.HwAddr.String() != sender.chassis.String() {
		t.Errorf("no BPDU of that port: %v", p)
	}
}
