package agent

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// TestPortConfigChanged: somebody writes another network, VLAN or MAC into a
// port's record in the kernel. It is counted, told while it lasts, and repaired.
func TestPortConfigChanged(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	c := newClock()
	l.drift.now = c.now
	if found := l.round(); len(found) != 0 {
		t.Fatalf("a sound port: %+v", found)
	}
	changes := []func(*attach.PortConfig){
		func(c *attach.PortConfig) { c.Policy = "small" },
		func(c *attach.PortConfig) { c.VLANs = access(200) },
		func(c *attach.PortConfig) { c.MAC[5] ^= 0xff },
		func(c *attach.PortConfig) { c.Security.BPDUs = true },
		func(c *attach.PortConfig) { c.Security.BroadcastLimit = 5 },
		func(c *attach.PortConfig) { c.Security.IPGuard = attach.GuardStrict },
		func(c *attach.PortConfig) { c.Trunk = "" },
	}
	for i, change := range changes {
		c.pass(2 * calm)
		config := rec.Config()
		config.MAC = append(config.MAC[:0:0], config.MAC...)
		change(&config)
		l.must(l.kernel.dp.UpdatePort(rec.HostIfIndex, config))
		found := l.lookAtHooks()
		if len(found) != 1 || found[0].kind != "PortConfigChanged" || found[0].subject != "veth1" || strings.Contains(found[0].message, "the port is open") {
			t.Fatalf("change %d: found %+v", i, found)
		}
		l.noteProblems(found, l.drift.settle(found))
		if err := l.kernel.VerifyPort(rec); err != nil {
			t.Errorf("change %d is not repaired: %v", i, err)
		}
		if d := l.drift.list(); len(d) != 1 || d[0].Seen != i+1 || d[0].Repaired != i+1 {
			t.Errorf("change %d: counted as %+v", i, d)
		}
		l.round()
	}
	// Once more at once: its turn has not come, and status says so.
	config := rec.Config()
	config.Policy = "small"
	l.must(l.kernel.dp.UpdatePort(rec.HostIfIndex, config))
	l.round()
	if s := l.nodeStatus(); s.Ready || !strings.Contains(strings.Join(s.Reasons, "\n"), "veth1: PortConfigChanged: the port's network, VLANs, MAC, trunk or security") {
		t.Errorf("while it lasts, ready is %v: %q", s.Ready, s.Reasons)
	}
	if p := l.table.list()[0].problems; len(p) != 1 || !strings.HasPrefix(p[0], "PortConfigChanged: ") {
		t.Errorf("while it lasts, the port has %q", p)
	}
}

// TestKilledInRepair: an agent gives a port whose program was lost a new one, and
// is killed before it opens it. The next one finds a living port, not an
// unfinished one, and opens it.
func TestKilledInRepair(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	l.must(l.kernel.DetachPort(rec.HostIfIndex))
	l.must(l.kernel.AttachPort(rec.HostEnd(), rec.Config())) // killed here

	l = l.restart()
	l.must(l.adoptRecords())
	if list := l.table.list(); len(list) != 1 || !list[0].open {
		t.Fatalf("ports known after the restart: %+v", list)
	}
	if found := l.round(); len(found) != 1 || found[0].kind != "PortNotActive" {
		t.Fatalf("found %+v", found)
	}
	if s, _ := l.kernel.State(rec.HostIfIndex); s != attach.Active || !l.exists("veth1") {
		t.Errorf("after the repair the port is %v", s)
	}
	if found := l.round(); len(found) != 0 {
		t.Errorf("and still %+v", found)
	}
}

// TestLostProgramAdopted: a port whose program and record in the kernel are lost
// altogether lives on over a restart and gets them back.
func TestLostProgramAdopted(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	l.must(l.kernel.DetachPort(rec.HostIfIndex))
	l = l.restart()
	l.must(l.adoptRecords())
	if found := l.round(); len(found) != 1 || found[0].kind != "PortRecordLost" {
		t.Fatalf("found %+v", found)
	}
	if err := l.kernel.VerifyPort(rec); err != nil {
		t.Error(err)
	}
}

// TestUnfinishedAttach: an ADD that was killed on its way left the host end down,
// with a dark program or none. It is ended, and nothing of it stays.
func TestUnfinishedAttach(t *testing.T) {
	for name, attached := range map[string]bool{"with its dark program": true, "before its program": false} {
		t.Run(name, func(t *testing.T) {
			l := newLive(t)
			rec := l.veth("veth1", 1)
			l.must(l.kernel.TakeOut(rec.HostEnd()))
			l.must(l.store.Put(rec))
			if attached {
				l.must(l.kernel.AttachPort(rec.HostEnd(), rec.Config()))
			}
			l = l.restart()
			l.must(l.adoptRecords())
			if l.exists("veth1") || len(l.table.list()) != 0 || len(l.records()) != 0 {
				t.Errorf("it stays: interface %v, ports %+v, records %+v", l.exists("veth1"), l.table.list(), l.records())
			}
			if _, known := l.kernel.State(rec.HostIfIndex); known {
				t.Error("its program's record stays")
			}
		})
	}
}

// TestDownIsNotUnfinished: a living port that somebody took down is no leftover
// of an ADD.
func TestDownIsNotUnfinished(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	host, err := netlink.LinkByName("veth1")
	l.must(err)
	l.must(netlink.LinkSetDown(host))
	l = l.restart()
	l.must(l.adoptRecords())
	if len(l.table.list()) != 1 || !l.exists(rec.HostIfName) {
		t.Errorf("ports known after the restart: %+v", l.table.list())
	}
}

// TestRepairKeepsOpen: whatever is repaired at a port that lives, it is never
// closed meanwhile, and stays the same port: slot, connections, counters.
func TestRepairKeepsOpen(t *testing.T) {
	l := newLive(t)
	rec := l.open("veth1", 1)
	before, err := l.kernel.dp.Port(rec.HostIfIndex)
	l.must(err)
	stop, closed := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				closed <- n
				return
			default:
				if s, _ := l.kernel.State(rec.HostIfIndex); s != attach.Active {
					n++
				}
			}
		}
	}()
	wrong := rec.Config()
	wrong.Policy = "small"
	for i := range 500 {
		if i%2 == 0 {
			l.must(l.kernel.dp.UpdatePort(rec.HostIfIndex, wrong))
		}
		l.must(l.kernel.RepairPort(rec))
	}
	close(stop)
	if n := <-closed; n != 0 {
		t.Errorf("the port was seen closed %d times", n)
	}
	after, err := l.kernel.dp.Port(rec.HostIfIndex)
	l.must(err)
	if after.Slot != before.Slot || after.Serial != before.Serial {
		t.Errorf("it became another port: %+v, then %+v", before, after)
	}
	l.must(l.kernel.VerifyPort(rec))
}

// TestBrokenTrunk: a trunk that cannot be set up still has its living ports
// watched, and what opens them up; repairing that does not make it whole.
func TestBrokenTrunk(t *testing.T) {
	l := newLive(t)
	trunk := l.world.snap.Trunks["open"] // adopted, and br0 does not keep VLANs apart
	trunk.Uplink = "eth9"                // which does not exist
	if found := l.lookAtTrunk(trunk); found != nil {
		t.Errorf("without ports: %+v", found)
	}
	l.open("veth1", 1)
	for _, name := range []string{"veth1", "br0"} {
		i, err := netlink.LinkByName(name)
		l.must(err)
		l.must(netlink.LinkSetDown(i))
	}
	why := l.problemOf("open")
	for try := range 2 { // the second within the wait between two
		kinds := map[string]bool{}
		for _, f := range l.lookAtTrunk(trunk) {
			kinds[f.kind+" "+f.subject] = true
			if f.subject == "br0" {
				_ = f.repair() // as far as this kernel can
			}
		}
		if !kinds["PortDown veth1"] || try == 0 && !kinds["VLANFilteringOff br0"] || kinds["BridgeDown br0"] || kinds["UplinkMissing eth9"] {
			t.Errorf("found %v", kinds)
		}
		if got := l.problemOf("open"); got != why || why == "" {
			t.Errorf("what is wrong with the trunk was %q, and is %q", why, got)
		}
	}
}
