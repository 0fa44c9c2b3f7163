package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// wire is the cable side of an interface: it sends and sees whole frames.
type wire struct {
	tb   testing.TB
	at   space
	name string
	fd   int
	mac  net.HardwareAddr
	seen map[string]int // payload -> VLAN tag it came with, 0 for none
}

// etherType is IEEE 802's local experimental type 1: nothing else sends it.
const etherType = 0x88b5

// plug listens and speaks at an interface of a namespace.
func plug(tb testing.TB, s space, name string) *wire {
	tb.Helper()
	l, err := s.LinkInfo(Ref{Name: name})
	must(tb, err)
	w := &wire{tb: tb, at: s, name: name, mac: l.MAC, seen: map[string]int{}}
	must(tb, inNetns(s.ns, func() (err error) {
		w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	}))
	tb.Cleanup(func() { _ = unix.Close(w.fd) })
	must(tb, unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))

	must(tb, unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: l.Index}))
	return w
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// send broadcasts a frame with a payload, tagged unless vid is 0.
func (w *wire) send(vid int, payload string) {
	w.tb.Helper()
	w.put(w.mac, everybody, vid, payload)
}

// sendTo is send to one station alone.
func (w *wire) sendTo(to net.HardwareAddr, vid int, payload string) {
	w.tb.Helper()
	w.put(w.mac, to, vid, payload)
}

// sendFrom is send of a station behind this one.
func (w *wire) sendFrom(from net.HardwareAddr, vid int, payload string) {
	w.tb.Helper()
	w.put(from, everybody, vid, payload)
}

var everybody = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func (w *wire) put(from, to net.HardwareAddr, vid int, payload string) {
	w.tb.Helper()
	frame := append(append([]byte{}, to...), from...)
	if vid != 0 {
		frame = binary.BigEndian.AppendUint16(frame, unix.ETH_P_8021Q)
		frame = binary.BigEndian.AppendUint16(frame, uint16(vid))
	}
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	frame = append(frame, byte(len(payload)))
	frame = append(frame, payload...)
	frame = append(frame, make([]byte, 64)...)
	if _, err := unix.Write(w.fd, frame); err != nil {
		w.tb.Fatalf("%s: send %q: %v", w.name, payload, err)
	}
}

// ready waits until frames can be sent, after the other end was down.
func (w *wire) ready() {
	w.tb.Helper()
	running(w.tb, w.at, w.name)
}

// sees waits for a payload and checks the tag that it comes with.
func (w *wire) sees(payload string, vid int) {
	w.tb.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if tag, ok := w.seen[payload]; ok {
			if tag != vid {
				w.tb.Errorf("%s: %q came with VLAN tag %d, want %d", w.name, payload, tag, vid)
			}
			return
		}
		if time.Now().After(deadline) {
			w.tb.Fatalf("%s: %q has not come within 10 s; seen: %v", w.name, payload, w.seen)
		}
		w.read(100)
	}
}

// sawNot checks that a payload has not come so far. Call it when a later frame
// on the same way has.
func (w *wire) sawNot(payload string) {
	w.tb.Helper()
	w.read(0)
	if tag, ok := w.seen[payload]; ok {
		w.tb.Errorf("%s: %q came, with VLAN tag %d: it must not", w.name, payload, tag)
	}
}

// read takes what is there, waiting at most so many milliseconds for the first.
func (w *wire) read(wait int) {
	w.tb.Helper()
	for {
		fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, wait); n == 0 || errors.Is(err, unix.EINTR) {
			return
		}
		wait = 0
		buf, aux := make([]byte, 2048), make([]byte, 128)
		n, an, _, from, err := unix.Recvmsg(w.fd, buf, aux, 0)
		if err != nil {
			w.tb.Fatalf("%s: receive: %v", w.name, err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING {
			continue
		}
		if payload, tag, ok := parseFrame(buf[:n], aux[:an]); ok {
			w.seen[payload] = tag
		}
	}
}

// parseFrame finds the payload of send, and the tag where the kernel keeps it:
// beside the frame (struct tpacket_auxdata), or still in it.
func parseFrame(frame, aux []byte) (payload string, tag int, ok bool) {
	cs, err := unix.ParseSocketControlMessage(aux)
	if err != nil {
		return "", 0, false
	}
	for _, c := range cs {
		if c.Header.Type == unix.PACKET_AUXDATA && len(c.Data) >= 20 &&
			binary.NativeEndian.Uint32(c.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
			tag = int(binary.NativeEndian.Uint16(c.Data[16:]) & 0xfff)
		}
	}
	if len(frame) < 20 {
		return "", 0, false
	}
	b := frame[12:]
	if binary.BigEndian.Uint16(b) == unix.ETH_P_8021Q {
		if inner := int(binary.BigEndian.Uint16(b[2:]) & 0xfff); tag == 0 {
			tag = inner
		} else {
			tag = -inner // two tags: no test wants that
		}
		b = b[4:]
	}
	if binary.BigEndian.Uint16(b) != etherType || len(b) < 3+int(b[2]) {
		return "", 0, false
	}
	return string(b[3 : 3+b[2]]), tag, true
}

// node is a host with one bridge, a switch at its uplink, and pods.
type node struct {
	space
	tb    testing.TB
	spec  TrunkSpec
	sw    space
	ports []WantPort
}

// newNode makes the host and its switch: interface "eth0" at the host is "port0"
// at the switch. The bridge is not made yet.
func newNode(tb testing.TB, spec TrunkSpec) *node {
	tb.Helper()
	h := &node{space: newSpace(tb), tb: tb, spec: spec, sw: newSpace(tb)}
	up := pair(tb, h.space, "eth0", h.sw, "port0")
	// As a NIC has it; a host veth's would be the highest of all.
	nic := net.HardwareAddr{2, 0xc0, 0xff, 0xee, 0, 1}
	must(tb, h.setLink(up.Host.Index, nil, nl.NewRtAttr(unix.IFLA_ADDRESS, nic)))
	must(tb, h.SetUp(up.Host))
	must(tb, h.sw.SetUp(Ref{Name: "port0"}))
	running(tb, h.space, "eth0")
	running(tb, h.sw, "port0")
	return h
}

// ensure makes the trunk as the spec says.
func (h *node) ensure() TrunkStatus {
	h.tb.Helper()
	st, err := h.EnsureTrunk(h.spec)
	must(h.tb, err)
	return st
}

// attach runs the steps of an attachment for a new pod and gives its side.
func (h *node) attach(v VLANs) *wire {
	h.tb.Helper()
	pod := newSpace(h.tb)
	k := len(h.ports)
	veth, err := h.CreateVeth(VethSpec{HostName: fmt.Sprintf("veth%d", k), PeerName: fmt.Sprintf("net%d", k), PeerNetns: pod.path, PeerUp: true})
	must(h.tb, err)
	must(h.tb, h.Join(veth.Host, Ref{Name: h.spec.Bridge}))
	must(h.tb, h.SetVLANs(veth.Host, v))
	must(h.tb, h.SetPortFlags(veth.Host, GuestFlags()))
	must(h.tb, h.VerifyVLANs(veth.Host, v))
	must(h.tb, h.SetUp(veth.Host))
	h.ports = append(h.ports, WantPort{Ref: veth.Host, VLANs: v, MTU: 1500})
	h.forwarding(veth.Host)
	running(h.tb, pod, fmt.Sprintf("net%d", k))
	return plug(h.tb, pod, fmt.Sprintf("net%d", k))
}

// running waits until an interface can send.
func running(tb testing.TB, s space, name string) {
	tb.Helper()
	eventually(tb, name+" runs", func() string {
		if l, err := s.LinkInfo(Ref{Name: name}); err != nil || !l.OperUp {
			return fmt.Sprintf("%+v, %v", l, err)
		}
		return ""
	})
}

// forwarding waits until ports let frames through.
func (h *node) forwarding(refs ...Ref) {
	h.tb.Helper()
	for _, ref := range refs {
		eventually(h.tb, ref.String()+" forwards", func() string {
			l, err := h.LinkInfo(ref)
			switch {
			case err != nil:
				return err.Error()
			case l.Port == nil:
				return "no port"
			case l.Port.State != PortForwarding:
				return l.Port.State.String()
			}
			return ""
		})
	}
}

// want is what Diff is to compare with.
func (h *node) want(st TrunkStatus) Want {
	return Want{Trunk: h.spec, MAC: st.MAC, MTU: st.MTU, Ports: h.ports}
}

// drifts compares with the kernel.
func (h *node) drifts(w Want) []Drift {
	h.tb.Helper()
	o, err := h.Observe(w.Trunk.Bridge, w.Refs()...)
	must(h.tb, err)
	return Diff(w, o)
}
