package netns

import (
	"cmp"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

const faultUsage = `fault vlan PORT VLAN...            the port loses VLANs
	fault native PORT VLAN             untagged frames are of another VLAN; 0: of none
	fault mtu PORT BYTES               longer payloads are lost, either way
	fault drop PORT in|out [vlan=VLAN] what comes in there, or goes out, is lost
	fault security PORT [MAC...]       what comes in from other MACs is lost
	fault loop SWITCH VLAN             what is sent to everyone comes back, once
	fault leak SWITCH VLAN VLAN        two VLANs are one
	fault silent HOST[/IF]             answers no ARP, no neighbor solicitation
	fault arp PORT                     ARP that comes in there is lost
	fault isolated PORT PORT...        nothing passes between these ports of a switch
	fault refuse NODE[/IF]             the node's own kernel sends nothing, and says so
	fault twin HOST MAC                the host speaks from that MAC, too, ten times a second
	fault netem PORT [in|out] [delay=20ms] [jitter=5ms] [loss=1%] [duplicate=1%]
	PORT is what it leads to, [SWITCH:]NAME[/IF]: a node, a host, another switch`

// faultAt breaks something at a port; words are those after its name.
type faultAt func(s *session, p switchPort, words []string) (undo func() error, err error)

func faultsAt() map[string]faultAt {
	return map[string]faultAt{"vlan": faultVLAN, "native": faultNative, "mtu": faultMTU, "drop": faultDrop, "security": faultSecurity,
		"arp": faultARP, "isolated": faultIsolated, "netem": faultNetem}
}

// cmdFault breaks something of the fabric, until heal.
func cmdFault(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, -1, faultUsage); err != nil {
		return err
	}
	kind, words := args[0], args[2:]
	if at := faultsAt()[kind]; at != nil {
		p, err := s.lab.findPort(args[1])
		if err != nil {
			return err
		}
		joins, err := s.lab.joins(kind, p, words)
		if err != nil {
			return err
		}
		return s.lab.add(args, joins, func() (func() error, error) { return at(s, p, words) })
	}
	name, ifName, _ := strings.Cut(args[1], "/")
	space, err := s.lab.Space(name)
	if err != nil {
		return err
	}
	switch kind {
	case "silent":
		return s.lab.add(args, nil, func() (func() error, error) { return s.lab.silence(space, ifName, s.lab.serial) })
	case "refuse":
		return s.lab.add(args, nil, func() (func() error, error) { return space.refuse(cmp.Or(ifName, Uplink)) })
	case "twin":
		return s.lab.add(args, nil, func() (func() error, error) { return faultTwin(s, space, words) })
	}
	vids, err := parseVLANs(words)
	switch {
	case err != nil:
		return err
	case kind == "loop" && len(vids) == 1:
		return s.lab.add(args, vids, func() (func() error, error) { return s.lab.reflect(space, vids[0]) })
	case kind == "leak" && len(vids) == 2:
		return s.lab.add(args, vids, func() (func() error, error) { return s.lab.leak(space, vids[0], vids[1]) })
	}
	return &usageError{faultUsage}
}

// joins tells which VLANs a fault at a port joins: a native VLAN that is not the same
// at both ends of a cable between switches does.
func (l *Lab) joins(kind string, p switchPort, words []string) ([]uint16, error) {
	if kind != "native" || len(l.portsOf(p.to)) == 0 {
		return nil, nil
	}
	vids, err := parseVLANs(words)
	if err != nil {
		return nil, err
	}
	_, now, err := p.vlans()
	return slices.DeleteFunc(append(vids, native(now)), func(v uint16) bool { return v == 0 }), err
}

func parseVLANs(words []string) ([]uint16, error) {
	var out []uint16
	for _, w := range words {
		v, err := strconv.ParseUint(w, 10, 12)
		if err != nil {
			return nil, &usageError{faultUsage}
		}
		out = append(out, uint16(v))
	}
	return out, nil
}

func faultVLAN(_ *session, p switchPort, words []string) (func() error, error) {
	vids, err := parseVLANs(words)
	if err != nil || len(vids) == 0 {
		return nil, &usageError{faultUsage}
	}
	var done undos
	for _, v := range vids {
		undo, err := p.loseVLAN(v)
		if err != nil {
			return done.run, err
		}
		done = append(done, undo)
	}
	return done.run, nil
}

func faultNative(_ *session, p switchPort, words []string) (func() error, error) {
	vids, err := parseVLANs(words)
	if err != nil || len(vids) != 1 {
		return nil, &usageError{faultUsage}
	}
	return p.setNative(vids[0])
}

func faultMTU(s *session, p switchPort, words []string) (func() error, error) {
	n, err := strconv.Atoi(strings.Join(words, " "))
	if err != nil {
		return nil, &usageError{faultUsage}
	}
	return s.lab.limit(p, n, s.lab.serial)
}

func faultDrop(s *session, p switchPort, words []string) (func() error, error) {
	if len(words) == 0 || words[0] != "in" && words[0] != "out" {
		return nil, &usageError{faultUsage}
	}
	out := words[0] == "out"
	var vid []uint16
	if len(words) == 2 {
		v, _ := cutPrefix(words[1], "vlan=")
		var err error
		if vid, err = parseVLANs([]string{v}); err != nil {
			return nil, err
		}
	} else if len(words) > 2 {
		return nil, &usageError{faultUsage}
	}
	return p.drop(out, append(vid, 0)[0], s.lab.serial)
}

func faultSecurity(_ *session, p switchPort, words []string) (func() error, error) {
	var macs []net.HardwareAddr
	for _, w := range words {
		mac, err := net.ParseMAC(w)
		if err != nil {
			return nil, &usageError{err.Error()}
		}
		macs = append(macs, mac)
	}
	return p.secure(macs)
}

func faultARP(s *session, p switchPort, words []string) (func() error, error) {
	if len(words) > 0 {
		return nil, &usageError{faultUsage}
	}
	return p.inspect(s.lab.serial)
}

func faultIsolated(s *session, p switchPort, words []string) (func() error, error) {
	ports := []switchPort{p}
	for _, w := range words {
		other, err := s.lab.findPort(w)
		if err != nil || other.sw != p.sw {
			return nil, &usageError{faultUsage}
		}
		ports = append(ports, other)
	}
	if len(ports) < 2 {
		return nil, &usageError{faultUsage}
	}
	return isolate(ports)
}

// faultTwin has the switches learn a MAC at the host's port again and again, as where a VM was cloned.
func faultTwin(s *session, space *Space, words []string) (func() error, error) {
	mac, err := net.ParseMAC(strings.Join(words, ""))
	if err != nil {
		return nil, &usageError{faultUsage}
	}
	out, err := space.Sender()
	if err != nil {
		return nil, err
	}
	const every = 100 * time.Millisecond
	frame := arpRequest(mac, net.IPv4zero, net.IPv4bcast)
	stop := s.lab.repeat(every, func() { _ = out.Send(hostIf, frame, 1) }) // a cable may be unplugged meanwhile
	return func() error { stop(); return out.Close() }, nil
}

func faultNetem(s *session, p switchPort, words []string) (func() error, error) {
	in, out := true, true
	if len(words) > 0 && (words[0] == "in" || words[0] == "out") {
		in, out, words = words[0] == "in", words[0] == "out", words[1:]
	}
	var netem []string
	for _, w := range words {
		key, v, ok := strings.Cut(w, "=")
		if !ok || key != "delay" && key != "jitter" && key != "loss" && key != "duplicate" {
			return nil, &usageError{faultUsage}
		}
		if key == "jitter" { // tc has it as a second word of the delay
			key = ""
		}
		netem = append(netem, strings.Fields(key+" "+v)...)
	}
	return p.impair(in, out, netem, s.lab.serial)
}

// cmdHeal undoes faults: all, or those that begin with the words. Faults that change
// the same thing are healed the latest first, as heal does by itself.
func cmdHeal(s *session, _ io.Writer, args []string) error { return s.lab.Heal(args...) }

// cmdManage joins nodes by the management network; $MGMT_NODE is a node's address there.
func cmdManage(s *session, _ io.Writer, args []string) error {
	if err := want(args, 1, -1, "manage NODE..."); err != nil {
		return err
	}
	for _, name := range args {
		n, err := s.lab.FindNode(name)
		if err != nil {
			return err
		}
		var addr netip.Addr
		if addr, err = s.lab.Manage(n); err != nil {
			return fmt.Errorf("management network: %w", err)
		}
		s.ts.Setenv("MGMT_"+name, addr.String())
	}
	return nil
}
