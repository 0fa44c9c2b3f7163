package agent

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// live is an agent on a kernel of its own: a network namespace and a BPF file
// system that end with the test. Its bridge br0 keeps no VLANs apart, so that
// every kernel has it.
type live struct {
	*testing.T
	*Agent
}

// trunksAreUp says that every trunk is set up.
func (l live) trunksAreUp() { l.world.health = healthy(l.world.snap) }

func newLive(t *testing.T) live {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root (a network namespace, CAP_BPF)")
	}
	runtime.LockOSThread() // never unlocked: the thread goes with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	bpffs := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(bpffs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a BPF file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(bpffs, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := live{t, startAgent(t, t.TempDir(), bpffs)}
	if _, err := l.kernel.net.EnsureTrunk(bridge.TrunkSpec{Bridge: "br0", Managed: true, Flat: true}); err != nil {
		t.Fatal(err)
	}
	snap, health := snapshot(t)
	l.take(snap)
	l.world.health = health
	l.world.Sets = map[string]policy.Set{"": {}, "web": {}, "small": {}, "guests": {}}
	l.lastRound.Store(time.Now().UnixNano())
	return l
}

func startAgent(t *testing.T, run, bpffs string) *Agent {
	t.Helper()
	a, err := New(Config{Paths: attach.Paths{RunDir: run}, SourceName: "dir:test", BPFFS: bpffs, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(a.announcer.close(), a.kernel.Close()); err != nil {
			t.Error(err)
		}
		a.lock.Close()
	})
	return a
}

// restart is a new agent after a kill -9 of this one.
func (l live) restart() live {
	l.Helper()
	if err := l.lock.Close(); err != nil {
		l.Fatal(err)
	}
	return live{l.T, startAgent(l.T, l.cfg.Paths.RunDir, l.cfg.BPFFS)}
}

func (l live) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

// veth makes a pair whose host end is up and in br0, and the record of its port.
func (l live) veth(name string, mac byte) *attach.Record {
	l.Helper()
	l.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}))
	host, err := netlink.LinkByName(name)
	l.must(err)
	rec := port(host.Attrs().Index, mac, access(100))
	rec.Key.ContainerID, rec.HostIfName, rec.BootID, rec.Version = name, name, l.boot, attach.RecordVersion
	l.must(l.kernel.Join(rec.HostEnd(), "br0"))
	l.must(l.kernel.SetUp(rec.HostEnd()))
	return rec
}

// open makes a port as an ADD leaves it.
func (l live) open(name string, mac byte) *attach.Record {
	l.Helper()
	return l.openAs(l.veth(name, mac))
}

func (l live) openAs(rec *attach.Record) *attach.Record {
	l.Helper()
	l.must(l.store.Put(rec))
	l.must(l.kernel.AttachPort(rec.HostEnd(), rec.Config()))
	l.must(l.kernel.SetState(rec.HostIfIndex, attach.Active))
	e, unlock := l.table.lock(rec.Key)
	defer unlock()
	l.must(l.table.claim(e, rec, l.alive))
	l.table.opened(e)
	return rec
}

// round looks at the hooks of all ports, as the loop does, and repairs.
func (l live) round() []finding {
	found := l.lookAtHooks()
	l.noteProblems(found, l.drift.settle(found))
	return found
}

func (l live) exists(name string) bool {
	_, err := netlink.LinkByName(name)
	return err == nil
}

func (l live) records() []attach.Record {
	l.Helper()
	all, aside, err := l.store.List()
	if err != nil || len(aside) != 0 {
		l.Fatalf("records: %v, set aside %v", err, aside)
	}
	return all
}

// asks gives a request the key of a container.
func asks(r *attach.Request, container string) *attach.Request {
	r.Key = attach.Key{ContainerID: container, IfName: "net1"}
	return r
}

// isRefusal expects an *attach.Error of that kind about that field.
func isRefusal(err error, kind attach.ErrorKind, field string) bool {
	var e *attach.Error
	return errors.As(err, &e) && e.Kind == kind && e.Field == field && e.Remedy != ""
}

func (l live) byName(name string) *attach.Record {
	l.Helper()
	for _, it := range l.table.list() {
		if it.rec.HostIfName == name {
			return &it.rec
		}
	}
	l.Fatalf("no port %s", name)
	return nil
}

// sendFrom sends one frame from an interface, which it brings up.
func (l live) sendFrom(name string, frame []byte) {
	l.Helper()
	link, err := netlink.LinkByName(name)
	l.must(err)
	l.must(netlink.LinkSetUp(link))
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	l.must(err)
	defer unix.Close(fd)
	l.must(unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index}))
}

// TestDriftNow: a check that comes before the round does sees for itself that the bridge has lost the uplink.
func TestDriftNow(t *testing.T) {
	l := newLive(t)
	l.veth("eth1", 1)
	trunk := desired.Trunk{Name: "site", Bridge: "br0", Uplink: "eth1"}
	p := newProber(l.Agent, "n1", nil)
	says := func(problem string) string {
		t.Helper()
		var b strings.Builder
		for _, d := range p.describe(trunk, l.world.snap, trunkHealth{problem: problem}).Drift {
			b.WriteString(d.What)
		}
		return b.String()
	}
	if got := says(""); strings.Contains(got, "UplinkUnslaved") {
		t.Errorf("a port of the bridge: %s", got)
	}
	if got := says("not set up"); got != "not set up" {
		t.Errorf("a trunk that could not be set up: %q", got)
	}
	up, err := netlink.LinkByName("eth1")
	l.must(err)
	l.must(netlink.LinkSetNoMaster(up))
	for _, problem := range []string{"", "words of a round, which come and go"} {
		if got := says(problem); got != "UplinkUnslaved eth1: it is not a port of the bridge br0" {
			t.Errorf("a port of nothing, problem %q: %q", problem, got)
		}
	}
	l.must(netlink.LinkDel(up))
	trunk.Uplink = "eth9"
	if got := says(""); got != "" {
		t.Errorf("an uplink that is not there is down, and no drift: %s", got)
	}
}

// noKeys sign nothing.
type noKeys struct{}

func (noKeys) Sign([]byte) (id [4]byte, mac [16]byte) { return id, mac }
func (noKeys) Verify([4]byte, []byte, [16]byte) bool  { return false }

// TestSendSome: what a node may not ask is told as not sent, and the rest is sent.
func TestSendSome(t *testing.T) {
	l := newLive(t)
	l.veth("eth1", 1)
	allowed, err := vlan.ParseSet("100-101")
	l.must(err)
	l.world.snap.Trunks = map[string]desired.Trunk{"site": {Name: "site", Bridge: "br0", Uplink: "eth1", AllowedVLANs: allowed}}
	p, run := newProber(l.Agent, "n1", noKeys{}), probe.RunID{1}
	l.must(p.Start(t.Context(), run, []string{"site"}, 100))
	defer func() { l.must(p.Stop(t.Context(), run)) }()
	l.must(p.Send(t.Context(), run, "site", []probe.Ask{{VLAN: 300, Kind: probe.Hello}, {VLAN: 100, Kind: probe.Hello}, {VLAN: 101, Kind: probe.Hello}}))
	obs, err := p.Observe(t.Context(), run, "site")
	l.must(err)
	if obs.Together {
		t.Error("another check is said to run")
	}
	second := probe.RunID{2}
	l.must(p.Start(t.Context(), second, []string{"site"}, 100))
	l.must(p.Stop(t.Context(), second))
	if again, err := p.Observe(t.Context(), run, "site"); err != nil || !again.Together {
		t.Errorf("another check has run: %+v, %v", again, err)
	}
	if obs.Sent != 2 || len(obs.Unsent) != 1 || obs.Unsent[0].VLAN != 300 || !strings.Contains(obs.Unsent[0].Error, "is not in uplink.allowedVLANs of trunk site on node n1") {
		t.Errorf("%d sent, %+v", obs.Sent, obs.Unsent)
	}
}
