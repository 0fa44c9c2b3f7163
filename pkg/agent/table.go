package agent

import (
	"fmt"
	"slices"
	"sync"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// table is what the agent knows of its ports, living and in the making. A key
// is held while it is worked on, so that the ADD, DEL and repair of one port
// never overlap; different ports do.
type table struct {
	mu    sync.Mutex
	ports map[attach.Key]*entry
	// shares says whether two ports may have one MAC in one VLAN; nil is never.
	shares func(mine, theirs *attach.Record) bool
}

type entry struct {
	hold     sync.Mutex // held by whoever works on the port
	waiting  int        // holders and waiters; guarded by table.mu
	rec      *attach.Record
	claimed  bool     // rec's MAC and interface are taken; guarded by table.mu
	open     bool     // its plan is done: the loop may look at it; guarded by table.mu
	settled  bool     // its hooks are where they stay; guarded by table.mu
	problems []string // last check's; guarded by table.mu
	asked    *asked   // of a port that this agent has attached; guarded by table.mu
}

func newTable() *table { return &table{ports: map[attach.Key]*entry{}} }

// lock holds the key until the returned function is called.
func (t *table) lock(k attach.Key) (e *entry, unlock func()) {
	t.mu.Lock()
	e = t.ports[k]
	if e == nil {
		e = &entry{}
		t.ports[k] = e
	}
	e.waiting++
	t.mu.Unlock()
	e.hold.Lock()
	return e, func() {
		e.hold.Unlock()
		t.mu.Lock()
		defer t.mu.Unlock()
		if e.waiting--; e.waiting == 0 && e.rec == nil {
			delete(t.ports, k)
		}
	}
}

// claim takes the record's MAC and host interface for e, or says who has them.
// alive tells whether a port that seems to be in the way still lives.
func (t *table) claim(e *entry, r *attach.Record, alive func(*attach.Record) bool) error {
	return t.claimAs(e, r, alive, t.shares)
}

// adopt is claim for a port that was admitted before: one that shares a MAC by a
// migration goes on doing so.
func (t *table) adopt(e *entry, r *attach.Record, alive func(*attach.Record) bool) error {
	moves := func(r *attach.Record) bool { return r.Hold != nil || r.Arrival != nil }
	return t.claimAs(e, r, alive, func(mine, theirs *attach.Record) bool { return moves(mine) || moves(theirs) })
}

func (t *table) claimAs(e *entry, r *attach.Record, alive func(*attach.Record) bool, shares func(mine, theirs *attach.Record) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, o := range t.ports {
		if o != e && o.claimed && o.rec.HostIfIndex == r.HostIfIndex && alive(o.rec) {
			return &attach.Error{Kind: attach.Conflict, Field: "interface",
				Message: fmt.Sprintf("host interface %s is the port of container %s, interface %s", r.HostIfName, k.ContainerID, k.IfName),
				Remedy:  "one veth serves one attachment"}
		}
	}
	if err := t.macHeldLocked(r, alive, shares); err != nil {
		return err
	}
	e.rec, e.claimed = r, true
	return nil
}

// macHeld refuses a MAC that a living port of this node has in one of the same
// VLANs, unless both are of one migration. The FDB and other nodes are not asked: the
// target of a migration has the living source's MAC.
func (t *table) macHeld(r *attach.Record, alive func(*attach.Record) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.macHeldLocked(r, alive, t.shares)
}

func (t *table) macHeldLocked(r *attach.Record, alive func(*attach.Record) bool, shares func(mine, theirs *attach.Record) bool) error {
	for k, o := range t.ports {
		if k == r.Key || !o.claimed || o.rec.Bridge != r.Bridge || !slices.Equal(o.rec.MAC, r.MAC) {
			continue
		}
		both := o.rec.VLANs.All().Intersect(r.VLANs.All())
		if both.Empty() || !alive(o.rec) || shares != nil && shares(r, o.rec) {
			continue
		}
		return &attach.Error{Kind: attach.Conflict, Field: "mac",
			Message: fmt.Sprintf("%s is held in VLAN %s by a living port of this node: container %s, interface %s (%s)", r.MAC, both, k.ContainerID, k.IfName, o.rec.HostIfName),
			Remedy:  "give this VM another MAC, or end the other port"}
	}
	return nil
}

// replaceMAC is replace for a record with another MAC, if nobody holds that.
func (t *table) replaceMAC(rec *attach.Record, alive func(*attach.Record) bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.macHeldLocked(rec, alive, t.shares); err != nil {
		return err
	}
	if e := t.ports[rec.Key]; e != nil && e.rec != nil {
		e.rec = rec
	}
	return nil
}

// replace puts rec in the place of the record of its key, which is held.
func (t *table) replace(rec *attach.Record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.ports[rec.Key]; e != nil && e.rec != nil {
		e.rec = rec
	}
}

// opened notes that the port of e is complete.
func (t *table) opened(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.open, e.settled = true, false
}

// release forgets what e claimed.
func (t *table) release(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e.rec, e.claimed, e.open, e.problems, e.asked = nil, false, false, nil, nil
}

// item is a copy of one entry.
type item struct {
	rec      attach.Record
	open     bool
	settled  bool
	problems []string
}

// list copies every claimed entry, in the order of host interface names.
func (t *table) list() []item {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []item
	for _, e := range t.ports {
		if e.claimed {
			out = append(out, item{rec: *e.rec, open: e.open, settled: e.settled, problems: slices.Clone(e.problems)})
		}
	}
	slices.SortFunc(out, func(a, b item) int {
		if a.rec.HostIfName < b.rec.HostIfName {
			return -1
		}
		return 1
	})
	return out
}

// at finds the port of a host interface.
func (t *table) at(ifindex int) (attach.Record, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.ports {
		if e.claimed && e.rec.HostIfIndex == ifindex {
			return *e.rec, true
		}
	}
	return attach.Record{}, false
}

func (t *table) setProblems(k attach.Key, problems []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.ports[k]; e != nil {
		e.problems = problems
	}
}

// unsettled copies the open ports that are not known to be settled.
func (t *table) unsettled() []item {
	return slices.DeleteFunc(t.list(), func(i item) bool { return i.settled || !i.open })
}

func (t *table) setSettled(k attach.Key, settled bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.ports[k]; e != nil {
		e.settled = settled
	}
}
