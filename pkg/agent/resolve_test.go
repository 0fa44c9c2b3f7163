package agent

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func set(tb testing.TB, text string) vlan.Set {
	tb.Helper()
	s, err := vlan.ParseSet(text)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// snapshot has a trunk that allows inline ports, one that does not, and one that
// is not ready.
func snapshot(tb testing.TB) (*desired.Snapshot, map[string]trunkHealth) {
	s := &desired.Snapshot{
		Revision: 1,
		Trunks: map[string]desired.Trunk{
			"open":   {Name: "open", Bridge: "br0", AllowedVLANs: set(tb, "100-110,200"), Management: set(tb, "105"), InlineAllowed: true},
			"closed": {Name: "closed", Bridge: "br1", AllowedVLANs: set(tb, "100")},
			"going":  {Name: "going", Bridge: "br3", AllowedVLANs: set(tb, "100"), InlineAllowed: true, Kept: true},
			"broken": {Name: "broken", Bridge: "br2", AllowedVLANs: set(tb, "100"), InlineAllowed: true},
		},
		Elsewhere: map[string]string{"far": "rack9"},
		Networks: map[string]desired.Network{
			"web":    {Name: "web", Trunk: "open", Mode: vlan.Access, PVID: 100, Default: policy.Allow},
			"small":  {Name: "small", Trunk: "open", Mode: vlan.Access, PVID: 101, MTU: 1400},
			"guests": {Name: "guests", Trunk: "open", Mode: vlan.Trunk, Tagged: set(tb, "100,200")},
			"old":    {Name: "old", Trunk: "open", Mode: vlan.Access, PVID: 102, Kept: true},
			"sick":   {Name: "sick", Trunk: "broken", Mode: vlan.Access, PVID: 100},
		},
	}
	health := healthy(s)
	health["broken"] = trunkHealth{spec: health["broken"].spec, problem: "the uplink eth9 does not exist"}
	return s, health
}

// healthy says that every trunk is set up.
func healthy(s *desired.Snapshot) map[string]trunkHealth {
	health := map[string]trunkHealth{}
	for name, t := range s.Trunks {
		health[name] = trunkHealth{spec: new(kernel).trunkSpec(t), mtu: 1500}
	}
	return health
}

func network(name string) *attach.Request {
	return &attach.Request{Network: name, MAC: attach.MAC{0, 0x50, 0x56, 1, 2, 3}}
}

func inline(bridge string, v attach.VLANs) *attach.Request {
	return &attach.Request{Inline: &attach.Inline{Bridge: bridge, VLANs: v}, MAC: attach.MAC{0, 0x50, 0x56, 1, 2, 3}}
}

func access(id vlan.ID) attach.VLANs { return attach.VLANs{Mode: vlan.Access, PVID: id} }

// TestNamespaces: a pod may use the networks that are for its namespace, whoever
// wrote the NetworkAttachmentDefinition that it names.
func TestNamespaces(t *testing.T) {
	for _, tt := range []struct {
		allowed []string // nil is all
		ok      bool
	}{{nil, true}, {[]string{"vms", "web"}, true}, {[]string{"web"}, false}, {[]string{}, false}} {
		err := checkNamespace("vms", desired.Network{Name: "lan", Namespaces: tt.allowed})
		if (err == nil) != tt.ok {
			t.Errorf("for namespaces %q: %v", tt.allowed, err)
		}
		if err != nil && (!strings.Contains(err.Error(), `VLANNetwork lan is not for pods of namespace "vms"`) || !strings.Contains(err.Error(), "spec.namespaces")) {
			t.Errorf("it says %v", err)
		}
	}
}

// TestResolveNamespaces: however a port is asked for, every network whose VLANs it
// would be in is asked whether its pod may be there.
func TestResolveNamespaces(t *testing.T) {
	tagged := func(text string) attach.VLANs { return attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, text)} }
	for name, tc := range map[string]struct {
		req    *attach.Request
		closed string // the one network that is for another namespace; "" is none
		kept   bool   // and was removed
		ok     bool
	}{
		"by network":                        {network("web"), "web", false, false},
		"by another network":                {network("small"), "web", false, true},
		"a network that tags":               {network("guests"), "guests", false, false},
		"a network beside one of its VLANs": {network("guests"), "web", false, true},
		"inline":                            {inline("br0", access(100)), "web", false, false},
		"inline, VLAN of an access network and of one that tags": {inline("br0", access(100)), "guests", false, true},
		"inline, VLAN of one that tags":                          {inline("br0", access(200)), "guests", false, false},
		"inline, VLAN of none":                                   {inline("br0", access(110)), "guests", false, true},
		"inline, tagged":                                         {inline("br0", tagged("100,110")), "web", false, false},
		"inline, tagged, of one that tags":                       {inline("br0", tagged("110,200")), "guests", false, false},
		"inline, tagged, of none":                                {inline("br0", tagged("101,110")), "web", false, true},
		"inline, native":                                         {inline("br0", attach.VLANs{Mode: vlan.Native, PVID: 100, Tagged: set(t, "110")}), "web", false, false},
		"inline, native, tagged":                                 {inline("br0", attach.VLANs{Mode: vlan.Native, PVID: 110, Tagged: set(t, "100")}), "web", false, false},
		"inline, tagged, all networks open":                      {inline("br0", tagged("100-101,200")), "", false, true},
		"inline, tagged, of one that was removed":                {inline("br0", tagged("100")), "web", true, true},
		"inline, tagged, the network is on another trunk":        {inline("br0", tagged("100")), "sick", false, true},
	} {
		snap, health := snapshot(t)
		if n, ok := snap.Networks[tc.closed]; ok {
			n.Namespaces, n.Kept = []string{"other"}, tc.kept
			snap.Networks[tc.closed] = n
		}
		tc.req.Pod.Namespace = "vms"
		_, err := resolve(tc.req, snap, health)
		if tc.ok && err != nil || !tc.ok && !isRefusal(err, attach.InvalidConfig, "network") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "VLANNetwork "+tc.closed+` is not for pods of namespace "vms"`) {
			t.Errorf("%s: it says %v", name, err)
		}
		tc.req.Pod.Namespace = "other"
		if _, err := resolve(tc.req, snap, health); err != nil {
			t.Errorf("%s, by a pod of the namespace that it is for: %v", name, err)
		}
	}
}

func TestResolveRefuses(t *testing.T) {
	with := func(r *attach.Request, change func(*attach.Request)) *attach.Request { change(r); return r }
	for name, tc := range map[string]struct {
		req   *attach.Request
		kind  attach.ErrorKind
		field string
		says  []string // in message or remedy
	}{
		"unknown network":   {network("wbe"), attach.InvalidConfig, "network", []string{`"wbe"`, "guests, sick, small, web"}},
		"network elsewhere": {network("far"), attach.InvalidConfig, "network", []string{"VLANNetwork far is on trunk rack9", "this node does not have", "spec.nodeSelector"}},
		"removed network":   {network("old"), attach.InvalidConfig, "network", []string{"VLANNetwork old was removed", "until the ports", "put it back"}},
		"removed trunk":     {inline("br3", access(100)), attach.InvalidConfig, "bridge", []string{"VLANTrunk going", "was removed", "put it back"}},
		"both":              {with(network("web"), func(r *attach.Request) { r.Inline = &attach.Inline{} }), attach.InvalidConfig, "network", []string{"give one"}},
		"neither":           {&attach.Request{MAC: attach.MAC{2, 0, 0, 0, 0, 1}}, attach.InvalidConfig, "network", []string{"set network"}},
		"unknown bridge":    {inline("br9", access(100)), attach.InvalidConfig, "bridge", []string{`"br9"`, "write a VLANTrunk"}},
		"inline refused":    {inline("br1", access(100)), attach.InvalidConfig, "bridge", []string{"closed", "inlineConfig: Allow"}},
		"VLAN not allowed":  {inline("br0", access(300)), attach.InvalidConfig, "vlan", []string{"300", "100-110,200"}},
		"management VLAN":   {inline("br0", access(105)), attach.InvalidConfig, "vlan", []string{"105", "management"}},
		"VLAN 4095":         {inline("br0", access(4095)), attach.InvalidConfig, "vlan", []string{"4094"}},
		"no VLAN":           {inline("br0", attach.VLANs{}), attach.InvalidConfig, "vlan", []string{"vlanTrunk"}},
		"tag not allowed":   {inline("br0", attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "110-111")}), attach.InvalidConfig, "vlan", []string{"111"}},
		"trunk not ready":   {network("sick"), attach.TryAgain, "trunk", []string{"eth9", "homeportctl status"}},
		"multicast MAC":     {with(network("web"), func(r *attach.Request) { r.MAC = attach.MAC{1, 0, 0x5e, 0, 0, 1} }), attach.InvalidConfig, "mac", []string{"multicast", "is a multicast address"}},
		"zero MAC":          {with(network("web"), func(r *attach.Request) { r.MAC = make(attach.MAC, 6) }), attach.InvalidConfig, "mac", nil},
		"short MAC":         {with(network("web"), func(r *attach.Request) { r.MAC = attach.MAC{2, 0} }), attach.InvalidConfig, "mac", nil},
		"MTU -1":            {with(network("web"), func(r *attach.Request) { r.MTU = -1 }), attach.InvalidConfig, "mtu", []string{"-1", "68-65535"}},
		"MTU 65536":         {with(network("web"), func(r *attach.Request) { r.MTU = 65536 }), attach.InvalidConfig, "mtu", []string{"65536"}},
		"MTU over uplink's": {with(network("web"), func(r *attach.Request) { r.MTU = 9000 }), attach.InvalidConfig, "mtu", []string{"9000", "1500"}},
		"MTU over network":  {with(network("small"), func(r *attach.Request) { r.MTU = 1500 }), attach.InvalidConfig, "mtu", []string{"1400"}},
	} {
		snap, health := snapshot(t)
		_, err := resolve(tc.req, snap, health)
		var e *attach.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a refusal", name, err)
			continue
		}
		if e.Kind != tc.kind || e.Field != tc.field || e.Remedy == "" {
			t.Errorf("%s: got kind %s, field %q, remedy %q; want %s, %q and a remedy", name, e.Kind, e.Field, e.Remedy, tc.kind, tc.field)
		}
		for _, s := range tc.says {
			if !strings.Contains(e.Message+e.Remedy, s) {
				t.Errorf("%s: %q does not say %q", name, e, s)
			}
		}
	}
}

func TestResolve(t *testing.T) {
	for name, tc := range map[string]struct {
		req    *attach.Request
		trunk  string
		vlans  attach.VLANs
		mtu    int
		policy string
	}{
		"network":                   {network("web"), "open", access(100), 1500, "web"},
		"network's MTU":             {network("small"), "open", access(101), 1400, "small"},
		"trunk network":             {network("guests"), "open", attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100,200")}, 1500, "guests"},
		"inline, VLAN of a network": {inline("br0", access(100)), "open", access(100), 1500, "web"},
		"inline, VLAN of none":      {inline("br0", access(200)), "open", access(200), 1500, ""},
		"inline trunk":              {inline("br0", attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100")}), "open", attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100")}, 1500, ""},
	} {
		snap, health := snapshot(t)
		got, err := resolve(tc.req, snap, health)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got.trunk.Name != tc.trunk || got.vlans != tc.vlans || got.mtu != tc.mtu || got.policy != tc.policy {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}

// port is a record on br0.
func port(ifindex int, mac byte, v attach.VLANs) *attach.Record {
	return &attach.Record{Request: attach.Request{Key: attach.Key{ContainerID: string('a' + rune(ifindex)), IfName: "net1"},
		MAC: attach.MAC{2, 0, 0, 0, 0, mac}, HostIfIndex: ifindex, HostIfName: "veth" + string('a'+rune(ifindex)), Network: "web"},
		Trunk: "open", Bridge: "br0", VLANs: v, Policy: "web"}
}

func TestClaimConflicts(t *testing.T) {
	living := func(*attach.Record) bool { return true }
	dead := func(*attach.Record) bool { return false }
	for name, tc := range map[string]struct {
		second *attach.Record
		alive  func(*attach.Record) bool
		field  string
	}{
		"same MAC, same VLAN":         {port(2, 1, access(100)), living, "mac"},
		"same MAC, trunk with it":     {port(2, 1, attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "99-101")}), living, "mac"},
		"same interface":              {port(1, 2, access(100)), living, "interface"},
		"same MAC, other VLAN":        {port(2, 1, access(101)), living, ""},
		"other MAC":                   {port(2, 2, access(100)), living, ""},
		"same MAC, the first is dead": {port(2, 1, access(100)), dead, ""},
	} {
		tab := newTable()
		first, unlock := tab.lock(attach.Key{ContainerID: "first", IfName: "net1"})
		if err := tab.claim(first, port(1, 1, access(100)), living); err != nil {
			t.Fatal(err)
		}
		unlock()
		e, unlock := tab.lock(tc.second.Key)
		err := tab.claim(e, tc.second, tc.alive)
		unlock()
		var refusal *attach.Error
		if got := errors.As(err, &refusal); got != (tc.field != "") || got && (refusal.Field != tc.field || refusal.Kind != attach.Conflict) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestNetworkOf: a kept network gives way to its successor, whatever their names.
func TestNetworkOf(t *testing.T) {
	snap, _ := snapshot(t)
	for _, successor := range []string{"aaa", "zzz"} {
		web := snap.Networks["web"]
		web.Kept = true
		snap.Networks["web"] = web
		snap.Networks[successor] = desired.Network{Name: successor, Trunk: "open", Mode: vlan.Access, PVID: 100}
		for range 20 {
			if got := networkOf(access(100), "open", snap); got != successor {
				t.Fatalf("got %q, want %q", got, successor)
			}
		}
		delete(snap.Networks, successor)
	}
}

// TestFallBack: refused rules give way to the last good ones, never to a drop
// under living ports.
func TestFallBack(t *testing.T) {
	cause := &compile.RefusedError{Networks: []*compile.NetworkError{{Network: "web", Err: errors.New("200 rules")}}}
	good := policy.Set{Network: "web", Default: policy.Allow}
	sets := []policy.Set{{Network: "web", Rules: make([]policy.Rule, 200)}, {Network: "small"}}
	_, refused, err := fallBack(sets, map[string]policy.Set{"web": good}, nil, map[string]bool{"web": true}, cause)
	if err != nil || len(refused) != 1 || sets[0].Rules != nil || sets[0].Default != policy.Allow {
		t.Errorf("with a last good set: %+v, refused %+v, error %v", sets[0], refused, err)
	}
	if _, _, err := fallBack(sets, map[string]policy.Set{"web": good}, refused, nil, cause); err == nil {
		t.Error("the last good set is refused too, and that goes on for ever")
	}
	if _, _, err := fallBack(sets, nil, nil, map[string]bool{"web": true}, cause); err == nil {
		t.Error("rules of living ports become a drop")
	}
	_, refused, err = fallBack(sets, nil, nil, nil, cause)
	if err != nil || len(refused) != 1 || sets[0].Default != policy.Drop {
		t.Errorf("a new network: %+v, error %v", sets[0], err)
	}
}

// TestPolicyStateReadsBack: what a restart needs survives its file.
func TestPolicyStateReadsBack(t *testing.T) {
	a := idleAgent(t)
	want := policyState{
		Counters: compile.Counters{{Policy: "fw", ID: 1001}: 3, {Network: "web"}: 4, {}: 5},
		Sets: map[string]policy.Set{"web": {Network: "web", Default: policy.Allow, Lists: map[string][]policy.AddrRange{"site": {policy.RangeOf(netip.MustParsePrefix("10.0.0.0/8"))}}, Rules: []policy.Rule{{Key: policy.RuleKey{Policy: "fw", ID: 1001},
			Action: policy.Drop, Directions: policy.OnlyIn, Sources: []policy.AddrRange{}, SourceSets: []string{"site"}, Services: []policy.Service{{Protocol: policy.TCP, First: 22, Last: 22}}}}}},
	}
	if err := saveJSON(a.statePath(policyFile), want); err != nil {
		t.Fatal(err)
	}
	a.loadState()
	if d := cmp.Diff(want, a.world.policyState, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Error(d)
	}
}

func TestTableForgets(t *testing.T) {
	tab := newTable()
	k := attach.Key{ContainerID: "c", IfName: "net1"}
	e, unlock := tab.lock(k)
	if err := tab.claim(e, port(1, 1, access(100)), func(*attach.Record) bool { return true }); err != nil {
		t.Fatal(err)
	}
	tab.release(e)
	unlock()
	if len(tab.ports) != 0 || len(tab.list()) != 0 {
		t.Errorf("a released key stays: %v", tab.ports)
	}
}

// TestKeepUsed removes everything from the source: what a port stands on stays.
func TestKeepUsed(t *testing.T) {
	last, _ := snapshot(t)
	ports := []item{{rec: *port(1, 1, access(100))}}
	got, kept := keepUsed(&desired.Snapshot{Revision: 2}, last, ports)
	web := last.Networks["web"]
	web.Kept = true
	if d := cmp.Diff(map[string]desired.Network{"web": web}, got.Networks, cmp.AllowUnexported(vlan.Set{})); d != "" {
		t.Error(d)
	}
	if open, ok := got.Trunks["open"]; !ok || !open.Kept || len(got.Trunks) != 1 {
		t.Errorf("trunks: %v", got.Trunks)
	}
	if len(kept) != 2 || !kept[0].Kept || kept[0].Name != "web" || kept[1].Name != "open" {
		t.Errorf("reported: %+v", kept)
	}
	moved, _ := snapshot(t)
	br := moved.Trunks["open"]
	br.Bridge = "other"
	moved.Trunks["open"] = br
	got, kept = keepUsed(moved, last, ports)
	if got.Trunks["open"].Bridge != "br0" || len(kept) != 1 {
		t.Errorf("a trunk's bridge changes under a living port: %+v, reported %+v", got.Trunks["open"], kept)
	}
	got, kept = keepUsed(&desired.Snapshot{Revision: 3}, last, nil)
	if len(got.Networks)+len(got.Trunks)+len(kept) != 0 {
		t.Errorf("without ports something stays: %+v %+v", got, kept)
	}
}

// TestGoneTrunks: a trunk that is removed, or is on another bridge or uplink now,
// leaves its old place behind, until that is wanted again or adopted.
func TestGoneTrunks(t *testing.T) {
	at := func(bridge, uplink string, managed bool) *desired.Snapshot {
		return &desired.Snapshot{Trunks: map[string]desired.Trunk{"t": {Name: "t", Bridge: bridge, Uplink: uplink, Managed: managed}}}
	}
	first := at("br0", "eth1", true)
	old := place{"br0", "eth1"}
	for name, tc := range map[string]struct {
		next *desired.Snapshot
		want int
	}{
		"removed":         {&desired.Snapshot{}, 1},
		"same":            {at("br0", "eth1", true), 0},
		"another bridge":  {at("br1", "eth1", true), 1},
		"another uplink":  {at("br0", "eth2", true), 1},
		"adopted instead": {at("br0", "eth1", false), 0},
		"adopted, others": {at("br0", "eth2", false), 0},
	} {
		gone := goneTrunks(first, tc.next, nil)
		if _, ok := gone[old]; len(gone) != tc.want || ok != (tc.want == 1) {
			t.Errorf("%s: gone %v", name, gone)
		}
		if back := goneTrunks(tc.next, first, gone); len(back) > 1 || back[old].Name != "" {
			t.Errorf("%s, and back: gone %v", name, back)
		}
	}
}
