package agent

import (
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/explain"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// rulesOf finds a port and the rules that judge it now.
func (a *Agent) rulesOf(key *attach.Key) (rec attach.Record, set policy.Set, counters compile.Counters, err error) {
	if key == nil {
		return rec, set, nil, attach.Invalid("port", "it must be there", "name a port")
	}
	ports := a.table.list()
	i := slices.IndexFunc(ports, func(it item) bool { return it.rec.Key == *key })
	if i < 0 {
		return rec, set, nil, attach.Invalid("port", "it is not attached on this node", "see homeportctl ports")
	}
	rec = ports[i].rec
	id := rec.Config().Policy
	a.mu.RLock()
	defer a.mu.RUnlock()
	set, ok := a.world.Sets[id]
	if !ok {
		return rec, set, nil, &attach.Error{Kind: attach.Unavailable, Field: "port", Message: fmt.Sprintf("its rules %q are not in force yet", id), Remedy: "see homeportctl status"}
	}
	return rec, set, a.world.Counters, nil
}

// portRules lists the rules that judge a port now, in their order.
func (a *Agent) portRules(req *wire.ViewRequest) (any, error) {
	rec, set, counters, err := a.rulesOf(req.Port)
	if err != nil {
		return nil, err
	}
	ours := compile.Counters{}
	last := policy.DefaultKey(set.Network)
	for _, key := range append([]policy.RuleKey{last}, keysOf(set.Rules)...) {
		if n, ok := counters[key]; ok {
			ours[key] = n
		}
	}
	hits, err := a.kernel.RuleHits(ours)
	if err != nil {
		return nil, err
	}
	out := explain.PortRules(&set)
	out.Key, out.Interface, out.Pod = rec.Key, rec.HostIfName, rec.Pod
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	d := &out.Default
	d.Packets, d.Bytes, d.LastHit = hits[last].Packets, hits[last].Bytes, hits[last].Last
	for i := range out.Items {
		hits[set.Rules[i].Key].tell(&out.Items[i].Rule)
	}
	return out, nil
}

// tell puts the hits of a rule into what is told of it.
func (h Hits) tell(r *wire.Rule) { r.Packets, r.Bytes, r.LastHit = h.Packets, h.Bytes, h.Last }

// ruleView tells a rule with its hits.
func ruleView(r *policy.Rule, h Hits) wire.Rule {
	v := explain.Rule(r)
	h.tell(&v)
	return v
}

func keysOf(rules []policy.Rule) []policy.RuleKey {
	keys := make([]policy.RuleKey, len(rules))
	for i := range rules {
		keys[i] = rules[i].Key
	}
	return keys
}

func keyOf(r *wire.PortRule) policy.RuleKey { return policy.RuleKey{Policy: r.Policy, ID: r.ID} }

// macOfPort is a port's MAC.
func macOfPort(rec *attach.Record) (m policy.MAC) {
	copy(m[:], rec.MAC)
	return m
}

// verdict says what the rules in force of a port do with the first packet of a
// connection, and which of them: no packet is sent, and nothing is counted.
func (a *Agent) verdict(req *wire.ViewRequest) (any, error) {
	if _, err := explain.Packet(req.Packet, policy.MAC{}); err != nil {
		return nil, err
	}
	rec, set, counters, err := a.rulesOf(req.Port)
	if err != nil {
		return nil, err
	}
	out, rule, monitored, err := explain.Verdict(set, req.Packet, macOfPort(&rec))
	if err != nil {
		return nil, err
	}
	out.Key, out.Interface, out.Pod = rec.Key, rec.HostIfName, rec.Pod
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	ours := compile.Counters{}
	for _, r := range []*policy.Rule{rule, monitored} {
		if r != nil {
			ours[r.Key] = counters[r.Key]
		}
	}
	for i := range out.Passed {
		key := keyOf(&out.Passed[i])
		ours[key] = counters[key]
	}
	hits, err := a.kernel.RuleHits(ours)
	if err != nil {
		return nil, err
	}
	if rule != nil {
		hits[rule.Key].tell(out.Rule)
	}
	for i := range out.Passed {
		hits[keyOf(&out.Passed[i])].tell(&out.Passed[i].Rule)
	}
	if monitored != nil {
		hits[monitored.Key].tell(&out.Monitored.Rule)
	}
	return out, nil
}
