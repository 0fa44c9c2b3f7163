package netns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
)

// switchPort is a port of a switch, and what is at the other end of its cable.
type switchPort struct {
	sw   *Space
	name string
	to   *Space
	toIf string
}

// fault is what is broken in the fabric.
type fault struct {
	words []string // what people call it
	joins []uint16 // VLANs whose frames it lets come back, or get into others
	undo  func() error
}

// undos are of the steps of one fault.
type undos []func() error

func (u undos) run() error {
	var errs []error
	for _, f := range slices.Backward(u) {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (l *Lab) addPort(p switchPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ports = append(l.ports, p)
}

// portsOf lists the ports of a switch. It may be called from any goroutine.
func (l *Lab) portsOf(sw *Space) []switchPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []switchPort
	for _, p := range l.ports {
		if p.sw == sw {
			out = append(out, p)
		}
	}
	return out
}

// findPort finds the port that leads to a node, host, pod or switch:
// [SWITCH:]NAME[/IF]. Without IF it is that of the first cable.
func (l *Lab) findPort(text string) (switchPort, error) {
	sw, name, ok := strings.Cut(text, ":")
	if !ok {
		sw, name = "", text
	}
	name, ifName, _ := strings.Cut(name, "/")
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.ports {
		if p.to.Name == name && (sw == "" || p.sw.Name == sw) && (ifName == "" || p.toIf == ifName) {
			return p, nil
		}
	}
	return switchPort{}, fmt.Errorf("no port of a switch leads to %s", text)
}

// add puts a fault on, unless together with others it would let frames go round for
// ever: what joins VLANs, or sends frames back into one, must share none with another.
func (l *Lab) add(words []string, joins []uint16, do func() (undo func() error, err error)) error {
	for _, f := range l.faults {
		for _, v := range joins {
			if slices.Contains(f.joins, v) {
				return fmt.Errorf("fault %s: together with %q frames of VLAN %d would go round for ever",
					strings.Join(words, " "), strings.Join(f.words, " "), v)
			}
		}
	}
	l.serial += 2 // a fault may have two filters
	undo, err := do()
	if err != nil {
		if undo != nil {
			err = errors.Join(err, undo())
		}
		return fmt.Errorf("fault %s: %w", strings.Join(words, " "), err)
	}
	l.faults = append(l.faults, fault{words: slices.Clone(words), joins: joins, undo: undo})
	return nil
}

// Heal undoes the faults whose words begin so, the latest first; without words, all.
func (l *Lab) Heal(words ...string) error {
	var errs []error
	all := l.faults
	l.faults = nil
	for _, f := range slices.Backward(all) {
		if len(f.words) < len(words) || !slices.Equal(f.words[:len(words)], words) {
			l.faults = append([]fault{f}, l.faults...)
			continue
		}
		if err := f.undo(); err != nil {
			errs = append(errs, fmt.Errorf("heal %s: %w", strings.Join(f.words, " "), err))
		}
	}
	if len(words) > 0 && len(l.faults) == len(all) {
		errs = append(errs, fmt.Errorf("no fault begins with %q", strings.Join(words, " ")))
	}
	return errors.Join(errs...)
}

// vlans tells what the port carries now.
func (p switchPort) vlans() (netlink.Link, []*nl.BridgeVlanInfo, error) {
	link, err := p.sw.Link.LinkByName(p.name)
	if err != nil {
		return nil, nil, fmt.Errorf("switch port %s: %w", p.name, err)
	}
	all, err := p.sw.Link.BridgeVlanList()
	return link, all[int32(link.Attrs().Index)], err
}

// native gives the VLAN of untagged frames, 0 when the port takes none.
func native(vlans []*nl.BridgeVlanInfo) uint16 {
	for _, v := range vlans {
		if v.PortVID() {
			return v.Vid
		}
	}
	return 0
}

// loseVLAN takes a VLAN off the port.
func (p switchPort) loseVLAN(vid uint16) (undo func() error, err error) {
	link, before, err := p.vlans()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(before, func(v *nl.BridgeVlanInfo) bool { return v.Vid == vid })
	if i < 0 {
		return nil, fmt.Errorf("port %s does not carry VLAN %d", p.name, vid)
	}
	v := before[i]
	undo = func() error { return p.sw.Link.BridgeVlanAdd(link, vid, v.PortVID(), v.EngressUntag(), false, true) }
	return undo, p.sw.Link.BridgeVlanDel(link, vid, false, false, false, true)
}

// setNative gives untagged frames another VLAN, or with 0 none. As on switches, the
// one that they had is tagged from then on, but of an access port it goes.
func (p switchPort) setNative(vid uint16) (undo func() error, err error) {
	link, before, err := p.vlans()
	if err != nil {
		return nil, err
	}
	old, h := native(before), p.sw.Link
	if old == vid {
		return nil, fmt.Errorf("VLAN %d is native at port %s already", vid, p.name)
	}
	undo = func() error {
		var errs []error
		for _, changed := range []uint16{vid, old} {
			i := slices.IndexFunc(before, func(v *nl.BridgeVlanInfo) bool { return v.Vid == changed })
			switch {
			case i >= 0:
				errs = append(errs, h.BridgeVlanAdd(link, changed, before[i].PortVID(), before[i].EngressUntag(), false, true))
			case changed != 0:
				errs = append(errs, h.BridgeVlanDel(link, changed, false, false, false, true))
			}
		}
		return errors.Join(errs...)
	}
	if old != 0 && len(before) == 1 {
		err = h.BridgeVlanDel(link, old, false, false, false, true)
	} else if old != 0 {
		err = h.BridgeVlanAdd(link, old, false, false, false, true)
	}
	if err == nil && vid != 0 {
		err = h.BridgeVlanAdd(link, vid, true, true, false, true)
	}
	return undo, err
}

// limit lets the port lose frames whose payload is longer than n bytes, whatever their
// tag, either way. It is no lower MTU of the interface: then the kernel would lose them,
// too, but let 4 bytes more pass where the tag is beside the frame, and any length that it
// cuts later (GSO), and would tell a sender at the other end of the veth pair (ENOBUFS),
// which no switch does.
func (l *Lab) limit(p switchPort, n int, pref int) (undo func() error, err error) {
	var done undos
	for _, hook := range []string{"ingress", "egress"} {
		off, err := p.sw.filter(p.name, hook, pref, "protocol", "all", "matchall",
			"action", "police", "mtu", strconv.Itoa(n+14), "conform-exceed", "drop/continue")
		if err != nil {
			return done.run, err
		}
		done = append(done, off)
	}
	l.setLimit(p, n)
	done = append(done, func() error { l.setLimit(p, 0); return nil })
	return done.run, nil
}

func (l *Lab) setLimit(p switchPort, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n == 0 {
		delete(l.limits, p)
	} else {
		l.limits[p] = n
	}
}

// mtuOf tells the longest payload that the port passes, if it has a limit.
func (l *Lab) mtuOf(p switchPort, whole int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n, ok := l.limits[p]; ok {
		return n
	}
	return whole
}

// drop lets the switch throw away what comes in at the port or goes out there; of one
// VLAN, or with 0 of all.
func (p switchPort) drop(out bool, vid uint16, pref int) (undo func() error, err error) {
	_, vlans, err := p.vlans()
	if err != nil {
		return nil, err
	}
	match := []string{"protocol", "all", "matchall"}
	if vid != 0 && vid == native(vlans) {
		match = []string{"protocol", "all", "flower", "num_of_vlans", "0"}
	} else if vid != 0 {
		match = []string{"protocol", "802.1Q", "flower", "vlan_id", strconv.Itoa(int(vid))}
	}
	hook := "ingress"
	if out {
		hook = "egress"
	}
	return p.sw.filter(p.name, hook, pref, append(match, "action", "drop")...)
}

// secure lets in frames from these MACs only, in every VLAN of the port. They stay there (sticky): where
// VLANs leak or loop, another port would have them otherwise.
func (p switchPort) secure(macs []net.HardwareAddr) (undo func() error, err error) {
	_, vlans, err := p.vlans()
	if err != nil {
		return nil, err
	}
	entries := func(verb ...string) error {
		var errs []error
		for _, v := range vlans {
			for _, mac := range macs {
				words := []string{"fdb", verb[0], mac.String(), "dev", p.name, "vlan", strconv.Itoa(int(v.Vid)), "master"}
				errs = append(errs, p.sw.tool("bridge", append(words, verb[1:]...)...))
			}
		}
		return errors.Join(errs...)
	}
	undo = func() error {
		return errors.Join(entries("del", "static"), p.sw.tool("bridge", "link", "set", "dev", p.name, "locked", "off", "learning", "on"))
	}
	return undo, errors.Join(p.sw.tool("bridge", "link", "set", "dev", p.name, "locked", "on", "learning", "off"),
		p.sw.tool("ip", "link", "set", "dev", p.name, "type", "bridge_slave", "fdb_flush"), entries("replace", "static", "sticky"))
}

// impair is for netem, which the switch has for what it sends; what it receives goes
// through an interface of its own (ifb) first. The node's end has nothing of it.
func (p switchPort) impair(in, out bool, netem []string, serial int) (undo func() error, err error) {
	netem = append([]string{"root", "netem", "limit", "10000"}, netem...)
	var done undos
	if out {
		if err := p.sw.tool("tc", append([]string{"qdisc", "add", "dev", p.name}, netem...)...); err != nil {
			return nil, err
		}
		done = append(done, func() error { return p.sw.tool("tc", "qdisc", "del", "dev", p.name, "root") })
	}
	if in {
		ifb := fmt.Sprintf("slow%d", serial)
		if err := p.sw.tool("ip", "link", "add", ifb, "up", "type", "ifb"); err != nil {
			return done.run, err
		}
		done = append(done, func() error { return p.sw.tool("ip", "link", "del", ifb) })
		if err := p.sw.tool("tc", append([]string{"qdisc", "add", "dev", ifb}, netem...)...); err != nil {
			return done.run, err
		}
		const last = 60000 // after what drops
		off, err := p.sw.filter(p.name, "ingress", last, "protocol", "all", "matchall", "action", "mirred", "egress", "redirect", "dev", ifb)
		if err != nil {
			return done.run, err
		}
		done = append(done, off)
	}
	return done.run, nil
}

// reflect plugs something into an access port that sends each frame back as it is. The
// switch learns nothing there: only what it sends everywhere comes back.
func (l *Lab) reflect(sw *Space, vid uint16) (undo func() error, err error) {
	s, err := l.newSpace(fmt.Sprintf("loop-%s-%d", sw.Name, vid))
	if err != nil {
		return nil, err
	}
	if err := s.Sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return nil, err
	}
	name := fmt.Sprintf("loop%d", vid)
	if err := cable(sw, name, s, hostIf); err != nil {
		return nil, err
	}
	undo = func() error { return errors.Join(sw.tool("ip", "link", "del", name), l.Remove(s.Name)) }
	_, err = s.filter(hostIf, "ingress", 1, "protocol", "all", "matchall", "action", "mirred", "egress", "redirect", "dev", hostIf)
	if err := errors.Join(err, setPort(sw, name, SwitchPort{PVID: vid}),
		sw.tool("bridge", "link", "set", "dev", name, "learning", "off"), sw.up(name), s.up(hostIf)); err != nil {
		return undo, err
	}
	return undo, joined(sw, name, s, hostIf)
}

// leak joins access ports of two VLANs by a cable.
func (l *Lab) leak(sw *Space, a, b uint16) (undo func() error, err error) {
	first, second := fmt.Sprintf("leak%d-%d", a, b), fmt.Sprintf("leak%d-%d", b, a)
	if err := cable(sw, first, sw, second); err != nil {
		return nil, err
	}
	undo = func() error { return sw.tool("ip", "link", "del", first) }
	if err := errors.Join(setPort(sw, first, SwitchPort{PVID: a}), setPort(sw, second, SwitchPort{PVID: b}),
		sw.up(first), sw.up(second)); err != nil {
		return undo, err
	}
	return undo, joined(sw, first, sw, second)
}

// joined waits until both ends of a cable know of each other: until then the kernel lets
// nothing out at one of them, which one depends on who came up last.
func joined(a *Space, aName string, b *Space, bName string) error {
	return until(context.Background(), patience, func() error {
		one, err1 := a.Link.LinkByName(aName)
		two, err2 := b.Link.LinkByName(bName)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if one, two := one.Attrs().OperState, two.Attrs().OperState; one != netlink.OperUp || two != netlink.OperUp {
			return fmt.Errorf("%s of %s is %s, %s of %s is %s", aName, a.Name, one, bName, b.Name, two)
		}
		return nil
	})
}

// inspect has the switch throw away all ARP that comes in at the port, as dynamic ARP inspection
// does of whom it does not know.
func (p switchPort) inspect(pref int) (undo func() error, err error) {
	var done undos
	for i, match := range []string{"protocol arp matchall", "protocol 802.1Q flower vlan_ethtype arp"} {
		off, err := p.sw.filter(p.name, "ingress", pref+i, append(strings.Fields(match), "action", "drop")...)
		if err != nil {
			return done.run, err
		}
		done = append(done, off)
	}
	return done.run, nil
}

// isolate lets nothing pass between these ports, as protected ports of a switch.
func isolate(ports []switchPort) (undo func() error, err error) {
	var done undos
	for _, p := range ports {
		if err := p.sw.tool("bridge", "link", "set", "dev", p.name, "isolated", "on"); err != nil {
			return done.run, err
		}
		done = append(done, func() error { return p.sw.tool("bridge", "link", "set", "dev", p.name, "isolated", "off") })
	}
	return done.run, nil
}

// refuse leaves an interface no room for what is to be sent: senders are told so (ENOBUFS).
func (s *Space) refuse(ifName string) (undo func() error, err error) {
	undo = func() error { return s.tool("tc", "qdisc", "del", "dev", ifName, "root") }
	return undo, s.tool("tc", "qdisc", "add", "dev", ifName, "root", "pfifo", "limit", "0")
}

// silence lets a host be deaf to those who ask for its MAC, at one interface, or with ""
// at all: it answers no ARP request and no neighbor solicitation.
func (l *Lab) silence(s *Space, ifName string, pref int) (undo func() error, err error) {
	links, err := s.Link.LinkList()
	if err != nil {
		return nil, err
	}
	var done undos
	for _, link := range links {
		name := link.Attrs().Name
		if name != ifName && (ifName != "" || name == "lo") {
			continue
		}
		for i, match := range []string{"protocol arp flower arp_op request", "protocol ipv6 flower ip_proto icmpv6 type 135"} {
			off, err := s.filter(name, "ingress", pref+i, append(strings.Fields(match), "action", "drop")...)
			if err != nil {
				return done.run, err
			}
			done = append(done, off)
		}
	}
	if len(done) == 0 {
		return nil, fmt.Errorf("%s has no interface %s", s.Name, ifName)
	}
	return done.run, nil
}

// filter adds a tc filter to an interface. The hook that it is at stays.
func (s *Space) filter(ifName, hook string, pref int, words ...string) (undo func() error, err error) {
	index, err := s.ifIndex(ifName)
	if err != nil {
		return nil, err
	}
	err = s.Link.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}})
	if err != nil && !errors.Is(err, os.ErrExist) && !errors.Is(err, syscall.EEXIST) {
		return nil, fmt.Errorf("%s: clsact on %s: %w", s.Name, ifName, err)
	}
	place := []string{"dev", ifName, hook, "pref", strconv.Itoa(pref)}
	undo = func() error { return s.tool("tc", append([]string{"filter", "del"}, place...)...) }
	if err := s.tool("tc", append(append([]string{"filter", "add"}, place...), words...)...); err != nil {
		return nil, err
	}
	return undo, nil
}
