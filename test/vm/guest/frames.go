package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const etherHeader = 14

// packetSocket opens an AF_PACKET socket on the NIC. Protocol 0 receives nothing.
func packetSocket(nic string, protocol uint16) (int, *unix.SockaddrLinklayer, error) {
	i, err := net.InterfaceByName(nic)
	if err != nil {
		return -1, nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, nil, fmt.Errorf("packet socket: %w", err)
	}
	addr := &unix.SockaddrLinklayer{Ifindex: i.Index, Protocol: protocol<<8 | protocol>>8}
	if err := unix.Bind(fd, addr); err != nil {
		unix.Close(fd)
		return -1, nil, fmt.Errorf("packet socket on %s: %w", nic, err)
	}
	return fd, addr, nil
}

// send puts a frame on the wire as it is: any source MAC, any tags.
func send(nic string, args []string) (any, error) {
	if len(args) < 1 || len(args) > 2 {
		return nil, errors.New("usage: send HEX [COUNT]")
	}
	frame, err := hex.DecodeString(strings.ReplaceAll(args[0], ":", ""))
	if err != nil || len(frame) < etherHeader {
		return nil, errors.New("usage: send HEX [COUNT]; HEX is a whole frame of 14 bytes or more, from the destination MAC on")
	}
	count := 1
	if len(args) == 2 {
		if count, err = strconv.Atoi(args[1]); err != nil || count < 1 {
			return nil, errors.New("usage: send HEX [COUNT]; COUNT is at least 1")
		}
	}
	fd, addr, err := packetSocket(nic, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	for i := range count {
		if err := unix.Sendto(fd, frame, 0, addr); err != nil {
			return map[string]int{"sent": i}, fmt.Errorf("frame %d: %w", i+1, err)
		}
	}
	return map[string]int{"sent": count}, nil
}

// filter says which frames recv counts; an unset field lets all pass.
type filter struct {
	src, dst string
	ethType  int // -1 unset
	vlan     int // -1 unset, 0 untagged
}

func parseFilter(s string) (filter, error) {
	f := filter{ethType: -1, vlan: -1}
	for _, kv := range strings.Split(s, ",") {
		k, v, _ := strings.Cut(kv, "=")
		var err error
		var mac net.HardwareAddr
		var n uint64
		switch k {
		case "":
		case "src":
			mac, err = net.ParseMAC(v)
			f.src = mac.String()
		case "dst":
			mac, err = net.ParseMAC(v)
			f.dst = mac.String()
		case "type":
			n, err = strconv.ParseUint(v, 0, 16)
			f.ethType = int(n)
		case "vlan":
			n, err = strconv.ParseUint(v, 10, 12)
			f.vlan = int(n)
		default:
			err = errors.New("unknown key; known are src, dst, type, vlan")
		}
		if err != nil {
			return f, fmt.Errorf("filter %q: %w", kv, err)
		}
	}
	return f, nil
}

// frame is what recv keeps of a frame. Tags are outermost first, as TPID:VID.
type frame struct {
	src, dst string
	tags     []string
	vlan     int // of the outermost tag, 0 without
	ethType  int
}

func (f filter) match(x frame) bool {
	return (f.src == "" || f.src == x.src) && (f.dst == "" || f.dst == x.dst) &&
		(f.ethType < 0 || f.ethType == x.ethType) && (f.vlan < 0 || f.vlan == x.vlan)
}

// parseFrame reads Ethernet and its tags. The kernel takes the outermost tag
// out of the frame and tells it aside (packet(7), PACKET_AUXDATA).
func parseFrame(b []byte, tpid, tci uint16, tagged bool) frame {
	f := frame{dst: net.HardwareAddr(b[:6]).String(), src: net.HardwareAddr(b[6:12]).String()}
	tag := func(tpid, tci uint16) {
		if len(f.tags) == 0 {
			f.vlan = int(tci & 0xfff)
		}
		f.tags = append(f.tags, fmt.Sprintf("%04x:%d", tpid, tci&0xfff))
	}
	if tagged {
		tag(tpid, tci)
	}
	for b = b[12:]; len(b) >= 2; b = b[4:] {
		f.ethType = int(binary.BigEndian.Uint16(b))
		switch f.ethType {
		case 0x8100, 0x88a8, 0x9100, 0x9200:
		default:
			return f
		}
		if len(b) < 4 {
			return f
		}
		tag(uint16(f.ethType), binary.BigEndian.Uint16(b[2:]))
	}
	return f
}

type receiveResult struct {
	Frames   int            `json:"frames"`
	ByType   map[string]int `json:"byType"` // "untagged 0x0800", "8100:100 0x0806"
	BySource map[string]int `json:"bySource"`
}

// receive counts what comes in, whoever it is for.
func receive(nic string, args []string) (any, error) {
	if len(args) < 1 || len(args) > 2 {
		return nil, errors.New("usage: recv SECONDS [FILTER]")
	}
	seconds, err := strconv.ParseFloat(args[0], 64)
	if err != nil || seconds <= 0 || seconds > 3600 {
		return nil, errors.New("usage: recv SECONDS [FILTER]; SECONDS is more than 0")
	}
	want, err := parseFilter(strings.Join(args[1:], ""))
	if err != nil {
		return nil, err
	}
	fd, addr, err := packetSocket(nic, unix.ETH_P_ALL)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if err := listenToAll(fd, addr.Ifindex); err != nil {
		return nil, err
	}
	res := receiveResult{ByType: map[string]int{}, BySource: map[string]int{}}
	deadline := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for time.Now().Before(deadline) {
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return res, fmt.Errorf("recv: %w", err)
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING || n < etherHeader {
			continue
		}
		tpid, tci, tagged := auxTag(oob[:oobn])
		f := parseFrame(buf[:n], tpid, tci, tagged)
		if !want.match(f) {
			continue
		}
		tags := "untagged"
		if len(f.tags) > 0 {
			tags = strings.Join(f.tags, "+")
		}
		res.Frames++
		res.ByType[fmt.Sprintf("%s 0x%04x", tags, f.ethType)]++
		res.BySource[f.src]++
	}
	return res, nil
}

// listenToAll makes the NIC promiscuous for this socket's life, asks for the
// tags and lets a read give up after 50 ms.
func listenToAll(fd, ifindex int) error {
	mreq := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_PROMISC}
	tv := unix.NsecToTimeval(int64(50 * time.Millisecond))
	return errors.Join(
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv),
	)
}

// auxTag reads struct tpacket_auxdata (linux/if_packet.h).
func auxTag(oob []byte) (tpid, tci uint16, tagged bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, 0, false
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		a := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		if a.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			tpid = 0x8100
			if a.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
				tpid = a.Vlan_tpid
			}
			return tpid, a.Vlan_tci, true
		}
	}
	return 0, 0, false
}
