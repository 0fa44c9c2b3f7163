// Package agent puts the parts of a node together. Desired state comes in as
// snapshots; one loop brings the kernel to it: trunks, compiled policy, ports.
// The loop is level-triggered: whatever happened, it looks at what is and what
// should be, and events only make it look sooner. ADD and DEL do not go through
// the loop: they run their plan at once, holding only their own port.
//
// Nothing here opens a port that is not complete, and nothing closes one when
// the agent ends: programs, maps and links stay as they are.
package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/hostfw"
	"github.com/homeport-cni/homeport/pkg/peer"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/store"
)

// Source hands out snapshots of desired state.
type Source interface {
	// Load reads all of it now.
	Load() (*desired.Snapshot, error)
	// Watch sends a snapshot after each change, until ctx ends.
	Watch(ctx context.Context) (<-chan *desired.Snapshot, error)
}

// Config is what an agent is started with.
type Config struct {
	Paths       attach.Paths
	Source      Source
	SourceName  string // as given to --source, for people
	Cluster     bool   // the source is for many nodes: this one may well have no trunk
	BPFFS       string // mount point of the BPF file system
	MetricsAddr string // host:port; "" is no metrics
	RuleLog     string // file for what rules log; "" is none
	CNIBin      string // directory where the plugin is kept in place; "" is none
	Version     string
	Log         *slog.Logger
	RecentLog   *RecentLog // what Log also writes to, for support bundles; nil is nowhere
	Fabric      Fabric
	Flat        bool // bridges keep no VLANs apart: for measurements, on kernels that cannot do it
	// Report tells others of the node; nil tells nobody.
	Report Report
}

// Agent is one node's.
type Agent struct {
	cfg       Config
	log       *slog.Logger
	lock      *os.File // held: one agent a node
	boot      string
	store     *store.Store
	kernel    *kernel
	node      attach.Node
	table     *table
	drift     *driftBook
	plugin    pluginState
	announcer announcer
	watched   watchedUplinks
	hostfw    *hostFirewall
	fast      *fastBook
	ring      *peer.Ring
	client    *peer.Client
	prober    *prober
	segment   segment // the prober, but in tests
	checks    checks
	book      checkBook
	lldp      *lldpBook
	events    eventBook
	addresses addressBook
	ruleLog   *ruleLog
	ended     chan datapath.Event    // connections that were silent for too long
	orphans   *orphanBook            // the loop's
	unready   map[string]string      // the loop's: why uplinks are not ready for the fast path, by trunk
	uplinks   map[place]uplinkRecord // of adopted bridges; the loop's
	collected time.Time              // when leftovers were last cleared; the loop's
	sets      desired.SetBuilder     // the loop's
	compiler  compile.Compiler       // the loop's
	kick      chan struct{}          // asks the loop for another round
	fresh     chan struct{}          // asks for one without an idle gap: there is a new snapshot
	held      chan struct{}          // there is a port that waits for its VM
	moves     chan struct{}          // there is a port whose part in migrations was not known
	news      chan struct{}          // tells the Report to look again
	lastRound atomic.Int64           // when the loop last finished a round, Unix nanoseconds
	lastAsked atomic.Int64           // when ADD or DEL last came, Unix nanoseconds

	mu    sync.RWMutex
	world world
	notes notes
}

// New opens the state of the node: records, pinned programs and maps.
func New(cfg Config) (*Agent, error) {
	boot, err := attach.BootID()
	if err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	lock, err := lockNode(cfg.Paths.RunDir)
	if err != nil {
		return nil, err
	}
	// From here on this agent is the one that writes: what is half written is dead.
	st, err := store.Open(cfg.Paths.Attachments())
	if err == nil {
		err = store.Sweep(cfg.Paths.State())
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	a := &Agent{cfg: cfg, log: cfg.Log, boot: boot, store: st, lock: lock, table: newTable(), drift: newDriftBook(), orphans: newOrphanBook(),
		hostfw: newHostFirewall(hostfw.NewHost()), fast: newFastBook(), lldp: newLLDPBook(), book: checkBook{kick: make(chan struct{}, 1)}, ruleLog: newRuleLog(cfg.RuleLog), ended: make(chan datapath.Event, endsQueued),
		kick: make(chan struct{}, 1), fresh: make(chan struct{}, 1), held: make(chan struct{}, 1), moves: make(chan struct{}, 1), news: make(chan struct{}, 1),
		watched: watchedUplinks{news: make(chan struct{}, 1)}}
	if err := a.joinFabric(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	if a.kernel, err = openKernel(&cfg); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	a.fast.fdb = a.kernel.net.FDB
	a.node = attach.Node{Bridge: a.kernel, Datapath: a.kernel, Records: st}
	a.table.shares = a.sharesMAC
	a.loadState()
	if err := a.openAddresses(); err != nil {
		return nil, errors.Join(err, a.kernel.Close(), lock.Close())
	}
	// The programs judge by what was in force, whether or not there is anything newer to read.
	a.events.learnRules(slices.Collect(maps.Values(a.world.Sets)), a.world.Counters, a.kernel.Generation())
	return a, nil
}

// lockNode keeps a second agent from touching the node: the lock is held as long
// as the process lives, whatever becomes of it.
func lockNode(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w; see --help for how to move it", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another agent runs on this node (it holds %s): stop it first", f.Name()), f.Close())
	}
	return f, nil
}

// Run serves until ctx ends and leaves the datapath as it is.
func (a *Agent) Run(ctx context.Context) error {
	defer a.lock.Close()
	defer a.kernel.Close()
	defer a.announcer.close()
	defer a.prober.closeAll()
	defer a.checks.close()
	defer a.client.Close()
	listener, err := wire.Listen(a.cfg.Paths.Socket())
	if err != nil {
		return err
	}
	defer listener.Close()
	if err := a.adoptRecords(); err != nil {
		return err
	}
	// An agent before this one may have been asked to.
	if err := a.kernel.dp.Watch(false); err != nil {
		return err
	}
	a.readSource()
	a.reconcile()
	a.lastRound.Store(time.Now().UnixNano())
	tasks := []task{
		{"socket", func(ctx context.Context) error {
			return (&wire.Server{Handlers: a.handlers(), Log: a.log}).Serve(ctx, listener)
		}},
		{"source", a.watchSource},
		{"kernel events", a.watchKernel},
		{"uplinks", a.followUplinks},
		{"reconcile", a.loop},
		{"pool", a.keepPool},
		{"connections", a.ageConnections},
		{"events", a.readEvents},
		{"settle", a.settlePorts},
		{"metrics", a.serveMetrics},
		{"report", a.report},
		{"arrivals", a.followArrivals},
		{"moves", a.watchMoves},
		{"plugin", a.keepPlugin},
		{"host firewall", a.keepHostFirewall},
		{"fast path", a.keepFastPath},
		{"LLDP", a.followLLDP},
		{"agents", a.serveAgents},
		{"checks", a.keepChecks},
		{"addresses", a.keepAddresses},
	}
	a.log.Info("agent runs", "version", a.cfg.Version, "source", a.cfg.SourceName, "hook", a.kernel.Hook(), "ready", a.nodeStatus().Ready)
	return runTasks(ctx, tasks)
}

// task is something that runs as long as the agent does.
type task struct {
	name string
	run  func(context.Context) error
}

// runTasks runs all until ctx ends or one fails, then waits for the others.
func runTasks(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, t := range tasks {
		wg.Go(func() {
			if err := t.run(ctx); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("%s: %w", t.name, err))
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// watchSource takes every snapshot that the source sends.
func (a *Agent) watchSource(ctx context.Context) error {
	ch, err := a.cfg.Source.Watch(ctx)
	if err != nil {
		return err
	}
	for snap := range ch {
		a.take(snap)
		ask(a.fresh)
	}
	return ctx.Err()
}

// wake asks for a round of the loop, soon.
func (a *Agent) wake() { ask(a.kick) }

// ask says that something is to be done, once for all that nobody has looked at yet.
func ask(ch chan<- struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// watchKernel wakes the loop when links, VLANs or hooks change, though not for
// what an ADD or DEL at work changes: those come first. What happens to uplinks
// does not wait for that.
func (a *Agent) watchKernel(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	defer close(changed)
	go func() {
		for range changed {
			a.waitForQuiet(ctx)
			a.wake()
		}
	}()
	for ctx.Err() == nil {
		ch, err := a.kernel.Watch(ctx)
		if err != nil {
			return err
		}
		for e := range ch { // closed early when the announcements broke off
			a.watched.note(e)
			ask(changed)
		}
	}
	return nil
}

// waitForQuiet returns when no ADD or DEL has come for a while, or after
// holdMost: on a node where they come all the time, the loop still has its turn.
func (a *Agent) waitForQuiet(ctx context.Context) {
	held := time.Now()
	for ctx.Err() == nil {
		quiet := time.Unix(0, a.lastAsked.Load()).Add(quietAfter)
		wait := min(time.Until(quiet), time.Until(held.Add(holdMost)))
		if wait <= 0 {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

const (
	// quietAfter is how long no ADD or DEL must have come for the node to count
	// as quiet, holdMost how long work that can wait for that is put off.
	quietAfter = 200 * time.Millisecond
	holdMost   = time.Second
	// roundEvery is the safety net under kernel events: a detached tcx link,
	// for one, makes none.
	roundEvery = 5 * time.Second
	// roundGap joins events that come together; after a round that took long
	// (many ports, or many ADDs at work beside it) the gap is idleShare times
	// as long, so that the loop never takes the kernel's attention from ADDs. A
	// new snapshot, whose author waits for it, ends the gap once it was as long as
	// the round, or freshAfter: where they never end, ADDs have half of the time.
	roundGap   = 50 * time.Millisecond
	idleShare  = 9
	freshAfter = 500 * time.Millisecond
	// ageEvery is how often expired connections are cleared from memory; the
	// program ignores them at once.
	ageEvery = 30 * time.Second
	// settleAfter is how long no ADD or DEL must have come before ports are
	// moved to the hook they stay on, which keeps the kernel's network lock busy.
	settleAfter = 2 * time.Second
)

func (a *Agent) loop(ctx context.Context) error {
	tick := time.NewTicker(roundEvery)
	defer tick.Stop()
	for {
		wait := time.NewTimer(a.drift.nextTry(roundEvery))
		select {
		case <-ctx.Done():
			wait.Stop()
			return nil
		case <-a.kick:
		case <-a.fresh:
		case <-tick.C:
		case <-wait.C:
		}
		wait.Stop()
		begun := time.Now()
		a.reconcile()
		a.lastRound.Store(time.Now().UnixNano())
		a.tell()
		ask(a.hostfw.kick)
		ask(a.fast.kick)
		a.idle(ctx, time.Since(begun))
	}
}

// idle waits after a round that took so long.
func (a *Agent) idle(ctx context.Context, took time.Duration) {
	rest := time.NewTimer(min(idleShare*took, roundEvery))
	defer rest.Stop()
	select {
	case <-ctx.Done():
		return
	case <-time.After(max(roundGap, min(took, freshAfter))):
	}
	select {
	case <-ctx.Done():
	case <-a.fresh:
		ask(a.fresh) // for the next round
	case <-rest.C:
	}
}

// keepPool makes port slots ahead of ADDs: publishing one waits for a grace
// period, which ADD must not.
func (a *Agent) keepPool(ctx context.Context) error {
	for {
		if err := a.kernel.FillPool(); err != nil {
			a.log.Warn("port slots cannot be made ahead; ADD will make its own", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.kernel.poolUsed:
			if !a.kernel.poolLow() {
				a.waitForQuiet(ctx)
			}
		case <-time.After(roundEvery):
			if err := a.kernel.dp.Reap(); err != nil {
				a.log.Warn("slots of ended ports cannot be freed", "err", err)
			}
		}
	}
}

func (a *Agent) ageConnections(ctx context.Context) error {
	tick := time.NewTicker(ageEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.kernel.dp.Sweep(); err != nil {
				a.log.Warn("what ports have left that are gone, and MACs that VMs have sent from, cannot be forgotten", "err", err)
			}
			if err := a.kernel.AgeConnections(a.connectionEnded); err != nil {
				a.log.Warn("expired connections cannot be cleared", "err", err)
			}
		}
	}
}

// noteRecord tells of a record that is of no use. One that was set aside is told
// as long as it lies there.
func (a *Agent) noteRecord(s *store.SetAside) {
	a.notes.add(a.log, cmp.Or(s.Renamed, s.File), s.Error(), true)
}

// alive says whether the record's interface is still there.
func (a *Agent) alive(r *attach.Record) bool {
	return r.BootID == a.boot && a.kernel.Alive(r.HostEnd())
}

// adoptRecords takes up what an earlier agent left.
func (a *Agent) adoptRecords() error {
	records, aside, err := a.store.List()
	if err != nil {
		return err
	}
	for i := range aside {
		a.noteRecord(&aside[i])
	}
	for i := range records {
		a.adoptRecord(&records[i])
	}
	return nil
}

// adoptRecord takes up one record that no ADD or DEL is at work on. A port lives
// on if it ever was open, even if its program was lost meanwhile: the loop gives
// it back. One that is dead, or whose attachment was cut short, is ended.
func (a *Agent) adoptRecord(rec *attach.Record) {
	e, unlock := a.table.lock(rec.Key)
	defer unlock()
	if e.rec != nil {
		return
	}
	if a.alive(rec) && !a.kernel.Unfinished(rec) {
		if err := a.table.adopt(e, rec, a.alive); err != nil {
			a.notes.add(a.log, a.store.Path(rec.Key), fmt.Sprintf("record of container %s, interface %s: %v", rec.ContainerID, rec.IfName, err), true)
			return
		}
		a.notes.drop(a.store.Path(rec.Key))
		a.table.opened(e)
		ask(a.held)
		if a.hasJustCome(rec) {
			a.announce(context.Background(), rec, a.addressesOf(rec))
		}
		return
	}
	if _, err := a.store.Get(rec.Key); errors.Is(err, fs.ErrNotExist) {
		return // ended since it was listed
	}
	if err := a.end(e, rec); err != nil {
		a.log.Warn("a dead or unfinished port cannot be ended yet", "container", rec.ContainerID, "interface", rec.IfName, "err", err)
	}
}
