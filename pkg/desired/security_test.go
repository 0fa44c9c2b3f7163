package desired

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach"
)

var nicA, nicB = attach.MAC{0, 0x50, 0x56, 0, 0, 0xa}, attach.MAC{0, 0x50, 0x56, 0, 0, 0xb}

// secured is what a network in Kubernetes with this security comes to.
func secured(t *testing.T, security string) (Network, string) {
	t.Helper()
	d := decodeObject(fromYAML(t, "VLANNetwork", "lan", `{trunk: t, vlan: {id: 100}, defaultAction: Drop`+security+`}`))
	if len(d.problems) > 0 {
		return Network{}, fmt.Sprint(d.problems)
	}
	return d.value.(Network), ""
}

// words are the switches that are not at their default.
func words(s attach.Security) string {
	var out []string
	for name, on := range map[string]bool{"promiscuous": s.Promiscuous, "forged": s.ForgedTransmits, "changes": s.MACChanges, "ra": s.RAGuard, "dhcp": s.DHCPServerGuard, "no bpdu": s.BPDUs, "arp": s.ARPGuard, "nd": s.NDGuard, "quiet": s.Suppression, "ip " + string(s.IPGuard): s.IPGuard != ""} {
		if on {
			out = append(out, name)
		}
	}
	for name, rate := range map[string]uint32{"b": s.BroadcastLimit, "m": s.MulticastLimit, "u": s.UnicastLimit} {
		if rate > 0 {
			out = append(out, fmt.Sprint(name, rate))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestSecurity: the network's switches, but for what the first exception that names NIC and switch says; while it is
// not known whether it does, the stricter.
func TestSecurity(t *testing.T) {
	if s := (&Snapshot{}).Security("gone", PodRef{}, nicA); words(s) != "" {
		t.Errorf("without a network: %+v", s)
	}
	n, wrong := secured(t, "")
	if wrong != "" || words(n.Security) != "" || n.Exceptions != nil {
		t.Errorf("without portSecurity: %+v %s", n, wrong)
	}
	n, wrong = secured(t, `, portSecurity: {raGuard: Enabled, dhcpServerGuard: Enabled, rateLimits: {broadcast: 100}, exceptions: [
		{vm: {matchLabels: {role: router}}, raGuard: Disabled, bpduGuard: Disabled, rateLimits: {broadcast: 0, multicast: 9}},
		{macs: ["00:50:56:00:00:0A"], raGuard: Enabled, promiscuous: Accept, forgedTransmits: Accept, macChanges: Accept},
		{vm: {matchExpressions: [{key: role, operator: Exists}]}, promiscuous: Reject, dhcpServerGuard: Disabled}]}`)
	if wrong != "" {
		t.Fatal(wrong)
	}
	s := &Snapshot{Networks: map[string]Network{"lan": n}, Pods: map[string]Pod{
		"x/router":   {UID: "1", Owner: OwnerVM, VM: map[string]string{"role": "router"}},
		"x/other":    {UID: "2", Owner: OwnerVM, VM: map[string]string{"role": "none"}, Labels: map[string]string{"role": "router"}},
		"x/bare":     {UID: "3", Owner: OwnerVM},
		"x/plain":    {UID: "4", Owner: OwnerNone, Labels: map[string]string{"role": "router"}},
		"x/pretends": {UID: "5", Owner: OwnerUnknown, Labels: map[string]string{"role": "router"}},
	}}
	if !s.ByLabel() {
		t.Error("nobody would ask whose ports are")
	}
	for _, tt := range []struct{ pod, uid, a, b string }{
		{"router", "1", "changes forged m9 no bpdu promiscuous", "m9 no bpdu"},
		{"router", "6", "b100 changes dhcp forged m9 promiscuous ra", "b100 dhcp m9 ra"}, // another pod of that name
		{"other", "2", "b100 changes forged promiscuous ra", "b100 ra"},
		{"bare", "3", "b100 changes dhcp forged promiscuous ra", "b100 dhcp ra"},
		{"plain", "4", "b100 changes dhcp forged promiscuous ra", "b100 dhcp ra"},
		{"pretends", "5", "b100 changes dhcp forged m9 promiscuous ra", "b100 dhcp m9 ra"},
		{"new", "7", "b100 changes dhcp forged m9 promiscuous ra", "b100 dhcp m9 ra"},
	} {
		for mac, want := range map[string]string{nicA.String(): tt.a, nicB.String(): tt.b} {
			m, _ := net.ParseMAC(mac)
			if got := words(s.Security("lan", PodRef{"x", tt.pod, tt.uid}, attach.MAC(m))); got != want {
				t.Errorf("%s %s: %q, want %q", tt.pod, mac, got, want)
			}
		}
	}
	both, wrong := secured(t, `, portSecurity: {exceptions: [{vm: {matchLabels: {role: router}}, macs: ["00:50:56:00:00:0a"], promiscuous: Accept}]}`)
	if wrong != "" {
		t.Fatal(wrong)
	}
	s.Networks["both"] = both
	for ref, want := range map[PodRef]string{{"x", "router", "1"}: "promiscuous", {"x", "other", "2"}: ""} {
		if got, other := words(s.Security("both", ref, nicA)), words(s.Security("both", ref, nicB)); got != want || other != "" {
			t.Errorf("by both, %v: %q and %q", ref, got, other)
		}
	}
	guarded, wrong := secured(t, `, portSecurity: {ipGuard: Strict, arpGuard: Enabled, ndGuard: Enabled, rateLimits: {unknownUnicast: 50}, etherTypes: ["0x88b5", PPPoE, IPv4], exceptions: [
		{vm: {matchLabels: {role: router}}, ipGuard: "Off", ndGuard: Disabled, rateLimits: {unknownUnicast: 0}},
		{macs: ["00:50:56:00:00:0a"], ipGuard: Learn, arpGuard: Disabled}]}`)
	if wrong != "" {
		t.Fatal(wrong)
	}
	s.Networks["guarded"] = guarded
	for ref, want := range map[PodRef][2]string{
		{"x", "router", "1"}: {"", "arp"},
		{"x", "other", "2"}:  {"ip Learn nd u50", "arp ip Strict nd u50"},
		{"x", "new", "7"}:    {"ip Learn nd u50", "arp ip Strict nd u50"},
	} {
		a, b := s.Security("guarded", ref, nicA), s.Security("guarded", ref, nicB)
		if words(a) != want[0] || words(b) != want[1] || a.EtherTypes != (attach.EtherTypes{0x0800, 0x8863, 0x8864, 0x88b5}) {
			t.Errorf("%v: %q and %q, %v", ref, words(a), words(b), a.EtherTypes)
		}
	}
	if n, wrong := secured(t, `, portSecurity: {ipGuard: Disabled, exceptions: [{macs: ["00:50:56:00:00:0a"], ipGuard: Disabled}]}`); wrong != "" || n.Security.IPGuard != attach.GuardOff || *n.Exceptions[0].IPGuard != attach.GuardOff {
		t.Errorf("the word of earlier versions: %+v %s", n, wrong)
	}
	quiet, wrong := secured(t, `, addressing: {suppression: Enabled}`)
	s.Networks["quiet"] = quiet
	if got := words(s.Security("quiet", PodRef{"x", "other", "2"}, nicA)); wrong != "" || got != "quiet" {
		t.Errorf("suppression: %q %s", got, wrong)
	}
	if n, wrong := secured(t, `, addressing: {suppression: Disabled}`); wrong != "" || n.Addressing.Suppression {
		t.Errorf("no suppression: %+v %s", n.Addressing, wrong)
	}
	if got := words(s.Security("lan", PodRef{}, nicA)); got != "b100 changes dhcp forged promiscuous ra" {
		t.Errorf("no pod: %q", got)
	}
	if _, wrong := secured(t, `, portSecurity: {exceptions: [{vm: {matchExpressions: [{key: k, operator: Nor}]}, raGuard: Disabled}]}`); !strings.Contains(wrong, "spec.portSecurity.exceptions[0].vm") {
		t.Errorf("a selector that is none: %s", wrong)
	}
}

// TestSecurityEtherTypes: the list of an exception is in place of the network's, and where that is not sure, what all lists have leaves.
func TestSecurityEtherTypes(t *testing.T) {
	n, wrong := secured(t, `, portSecurity: {etherTypes: [IPv4, ARP], exceptions: [
		{vm: {matchLabels: {role: router}}, etherTypes: [ARP, LLDP, "0x8892"]},
		{macs: ["00:50:56:00:00:0a"], etherTypes: [All]},
		{vm: {matchLabels: {role: none}}, etherTypes: [IPv6]}]}`)
	if wrong != "" {
		t.Fatal(wrong)
	}
	s := &Snapshot{Networks: map[string]Network{"typed": n}, Pods: map[string]Pod{
		"x/router": {UID: "1", Owner: OwnerVM, VM: map[string]string{"role": "router"}},
		"x/other":  {UID: "2", Owner: OwnerVM, VM: map[string]string{"role": "none"}},
		"x/bare":   {UID: "3", Owner: OwnerVM},
	}}
	for ref, want := range map[PodRef][2]string{
		{"x", "router", "1"}: {"ARP 0x8892 LLDP", "ARP 0x8892 LLDP"},
		{"x", "other", "2"}:  {"", "IPv6"},
		{"x", "bare", "3"}:   {"", "IPv4 ARP"},
		{"x", "new", "7"}:    {"ARP 0x8892 LLDP", "RARP"}, // nothing is in all three lists, and RARP always passes
	} {
		a, b := s.Security("typed", ref, nicA).EtherTypes.String(), s.Security("typed", ref, nicB).EtherTypes.String()
		if a != want[0] || b != want[1] {
			t.Errorf("EtherTypes of %v: %q and %q, want %q", ref, a, b, want)
		}
	}
	if n, wrong := secured(t, `, portSecurity: {etherTypes: [All]}`); wrong != "" || n.Security.EtherTypes != (attach.EtherTypes{}) {
		t.Errorf("all EtherTypes: %+v %s", n, wrong)
	}
}

// TestSecurityStricter: whatever a port turns out to be, it was kept to no less before that was known.
func TestSecurityStricter(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	pick := func() *bool {
		if b := r.IntN(2) == 0; r.IntN(2) == 0 {
			return &b
		}
		return nil
	}
	limit := func() *uint32 {
		if n := uint32(r.IntN(4)); r.IntN(2) == 0 {
			return &n
		}
		return nil
	}
	guards := []attach.Guard{attach.GuardOff, attach.GuardLearn, attach.GuardStrict}
	guard := func() *attach.Guard {
		if g := guards[r.IntN(3)]; r.IntN(2) == 0 {
			return &g
		}
		return nil
	}
	lists := []attach.EtherTypes{{}, {0x0800}, {0x0806}, {0x0800, 0x0806, 0x88b5}, {0x0806, 0x88b5}}
	types := func() *attach.EtherTypes {
		if l := lists[r.IntN(len(lists))]; r.IntN(2) == 0 {
			return &l
		}
		return nil
	}
	leaves := func(l attach.EtherTypes, t uint16) bool { return l == lists[0] || slices.Contains(l[:], t) }
	more := func(a, b uint32) bool { return a == 0 && b != 0 || b != 0 && a > b } // allows more
	roles := []string{"a", "b", "c"}
	for range 3000 {
		n := Network{Security: attach.Security{Promiscuous: r.IntN(2) == 0, ForgedTransmits: r.IntN(2) == 0, MACChanges: r.IntN(2) == 0, BPDUs: r.IntN(2) == 0, RAGuard: r.IntN(2) == 0, DHCPServerGuard: r.IntN(2) == 0,
			BroadcastLimit: uint32(r.IntN(3)), MulticastLimit: uint32(r.IntN(3)), UnicastLimit: uint32(r.IntN(3)),
			IPGuard: guards[r.IntN(3)], ARPGuard: r.IntN(2) == 0, NDGuard: r.IntN(2) == 0, EtherTypes: lists[r.IntN(len(lists))]}}
		for range r.IntN(4) {
			e := Exception{Promiscuous: pick(), ForgedTransmits: pick(), MACChanges: pick(), BPDUs: pick(), RAGuard: pick(), DHCPServerGuard: pick(), BroadcastLimit: limit(), MulticastLimit: limit(),
				UnicastLimit: limit(), IPGuard: guard(), ARPGuard: pick(), NDGuard: pick(), EtherTypes: types()}
			if r.IntN(3) == 0 {
				e.MACs = []attach.MAC{nicA}
			} else {
				s := selectorOf(t, "role="+roles[r.IntN(3)])
				e.VMs = &s
			}
			n.Exceptions = append(n.Exceptions, e)
		}
		s := &Snapshot{Networks: map[string]Network{"lan": n}}
		before := s.Security("lan", PodRef{"x", "p", "1"}, nicA)
		for _, role := range append(roles, "") {
			s.Pods = map[string]Pod{"x/p": {UID: "1", Owner: OwnerVM, VM: map[string]string{"role": role}}}
			after := s.Security("lan", PodRef{"x", "p", "1"}, nicA)
			if more(before.BroadcastLimit, after.BroadcastLimit) || more(before.MulticastLimit, after.MulticastLimit) || before.Promiscuous && !after.Promiscuous || before.ForgedTransmits && !after.ForgedTransmits || before.MACChanges && !after.MACChanges || before.BPDUs && !after.BPDUs || !before.RAGuard && after.RAGuard || !before.DHCPServerGuard && after.DHCPServerGuard ||
				more(before.UnicastLimit, after.UnicastLimit) || slices.Index(guards, before.IPGuard) < slices.Index(guards, after.IPGuard) || !before.ARPGuard && after.ARPGuard || !before.NDGuard && after.NDGuard ||
				slices.ContainsFunc([]uint16{0x0800, 0x0806, 0x86dd, 0x88b5}, func(t uint16) bool { return leaves(before.EtherTypes, t) && !leaves(after.EtherTypes, t) }) {
				t.Fatalf("%+v: %+v before it was known, %+v as %q", n, before, after, role)
			}
		}
	}
}

// TestMaxRate: what manifests may say the programs take.
func TestMaxRate(t *testing.T) {
	if v1alpha1.MaxRate != attach.MaxRate {
		t.Errorf("%d in manifests, %d at ports", v1alpha1.MaxRate, attach.MaxRate)
	}
}

// TestSecurityStored: a snapshot on disk has it all.
func TestSecurityStored(t *testing.T) {
	n, wrong := secured(t, `, addressing: {mode: Approved, limit: 3, expiry: 24h, sharedAddresses: ["10.0.0.9", "10.0.0.16/28"]}, portSecurity: {promiscuous: Accept, ipGuard: Strict, etherTypes: [ARP], exceptions: [{vm: {}, raGuard: Enabled, etherTypes: [All]}, {macs: ["00:50:56:00:00:0a"], bpduGuard: Disabled, etherTypes: [LLDP]}, {vm: {matchLabels: {a: b}}, macs: ["00:50:56:00:00:0a"], ipGuard: "Off", rateLimits: {broadcast: 0}}]}`)
	if wrong != "" {
		t.Fatal(wrong)
	}
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var back Network
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, n) {
		t.Errorf("%v: %+v, was %+v", err, back, n)
	}
}
