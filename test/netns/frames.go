package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Tag is one VLAN tag of a frame as it goes over the wire.
type Tag struct {
	TPID uint16
	VID  uint16
}

func (t Tag) String() string { return fmt.Sprintf("%04x:%d", t.TPID, t.VID) }

// Frame is an Ethernet frame to be sent or one that was seen.
type Frame struct {
	Src, Dst net.HardwareAddr
	Tags     []Tag // outermost first
	Type     uint16
	Payload  []byte
}

// ParseFrame reads words as src=MAC dst=MAC tag=100 tag=88a8:200 type=0x88b5
// size=1500 data=text. Without dst it is broadcast, and its type one for local
// experiments (IEEE 802, 88b5). The size is that of the payload, 46 without it.
func ParseFrame(words []string) (Frame, error) {
	f := Frame{Dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, Type: 0x88b5, Payload: make([]byte, 46)}
	for _, w := range words {
		key, v, _ := strings.Cut(w, "=")
		var err error
		var n uint64
		switch key {
		case "src":
			f.Src, err = net.ParseMAC(v)
		case "dst":
			f.Dst, err = net.ParseMAC(v)
		case "tag":
			t := Tag{TPID: 0x8100}
			if tpid, vid, ok := strings.Cut(v, ":"); ok {
				if n, err = strconv.ParseUint(tpid, 16, 16); err != nil {
					break
				}
				t.TPID, v = uint16(n), vid
			}
			n, err = strconv.ParseUint(v, 10, 12)
			t.VID = uint16(n)
			f.Tags = append(f.Tags, t)
		case "type":
			n, err = strconv.ParseUint(v, 0, 16)
			f.Type = uint16(n)
		case "size":
			n, err = strconv.ParseUint(v, 10, 16)
			f.Payload = append(f.Payload, make([]byte, max(46, int(n))-46)...)
		case "data":
			copy(f.Payload, v)
		default:
			err = errors.New("want src=, dst=, tag=, type=, size= or data=")
		}
		if err != nil {
			return f, fmt.Errorf("frame: %s: %w", w, err)
		}
	}
	if len(f.Src) != 6 || len(f.Dst) != 6 {
		return f, errors.New("frame: want src= and dst= of 6 bytes")
	}
	return f, nil
}

// Bytes is the frame as it goes over the wire.
func (f Frame) Bytes() []byte {
	b := append(append([]byte{}, f.Dst...), f.Src...)
	for _, t := range f.Tags {
		b = binary.BigEndian.AppendUint16(b, t.TPID)
		b = binary.BigEndian.AppendUint16(b, t.VID)
	}
	b = binary.BigEndian.AppendUint16(b, f.Type)
	return append(b, f.Payload...)
}

// rawSocket opens an AF_PACKET socket in the namespace, which hears nothing yet.
func (s *Space) rawSocket() (fd int, err error) {
	err = s.Do(func() error {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("%s: packet socket: %w", s.Name, err)
		}
		return nil
	})
	return fd, err
}

// ifIndex asks the namespace for an interface. By netlink: for each ioctl about one
// that is not there the kernel runs modprobe.
func (s *Space) ifIndex(name string) (int, error) {
	link, err := s.Link.LinkByName(name)
	if err != nil {
		return 0, fmt.Errorf("interface %s: %w", name, err)
	}
	return link.Attrs().Index, nil
}

// Sender puts frames on the wire of interfaces that may come and go.
type Sender struct {
	fd    int
	space *Space
}

// Sender opens a way out of the namespace; Close ends it.
func (s *Space) Sender() (*Sender, error) {
	fd, err := s.rawSocket()
	return &Sender{fd, s}, err
}

// Send puts frames on the wire of an interface, as they are.
func (s *Sender) Send(ifName string, frame []byte, count int) error {
	index, err := s.space.ifIndex(ifName)
	for range count {
		if err == nil {
			err = unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: index})
		}
	}
	if err != nil {
		return fmt.Errorf("%s: send on %s: %w", s.space.Name, ifName, err)
	}
	return nil
}

// Close ends a Sender.
func (s *Sender) Close() error { return unix.Close(s.fd) }

// Send puts frames on the wire of an interface, as they are.
func (s *Space) Send(ifName string, f Frame, count int) error {
	out, err := s.Sender()
	if err != nil {
		return err
	}
	return errors.Join(out.Send(ifName, f.Bytes(), count), out.Close())
}

// Sniffer keeps the frames that come in at an interface, whoever they are for.
type Sniffer struct {
	fd   int
	each func(Frame) // instead of keeping; nil keeps
	done chan struct{}
	stop chan struct{}
	mu   sync.Mutex
	seen []Frame
}

// Sniff starts to listen at an interface; Close ends it.
func (s *Space) Sniff(ifName string) (*Sniffer, error) { return s.hear(ifName, nil) }

// hear is Sniff; with each, nothing is kept, but each frame given to that.
func (s *Space) hear(ifName string, each func(Frame)) (*Sniffer, error) {
	fd, err := s.rawSocket()
	if err != nil {
		return nil, err
	}
	index, err := s.ifIndex(ifName)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: index, Protocol: bits.ReverseBytes16(unix.ETH_P_ALL)})
	}
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	tv := unix.NsecToTimeval(int64(20 * time.Millisecond))
	err = errors.Join(err,
		unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: listen at %s: %w", s.Name, ifName, err), unix.Close(fd))
	}
	sn := &Sniffer{fd: fd, each: each, done: make(chan struct{}), stop: make(chan struct{})}
	go sn.loop()
	return sn, nil
}

// Close stops listening. It may be called again.
func (sn *Sniffer) Close() error {
	sn.mu.Lock()
	select {
	case <-sn.stop:
	default:
		close(sn.stop)
	}
	sn.mu.Unlock()
	<-sn.done
	return nil
}

func (sn *Sniffer) loop() {
	defer close(sn.done)
	defer unix.Close(sn.fd)
	buf, oob := make([]byte, 1<<16), make([]byte, 128)
	for {
		select {
		case <-sn.stop:
			return
		default:
		}
		n, oobn, _, from, err := unix.Recvmsg(sn.fd, buf, oob, 0)
		if err != nil || n < 14 {
			continue // nothing in this time
		}
		if l, ok := from.(*unix.SockaddrLinklayer); !ok || l.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		f := readFrame(buf[:n], oob[:oobn])
		if sn.each != nil {
			sn.each(f)
			continue
		}
		sn.mu.Lock()
		sn.seen = append(sn.seen, f)
		sn.mu.Unlock()
	}
}

// Frames gives what was seen so far and matches; want is what ParseSeen reads.
func (sn *Sniffer) Frames(want Want) []Frame {
	sn.mu.Lock()
	defer sn.mu.Unlock()
	var out []Frame
	for _, f := range sn.seen {
		if want.match(f) {
			out = append(out, f)
		}
	}
	return out
}

// Summary counts all that was seen, for messages.
func (sn *Sniffer) Summary() map[string]int {
	out := map[string]int{}
	for _, f := range sn.Frames(Want{}) {
		out[fmt.Sprintf("%s tags %v type %04x", f.Src, f.Tags, f.Type)]++
	}
	return out
}

// Want says which frames count. Unset fields let all pass.
type Want struct {
	src, dst string
	typ      uint16
	tags     []string // exactly these, as 8100:100
	bare     bool     // without any tag
	data     string
}

// ParseWant reads words as src=MAC dst=MAC type=0x88b5 tag=8100:100 untagged data=text.
func ParseWant(words []string) (Want, error) {
	var w Want
	for _, word := range words {
		key, v, _ := strings.Cut(word, "=")
		switch key {
		case "src":
			w.src = v
		case "dst":
			w.dst = v
		case "type":
			n, err := strconv.ParseUint(v, 0, 16)
			if err != nil {
				return w, fmt.Errorf("%s: %w", word, err)
			}
			w.typ = uint16(n)
		case "tag":
			if !strings.Contains(v, ":") {
				v = "8100:" + v
			}
			w.tags = append(w.tags, v)
		case "untagged":
			w.bare = true
		case "data":
			w.data = v
		default:
			return w, fmt.Errorf("%s: want src=, dst=, type=, tag=, data= or untagged", word)
		}
	}
	return w, nil
}

func (w Want) match(f Frame) bool {
	if w.src != "" && !strings.EqualFold(w.src, f.Src.String()) || w.dst != "" && !strings.EqualFold(w.dst, f.Dst.String()) || w.typ != 0 && w.typ != f.Type || w.bare && len(f.Tags) > 0 {
		return false
	}
	if len(w.tags) > 0 {
		if len(w.tags) != len(f.Tags) {
			return false
		}
		for i, t := range f.Tags {
			if t.String() != w.tags[i] {
				return false
			}
		}
	}
	return w.data == "" || strings.Contains(string(f.Payload), w.data)
}

// readFrame takes a frame apart. The kernel keeps the outermost tag out of the
// frame and tells it aside (packet(7), PACKET_AUXDATA).
func readFrame(b, oob []byte) Frame {
	f := Frame{Dst: append(net.HardwareAddr{}, b[:6]...), Src: append(net.HardwareAddr{}, b[6:12]...)}
	if t, ok := auxTag(oob); ok {
		f.Tags = append(f.Tags, t)
	}
	for b = b[12:]; len(b) >= 2; b = b[4:] {
		f.Type = binary.BigEndian.Uint16(b)
		switch f.Type {
		case 0x8100, 0x88a8, 0x9100, 0x9200:
		default:
			f.Payload = append([]byte{}, b[2:]...)
			return f
		}
		if len(b) < 4 {
			return f
		}
		f.Tags = append(f.Tags, Tag{TPID: f.Type, VID: binary.BigEndian.Uint16(b[2:]) & 0xfff})
	}
	return f
}

// auxTag reads struct tpacket_auxdata (linux/if_packet.h).
func auxTag(oob []byte) (Tag, bool) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return Tag{}, false
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		a := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		if a.Status&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		t := Tag{TPID: 0x8100, VID: a.Vlan_tci & 0xfff}
		if a.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			t.TPID = a.Vlan_tpid
		}
		return t, true
	}
	return Tag{}, false
}
