package agent

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// TestActiveIsFollowed: a revision is active when ports keep to it and trunks are set up, and not when its rules are compiled.
func TestActiveIsFollowed(t *testing.T) {
	l := newLive(t)
	s, _ := snapshot(t)
	s.Revision = 7
	l.take(s)
	l.syncPolicy()
	if got := l.nodeStatus(); got.Desired != 7 || got.Active == 7 {
		t.Errorf("before ports have followed %d is desired, %d active", got.Desired, got.Active)
	}
	l.world.health = nil
	var told []uint64
	l.log = slog.New(onMessage{"trunk is not ready", func() { told = append(told, l.nodeStatus().Active) }})
	l.reconcile()
	if len(told) == 0 || slices.Contains(told, 7) {
		t.Errorf("while trunks were set up, active was %v", told)
	}
	if got := l.nodeStatus(); got.Active != 7 {
		t.Errorf("once they were, %d is", got.Active)
	}
}

// onMessage is a log's handler that does something when a message is logged.
type onMessage struct {
	message string
	do      func()
}

func (onMessage) Enabled(context.Context, slog.Level) bool { return true }
func (h onMessage) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.do()
	}
	return nil
}
func (h onMessage) WithAttrs([]slog.Attr) slog.Handler { return h }
func (h onMessage) WithGroup(string) slog.Handler      { return h }

// TestSecurityFollows: what a network keeps its guests to is in force at the ports that it has, by label, too, over restarts,
// and while somebody may send from any MAC the bridge's ports take no fast path.
func TestSecurityFollows(t *testing.T) {
	l := newLive(t)
	yes := true
	snap := func(state string) *desired.Snapshot {
		s, _ := snapshot(t)
		web := s.Networks["web"]
		web.Security = attach.Security{DHCPServerGuard: true}
		routers := selectVMs(t, "role=router")[0]
		web.Exceptions = []desired.Exception{{VMs: &routers, BPDUs: &yes, ForgedTransmits: &yes}}
		s.Networks["web"] = web
		s.Pods = map[string]desired.Pod{"x/vm": {UID: "u", Owner: desired.OwnerVM, VM: map[string]string{"role": state}}}
		if state == "" {
			s.Pods = nil
		}
		return s
	}
	l.follow(snap(""))
	rec := l.veth("veth1", 1)
	rec.Pod = attach.Pod{Namespace: "x", Name: "vm", UID: "u"}
	resolved, err := l.resolve(&attach.Request{Key: rec.Key, Network: "web", MAC: rec.MAC, Pod: rec.Pod})
	l.must(err)
	rec.Security, rec.Rules = resolved.security, resolved.rules
	l.openAs(rec)
	bpdu := func(want string) {
		t.Helper()
		if got := l.judges(rec, &layers.Ethernet{SrcMAC: net.HardwareAddr(rec.MAC), DstMAC: net.HardwareAddr{1, 0, 0xc, 0xcc, 0xcc, 0xcc}, EthernetType: 0x88b5},
			gopacket.Payload(make([]byte, 46))); got != want {
			t.Errorf("judged as %s, want %s", got, want)
		}
	}
	views := func(forged bool) {
		t.Helper()
		var v fastView
		v.trunk = l.world.snap.Trunks["open"]
		why := l.viewFastPath(&v, l.portsOf("br0"), fastLook{})
		if (why == "veth1 of the bridge may send from any MAC: forgedTransmits") != forged && l.kernel.dp.FastPath() {
			t.Errorf("the fast path: %q", why)
		}
	}
	bpdu("BPDUGuard")
	l.follow(snap("client"))
	bpdu("BPDUGuard")
	views(false)
	l.follow(snap("router"))
	bpdu("DefaultAllow")
	views(true)
	stored, err := l.store.Get(rec.Key)
	if err != nil || stored.Security != (attach.Security{DHCPServerGuard: true, ForgedTransmits: true, BPDUs: true}) {
		t.Errorf("stored %+v, %v", stored, err)
	}
	l = l.restart()
	l.must(l.adoptRecords())
	bpdu("DefaultAllow")
	l.follow(snap("client"))
	bpdu("BPDUGuard")
	views(false)
	// What an agent has written down and not done, since it was killed, or an older version has undone, is done.
	l.must(l.kernel.dp.UpdatePort(rec.HostIfIndex, attach.PortConfig{Policy: "web", VLANs: rec.VLANs, MAC: net.HardwareAddr(rec.MAC), Security: attach.Security{BPDUs: true}}))
	if found := l.round(); len(found) != 1 || found[0].kind != "PortConfigChanged" {
		t.Errorf("found %+v", found)
	}
	bpdu("BPDUGuard")
	list, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewPorts})
	l.must(err)
	if items := list.(wire.PortList).Items; len(items) != 1 || items[0].Security.String() != "bpduGuard, dhcpServerGuard" {
		t.Errorf("shown as %+v", items)
	}
}

// TestHoldForging: before a port may send from any MAC, and until it is known, all goes by the bridge.
func TestHoldForging(t *testing.T) {
	l := newLive(t)
	l.open("veth1", 1)
	why := func() string {
		v := fastView{trunk: l.world.snap.Trunks["open"]}
		return l.viewFastPath(&v, l.portsOf("br0"), fastLook{})
	}
	if !l.kernel.dp.FastPath() {
		t.Skip("the kernel has no fast path")
	}
	done := l.holdForging("br0")
	if got := why(); got != "a new port of the bridge may send from any MAC: forgedTransmits" {
		t.Errorf("%q", got)
	}
	done()
	if got := why(); strings.Contains(got, "forgedTransmits") {
		t.Errorf("%q", got)
	}
}
