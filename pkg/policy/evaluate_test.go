package policy

import (
	"net/netip"
	"reflect"
	"testing"
)

func ranges(tb testing.TB, list ...string) []AddrRange {
	tb.Helper()
	out := []AddrRange{}
	for _, text := range list {
		r, err := ParseAddrRange(text)
		if err != nil {
			tb.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

func tcp(src, dst string, port uint16) Packet {
	return Packet{
		Direction: In, IP: true, Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst),
		Protocol: TCP, HasService: true, Service: port,
	}
}

// Each case asks one rule, behind which the default is the opposite action.
func TestMatches(t *testing.T) {
	any := Rule{Directions: InOut}
	src := Rule{Directions: InOut, Sources: ranges(t, "10.0.0.0/24", "fd00::5-fd00::9")}
	dst := Rule{Directions: InOut, Destinations: ranges(t, "10.0.0.7")}
	svc := Rule{Directions: InOut, Services: []Service{{Protocol: TCP, First: 80, Last: 90}, {Protocol: ICMP, First: 0x0800, Last: 0x08ff}}}
	from := Rule{Directions: InOut, Services: []Service{{Protocol: TCP, First: 80, Last: 80, SourceFirst: 1024, SourceLast: 2000}}}
	whole := Rule{Directions: InOut, Services: []Service{{Protocol: TCP, Last: 0xffff}, {Protocol: 132, Last: 0xffff}}}
	allFrom := Rule{Directions: InOut, Services: []Service{{Protocol: TCP, Last: 0xffff, SourceFirst: 1, SourceLast: 0xffff}}}
	at := func(port uint16) Packet {
		p := tcp("10.0.0.1", "10.0.0.7", 80)
		p.SourcePort = port
		return p
	}
	allV6 := Rule{Directions: InOut, Sources: ranges(t, "::/0")}
	fragment := tcp("10.0.0.1", "10.0.0.7", 0)
	fragment.HasService = false
	udp := tcp("10.0.0.1", "10.0.0.7", 80)
	udp.Protocol = UDP
	echo := tcp("10.0.0.1", "10.0.0.7", 0x0800)
	echo.Protocol = ICMP
	sctp := tcp("10.0.0.1", "10.0.0.7", 0)
	sctp.Protocol, sctp.HasService = 132, false
	for name, tc := range map[string]struct {
		rule Rule
		p    Packet
		want bool
	}{
		"no direction":                {Rule{}, tcp("10.0.0.1", "10.0.0.7", 80), false},
		"other direction":             {Rule{Directions: OnlyOut}, tcp("10.0.0.1", "10.0.0.7", 80), false},
		"empty sources":               {Rule{Directions: InOut, Sources: []AddrRange{}}, tcp("10.0.0.1", "10.0.0.7", 80), false},
		"empty services":              {Rule{Directions: InOut, Services: []Service{}}, tcp("10.0.0.1", "10.0.0.7", 80), false},
		"sources, not IP":             {src, Packet{}, false},
		"destinations, not IP":        {dst, Packet{}, false},
		"services, not IP":            {svc, Packet{}, false},
		"services, fragment":          {svc, fragment, false},
		"services, other protocol":    {svc, sctp, false},
		"tcp is not udp":              {svc, udp, false},
		"below the sources":           {src, tcp("9.255.255.255", "10.0.0.7", 80), false},
		"above the sources":           {src, tcp("10.0.1.0", "10.0.0.7", 80), false},
		"destination is not source":   {src, tcp("10.1.0.0", "10.0.0.7", 80), false},
		"below the IPv6 sources":      {src, tcp("fd00::4", "fd00::1", 80), false},
		"above the IPv6 sources":      {src, tcp("fd00::a", "fd00::1", 80), false},
		"IPv4 is not in ::/0":         {allV6, tcp("10.0.0.1", "10.0.0.7", 80), false},
		"nor when in IPv6's notation": {allV6, tcp("::ffff:10.0.0.1", "fd00::1", 80), false},
		"below the ports":             {svc, tcp("10.0.0.1", "10.0.0.7", 79), false},
		"above the ports":             {svc, tcp("10.0.0.1", "10.0.0.7", 91), false},
		"any, not IP":                 {any, Packet{}, true},
		"any, fragment":               {any, fragment, true},
		"any, other protocol":         {any, sctp, true},
		"sources, fragment":           {src, fragment, true},
		"first source":                {src, tcp("10.0.0.0", "10.0.0.7", 80), true},
		"last source":                 {src, tcp("10.0.0.255", "10.0.0.7", 80), true},
		"IPv4 in IPv6 is IPv4":        {src, tcp("::ffff:10.0.0.1", "fd00::1", 80), true},
		"first IPv6 source":           {src, tcp("fd00::5", "fd00::1", 80), true},
		"last IPv6 source":            {src, tcp("fd00::9", "fd00::1", 80), true},
		"the destination":             {dst, tcp("10.1.0.0", "10.0.0.7", 80), true},
		"first port":                  {svc, tcp("10.0.0.1", "10.0.0.7", 80), true},
		"last port":                   {svc, tcp("10.0.0.1", "10.0.0.7", 90), true},
		"icmp type":                   {svc, echo, true},
		"below the source ports":      {from, at(1023), false},
		"above the source ports":      {from, at(2001), false},
		"source ports, fragment":      {allFrom, fragment, false},
		"first source port":           {from, at(1024), true},
		"last source port":            {from, at(2000), true},
		"all source ports":            {allFrom, at(9), true},
		"whole, a port":               {whole, at(9), true},
		"whole, fragment":             {whole, fragment, true},
		"whole, without ports":        {whole, sctp, true},
		"whole, not IP":               {whole, Packet{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			tc.rule.Action = Allow
			set := Set{Rules: []Rule{tc.rule}, Default: Drop}
			want := Verdict{Action: Drop, Rule: -1}
			if tc.want {
				want = Verdict{Action: Allow, Rule: 0}
			}
			if got := Evaluate(&set, tc.p); !reflect.DeepEqual(got, want) {
				t.Errorf("got %v by rule %d, want %v by rule %d", got.Action, got.Rule, want.Action, want.Rule)
			}
		})
	}
}

func TestFirstMatchWins(t *testing.T) {
	set := Set{Default: Allow, Rules: []Rule{
		{Directions: OnlyOut, Action: Allow},
		{Directions: InOut, Action: Drop, Services: []Service{{Protocol: TCP, First: 22, Last: 22}}},
		{Directions: InOut, Action: Allow, Services: []Service{{Protocol: TCP, First: 0, Last: 65535}}},
		{Directions: InOut, Action: Drop},
	}}
	out := tcp("10.0.0.1", "10.0.0.2", 22)
	out.Direction = Out
	for name, tc := range map[string]struct {
		p    Packet
		want Verdict
	}{
		"outwards": {out, Verdict{Action: Allow, Rule: 0}},
		"ssh":      {tcp("10.0.0.1", "10.0.0.2", 22), Verdict{Action: Drop, Rule: 1}},
		"web":      {tcp("10.0.0.1", "10.0.0.2", 80), Verdict{Action: Allow, Rule: 2}},
		"not IP":   {Packet{Direction: In}, Verdict{Action: Drop, Rule: 3}},
	} {
		if got := Evaluate(&set, tc.p); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
	if got, want := Evaluate(&Set{Default: Allow}, Packet{}), (Verdict{Action: Allow, Rule: -1}); !reflect.DeepEqual(got, want) {
		t.Errorf("no rules: got %+v, want %+v", got, want)
	}
}

// A monitored rule decides nothing, and is the verdict's if it would have decided: the
// first that matches, before the rule that does.
func TestMonitored(t *testing.T) {
	all := func(m bool, a Action) Rule { return Rule{Directions: InOut, Action: a, Monitored: m} }
	web := func(m bool, a Action) Rule {
		r := all(m, a)
		r.Services = []Service{{Protocol: TCP, First: 80, Last: 80}}
		return r
	}
	p := tcp("10.0.0.1", "10.0.0.2", 80)
	for name, tc := range map[string]struct {
		rules []Rule
		want  Verdict
	}{
		"before the default":    {[]Rule{web(true, Drop)}, Verdict{Action: Allow, Rule: -1, Monitored: []int{0}}},
		"before a rule":         {[]Rule{web(true, Drop), web(false, Allow)}, Verdict{Action: Allow, Rule: 1, Monitored: []int{0}}},
		"behind a rule":         {[]Rule{all(false, Allow), web(true, Drop)}, Verdict{Action: Allow, Rule: 0}},
		"the first of two":      {[]Rule{{Directions: OnlyOut, Monitored: true}, web(true, Drop), web(true, Reject), all(false, Drop)}, Verdict{Action: Drop, Rule: 3, Monitored: []int{1}}},
		"disabled nevertheless": {[]Rule{{Directions: InOut, Monitored: true, Disabled: true}}, Verdict{Action: Allow, Rule: -1}},
	} {
		if got := Evaluate(&Set{Default: Allow, Rules: tc.rules}, p); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

// A Pass rule leads behind its tier, and to the default if none follows.
func TestPass(t *testing.T) {
	rule := func(tier uint8, a Action, port uint16) Rule {
		return Rule{Directions: InOut, Action: a, Tier: tier, Services: []Service{{Protocol: TCP, First: port, Last: port}}}
	}
	set := Set{Default: Drop, Rules: []Rule{
		rule(0, Pass, 80), rule(0, Drop, 80), rule(0, Drop, 81),
		rule(1, Allow, 81), rule(1, Pass, 80), rule(1, Allow, 80),
		rule(3, Allow, 82), rule(3, Pass, 80), rule(3, Allow, 80),
	}}
	for port, want := range map[uint16]Verdict{
		80: {Action: Drop, Rule: -1, Passed: []int{0, 4, 7}},
		81: {Action: Drop, Rule: 2},
		82: {Action: Allow, Rule: 6},
	} {
		if got := Evaluate(&set, tcp("10.0.0.1", "10.0.0.2", port)); !reflect.DeepEqual(got, want) {
			t.Errorf("port %d: got %+v, want %+v", port, got, want)
		}
	}
}

// Ethernet rules judge the frame before the others judge the packet: what they drop is dropped,
// what they allow goes on if it is IP, and passes if it is not.
func TestEthernet(t *testing.T) {
	printer, vm := MAC{0, 1, 2, 3, 4, 5}, MAC{0, 0x50, 0x56, 1, 2, 3}
	macs := func(text string) []AddrRange {
		r, err := ParseMACs(text)
		if err != nil {
			t.Fatal(err)
		}
		return []AddrRange{r}
	}
	frame := func(a Action, r Rule) Rule {
		r.Ethernet, r.Action = true, a
		if r.Directions == 0 {
			r.Directions = InOut
		}
		return r
	}
	types := func(n ...uint16) (out []Service) {
		for _, n := range n {
			out = append(out, Service{EtherType: n})
		}
		return out
	}
	ip := Rule{Directions: InOut, Action: Drop, Services: []Service{{Protocol: TCP, First: 80, Last: 80}, {EtherType: 0x8892}}}
	web, ssh := tcp("10.0.0.1", "10.0.0.2", 80), tcp("10.0.0.1", "10.0.0.2", 22)
	profinet := Packet{EtherType: 0x8892}
	for _, p := range []*Packet{&web, &ssh, &profinet} {
		p.Direction, p.SrcMAC, p.DstMAC = In, printer, vm
	}
	web.EtherType, ssh.EtherType = EtherIPv4, EtherIPv4
	rarp := Packet{EtherType: EtherRARP, SrcMAC: printer, DstMAC: vm}
	from, notFrom := Rule{Sources: macs("00:01:02:03:04:05")}, Rule{Sources: macs("00:01:02:00:00:00/24"), NotSources: true}
	for name, tc := range map[string]struct {
		rules []Rule
		p     Packet
		want  Verdict
	}{
		"none matches, rules go on":     {[]Rule{frame(Drop, Rule{Services: types(EtherARP)}), ip}, web, Verdict{Action: Drop, Rule: 1}},
		"one drops":                     {[]Rule{frame(Drop, from), ip}, ssh, Verdict{Action: Drop, Rule: 0}},
		"one allows, rules go on":       {[]Rule{frame(Allow, from), frame(Drop, Rule{}), ip}, web, Verdict{Action: Drop, Rule: 2, Passed: []int{0}}},
		"one allows, and then no rule":  {[]Rule{frame(Allow, from), frame(Drop, Rule{}), ip}, ssh, Verdict{Action: Allow, Rule: -1, Passed: []int{0}}},
		"whatever their place":          {[]Rule{ip, frame(Drop, from)}, web, Verdict{Action: Drop, Rule: 1}},
		"not IP: one allows":            {[]Rule{frame(Allow, Rule{Services: types(0x88cc, 0x8892)}), {Directions: InOut, Action: Drop}}, profinet, Verdict{Action: Allow, Rule: 0}},
		"not IP: rules go on":           {[]Rule{frame(Allow, notFrom), {Directions: InOut, Action: Drop}}, profinet, Verdict{Action: Drop, Rule: 1}},
		"an EtherType is no service":    {[]Rule{ip}, profinet, Verdict{Action: Allow, Rule: -1}},
		"a service is no EtherType":     {[]Rule{frame(Drop, Rule{Services: []Service{{Protocol: TCP, Last: 0xffff}, {Protocol: 0, Last: 0xffff}}})}, web, Verdict{Action: Allow, Rule: -1}},
		"by the destination":            {[]Rule{frame(Drop, Rule{Destinations: macs("00:50:56:00:00:00/24")})}, ssh, Verdict{Action: Drop, Rule: 0}},
		"the other direction":           {[]Rule{frame(Drop, Rule{Directions: OnlyOut})}, ssh, Verdict{Action: Allow, Rule: -1}},
		"all but it":                    {[]Rule{frame(Drop, notFrom)}, ssh, Verdict{Action: Allow, Rule: -1}},
		"monitored, one of each":        {[]Rule{func() Rule { r := frame(Drop, Rule{}); r.Monitored = true; return r }(), {Directions: InOut, Monitored: true}, ip}, web, Verdict{Action: Drop, Rule: 2, Monitored: []int{0, 1}}},
		"RARP is not asked about":       {[]Rule{frame(Drop, Rule{})}, rarp, Verdict{Action: Allow, Rule: -1}},
		"an address that stands for it": {[]Rule{frame(Drop, from)}, Packet{IP: true, Src: MACAddr(printer), Dst: MACAddr(vm), EtherType: EtherIPv6}, Verdict{Action: Allow, Rule: -1}},
	} {
		if got := Evaluate(&Set{Default: Allow, Rules: tc.rules}, tc.p); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}
