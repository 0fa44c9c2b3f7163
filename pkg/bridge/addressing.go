package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Addressing is what an interface of a sandbox is given.
type Addressing struct {
	Addrs  []netip.Prefix // with the length of their subnet
	Routes []Route
}

// Route is one by the interface. A field that is 0 is the kernel's to choose.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // the next hop; the zero value: on the link
	// MTU and AdvMSS in bytes.
	MTU, AdvMSS int
	Priority    int // the metric; the least one wins
	Table       int // 0 is the main one
	Scope       int // linux/rtnetlink.h, rt_scope_t
}

// Configure gives an interface of a sandbox its addresses, brings it up and then
// makes the routes: the order in which the kernel takes them. IPv6 addresses are not
// probed for duplicates first, or nothing could use them for seconds; with one, the
// interface makes itself a link-local address too, which CreateVeth had it not do.
func (n *Net) Configure(netnsPath, ifName string, a Addressing) error {
	sandbox, err := OpenAt(netnsPath)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	l, err := sandbox.LinkInfo(Ref{Name: ifName})
	if err != nil {
		return fmt.Errorf("the sandbox's %w", err)
	}
	if slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }) {
		if err := sandbox.allowIPv6(ifName); err != nil {
			return err
		}
		if err := sandbox.setLink(l.Index, nil, addrGen(addrGenModeEUI64)); err != nil {
			return fmt.Errorf("let %s have an IPv6 link-local address: %w", ifName, err)
		}
	}
	for _, p := range a.Addrs {
		if err := sandbox.addAddr(l.Index, p); err != nil {
			return fmt.Errorf("give %s the address %s: %w", ifName, p, err)
		}
	}
	up := true
	if err := sandbox.setLink(l.Index, &up); err != nil {
		return fmt.Errorf("bring %s up: %w", ifName, err)
	}
	for _, r := range a.Routes {
		if err := sandbox.addRoute(l.Index, r); err != nil {
			return fmt.Errorf("make the route to %s by %s: %w", r.Dst, ifName, err)
		}
	}
	return nil
}

// allowIPv6 turns IPv6 on where a runtime has turned it off in the sandbox, and keeps
// addresses when the interface goes down.
func (n *Net) allowIPv6(ifName string) error {
	return inNetns(n.ns, func() error {
		for _, s := range []struct{ at, name, value string }{{"lo", "disable_ipv6", "0"}, {ifName, "disable_ipv6", "0"}, {ifName, "keep_addr_on_down", "1"}} {
			file := "/proc/sys/net/ipv6/conf/" + s.at + "/" + s.name
			is, err := os.ReadFile(file)
			if err != nil || strings.TrimSpace(string(is)) == s.value {
				continue // what this kernel lacks, it says of the address
			}
			if err := os.WriteFile(file, []byte(s.value), 0); err != nil {
				return fmt.Errorf("turn IPv6 on at %s: %w", s.at, err)
			}
		}
		return nil
	})
}

func family(a netip.Addr) int {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (n *Net) addAddr(index int, p netip.Prefix) error {
	a := p.Addr()
	msg := nl.NewIfAddrmsg(family(a))
	msg.Index, msg.Prefixlen = uint32(index), uint8(p.Bits())
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.IFA_LOCAL, a.AsSlice()), nl.NewRtAttr(unix.IFA_ADDRESS, a.AsSlice())}
	switch {
	case a.Is6():
		parts = append(parts, nl.NewRtAttr(unix.IFA_FLAGS, nl.Uint32Attr(unix.IFA_F_NODAD)))
	case p.Bits() < 31: // a link of two has no broadcast (RFC 3021)
		b := a.As4()
		last := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
		parts = append(parts, nl.NewRtAttr(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, last)))
	}
	return n.do(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...)
}

func (n *Net) addRoute(index int, r Route) error {
	if r.Via.IsValid() && r.Via.Is6() != r.Dst.Addr().Is6() {
		return errors.New("its next hop " + r.Via.String() + " is of the other IP version")
	}
	msg := nl.NewRtMsg()
	msg.Family, msg.Dst_len, msg.Scope = uint8(family(r.Dst.Addr())), uint8(r.Dst.Bits()), uint8(r.Scope)
	u32 := func(attr int, v int) *nl.RtAttr { return nl.NewRtAttr(attr, nl.Uint32Attr(uint32(v))) }
	parts := []nl.NetlinkRequestData{msg, nl.NewRtAttr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice()), u32(unix.RTA_OIF, index)}
	if r.Via.IsValid() {
		parts = append(parts, nl.NewRtAttr(unix.RTA_GATEWAY, r.Via.AsSlice()))
	}
	if r.Priority != 0 {
		parts = append(parts, u32(unix.RTA_PRIORITY, r.Priority))
	}
	if r.Table != 0 {
		msg.Table = unix.RT_TABLE_UNSPEC
		parts = append(parts, u32(unix.RTA_TABLE, r.Table))
	}
	metrics := nl.NewRtAttr(unix.RTA_METRICS, nil)
	if r.MTU != 0 {
		metrics.AddRtAttr(unix.RTAX_MTU, nl.Uint32Attr(uint32(r.MTU)))
	}
	if r.AdvMSS != 0 {
		metrics.AddRtAttr(unix.RTAX_ADVMSS, nl.Uint32Attr(uint32(r.AdvMSS)))
	}
	if r.MTU != 0 || r.AdvMSS != 0 {
		parts = append(parts, metrics)
	}
	return n.do(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, parts...)
}
