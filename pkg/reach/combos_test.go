package reach

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
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
	other := f.mac()
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
		n.port.keep(everything)
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
	default:
		f.plantAddressed(s, n, other)
	}
}

// mac is that of a station of its own.
func (f fault) mac() probe.MAC {
	return probe.MAC{0x02, 0xcc, 1, byte(slices.Index(slices.Concat(faultKinds, addressedKinds), f.kind)), byte(f.vlan >> 8), byte(f.vlan)}
}

var faultKinds = []string{"down", "absent", "removed", "between", "deaf", "dumb", "mtu", "secured", "native", "silent", "two", "loop", "leak", "rogue", "router", "lldp"}

// draw makes up to three faults. Left out are those of which two make a storm (loops and leaks),
// that are the same, or that change one switch port's VLANs twice.
func draw(r *rand.Rand, s *site) (all []fault) {
	has := func(f func(fault) bool) bool { return slices.ContainsFunc(all, f) }
	for range 1 + r.IntN(3) {
		f := fault{faultKinds[r.IntN(len(faultKinds))], r.IntN(4), s.vlans[1+r.IntN(len(s.vlans)-2)]}
		if s.addressed {
			f = f.amongAddressed(r)
		}
		// Few VLANs, so that faults meet.
		if r.IntN(2) == 0 && len(all) > 0 {
			f.node = all[0].node
			if !slices.Contains(addressedKinds, f.kind) || all[0].vlan <= addressedUpTo {
				f.vlan = all[0].vlan
			}
		}
		turns := func(k string) bool { return k == "loop" || k == "leak" }
		ports := func(k string) bool { return slices.Contains([]string{"removed", "native", "deaf", "dumb"}, k) }
		switch {
		case has(func(g fault) bool {
			return g.kind == f.kind && (g.node == f.node || g.vlan == f.vlan || f.kind == "arp")
		}),
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

// oracle says what the faults should be found as. It knows the fabric and what masks what, and
// nothing of hellos.
type oracle struct {
	*site
	faults []fault
	found  []string
}

func expected(s *site, faults []fault) []string {
	o := &oracle{site: s, faults: faults}
	speaks := 0 // nodes that have a switch's word
	for n := range 4 {
		switch {
		case o.has("absent", n, 0):
			o.find(AgentAbsent, n, 0)
		case o.has("down", n, 0):
			o.find(LinkDown, n, 0)
		}
		if !o.has("absent", n, 0) && !o.has("lldp", n, 0) {
			speaks++
		}
	}
	for n := range 4 {
		if o.has("lldp", n, 0) && !o.gone(n) && speaks > 0 {
			o.find(LLDPAbsent, n, 0)
		}
	}
	for _, id := range s.vlans {
		o.in(id).expect()
	}
	slices.Sort(o.found)
	return slices.Compact(o.found)
}

func (o *oracle) find(c Code, node int, id vlan.ID) {
	name := "*"
	if node >= 0 {
		name = o.nodes[node].Node()
	}
	o.found = append(o.found, atom(c, name, id))
}

// has says that there is such a fault; at any node with -1, in any VLAN with 0.
func (o *oracle) has(kind string, node int, id vlan.ID) bool {
	return slices.ContainsFunc(o.faults, func(f fault) bool {
		return f.kind == kind && (node < 0 || f.node == node) && (id == 0 || f.vlan == id)
	})
}

func (o *oracle) gone(n int) bool { return o.has("down", n, 0) || o.has("absent", n, 0) }

// inVLAN is the oracle of one VLAN.
type inVLAN struct {
	*oracle
	id    vlan.ID
	here  []int // that take part
	sound []int // that are cut off by nothing
	// between: the VLAN does not get from switch to switch. The core is at the first one, with the gateway, or
	// at the other if more speaks for that.
	between, atFar bool
	// What was found, that masks others: between nodes, and of the gateway.
	small, filtered, secured []int
	two                      bool
}

func (o *oracle) in(id vlan.ID) *inVLAN {
	v := &inVLAN{oracle: o, id: id, between: o.has("between", -1, id)}
	for n := range 4 {
		if !v.gone(n) {
			v.here = append(v.here, n)
		}
	}
	if v.between {
		var near, far int
		var nearHas, farHas bool
		for _, n := range v.here {
			switch has := v.answers4(n).any(); {
			case v.cutOff(n) != "":
			case n < 2:
				near, nearHas = near+1, nearHas || has
			default:
				far, farHas = far+1, farHas || has
			}
		}
		v.atFar = farHas && !nearHas || farHas == nearHas && far > near
	}
	for _, n := range v.here {
		if v.cutOff(n) == "" && v.inCore(n) {
			v.sound = append(v.sound, n)
		}
	}
	return v
}

func (v *inVLAN) inCore(n int) bool { return !v.between || n >= 2 == v.atFar }

func (v *inVLAN) expect() {
	leaks := v.has("leak", -1, v.id) || v.id != native && v.has("leak", -1, v.id-1)
	loops := v.has("loop", -1, v.id)
	clean := !leaks && !loops
	dhcp := v.id != native && v.id <= dhcpUpTo
	if len(v.here) == 0 {
		return
	}
	if loops {
		v.find(Loop, -1, v.id)
	}
	if leaks {
		v.find(VLANLeak, -1, v.id)
	}
	for _, n := range v.here {
		code := v.cutOff(n)
		if !v.inCore(n) && code != NativeVLANMismatch {
			code = NotTrunked
		}
		if code != "" && len(v.here) > 1 {
			v.find(code, n, v.id)
		}
	}
	for _, n := range v.sound {
		if v.has("mtu", n, 0) {
			v.small = append(v.small, n)
		}
		if clean && len(v.sound) > 1 && v.has("secured", n, 0) {
			v.secured = append(v.secured, n)
			v.find(MACFiltered, n, v.id)
		}
	}
	switch {
	case len(v.sound) < 2:
		v.small = nil
	case len(v.small) > 0 && len(v.sound)-len(v.small) < 2: // between no two of them: it may be any
		v.small = v.sound
	}
	for _, n := range v.small {
		v.find(MTUBelowIntent, n, v.id)
	}
	if len(v.sound) == 0 {
		return
	}
	if clean {
		v.gateway()
		v.addressed()
	}
	atSecond := !v.between || v.atFar
	switch {
	case clean && dhcp && v.has("rogue", -1, v.id) && atSecond:
		v.find(DHCPRogue, -1, v.id)
	case clean && dhcp && (v.has("silent", -1, v.id) || v.atFar):
		v.find(DHCPSilent, -1, v.id)
	}
	if !leaks && v.has("router", -1, v.id) && atSecond {
		v.find(RAUnexpected, -1, v.id)
	}
}

// answerers are how many stations answer a node for the gateway's address, when it asks from no address, and from its source.
type answerers struct{ none, addressed int }

func (a answerers) any() bool { return a.none+a.addressed > 0 }

// answers4 are those for the IPv4 address. The other station that has it is at the second switch.
func (v *inVLAN) answers4(n int) (a answerers) {
	if v.has("arp", n, 0) {
		return a
	}
	asks := v.uses(n, true) && !v.has("secured", n, 0)
	count := func(addressedOnly bool) {
		if !addressedOnly {
			a.none++
		}
		if asks {
			a.addressed++
		}
	}
	if v.gatewayAt(n) {
		count(v.has("shy", -1, v.id))
	}
	if v.has("two", -1, v.id) && v.secondAt(n) {
		count(false)
	}
	return a
}

// gatewayAt says that the gateway answers a node; it is at the first switch. What is at the second one gets to
// a node as secondAt says.
func (v *inVLAN) gatewayAt(n int) bool { return !v.has("silent", -1, v.id) && (!v.between || n < 2) }
func (v *inVLAN) secondAt(n int) bool  { return !v.between || n >= 2 }

func (v *inVLAN) gateway() {
	none, with, six := 0, 0, 0
	for _, n := range v.sound {
		a := v.answers4(n)
		v.two = v.two || a.none > 1 || a.addressed > 1
		if a.none > 0 {
			none++
		}
		if a.any() {
			with++
		}
		if v.gatewayAt(n) {
			six++
		}
	}
	if v.two {
		v.find(DuplicateAddress, -1, v.id)
	}
	if with == 0 || six == 0 {
		v.find(GatewaySilent, -1, v.id)
	}
	// Of who has no answer from no address, and others have; or from its source, if its MAC is not filtered.
	for _, n := range v.sound {
		if !v.answers4(n).any() && (none > 0 || with > 0 && v.uses(n, true) && !slices.Contains(v.secured, n)) {
			v.filtered = append(v.filtered, n)
			v.find(GatewayFiltered, n, v.id)
		}
	}
}

// cutOff is what a node is cut off by at its own port; "" is nothing.
func (v *inVLAN) cutOff(n int) Code {
	switch {
	case v.has("native", n, 0) && (v.id == native || v.has("native", n, v.id)):
		return NativeVLANMismatch
	case v.has("removed", n, v.id), v.has("deaf", n, 0) && v.has("dumb", n, 0):
		return NotTrunked
	case v.has("deaf", n, 0), v.has("dumb", n, 0):
		return OneWay
	}
	return ""
}

// gateSeeds combinations have each kind of fault some times.
const gateSeeds = 200

// combinations is how many there are; by hand it may be more.
func combinations(t *testing.T) uint64 {
	text := os.Getenv("HOMEPORT_SEEDS")
	if text == "" {
		return gateSeeds
	}
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatalf("HOMEPORT_SEEDS: %v", err)
	}
	return n
}

// combination plants the faults of a seed, and says what is found that was not expected, or not found that was.
func combination(t *testing.T, seed uint64, kinds map[string]int) (wrong string) {
	inBubble(t, func(t *testing.T) {
		s := newSite(seed)
		if seed%2 == 1 {
			s = newAddressed(seed)
		}
		s.loss, s.jitter = 0.01, 20*time.Millisecond
		faults := draw(rand.New(rand.NewPCG(seed, 7)), s)
		for _, f := range faults {
			f.plant(s)
			kinds[f.kind]++
		}
		used := s.watchSources()
		r := s.check(t, Options{})
		close(s.over)
		if d := cmp.Diff(expected(s, faults), atoms(tellGateways(r))); d != "" {
			wrong += fmt.Sprintf("planted %v: expected -, found +\n%s", faults, d)
		}
		if d := cmp.Diff(expectedUse(s, faults, used), used); d != "" {
			wrong += fmt.Sprintf("planted %v: sources that should be used -, that were +\n%s", faults, d)
		}
	})
	return wrong
}

// TestCombinations plants up to three faults at a time, on a fabric that loses and delays: what
// is found is what was planted, and nothing where nothing was. On every second one nodes have addresses to ask from,
// and from one that another has none sends. HOMEPORT_SEEDS is how many combinations there are.
func TestCombinations(t *testing.T) {
	kinds := map[string]int{}
	for seed := range combinations(t) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			if wrong := combination(t, seed, kinds); wrong != "" {
				t.Error(wrong)
			}
		})
	}
	for _, k := range slices.Concat(faultKinds, addressedKinds) {
		if combinations(t) >= gateSeeds && kinds[k] < 5 {
			t.Errorf("%q was planted %d times: the seeds do not cover it", k, kinds[k])
		}
	}
}
