package desired

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/reach"
)

const hourly = `apiVersion: homeport.dev/v1alpha1
kind: ReachabilityCheck
metadata: {name: hourly}
spec:
  every: 1h
  run: "7"
  networks: [vlan200, vlan100]
  vlans: "100-110,200"
  nodes: [n1]
  skip: [lldp]
  maxPPS: 100
`

func TestBadCheck(t *testing.T) {
	check := func(old, new string) string { return edit(hourly, old, new) }
	for _, c := range []badCase{
		{name: "good", content: hourly, want: "\n"},
		{name: "unknown field", content: check("nodes: [n1]", "nodez: [n1]"), want: `
more.yaml:9: ReachabilityCheck hourly: spec.nodez: unknown field: want one of every, run, networks, vlans, nodes, skip, maxPPS
`},
		{name: "no time", content: check(`  every: 1h
  run: "7"
`, ""), want: `
more.yaml:4: ReachabilityCheck hourly: spec.every: Required value: say when: every, as 1h, or run, with a text that is new for each run
`},
		{name: "too often", content: check("1h", "59s"), want: `
more.yaml:5: ReachabilityCheck hourly: spec.every: Invalid value: "59s": want a time from 1m to 168h, as 15m or 1h30m
`},
		{name: "too seldom", content: check("1h", "169h"), want: `
more.yaml:5: ReachabilityCheck hourly: spec.every: Invalid value: "169h": want a time from 1m to 168h, as 15m or 1h30m
`},
		{name: "an hour", content: check("1h", "hour"), want: `
more.yaml:5: ReachabilityCheck hourly: spec.every: Invalid value: "hour": want a time from 1m to 168h, as 15m or 1h30m
`},
		{name: "a run that is a number", content: check(`"7"`, "7"), want: `
more.yaml:6: ReachabilityCheck hourly: spec.run: 7 is not a text in YAML: want quotes, as "7"
`},
		{name: "a network that is not there", content: check("[vlan200, vlan100]", "[vlan300, vlan100]"), want: `
more.yaml:7: ReachabilityCheck hourly: spec.networks: VLANNetwork "vlan300" does not exist: want one of vlan100, vlan200, or make it
`},
		{name: "a network twice", content: check("[vlan200, vlan100]", "[vlan100, vlan100]"), want: `
more.yaml:7: ReachabilityCheck hourly: spec.networks[1]: Invalid value: "vlan100": is also item 0: want it once
`},
		{name: "VLAN 0", content: check(`"100-110,200"`, `"0"`), want: `
more.yaml:8: ReachabilityCheck hourly: spec.vlans: Invalid value: "0": VLAN list "0": VLAN 0 is out of range: want 1-4094
`},
		{name: "a test that there is not", content: check("[lldp]", "[ping]"), want: `
more.yaml:10: ReachabilityCheck hourly: spec.skip[0]: Invalid value: "ping": want some of [trunk mac mtu gateway target dhcp ra lldp]
`},
		{name: "nothing left", content: check("[lldp]", "[trunk, mac, mtu, gateway, target, dhcp, ra, lldp]"), want: `
more.yaml:10: ReachabilityCheck hourly: spec.skip: Invalid value: ["trunk","mac","mtu","gateway","target","dhcp","ra","lldp"]: leaves nothing to test: want at least one test left
`},
		{name: "no pace", content: check("maxPPS: 100", "maxPPS: 0"), want: `
more.yaml:11: ReachabilityCheck hourly: spec.maxPPS: Invalid value: 0: want 1 to 100000
`},
	} {
		c.file = "more.yaml"
		c.want = strings.TrimPrefix(c.want, "\n")
		t.Run(c.name, c.run)
	}
}

// Checks are in force as they are written, survive a restart and what is wrong with their next version, go
// when they go, and are no reason to compile policy anew.
func TestChecks(t *testing.T) {
	d, dir := newDir(t, good().with("check.yaml", hourly))
	d.cache = filepath.Join(t.TempDir(), "cache")
	s := mustLoad(t, d)
	want := Check{Name: "hourly", Every: time.Hour, Run: "7", Networks: []string{"vlan100", "vlan200"}, Nodes: []string{"n1"}, VLANs: s.Checks["hourly"].VLANs,
		Skip: []string{"lldp"}, MaxPPS: 100}
	if got := s.Checks["hourly"]; !reflect.DeepEqual(got, want) || got.VLANs.String() != "100-110,200" {
		t.Fatalf("got %+v, want %+v", got, want)
	}
	write := func(content string) *Snapshot {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "check.yaml"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		return mustLoad(t, d)
	}
	now := write(edit(hourly, "1h", "2h"))
	if now.Checks["hourly"].Every != 2*time.Hour || now.Revision != s.Revision || !differs(now, s) {
		t.Errorf("after a change %+v, revision %d before %d", now.Checks, now.Revision, s.Revision)
	}
	for name, bad := range map[string]string{"wrong": edit(hourly, "1h", "hour"), "a network that is not there": edit(hourly, "vlan200", "vlan300")} {
		if now = write(bad); now.Checks["hourly"].Every != 2*time.Hour || len(now.Problems) != 1 || !now.Problems[0].Kept {
			t.Errorf("%s: %+v, %v", name, now.Checks, now.Problems)
		}
	}
	again := NewDir(dir, d.cache)
	if stored := mustLoad(t, again); !reflect.DeepEqual(stored.Checks, now.Checks) || stored.Revision != s.Revision {
		t.Errorf("stored: %+v, want %+v", stored.Checks, now.Checks)
	}
	if now = write("# none\n"); len(now.Checks) > 0 || len(now.Problems) > 0 || now.Revision != s.Revision {
		t.Errorf("of one that went: %+v, %v", now.Checks, now.Problems)
	}
}

func TestCovers(t *testing.T) {
	for name, c := range map[string]struct {
		check Check
		want  bool
	}{
		"all":            {Check{Every: time.Hour}, true},
		"by name":        {Check{Every: time.Hour, Networks: []string{"a", "b"}}, true},
		"others":         {Check{Every: time.Hour, Networks: []string{"b"}}, false},
		"when asked":     {Check{Run: "1"}, false},
		"not the trunk":  {Check{Every: time.Hour, Skip: []string{"trunk"}}, false},
		"not the switch": {Check{Every: time.Hour, Skip: []string{"lldp"}}, true},
		"some VLANs":     {Check{Every: time.Hour, VLANs: vlanSet(100)}, false},
		"some nodes":     {Check{Every: time.Hour, Nodes: []string{"n1"}}, false},
	} {
		if got := c.check.Covers("a"); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// Each test can be skipped, whatever tests there are.
func TestSkippable(t *testing.T) {
	for _, test := range reach.Tests() {
		c := v1alpha1.ReachabilityCheck{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: v1alpha1.ReachabilityCheckSpec{Every: "1h", Skip: []string{string(test)}}}
		if errs := v1alpha1.ValidateReachabilityCheck(&c); len(errs) > 0 {
			t.Errorf("%s: %v", test, errs)
		}
	}
}
