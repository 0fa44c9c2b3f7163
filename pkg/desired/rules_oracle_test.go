package desired

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/policy/policytest"
)

// This file has a second time which rule of FirewallPolicies decides, and what, as the
// comments of the API tell it: manifests are read by nothing of ours, and every policy,
// rule, peer and service is asked about the packet at hand.

// fwWorld is what manifests say.
type fwWorld struct {
	networks  []v1alpha1.VLANNetwork
	policies  []v1alpha1.FirewallPolicy
	addresses map[string]v1alpha1.AddressSet
	services  map[string]v1alpha1.ServiceSet
}

// readWorld takes manifests at their word; ok is false if they cannot be told apart or say
// what only a cluster can answer.
func readWorld(text string) (w fwWorld, ok bool) {
	w = fwWorld{addresses: map[string]v1alpha1.AddressSet{}, services: map[string]v1alpha1.ServiceSet{}}
	seen := map[string]bool{}
	for doc := range strings.SplitSeq("\n"+text, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if yaml.Unmarshal([]byte(doc), &o) != nil || seen[o.Kind+o.Metadata.Name] {
			return w, false
		}
		seen[o.Kind+o.Metadata.Name] = true
		var err error
		switch o.Kind {
		case "VLANNetwork":
			w.networks = append(w.networks, v1alpha1.VLANNetwork{})
			err = yaml.Unmarshal([]byte(doc), &w.networks[len(w.networks)-1])
		case "FirewallPolicy":
			w.policies = append(w.policies, v1alpha1.FirewallPolicy{})
			err = yaml.Unmarshal([]byte(doc), &w.policies[len(w.policies)-1])
		case "AddressSet":
			var s v1alpha1.AddressSet
			err = yaml.Unmarshal([]byte(doc), &s)
			w.addresses[s.Name] = s
		case "ServiceSet":
			var s v1alpha1.ServiceSet
			err = yaml.Unmarshal([]byte(doc), &s)
			w.services[s.Name] = s
		}
		if err != nil {
			return w, false
		}
	}
	return w, !strings.Contains(text, "vm:")
}

// fwVerdict is a policy's name and a rule's ID, or the default action's, and what they say.
type fwVerdict struct {
	action  v1alpha1.Action
	key     policy.RuleKey
	monitor policy.RuleKey // that would have decided before, or none
}

// judge is what the policies say at ports of a network, or at those of none.
func (w *fwWorld) judge(network string, p policy.Packet) fwVerdict {
	v := fwVerdict{action: v1alpha1.ActionDrop, key: policy.DefaultKey(network)}
	for _, n := range w.networks {
		if n.Name == network {
			v.action = v1alpha1.Action(n.Spec.DefaultAction)
		}
	}
	all := slices.Clone(w.policies)
	order := []v1alpha1.Category{v1alpha1.CategoryEthernet, v1alpha1.CategoryEmergency, v1alpha1.CategoryInfrastructure, v1alpha1.CategoryEnvironment, v1alpha1.CategoryApplication}
	slices.SortFunc(all, func(a, b v1alpha1.FirewallPolicy) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Spec.Category), slices.Index(order, b.Spec.Category)),
			cmp.Compare(a.Spec.Order, b.Spec.Order), cmp.Compare(a.Name, b.Name))
	})
	allowed := p.EtherType == 0x8035 // the frame, so that the next category decides
	for _, pol := range all {
		ethernet := pol.Spec.Category == v1alpha1.CategoryEthernet
		if ethernet && allowed {
			continue
		}
		own := map[policy.Direction]netip.Addr{policy.In: p.Dst, policy.Out: p.Src}[p.Direction]
		if !slices.ContainsFunc(pol.Spec.AppliedTo, func(a v1alpha1.AppliedTo) bool {
			return a.Any || network != "" && a.Network == network || p.IP && a.AddressSet != "" && w.inSet(a.AddressSet, own)
		}) {
			continue
		}
		for _, r := range pol.Spec.Rules {
			key := policy.RuleKey{Policy: pol.Name, ID: uint32(r.ID)}
			matches := w.matches
			if ethernet {
				matches = w.matchesFrame
			}
			switch {
			case ethernet && allowed:
			case r.State == v1alpha1.RuleDisabled || !matches(r, p):
			case r.State != v1alpha1.RuleMonitor && ethernet && r.Action == v1alpha1.ActionAllow && p.IP:
				allowed = true
			case r.State != v1alpha1.RuleMonitor:
				return fwVerdict{r.Action, key, v.monitor}
			case v.monitor == policy.RuleKey{}:
				v.monitor = key
			}
		}
	}
	return v
}

func (w *fwWorld) matches(r v1alpha1.FirewallRule, p policy.Packet) bool {
	if r.Direction == v1alpha1.DirectionIn && p.Direction != policy.In || r.Direction == v1alpha1.DirectionOut && p.Direction != policy.Out {
		return false
	}
	return w.isPeer(r.Sources, r.SourcesExcluded, p.IP, p.Src) && w.isPeer(r.Destinations, r.DestinationsExcluded, p.IP, p.Dst) &&
		(len(r.Services) == 0 || r.Services[0].Any || p.IP && slices.ContainsFunc(r.Services, func(s v1alpha1.Service) bool { return w.isService(s, p) }))
}

func (w *fwWorld) matchesFrame(r v1alpha1.FirewallRule, p policy.Packet) bool {
	if r.Direction == v1alpha1.DirectionIn && p.Direction != policy.In || r.Direction == v1alpha1.DirectionOut && p.Direction != policy.Out {
		return false
	}
	return isMAC(r.Sources, r.SourcesExcluded, p.SrcMAC) && isMAC(r.Destinations, r.DestinationsExcluded, p.DstMAC) &&
		(len(r.Services) == 0 || r.Services[0].Any || slices.ContainsFunc(r.Services, func(s v1alpha1.Service) bool { return w.isEtherType(s, p.EtherType) }))
}

func isMAC(peers []v1alpha1.Peer, excluded bool, m policy.MAC) bool {
	if len(peers) == 0 || peers[0].Any {
		return true
	}
	bits := func(m []byte) (out string) {
		for _, b := range m {
			out += fmt.Sprintf("%08b", b)
		}
		return out
	}
	return excluded != slices.ContainsFunc(peers, func(p v1alpha1.Peer) bool {
		text, length, ok := strings.Cut(p.MAC, "/")
		n, err := strconv.Atoi(length)
		if !ok {
			n, err = 48, nil
		}
		want, wrong := net.ParseMAC(text)
		return err == nil && wrong == nil && strings.HasPrefix(bits(m[:]), bits(want)[:n])
	})
}

func (w *fwWorld) isEtherType(s v1alpha1.Service, n uint16) bool {
	if s.ServiceSet != "" {
		set := w.services[s.ServiceSet].Spec
		return slices.ContainsFunc(set.Services, func(s v1alpha1.Service) bool { return w.isEtherType(s, n) }) ||
			slices.ContainsFunc(set.Includes, func(name string) bool { return w.isEtherType(v1alpha1.Service{ServiceSet: name}, n) })
	}
	number, ok := map[string]uint16{"ipv4": 0x800, "ipv6": 0x86dd, "arp": 0x806, "lldp": 0x88cc}[strings.ToLower(s.EtherType)]
	if !ok && s.EtherType != "" {
		wide, err := strconv.ParseUint(s.EtherType, 0, 16)
		number, ok = uint16(wide), err == nil
	}
	return ok && number == n
}

func (w *fwWorld) isPeer(peers []v1alpha1.Peer, excluded, ip bool, a netip.Addr) bool {
	if len(peers) == 0 || peers[0].Any {
		return true
	}
	return ip && excluded != slices.ContainsFunc(peers, func(p v1alpha1.Peer) bool {
		switch {
		case p.AddressSet != "":
			return w.inSet(p.AddressSet, a)
		case p.Network != "":
			return slices.ContainsFunc(w.networks, func(n v1alpha1.VLANNetwork) bool {
				return n.Name == p.Network && slices.ContainsFunc(n.Spec.Subnets, func(s v1alpha1.Subnet) bool { return inSpan(s.CIDR, a) })
			})
		}
		return inSpan(p.IP+p.CIDR+p.Range, a)
	})
}

func (w *fwWorld) inSet(name string, a netip.Addr) bool {
	s := w.addresses[name].Spec
	return slices.ContainsFunc(s.Addresses, func(text string) bool { return inSpan(text, a) }) ||
		slices.ContainsFunc(s.Includes, func(name string) bool { return w.inSet(name, a) })
}

func inSpan(text string, a netip.Addr) bool {
	if strings.Contains(text, "/") {
		return netip.MustParsePrefix(text).Contains(a)
	}
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		last = first
	}
	lo, hi := netip.MustParseAddr(strings.TrimSpace(first)), netip.MustParseAddr(strings.TrimSpace(last))
	return lo.BitLen() == a.BitLen() && lo.Compare(a) <= 0 && a.Compare(hi) <= 0
}

func (w *fwWorld) isService(s v1alpha1.Service, p policy.Packet) bool {
	if s.ServiceSet != "" {
		set := w.services[s.ServiceSet].Spec
		return slices.ContainsFunc(set.Services, func(s v1alpha1.Service) bool { return w.isService(s, p) }) ||
			slices.ContainsFunc(set.Includes, func(name string) bool { return w.isService(v1alpha1.Service{ServiceSet: name}, p) })
	}
	if s.EtherType != "" {
		return false
	}
	if s.ProtocolNumber != nil {
		return p.Protocol == uint8(*s.ProtocolNumber)
	}
	number := map[v1alpha1.Protocol]uint8{v1alpha1.ProtocolTCP: 6, v1alpha1.ProtocolUDP: 17, v1alpha1.ProtocolSCTP: 132, v1alpha1.ProtocolICMP: 1, v1alpha1.ProtocolICMPv6: 58}
	if p.Protocol != number[s.Protocol] {
		return false
	}
	if s.Ports == "" && s.SourcePorts == "" && s.TCPFlags == "" && len(s.Types) == 0 {
		return true
	}
	for part := range strings.SplitSeq(s.TCPFlags, ",") {
		bits := map[string]uint8{"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ECE": 64, "CWR": 128}
		name, not := strings.CutPrefix(strings.TrimSpace(part), "!")
		if s.TCPFlags != "" && (p.Flags&bits[strings.ToUpper(name)] != 0) == not {
			return false
		}
	}
	has := func(list []int32, n uint16) bool { return len(list) == 0 || slices.Contains(list, int32(n)) }
	return p.HasService && inPorts(s.Ports, p.Service) && inPorts(s.SourcePorts, p.SourcePort) && has(s.Types, p.Service>>8) && has(s.Codes, p.Service&0xff)
}

func inPorts(text string, port uint16) bool {
	return text == "" || slices.ContainsFunc(strings.Split(text, ","), func(part string) bool {
		first, last, ok := strings.Cut(part, "-")
		if !ok {
			last = first
		}
		lo, err1 := strconv.Atoi(strings.TrimSpace(first))
		hi, err2 := strconv.Atoi(strings.TrimSpace(last))
		return err1 == nil && err2 == nil && lo <= int(port) && int(port) <= hi
	})
}

// fwGen makes manifests. Addresses, ports and types are few, so that rules meet.
type fwGen struct{ npGen }

func (g fwGen) addr() string {
	return one(g.npGen, "10.0.0.", "fd00::") + strconv.Itoa(g.IntN(10))
}

func (g fwGen) span() (kind, text string) {
	switch g.IntN(3) {
	case 0:
		return "ip", g.addr()
	case 1:
		a := netip.MustParseAddr(g.addr())
		p, _ := a.Prefix(a.BitLen() - g.IntN(4))
		return "cidr", p.String()
	}
	n := g.IntN(7)
	base := one(g.npGen, "10.0.0.", "fd00::")
	return "range", fmt.Sprint(base, n, one(g.npGen, "-", " - "), base, n+g.IntN(10-n))
}

func (g fwGen) peers() string {
	if g.IntN(8) == 0 {
		return "[{any: true}]"
	}
	var out []string
	for range 1 + g.IntN(3) {
		kind, text := g.span()
		if g.IntN(3) == 0 {
			kind, text = "addressSet", fmt.Sprint("a", g.IntN(4))
		} else if g.IntN(5) == 0 {
			kind, text = "network", one(g.npGen, "vlan100", "vlan300")
		}
		out = append(out, fmt.Sprintf("{%s: %q}", kind, text))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (g fwGen) ports() string {
	var out []string
	for range 1 + g.IntN(2) {
		n := 79 + g.IntN(6)
		out = append(out, one(g.npGen, fmt.Sprint(n), fmt.Sprint(n, "-", n+g.IntN(4)), fmt.Sprint(n, " - ", n+2)))
	}
	return strings.Join(out, one(g.npGen, ",", ", "))
}

func (g fwGen) service() string {
	switch g.IntN(6) {
	case 0:
		return fmt.Sprintf("{protocolNumber: %d}", one(g.npGen, 47, 50, 2))
	case 1:
		s := "{protocol: " + one(g.npGen, "ICMP", "ICMPv6")
		switch g.IntN(3) {
		case 0:
			s += ", types: [3, 8]"
		case 1:
			s += one(g.npGen, ", types: [3], codes: [0, 1]", ", types: [8], codes: [2]")
		}
		return s + "}"
	}
	s := "{protocol: " + one(g.npGen, "TCP", "TCP", "UDP", "SCTP")
	if strings.HasSuffix(s, "TCP") && g.IntN(4) == 0 {
		s += fmt.Sprintf(", tcpFlags: %q", one(g.npGen, "SYN", "SYN,!ACK", "!syn, fin", "RST", "!ACK"))
	}
	if g.IntN(4) > 0 {
		s += fmt.Sprintf(", ports: %q", g.ports())
	}
	if g.IntN(4) == 0 {
		s += fmt.Sprintf(", sourcePorts: %q", g.ports())
	}
	return s + "}"
}

func (g fwGen) services(sets bool) string {
	if sets && g.IntN(8) == 0 {
		return "[{any: true}]"
	}
	var out []string
	for range 1 + g.IntN(3) {
		if sets && g.IntN(3) == 0 {
			out = append(out, fmt.Sprintf("{serviceSet: s%d}", g.IntN(3)))
		} else {
			out = append(out, g.service())
		}
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func (g fwGen) rule(id int) string {
	s := fmt.Sprintf("  - {id: %d, action: %s", id, one(g.npGen, "Allow", "Allow", "Drop", "Reject"))
	for _, field := range []string{"sources", "destinations"} {
		if g.IntN(3) == 0 {
			continue
		}
		peers := g.peers()
		s += fmt.Sprintf(", %s: %s", field, peers)
		if g.IntN(4) == 0 && !strings.Contains(peers, "any") {
			s += fmt.Sprintf(", %sExcluded: true", field)
		}
	}
	if g.IntN(3) > 0 {
		s += ", services: " + g.services(true)
	}
	if g.IntN(2) == 0 {
		s += ", direction: " + one(g.npGen, "In", "Out", "InOut")
	}
	if g.IntN(3) == 0 {
		s += ", state: " + one(g.npGen, "Enabled", "Monitor", "Disabled")
	}
	return s + "}\n"
}

func (g fwGen) frameRule(id int) string {
	s := fmt.Sprintf("  - {id: %d, action: %s", id, one(g.npGen, "Allow", "Drop"))
	for _, field := range []string{"sources", "destinations"} {
		if g.IntN(2) == 0 {
			continue
		}
		var peers []string
		for range 1 + g.IntN(2) {
			peers = append(peers, fmt.Sprintf("{mac: %q}", one(g.npGen, "02:00:00:00:00:01", "02-00-00-00-00-02", "00:50:56:00:01:02", "00:50:56:00:00:00/24", "00:50:56:00:00:00/23", "FF:FF:FF:FF:FF:FF", "02:00:00:00:00:00/46")))
		}
		s += fmt.Sprintf(", %s: [%s]", field, strings.Join(peers, ", "))
		if g.IntN(4) == 0 {
			s += fmt.Sprintf(", %sExcluded: true", field)
		}
	}
	if g.IntN(3) > 0 {
		s += ", services: [" + one(g.npGen, "{serviceSet: ether}", "{etherType: ipv4}", "{etherType: IPv6}, {etherType: \"0x8892\"}", "{etherType: LLDP}", "{any: true}") + "]"
	}
	if g.IntN(2) == 0 {
		s += ", direction: " + one(g.npGen, "In", "Out", "InOut")
	}
	if g.IntN(3) == 0 {
		s += ", state: " + one(g.npGen, "Enabled", "Monitor", "Disabled")
	}
	return s + "}\n"
}

func (g fwGen) manifests() string {
	var s strings.Builder
	s.WriteString(edit(trunk0, "100-110,200", "100-110,200,300") + "---\n" + edit(vlan100, "10.100.0.0/24, gateway: 10.100.0.1", "10.0.0.0/30") + "---\n" + vlan200 + "---\n" +
		edit(edit(vlan200, "vlan200", "vlan300"), "id: 200", "id: 300") + "  subnets: [{cidr: fd00::8/125}, {cidr: 10.0.0.4/31}]\n")
	object := func(kind, name, spec string) {
		fmt.Fprintf(&s, "---\napiVersion: homeport.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec:\n%s", kind, name, spec)
	}
	for i := range 4 { // a0 includes a1 and so on, and some have nothing of their own
		var own []string
		for range g.IntN(4) {
			if _, text := g.span(); !slices.Contains(own, strconv.Quote(text)) {
				own = append(own, strconv.Quote(text))
			}
		}
		spec := "  addresses: [" + strings.Join(own, ", ") + "]\n"
		if i < 3 && g.IntN(2) == 0 {
			spec += fmt.Sprintf("  includes: [a%d]\n", i+1)
		}
		object("AddressSet", fmt.Sprint("a", i), spec)
	}
	for i := range 3 {
		spec := "  services: " + g.services(false) + "\n"
		if i < 2 && g.IntN(2) == 0 {
			spec += fmt.Sprintf("  includes: [s%d]\n", i+1)
		}
		object("ServiceSet", fmt.Sprint("s", i), spec)
	}
	object("ServiceSet", "ether", "  services: [{etherType: IPv4}, {etherType: \"0x0842\"}]\n  includes: [s0]\n") // of both kinds
	for i := range g.IntN(3) {
		spec := fmt.Sprintf("  category: Ethernet\n  order: %d\n  appliedTo: %s\n  rules:\n", g.IntN(3), one(g.npGen, "[{any: true}]", "[{network: vlan100}]"))
		for id := range 1 + g.IntN(3) {
			spec += g.frameRule(10 - id)
		}
		object("FirewallPolicy", fmt.Sprint("e", i), spec)
	}
	for i := range 1 + g.IntN(4) {
		spec := fmt.Sprintf("  category: %s\n  order: %d\n  appliedTo: %s\n  rules:\n", one(g.npGen, "Emergency", "Infrastructure", "Environment", "Application"),
			g.IntN(3), one(g.npGen, "[{any: true}]", "[{network: vlan100}]", "[{network: vlan200}, {network: vlan100}]",
				"[{addressSet: a1}]", "[{addressSet: a2}, {network: vlan100}, {addressSet: a0}]"))
		for id := range 1 + g.IntN(5) {
			spec += g.rule(10 - id)
		}
		object("FirewallPolicy", fmt.Sprint("p", i), spec)
	}
	return s.String()
}

func (g fwGen) packet() (p policy.Packet) {
	p.Direction = one(g.npGen, policy.In, policy.Out)
	if g.IntN(20) == 0 {
		return p
	}
	p.IP, p.Protocol = true, one[uint8](g.npGen, 6, 6, 17, 132, 47, 50, 2, 99)
	base, icmp := "10.0.0.", uint8(policy.ICMP)
	if g.IntN(2) == 0 {
		base, icmp = "fd00::", policy.ICMPv6
	}
	p.Src, p.Dst = netip.MustParseAddr(base+strconv.Itoa(g.IntN(12))), netip.MustParseAddr(base+strconv.Itoa(g.IntN(12)%10))
	if g.IntN(5) == 0 {
		p.Protocol = icmp
	}
	switch first := g.IntN(8) > 0; {
	case first && p.Protocol == icmp:
		p.HasService, p.Service = true, one[uint16](g.npGen, 3, 4, 8)<<8|uint16(g.IntN(3))
	case first && policy.HasPorts(p.Protocol):
		p.HasService, p.Service, p.SourcePort = true, uint16(78+g.IntN(10)), uint16(78+g.IntN(10))
		if p.Protocol == policy.TCP {
			p.Flags = one[uint8](g.npGen, 2, 2, 2|64, 16, 1|16, 4)
		}
	}
	return p
}

// obeys compares what is enforced with what manifests say; count is by what decided.
func (w *fwWorld) obeys(tb testing.TB, text string, s *Snapshot, packets func(policy.Set) []policy.Packet, count map[string]int) {
	tb.Helper()
	for _, set := range s.PolicySets() {
		counters, err := compile.Allocate(nil, []policy.Set{set})
		if err != nil {
			tb.Fatal(err)
		}
		prog, err := compile.Build(compile.Input{Sets: []policy.Set{set}, Counters: counters})
		if err != nil {
			count["refused"]++ // by what only the compiler knows
			continue
		}
		for _, p := range packets(set) {
			want := w.judge(set.Network, p)
			got := policy.Evaluate(&set, p)
			is := fwVerdict{action: map[policy.Action]v1alpha1.Action{policy.Allow: v1alpha1.ActionAllow, policy.Drop: v1alpha1.ActionDrop, policy.Reject: v1alpha1.ActionReject}[got.Action], key: policy.DefaultKey(set.Network)}
			if got.Rule >= 0 {
				is.key = set.Rules[got.Rule].Key
			}
			if len(got.Monitored) > 0 {
				is.monitor = set.Rules[got.Monitored[0]].Key
			}
			if is != want {
				tb.Fatalf("at ports of %q, %+v: got %+v, want %+v\n%s", set.Network, p, is, want, text)
			}
			by := "default "
			switch {
			case got.Rule >= 0 && set.Rules[got.Rule].Ethernet:
				by = "frame "
			case got.Rule >= 0:
				by = "rule "
			}
			count[by+string(want.action)]++
			if len(got.Monitored) > 0 {
				count["monitored"]++
			}
			sameCompiled(tb, &set, prog, counters, p, got)
		}
	}
}

// TestFirewallPolicyTruth compares what ports enforce with the words of manifests.
func TestFirewallPolicyTruth(t *testing.T) {
	seed := policytest.Seed(t)
	g, aimed := fwGen{npGen{rand.New(rand.NewPCG(seed, 7))}}, policytest.New(seed)
	count := map[string]int{}
	for range 250 {
		text := g.manifests()
		w, ok := readWorld(text)
		s := replay(state{"all.yaml": text})
		if !ok || len(s.Problems) > 0 {
			t.Fatalf("%v\n%s", s.Problems, text)
		}
		w.obeys(t, text, s, func(set policy.Set) []policy.Packet {
			out := aimed.Packets(set, 40)
			for range 60 {
				out = append(out, g.packet())
			}
			return out
		}, count)
	}
	t.Log(count)
	if count["refused"] > 0 {
		t.Errorf("%d sets were refused", count["refused"])
	}
	for _, what := range []string{"frame Allow", "frame Drop", "rule Allow", "rule Drop", "rule Reject", "default Allow", "default Drop", "monitored"} {
		if count[what] < map[bool]int{true: 100, false: 500}[strings.HasPrefix(what, "frame")] {
			t.Errorf("verdicts %v: too few of %q to tell anything", count, what)
		}
	}
}

// FuzzRules has what is accepted of any manifests judge as they say.
func FuzzRules(f *testing.F) {
	for seed := range uint64(8) {
		text := fwGen{npGen{rand.New(rand.NewPCG(seed, 7))}}.manifests()
		if s := replay(state{"all.yaml": text}); len(s.Problems) > 0 {
			f.Fatalf("%v\n%s", s.Problems, text)
		}
		f.Add([]byte(text), seed)
	}
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		w, ok := readWorld(string(data))
		s := replay(state{"all.yaml": string(data)})
		if !ok || len(s.Problems) > 0 {
			return
		}
		g := fwGen{npGen{rand.New(rand.NewPCG(seed, 8))}}
		w.obeys(t, string(data), s, func(set policy.Set) []policy.Packet {
			out := policytest.New(seed).Packets(set, 20)
			for range 20 {
				out = append(out, g.packet())
			}
			return out
		}, map[string]int{})
	})
}
