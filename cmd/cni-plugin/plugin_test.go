package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// What is wrong on its face is refused before anybody is asked or anything made.
func TestRefusedAtOnce(t *testing.T) {
	const good = `"network":"vlan100"`
	tests := []struct {
		name, verb, conf string
		env              map[string]string
		code             uint
		want             string
	}{
		{"odd verb", "", config("1.0.0", good), map[string]string{"CNI_COMMAND": "FLY"}, 4, `CNI_COMMAND: "FLY" is not known; use ADD`},
		{"no netns", "ADD", config("1.0.0", good), map[string]string{"CNI_NETNS": ""}, 4, "CNI_NETNS: not set"},
		{"no key", "DEL", config("1.0.0", good), map[string]string{"CNI_CONTAINERID": "", "CNI_IFNAME": ""}, 4, "CNI_CONTAINERID, CNI_IFNAME: not set"},
		{"long interface", "ADD", config("1.0.0", good), map[string]string{"CNI_IFNAME": "sixteen-letters-"}, 4, "CNI_IFNAME"},
		{"odd container", "DEL", "", map[string]string{"CNI_CONTAINERID": "a/b"}, 4, "CNI_CONTAINERID"},
		{"odd arguments", "ADD", config("1.0.0", good), map[string]string{"CNI_ARGS": "MAC"}, 4, "CNI_ARGS"},
		{"no JSON", "ADD", "{", nil, 6, "cannot be decoded"},
		{"empty", "ADD", "", nil, 6, "cannot be decoded"},
		{"no JSON for GC", "GC", "{", nil, 6, "cannot be decoded"},
		{"list", "ADD", `[]`, nil, 6, "cannot be decoded"},
		{"no version", "ADD", `{"name":"a","network":"n"}`, nil, 1, "cniVersion: missing; write one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0"},
		{"old version", "ADD", config("0.2.0", good), nil, 1, `cniVersion: "0.2.0" is not spoken; write one of`},
		{"later version", "ADD", config("2.0.0", good), nil, 1, `cniVersion: "2.0.0" is not spoken; write one of`},
		{"CHECK too early", "CHECK", config("0.3.1", good), nil, 1, "cniVersion: 0.3.1 has no CHECK; write 0.4.0 or later"},
		{"GC too early", "GC", config("1.0.0", good), nil, 1, "cniVersion: 1.0.0 has no GC; write 1.1.0 or later"},
		{"STATUS too early", "STATUS", config("1.0.0", good), nil, 1, "cniVersion: 1.0.0 has no STATUS; write 1.1.0 or later"},
		{"unknown key", "ADD", config("1.0.0", good+`,"vlans":1`), nil, 7, `vlans: unknown key; did you mean "vlan"?`},
		{"two errors", "ADD", config("1.0.0", good+`,"mtu":0,"mac":"x"`), nil, 7, `as 00:50:56:01:02:03. mtu: 0 is out of range`},
		{"STATUS of a bad config", "STATUS", config("1.1.0", `"vlan":5`), nil, 7, "bridge: missing"},
		{"CHECK without result", "CHECK", config("1.0.0", good), nil, 7, "prevResult: missing"},
		{"GC without list", "GC", config("1.1.0", good), nil, 7, "cni.dev/valid-attachments: missing"},
		{"netns gone", "ADD", config("1.0.0", good), map[string]string{"CNI_NETNS": "/run/netns/gone"}, 8, "CNI_NETNS: the sandbox /run/netns/gone is gone"},
		{"netns is a file", "ADD", config("1.0.0", good), map[string]string{"CNI_NETNS": "/etc/hostname"}, 8, "CNI_NETNS: /etc/hostname is not a network namespace"},
		{"netns is the node's", "ADD", config("1.0.0", good), map[string]string{"CNI_NETNS": "/proc/thread-self/ns/net", "CNI_NETNS_OVERRIDE": ""}, 8, "is the node's own network namespace"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			a := newAgent(t, b.paths)
			for k, v := range tt.env {
				b.env[k] = v
			}
			_, e := b.run(t, tt.verb, tt.conf)
			if e == nil || e.Code != tt.code || !strings.Contains(e.Msg, tt.want) {
				t.Errorf("got %+v, want code %d with %q", e, tt.code, tt.want)
			}
			if len(b.kernel.log) > 0 || a.asks() != "" {
				t.Errorf("it was begun all the same: %v, %s", b.kernel.log, a.asks())
			}
		})
	}
}

// What the agent refuses, by kind and verb.
func TestAgentRefuses(t *testing.T) {
	prev := `"network":"n","prevResult":{"interfaces":[{"name":"br0"},{"name":"` + hostVeth() + `"},{"name":"net1","sandbox":"/x"}]}`
	codes := []struct {
		kind             attach.ErrorKind
		code, statusCode uint
	}{
		{attach.InvalidConfig, 7, 7}, {attach.Conflict, 7, 7}, {attach.TryAgain, 11, 50},
		{attach.Unavailable, 11, 50}, {attach.Limited, 11, 51}, {attach.Internal, 999, 50},
	}
	for _, tt := range codes {
		for _, v := range []struct {
			verb string
			asks wire.Verb
			conf string
			code uint
		}{
			{"ADD", wire.Prepare, config("1.0.0", `"network":"n"`), tt.code},
			{"ADD", wire.Attach, config("1.0.0", `"network":"n"`), tt.code},
			{"CHECK", wire.Check, config("1.0.0", prev), tt.code},
			{"STATUS", wire.Status, config("1.1.0", `"network":"n"`), tt.statusCode},
		} {
			t.Run(string(tt.kind)+" "+string(v.asks), func(t *testing.T) {
				b := newBench(t)
				a := newAgent(t, b.paths)
				a.answers[v.asks] = &attach.Error{Kind: tt.kind, Field: "network", Message: "is odd", Remedy: "write another"}
				_, e := b.run(t, v.verb, v.conf)
				if e == nil || e.Code != v.code || e.Msg != "network: is odd; write another" {
					t.Errorf("got %+v, want code %d", e, v.code)
				}
				if left := b.kernel.veths(); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

// An agent that is dead, slow, silly or of another release.
func TestAgentCannotBeAsked(t *testing.T) {
	prev := `"network":"n","prevResult":{"interfaces":[{"name":"net1","sandbox":"/x"}]}`
	verbs := []struct {
		verb, conf string
		code       uint // 0 is success
	}{
		{"ADD", config("1.0.0", `"network":"n"`), 11},
		{"CHECK", config("1.0.0", prev), 11},
		{"STATUS", config("1.1.0", `"network":"n"`), 50},
		{"DEL", config("1.0.0", `"network":"n"`), 0},
		{"GC", config("1.1.0", `"cni.dev/valid-attachments":[]`), 0},
	}
	agents := []struct {
		name string
		make func(testing.TB, *bench)
		want string
	}{
		{"no socket", func(testing.TB, *bench) {}, "no such file or directory; see whether bridge-agent runs"},
		{"socket left", func(tb testing.TB, b *bench) { socketLeft(tb, b.paths) }, "connection refused; see whether bridge-agent runs"},
		{"slow", slowAgent, "no answer within"},
		{"later release", func(tb testing.TB, b *bench) { newAgent(tb, b.paths).version = wire.Version + 2 }, "speaks protocol version 3, this binary version 1; install"},
	}
	for _, ag := range agents {
		for _, v := range verbs {
			t.Run(ag.name+" "+v.verb, func(t *testing.T) {
				b := newBench(t)
				ag.make(t, b)
				out, e := b.run(t, v.verb, v.conf)
				if v.code == 0 {
					if e != nil || out != "" || !strings.Contains(b.stderr.String(), ag.want) {
						t.Errorf("got %q, %+v, stderr %q", out, e, b.stderr.String())
					}
				} else if e == nil || e.Code != v.code || !strings.Contains(e.Msg, ag.want) {
					t.Errorf("got %+v, want code %d with %q", e, v.code, ag.want)
				}
				if left := b.kernel.veths(); len(left) > 0 {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

// The agent that is slow only at Attach: the veth goes again.
func TestAttachSlow(t *testing.T) {
	b := newBench(t)
	b.patience(3 * time.Second) // enough for Prepare anywhere
	a := newAgent(t, b.paths)
	hung := make(chan bool, 1)
	a.onAttach = func(c net.Conn, _ attach.Request) {
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err := c.Read(make([]byte, 1))
		hung <- err != nil
	}
	_, e := b.run(t, "ADD", config("1.0.0", `"network":"n"`))
	if e == nil || e.Code != 11 || !strings.Contains(e.Msg, "did not do Attach: no answer within") {
		t.Errorf("got %+v", e)
	}
	if !<-hung {
		t.Error("the plugin did not hang up")
	}
	if diff := cmp.Diff([]string{"create " + hostVeth(), "delete " + hostVeth()}, b.kernel.log); diff != "" {
		t.Error(diff)
	}
}

// ADD in main mode for every CNI version, read by the CNI library.
func TestAddMain(t *testing.T) {
	for _, v := range specVersions() {
		t.Run(v, func(t *testing.T) {
			b := newBench(t)
			b.env["CNI_NETNS"] = "/proc/self/ns/net"
			a := newAgent(t, b.paths)
			out, e := b.run(t, "ADD", config(v, `"bridge":"br0","vlan":100,"mtu":1400,"capabilities":{"mac":true},"runtimeConfig":{"mac":"00:50:56:AA:00:01"},"dns":{"domain":"lab"}`))
			if e != nil {
				t.Fatalf("%+v", e)
			}
			generic, err := cniversion.NewResult(v, []byte(out))
			if err != nil {
				t.Fatal(err)
			}
			got, err := types100.GetResult(generic)
			if err != nil {
				t.Fatal(err)
			}
			mtu := 1400
			if v < "1.0.0" {
				mtu = 0
				if strings.Contains(out, "mtu") {
					t.Errorf("version %s has no mtu: %s", v, out)
				}
			}
			want := []*types100.Interface{
				{Name: "br0", Mac: "02:00:00:00:00:b0"},
				{Name: hostVeth(), Mac: "fe:00:00:00:00:01", Mtu: mtu},
				{Name: "net1", Mac: "00:50:56:aa:00:01", Mtu: mtu, Sandbox: "/proc/self/ns/net"},
			}
			if diff := cmp.Diff(want, got.Interfaces); diff != "" {
				t.Errorf("interfaces (-want +got):\n%s", diff)
			}
			if len(got.IPs) != 0 || got.DNS.Domain != "lab" {
				t.Errorf("ips %v, dns %v", got.IPs, got.DNS)
			}
			var head struct {
				CNIVersion string `json:"cniVersion"`
			}
			if err := json.Unmarshal([]byte(out), &head); err != nil || head.CNIVersion != v {
				t.Errorf("cniVersion %q, %v", head.CNIVersion, err)
			}
			if a.asks() != "Prepare Attach" {
				t.Errorf("asked %s", a.asks())
			}
			var req attach.Request
			a.body(t, wire.Attach, &req)
			wantReq := attach.Request{
				Key: attach.Key{ContainerID: "c1", IfName: "net1"}, CNINetwork: "legacy",
				Inline: &attach.Inline{Bridge: "br0", VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}},
				MTU:    1400, MAC: attach.MAC{0, 0x50, 0x56, 0xaa, 0, 1},
				Pod:   attach.Pod{Namespace: "vms", Name: "virt-launcher-a"},
				Netns: "/proc/self/ns/net", HostIfIndex: 12, HostIfName: hostVeth(),
			}
			if diff := cmp.Diff(wantReq, req, cmp.Comparer(func(a, b vlan.Set) bool { return a == b })); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddMainVariants(t *testing.T) {
	t.Run("kernel's MAC, interface down", func(t *testing.T) {
		b := newBench(t)
		a := newAgent(t, b.paths)
		out, e := b.run(t, "ADD", config("1.0.0", `"network":"n","disableContainerInterface":true`))
		if e != nil || !strings.Contains(out, "02:aa:00:00:00:01") {
			t.Fatalf("%s, %+v", out, e)
		}
		if b.kernel.spec.PeerUp || b.kernel.spec.MTU != 1400 {
			t.Errorf("veth: %+v", b.kernel.spec)
		}
		var prepare, request attach.Request
		a.body(t, wire.Prepare, &prepare)
		a.body(t, wire.Attach, &request)
		if len(prepare.MAC) != 0 || prepare.HostIfName != "" || request.MAC.String() != "02:aa:00:00:00:01" || request.Network != "n" {
			t.Errorf("%+v, %+v", prepare, request)
		}
	})
	t.Run("left-over pair makes room", func(t *testing.T) {
		b := newBench(t)
		newAgent(t, b.paths)
		b.kernel.pair(hostVeth(), "old", nil)
		if _, e := b.run(t, "ADD", config("1.0.0", `"network":"n"`)); e != nil {
			t.Fatalf("%+v", e)
		}
		if !b.kernel.spec.PeerUp {
			t.Error("the container's end is down")
		}
		if diff := cmp.Diff([]string{"create " + hostVeth(), "delete " + hostVeth(), "create " + hostVeth()}, b.kernel.log); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("living port stays", func(t *testing.T) {
		b := newBench(t)
		a := newAgent(t, b.paths)
		a.answers[wire.Prepare] = &attach.Error{Kind: attach.Conflict, Message: "lives"}
		b.kernel.pair(hostVeth(), "net1", nil)
		if _, e := b.run(t, "ADD", config("1.0.0", `"network":"n"`)); e == nil || e.Code != 7 {
			t.Errorf("%+v", e)
		}
		if len(b.kernel.log) != 0 {
			t.Errorf("touched: %v", b.kernel.log)
		}
	})
	t.Run("interface name taken in the sandbox", func(t *testing.T) {
		b := newBench(t)
		newAgent(t, b.paths)
		b.kernel.peers["net1"] = bridge.Link{Name: "net1"}
		if _, e := b.run(t, "ADD", config("1.0.0", `"network":"n"`)); e == nil || e.Code != 4 || !strings.Contains(e.Msg, "already has an interface net1") {
			t.Errorf("%+v", e)
		}
	})
}

func TestVersionAndHelp(t *testing.T) {
	b := newBench(t)
	out, e := b.run(t, "VERSION", "")
	if e != nil {
		t.Fatalf("%+v", e)
	}
	info, err := new(cniversion.PluginDecoder).Decode([]byte(out))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"}, info.SupportedVersions()); diff != "" {
		t.Error(diff)
	}
	b.env["CNI_COMMAND"] = ""
	if out, e := b.run(t, "", ""); e != nil || out != "" || !strings.Contains(b.stderr.String(), `"type": "homeport"`) {
		t.Errorf("help: %q, %+v, %s", out, e, b.stderr.String())
	}
}

// Errors are what the CNI library reads as errors.
func TestErrorForm(t *testing.T) {
	b := newBench(t)
	out, _ := b.run(t, "ADD", config("1.0.0", `"vlan":5`))
	var e types.Error
	if err := json.Unmarshal([]byte(out), &e); err != nil || e.Code != types.ErrInvalidNetworkConfig {
		t.Errorf("%v, %+v", err, e)
	}
	if !strings.Contains(out, `"cniVersion": "1.0.0"`) || e.Details != "homeport ADD, container c1, interface net1" {
		t.Errorf("error: %s", out)
	}
}
