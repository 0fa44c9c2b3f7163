package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
)

func kind(name string) wire.TypeMeta {
	return wire.TypeMeta{APIVersion: wire.APIVersion, Kind: name}
}

// view answers homeportctl.
func (a *Agent) view(ctx context.Context, req *wire.ViewRequest) (any, error) {
	switch req.What {
	case wire.ViewStatus:
		return a.nodeStatus(), nil
	case wire.ViewPorts:
		ports, _, _ := a.readPorts() // each says what is wrong with it
		return wire.PortList{TypeMeta: kind("PortList"), Items: ports}, nil
	case wire.ViewVLANs:
		return a.vlanList()
	case wire.ViewPolicies:
		return a.policyList(req.Name)
	case wire.ViewDrops:
		_, drops, err := a.readPorts()
		return wire.DropList{TypeMeta: kind("DropList"), Items: drops}, err
	case wire.ViewLog:
		return a.recentLog(), nil
	case wire.ViewMetrics:
		return a.metricsText()
	case wire.ViewRules:
		return a.portRules(req)
	case wire.ViewVerdict:
		return a.verdict(req)
	case wire.ViewTrace:
		return a.trace(req)
	case wire.ViewEvents:
		return a.eventList(ctx, req.Events)
	case wire.ViewAddresses:
		return a.addressList(req.Name), nil
	}
	return nil, attach.Invalid("what", fmt.Sprintf("there is no view %q", req.What), "ask for status, ports, vlans, policies, drops, log, metrics, rules, verdict, trace, events or addresses")
}

// nodeStatus tells the truth: ready means that the active policy is the desired
// one, every trunk is whole and every known port is attached.
func (a *Agent) nodeStatus() wire.NodeStatus {
	s, _ := a.judgeNode()
	return s
}

// judgeNode gives the node's status, and those of its reasons for which the agent
// is not ready: it knows nothing, does not work, or a port is not attached or not
// judged by the desired policy. What is wrong with the node alone (its NIC, its
// trunks) and what people have to correct (a refused policy) is no reason to halt
// an upgrade of all agents, which would mend none of it.
func (a *Agent) judgeNode() (s wire.NodeStatus, broken []string) {
	ports := a.table.list()
	links := a.linkStates()
	a.mu.RLock()
	defer a.mu.RUnlock()
	w := &a.world
	s = wire.NodeStatus{TypeMeta: kind("NodeStatus"), Version: a.cfg.Version, Source: a.cfg.SourceName, AgentAddress: a.cfg.Fabric.told(),
		Compiled: w.compiled, Active: min(w.active, w.followed), Generation: a.kernel.Generation(), Hook: a.kernel.Hook(),
		Ports: map[string]int{}, Drift: append(a.drift.list(), a.hostfw.drift.list()...)}
	s.Conditions = append(w.conditions(), a.plugin.conditions()...)
	say := func(breaks bool, format string, args ...any) {
		s.Reasons = append(s.Reasons, fmt.Sprintf(format, args...))
		if breaks {
			broken = append(broken, s.Reasons[len(s.Reasons)-1])
		}
	}
	if w.snap == nil {
		say(true, "no desired state has been read from %s", a.cfg.SourceName)
		return s, broken
	}
	s.Desired = w.snap.Revision
	s.Problems = append(s.Problems, problems(w.snap.Problems, w.kept, w.refusals(), w.leftover())...)
	for _, n := range a.notes.texts() {
		s.Problems = append(s.Problems, wire.Problem{Message: n})
	}
	if s.Pending = w.pending(time.Now()); s.Pending != nil {
		say(s.Pending.Overdue, "revision %d is desired, %d is active: %s", w.snap.Revision, w.active, orElse(w.syncErr, "being compiled"))
	}
	for _, p := range w.refusals() {
		say(false, "the policy of network %q is refused: %s", p.Name, p.Message)
	}
	s.Trunks = w.trunkStatuses(links)
	offers, reachable := a.offers(w.snap)
	for i, t := range s.Trunks {
		s.Trunks[i].Conditions, s.Trunks[i].Offers = a.hostfw.conditions(t.Name), offers[t.Name]
		if c, ok := reachable[t.Name]; ok {
			s.Trunks[i].Conditions = append(s.Trunks[i].Conditions, c)
		}
		if !t.Ready {
			say(false, "trunk %s: %s", t.Name, t.Message)
		}
	}
	if len(s.Trunks) == 0 && !a.cfg.Cluster {
		say(false, "there is no VLANTrunk in %s", a.cfg.SourceName)
	}
	if silent := a.silence(); silent > roundsLate {
		say(true, "the agent has not looked at its ports for %v", silent.Round(time.Second))
	}
	for _, name := range w.strays {
		say(false, "%s is an open port without a record: it keeps its rules of now until its pod ends", name)
	}
	isPort := map[string]bool{}
	for _, p := range ports {
		isPort[p.rec.HostIfName] = true
		state, _ := a.kernel.State(p.rec.HostIfIndex)
		s.Ports[state.String()]++
		if _, ok := w.Sets[p.rec.Config().Policy]; !ok {
			say(true, "port %s: no rules are in force for network %q", p.rec.HostIfName, p.rec.Policy)
		}
		if n, ok := w.snap.Networks[p.rec.Network]; ok && p.rec.VLANs != (attach.VLANs{Mode: n.Mode, PVID: n.PVID, Tagged: n.Tagged}) {
			s.Problems = append(s.Problems, wire.Problem{Kind: "VLANNetwork", Name: n.Name, Kept: true,
				Message: fmt.Sprintf("its VLANs were changed; port %s keeps %s until its VM is restarted or migrated", p.rec.HostIfName, p.rec.VLANs.All())})
		}
	}
	for _, d := range openDrift(s.Drift) {
		say(isPort[d.Subject], "%s: %s: %s", d.Subject, d.Kind, d.Message)
	}
	s.Ready = len(s.Reasons) == 0
	return s, broken
}

// silence is how long ago the loop finished its last round.
func (a *Agent) silence() time.Duration { return time.Since(time.Unix(0, a.lastRound.Load())) }

// conditions are what is wrong without what is in force being so.
func (w *world) conditions() []wire.Condition {
	stale := w.unread
	if stale == nil && w.source != nil {
		stale = w.source.Stale
	}
	if stale == nil {
		return nil
	}
	return []wire.Condition{{Type: wire.DesiredStateStale, Status: "True", Reason: stale.Reason, LastTransitionTime: stale.Since, Message: stale.Message}}
}

const (
	// roundsLate is how long the loop may be silent before the node is not ready.
	roundsLate = 30 * time.Second
	// roundsHang is how long it may be so before the agent is to be started anew.
	roundsHang = 5 * time.Minute
)

func problems(lists ...[]desired.Problem) []wire.Problem {
	var out []wire.Problem
	for _, l := range lists {
		for _, p := range l {
			out = append(out, wire.Problem(p))
		}
	}
	return out
}

// leftover tells of trunks that are not desired any more and cannot be removed yet.
func (w *world) leftover() (out []desired.Problem) {
	for _, t := range slices.SortedFunc(maps.Values(w.gone), func(x, y desired.Trunk) int { return cmp.Compare(x.Bridge+" "+x.Uplink, y.Bridge+" "+y.Uplink) }) {
		out = append(out, desired.Problem{Kind: "VLANTrunk", Name: t.Name,
			Message: fmt.Sprintf("no longer desired on bridge %s, but that cannot be removed yet: others have ports in it", t.Bridge)})
	}
	return out
}

// trunkStatuses are the trunks in force, by name.
func (w *world) trunkStatuses(links map[string]string) (out []wire.TrunkStatus) {
	for _, name := range slices.Sorted(maps.Keys(w.snap.Trunks)) {
		t := w.trunkStatus(w.snap.Trunks[name])
		t.Link = links[t.Uplink]
		out = append(out, t)
	}
	return out
}

func (w *world) trunkStatus(t desired.Trunk) wire.TrunkStatus {
	h, ok := healthAt(t, w.health)
	if !ok {
		h.problem = notSetUp
	}
	return wire.TrunkStatus{Name: t.Name, Bridge: t.Bridge, Uplink: t.Uplink, VLANs: h.vlans, MTU: h.mtu, Ready: h.problem == "" && h.mtu != 0,
		Message: h.problem, Resource: t.Resource}
}

// readPorts lists the ports with their counters, and the drops among those. A port
// whose counters cannot be read says so; the error is that drops lack it.
func (a *Agent) readPorts() (ports []wire.Port, drops []wire.Drop, err error) {
	ports, drops = []wire.Port{}, []wire.Drop{}
	a.mu.RLock()
	var networks map[string]desired.Network
	if a.world.snap != nil {
		networks = a.world.snap.Networks
	}
	a.mu.RUnlock()
	for _, it := range a.table.list() {
		p := wire.Port{Record: it.rec, Problems: it.problems, FastPath: a.fast.of(it.rec.HostIfIndex)}
		p.State, _ = a.kernel.State(it.rec.HostIfIndex)
		p.Bindings, p.Conflicts = a.addresses.Of(it.rec.Key)
		p.MACConflict = a.addresses.MACConflict(it.rec.Key)
		p.Unfit, p.Decided = a.addresses.Unfit(it.rec.Key), a.addresses.Decided(it.rec.Key)
		p.NetworkStatus = networks[it.rec.Policy].Addressing.NetworkStatus
		counts, unread := a.kernel.ReasonCounts(it.rec.HostIfIndex)
		if errors.Is(unread, datapath.ErrNoRecord) && !it.open {
			unread = nil // its ADD is under way
		}
		if unread != nil {
			p.Problems = append(p.Problems, "its counters cannot be read: "+unread.Error())
			err = unread
		}
		for _, c := range counts {
			if c.reason == policy.ReasonPortReleased && c.dir == policy.Out {
				if said := stillTalks(&it.rec, c.packets); said != "" {
					p.Problems = append(p.Problems, said)
				}
			}
			if !c.reason.Drops() {
				p.Passed[c.dir] += c.packets
				continue
			}
			p.Dropped[c.dir] += c.packets
			if c.packets > 0 {
				drops = append(drops, wire.Drop{Key: it.rec.Key, Interface: it.rec.HostIfName, Pod: it.rec.Pod,
					Direction: c.dir.String(), Reason: c.reason.String(), Text: c.reason.Text(), Packets: c.packets, Bytes: c.bytes})
			}
		}
		ports = append(ports, p)
	}
	return ports, drops, err
}

// vlanList reads the kernel, not the records: it is what a packet meets.
func (a *Agent) vlanList() (wire.VLANList, error) {
	out := wire.VLANList{TypeMeta: kind("VLANList"), Items: []wire.PortVLANs{}}
	ours := map[int]bool{}
	for _, it := range a.table.list() {
		ours[it.rec.HostIfIndex] = true
	}
	a.mu.RLock()
	var trunks []desired.Trunk
	if a.world.snap != nil {
		for _, name := range slices.Sorted(maps.Keys(a.world.snap.Trunks)) {
			trunks = append(trunks, a.world.snap.Trunks[name])
		}
	}
	a.mu.RUnlock()
	for _, t := range trunks {
		rows, err := a.kernel.VLANs(t, ours)
		if err != nil {
			return out, fmt.Errorf("trunk %s: %w", t.Name, err)
		}
		out.Items = append(out.Items, rows...)
	}
	return out, nil
}

// policyList joins the rules in force with their hits.
func (a *Agent) policyList(name string) (wire.PolicyList, error) {
	a.mu.RLock()
	snap, counters, sets := a.world.snap, a.world.Counters, a.world.Sets
	a.mu.RUnlock()
	out := wire.PolicyList{TypeMeta: kind("PolicyList"), Items: []wire.Policy{}, Defaults: []wire.DefaultHits{}}
	if snap == nil {
		return out, nil
	}
	hits, err := a.kernel.RuleHits(counters)
	if err != nil {
		return out, err
	}
	for _, p := range snap.Policies {
		if name != "" && p.Name != name {
			continue
		}
		v := wire.Policy{Name: p.Name, Category: p.Category, Order: p.Order, Networks: slices.Clone(p.Networks)}
		for _, s := range p.VMs {
			v.Networks = append(v.Networks, fmt.Sprintf("VMs with %q", s))
		}
		for _, n := range p.NICs {
			v.Networks = append(v.Networks, fmt.Sprintf("VMs with %q on %s", n.VMs, n.Network))
		}
		for _, s := range p.AddressSets {
			v.Networks = append(v.Networks, "AddressSet "+s)
		}
		if p.Subject != nil {
			v.Networks = clusterNetworks(snap, p.Subject)
		}
		for _, r := range p.Rules {
			v.Rules = append(v.Rules, ruleView(&r, hits[r.Key]))
		}
		out.Items = append(out.Items, v)
	}
	for _, p := range snap.PodPolicies {
		if name != "" && p.FullName() != name {
			continue
		}
		v := wire.Policy{Name: p.FullName(), Category: "MultiNetworkPolicy", Networks: p.Networks}
		for _, r := range p.Rules {
			v.Rules = append(v.Rules, ruleView(&r, hits[r.Key]))
		}
		out.Items = append(out.Items, v)
	}
	if name != "" && len(out.Items) == 0 {
		return out, attach.Invalid("name", fmt.Sprintf("there is no policy named %q in force", name), "see homeportctl policy list")
	}
	for _, n := range slices.Sorted(maps.Keys(sets)) {
		if sets[n].Variant != "" { // counts where its network does
			continue
		}
		h := hits[policy.DefaultKey(n)]
		out.Defaults = append(out.Defaults, wire.DefaultHits{Network: n, Action: sets[n].Default.String(), Packets: h.Packets, Bytes: h.Bytes, LastHit: h.Last})
	}
	return out, nil
}

// clusterNetworks says where a ClusterNetworkPolicy is enforced, and at whose ports.
func clusterNetworks(snap *desired.Snapshot, s *desired.Subject) (out []string) {
	for _, n := range slices.Sorted(maps.Keys(snap.Networks)) {
		if snap.Networks[n].Cluster {
			out = append(out, n)
		}
	}
	if out == nil {
		return []string{"none asks for it"}
	}
	if text := s.Namespaces.String(); text != "" {
		out = append(out, fmt.Sprintf("namespaces with %q", text))
	}
	if text := s.Pods.String(); text != "" {
		out = append(out, fmt.Sprintf("pods with %q", text))
	}
	return out
}
