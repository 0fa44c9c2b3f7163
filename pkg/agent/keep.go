package agent

import (
	"fmt"
	"maps"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// keepUsed adds to next what living ports stand on and next takes away: the
// networks and trunks that last had, and a trunk's bridge and uplink if next
// would change them. Each is reported. Rules of a kept network are kept by
// compiling its last set again.
func keepUsed(next, last *desired.Snapshot, ports []item) (*desired.Snapshot, []desired.Problem) {
	if last == nil {
		return next, nil
	}
	k := keeper{out: *next, last: last}
	k.out.Networks, k.out.Trunks = map[string]desired.Network{}, map[string]desired.Trunk{}
	maps.Copy(k.out.Networks, next.Networks)
	maps.Copy(k.out.Trunks, next.Trunks)
	for _, p := range ports {
		k.network(p.rec.Network)
		k.network(p.rec.Policy)
		k.trunk(p.rec.Trunk, p.rec.Bridge)
	}
	return &k.out, k.kept
}

type keeper struct {
	out  desired.Snapshot
	last *desired.Snapshot
	kept []desired.Problem
}

func (k *keeper) network(name string) {
	n, had := k.last.Networks[name]
	if _, has := k.out.Networks[name]; has || !had {
		return
	}
	n.Kept = true
	k.out.Networks[name] = n
	k.report("VLANNetwork", name, "removed from the source, but living ports use it; it stays in force, rules and all, until they end")
}

func (k *keeper) trunk(name, bridge string) {
	t, had := k.last.Trunks[name]
	if !had || t.Bridge != bridge {
		return
	}
	now, has := k.out.Trunks[name]
	switch {
	case !has:
		t.Kept = true
		k.report("VLANTrunk", name, "removed from the source, but living ports use it; it stays in force until they end")
	case now.Bridge != t.Bridge || now.Uplink != t.Uplink || now.Managed != t.Managed:
		k.report("VLANTrunk", name, fmt.Sprintf("its bridge or uplink was changed (now %s, %s), but living ports use the old ones (%s, %s); these stay until the ports end",
			now.Bridge, now.Uplink, t.Bridge, t.Uplink))
		t.Kept = false // it is back, only not as it was
	default:
		return
	}
	k.out.Trunks[name] = t
}

func (k *keeper) report(kind, name, message string) {
	k.kept = append(k.kept, desired.Problem{Kind: kind, Name: name, Kept: true, Message: message})
}

// goneTrunks adds to gone the trunks of last that next has not, and takes away
// those that are back.
func goneTrunks(last, next *desired.Snapshot, gone map[string]desired.Trunk) map[string]desired.Trunk {
	out := maps.Clone(last.Trunks)
	maps.Copy(out, gone)
	maps.DeleteFunc(out, func(name string, _ desired.Trunk) bool { _, back := next.Trunks[name]; return back })
	return out
}
