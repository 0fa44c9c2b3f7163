package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// newAgent answers View on a socket of its own with what the map has by What.
func newAgent(tb testing.TB, views map[string]any) (socket string) {
	tb.Helper()
	return serve(tb, func(_ context.Context, body json.RawMessage) (any, error) {
		var req wire.ViewRequest
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, err
		}
		switch v := views[req.What].(type) {
		case nil:
			return nil, &attach.Error{Kind: attach.InvalidConfig, Field: "what", Message: "unknown view"}
		case error:
			return nil, v
		case wire.PolicyList:
			v.Items = slices.DeleteFunc(slices.Clone(v.Items), func(p wire.Policy) bool { return req.Name != "" && p.Name != req.Name })
			return v, nil
		case wire.AddressList:
			v.Items = slices.DeleteFunc(slices.Clone(v.Items), func(a wire.Address) bool {
				return req.Name != "" && !slices.Contains([]string{a.Address.String(), a.Name, a.Namespace + "/" + a.Name}, req.Name)
			})
			return v, nil
		case wire.EventList:
			after := uint64(0)
			if req.Events.After != nil {
				after = *req.Events.After
			}
			v.Items = slices.DeleteFunc(slices.Clone(v.Items), func(e wire.Event) bool { return e.Seq <= after })
			return v, nil
		default:
			return v, nil
		}
	})
}

func serve(tb testing.TB, view wire.Handler) (socket string) {
	tb.Helper()
	return serveAll(tb, view, newFabric(tb).handle)
}

func serveAll(tb testing.TB, view, fabric wire.Handler) (socket string) {
	tb.Helper()
	opened := func(_ context.Context, body json.RawMessage) (any, error) {
		var k attach.Key
		if err := json.Unmarshal(body, &k); err != nil || k.ContainerID != "c0ffee" {
			return nil, fmt.Errorf("key %+v: %v", k, err)
		}
		return nil, nil
	}
	refused := func(context.Context, json.RawMessage) (any, error) {
		return nil, attach.Invalid("port", "Kubernetes says where VMs run", "migrate it")
	}
	return serveVerbs(tb, map[wire.Verb]wire.Handler{wire.View: view, wire.Open: opened, wire.Release: refused, wire.Reach: fabric, wire.Decide: decided})
}

func serveVerbs(tb testing.TB, handlers map[wire.Verb]wire.Handler) (socket string) {
	tb.Helper()
	socket = filepath.Join(shortDir(tb), "agent.sock")
	l, err := wire.Listen(socket)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := wire.Server{Handlers: handlers, Log: slog.New(slog.DiscardHandler)}
	go func() { done <- s.Serve(ctx, l) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return socket
}

// shortDir: a unix socket's path has at most 107 bytes.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "hctl")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

type result struct {
	Code           int
	Stdout, Stderr string
}

// homeportctl runs the program in this process.
func homeportctl(tb testing.TB, socket string, args ...string) result {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return homeportctlContext(ctx, socket, args...)
}

func homeportctlContext(ctx context.Context, socket string, args ...string) result {
	var stdout, stderr bytes.Buffer
	if socket != "" {
		args = append([]string{"--socket", socket}, args...)
	}
	code := run(ctx, args, surroundings{stdout: &stdout, stderr: &stderr, name: "homeportctl", version: "v0.1.0", now: noon, user: "alice"})
	return result{code, stdout.String(), stderr.String()}
}

func meta(kind string) wire.TypeMeta { return wire.TypeMeta{APIVersion: wire.APIVersion, Kind: kind} }

// views are what a healthy node's agent would say.
func views(tb testing.TB) map[string]any {
	tb.Helper()
	set, err := vlan.ParseSet("100-110,200")
	if err != nil {
		tb.Fatal(err)
	}
	pod := attach.Pod{Namespace: "shop", Name: "virt-launcher-db-x7k2p"}
	key := attach.Key{ContainerID: "c0ffee", IfName: "pod37a8eec1ce1"}
	port := wire.Port{State: attach.Active, Passed: [2]uint64{5120, 4876}, Dropped: [2]uint64{3, 0}}
	port.Record = attach.Record{Version: 1, Bridge: "br-phys", EffectiveMTU: 1500, VLANs: attach.VLANs{PVID: 100}, Policy: "legacy-100"}
	port.Request = attach.Request{Key: key, Pod: pod, Network: "legacy-100", HostIfName: "veth8f2c01",
		MAC: attach.MAC{2, 0, 0, 0, 0, 0x64}, Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}
	quiet := port
	quiet.HostIfName, quiet.ContainerID, quiet.Pod = "veth00aa11", "beef", attach.Pod{}
	quiet.MAC, quiet.Passed, quiet.Dropped = attach.MAC{2, 0, 0, 0, 0, 0x65}, [2]uint64{}, [2]uint64{}
	access, err := vlan.Of(100)
	if err != nil {
		tb.Fatal(err)
	}
	return map[string]any{
		wire.ViewStatus: wire.NodeStatus{TypeMeta: meta("NodeStatus"), Version: "v0.1.0", Ready: true, Source: "dir:/etc/homeport",
			Desired: 7, Compiled: 7, Active: 7, Generation: 12, Hook: "tcx", Ports: map[string]int{"Active": 2},
			Trunks: []wire.TrunkStatus{{Name: "physnet1", Bridge: "br-phys", Uplink: "eth1", VLANs: set, MTU: 1500, Ready: true}}},
		wire.ViewPorts: wire.PortList{TypeMeta: meta("PortList"), Items: []wire.Port{port, quiet}},
		wire.ViewVLANs: wire.VLANList{TypeMeta: meta("VLANList"), Items: []wire.PortVLANs{
			{Bridge: "br-phys", Interface: "eth1", Role: "uplink", VLANs: set},
			{Bridge: "br-phys", Interface: "veth8f2c01", Role: "port", VLANs: access, PVID: 100, Untagged: access}}},
		wire.ViewPolicies: wire.PolicyList{TypeMeta: meta("PolicyList"), Items: []wire.Policy{
			{Name: "web", Category: "Application", Order: 100, Rules: []wire.Rule{
				{ID: 1001, Name: "old subnet", Action: "Allow", Direction: "In", Sources: []string{"10.0.0.0/24"}, Services: []string{"tcp/80"}, Packets: 3},
				{ID: 1002, Action: "Drop", Direction: "In", Services: []string{"tcp/22"}, Packets: 9}}},
			{Name: "ssh", Category: "Application", Order: 200}},
			Defaults: []wire.DefaultHits{{Network: "legacy-100", Action: "Drop", Packets: 4}}},
		wire.ViewRules: wire.PortRules{TypeMeta: meta("PortRules"), Key: key, Interface: "veth8f2c01", Pod: pod, State: attach.Active, Rules: "legacy-100",
			Default: wire.DefaultHits{Network: "legacy-100", Action: "Drop", Packets: 4}, Items: []wire.PortRule{
				{Policy: "web", Rule: wire.Rule{ID: 1001, Name: "old subnet", Action: "Allow", Direction: "In", Sources: []string{"10.0.0.0/24"}, Services: []string{"tcp/80"}, Packets: 3}},
				{Policy: "ssh", Rule: wire.Rule{ID: 1, Action: "Reject", Direction: "In", Services: []string{"tcp/22"}}}}},
		wire.ViewVerdict: wire.Verdict{TypeMeta: meta("Verdict"), Key: key, Interface: "veth8f2c01", Pod: pod, State: attach.Active, Rules: "legacy-100", Network: "legacy-100",
			Packet: "In, 10.0.0.9 -> 10.0.0.7, tcp/80", Action: "Allow", Policy: "web",
			Rule: &wire.Rule{ID: 1001, Name: "old subnet", Action: "Allow", Direction: "In", Sources: []string{"10.0.0.0/24"}, Services: []string{"tcp/80"}, Packets: 3}},
		wire.ViewTrace: wire.Trace{TypeMeta: meta("Trace"), Key: key, Interface: "veth8f2c01", Pod: pod, State: attach.Active, Rules: "legacy-100",
			Packet: "In, 10.0.0.9 -> 10.0.0.7, tcp/80, A", Verdict: wire.EventDrop, Stage: "connections", Reason: policy.ReasonTCPNoState.String(), Text: policy.ReasonTCPNoState.Text(),
			Rule: &wire.EventRule{Policy: "web", ID: 1001, Action: "Allow"}},
		wire.ViewAddresses: addressList(),
		wire.ViewEvents:    wire.EventList{TypeMeta: meta("EventList"), Next: 15, Newest: 15, Items: events(pod)},
		wire.ViewDrops: wire.DropList{TypeMeta: meta("DropList"), Items: []wire.Drop{
			{Key: key, Interface: "veth8f2c01", Pod: pod, Direction: "Out", Reason: policy.ReasonMACSpoof.String(), Text: policy.ReasonMACSpoof.Text(), Packets: 3, Bytes: 180},
			{Key: attach.Key{ContainerID: "f00d"}, Interface: "veth99", Direction: "In", Reason: policy.ReasonRuleDrop.String(), Text: policy.ReasonRuleDrop.Text(), Packets: 41}}},
	}
}

// events are numbers 11 to 15.
func events(pod attach.Pod) []wire.Event {
	at := time.Date(2026, 11, 28, 22, 0, 0, 123e6, time.UTC)
	from, to := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.7")
	web := &wire.EventRule{Policy: "web", ID: 1001, Action: "Allow", Label: "audit", Log: true}
	list := []wire.Event{
		{Verdict: wire.EventAllow, Reason: "RuleAllow", Source: from, Destination: to, SourcePort: 49152, DestinationPort: 80, Protocol: "tcp", TCPFlags: "S", Rule: web},
		{Verdict: wire.EventDrop, Reason: "RuleDrop", Source: from, Destination: to, SourcePort: 49153, DestinationPort: 22, Protocol: "tcp", TCPFlags: "S",
			Rule: &wire.EventRule{Policy: "web", ID: 1002, Action: "Drop"}},
		{Verdict: wire.EventDrop, Reason: "DefaultDrop", Source: netip.MustParseAddr("198.51.100.9"), Destination: to, SourcePort: 5353, DestinationPort: 53, Protocol: "udp",
			Rule: &wire.EventRule{Network: "legacy-100", Action: "Drop"}, Monitored: &wire.EventRule{Policy: "dns", ID: 7, Action: "Allow"}},
		{Verdict: wire.EventDrop, Reason: "MACSpoof", Protocol: "arp", SourceMAC: attach.MAC{2, 0, 0, 0, 0, 0x66}, DestinationMAC: attach.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{Verdict: wire.EventEnd, Reason: "Finished", Source: from, Destination: to, SourcePort: 49152, DestinationPort: 80, Protocol: "tcp", TCPFlags: "FA", Rule: web},
	}
	for i := range list {
		e := &list[i]
		e.Seq, e.Time, e.Interface, e.Pod, e.Network, e.VLAN, e.Length, e.Direction = uint64(11+i), at.Add(time.Duration(i)*1750*time.Millisecond), "veth8f2c01", pod, "legacy-100", 100, 74, "In"
		if e.Source.IsValid() {
			e.SourceMAC, e.DestinationMAC = attach.MAC{2, 0, 0, 0, 0, 0x65}, attach.MAC{2, 0, 0, 0, 0, 0x64}
		} else {
			e.Direction = "Out"
		}
	}
	return list
}

// nouns are the commands that show something.
func nouns() map[string][]string {
	return map[string][]string{
		"NodeStatus":  {"status"},
		"PortList":    {"ports"},
		"AddressList": {"addresses"},
		"VLANList":    {"vlans"},
		"PolicyList":  {"policy", "list"},
		"PortRules":   {"policy", "compile", "veth8f2c01"},
		"Verdict":     {"policy", "simulate", "veth8f2c01", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp"},
		"Trace":       {"trace", "veth8f2c01", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp", "--tcp-flags", "A"},
		"DropList":    {"drops"},
		"Versions":    {"version"},
	}
}

func TestEveryNounInEveryFormat(t *testing.T) {
	socket := newAgent(t, views(t))
	for kind, args := range nouns() {
		for _, format := range []string{"table", "wide", "json", "yaml"} {
			r := homeportctl(t, socket, append(args, "-o", format)...)
			if r.Code != 0 || r.Stderr != "" || r.Stdout == "" || strings.Contains(r.Stdout, "\x1b") {
				t.Errorf("%v -o %s: %+v", args, format, r)
			}
			if format != "json" && format != "yaml" {
				continue
			}
			var got wire.TypeMeta
			if err := yaml.Unmarshal([]byte(r.Stdout), &got); err != nil || got != meta(kind) {
				t.Errorf("%v -o %s: heads %+v, %v", args, format, got, err)
			}
			if kind == "PortList" && !strings.Contains(r.Stdout, "10.0.0.7") {
				t.Errorf("%v -o %s: does not tell the addresses:\n%s", args, format, r.Stdout)
			}
			if isJSON := json.Valid([]byte(r.Stdout)); isJSON != (format == "json") {
				t.Errorf("%v -o %s: is JSON: %v", args, format, isJSON)
			}
		}
	}
}

func TestTables(t *testing.T) {
	socket := newAgent(t, views(t))
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"vlans"}, "port              vlan-id\neth1              100-110\n                  200\nveth8f2c01        100 PVID Egress Untagged\n"},
		{[]string{"policy", "show", "web"}, `Policy    web
Category  Application, order 100
Networks  Any

ID    NAME        ACTION  DIRECTION  SOURCES      DESTINATIONS  SERVICES  HITS
1001  old subnet  Allow   In         10.0.0.0/24  Any           tcp/80    3
1002  -           Drop    In         Any          Any           tcp/22    9
`},
		{[]string{"drops", "--port", "shop/virt-launcher-db-x7k2p"}, `PORT        POD                          DIRECTION  REASON    PACKETS  MEANING
veth8f2c01  shop/virt-launcher-db-x7k2p  Out        MACSpoof  3        source MAC is not the port's
`},
		{[]string{"ports"}, `PORT        STATE   NETWORK     VLANS       MAC                POD                          OUT   OUT-DROPPED  IN    IN-DROPPED
veth00aa11  Active  legacy-100  access 100  02:00:00:00:00:65  -                            0     0            0     0
veth8f2c01  Active  legacy-100  access 100  02:00:00:00:00:64  shop/virt-launcher-db-x7k2p  5120  3            4876  0
`},
		{[]string{"drops", "--port", "veth00aa11"}, "Nothing was dropped: every drop counter is zero.\n"},
		{[]string{"version"}, "homeportctl   v0.1.0\nbridge-agent  v0.1.0\nprotocol      1\n"},
	} {
		if d := cmp.Diff(result{Stdout: tt.want}, homeportctl(t, socket, tt.args...)); d != "" {
			t.Errorf("%v (-want +got):\n%s", tt.args, d)
		}
	}
}

// What is wanted of events, and how often the agent is asked for more.
func TestObserve(t *testing.T) {
	socket := newAgent(t, views(t))
	for args, want := range map[string]string{
		"":                                "11 12 13 14 15",
		"--verdict drop":                  "12 13 14",
		"--verdict Drop,end":              "12 13 14 15",
		"--address 10.0.0.9":              "11 12 15",
		"--address 198.51.100.0/24":       "13",
		"--address 10.0.0.9,198.51.100.9": "11 12 13 15",
		"--rule web":                      "11 12 15",
		"--rule web/1001":                 "11 15",
		"--rule web/1":                    "",
		"--rule dns/7":                    "13",
		"--rule dns/8":                    "",
		"--rule we":                       "",
		"--port veth8f2c01":               "11 12 13 14 15",
		"--port shop/virt-launcher-db-x7k2p --verdict end": "15",
		"--port c0ffee --verdict end":                      "15", // a container ID is found out first
		"--port veth00aa11":                                "",
	} {
		r := homeportctl(t, socket, append([]string{"observe", "-o", "json"}, strings.Fields(args)...)...)
		var got []string
		for line := range strings.Lines(r.Stdout) {
			var e wire.Event
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v in %q", args, err, line)
			}
			got = append(got, fmt.Sprint(e.Seq))
		}
		unknown := args == "--rule we" || args == "--rule web/1" || args == "--rule dns/8" || args == "--rule dns/7" // no policy of the agent's
		if r.Code != 0 || (r.Stderr != "") != unknown || unknown && !strings.Contains(r.Stderr, args+": no such policy or rule") || strings.Join(got, " ") != want {
			t.Errorf("observe %s: %v, want %s: %+v", args, got, want, r)
		}
	}
	if r := homeportctl(t, socket, "observe", "-o", "yaml", "--verdict", "end"); !strings.HasPrefix(r.Stdout, "---\n") || !strings.Contains(r.Stdout, "\nseq: 15\n") {
		t.Errorf("as YAML: %+v", r)
	}
	for _, args := range []string{"--address 10.0.0", "--verdict maybe", "-f --port veth9", "--port veth9", "veth9"} {
		r := homeportctl(t, socket, append([]string{"observe"}, strings.Fields(args)...)...)
		if want := map[bool]int{true: 1, false: 2}[strings.HasSuffix(args, "--port veth9")]; r.Code != want || r.Stdout != "" {
			t.Errorf("observe %s: %+v, want exit code %d", args, r, want)
		}
	}
}

// To follow is to ask for what comes after what is known, to say what was missed, and to
// end as interrupted.
func TestObserveFollows(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	all := events(attach.Pod{})
	var asked []string
	socket := serve(t, func(_ context.Context, body json.RawMessage) (any, error) {
		var req wire.ViewRequest
		if err := json.Unmarshal(body, &req); err != nil || !req.Events.Follow {
			return nil, fmt.Errorf("%s: %v", body, err)
		}
		l := wire.EventList{TypeMeta: meta("EventList"), Items: []wire.Event{}, Lost: 5, Next: 10}
		if len(asked) == 2 { // the agent is started anew, once
			asked = append(asked, "away")
			return nil, errors.New("gone")
		}
		switch after := req.Events.After; {
		case after == nil:
			asked = append(asked, "new")
			return l, nil
		case *after == 10:
			l.Items, l.Next = all[:2], 12
		case *after == 12: // numbers 13 and 14 are forgotten
			l.Items, l.Next, l.Lost = all[4:], 15, 8
		default:
			l.Next, l.Lost = 15, 8
			cancel()
		}
		asked = append(asked, fmt.Sprint(*req.Events.After))
		return l, nil
	})
	r := homeportctlContext(ctx, socket, "observe", "-f")
	if r.Code != exitInterrupted || strings.Count(r.Stdout, "\n") != 3 || strings.Join(asked, " ") != "new 10 away 12 15" ||
		!regexp.MustCompile("^homeportctl: observing from now on\nhomeportctl: .*gone.*; waiting for it\nhomeportctl: observing again; .*\nhomeportctl: 2 events are not shown: .*\n$").MatchString(r.Stderr) {
		t.Errorf("asked for %v: %+v", asked, r)
	}

	// One that refuses is not asked again.
	n := 0
	socket = serve(t, func(context.Context, json.RawMessage) (any, error) {
		if n++; n == 1 {
			return wire.EventList{TypeMeta: meta("EventList"), Items: []wire.Event{}}, nil
		}
		return nil, &attach.Error{Kind: attach.InvalidConfig, Field: "what", Message: "nothing known"}
	})
	if r := homeportctlContext(t.Context(), socket, "observe", "-f"); r.Code != exitInconclusive || !strings.Contains(r.Stderr, "nothing known") || n != 2 {
		t.Errorf("asked %d times: %+v", n, r)
	}
}

func TestDropsOfOnePortAsJSON(t *testing.T) {
	socket := newAgent(t, views(t))
	for name, want := range map[string]int{"veth99": 1, "c0ffee": 1, "veth00aa11": 0} {
		r := homeportctl(t, socket, "drops", "-o", "json", "--port", name)
		var l wire.DropList
		if err := json.Unmarshal([]byte(r.Stdout), &l); err != nil || r.Code != 0 || len(l.Items) != want || l.TypeMeta != meta("DropList") {
			t.Errorf("--port %s: %v, %+v", name, err, r)
		}
		if !strings.Contains(r.Stdout, `"items": [`) {
			t.Errorf("--port %s: items is no list:\n%s", name, r.Stdout)
		}
	}
}

func TestExitCodes(t *testing.T) {
	well := newAgent(t, views(t))
	sick := views(t)
	s := sick[wire.ViewStatus].(wire.NodeStatus)
	s.Ready, s.Reasons = false, []string{"uplink eth1 is down"}
	sick[wire.ViewStatus] = s
	sick[wire.ViewPolicies] = &attach.Error{Kind: attach.InvalidConfig, Field: "name", Message: "no policy web"}
	sick[wire.ViewVerdict] = attach.Invalid("packet.destination", "fd00::9 and 10.0.0.7 are not of one family", "want both IPv4")
	sick[wire.ViewDrops] = &attach.Error{Kind: attach.Unavailable, Message: "counters cannot be read"}
	sick[wire.ViewVLANs] = json.RawMessage(`{"items": 7}`)
	ill := newAgent(t, sick)
	gone := filepath.Join(shortDir(t), "agent.sock")
	for _, tt := range []struct {
		socket string
		args   []string
		code   int
		stderr []string // parts of it; none is silence
	}{
		{ill, []string{"status"}, 1, nil},
		{ill, []string{"status", "-o", "json"}, 1, nil},
		{ill, []string{"policy", "show", "web"}, 1, []string{`policy "web": `, "no policy web", "next: homeportctl policy list"}},
		{well, []string{"policy", "show", "absent"}, 1, []string{`policy "absent": no such`, "next: homeportctl policy list"}},
		{well, []string{"drops", "--port", "eth7"}, 1, []string{`port "eth7": not attached`, "next: homeportctl ports"}},
		{well, []string{"drops", "--port", ""}, 1, []string{"next: homeportctl ports"}},
		{well, []string{"bogus"}, 2, []string{`"bogus"`, "next: homeportctl --help"}},
		{well, []string{"ports", "extra"}, 2, []string{`"extra"`}},
		{well, []string{"ports", "-o", "xml"}, 2, []string{"xml", "table, wide, json, yaml"}},
		{well, []string{"ports", "open"}, 2, []string{"wants one PORT, got 0"}},
		{well, []string{"ports", "open", "eth7"}, 1, []string{`port "eth7": not attached`, "next: homeportctl ports"}},
		{well, []string{"ports", "open", "c0ffee"}, 0, nil},
		{well, []string{"ports", "release", "c0ffee"}, 1, []string{"port: Kubernetes says where"}},
		{well, []string{"ports", "--wat"}, 2, []string{"--wat"}},
		{well, []string{"addresses", "10.9.9.9"}, 1, []string{"no NIC on this node's networks has 10.9.9.9, and nobody was heard with it", "next: homeportctl addresses"}},
		{well, []string{"addresses", "::ffff:10.9.9.9"}, 1, []string{"has 10.9.9.9, and"}},
		{well, []string{"addresses", "shop/none", "-o", "json"}, 1, []string{`no VM or pod "shop/none"`, "next: homeportctl addresses"}},
		{well, []string{"addresses", "approve"}, 2, []string{"wants VM and IP, got 0"}},
		{well, []string{"addresses", "a", "b"}, 2, []string{"takes one VM or IP", `"b"`}},
		{well, []string{"addresses", ""}, 2, []string{`"" is no VM or pod`, "next: homeportctl addresses --help"}},
		{well, []string{"addresses", "shop/"}, 2, []string{`"shop/" is no VM or pod`}},
		{well, []string{"addresses", "a/b/c"}, 2, []string{`"a/b/c" is no VM or pod`}},
		{well, []string{"addresses", "10.1.2.300"}, 2, []string{`"10.1.2.300" is no IP address`}},
		{well, []string{"addresses", "10.1.2.0/24"}, 2, []string{`"10.1.2.0/24" is no IP address`}},
		{well, []string{"addresses", "fd00::zz"}, 2, []string{`"fd00::zz" is no IP address`}},
		{well, []string{"addresses", "fe80::1%eth0"}, 2, []string{`"fe80::1%eth0" names an interface: want fe80::1`}},
		{well, []string{"addresses", "approve", "web-1"}, 2, []string{"wants VM and IP, got 1"}},
		{well, []string{"addresses", "approve", "web-1", "ten"}, 2, []string{`"ten" is no IP address`, "next: homeportctl addresses approve --help"}},
		{well, []string{"addresses", "approve", "web-1", "fe80::1%eth0"}, 2, []string{`"fe80::1%eth0" names an interface`}},
		{well, []string{"addresses", "approve", "10.0.0.7", "web-1"}, 2, []string{`"10.0.0.7" is an address: want the VM first`}},
		{well, []string{"addresses", "approve", "", "10.0.0.7"}, 2, []string{`"" is no VM or pod`}},
		{well, []string{"addresses", "approve", "web-1", "10.0.0.7", "--vlan", "0"}, 2, []string{"--vlan 0 is no VLAN: want 1 to 4094"}},
		{well, []string{"addresses", "approve", "web-1", "10.0.0.7", "--vlan", "4095"}, 2, []string{"--vlan 4095 is no VLAN"}},
		{well, []string{"addresses", "approve", "web-1", "10.0.0.7", "--vlan", "ten"}, 2, []string{"--vlan"}},
		{well, []string{"addresses", "approve", "web-1", "10.9.9.9"}, 1, []string{"address: 10.9.9.9 is not claimed by web-1"}},
		{well, []string{"policy"}, 2, []string{"list, show NAME, compile PORT or simulate PORT"}},
		{well, []string{"policy", "compile"}, 2, []string{"wants one PORT, got 0"}},
		{well, []string{"policy", "compile", "eth7"}, 1, []string{`port "eth7": not attached`, "next: homeportctl ports"}},
		{well, []string{"policy", "simulate", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp"}, 2, []string{"wants one PORT, got 0"}},
		{well, []string{"policy", "simulate", "eth7", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp"}, 1, []string{`port "eth7": not attached`, "next: homeportctl ports"}},
		{well, []string{"policy", "simulate", "c0ffee", "--to", "10.0.0.7:80/tcp"}, 2, []string{`--from "": want an address`, "next: homeportctl policy simulate --help"}},
		{well, []string{"policy", "simulate", "c0ffee", "--from", "10.0.0.9", "--to", "10.0.0.7"}, 2, []string{`--to "10.0.0.7": want an address, a port and a protocol`}},
		{well, []string{"policy", "simulate", "c0ffee", "--from", "10.0.0.9", "--to", "10.0.0.7/tcp"}, 2, []string{`--to "10.0.0.7/tcp": want`}},
		{well, []string{"policy", "simulate", "c0ffee", "--from", "10.0.0.9", "--to", "ten/47"}, 2, []string{`--to "ten/47": want`}},
		{well, []string{"trace", "c0ffee", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp", "--code", "3"}, 2, []string{"--code 3: tcp has no codes", "next: homeportctl trace --help"}},
		{well, []string{"trace", "c0ffee", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp", "--vlan", "0"}, 2, []string{"--vlan 0 is no VLAN: want 1 to 4094"}},
		{well, []string{"trace", "c0ffee", "--from", "10.0.0.9", "--to", "10.0.0.7:80/tcp", "--tcp-flags", ""}, 2, []string{"--tcp-flags has none: want letters of FSRPAUEC"}},
		{ill, []string{"policy", "simulate", "c0ffee", "--from", "fd00::9", "--to", "10.0.0.7:80/tcp"}, 2, []string{"not of one family"}},
		{well, []string{"policy", "delete"}, 2, []string{`"delete"`}},
		{well, []string{"policy", "show"}, 2, []string{"one NAME"}},
		{well, []string{"policy", "show", "a", "b"}, 2, []string{"one NAME, got 2"}},
		{gone, []string{"addresses", "approve", "web-1", "10.0.0.7"}, 3, []string{gone, "next: bridge-agent doctor"}},
		{gone, []string{"status"}, 3, []string{gone, "no such file", "next: bridge-agent doctor"}},
		{ill, []string{"drops"}, 3, []string{"counters cannot be read", "next: bridge-agent doctor"}},
		{ill, []string{"vlans"}, 3, []string{`view "vlans" is not understood`, "one release"}},
		{gone, []string{"version"}, 0, nil},
	} {
		r := homeportctl(t, tt.socket, tt.args...)
		if r.Code != tt.code || (len(tt.stderr) == 0) != (r.Stderr == "") || strings.Count(r.Stderr, "\n") > 1 {
			t.Errorf("%v: %+v, want exit %d", tt.args, r, tt.code)
		}
		for _, part := range tt.stderr {
			if !strings.Contains(r.Stderr, part) {
				t.Errorf("%v: stderr %q lacks %q", tt.args, r.Stderr, part)
			}
		}
		if tt.code > 1 && r.Stdout != "" {
			t.Errorf("%v: stdout %q of a question without answer", tt.args, r.Stdout)
		}
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	socket := serve(t, func(asked context.Context, _ json.RawMessage) (any, error) {
		cancel()
		<-asked.Done()
		return nil, errors.New("nobody waits for this")
	})
	if r := homeportctlContext(ctx, socket, "ports"); r.Code != exitInterrupted || r.Stdout+r.Stderr != "" {
		t.Errorf("%+v, want exit 130 in silence", r)
	}
}

// What a newer agent adds is shown to programs and does no harm to people.
func TestNewerAgent(t *testing.T) {
	socket := newAgent(t, map[string]any{wire.ViewPorts: json.RawMessage(
		`{"apiVersion":"homeport.dev/v1alpha1","kind":"PortList","items":[{"hostIfName":"veth7","state":"Hibernating","vlans":{"mode":"Access","pvid":9},"colour":"red"}]}`)})
	if r := homeportctl(t, socket, "ports", "-o", "json"); r.Code != 0 || !strings.Contains(r.Stdout, `"colour": "red"`) {
		t.Errorf("%+v", r)
	}
	if r := homeportctl(t, socket, "ports"); r.Code != 0 || !strings.Contains(r.Stdout, "veth7  unknown  -        access 9") {
		t.Errorf("%+v", r)
	}
}

func TestHelpIsOneScreenExamplesFirst(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"--help"}} {
		r := homeportctl(t, "", args...)
		if r.Code != 0 || r.Stderr != "" {
			t.Errorf("%v: %+v", args, r)
		}
		lines := strings.Split(r.Stdout, "\n")
		if len(lines) > 24 {
			t.Errorf("%v: help has %d lines, a screen has 24", args, len(lines))
		}
		if lines[0] != "Examples:" || !strings.HasPrefix(lines[3], "  homeportctl ") || lines[4] != "" {
			t.Errorf("%v: help does not begin with three examples:\n%s", args, r.Stdout)
		}
		for _, l := range lines {
			if len(l) > 90 {
				t.Errorf("%v: line is too wide: %q", args, l)
			}
		}
		if strings.Contains(r.Stdout, "--socket") {
			t.Errorf("%v: help shows a hidden flag", args)
		}
	}
}

func TestCalledAs(t *testing.T) {
	for argv0, want := range map[string]string{
		"homeportctl":                     "homeportctl",
		"/usr/local/bin/kubectl-homeport": "kubectl homeport",
		"":                                "homeportctl",
	} {
		if got := calledAs(argv0); got != want {
			t.Errorf("calledAs(%q) = %q, want %q", argv0, got, want)
		}
	}
	var out bytes.Buffer
	run(context.Background(), nil, surroundings{stdout: &out, stderr: &out, name: "kubectl homeport"})
	if !strings.Contains(out.String(), "\nUsage: kubectl homeport COMMAND") {
		t.Errorf("help as a plugin of kubectl:\n%s", out.String())
	}
}

func TestColor(t *testing.T) {
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if wantsColor(file, func(string) string { return "" }) {
		t.Error("colour in a file")
	}
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no terminal to try: %v", err)
	}
	defer pty.Close()
	for env, want := range map[string]bool{"": true, "NO_COLOR=1": false, "TERM=dumb": false, "TERM=xterm": true} {
		key, value, _ := strings.Cut(env, "=")
		got := wantsColor(pty, func(k string) string {
			if k == key {
				return value
			}
			return ""
		})
		if got != want {
			t.Errorf("terminal with %q: colour %v, want %v", env, got, want)
		}
	}
}
