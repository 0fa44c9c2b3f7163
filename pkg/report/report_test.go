package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// golden compares with testdata/NAME; UPDATE_GOLDEN=1 rewrites it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s (-want +got; UPDATE_GOLDEN=1 rewrites):\n%s", file, d)
	}
}

func set(t *testing.T, text string) vlan.Set {
	t.Helper()
	s, err := vlan.ParseSet(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func meta(kind string) wire.TypeMeta { return wire.TypeMeta{APIVersion: wire.APIVersion, Kind: kind} }

func port(name string, v attach.VLANs) wire.Port {
	p := wire.Port{State: attach.Active, Passed: [2]uint64{12, 7}}
	p.Record = attach.Record{Version: attach.RecordVersion, Bridge: "br-phys", VLANs: v, EffectiveMTU: 1500,
		CreatedAt: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)}
	p.Request = attach.Request{
		Key:        attach.Key{ContainerID: "c0ffee", IfName: "pod37a8eec1ce1"},
		MAC:        attach.MAC{2, 0, 0, 0, 0, 0x64},
		Pod:        attach.Pod{Namespace: "shop", Name: "virt-launcher-db-x7k2p"},
		HostIfName: name,
	}
	return p
}

func status() wire.NodeStatus {
	return wire.NodeStatus{
		TypeMeta: meta("NodeStatus"), Version: "v0.1.0", Ready: true, Source: "dir:/etc/homeport",
		Desired: 7, Compiled: 7, Active: 7, Generation: 12, Hook: "tcx",
		Trunks: []wire.TrunkStatus{{Name: "physnet1", Bridge: "br-phys", Uplink: "eth1", MTU: 1500, Ready: true}},
		Ports:  map[string]int{"Dark": 1, "Active": 3},
	}
}

// staleStatus is ready, but by what the source last said.
func staleStatus() wire.NodeStatus {
	s := status()
	s.Conditions = []wire.Condition{{Type: wire.DesiredStateStale, Status: "True", Reason: "SourceEmpty",
		LastTransitionTime: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC), Message: "/etc/homeport: has no manifests any more: restore them"}}
	s.Problems = []wire.Problem{{File: "/etc/homeport", Message: "has no manifests any more: restore them; everything stays as it last was", Kept: true}}
	return s
}

func brokenStatus(t *testing.T) wire.NodeStatus {
	s := status()
	s.Ready, s.Active = false, 6
	s.Reasons = []string{"policy revision 7 is compiled but 6 is active", "trunk physnet1: uplink eth1 is down"}
	s.Trunks[0].Ready, s.Trunks[0].Message = false, "uplink eth1 is down"
	s.Trunks[0].VLANs = set(t, "100-110,200")
	s.Trunks[0].Conditions = []wire.Condition{
		{Type: "HostFiltered", Status: "True", Reason: "HostFirewall", LastTransitionTime: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC), Message: "policy of FORWARD is DROP"},
		{Type: "Other", Status: "False", Reason: "Fine", Message: "nothing to tell"},
	}
	s.Drift = []wire.DriftCount{{Kind: "LinkSevered", Subject: "veth8f2c01aa", Seen: 2, Repaired: 1,
		Last:    time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC),
		Message: "port at interface 7, hook from_vm: link severed: the port is open, without its firewall, until it is repaired"}}
	s.Problems = []wire.Problem{
		{File: "policies.yaml", Line: 14, Kind: "FirewallPolicy", Name: "web", Field: "spec.rules[2].id", Message: "1001 is used twice", Kept: true},
		{File: "junk.yaml", Message: "not YAML"},
	}
	return s
}

func portList(t *testing.T) wire.PortList {
	access := port("veth8f2c01aa", attach.VLANs{Mode: vlan.Access, PVID: 100})
	access.Network, access.Policy = "legacy-100", "legacy-100"
	access.Dropped = [2]uint64{0, 41}
	access.FastPath = &wire.FastPath{On: true, ToUplink: true}
	trunk := port("veth1b", attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100-110")})
	trunk.State, trunk.Pod = attach.Dark, attach.Pod{Name: "bare"}
	trunk.Problems = []string{"VLAN 105 is missing on the bridge port"}
	native := port("veth2c", attach.VLANs{Mode: vlan.Native, PVID: 5, Tagged: set(t, "200")})
	native.Pod = attach.Pod{}
	since := time.Date(2026, 9, 1, 12, 5, 0, 0, time.UTC)
	native.State, native.Hold = attach.Quarantined, &attach.Hold{State: attach.Quarantined, Since: since, Message: "it is to come"}
	left := port("veth3d", attach.VLANs{Mode: vlan.Access, PVID: 100})
	left.FastPath = &wire.FastPath{Why: "the port is Released"}
	left.State, left.Hold = attach.Released, &attach.Hold{State: attach.Released, Since: since, Message: "it went"}
	return wire.PortList{TypeMeta: meta("PortList"), Items: []wire.Port{access, trunk, native, left}}
}

func vlanList(t *testing.T) wire.VLANList {
	return wire.VLANList{TypeMeta: meta("VLANList"), Items: []wire.PortVLANs{
		{Bridge: "br-phys", Interface: "veth8f2c01aa", Role: "port", VLANs: set(t, "100"), PVID: 100, Untagged: set(t, "100")},
		{Bridge: "br-phys", Interface: "eth1", Role: "uplink", VLANs: set(t, "1,100-110,200"), PVID: 1, Untagged: set(t, "1,105-106")},
		{Bridge: "br-phys", Interface: "br-phys", Role: "other"},
	}}
}

func policyList() wire.PolicyList {
	return wire.PolicyList{TypeMeta: meta("PolicyList"),
		Items: []wire.Policy{
			{Name: "lockdown", Category: "Emergency", Order: 1},
			{Name: "db", Category: "Application", Order: 100, Networks: []string{"legacy-100", "legacy-200", "legacy-300"}, Rules: []wire.Rule{
				{ID: 1001, Name: "web", Action: "Allow", Direction: "In", Sources: []string{"10.0.0.0/24", "10.0.1.0/24", "10.0.2.7"},
					Destinations: []string{"10.0.100.5"}, Services: []string{"tcp/80"}, Sticky: true, Packets: 3, Bytes: 222, LastHit: time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)},
				{ID: 1002, Action: "Drop", Stateless: true, Log: true, Direction: "InOut", Services: []string{"tcp/22"}, Packets: 9, Bytes: 666},
				{ID: 1003, Action: "Drop", State: "Disabled", Direction: "InOut", Local: []string{"AddressSet payment-vms"}},
				{ID: 1004, Name: "lock", Action: "Reject", Loose: true, State: "Monitor", Direction: "In", Packets: 41, Bytes: 2460},
			}},
		},
		Defaults: []wire.DefaultHits{{Network: "legacy-100", Action: "Drop", Packets: 4, Bytes: 240}, {Action: "Allow"}},
	}
}

func verdict() wire.Verdict {
	return wire.Verdict{TypeMeta: meta("Verdict"), Key: attach.Key{ContainerID: "c0ffee", IfName: "pod37a8eec1ce1"}, Interface: "veth8f2c01aa",
		Pod: attach.Pod{Namespace: "shop", Name: "db"}, State: attach.Active, Rules: "legacy-100", Network: "legacy-100", Packet: "In, 10.0.0.9 -> 10.0.100.5, tcp/80",
		Action: "Allow", Policy: "db", Rule: &policyList().Items[1].Rules[0]}
}

func portRules() wire.PortRules {
	v := verdict()
	out := wire.PortRules{TypeMeta: meta("PortRules"), Key: v.Key, Interface: v.Interface, Pod: v.Pod, State: v.State, Rules: v.Rules,
		Default: policyList().Defaults[0]}
	for _, p := range policyList().Items {
		for _, r := range p.Rules {
			out.Items = append(out.Items, wire.PortRule{Policy: p.Name, Rule: r})
		}
	}
	return out
}

func dropList() wire.DropList {
	drop := func(port, dir string, reason policy.Reason, n uint64) wire.Drop {
		return wire.Drop{Key: attach.Key{ContainerID: "c0ffee", IfName: "pod37a8eec1ce1"}, Interface: port,
			Pod: attach.Pod{Namespace: "shop", Name: "db"}, Direction: dir, Reason: reason.String(), Text: reason.Text(), Packets: n, Bytes: 60 * n}
	}
	return wire.DropList{TypeMeta: meta("DropList"), Items: []wire.Drop{
		drop("veth8f2c01aa", "Out", policy.ReasonMACSpoof, 3),
		drop("veth8f2c01aa", "In", policy.ReasonDefaultDrop, 4),
		drop("veth8f2c01aa", "In", policy.ReasonRuleDrop, 41),
		drop("veth1b", "Out", policy.ReasonUntagged, 1),
	}}
}

func diagnosis() Diagnosis {
	return Diagnose([]Check{
		{Name: "kernel is recent enough", Answer: Yes, Detail: "6.12.41"},
		{Name: "bridges filter VLANs", Answer: Yes, Required: true, Purpose: "keeping VLANs apart"},
		{Name: "tcx attaches programs", Answer: No, Detail: "clsact is used instead", Needs: "kernel 6.6"},
		{Name: "maps are written in batches", Answer: No, Needs: "kernel 5.13", Purpose: "publishing many ports at once"},
		{Name: "the kernel has a coarse clock", Answer: No, Required: true, Needs: "kernel 5.11", Purpose: "timeouts of connections",
			Remedy: "use a kernel that has it"},
		{Name: "bpffs is mounted", Answer: No, Required: true, Detail: "/sys/fs/bpf is a plain directory",
			Remedy: "mount -t bpf bpf /sys/fs/bpf"},
		{Name: "bridged frames stay out of iptables", Answer: Unknown, Detail: "sysctls cannot be read: permission denied",
			Remedy: "run as root, on the node itself and not in a container, since what a container sees of /proc/sys/net belongs to its own network namespace"},
	})
}

// cases are the reports with the name of their golden file.
func cases(t *testing.T) map[string]func(Printer) error {
	return map[string]func(Printer) error{
		"status":         func(p Printer) error { return p.Status(status()) },
		"status-stale":   func(p Printer) error { return p.Status(staleStatus()) },
		"status-broken":  func(p Printer) error { return p.Status(brokenStatus(t)) },
		"addresses":      func(p Printer) error { p.Now = now; return p.Addresses(addressList()) },
		"addresses-none": func(p Printer) error { return p.Addresses(wire.AddressList{TypeMeta: meta("AddressList")}) },
		"ports":          func(p Printer) error { return p.Ports(portList(t)) },
		"ports-none":     func(p Printer) error { return p.Ports(wire.PortList{TypeMeta: meta("PortList")}) },
		"vlans":          func(p Printer) error { return p.VLANs(vlanList(t)) },
		"policies":       func(p Printer) error { return p.Policies(policyList()) },
		"hits":           func(p Printer) error { return textOr(p, policyList(), p.Hits) },
		"policies-none":  func(p Printer) error { return p.Policies(wire.PolicyList{TypeMeta: meta("PolicyList")}) },
		"policy": func(p Printer) error {
			if !p.Format.IsText() {
				return p.Document(policyList())
			}
			return p.Policy(policyList().Items[1])
		},
		"verdict": func(p Printer) error {
			if !p.Format.IsText() {
				return p.Document(verdict())
			}
			v := verdict()
			v.State, v.Rule, v.Policy, v.Action = attach.Quarantined, nil, "", "Drop"
			v.Monitored = &wire.PortRule{Policy: "db", Rule: policyList().Items[1].Rules[3]}
			return errors.Join(p.Verdict(verdict()), p.Verdict(v))
		},
		"port-rules": func(p Printer) error {
			if !p.Format.IsText() {
				return p.Document(portRules())
			}
			v := portRules()
			v.State, v.Items, v.Pod, v.Default = attach.Dark, nil, attach.Pod{}, policyList().Defaults[1]
			return errors.Join(p.PortRules(portRules()), p.PortRules(v))
		},
		"diff": func(p Printer) error {
			was, is := portRules(), portRules()
			same := Compare("web-1", "before.json", was, is)
			is.Items = append(slices.Clone(is.Items[2:]), is.Items[0], wire.PortRule{Policy: "db", Rule: wire.Rule{ID: 9, Action: "Reject", Direction: "Out", Destinations: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}}})
			is.Items[0].Action = "Reject"
			was.Sets = []wire.NamedSet{{Kind: "AddressSet", Name: "friends", Items: 100, Hash: "a"}, {Kind: "ServiceSet", Name: "web", Items: 2, Hash: "b"},
				{Kind: "AddressSet", Name: "payment-vms", Items: 3, Hash: "x"}}
			is.Sets = []wire.NamedSet{{Kind: "AddressSet", Name: "friends", Items: 101, Hash: "c"}, {Kind: "ServiceSet", Name: "web", Items: 2, Hash: "d"},
				{Kind: "AddressSet", Name: "payment-vms", Items: 3, Hash: "x"}}
			is.Default.Action = "Allow"
			changed := Compare("before.json", "shop/db", was, is)
			if !p.Format.IsText() {
				return p.PolicyDiff(changed)
			}
			return errors.Join(p.PolicyDiff(changed), p.PolicyDiff(same))
		},
		"drops":      func(p Printer) error { return p.Drops(dropList()) },
		"drops-none": func(p Printer) error { return p.Drops(wire.DropList{TypeMeta: meta("DropList")}) },
		"versions": func(p Printer) error {
			return p.Versions(Versions{TypeMeta: meta("Versions"), Client: "v1", Protocol: 1, Agent: "v1"})
		},
		"versions-no-agent": func(p Printer) error {
			return p.Versions(Versions{TypeMeta: meta("Versions"), Client: "v1", Protocol: 1, AgentUnknown: "nobody answers"})
		},
		"doctor": func(p Printer) error { return p.Diagnosis(diagnosis()) },
	}
}

// textOr writes what only text has another form of.
func textOr[T any](p Printer, v T, text func(T) error) error {
	if p.Format.IsText() {
		return text(v)
	}
	return p.Document(v)
}

func TestGolden(t *testing.T) {
	for name, print := range cases(t) {
		for _, f := range []Format{Table, Wide} {
			t.Run(name+"."+string(f), func(t *testing.T) {
				var buf bytes.Buffer
				if err := print(Printer{W: &buf, Format: f}); err != nil {
					t.Fatal(err)
				}
				golden(t, name+"."+string(f), buf.Bytes())
				for _, line := range strings.Split(buf.String(), "\n") {
					if strings.TrimRight(line, " ") != line && !strings.HasPrefix(name, "vlans") {
						t.Errorf("line ends in spaces: %q", line)
					}
				}
			})
		}
	}
}

// Only colour may differ, and only words that mean something have it.
func TestColorChangesNothingElse(t *testing.T) {
	for name, print := range cases(t) {
		var with, without bytes.Buffer
		if err := errors.Join(print(Printer{W: &with, Color: true}), print(Printer{W: &without})); err != nil {
			t.Fatal(err)
		}
		stripped := with.String()
		for _, sgr := range []string{"0", "1", "31", "32", "33"} {
			stripped = strings.ReplaceAll(stripped, "\x1b["+sgr+"m", "")
		}
		if d := cmp.Diff(without.String(), stripped); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
	var buf bytes.Buffer
	if err := (Printer{W: &buf, Color: true}).Status(brokenStatus(t)); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(buf.String(), "\x1b[31mNOT READY\x1b[0m") {
		t.Errorf("no red NOT READY in %q", buf.String())
	}
}

func TestDocumentsCarryTypeMeta(t *testing.T) {
	for name, print := range cases(t) {
		for _, f := range []Format{JSON, YAML} {
			var buf bytes.Buffer
			if err := print(Printer{W: &buf, Format: f}); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			text := strings.ReplaceAll(buf.String(), `"`, "")
			for _, key := range []string{"apiVersion: homeport.dev/v1alpha1", "kind: "} {
				if !strings.Contains(text, key) {
					t.Errorf("%s as %s has no %s:\n%s", name, f, key, text)
				}
			}
		}
	}
}

func TestDocumentKeepsWhatItDoesNotKnow(t *testing.T) {
	raw := json.RawMessage(`{"kind":"X","apiVersion":"v9","new":{"z":18446744073709551615,"a":"<&>"}}`)
	var asJSON, asYAML bytes.Buffer
	if err := errors.Join(Printer{W: &asJSON, Format: JSON}.Document(raw), Printer{W: &asYAML, Format: YAML}.Document(raw)); err != nil {
		t.Fatal(err)
	}
	const wantJSON = "{\n  \"kind\": \"X\",\n  \"apiVersion\": \"v9\",\n  \"new\": {\n    \"z\": 18446744073709551615,\n    \"a\": \"<&>\"\n  }\n}\n"
	const wantYAML = "apiVersion: v9\nkind: X\nnew:\n  a: <&>\n  z: 18446744073709551615\n"
	if d := cmp.Diff(wantJSON, asJSON.String()) + cmp.Diff(wantYAML, asYAML.String()); d != "" {
		t.Error(d)
	}
}

func TestTerminalIsNotSteered(t *testing.T) {
	s := status()
	s.Ready = false
	s.Reasons = []string{"pod \x1b[2J\u202egone\nNode is ready"}
	var buf bytes.Buffer
	if err := (Printer{W: &buf}).Status(s); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(buf.String(), "pod ?[2J?gone?Node is ready\n") {
		t.Errorf("control characters came through: %q", buf.String())
	}
}

func TestParseFormat(t *testing.T) {
	for _, f := range Formats() {
		if got, err := ParseFormat(string(f)); err != nil || got != f {
			t.Errorf("ParseFormat(%q) = %q, %v", f, got, err)
		}
	}
	for _, s := range []string{"", "xml", "JSON", "table "} {
		if _, err := ParseFormat(s); err == nil || !strings.Contains(err.Error(), "table, wide, json, yaml") {
			t.Errorf("ParseFormat(%q): error %v does not list the formats", s, err)
		}
	}
}

func TestOutcome(t *testing.T) {
	check := func(a Answer, required bool) Check { return Check{Answer: a, Required: required} }
	for name, tt := range map[string]struct {
		checks []Check
		want   Answer
	}{
		"none":               {nil, Yes},
		"warnings only":      {[]Check{check(No, false), check(Unknown, false)}, Yes},
		"unknown":            {[]Check{check(Yes, true), check(Unknown, true)}, Unknown},
		"no before unknown":  {[]Check{check(No, true), check(Unknown, true)}, No},
		"no after unknown":   {[]Check{check(Unknown, true), check(No, true)}, No},
		"answer of no known": {[]Check{check("", true)}, Unknown},
	} {
		if got := Outcome(tt.checks); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, os.ErrClosed }

func TestWriteErrors(t *testing.T) {
	for name, print := range cases(t) {
		for _, f := range Formats() {
			if err := print(Printer{W: brokenPipe{}, Format: f}); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s as %s: error %v", name, f, err)
			}
		}
	}
}
