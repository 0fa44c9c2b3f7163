package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Socket is a Conn at an interface of the kernel, whether it is under a bridge or not: it
// hears before the bridge does, and what it sends passes the bridge by.
type Socket struct {
	packetFile
	buf   []byte
	oob   []byte
	lost  uint64
	inode uint64
}

// packetFile is a packet socket whose calls wait and can be ended.
type packetFile struct {
	file   *os.File
	raw    syscall.RawConn
	closed atomic.Bool
}

const (
	// snap is how much of a frame is looked at: enough for a DHCP offer.
	snap = 1600
	// socketBuffer holds a burst of small broadcasts, some thousands; each takes near 1 KiB there.
	socketBuffer = 8 << 20
)

// OpenSocket opens a Socket at an interface of the calling thread's network namespace. It
// takes CAP_NET_RAW. Before it hears anything known is told its inode, by which /proc/net/packet
// tells it from others; nil is told nothing.
func OpenSocket(ifindex int, known func(inode uint64)) (*Socket, error) {
	// It hears nothing until it is bound, when the filter is in place.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open a packet socket (it takes CAP_NET_RAW): %w", err)
	}
	s := &Socket{packetFile: packetFile{file: os.NewFile(uintptr(fd), "packet socket")}, buf: make([]byte, snap),
		oob: make([]byte, unix.CmsgSpace(int(unsafe.Sizeof(unix.TpacketAuxdata{}))))}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	if s.inode = st.Ino; known != nil {
		known(s.inode)
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	if err := prepare(fd, ifindex); err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket at interface %d: %w", ifindex, err), s.file.Close())
	}
	return s, nil
}

func prepare(fd, ifindex int) error {
	prog, err := filter()
	if err != nil {
		return err
	}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, prog); err != nil {
		return fmt.Errorf("filter: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return fmt.Errorf("tags of frames: %w", err)
	}
	// Without CAP_NET_ADMIN the usual limit holds.
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, socketBuffer); err != nil {
			return fmt.Errorf("buffer: %w", err)
		}
	}
	return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex})
}

func htons(v uint16) uint16 { return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v)) }

// filter lets through what others sent to many, hellos, ARP, DHCP's answers, and ICMP for a Foreign MAC;
// the traffic of VMs costs no copy, nor do streams of IPv4 multicast. The kernel has taken the outer tag off.
func filter() (*unix.SockFprog, error) {
	const six, foreign, many, take, drop = 15, 17, 19, 21, 22
	ins, err := bpf.Assemble([]bpf.Instruction{
		0:  bpf.LoadExtension{Num: bpf.ExtType},
		1:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: drop - 2},
		2:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_BROADCAST, SkipTrue: take - 3},
		3:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_MULTICAST, SkipTrue: many - 4},
		4:  bpf.LoadAbsolute{Off: 12, Size: 2},
		5:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: EtherHello, SkipTrue: take - 6},
		6:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: take - 7},
		7:  bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: six - 8},
		8:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: drop - 9},
		9:  bpf.LoadAbsolute{Off: etherHead + 9, Size: 1},
		10: bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: foreign - 11},
		11: bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_UDP, SkipTrue: drop - 12},
		12: bpf.LoadMemShift{Off: etherHead},
		13: bpf.LoadIndirect{Off: etherHead + 2, Size: 2},
		14: bpf.JumpIf{Cond: bpf.JumpEqual, Val: 68, SkipTrue: take - 15, SkipFalse: drop - 15},

		six: bpf.LoadAbsolute{Off: etherHead + 6, Size: 1},
		16:  bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: drop - 17},

		foreign: bpf.LoadAbsolute{Off: 0, Size: 2},
		18:      bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0x0248, SkipTrue: take - 19, SkipFalse: drop - 19},

		many: bpf.LoadAbsolute{Off: 12, Size: 2},
		20:   bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: drop - 21},

		take: bpf.RetConstant{Val: snap},
		drop: bpf.RetConstant{Val: 0},
	})
	if err != nil {
		return nil, err
	}
	prog := make([]unix.SockFilter, len(ins))
	for i, r := range ins {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return &unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}, nil
}

// Inode is by what /proc/net/packet tells the socket from others.
func (s *Socket) Inode() uint64 { return s.inode }

// Send puts a frame on the wire, with its tag.
func (s *Socket) Send(f Frame) error {
	if len(f.Data) < etherHead {
		return errShort
	}
	b := f.Data
	if f.VLAN != 0 {
		b = make([]byte, 0, len(f.Data)+4)
		b = append(b, f.Data[:12]...)
		b = binary.BigEndian.AppendUint16(b, unix.ETH_P_8021Q)
		b = binary.BigEndian.AppendUint16(b, uint16(f.VLAN))
		b = append(b, f.Data[12:]...)
	}
	var n int
	var err error
	if e := s.raw.Write(func(fd uintptr) bool {
		n, err = unix.Write(int(fd), b)
		return !errors.Is(err, unix.EAGAIN)
	}); e != nil {
		return s.ended(e)
	}
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d of %d bytes were sent", n, len(b))
	}
	return err
}

// Receive gives the next frame.
func (s *Socket) Receive() (Frame, error) {
	for {
		var n, oobn int
		var err error
		if e := s.raw.Read(func(fd uintptr) bool {
			n, oobn, _, _, err = unix.Recvmsg(int(fd), s.buf, s.oob, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); e != nil {
			return Frame{}, s.ended(e)
		}
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN): // it may come up again
			continue
		case err != nil:
			return Frame{}, err
		}
		if f, ok := received(s.buf[:n], s.oob[:oobn]); ok {
			return f, nil
		}
	}
}

// received finds a frame's tag and length; a frame with a service tag is in no VLAN of ours.
func received(data, oob []byte) (Frame, bool) {
	f := Frame{Data: data, Length: len(data)}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return f, false
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			continue
		}
		aux := (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		f.Length = int(aux.Len)
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			if aux.Status&unix.TP_STATUS_VLAN_TPID_VALID != 0 && aux.Vlan_tpid != unix.ETH_P_8021Q {
				return f, false
			}
			f.VLAN = vlan.ID(aux.Vlan_tci & 0xfff)
		}
	}
	return f, true
}

// Lost counts what the socket's buffer had no room for. One may ask at a time.
func (s *Socket) Lost() (uint64, error) {
	var st *unix.TpacketStats
	var err error
	if e := s.raw.Control(func(fd uintptr) {
		st, err = unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS)
	}); e != nil {
		return 0, s.ended(e)
	}
	if err != nil {
		return 0, err
	}
	s.lost += uint64(st.Drops) // the kernel begins anew with each answer
	return s.lost, nil
}

// Close ends Receive, too.
func (s *packetFile) Close() error {
	s.closed.Store(true)
	return s.file.Close()
}

// ended is what came of a call; the error of a file that was closed has no name.
func (s *packetFile) ended(err error) error {
	if s.closed.Load() {
		return net.ErrClosed
	}
	return err
}
