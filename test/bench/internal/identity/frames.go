package identity

import (
	"encoding/binary"
	"math/bits"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// socket is a packet socket at an interface of this network namespace; protocol 0 hears nothing.
func socket(ifindex int, protocol uint16) (int, error) {
	protocol = bits.ReverseBytes16(protocol) // in network order, on hosts that are little-endian
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(protocol))
	if err != nil {
		return 0, err
	}
	if err := unix.Bind(s, &unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: protocol}); err != nil {
		unix.Close(s)
		return 0, err
	}
	return s, nil
}

// subnet has all addresses of the network.
var subnet = netip.MustParsePrefix("10.106.0.0/16")

// ask is an ARP request for a gateway, by whoever has the MAC and the address (RFC 826).
func ask(mac net.HardwareAddr, addr netip.Addr) []byte {
	b := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	b = append(b, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(append(b, mac...), addr.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), subnet.Addr().Next().AsSlice()...)
	return append(b, make([]byte, 60-len(b))...)
}

// datagram is one from an address behind the uplink to a pod's MAC, from a port of its own, so that it begins a connection.
func datagram(to net.HardwareAddr, from netip.Addr, port uint16) []byte {
	b := append(append([]byte{}, to...), 2, 0, 0, 0, 0, 0xee, 8, 0)
	ip := []byte{0x45, 0, 0, 28 + 18, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, from.AsSlice()...), target.AsSlice()...)
	var sum uint32
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum&0xffff+sum>>16))
	b = append(b, ip...)
	b = binary.BigEndian.AppendUint16(b, port)
	b = append(b, 0, 80, 0, 8+18, 0, 0) // no checksum
	return append(b, make([]byte, 18)...)
}
