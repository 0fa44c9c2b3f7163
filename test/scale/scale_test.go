package scale

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/test/apiserver"
)

const (
	root = "../.."
	// rssAim is what an agent may have in memory, at its most.
	rssAim = 150 << 20
)

func TestMain(m *testing.M) {
	live.Log(slog.New(slog.DiscardHandler)) // what the test's own clients say
	os.Exit(m.Run())
}

// report is out/scale.json.
type report struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Cluster    size    `json:"cluster"`
	CPUs       int     `json:"cpus"`
	Small      start   `json:"small"` // with a cluster of one network and one policy
	Large      start   `json:"large"`
	Again      start   `json:"again"` // a second agent, with what the first has stored
	Changes    []batch `json:"changes"`
}

// start is what a start has cost, up to the first active generation: every policy
// was read and compiled, and the kernel's maps were switched to it.
type start struct {
	Seconds  float64        `json:"seconds"`
	RSS      int64          `json:"rssBytes"`     // once it is up
	RSSPeak  int64          `json:"rssPeakBytes"` // by the end of all changes
	Received int64          `json:"receivedBytes"`
	Requests map[string]int `json:"requests"`
}

// batch is what changes of one kind have cost the measured node.
type batch struct {
	Name      string         `json:"name"`
	Changes   int            `json:"changes"`
	Requests  int            `json:"requests"`
	PerChange float64        `json:"requestsPerChange"`
	Received  int64          `json:"receivedBytes"`
	By        map[string]int `json:"requestsBy"`
	Aim       float64        `json:"aim"` // of PerChange, at most
}

// TestScale starts an agent in a small cluster and in a large one, and changes the
// large one's objects.
func TestScale(t *testing.T) {
	if os.Getenv("HOMEPORT_CLUSTER") != "1" {
		t.Skip("takes some minutes: make test-scale runs it")
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root (a network namespace, CAP_BPF)")
	}
	binary := filepath.Join(t.TempDir(), "bridge-agent")
	if out, err := exec.Command("go", "build", "-C", root, "-trimpath", "-ldflags", "-s -w", "-o", binary, "./cmd/bridge-agent").CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v\n%s", err, out)
	}
	r := report{APIVersion: "homeport.dev/scale/v1", Kind: "ScaleReport", Cluster: large, CPUs: runtime.NumCPU()}
	t.Run("small", func(t *testing.T) {
		c := newCluster(t, small)
		a := c.node(binary).start()
		r.Small = c.measure(a)
		r.Small.RSSPeak = a.memory("VmHWM")
	})
	t.Run("large", func(t *testing.T) {
		c := newCluster(t, large)
		n := c.node(binary)
		a := n.start()
		r.Large = c.measure(a)
		for i, change := range changes {
			r.Changes = append(r.Changes, c.try(a, i, change))
		}
		r.Large.RSSPeak = a.memory("VmHWM")
		a.stop()
		a = n.start()
		r.Again = c.measure(a)
		r.Again.RSSPeak = a.memory("VmHWM")
	})
	if t.Failed() {
		return
	}
	r.print(t)
	r.write(t)
	r.check(t)
}

// cluster is an API server with objects.
type cluster struct {
	*testing.T
	client.Client
	server *apiserver.Server
	size   size
}

func newCluster(t *testing.T, s size) *cluster {
	t.Helper()
	server := apiserver.Start(t, root+"/deploy/base/crds", root+"/test/crds", root+"/pkg/kube/testdata")
	server.Apply(root+"/deploy/base/namespace.yaml", root+"/deploy/base/rbac.yaml", root+"/deploy/base/admission.yaml")
	c := &cluster{t, newClient(t, server.Config()), server, s}
	begun := time.Now()
	populate(t, server, c.Client, s)
	t.Logf("%+v: made in %v", s, time.Since(begun).Round(time.Second))
	return c
}

// node is the one that is measured.
func (c *cluster) node(binary string) *node {
	c.Helper()
	claim := map[string][]string{"authentication.kubernetes.io/node-name": {nodeName(0)}}
	return newNode(c, binary, nodeName(0), c.server.User("system:serviceaccount:homeport-system:homeport-agent", nil, claim))
}

// measure waits for an agent's first active generation, and for its word on that.
func (c *cluster) measure(a *agent) start {
	c.Helper()
	before := a.seen()
	s := a.until("the first active generation", func(s wire.NodeStatus) bool { return active(s) && len(s.Conditions) == 0 })
	out := start{Seconds: time.Since(a.begun).Seconds()}
	if len(s.Problems) > 0 {
		c.Errorf("problems: %v", s.Problems)
	}
	c.told(a, s.Active)
	out.RSS = a.memory("VmRSS")
	seen := a.seen().since(before)
	out.Requests, out.Received = seen.Requests, seen.Bytes
	return out
}

// told waits until the API server has the node's word on a generation: then all
// that the node had to do for it is done.
func (c *cluster) told(a *agent, generation uint64) {
	c.Helper()
	var last v1alpha1.VLANTrunkNode
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err := c.Get(c.Context(), client.ObjectKey{Name: trunk + "." + a.node.name}, &last)
		if g := last.Status.Generation; err == nil && g.Active == int64(generation) && g.Desired == g.Active {
			return
		}
	}
	c.Fatalf("generation %d was not told within a minute; last: %+v", generation, last.Status)
}

// mark changes a policy and waits until that is active and told. It costs the node
// markCosts at most.
func (c *cluster) mark(a *agent, order int) (generation uint64) {
	c.Helper()
	const name = "policy-0000"
	if err := c.patch(&v1alpha1.FirewallPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}}, false, `{"spec": {"order": %d}}`, order); err != nil {
		c.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var list wire.PolicyList
		err := a.ask(wire.ViewPolicies, name, &list)
		if err == nil && len(list.Items) == 1 && list.Items[0].Order == int64(order) {
			break
		}
		if time.Now().After(deadline) {
			c.Fatalf("a change of policy is not taken: %v, %+v", err, list)
		}
	}
	s := a.until("the change is active", active)
	c.told(a, s.Active)
	return s.Active
}

// markCosts is how many requests a node makes for a change of policy, at most: one
// says what is active since, and one before it that something is to become active,
// if the node reports just then.
const markCosts = 2

// change is a kind of change.
type change struct {
	name  string
	n     int
	aim   float64                       // requests of the measured node for each, at most
	idle  bool                          // it makes no new generation there
	apply func(c *cluster, i int) error // makes the i-th; nil is mark
}

// changes are what happens in a cluster all day. What no node but the one concerned
// has to act on must cost the others no request.
var changes = []change{
	{name: "policies, one at a time", n: 10, aim: markCosts},
	{name: "policies, 100 together", n: 100, aim: 1, apply: func(c *cluster, i int) error {
		return c.patch(&v1alpha1.FirewallPolicy{ObjectMeta: metav1.ObjectMeta{Name: policy(c.size, i+1).Name}}, false, `{"spec": {"order": %d}}`, 5000+i)
	}},
	{name: "VMPorts of other nodes", n: 200, idle: true, apply: func(c *cluster, i int) error {
		return c.patch(&v1alpha1.VMPort{ObjectMeta: vmPort(c.size, i).ObjectMeta}, true, `{"status": {"state": "Active", "counters": {"passedPackets": %d, "droppedPackets": 0}}}`, i+1)
	}},
	{name: "heartbeats of other nodes", n: 200, idle: true, apply: func(c *cluster, i int) error {
		return c.patch(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName(i + 1)}}, true,
			`{"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Up%d", "message": "m"}]}}`, i)
	}},
	{name: "VMIdentities of other nodes", n: 200, idle: true, apply: func(c *cluster, i int) error {
		return c.patch(&v1alpha1.VMIdentity{ObjectMeta: identity(c.size, i).ObjectMeta}, true,
			`{"status": {"addresses": [{"address": "fd00::1:%x", "provenance": "GuestAgent"}]}}`, i)
	}},
	{name: "AddressSets", n: 10, idle: true, apply: func(c *cluster, i int) error {
		return c.patch(&v1alpha1.AddressSet{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("set-%02d", i)}}, false, `{"spec": {"addresses": ["11.0.0.%d"]}}`, i)
	}},
}

// patch merges JSON into an object, or into its status.
func (c *cluster) patch(o client.Object, status bool, format string, a ...any) error {
	o = o.DeepCopyObject().(client.Object)
	p := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, format, a...))
	if status {
		return c.Status().Patch(c.Context(), o, p)
	}
	return c.Patch(c.Context(), o, p)
}

// try makes the changes. A mark behind them tells when they have been taken notice
// of; what it costs at least is taken off.
func (c *cluster) try(a *agent, number int, what change) batch {
	c.Helper()
	order := 10_000 * (number + 2)
	first := c.mark(a, order)
	before := a.seen()
	marks := 1
	if what.apply == nil {
		marks = what.n
	} else {
		all(c, what.n, func(_ context.Context, i int) error { return what.apply(c, i) })
	}
	var last uint64
	for i := range marks {
		last = c.mark(a, order+i+1)
	}
	if what.idle && last != first+1 {
		c.Errorf("%s: the node went from generation %d to %d: to it nothing but the mark has changed", what.name, first, last)
	}
	seen := a.seen().since(before)
	b := batch{Name: what.name, Changes: what.n, Requests: seen.total(), Received: seen.Bytes, By: seen.Requests, Aim: what.aim}
	if what.apply != nil {
		b.Requests = max(0, b.Requests-markCosts)
	}
	b.PerChange = float64(b.Requests) / float64(what.n)
	return b
}

func (r *report) print(t *testing.T) {
	mb := func(n int64) string { return fmt.Sprintf("%.0f MB", float64(n)/1e6) }
	t.Logf("%-30s %10s %10s %10s %10s %9s", "", "active in", "RSS", "peak", "received", "requests")
	for _, row := range []struct {
		name string
		start
	}{{"start, small cluster", r.Small}, {"start, large cluster", r.Large}, {"started again there", r.Again}} {
		t.Logf("%-30s %9.1fs %10s %10s %10s %9d", row.name, row.Seconds, mb(row.RSS), mb(row.RSSPeak), mb(row.Received), traffic{Requests: row.Requests}.total())
	}
	t.Logf("large/small: start %.1f, RSS %.2f, peak %.2f; peak/aim %.2f (%s)", r.Large.Seconds/r.Small.Seconds,
		float64(r.Large.RSS)/float64(r.Small.RSS), float64(r.Large.RSSPeak)/float64(r.Small.RSSPeak), float64(r.Large.RSSPeak)/rssAim, mb(rssAim))
	t.Logf("%-30s %8s %9s %11s %6s %10s", "changes", "number", "requests", "per change", "aim", "bytes each")
	for _, b := range r.Changes {
		var by []string
		for _, what := range slices.Sorted(maps.Keys(b.By)) {
			by = append(by, fmt.Sprintf("%s %d", what, b.By[what]))
		}
		t.Logf("%-30s %8d %9d %11.2f %6.1f %10d  (%s)", b.Name, b.Changes, b.Requests, b.PerChange, b.Aim, b.Received/int64(b.Changes), strings.Join(by, ", "))
	}
}

func (r *report) write(t *testing.T) {
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.MkdirAll(root+"/out", 0o755)
	}
	if err == nil {
		err = os.WriteFile(root+"/out/scale.json", append(text, '\n'), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// check holds what does not depend on how fast or busy the machine is.
func (r *report) check(t *testing.T) {
	for _, b := range r.Changes {
		if b.PerChange > b.Aim {
			t.Errorf("%s: %.2f requests a change, want %.1f at most: %v", b.Name, b.PerChange, b.Aim, b.By)
		}
	}
	for what, s := range map[string]start{"large cluster": r.Large, "started again": r.Again} {
		if s.RSSPeak > rssAim {
			t.Errorf("%s: the agent had %d MB at its most, want %d at most", what, s.RSSPeak/1e6, rssAim/1_000_000)
		}
	}
}
