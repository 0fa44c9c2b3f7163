package main

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/store"
)

// record puts down that the port of key has the given host end.
func (b *bench) record(tb testing.TB, key attach.Key, hostName string, change func(*attach.Record)) {
	tb.Helper()
	boot, err := attach.BootID()
	if err != nil {
		tb.Fatal(err)
	}
	rec := &attach.Record{Request: attach.Request{Key: key, CNINetwork: "legacy", HostIfName: hostName,
		HostIfIndex: b.kernel.links[hostName].Index}, Bridge: "br0", BootID: boot}
	if change != nil {
		change(rec)
	}
	if err := store.At(b.paths.Attachments()).Put(rec); err != nil {
		tb.Fatal(err)
	}
}

func (b *bench) records(tb testing.TB) []attach.Key {
	tb.Helper()
	all, _, err := store.At(b.paths.Attachments()).List()
	if err != nil {
		tb.Fatal(err)
	}
	var keys []attach.Key
	for _, r := range all {
		keys = append(keys, r.Key)
	}
	return keys
}

// confs are what DEL may be given: it works with any.
func confs() []string {
	return []string{
		"", "{", "[]", "null", "{}", `{"name":"legacy"}`,
		`{"cniVersion":"0.1.0","name":"legacy","type":"homeport"}`,
		`{"cniVersion":"9.9.9","name":"legacy","type":"homeport"}`,
		`{"cniVersion":7,"name":[],"vlan":"x","mac":7,"unknown":1,"prevResult":7}`,
		config("1.0.0", `"network":"n"`),
		config("0.3.1", `"network":"n","prevResult":{"interfaces":[]}`),
	}
}

// rename gives an interface another name, and puts it into a bridge.
func (b *bench) rename(from, to, br string) {
	l := b.kernel.links[from]
	delete(b.kernel.links, from)
	l.Name, l.Master = to, b.kernel.links[br].Index
	b.kernel.links[to] = l
}

// delCase is a node before a DEL whose agent is dead.
type delCase struct {
	name   string
	make   func(testing.TB, *bench)
	veths  []string // left
	stderr string
}

func delCases() []delCase {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	other := attach.Key{ContainerID: "c2", IfName: "net1"}
	return []delCase{
		{"nothing there", func(testing.TB, *bench) {}, nil, ""},
		{"record and pair", func(tb testing.TB, b *bench) {
			b.kernel.pair(hostVeth(), "net1", nil)
			b.record(tb, key, hostVeth(), nil)
		}, nil, ""},
		{"adopted pair", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", nil)
		}, nil, ""},
		{"adopted pair is gone and its index is another's", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", nil)
			l := b.kernel.links["vethabc"]
			delete(b.kernel.links, "vethabc")
			l.Name = "vethnew"
			b.kernel.links["vethnew"] = l
		}, []string{"vethnew"}, ""},
		{"adopted pair of another boot", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", func(r *attach.Record) { r.BootID = "before" })
		}, []string{"vethabc"}, ""},
		{"pair without record", func(_ testing.TB, b *bench) { b.kernel.pair(hostVeth(), "net1", nil) }, nil, ""},
		{"corrupt record", func(tb testing.TB, b *bench) {
			b.kernel.pair(hostVeth(), "net1", nil)
			b.record(tb, key, hostVeth(), nil)
			if err := os.WriteFile(store.At(b.paths.Attachments()).Path(key), []byte("{"), 0o600); err != nil {
				tb.Fatal(err)
			}
		}, nil, "set aside as"},
		{"another's port", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethother", "x", nil)
			b.record(tb, other, "vethother", nil)
		}, []string{"vethother"}, ""},
		{"name is held by what is no pair", func(tb testing.TB, b *bench) {
			b.kernel.add(bridge.Link{Name: hostVeth(), Kind: "dummy"})
		}, nil, "it is left alone"},
	}
}

// renamedCases have another name at the record's index.
func renamedCases() []delCase {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	other := attach.Key{ContainerID: "c2", IfName: "net1"}
	return []delCase{
		{"adopted pair was renamed", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", nil)
			b.rename("vethabc", "db-uplink", "br0")
		}, nil, ""},
		{"pair was renamed", func(tb testing.TB, b *bench) {
			b.kernel.pair(hostVeth(), "net1", nil)
			b.record(tb, key, hostVeth(), nil)
			b.rename(hostVeth(), "db-uplink", "br0")
		}, nil, ""},
		{"pair was renamed, of another boot", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", func(r *attach.Record) { r.BootID = "before" })
			b.rename("vethabc", "db-uplink", "br0")
		}, []string{"db-uplink"}, ""},
		{"what has the index is in another bridge", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", nil)
			b.kernel.add(bridge.Link{Name: "cni0", Kind: "bridge"})
			b.rename("vethabc", "vethnew", "cni0")
		}, []string{"vethnew"}, "is now vethnew, not in the port's bridge br0; it is left alone"},
		{"what has the index is another's port", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethabc", "net1", nil)
			b.record(tb, key, "vethabc", nil)
			b.rename("vethabc", "vethother", "br0")
			b.record(tb, other, "vethother", nil)
		}, []string{"vethother"}, "the port of container c2; it is left alone"},
		{"record without index", func(tb testing.TB, b *bench) {
			b.kernel.pair(hostVeth(), "net1", nil)
			b.record(tb, key, hostVeth(), func(r *attach.Record) { r.HostIfIndex = 0 })
		}, nil, ""},
		{"record of no interface", func(tb testing.TB, b *bench) {
			b.kernel.pair("vethother", "x", nil)
			b.record(tb, key, "", nil)
		}, []string{"vethother"}, ""},
		{"what has the index is no pair", func(tb testing.TB, b *bench) {
			b.kernel.add(bridge.Link{Name: "vethabc", Kind: "dummy"})
			b.record(tb, key, "vethabc", nil)
			b.rename("vethabc", "eth7", "br0")
		}, nil, ""},
	}
}

func TestDelWithoutAgent(t *testing.T) {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	for _, tt := range append(delCases(), renamedCases()...) {
		t.Run(tt.name, func(t *testing.T) {
			for _, conf := range confs() {
				for _, netns := range []string{"", "/run/netns/gone", "/proc/self/ns/net"} {
					b := newBench(t)
					b.env["CNI_NETNS"] = netns
					tt.make(t, b)
					stderr := ""
					for i := range 2 { // the second one finds nothing to do
						if out, e := b.run(t, "DEL", conf); e != nil || out != "" {
							t.Fatalf("DEL number %d with %s: %q, %+v", i+1, conf, out, e)
						}
						if i == 0 {
							stderr = b.stderr.String()
						}
					}
					if diff := cmp.Diff(tt.veths, b.kernel.veths()); diff != "" {
						t.Errorf("pairs left (-want +got):\n%s", diff)
					}
					for _, k := range b.records(t) {
						if k == key {
							t.Error("the record is left")
						}
					}
					if !strings.Contains(stderr, tt.stderr) {
						t.Errorf("stderr %q, want %q", stderr, tt.stderr)
					}
				}
			}
		})
	}
}

func TestDelByAgent(t *testing.T) {
	for _, found := range []bool{true, false} {
		for _, conf := range confs() {
			b := newBench(t)
			a := newAgent(t, b.paths)
			a.answers[wire.Detach] = wire.Detached{Found: found}
			if out, e := b.run(t, "DEL", conf); e != nil || out != "" {
				t.Fatalf("%s: %q, %+v", conf, out, e)
			}
			var req wire.DetachRequest
			a.body(t, wire.Detach, &req)
			if req.ContainerID != "c1" || req.IfName != "net1" || len(b.kernel.log) != 0 {
				t.Errorf("%+v, %v", req, b.kernel.log)
			}
		}
	}
}

// An agent that cannot do it is helped.
func TestDelAgentFails(t *testing.T) {
	b := newBench(t)
	a := newAgent(t, b.paths)
	a.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
	b.kernel.pair(hostVeth(), "net1", nil)
	if _, e := b.run(t, "DEL", ""); e != nil {
		t.Fatalf("%+v", e)
	}
	if left := b.kernel.veths(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestDelThatARetryHelps(t *testing.T) {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	b := newBench(t)
	b.kernel.pair(hostVeth(), "net1", nil)
	b.record(t, key, hostVeth(), nil)
	b.kernel.deleteErr = errors.New("busy")
	if _, e := b.run(t, "DEL", ""); e == nil || e.Code != 11 || !strings.Contains(e.Msg, "busy") {
		t.Errorf("%+v", e)
	}
	if keys := b.records(t); len(keys) != 1 {
		t.Error("the record is gone, and with it what a second DEL works by")
	}
	b.kernel.deleteErr = nil
	if _, e := b.run(t, "DEL", ""); e != nil || len(b.kernel.veths()) != 0 || len(b.records(t)) != 0 {
		t.Errorf("second DEL: %+v, %v, %v", e, b.kernel.veths(), b.records(t))
	}
}

func TestGC(t *testing.T) {
	valid := `"network":"n","cni.dev/valid-attachments":[{"containerID":"c1","ifname":"net1"}]`
	b := newBench(t)
	a := newAgent(t, b.paths)
	if out, e := b.run(t, "GC", config("1.1.0", valid)); e != nil || out != "" {
		t.Fatalf("%q, %+v", out, e)
	}
	var req wire.GCRequest
	a.body(t, wire.GC, &req)
	if diff := cmp.Diff(wire.GCRequest{CNINetwork: "legacy", Valid: []attach.Key{{ContainerID: "c1", IfName: "net1"}}}, req); diff != "" {
		t.Error(diff)
	}
	a.mu.Lock()
	a.answers[wire.GC] = &attach.Error{Kind: attach.Internal, Message: "half done"}
	a.mu.Unlock()
	b.kernel.pair("vetha", "net1", nil)
	b.record(t, attach.Key{ContainerID: "c9", IfName: "net1"}, "vetha", nil)
	if _, e := b.run(t, "GC", config("1.1.0", valid)); e == nil || e.Code != 999 || len(b.kernel.veths()) != 1 {
		t.Errorf("a living agent's failure: %+v", e)
	}
}

func TestGCWithoutAgent(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ container, network string }{{"c1", "legacy"}, {"c2", "legacy"}, {"c3", "legacy"}, {"c4", "other"}} {
		host := "veth" + c.container
		b.kernel.pair(host, "net1", nil)
		b.record(t, attach.Key{ContainerID: c.container, IfName: "net1"}, host, func(r *attach.Record) { r.CNINetwork = c.network })
	}
	conf := config("1.1.0", `"cni.dev/attachments":[{"containerID":"c1","ifname":"net1"},{"containerID":"c2","ifname":"net2"}]`)
	b.kernel.deleteErr = errors.New("busy")
	if _, e := b.run(t, "GC", conf); e == nil || e.Code != 11 || !strings.Contains(e.Msg, "container c2") || !strings.Contains(e.Msg, "container c3") {
		t.Errorf("%+v", e)
	}
	b.kernel.deleteErr = nil
	for range 2 {
		if _, e := b.run(t, "GC", conf); e != nil {
			t.Fatalf("%+v", e)
		}
		if diff := cmp.Diff([]string{"vethc1", "vethc4"}, b.kernel.veths()); diff != "" {
			t.Errorf("pairs (-want +got):\n%s", diff)
		}
	}
	want := []attach.Key{{ContainerID: "c1", IfName: "net1"}, {ContainerID: "c4", IfName: "net1"}}
	if diff := cmp.Diff(want, b.records(t)); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	conf := func(ifaces string) string {
		return config("1.0.0", `"network":"n","prevResult":{"cniVersion":"1.0.0","interfaces":[`+ifaces+`]}`)
	}
	// The container's MAC and MTU are KubeVirt's to change: nobody looks.
	whole := `{"name":"br0"},{"name":"vetha"},{"name":"net1","mac":"00:00:00:00:00:01","sandbox":"/x"}`
	tests := []struct {
		name, conf string
		problems   []string
		noRecord   bool
		code       uint
		want       string
	}{
		{"all well", conf(whole), nil, false, 0, ""},
		{"the agent sees it", conf(whole), []string{"VLAN 100 is missing at the port"}, false, 100, "VLAN 100 is missing at the port"},
		{"no record", conf(whole), nil, true, 100, "the node has no record of it"},
		{"another host end", conf(`{"name":"br0"},{"name":"vethx"},{"name":"net1","sandbox":"/x"}`), nil, false, 100, "prevResult does not name vetha, the port's host end"},
		{"another bridge", conf(`{"name":"br1"},{"name":"vetha"},{"name":"net1","sandbox":"/x"}`), nil, false, 100, "prevResult does not name br0, the port's bridge"},
		{"another interface", conf(`{"name":"br0"},{"name":"vetha"},{"name":"net2","sandbox":"/x"}`), nil, false, 7, "its interface in the sandbox is net2 and not net1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			a := newAgent(t, b.paths)
			a.answers[wire.Check] = wire.Checked{Problems: tt.problems}
			if !tt.noRecord {
				b.record(t, key, "vetha", nil)
			}
			out, e := b.run(t, "CHECK", tt.conf)
			if tt.code == 0 {
				if e != nil || out != "" {
					t.Errorf("%q, %+v", out, e)
				}
			} else if e == nil || e.Code != tt.code || !strings.Contains(e.Msg, tt.want) {
				t.Errorf("got %+v, want code %d with %q", e, tt.code, tt.want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	newAgent(t, b.paths)
	if out, e := b.run(t, "STATUS", config("1.1.0", `"network":"n"`)); e != nil || out != "" {
		t.Errorf("%q, %+v", out, e)
	}
}
