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
	k.pods(next.Pods, ports)
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

// pods keeps what was known of pods that have gone from the API while their ports
// live, as on a node that was given up: what was found out stays so.
func (k *keeper) pods(next map[string]desired.Pod, ports []item) {
	if !k.out.ByLabel() {
		return
	}
	k.out.Pods = map[string]desired.Pod{}
	for _, p := range ports {
		at := desired.PodKey(p.rec.Pod.Namespace, p.rec.Pod.Name)
		if known, ok := k.last.Pods[at]; ok && known.UID == p.rec.Pod.UID {
			k.out.Pods[at] = known
		}
	}
	maps.Copy(k.out.Pods, next)
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

// place is where a trunk is on the node.
type place struct{ bridge, uplink string }

func placeOf(t desired.Trunk) place { return place{t.Bridge, t.Uplink} }

// goneTrunks adds to gone the trunks of last whose bridge or uplink next has not
// at all, or not together, and takes away what is back. A bridge that is adopted
// now is left to its owner.
func goneTrunks(last, next *desired.Snapshot, gone map[place]desired.Trunk) map[place]desired.Trunk {
	out := map[place]desired.Trunk{}
	maps.Copy(out, gone)
	for _, t := range last.Trunks {
		out[placeOf(t)] = t
	}
	for _, t := range next.Trunks {
		delete(out, placeOf(t))
		if !t.Managed {
			maps.DeleteFunc(out, func(at place, _ desired.Trunk) bool { return at.bridge == t.Bridge })
		}
	}
	return out
}
