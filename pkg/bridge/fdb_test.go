package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// whereIs says, for each VLAN, at which port the bridge has the MAC.
func (h *node) whereIs(mac net.HardwareAddr) map[vlan.ID]FDBEntry {
	h.tb.Helper()
	entries, err := h.FDB(Ref{Name: h.spec.Bridge})
	must(h.tb, err)
	at := map[vlan.ID]FDBEntry{}
	for _, e := range entries {
		if bytes.Equal(e.MAC, mac) {
			at[e.VLAN] = e
		}
	}
	return at
}

// at checks at which port each VLAN has the MAC, learned; 0 is nowhere.
func (h *node) at(when string, mac net.HardwareAddr, want map[vlan.ID]int) {
	h.tb.Helper()
	got := h.whereIs(mac)
	for id, port := range want {
		if e := got[id]; e.Port != port || e.Local {
			h.tb.Errorf("%s: VLAN %d has %s at %d (local %v), want %d", when, id, mac, e.Port, e.Local, port)
		}
	}
}

// byHand enters a MAC at a port as an administrator does.
func (h *node) byHand(port int, mac net.HardwareAddr, id vlan.ID, state uint16) {
	h.tb.Helper()
	parts := fdbRequest(port, mac, id)
	head := parts[0].(rawMsg)
	head[8], head[9] = byte(state), byte(state>>8)
	must(h.tb, h.do(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_EXCL, parts...))
}

// TestLearnAt: a MAC that was heard at the uplink is at a port from one moment to
// the next, in all its VLANs, although its station says nothing: what is for it
// goes there and nowhere else.
func TestLearnAt(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	up := h.ensure().Uplink
	h.forwarding(Ref{Name: "eth0"})
	sw := plug(t, h.sw, "port0")
	a, b, quiet := h.attach(VLANs{PVID: 100}), h.attach(VLANs{PVID: 100}), h.attach(VLANs{PVID: 100, Tagged: set(t, "200")})
	port := h.ports[2].Ref
	for _, vid := range []int{100, 200, 300} {
		sw.sendFrom(quiet.mac, vid, fmt.Sprint("from the wire in ", vid))
	}
	quiet.sees("from the wire in 200", 200)
	eventually(t, "the uplink has it", func() string {
		if got := h.whereIs(quiet.mac); got[300].Port != up.Index {
			return fmt.Sprint(got)
		}
		return ""
	})
	h.at("before", quiet.mac, map[vlan.ID]int{100: up.Index, 200: up.Index, 300: up.Index})
	a.sendTo(quiet.mac, 0, "lost")
	sw.sees("lost", 100)
	quiet.sawNot("lost")

	must(t, h.LearnAt(port, quiet.mac, set(t, "100,200")))
	must(t, h.LearnAt(port, quiet.mac, set(t, "100,200"))) // once more changes nothing
	h.at("after", quiet.mac, map[vlan.ID]int{100: port.Index, 200: port.Index, 300: up.Index})
	a.sendTo(quiet.mac, 0, "found")
	quiet.sees("found", 0)
	sw.sendTo(quiet.mac, 200, "found from the wire")
	quiet.sees("found from the wire", 200)
	a.send(0, "fence")
	b.sees("fence", 0)
	sw.sees("fence", 100)
	b.sawNot("found")
	sw.sawNot("found")

	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	heard := func(vlans string) bool {
		is, err := h.HeardElsewhere(port, quiet.mac, set(t, vlans), time.Since(began))
		must(t, err)
		return is
	}
	if heard("100,200") {
		t.Error("heard elsewhere since then, it says")
	}
	time.Sleep(50 * time.Millisecond) // the bridge tells time in hundredths of a second
	// It is like any learned one: it follows the station, and it ages.
	sw.sendFrom(quiet.mac, 200, "moved on")
	quiet.sees("moved on", 200)
	h.at("moved", quiet.mac, map[vlan.ID]int{100: port.Index, 200: up.Index})
	if !heard("100,200") || heard("100") || heard("300") {
		t.Errorf("heard elsewhere since then: %v %v %v, want true false false", heard("100,200"), heard("100"), heard("300"))
	}
	h.ageAfter(100)
	eventually(t, "it has aged", func() string {
		if got := h.whereIs(quiet.mac); len(got[100].MAC) != 0 {
			return fmt.Sprint(got)
		}
		return ""
	})
}

// ageAfter sets how long the bridge keeps what it does not hear again, in
// hundredths of a second.
func (h *node) ageAfter(t uint32) {
	h.tb.Helper()
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(unix.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	info.AddRtAttr(unix.IFLA_INFO_DATA, nil).AddRtAttr(nl.IFLA_BR_AGEING_TIME, nl.Uint32Attr(t))
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index(h.tb, h.space, h.spec.Bridge))
	must(h.tb, h.do(unix.RTM_NEWLINK, 0, msg, info))
}

// TestLearnAtRefuses: addresses of the bridge's own, and what an administrator has
// entered, stay as they are.
func TestLearnAtRefuses(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	up := h.ensure().Uplink
	h.forwarding(Ref{Name: "eth0"})
	h.attach(VLANs{Tagged: set(t, "100,200")})
	port := h.ports[0].Ref
	nic := net.HardwareAddr{2, 0xc0, 0xff, 0xee, 0, 1}
	if e := h.whereIs(nic)[100]; !e.Local || e.Port != up.Index {
		t.Fatalf("the uplink's own address is %+v", h.whereIs(nic))
	}
	own := func() string {
		is := h.whereIs(nic)
		for vid, e := range is {
			e.Since = 0 // it only grows
			is[vid] = e
		}
		return fmt.Sprint(is)
	}
	before := own()
	if err := h.LearnAt(port, nic, set(t, "100,200")); !errors.Is(err, ErrRefused) {
		t.Errorf("the uplink's own address: %v", err)
	}
	if after := own(); after != before {
		t.Errorf("the uplink's own address was %s, is %s", before, after)
	}

	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	h.byHand(up.Index, mac, 100, unix.NUD_NOARP)
	if err := h.LearnAt(port, mac, set(t, "100,200")); !errors.Is(err, ErrRefused) {
		t.Errorf("entered by hand in VLAN 100: %v", err)
	}
	got := h.whereIs(mac)
	if e := got[100]; !e.Local || e.Port != up.Index {
		t.Errorf("what was entered by hand is %+v", e)
	}
	if e := got[200]; e.Local || e.Port != port.Index {
		t.Errorf("in the other VLAN it is %+v", e)
	}

	for what, mac := range map[string]net.HardwareAddr{"a group": {1, 0, 0x5e, 0, 0, 1}, "no MAC": nil} {
		if err := h.LearnAt(port, mac, set(t, "100")); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := h.LearnAt(port, mac, set(t, "300")); err == nil {
		t.Error("learned in a VLAN that the port is not in")
	}
	if err := h.LearnAt(Ref{Name: "lo"}, mac, set(t, "100")); !errors.Is(err, ErrRefused) {
		t.Errorf("at what is no port: %v", err)
	}
	if err := h.LearnAt(Ref{Name: "gone"}, mac, set(t, "100")); !errors.Is(err, ErrNotFound) {
		t.Errorf("at what is gone: %v", err)
	}
}

// TestForget: entries of the MAC at that port go, in all VLANs; all others stay.
func TestForget(t *testing.T) {
	needFiltering(t)
	h := newNode(t, spec0(t))
	up := h.ensure().Uplink
	h.forwarding(Ref{Name: "eth0"})
	h.attach(VLANs{Tagged: set(t, "100,200,300")})
	h.attach(VLANs{Tagged: set(t, "100,200,300")})
	one, two := h.ports[0].Ref, h.ports[1].Ref
	mac, other := net.HardwareAddr{2, 0, 0, 0, 0, 7}, net.HardwareAddr{2, 0, 0, 0, 0, 8}
	must(t, h.LearnAt(one, mac, set(t, "100,200")))
	must(t, h.LearnAt(two, mac, set(t, "300")))
	must(t, h.LearnAt(one, other, set(t, "100")))
	static := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	h.byHand(one.Index, static, 200, unix.NUD_NOARP)
	h.byHand(one.Index, static, 300, unix.NUD_PERMANENT)

	must(t, h.Forget(one, mac))
	h.at("forgotten", mac, map[vlan.ID]int{100: 0, 200: 0, 300: two.Index})
	h.at("another MAC", other, map[vlan.ID]int{100: one.Index})
	must(t, h.Forget(one, mac)) // nothing to do
	must(t, h.Forget(up, mac))
	h.at("at another port", mac, map[vlan.ID]int{300: two.Index})
	must(t, h.Forget(one, static))
	if got := h.whereIs(static); !got[200].Local || !got[300].Local {
		t.Errorf("what was entered by hand: %v", got)
	}
	own, err := h.LinkInfo(one)
	must(t, err)
	must(t, h.Forget(one, own.MAC))
	if got := h.whereIs(own.MAC); !got[100].Local {
		t.Errorf("the port's own address: %v", got)
	}
	must(t, h.Forget(Ref{Name: "gone"}, mac))
	must(t, h.Leave(two))
	must(t, h.Forget(two, mac))
	h.at("its port has left", mac, map[vlan.ID]int{300: 0})
}

// TestLearnAtAllVLANs: a port of all VLANs.
func TestLearnAtAllVLANs(t *testing.T) {
	needFiltering(t)
	h := newNode(t, TrunkSpec{Bridge: "br0", Managed: true, Uplink: "eth0", Allowed: set(t, "1-4094")})
	h.ensure()
	h.attach(VLANs{Tagged: set(t, "1-4094")})
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 7}
	must(t, h.LearnAt(h.ports[0].Ref, mac, set(t, "1-4094")))
	if got := len(h.whereIs(mac)); got != 4094 {
		t.Errorf("learned in %d VLANs", got)
	}
	must(t, h.Forget(h.ports[0].Ref, mac))
	if got := h.whereIs(mac); len(got) != 0 {
		t.Errorf("%d entries are left", len(got))
	}
}
