package reach

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// fault is one that is planted: what, at which node (0 to 3), in which VLAN.
type fault struct {
	kind string
	node int
	vlan vlan.ID
}

func (f fault) String() string { return fmt.Sprintf("%s n%d %d", f.kind, f.node+1, f.vlan) }

// plant does it to the fabric.
func (f fault) plant(s *site) {
	n := s.nodes[f.node]
	other := probe.MAC{0x02, 0xcc, 0, byte(len(f.kind)), byte(f.vlan >> 8), byte(f.vlan)}
	switch f.kind {
	case "down":
		n.desc.Trunks[0].Down = "no carrier"
	case "absent":
		n.absent = errors.New("connection refused")
	case "removed":
		n.port.remove(f.vlan)
	case "between":
		s.ab.remove(f.vlan)
	case "deaf":
		n.port.noOut = everything
	case "dumb":
		n.port.noIn = everything
	case "mtu":
		n.port.mtu = 1400
	case "secured":
		n.port.secure(n)
	case "native":
		n.port.setNative(f.vlan)
	case "silent":
		s.gateways[f.vlan].silent = true
	case "two":
		s.host(s.b, f.vlan, other, holds(gatewayOf(f.vlan)))
	case "loop":
		s.reflect(s.b, f.vlan)
	case "leak":
		s.join(s.b, f.vlan, f.vlan+1)
	case "rogue":
		s.host(s.b, f.vlan, other, serves(addrOf("10.9.9.9"), addrOf("10.9.9.99")))
	case "router":
		s.host(s.b, f.vlan, other, routes(addrOf("fe80::bad"), netip.MustParsePrefix("2001:db8::/64")))
	case "lldp":
		n.port.lldpOff = true
	}
}

var faultKinds = []string{"down", "absent", "removed", "between", "deaf", "dumb", "mtu", "secured", "native", "silent", "two", "loop", "leak", "rogue", "router", "lldp"}

// draw makes up to three faults. Left out are those of which two make a storm (loops and leaks),
// that are the same, or that change one switch port's VLANs twice.
func draw(r *rand.Rand, s *site) (all []fault) {
	has := func(f func(fault) bool) bool { return slices.ContainsFunc(all, f) }
	for range 1 + r.IntN(3) {
		f := fault{faultKinds[r.IntN(len(faultKinds))], r.IntN(4), s.vlans[1+r.IntN(len(s.vlans)-2)]}
		// Few VLANs, so that faults meet.
		if r.IntN(2) == 0 && len(all) > 0 {
			f.vlan, f.node = all[0].vlan, all[0].node
		}
		turns := func(k string) bool { return k == "loop" || k == "leak" }
		ports := func(k string) bool { return slices.Contains([]string{"removed", "native", "deaf", "dumb"}, k) }
		switch {
		case has(func(g fault) bool { return g.kind == f.kind && (g.node == f.node || g.vlan == f.vlan) }),
			turns(f.kind) && has(func(g fault) bool { return turns(g.kind) || g.kind == "between" }),
			f.kind == "between" && has(func(g fault) bool { return turns(g.kind) }),
			// Two wrongs can make a way.
			f.kind == "native" && has(func(g fault) bool { return g.kind == "leak" }), f.kind == "leak" && has(func(g fault) bool { return g.kind == "native" }),
			ports(f.kind) && has(func(g fault) bool {
				return g.node == f.node && ports(g.kind) && (g.kind == "native" || f.kind == "native")
			}):
			continue
		case f.kind == "rogue" && f.vlan > dhcpUpTo:
			f.vlan = 101 + f.vlan%3
			if has(func(g fault) bool { return g.kind == "rogue" }) {
				continue
			}
		}
		all = append(all, f)
	}
	return all
}

// expected is what the faults should be found as. It knows the fabric and what masks what, and
// nothing of hellos.
func expected(s *site, faults []fault) []string {
	var out []string
	find := func(c Code, node int, id vlan.ID) {
		name := "*"
		if node >= 0 {
			name = s.nodes[node].Node()
		}
		out = append(out, atom(c, name, id))
	}
	has := func(kind string, node int, id vlan.ID) bool {
		return slices.ContainsFunc(faults, func(f fault) bool {
			return f.kind == kind && (node < 0 || f.node == node) && (id == 0 || f.vlan == id)
		})
	}
	gone := func(n int) bool { return has("down", n, 0) || has("absent", n, 0) }
	speaks := 0 // nodes that have a switch's word
	for n := range 4 {
		switch {
		case has("absent", n, 0):
			find(AgentAbsent, n, 0)
		case has("down", n, 0):
			find(LinkDown, n, 0)
		}
		if !has("absent", n, 0) && !has("lldp", n, 0) {
			speaks++
		}
	}
	for n := range 4 {
		if has("lldp", n, 0) && !gone(n) && speaks > 0 {
			find(LLDPAbsent, n, 0)
		}
	}
	for _, id := range s.vlans {
		ofVLAN(s, id, gone, has, find)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func ofVLAN(s *site, id vlan.ID, gone func(int) bool, has func(string, int, vlan.ID) bool, find func(Code, int, vlan.ID)) {
	leaks := has("leak", -1, id) || id != native && has("leak", -1, id-1)
	loops := has("loop", -1, id)
	clean := !leaks && !loops
	dhcp := id != native && id <= dhcpUpTo
	var here []int // that take part
	for n := range 4 {
		if !gone(n) {
			here = append(here, n)
		}
	}
	if len(here) == 0 {
		return
	}
	if loops {
		find(Loop, -1, id)
	}
	if leaks {
		find(VLANLeak, -1, id)
	}
	// The core is at the first switch, with the gateway, or at the other if the VLAN does not get there
	// and more speaks for that one.
	between := has("between", -1, id)
	core := func(int) bool { return true }
	atFar := false
	if between {
		var near, far int
		for _, n := range here {
			switch {
			case cutOff(n, id, has) != "":
			case n < 2:
				near++
			default:
				far++
			}
		}
		nearHas, farHas := near > 0 && !has("silent", -1, id), far > 0 && has("two", -1, id)
		atFar = farHas && !nearHas || farHas == nearHas && far > near
		core = func(n int) bool { return n >= 2 == atFar }
	}
	var sound []int
	for _, n := range here {
		code := cutOff(n, id, has)
		if !core(n) && code != NativeVLANMismatch {
			code = NotTrunked
		}
		switch {
		case code == "":
			sound = append(sound, n)
		case len(here) > 1:
			find(code, n, id)
		}
	}
	var small []int
	for _, n := range sound {
		if has("mtu", n, 0) {
			small = append(small, n)
		}
		if clean && len(sound) > 1 && has("secured", n, 0) {
			find(MACFiltered, n, id)
		}
	}
	switch {
	case len(small) == 0 || len(sound) < 2:
	case len(sound)-len(small) < 2: // between no two of them: it may be any
		small = sound
		fallthrough
	default:
		for _, n := range small {
			find(MTUBelowIntent, n, id)
		}
	}
	if len(sound) == 0 {
		return
	}
	// The other station with the gateway's IPv4 address is at the second switch.
	two := has("two", -1, id) && (!between || atFar)
	silent := has("silent", -1, id) || atFar
	switch {
	case clean && silent: // of two addresses; the other station has but one of them
		find(GatewaySilent, -1, id)
	case clean && two:
		find(DuplicateAddress, -1, id)
	}
	atSecond := !between || atFar
	switch {
	case clean && dhcp && has("rogue", -1, id) && atSecond:
		find(DHCPRogue, -1, id)
	case clean && dhcp && silent:
		find(DHCPSilent, -1, id)
	}
	if !leaks && has("router", -1, id) && atSecond {
		find(RAUnexpected, -1, id)
	}
}

// cutOff is what a node is cut off by at its own port; "" is nothing.
func cutOff(n int, id vlan.ID, has func(string, int, vlan.ID) bool) Code {
	switch {
	case has("native", n, 0) && (id == native || has("native", n, id)):
		return NativeVLANMismatch
	case has("removed", n, id), has("deaf", n, 0) && has("dumb", n, 0):
		return NotTrunked
	case has("deaf", n, 0), has("dumb", n, 0):
		return OneWay
	}
	return ""
}

// TestCombinations plants up to three faults at a time, on a fabric that loses and delays: what
// is found is what was planted, and nothing where nothing was.
func TestCombinations(t *testing.T) {
	kinds := map[string]int{}
	for seed := range uint64(200) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s := newSite(seed)
				s.loss, s.jitter = 0.01, 20*time.Millisecond
				faults := draw(rand.New(rand.NewPCG(seed, 7)), s)
				for _, f := range faults {
					f.plant(s)
					kinds[f.kind]++
				}
				r := s.check(t, Options{})
				if d := cmp.Diff(expected(s, faults), atoms(r)); d != "" {
					t.Errorf("planted %v: expected -, found +\n%s", faults, d)
				}
			})
		})
	}
	for _, k := range faultKinds {
		if kinds[k] < 5 {
			t.Errorf("%q was planted %d times: the seeds do not cover it", k, kinds[k])
		}
	}
}
