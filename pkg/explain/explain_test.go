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
		v, rule, monitored, err := Verdict(set, &wire.Packet{Direction: "In", Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), Service: service}, policy.MAC{})
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
		if _, _, _, err := Verdict(set, in, policy.MAC{}); err == nil {
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
		"[]":                           peerTexts(nil, nil, false, policy.AddrRange.String),
		"[nobody now]":                 peerTexts([]policy.AddrRange{}, nil, false, policy.AddrRange.String),
		"[10.0.0.0/8]":                 peerTexts(list, nil, false, policy.AddrRange.String),
		"[AddressSet site 10.0.0.0/8]": peerTexts(list, []string{"site"}, false, policy.AddrRange.String),
		"[all but AddressSet site]":    peerTexts(nil, []string{"site"}, true, policy.AddrRange.String),
		"[AddressSet site]":            peerTexts([]policy.AddrRange{}, []string{"site"}, false, policy.AddrRange.String),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}

// TestFrames: what is asked of frames, by MAC and EtherType, and how rules about them are told.
func TestFrames(t *testing.T) {
	macs := func(text string) []policy.AddrRange {
		r, err := policy.ParseMACs(text)
		if err != nil {
			t.Fatal(err)
		}
		return []policy.AddrRange{r}
	}
	vm := policy.MAC{0, 0x50, 0x56, 1, 2, 3}
	set := policy.Set{Network: "vlan100", Default: policy.Drop, Rules: []policy.Rule{
		{Key: policy.RuleKey{Policy: "l2", ID: 1}, Ethernet: true, Directions: policy.InOut, Action: policy.Allow, Sources: macs("00:1b:1b:00:00:00/24"), NotDestinations: true, Destinations: macs("ff:ff:ff:ff:ff:ff"),
			Services: []policy.Service{{EtherType: 0x8892}, {EtherType: policy.EtherIPv4}}},
		{Key: policy.RuleKey{Policy: "l2", ID: 2}, Ethernet: true, Directions: policy.InOut, Action: policy.Drop, Sources: macs("00:50:56:01:02:03")},
		{Key: policy.RuleKey{Policy: "web", ID: 2}, Directions: policy.InOut, Action: policy.Allow, Services: []policy.Service{{Protocol: policy.TCP, First: 81, Last: 81, Flags: policy.TCPFlags{Mask: 2 | 16, Set: 16}}}},
		{Key: policy.RuleKey{Policy: "web", ID: 1}, Directions: policy.InOut, Action: policy.Allow, Services: []policy.Service{{Protocol: policy.TCP, First: 80, Last: 80}}},
	}}
	told := PortRules(&set).Items[0].Rule
	if got := fmt.Sprint(told.Sources, told.Destinations, told.Services); got != "[00:1b:1b:00:00:00/24] [all but ff:ff:ff:ff:ff:ff] [ether/0x8892 ether/IPv4]" {
		t.Errorf("a rule about frames is told as %s", got)
	}
	a, b := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	for want, in := range map[string]wire.Packet{
		"Allow l2 1: In, 00:1b:1b:01:02:03 -> 00:50:56:01:02:03, EtherType 0x8892":                                 {Direction: "In", EtherType: "0x8892", PeerMAC: "00:1b:1b:01:02:03"},
		"Drop: In, 02:00:00:00:00:fe -> 00:50:56:01:02:03, EtherType LLDP":                                         {Direction: "In", EtherType: "lldp"},
		"Drop l2 2: Out, 00:50:56:01:02:03 -> 02:00:00:00:00:fe, EtherType LLDP":                                   {Direction: "Out", EtherType: "0x88cc"},
		"Allow web 1 passed on by 1: In, 10.0.0.1 -> 10.0.0.2, tcp/80, MAC 00:1b:1b:01:02:03 -> 00:50:56:01:02:03": {Direction: "In", Source: a, Destination: b, Service: "tcp/80", PeerMAC: "00-1B-1B-01-02-03"},
		"Drop l2 2: Out, 10.0.0.1 -> 10.0.0.2, tcp/80":                                                             {Direction: "Out", Source: a, Destination: b, Service: "tcp/80"},
		"error packet.peerMAC: \"00:1b\" is no MAC; want one as 00:50:56:0a:0b:0c":                                 {Direction: "In", EtherType: "LLDP", PeerMAC: "00:1b"},
		"error packet.etherType: \"IPX\" is no EtherType":                                                          {Direction: "In", EtherType: "IPX"},
		"error packet.etherType: IPv6 is what a packet with addresses has":                                         {Direction: "In", EtherType: "IPv6"},
		"error packet.etherType: a frame of it has no IP addresses":                                                {Direction: "In", EtherType: "LLDP", Source: a},
		"Allow free: In, 02:00:00:00:00:fe -> 00:50:56:01:02:03, EtherType ARP":                                    {Direction: "In", EtherType: "ARP"},
		"Drop l2 2: Out, 00:50:56:01:02:03 -> 02:00:00:00:00:fe, EtherType ARP":                                    {Direction: "Out", EtherType: "ARP"},
		"Allow free: In, fd00::1 -> fd00::2, icmpv6/135":                                                           {Direction: "In", Source: netip.MustParseAddr("fd00::1"), Destination: netip.MustParseAddr("fd00::2"), Service: "icmpv6/135"},
		"Drop l2 2: Out, fd00::1 -> fd00::2, icmpv6/135":                                                           {Direction: "Out", Source: netip.MustParseAddr("fd00::1"), Destination: netip.MustParseAddr("fd00::2"), Service: "icmpv6/135"},
		"error packet.service: ether/LLDP is no service of IP":                                                     {Direction: "In", Source: a, Destination: b, Service: "ether/LLDP"},
		"Drop: In, 10.0.0.1 -> 10.0.0.2, tcp/81, SA":                                                               {Direction: "In", Source: a, Destination: b, Service: "tcp/81", TCPFlags: "as"},
		"Allow web 2: In, 10.0.0.1 -> 10.0.0.2, tcp/81, A":                                                         {Direction: "In", Source: a, Destination: b, Service: "tcp/81", TCPFlags: "A"},
		"error packet.tcpFlags: 'X' is no TCP flag":                                                                {Direction: "In", Source: a, Destination: b, Service: "tcp/81", TCPFlags: "X"},
		"error packet.tcpFlags: udp has none":                                                                      {Direction: "In", Source: a, Destination: b, Service: "udp/81", TCPFlags: "A"},
		"error packet.direction":                                                                                   {EtherType: "LLDP"},
	} {
		v, _, _, err := Verdict(set, &in, vm)
		got := v.Action
		if v.Neighbours {
			got += " free"
		}
		if v.Rule != nil {
			got += fmt.Sprint(" ", v.Policy, " ", v.Rule.ID)
		}
		for _, r := range v.Passed {
			got += fmt.Sprint(" passed on by ", r.ID)
		}
		got += ": " + v.Packet
		if err != nil {
			got = "error " + err.Error()
		}
		if err == nil && got != want || err != nil && !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
