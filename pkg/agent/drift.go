package agent

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// finding is one thing of ours that is not as it should be.
type finding struct {
	kind    string // stable, as "PortVLANMissing"
	subject string // interface or bridge
	message string // what it means while it lasts
	// urgent findings let packets go where they should not: their repairs are
	// never further apart than urgentDelay, however often somebody undoes them.
	urgent bool
	repair func() error
}

const (
	firstDelay  = time.Second
	maxDelay    = time.Minute
	urgentDelay = time.Second
	// calm is how long nothing must be seen for the next repair to be at once.
	calm = 5 * time.Minute
	// forget is how long a count is kept that nothing adds to: interfaces come
	// and go with pods.
	forget = 24 * time.Hour
)

// driftBook counts what others changed and paces the repairs: at once, then at
// growing distances, so that two programs that disagree do not fight at speed.
type driftBook struct {
	mu    sync.Mutex
	byKey map[driftKey]*driftEntry
	now   func() time.Time
}

type driftKey struct{ kind, subject string }

type driftEntry struct {
	seen, repaired int
	open           bool
	last, next     time.Time
	delay          time.Duration
	message        string
	failed         string // how the last repair went wrong, to follow message
}

func newDriftBook() *driftBook {
	return &driftBook{byKey: map[driftKey]*driftEntry{}, now: time.Now}
}

// settle takes all findings of one round: counts the new ones, repairs those
// whose time has come, and closes what is not found any more. It returns the
// repair errors.
func (b *driftBook) settle(found []finding) map[driftKey]error {
	errs := map[driftKey]error{}
	here := map[driftKey]bool{}
	for _, f := range found {
		k := driftKey{f.kind, f.subject}
		here[k] = true
		if !b.due(k, f) {
			continue
		}
		err := f.repair()
		if err != nil {
			errs[k] = err
		}
		b.tried(k, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, e := range b.byKey {
		if here[k] {
			continue
		}
		e.open, e.message, e.failed = false, "", ""
		if b.now().Sub(e.last) > forget {
			delete(b.byKey, k)
		}
	}
	return errs
}

// due notes a sighting and says whether to repair now.
func (b *driftBook) due(k driftKey, f finding) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.byKey[k]
	if e == nil {
		e = &driftEntry{}
		b.byKey[k] = e
	}
	now := b.now()
	if now.Sub(e.last) > calm {
		e.delay, e.next = 0, now
	}
	if !e.open {
		e.seen++
	}
	e.open, e.last, e.message = true, now, f.message
	if f.urgent {
		e.delay = min(e.delay, urgentDelay/2) // tried doubles it
	}
	return !now.Before(e.next)
}

func (b *driftBook) tried(k driftKey, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.byKey[k]
	e.delay = min(max(2*e.delay, firstDelay), maxDelay)
	e.next = b.now().Add(e.delay)
	if err != nil {
		e.failed = "; repair failed: " + err.Error()
		return
	}
	e.repaired++
	e.open, e.message, e.failed = false, "", ""
}

// nextTry is how long until a repair is due, at most limit.
func (b *driftBook) nextTry(limit time.Duration) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range b.byKey {
		if e.open {
			limit = min(limit, max(e.next.Sub(b.now()), 0))
		}
	}
	return limit
}

// list gives the counts, in a stable order.
func (b *driftBook) list() []wire.DriftCount {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []wire.DriftCount
	for k, e := range b.byKey {
		out = append(out, wire.DriftCount{Kind: k.kind, Subject: k.subject, Seen: e.seen, Repaired: e.repaired, Last: e.last.UTC(), Message: e.message + e.failed})
	}
	slices.SortFunc(out, func(a, b wire.DriftCount) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Subject, b.Subject))
	})
	return out
}

// openDrift is what of a list is not repaired at this moment.
func openDrift(list []wire.DriftCount) []wire.DriftCount {
	return slices.DeleteFunc(slices.Clone(list), func(d wire.DriftCount) bool { return d.Message == "" })
}
