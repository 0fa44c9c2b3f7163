package agent

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// TestUplinkRecord: what was there when a trunk first wanted it is never ours,
// whatever happens to it later; what was not, is.
func TestUplinkRecord(t *testing.T) {
	tagged := func(text string) bridge.PortVLANs { return bridge.PortVLANs{Members: set(t, text)} }
	var r uplinkRecord
	expect := func(when, added, found string) {
		t.Helper()
		if r.Added != set(t, added) || r.Found != set(t, found) {
			t.Errorf("%s: added %s, found %s; want %s, %s", when, r.Added, r.Found, added, found)
		}
	}
	r = r.wanting(tagged("100,200"), tagged("1,100,500"))
	expect("at first", "200", "100")
	r = r.settled(tagged("100,200")).wanting(tagged("100,200"), tagged("1,100,200,500"))
	expect("looked at again", "200", "100")
	r = r.wanting(tagged("100,200"), tagged("1,500")) // somebody took both; both are put back
	expect("both taken by others", "200", "100")
	r = r.wanting(tagged("100,200,300,500"), tagged("1,100,200,500"))
	expect("the trunk grows", "200,300", "100,500")
	r = r.settled(tagged("300,500"))
	expect("the trunk shrinks", "300", "500")
	r = r.wanting(tagged("200,300,500"), tagged("1,200,300,500")) // it is there now, and not by us
	expect("it grows again", "300", "200,500")
	if v := r.added(); v != tagged("300") {
		t.Errorf("ours is %s", v)
	}
	native := bridge.PortVLANs{PVID: 7, Members: set(t, "7,300"), Untagged: set(t, "7")}
	r = uplinkRecord{}.wanting(native, tagged("1")).settled(native)
	if v := r.added(); v != native {
		t.Errorf("with a native VLAN, ours is %s, want %s", v, native)
	}
}

// TestUplinkRecordsReadBack: a restart knows what the agent before it added; a
// damaged file is set aside, and then nothing is.
func TestUplinkRecordsReadBack(t *testing.T) {
	a := idleAgent(t)
	key := place{"br-site", "eth1"}
	want := uplinkRecord{Bridge: "br-site", Uplink: "eth1", BootID: "b", Index: 3, Added: set(t, "100-110"), Native: 7, Found: set(t, "200")}
	a.keepUplink(key, want)
	b := &Agent{cfg: a.cfg, log: a.log}
	b.loadState()
	if d := cmp.Diff(map[place]uplinkRecord{key: want}, b.uplinks, cmp.AllowUnexported(place{}, vlan.Set{})); d != "" {
		t.Error(d)
	}
	if err := os.Truncate(a.statePath(uplinksFile), 20); err != nil {
		t.Fatal(err)
	}
	c := &Agent{cfg: a.cfg, log: a.log}
	c.loadState()
	if len(c.uplinks) != 0 || len(c.notes.texts()) != 1 {
		t.Errorf("from a damaged file: %+v, told %q", c.uplinks, c.notes.texts())
	}
	b.keepUplink(key, uplinkRecord{})
	d := &Agent{cfg: a.cfg, log: a.log}
	d.loadState()
	if len(b.uplinks)+len(d.uplinks) != 0 {
		t.Errorf("forgotten, and still there: %+v, %+v", b.uplinks, d.uplinks)
	}
}
