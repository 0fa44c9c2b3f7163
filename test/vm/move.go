package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// movable is a guest that can move: it runs in one QEMU at a time, at one of the two
// places where it is joined to the node VM, and goes from QEMU to QEMU by live
// migration, in the steps and with the settings of KubeVirt's libvirt:
//
//   - the target's QEMU is started with -S and waits (incoming);
//   - the source copies memory with pause-before-switchover (migrate), which is
//     answered at once unless the move is to be held there;
//   - the guest runs only during the first pass of the copy, and only if that is slowed
//     down. Each time QEMU asks which pages were written to it is stopped: QEMU before
//     9.0 forgets to have an emulated CPU tell of the next write to these pages
//     (cpu_physical_memory_sync_dirty_bitmap), and the guest would die of what is lost;
//   - once the source says "completed" the target gets "cont", and what it has to
//     announce goes out;
//   - the source's QEMU is left behind, paused, until somebody ends it (end).
type movable struct {
	guest   wire.Guest
	kernel  Kernel
	image   string // the initramfs
	work    string
	out     string
	wires   [2]*wireEnd
	channel *relay

	mu      sync.Mutex
	born    int
	current *incarnation // where the guest runs
	target  *incarnation // waits for it
	source  *incarnation // left behind by it
	move    wire.Move    // the last one; its places are filled in when asked
	held    bool         // the move is to stop before its switch-over
	stopped bool         // the guest is, for the rest of the move
	paused  time.Time    // when the source did
}

// incarnation is one QEMU of a guest.
type incarnation struct {
	*machine
	place   int // 0 or 1
	uri     string
	monitor *monitor
	channel *os.File // our end of the guest's control channel
	events  chan qmpMessage
}

// newMovable builds what the guest boots from and joins its wires to the node VM.
func newMovable(node *machine, g wire.Guest, helpers, work, out string) (*movable, error) {
	k, image, err := guestImage(g, node.kernelArgs, helpers, work)
	if err != nil {
		return nil, err
	}
	m := &movable{guest: g, kernel: k, image: image, work: work, out: out}
	for i, mac := range []string{g.NodeMAC, g.Second.NodeMAC} {
		ours, theirs, err := newWire(fmt.Sprintf("%s at place %d", g.Name, i+1))
		if err != nil {
			return nil, err
		}
		m.wires[i] = ours
		node.nic(mac, theirs)
	}
	ours, theirs, err := socketPair(g.Name + " control channel")
	if err != nil {
		return nil, err
	}
	node.port(wire.ControlPort(g.Name), theirs)
	m.channel = newRelay(ours)
	return m, nil
}

// start runs a QEMU at a place; uri is where it waits for the guest, "" boots it.
func (m *movable) start(place int, uri string) (*incarnation, error) {
	m.born++
	name := fmt.Sprintf("%s.%d", m.guest.Name, m.born)
	q := &incarnation{place: place, uri: uri,
		machine: newMachine(name, m.kernel, m.image, filepath.Join(m.out, "guest-"+name+".log"), guestMem, 1, false)}
	end, err := m.wires[place].take()
	if err != nil {
		return nil, err
	}
	ours, theirs, err1 := socketPair(name + " control channel")
	monitor, qmp, err2 := socketPair(name + " monitor")
	if err := errors.Join(err1, err2); err != nil {
		return nil, errors.Join(err, end.Close())
	}
	q.movingNIC(m.guest, end)
	q.port(wire.ControlPort(m.guest.Name), theirs)
	q.args = append(q.args, "-chardev", "socket,id=qmp,fd="+q.inherit(qmp), "-mon", "chardev=qmp,mode=control")
	if uri != "" {
		q.args = append(q.args, "-S", "-incoming", uri)
	}
	if err := q.machine.start(); err != nil {
		m.wires[place].idle()
		return nil, errors.Join(err, ours.Close(), monitor.Close())
	}
	q.channel = ours
	q.events = make(chan qmpMessage, 256) // a move has some ten
	q.monitor = newMonitor(monitor, q.events)
	go m.follow(q)
	go m.channel.answers(ours)
	if err := q.monitor.do("qmp_capabilities", nil, nil); err != nil {
		return nil, errors.Join(fmt.Errorf("guest %s: %w: %s", name, err, q.output.b), m.end(q))
	}
	return q, nil
}

// end ends a QEMU and lets go of what it had.
func (m *movable) end(q *incarnation) error {
	q.stop(0)
	m.wires[q.place].idle()
	return q.channel.Close()
}

// do acts on a request of the node VM.
func (m *movable) do(verb string, args []string) (any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var err error
	switch verb {
	case "boot":
		err = m.boot()
	case "incoming":
		err = m.incoming()
	case "migrate":
		err = m.migrate(args)
	case "limit":
		err = m.limit(args)
	case "release":
		err = m.release()
	case "cancel":
		err = m.cancel()
	case "end":
		err = m.endSource()
	case "off":
		err = m.off()
	case "status":
	default:
		err = fmt.Errorf("unknown request %q; known are boot, incoming, migrate, limit, release, cancel, end, off, status", verb)
	}
	return m.status(), err
}

func (m *movable) boot() error {
	if m.current != nil {
		return errors.New("it runs already; off ends it")
	}
	q, err := m.start(0, "")
	if err != nil {
		return err
	}
	m.current, m.move = q, wire.Move{}
	m.channel.point(q.channel)
	return nil
}

// incoming starts the QEMU that waits for the guest at the place where it is not.
func (m *movable) incoming() error {
	switch {
	case m.current == nil:
		return errors.New("it does not run; boot it first")
	case m.target != nil:
		return errors.New("a target waits already; migrate or cancel")
	case m.source != nil:
		return errors.New("the other place has the QEMU that it has moved away from; end that first")
	}
	uri := "unix:" + filepath.Join(m.work, fmt.Sprintf("%s.%d.move", m.guest.Name, m.born+1))
	q, err := m.start(1-m.current.place, uri)
	if err != nil {
		return err
	}
	m.target, m.move = q, wire.Move{}
	return nil
}

// unlimited is what libvirt sets where no bandwidth is named, in bytes a second.
const unlimited = 1 << 45

// migrate starts to copy; "limit=N" MiB/s keeps it copying, "hold" stops it before
// its switch-over.
func (m *movable) migrate(args []string) error {
	if m.current == nil || m.target == nil {
		return errors.New("no target waits for it; incoming starts one")
	}
	if m.move.Running() {
		return errors.New("it is moving already")
	}
	bandwidth, hold := int64(unlimited), false
	for _, a := range args {
		if a == "hold" {
			hold = true
			continue
		}
		n, err := mebibytes(a)
		if err != nil {
			return err
		}
		bandwidth = n
	}
	q := m.current.monitor
	on := func(name string) map[string]any { return map[string]any{"capability": name, "state": true} }
	err := errors.Join(
		q.do("migrate-set-capabilities", map[string]any{"capabilities": []any{on("events"), on("pause-before-switchover")}}, nil),
		q.do("migrate-set-parameters", map[string]any{"max-bandwidth": bandwidth, "downtime-limit": 300}, nil))
	if err != nil {
		return err
	}
	m.move, m.held, m.paused, m.stopped = wire.Move{Phase: wire.MoveSetup}, hold, time.Time{}, true
	err = q.do("stop", nil, nil)
	if err == nil {
		err = q.do("migrate", map[string]any{"uri": m.target.uri}, nil)
	}
	if err == nil && bandwidth != unlimited {
		err = errors.Join(m.begun(), m.goOn(m.current))
	}
	if err != nil {
		m.move.Phase, m.move.Error = wire.MoveFailed, err.Error()
		return errors.Join(err, m.goOn(m.current))
	}
	return nil
}

// begun waits until the copy has begun.
func (m *movable) begun() error {
	for deadline := time.Now().Add(monitorPatience); ; time.Sleep(2 * time.Millisecond) {
		var now queryMigrate
		if err := m.current.monitor.do("query-migrate", nil, &now); err != nil {
			return err
		}
		switch {
		case now.Status == "failed":
			return fmt.Errorf("the move has failed: %s", now.ErrorDesc)
		case now.RAM.Syncs > 0:
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("the move is still %s after %v", now.Status, monitorPatience)
		}
	}
}

// resume has the guest run at the target. It comes stopped, so that a "cont" which QEMU
// gets before it has taken all in does not last.
func (m *movable) resume() error {
	q := m.current.monitor
	m.stopped = false
	for deadline := time.Now().Add(monitorPatience); ; time.Sleep(time.Millisecond) {
		var now struct {
			Status string `json:"status"`
		}
		if err := q.do("query-status", nil, &now); err != nil {
			return err
		}
		if now.Status != "inmigrate" {
			return q.do("cont", nil, nil)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the target still takes in the guest after %v", monitorPatience)
		}
	}
}

// goOn lets the guest run where it is, after a move that came to nothing.
func (m *movable) goOn(q *incarnation) error {
	if !m.stopped {
		return nil
	}
	m.stopped = false
	return q.monitor.do("cont", nil, nil)
}

func mebibytes(arg string) (int64, error) {
	var n int64
	if _, err := fmt.Sscanf(arg, "limit=%d", &n); err != nil || n < 1 || arg != "limit="+strconv.FormatInt(n, 10) {
		return 0, fmt.Errorf("%q: want limit=N in MiB/s, 1 or more, or hold", arg)
	}
	return n << 20, nil
}

// limit changes the bandwidth of a move under way; without one it comes to its end.
func (m *movable) limit(args []string) error {
	if m.current == nil || !m.move.Running() {
		return errors.New("it is not moving")
	}
	bandwidth := int64(unlimited)
	if len(args) > 0 {
		n, err := mebibytes(args[0])
		if err != nil {
			return err
		}
		bandwidth = n
	} else if !m.stopped {
		m.stopped = true
		if err := m.current.monitor.do("stop", nil, nil); err != nil {
			return err
		}
	}
	return m.current.monitor.do("migrate-set-parameters", map[string]any{"max-bandwidth": bandwidth}, nil)
}

// release lets a move go on that was held.
func (m *movable) release() error {
	held := m.held
	m.held = false
	if !held || m.move.Phase != wire.MoveHeld {
		return nil // it will not stop there
	}
	return m.proceed(m.current)
}

func (m *movable) proceed(q *incarnation) error {
	return q.monitor.do("migrate-continue", map[string]any{"state": "pre-switchover"}, nil)
}

// cancel ends a move under way; the guest goes on where it is, and the target's QEMU
// ends, as virt-handler has it.
func (m *movable) cancel() error {
	if m.target == nil {
		return errors.New("it is not moving")
	}
	if m.move.Running() {
		if err := m.stopMoving(); err != nil {
			return err
		}
	}
	q := m.target
	m.target, m.held = nil, false
	return m.end(q)
}

// stopMoving waits until the source has given the move up, unless it was too late.
func (m *movable) stopMoving() error {
	q := m.current.monitor
	if err := q.do("migrate_cancel", nil, nil); err != nil {
		return err
	}
	for deadline := time.Now().Add(monitorPatience); ; time.Sleep(5 * time.Millisecond) {
		var now queryMigrate
		if err := q.do("query-migrate", nil, &now); err != nil {
			return err
		}
		switch now.Status {
		case "cancelled", "failed":
			return m.goOn(m.current)
		case "completed":
			return errors.New("too late: the move is complete")
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the move is still %s, %v after it was cancelled", now.Status, monitorPatience)
		}
	}
}

func (m *movable) endSource() error {
	if m.source == nil {
		return errors.New("it has not moved away from any place")
	}
	q := m.source
	m.source = nil
	return m.end(q)
}

// off ends all of the guest's QEMUs.
func (m *movable) off() error {
	m.channel.point(nil)
	var errs []error
	for _, q := range []*incarnation{m.current, m.target, m.source} {
		if q != nil {
			errs = append(errs, m.end(q))
		}
	}
	m.current, m.target, m.source, m.move = nil, nil, nil, wire.Move{}
	return errors.Join(errs...)
}

// status tells where the guest is and how its last move went.
func (m *movable) status() wire.Move {
	s := m.move
	at := func(q *incarnation) int {
		if q == nil {
			return 0
		}
		return q.place + 1
	}
	s.Place, s.Target, s.Source = at(m.current), at(m.target), at(m.source)
	for _, q := range []*incarnation{m.current, m.target} {
		if q == nil {
			continue
		}
		select {
		case <-q.done:
			s.Error = fmt.Sprintf("QEMU %s has ended: %s", q.name, q.output.b)
		default:
		}
	}
	if m.move.Running() && m.current != nil {
		var now queryMigrate
		if err := m.current.monitor.do("query-migrate", nil, &now); err == nil {
			now.fill(&s)
		}
	}
	return s
}

// queryMigrate is QEMU's MigrationInfo (qapi/migration.json), times in ms.
type queryMigrate struct {
	Status    string `json:"status"`
	TotalTime int64  `json:"total-time"`
	Downtime  int64  `json:"downtime"`
	SetupTime int64  `json:"setup-time"`
	RAM       struct {
		Transferred int64 `json:"transferred"`
		Remaining   int64 `json:"remaining"`
		Syncs       int64 `json:"dirty-sync-count"`
	} `json:"ram"`
	ErrorDesc string `json:"error-desc"`
}

func (q queryMigrate) fill(s *wire.Move) {
	s.TotalMs, s.DowntimeMs, s.SetupMs = q.TotalTime, q.Downtime, q.SetupTime
	s.Transferred, s.Remaining = q.RAM.Transferred, q.RAM.Remaining
	if q.ErrorDesc != "" {
		s.Error = q.ErrorDesc
	}
}

// follow takes the events of a QEMU, in their order, until it ends.
func (m *movable) follow(q *incarnation) {
	for e := range q.events {
		switch e.Event {
		case "STOP", "RESUME":
			m.turned(q, e)
		case "MIGRATION":
			var data struct {
				Status string `json:"status"`
			}
			if json.Unmarshal(e.Data, &data) == nil {
				m.moved(q, data.Status)
			}
		}
	}
}

// turned notes when the guest stopped running in one QEMU and went on in another.
func (m *movable) turned(q *incarnation, e qmpMessage) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case e.Event == "STOP" && q == m.current:
		m.paused = e.at()
		m.channel.point(nil)
	case e.Event == "RESUME" && q == m.current:
		m.channel.point(q.channel)
		if !m.paused.IsZero() && m.target == nil { // at the target, where it is now
			m.move.PausedMs = float64(e.at().Sub(m.paused).Microseconds()) / 1000
		}
	}
}

// sumUp asks for the figures of a completed move; QEMU says "completed" a moment
// before it has them.
func (m *movable) sumUp(q *incarnation) error {
	var info queryMigrate
	for deadline := time.Now().Add(monitorPatience); info.TotalTime == 0; {
		if err := q.monitor.do("query-migrate", nil, &info); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no figures of the move within %v", monitorPatience)
		}
	}
	info.fill(&m.move)
	return nil
}

// moved follows a move through the source's eyes; the target says the same later.
func (m *movable) moved(q *incarnation, status string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if q != m.current || m.target == nil && status != "cancelled" {
		return
	}
	fail := func(err error) {
		if err != nil {
			m.move.Phase, m.move.Error = wire.MoveFailed, err.Error()
		}
	}
	switch status {
	case "active":
		m.move.Phase = wire.MoveCopying
	case "pre-switchover":
		m.move.Phase = wire.MoveHeld
		if !m.held {
			fail(m.proceed(q))
		}
	case "completed":
		m.current, m.source, m.target = m.target, q, nil
		m.move.Phase = wire.MoveCompleted
		fail(m.resume())
		fail(m.sumUp(q))
	case "failed", "cancelled":
		m.move.Phase = status
		fail(m.goOn(q))
		var info queryMigrate
		if q.monitor.do("query-migrate", nil, &info) == nil {
			info.fill(&m.move)
		}
	}
}
