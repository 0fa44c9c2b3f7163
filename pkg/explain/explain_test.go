package explain

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
)

func ranges(t *testing.T, texts ...string) (out []policy.AddrRange) {
	t.Helper()
	for _, text := range texts {
		r, err := policy.ParseAddrRange(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func TestNamedSets(t *testing.T) {
	sets := namedSets("AddressSet", map[string][]policy.Service{"b": {{Protocol: policy.TCP, First: 1, Last: 2}, {Protocol: policy.TCP, First: 4, Last: 4}}, "a": nil})
	if s := namedSets("AddressSet", map[string][]policy.Service{"VLANNetwork lan": nil}); s[0].Kind != "VLANNetwork" || s[0].Name != "lan" {
		t.Errorf("the subnets of a network: %+v", s)
	}
	r := Rule(&policy.Rule{Directions: policy.OnlyIn, SourceSets: []string{"VLANNetwork lan", "web"}, LocalSets: []string{"db"}})
	if len(r.Sources) != 2 || r.Sources[0] != "VLANNetwork lan" || r.Sources[1] != "AddressSet web" || len(r.Local) != 1 || r.Local[0] != "AddressSet db" || r.Destinations != nil {
		t.Errorf("a rule by sets: %+v", r)
	}
	if len(sets) != 2 || sets[0].Name != "a" || sets[0].Items != 0 || sets[1].Items != 2 || sets[1].Kind != "AddressSet" || len(sets[1].Hash) != 64 || sets[0].Hash == sets[1].Hash {
		t.Errorf("sets that are named: %+v", sets)
	}
}

func TestVerdict(t *testing.T) {
	set := policy.Set{Network: "vlan100", Default: policy.Drop, Lists: map[string][]policy.AddrRange{"lan": ranges(t, "10.0.0.0/24")}, Rules: []policy.Rule{
		{Key: policy.RuleKey{Policy: "watch", ID: 1}, Directions: policy.InOut, Action: policy.Reject, Monitored: true, SourceSets: []string{"lan"}},
		{Key: policy.RuleKey{Policy: "db", ID: 2}, Name: "web", Tier: 1, Directions: policy.OnlyIn, Action: policy.Allow, SourceSets: []string{"lan"}, Sources: ranges(t, "fd00::9"),
			Services: []policy.Service{{Protocol: policy.TCP, First: 80, Last: 81}}},
	}}
	ask := func(from, service string) wire.Verdict {
		t.Helper()
		to := "10.0.1.1"
		if strings.Contains(from, ":") {
			to = "fd00::1"
		}
		v, rule, monitored, err := Verdict(set, &wire.Packet{Direction: "In", Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), Service: service})
		if err != nil {
			t.Fatal(err)
		}
		if (rule == nil) != (v.Rule == nil) || (monitored == nil) != (v.Monitored == nil) || v.Network != "vlan100" {
			t.Errorf("rule %v, monitored %v of %+v", rule, monitored, v)
		}
		return v
	}
	if v := ask("10.0.0.9", "tcp/81"); v.Action != "Allow" || v.Policy != "db" || v.Rule.Name != "web" || v.Monitored.Policy != "watch" || v.Packet != "In, 10.0.0.9 -> 10.0.1.1, tcp/81" {
		t.Errorf("allowed: %+v", v)
	}
	if v := ask("fd00::9", "tcp/80"); v.Action != "Allow" || v.Monitored != nil {
		t.Errorf("the rule's own address: %+v", v)
	}
	if v := ask("10.0.1.9", "tcp/80"); v.Action != "Drop" || v.Rule != nil || v.Policy != "" {
		t.Errorf("of nobody's: %+v", v)
	}
	if set.Lists["lan"] == nil {
		t.Error("the caller's lists have changed")
	}
	for _, in := range []*wire.Packet{nil, {Direction: "In", Source: netip.MustParseAddr("::1"), Destination: netip.MustParseAddr("10.0.0.1"), Service: "tcp/80"}} {
		if _, _, _, err := Verdict(set, in); err == nil {
			t.Errorf("%+v is taken for a packet", in)
		}
	}
	rules := PortRules(&set)
	var got []string
	for _, r := range rules.Items {
		got = append(got, strings.Join([]string{r.Policy, r.Tier, r.State, r.Action}, " "))
	}
	if want := []string{"watch 0 Monitor Reject", "db 1  Allow"}; !reflect.DeepEqual(got, want) || rules.Default.Action != "Drop" || len(rules.Sets) != 1 || rules.Items[0].Sources[0] != "AddressSet lan" {
		t.Errorf("rules %q of %+v", got, rules)
	}
}

// TestPeerTexts: a side of a rule in words tells Any from nobody.
func TestPeerTexts(t *testing.T) {
	list := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.0.0.0/8"))}
	for want, got := range map[string][]string{
		"[]":                           peerTexts(nil, nil, false),
		"[nobody now]":                 peerTexts([]policy.AddrRange{}, nil, false),
		"[10.0.0.0/8]":                 peerTexts(list, nil, false),
		"[AddressSet site 10.0.0.0/8]": peerTexts(list, []string{"site"}, false),
		"[all but AddressSet site]":    peerTexts(nil, []string{"site"}, true),
		"[AddressSet site]":            peerTexts([]policy.AddrRange{}, []string{"site"}, false),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}
