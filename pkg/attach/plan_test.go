package attach

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// node is a fake that writes down what is done to it and fails where told.
type node struct {
	calls  []string
	failAt string
	after  func(call string)
}

func (n *node) do(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	n.calls = append(n.calls, call)
	if n.after != nil {
		n.after(call)
	}
	if call == n.failAt {
		n.failAt = "" // the undo of a failed step must be able to succeed
		return errors.New("refused")
	}
	return nil
}

func (n *node) TakeOut(i Interface) error           { return n.do("takeout %s", i.Name) }
func (n *node) SetMTU(i Interface, m int) error     { return n.do("mtu %s %d", i.Name, m) }
func (n *node) Join(i Interface, b string) error    { return n.do("join %s %s", i.Name, b) }
func (n *node) SetVLANs(i Interface, v VLANs) error { return n.do("vlans %s %s", i.Name, v.All()) }
func (n *node) SetUp(i Interface) error             { return n.do("up %s", i.Name) }
func (n *node) AttachPort(i Interface, c PortConfig) error {
	return n.do("program %s %s dark", i.Name, c.MAC)
}
func (n *node) SetState(i int, s State) error { return n.do("state %d %s", i, s) }
func (n *node) DetachPort(i int) error        { return n.do("forget %d", i) }
func (n *node) Put(r *Record) error           { return n.do("record %s", r.IfName) }

// Delete is the bridge's; the records' is a type of its own.
func (n *node) Delete(i Interface) error { return n.do("delete %s", i.Name) }

type records struct{ *node }

func (r records) Delete(k Key) error { return r.do("unrecord %s", k.IfName) }

func newNode() (*node, Node) {
	n := &node{}
	return n, Node{Bridge: n, Datapath: n, Records: records{n}}
}

func record() *Record {
	return &Record{Request: Request{Key: Key{"c1", "net1"}, MAC: MAC{0, 0x50, 0x56, 1, 2, 3}, HostIfIndex: 7, HostIfName: "veth1"},
		Bridge: "br0", VLANs: VLANs{Mode: vlan.Access, PVID: 100}, EffectiveMTU: 1500}
}

// TestAttachOrder pins the order that fails closed (DESIGN §5 rule 1): nothing
// passes before the last step.
func TestAttachOrder(t *testing.T) {
	n, nd := newNode()
	if err := nd.AttachPlan(record()).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []string{"takeout veth1", "record net1", "program veth1 00:50:56:01:02:03 dark", "mtu veth1 1500",
		"join veth1 br0", "vlans veth1 100", "up veth1", "state 7 Active"}
	if d := cmp.Diff(want, n.calls); d != "" {
		t.Error(d)
	}
}

// TestAttachUndo fails each step in turn: the steps before it are undone
// backwards, and no record, program or bridge membership is left.
func TestAttachUndo(t *testing.T) {
	n, nd := newNode()
	if err := nd.AttachPlan(record()).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, step := range slices.Clone(n.calls) {
		n, nd := newNode()
		n.failAt = step
		err := nd.AttachPlan(record()).Run(t.Context())
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s fails: got error %v", step, err)
		}
		checkGone(t, step, n.calls)
	}
}

// TestAttachGone ends the asker's context after each step.
func TestAttachGone(t *testing.T) {
	for i := range 8 {
		n, nd := newNode()
		ctx, cancel := context.WithCancel(t.Context())
		n.after = func(string) {
			if len(n.calls) == i+1 {
				cancel()
			}
		}
		if err := nd.AttachPlan(record()).Run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("asker gone after step %d: got %v", i, err)
		}
		checkGone(t, fmt.Sprint("asker gone after step ", i), n.calls)
	}
}

// checkGone replays the calls: whatever was made must have been unmade, and the
// port must have been dark whenever its program or bridge went.
func checkGone(t *testing.T, what string, calls []string) {
	t.Helper()
	have := map[string]bool{}
	for _, c := range calls {
		switch strings.Fields(c)[0] {
		case "record":
			have["record"] = true
		case "unrecord":
			delete(have, "record")
		case "program":
			have["program"] = true
		case "forget":
			if have["joined"] || have["open"] {
				t.Errorf("%s: the program went before the port was closed: %v", what, calls)
			}
			delete(have, "program")
		case "join":
			have["joined"] = true
		case "takeout":
			delete(have, "joined")
		case "state":
			have["open"] = strings.HasSuffix(c, "Active")
			if !have["open"] {
				delete(have, "open")
			}
		}
	}
	for thing := range have {
		t.Errorf("%s: left behind %s: %v", what, thing, calls)
	}
}

func TestDetachOrder(t *testing.T) {
	n, nd := newNode()
	if err := nd.DetachPlan(record()).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"delete veth1", "forget 7", "unrecord net1"}, n.calls); d != "" {
		t.Error(d)
	}
	for _, step := range []string{"delete veth1", "forget 7"} {
		n, nd := newNode()
		n.failAt = step
		if err := nd.DetachPlan(record()).Run(t.Context()); err == nil || slices.Contains(n.calls, "unrecord net1") {
			t.Errorf("%s fails: error %v, calls %v; the record must stay for a retry", step, err, n.calls)
		}
	}
}

func TestVLANsValidate(t *testing.T) {
	tagged, err := vlan.ParseSet("100-110")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		vlans VLANs
		field string
	}{
		{"access without VLAN", VLANs{Mode: vlan.Access}, "vlan"},
		{"access with tags", VLANs{Mode: vlan.Access, PVID: 100, Tagged: tagged}, "vlanTrunk"},
		{"PVID 4095", VLANs{Mode: vlan.Access, PVID: 4095}, "vlan"},
		{"trunk with PVID", VLANs{Mode: vlan.Trunk, PVID: 1, Tagged: tagged}, "nativeVlan"},
		{"empty trunk", VLANs{Mode: vlan.Trunk}, "vlanTrunk"},
		{"native without PVID", VLANs{Mode: vlan.Native, Tagged: tagged}, "nativeVlan"},
		{"no such mode", VLANs{Mode: 9, PVID: 100}, "mode"},
		{"access", VLANs{Mode: vlan.Access, PVID: 100}, ""},
		{"trunk", VLANs{Mode: vlan.Trunk, Tagged: tagged}, ""},
		{"native", VLANs{Mode: vlan.Native, PVID: 5, Tagged: tagged}, ""},
		{"native alone", VLANs{Mode: vlan.Native, PVID: 5}, ""},
	} {
		err := tc.vlans.Validate()
		if got := ""; err != nil {
			got = err.Field
			if got != tc.field || err.Remedy == "" {
				t.Errorf("%s: got %v", tc.name, err)
			}
		} else if tc.field != "" {
			t.Errorf("%s: accepted", tc.name)
		}
	}
}
