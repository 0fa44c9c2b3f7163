package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// poolAhead is how many port slots are kept ready for ADDs.
const poolAhead = 64

// AttachPort implements attach.Datapath.
func (k *kernel) AttachPort(i attach.Interface, c attach.PortConfig) error {
	err := k.dp.AttachPort(i, c)
	select {
	case k.poolUsed <- struct{}{}:
	default:
	}
	return err
}

// SetState implements attach.Datapath.
func (k *kernel) SetState(ifindex int, s attach.State) error { return k.dp.SetState(ifindex, s) }

// DetachPort implements attach.Datapath.
func (k *kernel) DetachPort(ifindex int) error { return k.dp.DetachPort(ifindex) }

// State is the port's state in the kernel; Dark and false if it has no port
// program record.
func (k *kernel) State(ifindex int) (attach.State, bool) {
	p, err := k.dp.Port(ifindex)
	return p.State, err == nil
}

// Hook names the kind of hook that ports settle on.
func (k *kernel) Hook() string { return k.dp.HookKind() }

// Generation is the number of the policy in force.
func (k *kernel) Generation() uint64 { return k.dp.Generation() }

// Sync makes a compiled policy the one in force.
func (k *kernel) Sync(p *compile.Program) (uint64, error) { return k.dp.Sync(p) }

// FillPool makes port slots when fewer than half of them are left.
func (k *kernel) FillPool() error {
	if k.dp.Free() >= poolAhead/2 {
		return nil
	}
	return k.dp.FillPool(poolAhead)
}

// poolLow says that a few more ADDs would have to make their own slots.
func (k *kernel) poolLow() bool { return k.dp.Free() < poolAhead/4 }

// AgeConnections frees the memory of expired connections, and tells of each.
func (k *kernel) AgeConnections(ended func(datapath.Event)) error {
	_, err := k.dp.GCConns(ended)
	return err
}

// VerifyPort says what is wrong with the programs at a complete port.
func (k *kernel) VerifyPort(r *attach.Record) error {
	if err := k.dp.VerifyPort(r.HostIfIndex); err != nil {
		return err
	}
	p, err := k.dp.Port(r.HostIfIndex)
	if err != nil {
		return err
	}
	switch want := r.Wanted(); {
	case p.State == want, want == attach.Quarantined && k.dp.HandedOver(r.HostIfIndex): // the VM has come; followArrivals sees to the rest
	case want == attach.Active:
		return fmt.Errorf("%w: port is %v", errNotOpen, p.State)
	default:
		return fmt.Errorf("%w: it is %v, not %v", errNotHeld, p.State, want)
	}
	if want := r.Config(); p.Network != want.Policy || p.VLANs != want.VLANs || !slices.Equal(p.MAC, want.MAC) || p.Security != want.Security || p.Segment != datapath.SegmentOf(want.Trunk) {
		return fmt.Errorf("%w: want %v, got %v", errConfig, want, p)
	}
	return nil
}

// What can be wrong with a port whose hooks are in place.
var (
	errNotOpen = errors.New("the port's state is not Active")
	errNotHeld = errors.New("the port is not silent, though its VM runs elsewhere")
	errConfig  = errors.New("the port's network, VLANs, MAC, trunk or security are not those of its record")
)

// opens says whether a port with this fault lets packets pass unjudged.
func opens(err error) bool {
	return !errors.Is(err, errNotOpen) && !errors.Is(err, errNotHeld) && !errors.Is(err, errConfig)
}

// RepairPort gives a complete port its programs and its state back.
func (k *kernel) RepairPort(r *attach.Record) error {
	if !errors.Is(k.dp.VerifyPort(r.HostIfIndex), datapath.ErrNoRecord) {
		if err := errors.Join(k.dp.RepairPort(r.HostIfIndex), k.dp.UpdatePort(r.HostIfIndex, r.Config())); err != nil {
			return err
		}
		if r.Wanted() == attach.Quarantined && k.dp.HandedOver(r.HostIfIndex) {
			return nil // quarantine would begin anew
		}
		return k.dp.SetState(r.HostIfIndex, r.Wanted())
	}
	if err := k.dp.AttachPort(r.HostEnd(), r.Config()); err != nil {
		return err
	}
	return k.dp.SetState(r.HostIfIndex, r.Wanted())
}

// hookKind names the drift for counters and people.
func hookKind(err error) string {
	switch {
	case errors.Is(err, datapath.ErrNoRecord):
		return "PortRecordLost"
	case errors.Is(err, datapath.ErrSevered):
		return "LinkSevered"
	case errors.Is(err, datapath.ErrWrongProgram):
		return "WrongProgram"
	case errors.Is(err, errNotOpen):
		return "PortNotActive"
	case errors.Is(err, errNotHeld):
		return "PortNotSilent"
	case errors.Is(err, errConfig):
		return "PortConfigChanged"
	}
	return "HookDetached"
}

// Problems checks one port as CHECK does: interface, bridge, VLANs, programs.
// The pod side is never looked at: KubeVirt renames it and changes its MAC.
func (k *kernel) Problems(r *attach.Record) []string {
	i := r.HostEnd()
	if !k.Alive(i) {
		return []string{fmt.Sprintf("host interface %s is gone", i.Name)}
	}
	var out []string
	if !k.InBridge(r) {
		out = append(out, fmt.Sprintf("%s is not in bridge %s", i.Name, r.Bridge))
	} else if err := k.net.VerifyVLANs(ref(i), k.portVLANs(r.VLANs)); err != nil {
		out = append(out, err.Error())
	}
	if err := k.VerifyPort(r); err != nil {
		out = append(out, err.Error())
	}
	return out
}

// reasonCount is what became of a port's packets in one direction for one reason.
type reasonCount struct {
	dir            policy.Direction
	reason         policy.Reason
	packets, bytes uint64
}

// ReasonCounts reads a port's counters, all reasons in both directions.
func (k *kernel) ReasonCounts(ifindex int) ([]reasonCount, error) {
	counts, err := k.dp.PortCounters(ifindex)
	if err != nil {
		return nil, err
	}
	var out []reasonCount
	for reason, byDir := range counts {
		for dir, c := range byDir {
			out = append(out, reasonCount{policy.Direction(dir), policy.Reason(reason), c.Packets, c.Bytes})
		}
	}
	return out, nil
}

// Hits is what a rule judged.
type Hits datapath.RuleCounter

// RuleHits reads the counters of all rules.
func (k *kernel) RuleHits(counters compile.Counters) (map[policy.RuleKey]Hits, error) {
	counts, err := k.dp.RuleCounters(slices.Collect(maps.Values(counters)))
	if err != nil {
		return nil, err
	}
	out := make(map[policy.RuleKey]Hits, len(counters))
	for key, n := range counters {
		out[key] = Hits(counts[n])
	}
	return out, nil
}

// ClearCounters zeroes the counters that next gives to other rules than last did.
func (k *kernel) ClearCounters(last, next compile.Counters) error {
	var changed []uint32
	for key, n := range next {
		if m, ok := last[key]; !ok || m != n {
			changed = append(changed, n)
		}
	}
	return k.dp.ClearRuleCounters(changed)
}

// Collect clears what nobody owns: port records and pins of interfaces that are
// gone, and veths of ours that no attachment ever completed. It names the open
// ports that own does not.
func (k *kernel) Collect(own map[int]bool, orphans *orphanBook) (strays []string, err error) {
	links, err := k.net.Links()
	if err != nil {
		return nil, err
	}
	alive := map[int]bool{}
	var errs []error
	for _, l := range links {
		alive[l.Index] = true
		state, judged := k.State(l.Index)
		if judged && state == attach.Active && !own[l.Index] {
			strays = append(strays, l.Name)
		}
		// A port that is judged or in a bridge was complete once; its record
		// may be lost, its pod is not.
		loose := l.Kind == "veth" && ownVeth.MatchString(l.Name) && !own[l.Index] && l.Master == 0 && !l.Up && !judged
		if orphans.due(l.Index, l.Name, loose) {
			k.log.Warn("deleting a veth that no attachment completed", "interface", l.Name)
			errs = append(errs, k.net.DeleteVethFast(l.Ref()))
		}
	}
	orphans.keep(alive)
	// Asked again for each: an ADD may have made its interface since the list.
	removed, err := k.dp.GC(func(ifindex int) bool {
		_, err := k.net.LinkInfo(bridge.Ref{Index: ifindex})
		return !errors.Is(err, bridge.ErrNotFound)
	})
	if len(removed) > 0 {
		k.log.Info("port programs of gone interfaces forgotten", "ifindexes", strings.Trim(fmt.Sprint(removed), "[]"))
	}
	return strays, errors.Join(append(errs, err)...)
}

// orphanBook remembers since when a veth has looked like nobody's.
type orphanBook struct {
	since map[int]orphan
	now   func() time.Time
}

type orphan struct {
	name  string
	since time.Time
}

// orphanGrace is how long a veth of ours may be without a record: an ADD makes
// it before it asks for the port.
const orphanGrace = 30 * time.Second

func newOrphanBook() *orphanBook { return &orphanBook{map[int]orphan{}, time.Now} }

// due notes how an interface looks and says whether its grace is over.
func (b *orphanBook) due(index int, name string, loose bool) bool {
	o, known := b.since[index]
	switch {
	case !loose:
		delete(b.since, index)
		return false
	case !known || o.name != name:
		b.since[index] = orphan{name, b.now()}
		return false
	}
	return b.now().Sub(o.since) > orphanGrace
}

// keep forgets interfaces that are gone.
func (b *orphanBook) keep(alive map[int]bool) {
	for i := range b.since {
		if !alive[i] {
			delete(b.since, i)
		}
	}
}
