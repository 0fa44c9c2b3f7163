package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// LLDPSocket hears LLDP at the interfaces it was told to Join. It costs other frames nothing. Close ends
// Receive with net.ErrClosed.
type LLDPSocket struct{ packetFile }

// nearestBridge is where LLDP goes; bridges do not pass it on (IEEE 802.1AB-2016, 7.1).
var nearestBridge = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// OpenLLDP opens an LLDPSocket in the calling thread's network namespace. It takes
// CAP_NET_RAW.
func OpenLLDP() (*LLDPSocket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(htons(EtherLLDP)))
	if err != nil {
		return nil, fmt.Errorf("open a packet socket for LLDP (it takes CAP_NET_RAW): %w", err)
	}
	s := &LLDPSocket{packetFile{file: os.NewFile(uintptr(fd), "LLDP socket")}}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return s, nil
}

// Join has the interface take LLDP's frames from the wire, whatever its own filter is, until
// it goes or the socket is closed. To join twice does no harm.
func (s *LLDPSocket) Join(ifindex int) error {
	m := unix.PacketMreq{Ifindex: int32(ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: uint16(len(nearestBridge))}
	copy(m.Address[:], nearestBridge[:])
	var err error
	if e := s.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m)
	}); e != nil {
		return s.ended(e)
	}
	return err
}

// Receive waits for an LLDP frame and gives what is behind its EtherType, and where it came.
func (s *LLDPSocket) Receive(buf []byte) (ifindex int, data []byte, err error) {
	for {
		var n int
		var from unix.Sockaddr
		if e := s.raw.Read(func(fd uintptr) bool {
			n, from, err = unix.Recvfrom(int(fd), buf, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); e != nil {
			return 0, nil, s.ended(e)
		}
		at, ok := from.(*unix.SockaddrLinklayer)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENETDOWN):
		case err != nil:
			return 0, nil, err
		case ok && at.Pkttype != unix.PACKET_OUTGOING && n > etherHead && binary.BigEndian.Uint16(buf[12:]) == EtherLLDP:
			return at.Ifindex, buf[etherHead:n], nil
		}
	}
}
