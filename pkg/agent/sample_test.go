package agent

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// volatile are series that depend on what the kernel sends by itself.
var volatile = regexp.MustCompile(`(?m)^homeport_port_\w+\{.*(direction="In"|reason="(nd|launcher_noise|mac_spoof)").*\n`)

// TestMetricsSample: testdata has the text of an agent whose node is well, and of one where much is wrong, for
// the tests of deploy/monitoring. It has the series that agents have now; HOMEPORT_UPDATE=1 writes it anew.
func TestMetricsSample(t *testing.T) {
	t.Run("well", func(t *testing.T) {
		sample(t, "well", ranWith("1"), func(live) {})
	})
	t.Run("ill", func(t *testing.T) {
		sample(t, "ill", ranWith("1", 101), func(l live) {
			l.must(l.takeRun(ranWith("2", 101)))
			l.must(l.takeRun(ranWith("3", 101)))
			l.world.health["t"] = trunkHealth{spec: l.kernel.trunkSpec(l.world.snap.Trunks["t"]), problem: "the uplink eth9 does not exist"}
			l.drift.settle([]finding{{kind: "UplinkUnslaved", subject: "eth9", message: "traffic is cut", repair: func() error { return errors.New("refused") }}})
		})
	})
}

// sample is an agent with a port that sends, a rule that drops and a check that ran.
func sample(t *testing.T, name string, ran reach.Ran, change func(live)) {
	l := newLive(t)
	l.prober = newProber(l.Agent, "n1", nil)
	tagged := vlan.Set{}
	for _, id := range []vlan.ID{100, 101} {
		l.must(tagged.Add(id))
	}
	l.follow(&desired.Snapshot{
		Revision: 1,
		Trunks:   map[string]desired.Trunk{"t": {Name: "t", Bridge: "br0", AllowedVLANs: tagged}},
		Networks: map[string]desired.Network{
			"web": {Name: "web", Trunk: "t", Mode: vlan.Access, PVID: 100, Default: policy.Allow},
			"lan": {Name: "lan", Trunk: "t", Mode: vlan.Trunk, Tagged: tagged, Reach: desired.Reach{Required: true}},
		},
		Policies: []desired.Policy{{Name: "sick", Rank: 1, VMs: selectVMs(t, "state=sick"), Rules: []policy.Rule{
			{Key: policy.RuleKey{Policy: "sick", ID: 1}, Action: policy.Drop, Directions: policy.InOut}}}},
		Pods:   map[string]desired.Pod{"x/vm": {UID: "u", Owner: desired.OwnerVM, VM: map[string]string{"state": "sick"}}},
		Checks: map[string]desired.Check{"hourly": {Name: "hourly", Every: time.Hour}},
	})
	l.trunksAreUp()
	rec := l.veth("veth1", 1)
	rec.Pod = attach.Pod{Namespace: "x", Name: "vm", UID: "u"}
	var ok bool
	if rec.Rules, ok = l.world.rulesAtFirst("web", rec.Pod); !ok {
		t.Fatal("the port has no rules")
	}
	l.openAs(rec)
	if got := l.sends(rec); got != "RuleDrop" {
		t.Errorf("the port judged a frame as %s", got)
	}
	l.drift.settle([]finding{{kind: "PortUnslaved", subject: "veth1", message: "traffic is cut", repair: func() error { return nil }}})
	l.drift.settle(nil)
	l.must(l.takeRun(ran))
	change(l)
	_, body := l.get("/metrics")
	body = volatile.ReplaceAllString(body, "")

	file := filepath.Join("testdata", "metrics-"+name+".txt")
	if os.Getenv("HOMEPORT_UPDATE") == "1" {
		l.must(os.MkdirAll("testdata", 0o755))
		l.must(os.WriteFile(file, []byte(body), 0o644))
	}
	kept, err := os.ReadFile(file)
	l.must(err)
	if d := cmp.Diff(seriesOf(string(kept)), seriesOf(body)); d != "" {
		t.Errorf("%s is not current: HOMEPORT_UPDATE=1 go test ./pkg/agent -run TestMetricsSample (-file +agent):\n%s", file, d)
	}
}

// seriesOf are the series of a text; values of counters and times are not compared.
func seriesOf(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		series, _, _ := strings.Cut(line, "} ")
		name, value, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "#"): // its help may be said better
		case strings.Contains(line, "_total") || strings.Contains(line, "_timestamp_") || strings.HasPrefix(line, "homeport_policy_generation"):
			out = append(out, series)
		default:
			out = append(out, name+" "+value)
		}
	}
	return out
}
