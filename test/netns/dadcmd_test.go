package netns

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	dadFor   = 5 * time.Second // unless the script says otherwise
	dadEvery = 500 * time.Millisecond
)

// detection is a host's duplicate address detection: while it lasts, the host asks for
// an address that it wants, by ARP probes (RFC 5227) or neighbor solicitations (RFC 4862).
type detection struct {
	ends time.Time
	mu   sync.Mutex
	seen string // the first frame that is a conflict
}

// cmdDAD: dad start HOST ADDR [for=5s] begins; dad clear HOST ADDR waits for the end, and
// wants no conflict; dad conflict HOST ADDR wants one before.
func cmdDAD(s *session, out io.Writer, args []string) error {
	const usage = "dad start HOST ADDR [for=5s] | dad clear|conflict HOST ADDR"
	if err := want(args, 3, 4, usage); err != nil {
		return err
	}
	space, err := s.lab.Space(args[1])
	if err != nil {
		return err
	}
	addr, err := netip.ParseAddr(args[2])
	if err != nil {
		return &usageError{usage}
	}
	key := args[1] + " " + addr.String()
	d := s.dads[key]
	switch {
	case args[0] == "start":
		lasts := dadFor.String()
		if err := options(args[3:], map[string]*string{"for": &lasts}); err != nil {
			return &usageError{usage}
		}
		length, err := time.ParseDuration(lasts)
		if err != nil {
			return &usageError{usage}
		}
		s.dads[key], err = s.lab.detect(space, addr, length)
		return err
	case d == nil || len(args) != 3 || args[0] != "clear" && args[0] != "conflict":
		return &usageError{usage}
	}
	seen := d.wait(args[0] == "conflict")
	fmt.Fprintln(out, seen)
	if args[0] == "conflict" && seen == "" {
		return fmt.Errorf("%s has heard of nobody else who has %s", args[1], addr)
	} else if args[0] == "clear" && seen != "" {
		return fmt.Errorf("%s finds %s in use: %s", args[1], addr, seen)
	}
	return nil
}

// wait is for the end, or the first conflict.
func (d *detection) wait(first bool) string {
	for {
		d.mu.Lock()
		seen := d.seen
		d.mu.Unlock()
		if time.Now().After(d.ends) || first && seen != "" {
			return seen
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// detect begins the detection.
func (l *Lab) detect(space *Space, addr netip.Addr, length time.Duration) (*detection, error) {
	link, err := space.Link.LinkByName(hostIf)
	if err != nil {
		return nil, err
	}
	mac := link.Attrs().HardwareAddr
	d := &detection{ends: time.Now().Add(length)}
	ear, err := space.hear(hostIf, func(f Frame) {
		if what := conflict(f, mac, addr); what != "" && time.Now().Before(d.ends) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.seen == "" {
				d.seen = what
			}
		}
	})
	if err != nil {
		return nil, err
	}
	l.atEnd(ear.Close)
	out, err := space.Sender()
	if err != nil {
		return nil, err
	}
	l.atEnd(out.Close)
	probe := arpProbe(mac, addr)
	l.repeat(dadEvery, func() {
		if time.Now().Before(d.ends) {
			_ = out.Send(hostIf, probe, 1) // a cable may be unplugged meanwhile
		}
	})
	return d, nil
}

// arpProbe asks for an address on behalf of nobody, in either family.
func arpProbe(mac net.HardwareAddr, addr netip.Addr) []byte {
	if addr.Is4() {
		return arpRequest(mac, net.IPv4zero, addr.AsSlice())
	}
	a := addr.As16()
	group := append([]byte{0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff}, a[13:]...)
	return icmp6Frame(mac, net.HardwareAddr{0x33, 0x33, 0xff, a[13], a[14], a[15]}, net.IPv6zero, group, layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: addr.AsSlice()})
}

// conflict says what in a frame tells that someone else has the address, or wants it: any
// ARP packet from it, a probe or a solicitation for it like one's own, an advertisement of it.
func conflict(f Frame, mac net.HardwareAddr, addr netip.Addr) string {
	switch layers.EthernetType(f.Type) {
	case layers.EthernetTypeARP:
		a, ok := gopacket.NewPacket(f.Payload, layers.LayerTypeARP, gopacket.NoCopy).Layer(layers.LayerTypeARP).(*layers.ARP)
		if !ok || !addr.Is4() {
			return ""
		}
		if bytes.Equal(a.SourceProtAddress, addr.AsSlice()) {
			return fmt.Sprintf("ARP from %s, which has it", net.HardwareAddr(a.SourceHwAddress))
		}
		if a.Operation == layers.ARPRequest && net.IP(a.SourceProtAddress).IsUnspecified() && bytes.Equal(a.DstProtAddress, addr.AsSlice()) &&
			!bytes.Equal(a.SourceHwAddress, mac) {
			return fmt.Sprintf("ARP probe of %s, which wants it", net.HardwareAddr(a.SourceHwAddress))
		}
	case layers.EthernetTypeIPv6:
		p := gopacket.NewPacket(f.Payload, layers.LayerTypeIPv6, gopacket.NoCopy)
		if na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok && bytes.Equal(na.TargetAddress, addr.AsSlice()) {
			return fmt.Sprintf("neighbor advertisement of %s, which has it", f.Src)
		}
		ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation)
		ip, _ := p.NetworkLayer().(*layers.IPv6)
		if ok && ip.SrcIP.IsUnspecified() && bytes.Equal(ns.TargetAddress, addr.AsSlice()) && !bytes.Equal(f.Src, mac) {
			return fmt.Sprintf("neighbor solicitation of %s, which wants it", f.Src)
		}
	}
	return ""
}

func TestConflict(t *testing.T) {
	t.Parallel()
	own, other := net.HardwareAddr{2, 0, 0, 0, 0, 1}, net.HardwareAddr{2, 0, 0, 0, 0, 2}
	v4, v6 := netip.MustParseAddr("10.100.0.77"), netip.MustParseAddr("fd00:100::77")
	four, six := net.IP(v4.AsSlice()), net.IP(v6.AsSlice())
	for _, c := range []struct {
		name  string
		addr  netip.Addr
		frame []byte
		is    bool
	}{
		{"a request from the address", v4, arpRequest(other, four, net.IPv4(10, 100, 0, 1)), true},
		{"another's probe", v4, arpProbe(other, v4), true},
		{"one's own probe that comes back", v4, arpProbe(own, v4), false},
		{"a probe of another address", v4, arpProbe(other, v4.Next()), false},
		{"a request for the address", v4, arpRequest(other, net.IPv4(10, 100, 0, 1), four), false},
		{"another's solicitation from nobody", v6, arpProbe(other, v6), true},
		{"one's own that comes back", v6, arpProbe(own, v6), false},
		{"a solicitation from someone", v6, icmp6Frame(other, own, net.ParseIP("fd00:100::1"), six, layers.ICMPv6TypeNeighborSolicitation,
			&layers.ICMPv6NeighborSolicitation{TargetAddress: six}), false},
		{"an advertisement", v6, icmp6Frame(other, own, six, net.ParseIP("ff02::1"), layers.ICMPv6TypeNeighborAdvertisement,
			&layers.ICMPv6NeighborAdvertisement{TargetAddress: six}), true},
	} {
		if got := conflict(readFrame(c.frame, nil), own, c.addr); got != "" != c.is {
			t.Errorf("%s: %q", c.name, got)
		}
	}
}
