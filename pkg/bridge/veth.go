package bridge

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// VethSpec is a veth pair to be made: the host end in this namespace, the peer
// in the sandbox.
type VethSpec struct {
	HostName string
	PeerName string
	// PeerNetns is the path of the sandbox's network namespace; PeerNetnsFD is
	// used instead when it is not 0.
	PeerNetns   string
	PeerNetnsFD int
	// PeerMAC is the peer's address; nil takes a random one.
	PeerMAC net.HardwareAddr
	// MTU of both ends, bytes; 0 takes the kernel's 1500.
	MTU int
	// PeerUp brings the peer up. It has no carrier before the host end is up.
	PeerUp bool
}

// Veth is a pair as it was made.
type Veth struct {
	// Host is the host end: it is down and in no bridge.
	Host    Ref
	HostMAC net.HardwareAddr
	// PeerIndex counts in the peer's namespace.
	PeerIndex int
	PeerMAC   net.HardwareAddr
	MTU       int // bytes, of both ends
}

// HostVethName is the name of the host end for an attachment: "veth" and 11 hex
// digits. It starts with "veth" because NetworkManager and systemd-networkd
// leave such interfaces alone, and follows from the key alone, so that DEL
// needs nothing else.
func HostVethName(containerID, ifName string) string {
	// A container ID has no zero byte, so no two keys give one text.
	sum := sha256.Sum256([]byte(containerID + "\x00" + ifName))
	return "veth" + hex.EncodeToString(sum[:])[:11]
}

// CreateVeth makes the pair in one request to the kernel, the peer born inside
// the sandbox with its final name, MAC and MTU; then both ends are told to make
// no IPv6 address (a VM's MAC must not be heard before its port allows it). The host end's MAC starts with fe: a bridge that takes the lowest MAC of
// its ports never takes that one. If anything fails, nothing is left.
func (n *Net) CreateVeth(spec VethSpec) (Veth, error) {
	if err := spec.check(); err != nil {
		return Veth{}, err
	}
	ns := netns.NsHandle(spec.PeerNetnsFD)
	if spec.PeerNetnsFD == 0 {
		var err error
		if ns, err = openNetns(spec.PeerNetns); err != nil {
			return Veth{}, err
		}
		defer ns.Close()
	}
	v := Veth{PeerMAC: spec.PeerMAC, MTU: spec.MTU}
	if v.PeerMAC == nil {
		v.PeerMAC = randomMAC(0x02)
	}
	v.HostMAC = randomMAC(0xfe)
	if err := n.newVeth(spec, v, ns); err != nil {
		return Veth{}, fmt.Errorf("create the veth pair %s: %w", spec.HostName, n.explainVeth(err, spec))
	}
	host, err := n.LinkInfo(Ref{Name: spec.HostName})
	if err == nil {
		v.Host, v.PeerIndex, v.MTU = host.Ref(), host.Lower, host.MTU
		err = n.quiet(host)
	}
	if err == nil {
		err = finishPeer(ns, v.PeerIndex, spec.PeerUp)
	}
	if err != nil {
		return Veth{}, errors.Join(fmt.Errorf("create the veth pair %s: %w", spec.HostName, err),
			n.DeleteVeth(Ref{Index: v.Host.Index, Name: spec.HostName}))
	}
	return v, nil
}

func (s VethSpec) check() error {
	if err := checkName(s.HostName); err != nil {
		return fmt.Errorf("host end: %w", err)
	}
	if err := checkName(s.PeerName); err != nil {
		return fmt.Errorf("sandbox end: %w", err)
	}
	if s.PeerMAC != nil {
		if len(s.PeerMAC) != 6 || s.PeerMAC[0]&1 != 0 || isZero(s.PeerMAC) {
			return fmt.Errorf("MAC %s cannot be an interface's: want a unicast address of 6 bytes, not all zero", s.PeerMAC)
		}
	}
	if s.MTU < 0 || s.MTU != 0 && s.MTU < 68 || s.MTU > 65535 {
		return fmt.Errorf("MTU %d is out of range: want 68-65535 bytes", s.MTU)
	}
	return nil
}

func isZero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

// newVeth is the one RTM_NEWLINK. The peer's attributes and its namespace stand
// in VETH_INFO_PEER (drivers/net/veth.c, veth_newlink). IFF_UP cannot stand
// there: the kernel would open the peer before it knows its other end.
func (n *Net) newVeth(spec VethSpec, v Veth, ns netns.NsHandle) error {
	peer := nl.NewRtAttr(nl.VETH_INFO_PEER, nil)
	peer.AddChild(nl.NewIfInfomsg(unix.AF_UNSPEC))
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(spec.PeerName))
	peer.AddRtAttr(unix.IFLA_ADDRESS, v.PeerMAC)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))

	parts := []nl.NetlinkRequestData{
		nl.NewIfInfomsg(unix.AF_UNSPEC),
		nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(spec.HostName)),
		nl.NewRtAttr(unix.IFLA_ADDRESS, v.HostMAC),
	}
	if spec.MTU != 0 {
		mtu := nl.Uint32Attr(uint32(spec.MTU))
		peer.AddRtAttr(unix.IFLA_MTU, mtu)
		parts = append(parts, nl.NewRtAttr(unix.IFLA_MTU, mtu))
	}
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	data := info.AddRtAttr(unix.IFLA_INFO_DATA, nil)
	data.AddChild(peer)
	return n.do(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(parts, info)...)
}

// explainVeth says which of the two names is taken, for the kernel says only
// "file exists".
func (n *Net) explainVeth(err error, spec VethSpec) error {
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if l, lerr := n.LinkInfo(Ref{Name: spec.HostName}); lerr == nil {
		return fmt.Errorf("%w: the node already has an interface %s of that name", err, l.Ref())
	}
	return fmt.Errorf("%w: the sandbox already has an interface named %s", err, spec.PeerName)
}

// finishPeer keeps IPv6 off the sandbox end and brings it up if wanted, in one
// message. While the host end is down it has no carrier, so it is silent until
// both are done.
func finishPeer(ns netns.NsHandle, index int, up bool) error {
	c, err := dialKernel(ns)
	if err != nil {
		return err
	}
	defer c.close()
	peer := Net{ns: ns, conn: c}
	var flag *bool
	if up {
		flag = &up
	}
	err = peer.setLink(index, flag, noAddrGen())
	if errors.Is(err, unix.EAFNOSUPPORT) { // a kernel without IPv6
		err = peer.setLink(index, flag)
	}
	if err != nil {
		return fmt.Errorf("finish the sandbox end: %w", err)
	}
	return nil
}

// DeleteVeth deletes a pair by its host end, and returns when the kernel is
// done with it. One that is gone already, or whose index belongs to another
// interface by now, is not an error; an interface of another kind is refused.
func (n *Net) DeleteVeth(host Ref) error {
	l, err := n.vethToDelete(host)
	if err != nil || l.Index == 0 {
		return err
	}
	return deleteError(host, n.deleteLink(l.Index))
}

// vethToDelete finds the host end; index 0 says that it is gone.
func (n *Net) vethToDelete(host Ref) (Link, error) {
	l, err := n.LinkInfo(host)
	if errors.Is(err, ErrNotFound) {
		return Link{}, nil
	}
	if err != nil {
		return Link{}, err
	}
	if l.Kind != "veth" {
		return Link{}, fmt.Errorf("%w to delete %s: it is no veth but %s", ErrRefused, l.Ref(), kindName(l.Kind))
	}
	return l, nil
}

func (n *Net) deleteLink(index int) error {
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	return n.do(unix.RTM_DELLINK, 0, msg)
}

func deleteError(host Ref, err error) error {
	if err == nil || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete %s: %w", host, err)
}

// DeleteVethFast is DeleteVeth that returns as soon as the kernel has announced
// that the interface is gone (RTM_DELLINK): no packet passes it any more, its
// name and index are free, and the sandbox end is gone too. The kernel then
// waits for an RCU barrier before it answers the request itself
// (net/core/dev.c, netdev_run_todo); a goroutine waits for that. It helps a
// process that lives on: an exiting one is held by the kernel all the same.
func (n *Net) DeleteVethFast(host Ref) error {
	l, err := n.vethToDelete(host)
	if err != nil || l.Index == 0 {
		return err
	}
	events, err := n.listen(unix.RTNLGRP_LINK)
	if err != nil {
		return err
	}
	c, err := dialKernel(n.ns)
	if err != nil {
		events.Close()
		return err
	}
	worker := &Net{ns: n.ns, conn: c}

	answered := make(chan error, 1)
	go func() {
		answered <- worker.deleteLink(l.Index)
		c.close()
		events.Close() // ends the goroutine below
	}()
	gone := make(chan struct{})
	go func() {
		if sawDelLink(events, l.Index) {
			close(gone)
		}
	}()
	select {
	case <-gone:
		return nil
	case err := <-answered:
		return deleteError(host, err)
	}
}

// sawDelLink reads announcements until one says that the interface is gone, or
// the socket is closed or overrun; then the request's own answer decides.
func sawDelLink(s *nl.NetlinkSocket, index int) bool {
	for {
		msgs, from, err := s.Receive()
		if err != nil {
			return false
		}
		for _, m := range msgs {
			if from.Pid != nl.PidKernel || m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg {
				continue
			}
			// A port that leaves its bridge is announced as RTM_DELLINK too,
			// of family AF_BRIDGE; that is not the end of the interface.
			info := nl.DeserializeIfInfomsg(m.Data)
			if info.Family == unix.AF_UNSPEC && int(info.Index) == index {
				return true
			}
		}
	}
}

// FindVeth finds the pair of an interface in a sandbox: peer is that interface
// and host its other end, in n's namespace. The kernel alone is asked, and it
// must confirm both ways: an ifindex means another interface in each namespace.
func (n *Net) FindVeth(netnsPath, ifName string) (peer, host Link, err error) {
	sandbox, err := OpenAt(netnsPath)
	if err != nil {
		return Link{}, Link{}, err
	}
	defer sandbox.Close()
	if peer, err = sandbox.LinkInfo(Ref{Name: ifName}); err != nil {
		return Link{}, Link{}, fmt.Errorf("it cannot be read in the sandbox: %w", err)
	}
	if peer.Kind != "veth" {
		return Link{}, Link{}, fmt.Errorf("it is no veth but %s", kindName(peer.Kind))
	}
	host, err = n.LinkInfo(Ref{Index: peer.Lower})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return Link{}, Link{}, err
	}
	id, iderr := n.netnsID(sandbox.ns)
	if iderr != nil {
		return Link{}, Link{}, iderr
	}
	if err != nil || host.Kind != "veth" || host.Lower != peer.Index || host.LowerNetnsID != id {
		return Link{}, Link{}, errors.New("its other end is not in the node's network namespace")
	}
	return peer, host, nil
}

// netnsID is the number by which n's namespace knows another; -1 is none.
func (n *Net) netnsID(other netns.NsHandle) (int, error) {
	msgs, err := n.ask(unix.RTM_GETNSID, 0, unix.RTM_NEWNSID,
		nl.NewRtGenMsg(), nl.NewRtAttr(unix.NETNSA_FD, nl.Uint32Attr(uint32(other))))
	if err != nil {
		return 0, fmt.Errorf("ask for the number of a network namespace: %w", err)
	}
	for _, m := range msgs {
		header := nl.NewRtGenMsg().Len()
		if len(m) < header {
			return 0, fmt.Errorf("the answer on a network namespace's number has %d bytes, too few", len(m))
		}
		as, err := attrs(m[header:])
		if err != nil {
			return 0, err
		}
		for _, a := range as {
			if a.Attr.Type == unix.NETNSA_NSID {
				return int(int32(num(a.Value))), nil
			}
		}
	}
	return -1, nil
}

// randomMAC makes a locally administered unicast address with that first byte.
func randomMAC(first byte) net.HardwareAddr {
	mac := make(net.HardwareAddr, 6)
	_, _ = rand.Read(mac) // never fails (crypto/rand)
	mac[0] = first
	return mac
}

func kindName(kind string) string {
	if kind == "" {
		return "hardware"
	}
	return "a " + kind
}
