package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
)

// The host's own packet filter is looked at beside the loop, never in it: the
// command iptables waits for others that hold its lock, and ports must not.

const (
	// chainsEvery is how often our chains are looked at, hostEvery all else: which
	// variants of iptables the host uses, and what of it is in the way. Both at once
	// when desired state, ports, the switches of br_netfilter or nftables change;
	// of changes of iptables-legacy the kernel tells nobody.
	chainsEvery = 10 * time.Second
	hostEvery   = time.Minute
	// editShare is how many times as long as a look took it is until others' changes
	// of nftables bring the next, chainsEvery at most.
	editShare = 4
	// hostGap keeps changes that come together from being looked at one by one.
	hostGap = 500 * time.Millisecond
)

// bypassFile says whether an agent has put chains into the host's iptables.
const bypassFile = "host-chains.json"

// chainEdited is the drift that somebody changed a chain of ours.
const chainEdited = "HostChainEdited"

// hostFirewall is what is known of the host's packet filter, and what is done
// about it. All but conds and drift are the task's alone.
type hostFirewall struct {
	host  hostfw.Host
	kick  chan struct{} // the loop has had a round
	edits chan struct{} // somebody has changed nftables
	drift *driftBook
	now   func() time.Time
	// changes is hostfw.Changes.
	changes func(ctx context.Context, changed func()) error

	key     string    // what the last look was about: trunks and switches
	ports   string    // and the ports of bridges that others share
	looked  time.Time // when our chains were
	probed  time.Time // when all else was
	made    bool      // there may be chains of ours
	used    map[hostfw.Family][]hostfw.Used
	hidden  map[hostfw.Family]error // variants that it may use and that cannot be asked
	failed  map[hostfw.Family]error // why our chains are not as they should be
	settled map[string]string       // what each chain of ours last was, and should be

	mu    sync.Mutex
	conds map[string]wire.Condition // by trunk
}

func newHostFirewall(host hostfw.Host) *hostFirewall {
	return &hostFirewall{host: host, kick: make(chan struct{}, 1), edits: make(chan struct{}, 1), drift: newDriftBook(), now: time.Now,
		changes: hostfw.Changes, settled: map[string]string{}}
}

// keepHostFirewall does for trunks what their hostFirewall says, as long as ctx
// lasts. What goes wrong is a trunk's condition; it ends nothing.
func (a *Agent) keepHostFirewall(ctx context.Context) error {
	h := a.hostfw
	h.load(a)
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() {
		if err := h.changes(ctx, func() { ask(h.edits); ask(a.fast.kick) }); err != nil {
			a.log.Warn("the kernel does not tell of changes of nftables: the host's rules are looked at now and then", "err", err)
		}
	})
	edited := false    // and not looked at yet
	var calm time.Time // when the next look for that may be
	for {
		due := edited && !time.Now().Before(calm)
		begun := time.Now()
		a.lookAtHost(due)
		if due {
			edited, calm = false, time.Now().Add(min(editShare*time.Since(begun), chainsEvery))
		}
		next := h.drift.nextTry(chainsEvery)
		if edited {
			next = min(next, time.Until(calm))
		}
		wait := time.NewTimer(next)
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-h.kick:
		case <-h.edits:
			edited = true
		case <-wait.C:
		}
		wait.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(hostGap):
		}
	}
}

// load reads whether an earlier agent made chains.
func (h *hostFirewall) load(a *Agent) {
	var made bool
	h.made = a.loadJSON(bypassFile, &made) && made
}

// hostView is one look at the node: what trunks want, and what reaches the filter.
type hostView struct {
	trunks  []desired.Trunk
	bridges []hostfw.Bridge // that are to bypass it
	nf      hostfw.Netfilter
	err     error // nf is not known
}

func (a *Agent) hostView() (v hostView, ok bool) {
	a.mu.RLock()
	snap := a.world.snap
	a.mu.RUnlock()
	if snap == nil {
		return v, false
	}
	var names []string
	for _, name := range slices.Sorted(maps.Keys(snap.Trunks)) {
		t := snap.Trunks[name]
		v.trunks = append(v.trunks, t)
		names = append(names, t.Bridge)
		if t.Bypass {
			if b, ok := a.bypassing(t); ok {
				v.bridges = append(v.bridges, b)
			}
		}
	}
	v.nf, v.err = a.hostfw.host.Netfilter(names)
	return v, true
}

// bypassing is a trunk's bridge as hostfw has it. Of a bridge that others share
// there is nothing before there are ports of VMs in it.
func (a *Agent) bypassing(t desired.Trunk) (hostfw.Bridge, bool) {
	b := hostfw.Bridge{Name: t.Bridge, Shared: !t.Managed}
	if t.Managed {
		return b, true
	}
	for _, p := range a.portsOf(t.Bridge) {
		b.Ports = append(b.Ports, p.HostIfName)
	}
	slices.Sort(b.Ports)
	if len(b.Ports) == 0 {
		return b, false
	}
	l, err := a.kernel.net.LinkInfo(bridge.Ref{Name: t.Bridge})
	b.MAC = l.MAC
	return b, err == nil
}

// of are the bridges whose frames of a family reach the filter.
func (v hostView) of(f hostfw.Family) (out []hostfw.Bridge) {
	for _, b := range v.bridges {
		if v.nf.Of(b.Name).Reaches(f) {
			out = append(out, b)
		}
	}
	return out
}

// wants says whether a trunk wants frames of a family to bypass the filter, also one
// in whose bridge there is no port yet.
func (v hostView) wants(f hostfw.Family) bool {
	return slices.ContainsFunc(v.trunks, func(t desired.Trunk) bool { return t.Bypass && v.nf.Of(t.Bridge).Reaches(f) })
}

// lookAtHost is one round of the task. It costs the reading of some files, unless
// something has changed or it is time to look; nftables have changed if edited.
func (a *Agent) lookAtHost(edited bool) {
	v, ok := a.hostView()
	if !ok {
		return
	}
	h, now := a.hostfw, a.hostfw.now()
	key, ports := fmt.Sprint(v.trunks, v.nf, v.err), fmt.Sprint(v.bridges)
	probe := edited || key != h.key || now.Sub(h.probed) >= hostEvery
	chains := probe || ports != h.ports || now.Sub(h.looked) >= chainsEvery || h.drift.nextTry(chainsEvery) == 0
	if chains && v.err == nil {
		if probe {
			a.probeHost(v)
		}
		a.keepChains(v, probe)
	}
	if !chains {
		return
	}
	h.key, h.ports, h.looked = key, ports, now
	if probe && h.hidden[hostfw.IPv4] == nil && h.hidden[hostfw.IPv6] == nil { // else it is tried again sooner
		h.probed = now
	}
	a.judgeHost(v, probe)
}

// probeHost finds the variants of iptables that the host uses.
func (a *Agent) probeHost(v hostView) {
	h := a.hostfw
	h.used, h.hidden = map[hostfw.Family][]hostfw.Used{}, map[hostfw.Family]error{}
	for _, f := range []hostfw.Family{hostfw.IPv4, hostfw.IPv6} {
		if v.wants(f) {
			h.used[f], h.hidden[f] = h.host.InUse(f)
		}
	}
}

// keepChains brings our chains to what they should be. After a probe it also takes
// them out of the variants that they should not be in.
func (a *Agent) keepChains(v hostView, probed bool) {
	h := a.hostfw
	h.failed = maps.Clone(h.hidden)
	if len(v.of(hostfw.IPv4))+len(v.of(hostfw.IPv6)) > 0 && !h.made {
		h.made = true // before it is so
		a.save(bypassFile, true, "that there are chains in the host's iptables cannot be saved, so an agent that finds hostFirewall changed at its start would leave them there")
	}
	if !h.made {
		return
	}
	var found []finding
	clean := probed
	for _, f := range []hostfw.Family{hostfw.IPv4, hostfw.IPv6} {
		want := v.of(f)
		clean = clean && len(want) == 0
		if probed && (len(want) == 0 || h.hidden[f] == nil) { // else a variant may be in use that could not say so
			clean = a.clearChains(f) && clean
		}
		for _, u := range h.used[f] {
			edits, err := u.Compare(want)
			if err != nil {
				h.failed[f] = errors.Join(h.failed[f], err)
				continue
			}
			found = append(found, a.setUp(u, edits, fmt.Sprint(want))...)
		}
	}
	clean = clean && h.failed[hostfw.IPv4] == nil && h.failed[hostfw.IPv6] == nil
	for k, err := range h.drift.settle(found) {
		a.log.Error("a chain in the host's iptables cannot be put right yet", "chain", k.subject, "err", err)
	}
	if clean {
		h.made = false
		a.save(bypassFile, false, "that no chains are left in the host's iptables cannot be saved")
	}
}

// clearChains takes our chains out of the variants that they should not be in.
func (a *Agent) clearChains(f hostfw.Family) (clean bool) {
	h := a.hostfw
	edits, err := h.host.Leftover(f, h.used[f])
	for _, e := range edits {
		delete(h.settled, chainOf(e))
		if rerr := e.Repair(); rerr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", e.Name(), rerr))
			continue
		}
		a.log.Info("chain removed from the host's iptables", "tool", e.Name(), "chain", e.Chain)
	}
	if err != nil {
		a.log.Warn("chains in the host's iptables cannot be removed yet", "family", f, "err", err)
	}
	return err == nil
}

// chainOf names a chain of ours on this node.
func chainOf(e hostfw.Edited) string { return e.Name() + "/" + e.Chain }

// setUp puts chains right that are wanted anew, or otherwise than before. One that
// was right, and is wanted as then, somebody has changed: that is drift, whose
// repairs have their pace.
func (a *Agent) setUp(u hostfw.Used, edits []hostfw.Edited, want string) (found []finding) {
	h := a.hostfw
	differs := map[string]bool{}
	for _, e := range edits {
		k := chainOf(e)
		differs[k] = true
		if h.settled[k] == want {
			a.log.Warn("a chain in the host's iptables was changed by others", "chain", k, "what", e.Message)
			found = append(found, finding{kind: chainEdited, subject: k, repair: e.Repair,
				message: e.Message + ": frames of VMs meet the host's iptables until it is repaired"})
			continue
		}
		if err := e.Repair(); err != nil {
			h.failed[u.Family] = errors.Join(h.failed[u.Family], fmt.Errorf("%s: %w", u.Name(), err))
			continue
		}
		h.settled[k] = want
		a.log.Info("chain set up in the host's iptables", "tool", u.Name(), "chain", e.Chain, "was", e.Message)
	}
	for _, name := range hostfw.ChainNames() {
		if k := u.Name() + "/" + name; !differs[k] {
			h.settled[k] = want
		}
	}
	return found
}

// judgeHost says of each trunk whether the host's filter has a hand in its frames.
// What takes long to find out is found out when probing, and else stays as said.
func (a *Agent) judgeHost(v hostView, probe bool) {
	h := a.hostfw
	h.mu.Lock()
	last := h.conds
	h.mu.Unlock()
	conds := map[string]wire.Condition{}
	for _, t := range v.trunks {
		c, known := last[t.Name]
		if probe || !known || t.Bypass && (c.Reason == v1alpha1.ReasonBypassFailed) != (a.bypassProblem(v, t) != "") {
			c.Status, c.Reason, c.Message = a.hostCondition(v, t)
		}
		if old, ok := last[t.Name]; !ok || old.Status != c.Status {
			c.LastTransitionTime = h.now().UTC().Truncate(time.Second)
		}
		c.Type = v1alpha1.ConditionHostFiltered
		conds[t.Name] = c
		if old := last[t.Name]; c.Status != "False" && old.Message != c.Message {
			a.log.Warn("the host's packet filter and a trunk", "trunk", t.Name, "reason", c.Reason, "what", c.Message)
		}
	}
	h.mu.Lock()
	h.conds = conds
	h.mu.Unlock()
	if !maps.Equal(last, conds) {
		ask(a.fast.kick)
		a.tell()
	}
}

// bypassProblem is why a trunk's frames do not bypass the host's iptables.
func (a *Agent) bypassProblem(v hostView, t desired.Trunk) string {
	var wrong []string
	for _, f := range v.nf.Of(t.Bridge).Reached() {
		if err := a.hostfw.failed[f]; err != nil {
			wrong = append(wrong, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	for _, d := range openDrift(a.hostfw.drift.list()) {
		wrong = append(wrong, d.Subject+": "+d.Message)
	}
	return strings.Join(wrong, "; ")
}

func (a *Agent) hostCondition(v hostView, t desired.Trunk) (status, reason, message string) {
	const yes, no, unknown = "True", "False", "Unknown"
	h, nf := a.hostfw, v.nf.Of(t.Bridge)
	families := nf.Reached()
	switch {
	case v.err != nil:
		return unknown, v1alpha1.ReasonHostUnknown, v.err.Error()
	case len(families) > 0 && t.Bypass:
		if text := a.bypassProblem(v, t); text != "" {
			return yes, v1alpha1.ReasonBypassFailed, "hostFirewall is Bypass, but: " + text
		}
	}
	drops, err := h.host.Droppers(families, []string{t.Bridge}, t.Bypass)
	others := strings.Join(drops, "; ")
	switch {
	case len(families) == 0 && others == "":
		return no, v1alpha1.ReasonNotFiltered, "bridged frames do not reach the host's packet filter: br_netfilter is absent or off"
	case !t.Bypass && len(families) > 0:
		message = "br_netfilter sends frames of " + t.Bridge + " through the host's packet filter (" + nf.Switches() + "); " + h.host.Forward(nf, t.Bridge)
		for _, text := range []string{others, errText(err)} {
			if text != "" {
				message += "; nftables: " + text
			}
		}
		return yes, v1alpha1.ReasonHostFirewall, message + ". To let frames of VMs pass untouched, " + hostfw.BypassRemedy
	case others != "":
		return yes, v1alpha1.ReasonOtherFirewall, "nftables: " + others + ". " + hostfw.DropperRemedy
	}
	message = "frames of VMs bypass the host's " + a.bypassTools(families)
	if err != nil {
		message += "; " + err.Error()
	}
	return no, v1alpha1.ReasonBypassed, message
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// bypassTools names the variants in which our chains are.
func (a *Agent) bypassTools(families []hostfw.Family) string {
	var names []string
	for _, f := range families {
		for _, u := range a.hostfw.used[f] {
			names = append(names, u.Name())
		}
	}
	if len(names) == 0 {
		return "iptables as soon as there are any"
	}
	return strings.Join(names, ", ")
}

// known says whether the host was looked at.
func (h *hostFirewall) known() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.conds != nil
}

// conditions of a trunk, for its status.
func (h *hostFirewall) conditions(trunk string) []wire.Condition {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.conds[trunk]; ok {
		return []wire.Condition{c}
	}
	return nil
}
