package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/store"
)

// chainedBench is a node where another plugin made vethabc, in bridge old0, and
// opened it.
func chainedBench(tb testing.TB) *bench {
	tb.Helper()
	b := newBench(tb)
	old := b.kernel.add(bridge.Link{Name: "old0", Kind: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}})
	b.kernel.add(bridge.Link{Name: "eth0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}})
	b.kernel.pair("vethabc", "net1", net.HardwareAddr{0, 0x50, 0x56, 0, 0, 9})
	l := b.kernel.links["vethabc"]
	l.Up, l.Master = true, old.Index
	b.kernel.links["vethabc"] = l
	return b
}

func chained(version, keys, interfaces, more string) string {
	return config(version, fmt.Sprintf(`%s,"prevResult":{"cniVersion":%q,"interfaces":[%s]%s}`, keys, version, interfaces, more))
}

// What is refused stays closed: the host end is taken out by the kernel's word
// before the config is looked at.
func TestChainedRefuses(t *testing.T) {
	const whole = `{"name":"old0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"}`
	const n = `"network":"n"`
	tests := []struct{ name, keys, ifaces, want string }{
		{"no interfaces", n, "", "prevResult: it names no interface with a sandbox; found: no interfaces; chain homeport behind"},
		{"no sandbox", n, `{"name":"old0"},{"name":"vethabc"}`, "it names no interface with a sandbox; found: old0, vethabc;"},
		{"two sandboxed", n, whole + `,{"name":"net2","sandbox":"/x"}`, "more than one interface with a sandbox: net1, net2; found: old0, vethabc, net1 (in the sandbox), net2 (in the sandbox)"},
		{"another interface", n, `{"name":"vethabc"},{"name":"eth0","sandbox":"/x"}`, "its interface in the sandbox is eth0 and not net1 (CNI_IFNAME)"},
		{"no host end", n, `{"name":"old0"},{"name":"net1","sandbox":"/x"}`, "it does not name vethabc, the node's end of net1; found: old0, net1 (in the sandbox)"},
		{"host end in the sandbox", n, `{"name":"old0"},{"name":"net1","sandbox":"/x"},{"name":"veth2"}`, "it does not name vethabc"},
		{"name is no text", n, `{"name":7}`, "interfaces[0].name is 7 and not a string"},
		{"another MAC", n + `,"mac":"00:50:56:00:00:08"`, whole, `mac: 00:50:56:00:00:08 was asked for, but the plugin before this one gave net1 the MAC 00:50:56:00:00:09; let that plugin have it too`},
		{"another MTU", n + `,"mtu":9000`, whole, "mtu: 9000 was asked for, but the plugin before this one gave net1 an MTU of 1450; set mtu at that plugin"},
		{"unknown key", n + `,"vlna":7`, whole, "vlna: unknown key"},
		{"no network", `"mtu":1500`, whole, "network: missing"},
		{"multicast MAC", n + `,"mac":"01:00:5e:00:00:01"`, whole, `mac: "01:00:5e:00:00:01" is a multicast address`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chainedRefused(t, chainedBench(t), chained("1.0.0", tt.keys, tt.ifaces, ""), 7, tt.want, []string{"take out vethabc"})
		})
	}
	t.Run("CNI version", func(t *testing.T) {
		chainedRefused(t, chainedBench(t), chained("7.0.0", n, whole, ""), 1, `cniVersion: "7.0.0" is not spoken`, []string{"take out vethabc"})
	})
	t.Run("result is no object", func(t *testing.T) {
		chainedRefused(t, chainedBench(t), config("1.0.0", n+`,"prevResult":7`), 7, "prevResult: 7 is not a JSON object", []string{"take out vethabc"})
	})
	t.Run("nothing to adopt", func(t *testing.T) {
		b := chainedBench(t)
		b.kernel.findErr = errors.New("it is no veth but a macvlan")
		chainedRefused(t, b, chainedWhole(), 7, "prevResult: its interface net1 cannot be adopted: it is no veth but a macvlan; found: old0, vethabc, net1", nil)
	})
	t.Run("sandbox is the node's", func(t *testing.T) {
		b := chainedBench(t)
		b.env["CNI_NETNS"], b.env["CNI_NETNS_OVERRIDE"] = "/proc/thread-self/ns/net", ""
		chainedRefused(t, b, chainedWhole(), 8, "is the node's own network namespace", nil)
	})
	t.Run("port lives", func(t *testing.T) {
		b := chainedBench(t)
		b.record(t, attach.Key{ContainerID: "c1", IfName: "net1"}, "vethabc", nil)
		chainedRefused(t, b, chained("1.0.0", n+`,"vlna":7`, whole, ""), 7, "vlna: unknown key", nil)
	})
}

// chainedRefused runs an ADD that must fail before the agent is asked.
func chainedRefused(t *testing.T, b *bench, conf string, code uint, want string, did []string) {
	t.Helper()
	a := newAgent(t, b.paths)
	_, e := b.run(t, "ADD", conf)
	if e == nil || e.Code != code || !strings.Contains(e.Msg, want) {
		t.Errorf("got %+v, want code %d and %q", e, code, want)
	}
	if d := cmp.Diff(did, b.kernel.log); d != "" || a.asks() != "" || b.kernel.open("vethabc") != (did == nil) {
		t.Errorf("asked %q; vethabc is %+v; did (-want +got):\n%s", a.asks(), b.kernel.links["vethabc"], d)
	}
}

// chainedWhole is a config behind the plugin of chainedBench.
func chainedWhole() string {
	return chained("1.0.0", `"network":"n"`, `{"name":"old0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"}`, "")
}

// A port that does not come about leaves the other plugin's pair, but closed:
// in that plugin's bridge nobody keeps its VLAN and its firewall.
func TestChainedFailsClosed(t *testing.T) {
	for name, tt := range map[string]struct {
		agent func(testing.TB, *bench)
		code  uint
	}{
		"dead agent":  {func(testing.TB, *bench) {}, 11},
		"socket left": {func(tb testing.TB, b *bench) { socketLeft(tb, b.paths) }, 11},
		"slow agent":  {slowAgent, 11},
		"unknown network": {func(tb testing.TB, b *bench) {
			newAgent(tb, b.paths).answers[wire.Prepare] = &attach.Error{Kind: attach.InvalidConfig, Field: "network", Message: "unknown"}
		}, 7},
		"attach fails": {func(tb testing.TB, b *bench) {
			newAgent(tb, b.paths).answers[wire.Attach] = &attach.Error{Kind: attach.TryAgain, Message: "no"}
		}, 11},
		"corrupt record": {func(tb testing.TB, b *bench) {
			key := attach.Key{ContainerID: "c1", IfName: "net1"}
			b.record(tb, key, "vethabc", nil)
			if err := os.WriteFile(store.At(b.paths.Attachments()).Path(key), []byte("{"), 0o600); err != nil {
				tb.Fatal(err)
			}
		}, 11},
		"record of another boot": {func(tb testing.TB, b *bench) {
			b.record(tb, attach.Key{ContainerID: "c1", IfName: "net1"}, "vethabc", func(r *attach.Record) { r.BootID = "before" })
		}, 11},
	} {
		t.Run(name, func(t *testing.T) {
			b := chainedBench(t)
			tt.agent(t, b)
			_, e := b.run(t, "ADD", chainedWhole())
			if e == nil || e.Code != tt.code {
				t.Errorf("%+v, want code %d", e, tt.code)
			}
			if d := cmp.Diff([]string{"take out vethabc"}, b.kernel.log); d != "" || b.kernel.open("vethabc") {
				t.Errorf("vethabc is %+v; did (-want +got):\n%s", b.kernel.links["vethabc"], d)
			}
		})
	}
}

func TestChainedCannotTakeOut(t *testing.T) {
	b := chainedBench(t)
	a := newAgent(t, b.paths)
	b.kernel.takeOutErr = errors.New("busy")
	_, e := b.run(t, "ADD", chainedWhole())
	if e == nil || e.Code != 11 || !strings.Contains(e.Msg, "take vethabc out of the bridge") || a.asks() != "" {
		t.Errorf("%+v, asked %s", e, a.asks())
	}
}

// A second ADD is the agent's to refuse, and changes nothing for the port.
func TestChainedTwice(t *testing.T) {
	b := chainedBench(t)
	a := newAgent(t, b.paths)
	a.answers[wire.Prepare] = &attach.Error{Kind: attach.Conflict, Message: "it lives"}
	b.record(t, attach.Key{ContainerID: "c1", IfName: "net1"}, "vethabc", nil)
	_, e := b.run(t, "ADD", chainedWhole())
	if e == nil || e.Code != 7 || len(b.kernel.log) != 0 || !b.kernel.open("vethabc") {
		t.Errorf("%+v, did %v", e, b.kernel.log)
	}
}

func TestChained(t *testing.T) {
	const ips = `,"ips":[{"interface":2,"address":"10.1.2.3/24","gateway":"10.1.2.1"}],"routes":[{"dst":"0.0.0.0/0"}],"dns":{"nameservers":["10.1.2.1"]}`
	tests := []struct {
		name, keys, ifaces, want string
	}{
		{"bridge is corrected", `"network":"n"`,
			`{"name":"old0","mac":"02:00:00:00:00:01"},{"name":"vethabc","mac":"FE:00:00:00:00:01","x":"kept"},{"name":"net1","mac":"00:50:56:00:00:01","sandbox":"/x"}`,
			`{"name":"br0","mac":"02:00:00:00:00:b0"},{"name":"vethabc","mac":"FE:00:00:00:00:01","mtu":1450,"x":"kept"},{"name":"net1","mac":"00:50:56:00:00:09","mtu":1450,"sandbox":"/x"}`},
		{"same bridge", `"network":"n","mac":"00:50:56:00:00:09","mtu":1450`,
			`{"name":"br0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"}`,
			`{"name":"br0","mac":"02:00:00:00:00:b0"},{"name":"vethabc","mac":"fe:00:00:00:00:01","mtu":1450},{"name":"net1","mac":"00:50:56:00:00:09","mtu":1450,"sandbox":"/x"}`},
		{"no bridge, other order", `"network":"n"`,
			`{"name":"vethabc"},{"name":"eth0"},{"name":"net1","sandbox":"/x","mtu":9}`,
			`{"name":"vethabc","mac":"fe:00:00:00:00:01","mtu":1450},{"name":"eth0"},{"name":"net1","mac":"00:50:56:00:00:09","mtu":1450,"sandbox":"/x"},{"name":"br0","mac":"02:00:00:00:00:b0"}`},
		{"gateway's veth stays", `"bridge":"br0","vlan":7`,
			`{"name":"old0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"},{"name":"old0.7"}`,
			`{"name":"br0","mac":"02:00:00:00:00:b0"},{"name":"vethabc","mac":"fe:00:00:00:00:01","mtu":1450},{"name":"net1","mac":"00:50:56:00:00:09","mtu":1450,"sandbox":"/x"},{"name":"old0.7"}`},
	}
	for _, tt := range tests {
		for _, v := range specVersions() {
			t.Run(tt.name+" "+v, func(t *testing.T) {
				b := chainedBench(t)
				a := newAgent(t, b.paths)
				more := ips
				if v < "1.0.0" {
					more = strings.Replace(ips, `{"interface"`, `{"version":"4","interface"`, 1)
				}
				out, e := b.run(t, "ADD", chained(v, tt.keys, tt.ifaces, more))
				if e != nil {
					t.Fatalf("%+v", e)
				}
				want := tt.want
				if v < "1.0.0" {
					want = strings.ReplaceAll(want, `,"mtu":1450`, "")
					if strings.Contains(tt.ifaces, `"mtu":9`) { // what was said is passed on
						want = strings.Replace(want, `"sandbox":"/x"`, `"sandbox":"/x","mtu":9`, 1)
					}
				}
				if diff := cmp.Diff(decode(t, fmt.Sprintf(`{"cniVersion":%q,"interfaces":[%s]%s}`, v, want, more)), decode(t, out)); diff != "" {
					t.Errorf("result (-want +got):\n%s", diff)
				}
				generic, err := cniversion.NewResult(v, []byte(out))
				if err != nil {
					t.Fatal(err)
				}
				if res, err := types100.GetResult(generic); err != nil || len(res.IPs) != 1 || *res.IPs[0].Interface != 2 {
					t.Errorf("the library reads %+v, %v", res, err)
				}
				var req attach.Request
				a.body(t, wire.Attach, &req)
				if !req.Adopted || req.HostIfName != "vethabc" || req.HostIfIndex != b.kernel.links["vethabc"].Index ||
					req.MAC.String() != "00:50:56:00:00:09" || req.MTU != 1450 || fmt.Sprint(req.Addresses) != "[10.1.2.3]" {
					t.Errorf("request %+v", req)
				}
				if a.asks() != "Prepare Attach" || !slices.Equal(b.kernel.log, []string{"take out vethabc"}) {
					t.Errorf("asked %s, did %v", a.asks(), b.kernel.log)
				}
			})
		}
	}
}

// The request has the addresses of the pod's interface, and no others. What cannot
// be read is refused, for nobody could say whose it is.
func TestChainedAddresses(t *testing.T) {
	const ifaces = `{"name":"old0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"}`
	for ips, want := range map[string]string{
		``: "[]",
		`,"ips":[{"interface":2,"address":"10.1.2.3/24"},{"interface":2,"address":"fd00::3/64"}]`:  "[10.1.2.3 fd00::3]",
		`,"ips":[{"interface":0,"address":"10.1.2.1/24"},{"interface":2,"address":"10.1.2.3/24"}]`: "[10.1.2.3]",
		`,"ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}]`:                                  "[10.1.2.3]",
		`,"ips":[{"interface":2,"address":"::ffff:10.1.2.3/120"}]`:                                 "[10.1.2.3]",
		`,"ips":[{"interface":2,"address":"10.1.2.3"}]`:                                            "prevResult.ips: netip.ParsePrefix(\"10.1.2.3\"): no '/'; have the plugin before this one write addresses as 10.1.2.3/24",
		`,"ips":[{"interface":2}]`: "prevResult.ips[0].address: is missing",
		`,"ips":7`:                 "prevResult.ips: json: cannot unmarshal number",
	} {
		b := chainedBench(t)
		a := newAgent(t, b.paths)
		_, e := b.run(t, "ADD", chained("1.0.0", `"network":"n"`, ifaces, ips))
		if e != nil {
			if e.Code != 7 || !strings.Contains(e.Msg, want) || b.kernel.open("vethabc") {
				t.Errorf("%s: %+v, want %q", ips, e, want)
			}
			continue
		}
		var req attach.Request
		a.body(t, wire.Attach, &req)
		if got := fmt.Sprint(req.Addresses); got != want {
			t.Errorf("%s: addresses %s, want %s", ips, got, want)
		}
	}
}

// A result without cniVersion, as plugins before 1.0.0 may give, gets one.
func TestChainedResultVersion(t *testing.T) {
	b := chainedBench(t)
	newAgent(t, b.paths)
	out, e := b.run(t, "ADD", config("0.3.1", `"network":"n","prevResult":{"interfaces":[{"name":"br0"},{"name":"vethabc"},{"name":"net1","sandbox":"/x"}]}`))
	if e != nil {
		t.Fatalf("%+v", e)
	}
	if v := decode(t, out)["cniVersion"]; v != "0.3.1" {
		t.Errorf("cniVersion %v", v)
	}
}

func decode(tb testing.TB, s string) map[string]any {
	tb.Helper()
	var v map[string]any
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		tb.Fatalf("%v: %s", err, s)
	}
	return v
}
