package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/announce"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// wired is a trunk whose uplink eth0 is joined to port0 by a cable: VLANs 100 and
// 200 tagged, 7 untagged.
type wired struct {
	live
	uplink int // ifindex
	ear    int // hears at port0
	heard  map[string]int
}

func newWired(t *testing.T) *wired {
	t.Helper()
	l := newLive(t)
	if err := bridge.ProbeVLANFiltering(); err != nil {
		if k := os.Getenv("HOMEPORT_IN_VM"); k != "" {
			t.Fatalf("kernel %s: %v", k, err)
		}
		t.Skip(err)
	}
	w := &wired{live: l, heard: map[string]int{}}
	l.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "port0"}))
	l.must(l.kernel.net.SetUp(bridge.Ref{Name: "port0"}))
	st, err := l.kernel.net.EnsureTrunk(bridge.TrunkSpec{Bridge: "br9", Managed: true, Uplink: "eth0", Allowed: set(t, "100,200"), Native: 7})
	l.must(err)
	w.uplink = st.Uplink.Index
	l.world.snap.Trunks["wired"] = desired.Trunk{Name: "wired", Bridge: "br9", Uplink: "eth0"}
	port0, err := l.kernel.net.LinkInfo(bridge.Ref{Name: "port0"})
	l.must(err)
	w.ear, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	l.must(err)
	t.Cleanup(func() { unix.Close(w.ear) })
	l.must(unix.SetsockoptInt(w.ear, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1))
	l.must(unix.Bind(w.ear, &unix.SockaddrLinklayer{Ifindex: port0.Index, Protocol: bits.ReverseBytes16(unix.ETH_P_ALL)}))
	w.forwarding(st.Uplink)
	return w
}

func (w *wired) forwarding(refs ...bridge.Ref) {
	w.Helper()
	for _, r := range refs {
		w.eventually(r.String()+" forwards", func() bool {
			l, err := w.kernel.net.LinkInfo(r)
			w.must(err)
			return forwards(l)
		})
	}
}

func (w *wired) eventually(what string, ok func() bool) {
	w.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("%s: not within 20 s; heard: %v", what, w.heard)
		}
	}
}

// open makes a port on the trunk whose guest says nothing.
func (w *wired) open(name string, mac byte, v attach.VLANs) *attach.Record {
	w.Helper()
	w.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}))
	host, err := w.kernel.net.LinkInfo(bridge.Ref{Name: name})
	w.must(err)
	rec := port(host.Index, mac, v)
	rec.Key.ContainerID, rec.HostIfName, rec.BootID, rec.Version, rec.Bridge = name, name, w.boot, attach.RecordVersion, "br9"
	w.must(w.kernel.Join(rec.HostEnd(), "br9"))
	w.must(w.kernel.SetVLANs(rec.HostEnd(), v))
	w.must(w.kernel.SetUp(rec.HostEnd()))
	w.must(w.kernel.net.SetUp(bridge.Ref{Name: name + "p"}))
	w.forwarding(host.Ref())
	return w.openAs(rec)
}

// listen counts what has come out of the uplink from one of the VMs, as "type
// MAC's last byte vlan".
func (w *wired) listen() {
	w.Helper()
	for {
		buf, oob := make([]byte, 2048), make([]byte, 128)
		n, oobn, _, from, err := unix.Recvmsg(w.ear, buf, oob, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return
		case errors.Is(err, unix.ENETDOWN): // told once when port0 goes down
			continue
		}
		w.must(err)
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok || ll.Pkttype == unix.PACKET_OUTGOING || n < 14 || !bytes.Equal(buf[6:11], []byte{2, 0, 0, 0, 0}) {
			continue
		}
		msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
		w.must(err)
		var tag uint16
		for _, m := range msgs { // struct tpacket_auxdata
			if m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 20 && binary.NativeEndian.Uint32(m.Data)&unix.TP_STATUS_VLAN_VALID != 0 {
				tag = binary.NativeEndian.Uint16(m.Data[16:])
			}
		}
		w.heard[fmt.Sprintf("%x %d %d", buf[12:14], buf[11], tag)]++
	}
}

// hears waits until that and nothing else has come.
func (w *wired) hears(when string, want map[string]int) {
	w.Helper()
	w.announcer.wg.Wait()
	w.eventually(when, func() bool { w.listen(); return len(w.heard) >= len(want) && sum(w.heard) >= sum(want) })
	if d := cmp.Diff(want, w.heard); d != "" {
		w.Errorf("%s: %s", when, d)
	}
	clear(w.heard)
}

func sum(m map[string]int) (n int) {
	for v := range maps.Values(m) {
		n += v
	}
	return n
}

// at is where the bridge has a MAC, by VLAN.
func (w *wired) at(mac attach.MAC) map[vlan.ID]int {
	w.Helper()
	list, err := w.kernel.net.FDB(bridge.Ref{Name: "br9"})
	w.must(err)
	got := map[vlan.ID]int{}
	for _, e := range list {
		if bytes.Equal(e.MAC, mac) {
			got[e.VLAN] = e.Port
		}
	}
	return got
}

// TestAnnounce: the bridge knows the VM at its port, and five rounds go out of the
// uplink: a RARP in each VLAN of the port, the addresses in the untagged one.
func TestAnnounce(t *testing.T) {
	w := newWired(t)
	rec := w.open("vm1", 11, attach.VLANs{Mode: vlan.Native, PVID: 7, Tagged: set(t, "100,200")})
	tagged := w.open("vm2", 12, attach.VLANs{Mode: vlan.Trunk, Tagged: set(t, "100,200")})
	addresses := []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("fd00::7")}
	w.announce(t.Context(), rec, addresses)
	w.hears("native", map[string]int{"8035 11 0": 5, "8035 11 100": 5, "8035 11 200": 5, "0806 11 0": 5, "86dd 11 0": 5})
	if d := cmp.Diff(map[vlan.ID]int{7: rec.HostIfIndex, 100: rec.HostIfIndex, 200: rec.HostIfIndex}, w.at(rec.MAC)); d != "" {
		t.Errorf("the bridge (-want +got): %s", d)
	}
	w.announce(t.Context(), tagged, addresses)
	w.hears("trunk", map[string]int{"8035 12 100": 5, "8035 12 200": 5})
	if d := cmp.Diff(map[vlan.ID]int{100: tagged.HostIfIndex, 200: tagged.HostIfIndex}, w.at(tagged.MAC)); d != "" {
		t.Errorf("the bridge (-want +got): %s", d)
	}
	if n := w.announcer.counts(); n[causeHandOver] != 2 || n[causeFailover] != 0 {
		t.Errorf("counted %v", n)
	}

	// Without an uplink, the bridge is all that there is to tell; with one that is
	// gone, too.
	for _, uplink := range []string{"", "eth9"} {
		w.world.snap.Trunks["wired"] = desired.Trunk{Name: "wired", Bridge: "br9", Uplink: uplink}
		w.must(w.kernel.net.Forget(ref(rec.HostEnd()), []byte(rec.MAC)))
		w.announce(t.Context(), rec, addresses)
		w.announcer.wg.Wait()
		if got := w.at(rec.MAC); len(got) != 3 {
			t.Errorf("uplink %q: the bridge has %v", uplink, got)
		}
	}
	w.hears("without an uplink", map[string]int{})
}

// TestAnnounceOnlyActive: a port that is not Active is silent, from the frame on at
// which it is released.
func TestAnnounceOnlyActive(t *testing.T) {
	w := newWired(t)
	rec := w.open("vm1", 11, access(100))
	for _, s := range []attach.State{attach.Dark, attach.Released} {
		w.must(w.kernel.SetState(rec.HostIfIndex, s))
		w.announce(t.Context(), rec, nil)
		w.hears(s.String(), map[string]int{})
		if at := w.at(rec.MAC); len(at) != 0 {
			t.Errorf("%v: the bridge has it at %v", s, at)
		}
	}
	if n := w.announcer.counts(); n[causeHandOver] != 0 {
		t.Errorf("counted %v", n)
	}
	w.must(w.kernel.SetState(rec.HostIfIndex, attach.Active))
	_, up, err := w.kernel.wire("eth0")
	w.must(err)
	other := w.open("vm2", 12, access(200))
	var got []byte
	for f := range w.framesOf([]attach.Record{*rec, *other}, up, func(attach.Record) []netip.Addr { return nil }) {
		got = append(got, f[11])
		w.must(w.kernel.SetState(other.HostIfIndex, attach.Released))
	}
	if !slices.Equal(got, []byte{11}) {
		t.Errorf("announced %v", got)
	}
}

// TestAnnounceAfterFailure: a VM whose migration has failed is announced where it still
// is, once: its target may have been heard. So is one that comes back to a port.
func TestAnnounceAfterFailure(t *testing.T) {
	w := newWired(t)
	src := w.follows()
	rec := w.open("vm1", 11, access(100))
	say := func(m desired.Move) {
		src.moves[rec.Pod.Name] = m
		w.followMoves()
		w.followMoves()
	}
	say(desired.Move{State: desired.MoveNone, Migrating: true, Migration: "m1"})
	w.hears("under way", map[string]int{})
	for _, m := range []string{"m1", "m2"} {
		say(desired.Move{State: desired.MoveNone, Migrating: true, Failed: true, Migration: m})
		w.hears(m+" has failed", map[string]int{"8035 11 100": 5})
	}
	next := w.restart()
	next.cfg.Source, next.world = src, w.world
	next.must(next.adoptRecords())
	next.followMoves()
	next.announcer.wg.Wait()
	w.hears("after a restart of the agent", map[string]int{})
	w.live = next
	say(desired.Move{State: desired.MoveLeft, Migrating: true, Migration: "m3"})
	if at := w.at(rec.MAC); len(at) != 0 {
		t.Errorf("the bridge looks for a VM that has left at %v", at)
	}
	say(desired.Move{State: desired.MoveNone, Migrating: true, Failed: true, Migration: "m3"})
	w.hears("it is back", map[string]int{"8035 11 100": 5})
	if at := w.at(rec.MAC); at[100] != rec.HostIfIndex {
		t.Errorf("the bridge looks for a VM that is back at %v", at)
	}
}

// TestAnnounceAgain: an agent that starts announces a VM that has just come, whatever was
// heard before that; but not one that has been heard elsewhere since.
func TestAnnounceAgain(t *testing.T) {
	w := newWired(t)
	rec := w.open("vm1", 11, access(100))
	elsewhere := func() {
		w.must(w.kernel.net.LearnAt(bridge.Ref{Name: "eth0"}, []byte(rec.MAC), rec.VLANs.All()))
		time.Sleep(50 * time.Millisecond) // the bridge tells time in hundredths of a second
	}
	starts := func(when string, came time.Time, want map[string]int) {
		t.Helper()
		rec.Arrival = &attach.Arrival{At: came.UTC(), By: attach.ArrivedByAPI}
		w.must(w.store.Put(rec))
		world := w.world
		w.live = w.restart()
		w.world = world
		w.must(w.adoptRecords())
		w.announcer.wg.Wait()
		w.hears(when, want)
	}
	elsewhere() // where it came from
	starts("it has just come", time.Now(), map[string]int{"8035 11 100": 5})
	if at := w.at(rec.MAC); at[100] != rec.HostIfIndex {
		t.Errorf("the bridge looks for it at %v", at)
	}
	came := time.Now()
	time.Sleep(50 * time.Millisecond)
	elsewhere()
	starts("it has moved on", came, map[string]int{})
	if at := w.at(rec.MAC); at[100] != w.uplink {
		t.Errorf("the bridge looks for one that has moved on at %v", at)
	}
	starts("it came long ago", time.Now().Add(-2*announceAgain), map[string]int{})
}

// TestForgetLeft: what the bridge still knows of a VM that has left goes in a later round.
func TestForgetLeft(t *testing.T) {
	w := newWired(t)
	rec, stays := w.open("vm1", 11, access(100)), w.open("vm2", 12, access(100))
	w.rehold(*rec, hold(attach.Released, attach.HoldMoved, "it went"))
	for _, r := range []*attach.Record{rec, stays} {
		w.must(w.kernel.net.LearnAt(ref(r.HostEnd()), []byte(r.MAC), r.VLANs.All()))
	}
	w.forgetLeft()
	if at := w.at(rec.MAC); len(at) != 0 {
		t.Errorf("the bridge still has it at %v", at)
	}
	if at := w.at(stays.MAC); len(at) != 1 {
		t.Errorf("of one that stays the bridge has %v", at)
	}
}

// TestAnnounceEnds: with the port, with the agent, and with a newer one of the same
// port; never with one of another.
func TestAnnounceEnds(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root (CAP_NET_RAW)")
	}
	var n announcer
	type end struct {
		name string
		why  error
	}
	begun, ended := make(chan string, 8), make(chan end, 8)
	start := func(ctx context.Context, key, name string) {
		t.Helper()
		err := n.start(ctx, key, func(ctx context.Context, _ *announce.Sender) {
			begun <- name
			<-ctx.Done()
			ended <- end{name, context.Cause(ctx)}
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := <-begun; got != name {
			t.Fatalf("%s began, not %s", got, name)
		}
	}
	expect := func(name string, why error) {
		t.Helper()
		if got := <-ended; got.name != name || !errors.Is(got.why, why) {
			t.Errorf("%s ended by %v, want %s by %v", got.name, got.why, name, why)
		}
	}
	a, b := portJob(attach.Key{ContainerID: "a", IfName: "net1"}), portJob(attach.Key{ContainerID: "b", IfName: "net1"})
	ctx, cancel := context.WithCancel(t.Context())
	start(t.Context(), a, "a1")
	start(ctx, b, "b1")
	start(t.Context(), a, "a2")
	expect("a1", errReplaced)
	n.stop(a, errEnded)
	expect("a2", errEnded)
	n.stop(a, errEnded) // nothing is at work there
	cancel()
	expect("b1", context.Canceled)
	start(t.Context(), a, "a3")
	if err := n.close(); err != nil {
		t.Error(err)
	}
	expect("a3", context.Canceled)
	if len(n.jobs) != 0 {
		t.Errorf("left: %v", n.jobs)
	}
	if err := n.start(t.Context(), a, func(context.Context, *announce.Sender) { t.Error("it works after its end") }); err != nil {
		t.Error(err)
	}
	n.wg.Wait()
}

// TestAnnounceEndsWithPort: DEL ends the announcement.
func TestAnnounceEndsWithPort(t *testing.T) {
	l := newLive(t)
	rec := l.open("vm1", 11)
	ended := make(chan error, 1)
	l.must(l.announcer.start(t.Context(), portJob(rec.Key), func(ctx context.Context, _ *announce.Sender) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
	}))
	e, unlock := l.table.lock(rec.Key)
	defer unlock()
	l.must(l.end(e, rec))
	if err := <-ended; !errors.Is(err, errEnded) {
		t.Errorf("ended by %v", err)
	}
	l.must(l.announcer.close())
}
