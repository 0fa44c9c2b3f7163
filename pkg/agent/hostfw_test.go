package agent

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
	"github.com/homeport-cni/homeport/pkg/hostfw/hostfwtest"
)

// hostLab is an agent on a host whose packet filter is in memory.
type hostLab struct {
	*testing.T
	*Agent
	clock *clock
	root  fstest.MapFS
	tools map[string]*hostfwtest.Tool
	nft   string // what nft lists; "" is that it is not there
}

// newHostLab has the trunk t on bridge br0, br_netfilter for IPv4, and iptables-nft
// whose FORWARD drops.
func newHostLab(t *testing.T, bypass bool) *hostLab {
	l := &hostLab{T: t, Agent: idleAgent(t), clock: newClock(), root: fstest.MapFS{}, nft: `{"nftables": []}`,
		tools: map[string]*hostfwtest.Tool{"iptables-nft": hostfwtest.Forwarding("-P FORWARD DROP", "-A FORWARD -j DOCKER-USER")}}
	l.netfilter("1")
	l.boot()
	l.want(bypass)
	return l
}

// boot is an agent's start: it knows what its files say.
func (l *hostLab) boot() {
	l.hostfw = newHostFirewall(hostfw.Host{Root: l.root,
		Tool: func(f hostfw.Family, v hostfw.Variant) (hostfw.Tool, error) {
			name := map[hostfw.Family]string{hostfw.IPv4: "iptables-", hostfw.IPv6: "ip6tables-"}[f] + string(v)
			if tool := l.tools[name]; tool != nil {
				return tool, nil
			}
			return nil, fmt.Errorf("find %s: %w", name, exec.ErrNotFound)
		},
		NFT: func(...string) (string, error) {
			if l.nft == "" {
				return "", exec.ErrNotFound
			}
			return l.nft, nil
		}})
	l.hostfw.now, l.hostfw.drift.now = l.clock.now, l.clock.now
	l.hostfw.load(l.Agent)
}

func (l *hostLab) netfilter(on string) {
	for file, text := range map[string]string{"call-iptables": on, "call-ip6tables": "0", "call-arptables": "0", "filter-vlan-tagged": "0"} {
		l.root["proc/sys/net/bridge/bridge-nf-"+file] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
}

func (l *hostLab) want(bypass bool) {
	l.world.snap = &desired.Snapshot{Revision: 1, Trunks: map[string]desired.Trunk{"t": {Name: "t", Bridge: "br0", Managed: true, Bypass: bypass}}}
}

// look has the task look once, d after the last time.
func (l *hostLab) look(d time.Duration) {
	l.clock.pass(d)
	l.lookAtHost(false)
}

// says wants the trunk's condition.
func (l *hostLab) says(status, reason string, texts ...string) {
	l.Helper()
	list := l.hostfw.conditions("t")
	if len(list) != 1 {
		l.Fatalf("conditions: %+v", list)
	}
	c := list[0]
	if c.Type != "HostFiltered" || c.Status != status || c.Reason != reason {
		l.Errorf("%+v, want %s %s", c, status, reason)
	}
	for _, text := range texts {
		if !strings.Contains(c.Message, text) {
			l.Errorf("%q does not say %q", c.Message, text)
		}
	}
}

// ours says whether our chains are in a tool, whole.
func (l *hostLab) ours(tool string) bool {
	c := l.tools[tool].Chains
	return slices.Equal(c["filter/HOMEPORT-FORWARD"], []string{"-i br0 -m physdev --physdev-is-bridged -j ACCEPT"}) &&
		len(c["raw/HOMEPORT-RAW"]) == 2 && c["filter/FORWARD"][0] == "-j HOMEPORT-FORWARD" && c["raw/PREROUTING"][0] == "-j HOMEPORT-RAW"
}

// none says that nothing of ours is in a tool.
func (l *hostLab) none(tool string) bool {
	text, _ := l.tools[tool].Save()
	return !strings.Contains(text, "HOMEPORT")
}

func TestHostDetect(t *testing.T) {
	l := newHostLab(t, false)
	l.look(0)
	l.says("True", "HostFirewall", "bridge-nf-call-iptables=1", "iptables-nft: policy of FORWARD is DROP", "set spec.hostFirewall of the VLANTrunk to Bypass")
	since := l.hostfw.conditions("t")[0].LastTransitionTime
	if !l.none("iptables-nft") || len(l.tools["iptables-nft"].Runs) > 0 {
		t.Error("it changed the host's rules")
	}
	l.nft = `{"nftables": [{"chain": {"family": "inet", "table": "x", "name": "f", "type": "filter", "hook": "forward", "prio": 5, "policy": "drop"}}]}`
	l.look(hostEvery)
	l.says("True", "HostFirewall", "inet x f")
	if got := l.hostfw.conditions("t")[0].LastTransitionTime; !got.Equal(since) {
		t.Errorf("since %v, want %v: its status has not changed", got, since)
	}
	l.nft = ""
	l.netfilter("0")
	l.look(time.Second)
	l.says("False", "NotFiltered")
	if got := l.hostfw.conditions("t")[0].LastTransitionTime; got.Equal(since) {
		t.Error("its status has changed, and since stayed")
	}
	l.root["proc/sys/net/bridge/bridge-nf-call-iptables"] = &fstest.MapFile{Data: []byte("maybe")}
	l.look(time.Second)
	l.says("Unknown", "HostUnknown", "maybe")
	if l.hostfw.conditions("other") != nil {
		t.Error("a trunk that is not there has a condition")
	}
}

func TestHostBypass(t *testing.T) {
	l := newHostLab(t, true)
	l.look(0)
	l.says("False", "Bypassed", "iptables-nft")
	if !l.ours("iptables-nft") || len(l.hostfw.drift.list()) > 0 {
		t.Fatalf("chains: %v; drift: %v", l.tools["iptables-nft"].Chains, l.hostfw.drift.list())
	}
	// As it is, nothing is written, whoever looks.
	runs := len(l.tools["iptables-nft"].Runs)
	l.look(chainsEvery)
	l.boot()
	l.look(hostEvery)
	if got := len(l.tools["iptables-nft"].Runs); got != runs {
		t.Errorf("written again %d times", got-runs)
	}
	// Off, on, and away.
	l.netfilter("0")
	l.look(time.Second)
	l.says("False", "NotFiltered")
	if !l.none("iptables-nft") {
		t.Error("chains are left while no frame comes by")
	}
	l.netfilter("1")
	l.look(time.Second)
	if !l.ours("iptables-nft") {
		t.Error("no chains after br_netfilter is on again")
	}
	l.want(false)
	l.look(time.Second)
	l.says("True", "HostFirewall")
	if !l.none("iptables-nft") || l.tools["iptables-nft"].Chains["filter/FORWARD"][0] != "-j DOCKER-USER" {
		t.Errorf("left: %v", l.tools["iptables-nft"].Chains)
	}
}

// What an earlier agent set up goes, though this one never wanted it; and without a
// trunk.
func TestHostBypassOfEarlier(t *testing.T) {
	l := newHostLab(t, true)
	l.look(0)
	l.boot()
	l.world.snap = &desired.Snapshot{Revision: 2}
	tool := l.tools["iptables-nft"]
	tool.Err = errors.New("exit status 4: the lock is held")
	l.root["sys/module/nft_compat/refcnt"] = &fstest.MapFile{Data: []byte("5\n")}
	l.look(time.Second)
	tool.Err = nil
	if l.none("iptables-nft") {
		t.Fatal("gone, though nobody could")
	}
	l.boot() // it still knows that there is something
	l.look(time.Second)
	if !l.none("iptables-nft") {
		t.Errorf("left: %v", tool.Chains)
	}
	runs := len(tool.Runs)
	tool.Chains["filter/HOMEPORT-FORWARD"] = nil // of somebody else, by now
	l.boot()
	l.look(time.Second)
	if len(tool.Runs) != runs {
		t.Error("it touches the host's rules though no trunk wanted that since")
	}
}

// What others change is drift: counted, told, put right at a pace.
func TestHostChainsEdited(t *testing.T) {
	l := newHostLab(t, true)
	l.look(0)
	tool := l.tools["iptables-nft"]
	flush := func() { tool.Chains["filter/HOMEPORT-FORWARD"] = nil }
	flush()
	l.look(time.Second)
	if l.ours("iptables-nft") {
		t.Fatal("it looks at the chains each second, which costs")
	}
	l.look(chainsEvery)
	list := l.hostfw.drift.list()
	if !l.ours("iptables-nft") || len(list) != 1 || list[0].Kind != "HostChainEdited" || list[0].Subject != "iptables-nft/HOMEPORT-FORWARD" || list[0].Seen != 1 || list[0].Repaired != 1 {
		t.Fatalf("%v; %+v", tool.Chains, list)
	}
	for range 5 { // somebody who does not give in
		flush()
		l.look(chainsEvery)
	}
	if list := l.hostfw.drift.list(); list[0].Repaired > 5 || list[0].Repaired < 3 {
		t.Errorf("repairs have no pace: %+v", list)
	}
	l.says("True", "BypassFailed", "iptables-nft/HOMEPORT-FORWARD: 1 of its 1 rules are missing")
	if s := l.hostfw.drift.list(); len(openDrift(s)) != 1 {
		t.Errorf("not told: %+v", s)
	}
	l.look(maxDelay)
	l.says("False", "Bypassed")
	// A change of what is wanted is nobody's drift.
	seen := l.hostfw.drift.list()[0].Seen
	l.world.snap.Trunks["u"] = desired.Trunk{Name: "u", Bridge: "br1", Managed: true, Bypass: true}
	l.look(time.Second)
	if got := tool.Chains["filter/HOMEPORT-FORWARD"]; len(got) != 2 || l.hostfw.drift.list()[0].Seen != seen {
		t.Errorf("%v; %+v", got, l.hostfw.drift.list())
	}
}

func TestHostBypassFails(t *testing.T) {
	l := newHostLab(t, true)
	tool := l.tools["iptables-nft"]
	delete(l.tools, "iptables-nft")
	l.look(0)
	l.says("True", "BypassFailed", "find iptables-nft", "install iptables in both variants")

	// Only the other variant is there: its chains would stand where no rule is.
	l.tools["iptables-legacy"] = hostfwtest.New()
	l.root["sys/module/nft_compat/refcnt"] = &fstest.MapFile{Data: []byte("5\n")}
	l.look(hostEvery)
	l.says("True", "BypassFailed", "the host's rules may be in iptables-nft, which cannot be asked")
	if !l.none("iptables-legacy") {
		t.Error("chains in the variant that the host does not use")
	}

	l.tools["iptables-nft"] = tool
	tool.Err = errors.New("exit status 4: Permission denied")
	l.look(hostEvery)
	l.says("True", "BypassFailed", "Permission denied")
	tool.Err = nil
	l.look(hostEvery)
	l.says("False", "Bypassed", "iptables-nft")

	l.nft = `{"nftables": [{"chain": {"family": "ip", "table": "x", "name": "f", "type": "filter", "hook": "forward", "prio": 5, "policy": "drop"}}]}`
	l.look(hostEvery)
	l.says("True", "OtherFirewall", "ip x f (hook forward, priority 5) has the policy drop", "does not override")
	l.nft = ""
	l.look(hostEvery)
	l.says("False", "Bypassed", "were not looked at")
}

// What others change in nftables is looked at then, and not when it is time again.
func TestHostEdited(t *testing.T) {
	l := newHostLab(t, false)
	var nft atomic.Value
	nft.Store(`{"nftables": []}`)
	var slow atomic.Bool
	var looks atomic.Int32
	l.hostfw.host.NFT = func(...string) (string, error) {
		if looks.Add(1); slow.Load() {
			time.Sleep(time.Second)
		}
		return nft.Load().(string), nil
	}
	changed := make(chan struct{})
	l.hostfw.changes = func(ctx context.Context, tell func()) error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
				tell()
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.keepHostFirewall(ctx) }()
	says := func(text string) {
		t.Helper()
		within(t, "the trunk's condition says "+text, func() (bool, string) {
			got := fmt.Sprint(l.hostfw.conditions("t"))
			return strings.Contains(got, text), got
		})
	}
	says("policy of FORWARD is DROP")
	nft.Store(`{"nftables": [{"chain": {"family": "inet", "table": "x", "name": "gate", "type": "filter", "hook": "forward", "prio": 5, "policy": "drop"}}]}`)
	changed <- struct{}{} // its clock stands still: else nobody looks again
	says("inet x gate")

	// Where something always changes, and each look takes long, it rests in between.
	nft.Store(`{"nftables": []}`)
	slow.Store(true)
	looks.Store(0)
	begun := time.Now()
	for time.Since(begun) < 8*time.Second {
		changed <- struct{}{}
		ask(l.hostfw.kick)
		time.Sleep(10 * time.Millisecond)
	}
	if n := looks.Load(); n < 1 || n > 3 {
		t.Errorf("%d looks of a second or more in 8 s", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A host that cannot be asked for a moment keeps the chains that it has.
func TestHostBusy(t *testing.T) {
	l := newHostLab(t, true)
	l.look(0)
	tool := l.tools["iptables-nft"]
	l.root["sys/module/nft_compat/refcnt"] = &fstest.MapFile{Data: []byte("5\n")}
	ask := l.hostfw.host.Tool
	l.hostfw.host.Tool = func(f hostfw.Family, v hostfw.Variant) (hostfw.Tool, error) {
		l.hostfw.host.Tool = ask // once
		return nil, errors.New("exit status 4: the lock is held")
	}
	l.look(hostEvery)
	l.says("True", "BypassFailed", "the lock is held")
	if !l.ours("iptables-nft") {
		t.Fatalf("%v", tool.Chains)
	}
	l.look(chainsEvery)
	l.says("False", "Bypassed")
	if len(tool.Runs) != 2 || len(l.hostfw.drift.list()) > 0 {
		t.Errorf("%d transactions, want the first 2; drift: %+v", len(tool.Runs), l.hostfw.drift.list())
	}
}

// The host begins to use the other variant: the chains move there.
func TestHostVariantChanges(t *testing.T) {
	l := newHostLab(t, true)
	l.tools["iptables-nft"] = hostfwtest.New() // no rules of anybody
	l.tools["iptables-legacy"] = hostfwtest.New()
	l.look(0)
	if !l.ours("iptables-nft") {
		t.Fatalf("%v", l.tools["iptables-nft"].Chains)
	}
	l.tools["iptables-legacy"].Chains["filter/FORWARD"] = []string{"-j KUBE-FORWARD"}
	l.root["proc/thread-self/net/ip_tables_names"] = &fstest.MapFile{Data: []byte("filter\n")}
	l.look(hostEvery)
	if !l.none("iptables-nft") || !l.ours("iptables-legacy") {
		t.Errorf("nft: %v; legacy: %v", l.tools["iptables-nft"].Chains, l.tools["iptables-legacy"].Chains)
	}
	l.tools["iptables-nft"].Chains["filter/FORWARD"] = []string{"-j DOCKER-USER"}
	l.look(hostEvery)
	if !l.ours("iptables-nft") || !l.ours("iptables-legacy") {
		t.Error("both are in use, and not both have the chains")
	}
	if len(l.hostfw.drift.list()) > 0 {
		t.Errorf("nobody changed a chain: %+v", l.hostfw.drift.list())
	}
}

// TestHostInStatus: the condition is the trunk's, and changes nothing of whether it
// is ready; open drift is told.
func TestHostInStatus(t *testing.T) {
	l := newLive(t)
	h := &hostLab{T: t, Agent: l.Agent, clock: newClock(), root: fstest.MapFS{}, tools: map[string]*hostfwtest.Tool{}}
	h.netfilter("1")
	h.boot()
	h.look(0)
	s := l.nodeStatus()
	for _, tr := range s.Trunks {
		if len(tr.Conditions) != 1 || tr.Conditions[0].Reason != "HostFirewall" {
			t.Errorf("trunk %s: %+v", tr.Name, tr.Conditions)
		}
		if want := tr.Name != "broken"; tr.Ready != want {
			t.Errorf("trunk %s: ready %v", tr.Name, tr.Ready)
		}
	}
	h.hostfw.drift.settle([]finding{{kind: chainEdited, subject: "iptables-nft/HOMEPORT-RAW", message: "flushed", repair: func() error { return errors.New("no") }}})
	if s := l.nodeStatus(); !slices.ContainsFunc(s.Reasons, func(r string) bool { return strings.Contains(r, "HostChainEdited: flushed; repair failed: no") }) {
		t.Errorf("reasons: %q", s.Reasons)
	}
}

// TestUninstallHostChains takes ours out, before the state is gone.
func TestUninstallHostChains(t *testing.T) {
	l, cfg := managed(t)
	h := &hostLab{T: t, Agent: l.Agent, clock: newClock(), root: fstest.MapFS{}, tools: map[string]*hostfwtest.Tool{"iptables-nft": hostfwtest.Forwarding("-P FORWARD DROP")}}
	h.netfilter("1")
	h.boot()
	h.world.snap = &desired.Snapshot{Revision: 3, Trunks: map[string]desired.Trunk{"open": {Name: "open", Bridge: "br0", Managed: true, Bypass: true}}}
	h.look(0)
	if !h.ours("iptables-nft") {
		t.Fatalf("%v", h.tools["iptables-nft"].Chains)
	}
	u := &uninstaller{cfg: cfg}
	if err := u.hostChains(l.Agent); err != nil || !h.none("iptables-nft") {
		t.Errorf("%v; left: %v", err, h.tools["iptables-nft"].Chains)
	}
	if want := []string{"removed chain HOMEPORT-RAW of iptables-nft", "removed chain HOMEPORT-FORWARD of iptables-nft"}; !slices.Equal(u.done, want) {
		t.Errorf("it says %q", u.done)
	}
	if !exists(filepath.Join(cfg.Paths.State(), bypassFile)) {
		t.Error("nobody would know that there are chains")
	}
}
