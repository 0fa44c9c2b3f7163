package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	types100 "github.com/containernetworking/cni/pkg/types/100"
	cniversion "github.com/containernetworking/cni/pkg/version"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// ipamBench is a bench whose CNI_PATH has an IPAM plugin "pool", and what agent, kernel
// and that plugin were told, in order.
type ipamBench struct {
	*bench
	tb    testing.TB
	agent *fakeAgent
	dir   string // of the plugin and all that it reads and writes
}

const poolScript = `#!/bin/sh
cd "${0%/*}" || exit 9
echo "$CNI_COMMAND" >>trail
echo "$CNI_CONTAINERID $CNI_IFNAME $CNI_NETNS" >"env.$CNI_COMMAND"
cat >"stdin.$CNI_COMMAND"
[ ! -e "hang.$CNI_COMMAND" ] || exec sleep 600
[ ! -e "out.$CNI_COMMAND" ] || cat "out.$CNI_COMMAND"
[ ! -e "fail.$CNI_COMMAND" ]
`

const poolAnswer = `{"cniVersion":"1.0.0","ips":[{"address":"10.100.0.9/24","gateway":"10.100.0.1"},{"address":"fd00:100::9/64"}],
	"routes":[{"dst":"0.0.0.0/0"},{"dst":"10.7.0.0/16","gw":"10.100.0.7"},{"dst":"fd00:7::/64"}],"dns":{"domain":"pool"}}`

func newIPAMBench(tb testing.TB) *ipamBench {
	tb.Helper()
	b := &ipamBench{bench: newBench(tb), tb: tb, dir: tb.TempDir()}
	b.agent = newAgent(tb, b.paths)
	b.agent.onAsk = func(v wire.Verb) { b.trace(string(v)) }
	b.kernel.onConfigure = func() { b.trace("configure") }
	b.env["CNI_PATH"] = "/none-such:" + b.dir
	b.write("pool", poolScript)
	b.write("dhcp", poolScript)
	b.write("out.ADD", poolAnswer)
	return b
}

func (b *ipamBench) write(name, text string) {
	b.tb.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o700); err != nil {
		b.tb.Fatal(err)
	}
}

// fails has the plugin fail at a verb.
func (b *ipamBench) fails(verb, answer string) {
	b.tb.Helper()
	b.write("fail."+verb, "")
	b.write("out."+verb, answer)
}

func (b *ipamBench) trace(what string) {
	f, err := os.OpenFile(filepath.Join(b.dir, "trail"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.WriteString(what + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		b.tb.Error(err)
	}
}

func (b *ipamBench) read(name string) string {
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.tb.Error(err)
	}
	return strings.TrimSpace(string(text))
}

func (b *ipamBench) trail() string { return strings.Join(strings.Fields(b.read("trail")), " ") }

const withDHCP = `"network":"n","ipam":{"type":"dhcp"}`

const withPool = `"network":"n","ipam":{"type":"pool","x":[1]}`

// TestIPAMAsked: where the agent says that it has the VLAN asked first, it has longer for what waits for that.
func TestIPAMAsked(t *testing.T) {
	for longer, want := range map[time.Duration]string{time.Minute: "", 0: "Attach"} {
		b := newIPAMBench(t)
		b.p.addTimeout = 3 * time.Second // enough for Prepare anywhere
		prepared := b.agent.answers[wire.Prepare].(wire.Prepared)
		prepared.Longer = longer
		b.agent.answers[wire.Prepare] = prepared
		asked := b.agent.onAsk
		b.agent.onAsk = func(v wire.Verb) {
			asked(v)
			if b.agent.delay = 0; v == wire.Attach || v == wire.Declare {
				b.agent.delay = b.p.addTimeout + 500*time.Millisecond
			}
		}
		if _, e := b.run(t, "ADD", config("1.1.0", withPool)); (e != nil) != (want != "") || e != nil && !strings.Contains(e.Msg, want) {
			t.Errorf("%v longer: %+v", longer, e)
		}
	}
}

func TestIPAMAdd(t *testing.T) {
	for _, v := range specVersions() {
		t.Run(v, func(t *testing.T) {
			b := newIPAMBench(t)
			conf := config(v, withPool)
			out, e := b.run(t, "ADD", conf)
			if e != nil {
				t.Fatalf("%+v", e)
			}
			if got := b.trail(); got != "Prepare Attach ADD Declare configure" {
				t.Errorf("order: %s", got)
			}
			if in, env := b.read("stdin.ADD"), b.read("env.ADD"); in != conf || env != "c1 net1 /proc/self/ns/net" {
				t.Errorf("the plugin got %s, %s", in, env)
			}
			if b.kernel.spec.PeerUp {
				t.Error("the interface is up before it has an address")
			}
			generic, err := cniversion.NewResult(v, []byte(out))
			if err != nil {
				t.Fatal(err)
			}
			got, err := types100.GetResult(generic)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, ip := range got.IPs {
				lines = append(lines, fmt.Sprintf("%s by %v on %s", ip.Address.String(), ip.Gateway, got.Interfaces[*ip.Interface].Name))
			}
			for _, r := range got.Routes {
				lines = append(lines, fmt.Sprintf("%s via %v", r.Dst.String(), r.GW))
			}
			want := []string{"10.100.0.9/24 by 10.100.0.1 on net1", "fd00:100::9/64 by <nil> on net1",
				"0.0.0.0/0 via <nil>", "10.7.0.0/16 via 10.100.0.7", "fd00:7::/64 via <nil>"}
			if d := cmp.Diff(want, lines); d != "" || got.DNS.Domain != "pool" {
				t.Errorf("dns %v; result (-want +got):\n%s", got.DNS, d)
			}
			if old := strings.Contains(out, `"version": "4"`); old != (v < "1.0.0") {
				t.Errorf("form of ips: %s", out)
			}
			var said wire.DeclareRequest
			b.agent.body(t, wire.Declare, &said)
			addrs := []netip.Addr{netip.MustParseAddr("10.100.0.9"), netip.MustParseAddr("fd00:100::9")}
			if d := cmp.Diff(wire.DeclareRequest{Key: attach.Key{ContainerID: "c1", IfName: "net1"}, Addresses: addrs}, said, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
				t.Errorf("declared (-want +got):\n%s", d)
			}
			p, a := netip.MustParsePrefix, netip.MustParseAddr
			given := bridge.Addressing{Addrs: []netip.Prefix{p("10.100.0.9/24"), p("fd00:100::9/64")}, Routes: []bridge.Route{
				{Dst: p("0.0.0.0/0"), Via: a("10.100.0.1")}, {Dst: p("10.7.0.0/16"), Via: a("10.100.0.7")}, {Dst: p("fd00:7::/64")}}}
			if fmt.Sprint(given) != fmt.Sprint(b.kernel.given) {
				t.Errorf("the interface got %v, want %v", b.kernel.given, given)
			}
		})
	}
	t.Run("DNS of the config, routes with all they may have", func(t *testing.T) {
		b := newIPAMBench(t)
		b.write("out.ADD", `{"cniVersion":"1.1.0","ips":[{"address":"10.100.0.9/32"}],"routes":[{"dst":"10.0.0.0/8","mtu":1300,"advmss":1200,"priority":7,"table":300,"scope":253}],"dns":{"domain":"pool"}}`)
		out, e := b.run(t, "ADD", config("1.1.0", withPool+`,"dns":{"domain":"lab"}`))
		if e != nil || !strings.Contains(out, `"lab"`) || strings.Contains(out, `"pool"`) || !strings.Contains(out, `"advmss": 1200`) {
			t.Errorf("%+v, %s", e, out)
		}
		want := bridge.Route{Dst: netip.MustParsePrefix("10.0.0.0/8"), MTU: 1300, AdvMSS: 1200, Priority: 7, Table: 300, Scope: 253}
		if got := b.kernel.given.Routes; len(got) != 1 || got[0] != want {
			t.Errorf("routes: %+v, want %+v", got, want)
		}
	})
}

// Whatever fails, neither port nor address is left.
func TestIPAMUndo(t *testing.T) {
	const tried, undone = "Prepare Attach ADD", " Detach DEL"
	refusal := &attach.Error{Kind: attach.TryAgain, Field: "network", Message: "is odd"}
	for _, tt := range []struct {
		name  string
		do    func(*ipamBench)
		code  uint
		want  string
		trail string
	}{
		{"no prepare", func(b *ipamBench) { b.agent.answers[wire.Prepare] = refusal }, 11, "network: is odd", "Prepare"},
		{"no port", func(b *ipamBench) { b.agent.answers[wire.Attach] = refusal }, 11, "network: is odd", "Prepare Attach"},
		{"no untagged VLAN", func(b *ipamBench) {
			b.agent.answers[wire.Prepare] = wire.Prepared{Bridge: "br0", MTU: 1400, VLANs: attach.VLANs{Mode: vlan.Trunk}}
		},
			7, "ipam: the port has no untagged VLAN", "Prepare"},
		{"plugin refuses", func(b *ipamBench) { b.fails("ADD", `{"code":7,"msg":"no such range","details":"in pool"}`) }, 7, `ipam: the plugin "pool" did not do ADD: no such range; in pool`, tried + undone},
		{"plugin has a code of its own", func(b *ipamBench) { b.fails("ADD", `{"code":999,"msg":"no IP addresses available in range set"}`) }, 11, "no IP addresses available", tried + undone},
		{"plugin says nothing", func(b *ipamBench) { b.fails("ADD", "") }, 11, `ipam: the plugin "pool" did not do ADD: netplugin failed`, tried + undone},
		{"plugin hangs", func(b *ipamBench) { b.write("hang.ADD", ""); b.p.ipamTimeout = time.Second }, 11, "did not do ADD: no answer within 1s", tried + undone},
		{"no address", func(b *ipamBench) { b.write("out.ADD", `{"cniVersion":"1.0.0"}`) }, 11, `ipam: the plugin "pool" did not do ADD: it gave no address`, tried + undone},
		{"address is null", func(b *ipamBench) { b.write("out.ADD", `{"cniVersion":"1.0.0","ips":[null]}`) }, 11, "ips[0].address is missing", tried + undone},
		{"address without subnet", func(b *ipamBench) { b.write("out.ADD", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.1"}]}`) }, 11, "ipam: the plugin", tried + undone},
		{"route without destination", func(b *ipamBench) {
			b.write("out.ADD", `{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.2/24"}],"routes":[null]}`)
		}, 11, "routes[0] is null", tried + undone},
		{"no JSON", func(b *ipamBench) { b.write("out.ADD", `odd`) }, 11, "ipam: the plugin", tried + undone},
		{"result of another version", func(b *ipamBench) { b.write("out.ADD", `{"cniVersion":"9.0.0"}`) }, 11, "ipam: the plugin", tried + undone},
		{"not declared", func(b *ipamBench) { b.agent.answers[wire.Declare] = refusal }, 11, "network: is odd", tried + " Declare" + undone},
		{"not set up", func(b *ipamBench) { b.kernel.configureErr = errors.New("network is unreachable") }, 11,
			`ipam: what the plugin "pool" gave cannot be set up: network is unreachable`, tried + " Declare configure" + undone},
		{"nor undone", func(b *ipamBench) {
			b.agent.answers[wire.Declare] = &attach.Error{Kind: attach.InvalidConfig, Field: "verb", Message: "not known"}
			b.fails("DEL", `{"code":5,"msg":"disk full"}`)
		}, 7, `verb: not known. and its addresses may be left: ipam: the plugin "pool" did not do DEL: disk full`, tried + " Declare" + undone},
		{"port is left, and keeps its address", func(b *ipamBench) {
			b.agent.answers[wire.Declare] = refusal
			b.agent.answers[wire.Detach] = refusal
			b.kernel.deleteErr = errors.New("busy")
		}, 11, "network: is odd. and the port is left: busy", tried + " Declare Detach"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newIPAMBench(t)
			tt.do(b)
			_, e := b.run(t, "ADD", config("1.0.0", withPool))
			if e == nil || e.Code != tt.code || !strings.Contains(e.Msg, tt.want) {
				t.Errorf("got %+v, want code %d with %q", e, tt.code, tt.want)
			}
			if got := b.trail(); got != tt.trail {
				t.Errorf("order %q, want %q", got, tt.trail)
			}
		})
	}
	t.Run("lease is given back by the port", func(t *testing.T) {
		b := newIPAMBench(t)
		b.agent.answers[wire.Declare] = refusal
		if _, e := b.run(t, "ADD", config("1.0.0", withDHCP)); e == nil || b.trail() != tried+" Declare DEL Detach" {
			t.Errorf("got %+v, order %q", e, b.trail())
		}
	})
	t.Run("answer cannot be written", func(t *testing.T) {
		b := newIPAMBench(t)
		p := *b.p
		b.env["CNI_COMMAND"] = "ADD"
		p.stdin = strings.NewReader(config("1.0.0", withPool))
		_, w := io.Pipe()
		w.Close()
		p.stdout = w
		if code := p.run(t.Context()); code != 1 || b.trail() != tried+" Declare configure"+undone {
			t.Errorf("exit %d, order %q", code, b.trail())
		}
	})
}

// An IPAM plugin that is not there is told before anything is made.
func TestIPAMIsNotThere(t *testing.T) {
	prev := `,"prevResult":{"interfaces":[{"name":"br0"},{"name":"vetha"},{"name":"net1","sandbox":"/x"}]}`
	for verb, tt := range map[string]struct {
		keys string
		code uint
	}{"ADD": {"", 7}, "CHECK": {prev, 7}, "STATUS": {"", 7}} {
		b := newIPAMBench(t)
		_, e := b.run(t, verb, config("1.1.0", `"network":"n","ipam":{"type":"host-locale"}`+tt.keys))
		want := `ipam.type: there is no plugin "host-locale" in CNI_PATH (/none-such:` + b.dir + `); put it there, or name one that is there`
		if e == nil || e.Code != tt.code || e.Msg != want || b.trail() != "" || len(b.kernel.log) > 0 {
			t.Errorf("%s: %+v, done: %s, %v", verb, e, b.trail(), b.kernel.log)
		}
	}
}

// The end of a port waits for a lease's, but not for as long as an ADD waits for a server.
func TestIPAMWithin(t *testing.T) {
	for _, tt := range []struct {
		name, verb string
		want       time.Duration
	}{{"dhcp", "DEL", 10 * time.Second}, {"dhcp", "ADD", time.Minute}, {"dhcp", "CHECK", time.Minute}, {"host-local", "DEL", time.Minute}} {
		if got := (&ipam{name: tt.name, timeout: time.Minute}).within(tt.verb); got != tt.want {
			t.Errorf("%s %s: %v, want %v", tt.name, tt.verb, got, tt.want)
		}
	}
}

func TestIPAMDel(t *testing.T) {
	key := attach.Key{ContainerID: "c1", IfName: "net1"}
	broken := `{"cniVersion":7,"vlna":"x","prevResult":7,"ipam":{"type":"pool"}}`
	for _, tt := range []struct {
		name, conf string
		do         func(*ipamBench)
		code       uint
		want       string
		trail      string
		left       int // pairs
	}{
		{"whole", config("1.0.0", withPool), nil, 0, "", "Detach DEL", 1}, // the fake agent deletes nothing
		{"of ADD's answer", config("1.0.0", withPool+`,"prevResult":{"interfaces":[]}`), nil, 0, "", "Detach DEL", 1},
		{"lease is given back by the port", config("1.0.0", withDHCP), nil, 0, "", "DEL Detach", 1},
		{"lease cannot be given back", config("1.0.0", withDHCP), func(b *ipamBench) {
			b.agent.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
			b.fails("DEL", `{"code":999,"msg":"no daemon"}`)
		}, 11, `ipam: the plugin "dhcp" did not do DEL: no daemon`, "DEL Detach", 0},
		{"lease is not given back in time", config("1.0.0", withDHCP), func(b *ipamBench) {
			b.write("hang.DEL", "")
			b.p.ipamTimeout = time.Second
		}, 11, `ipam: the plugin "dhcp" did not do DEL: no answer within 1s`, "DEL Detach", 1},
		{"broken config", broken, nil, 0, "", "Detach DEL", 1},
		{"no IPAM", config("1.0.0", `"network":"n","ipam":{}`), nil, 0, "", "Detach", 1},
		{"agent cannot", config("1.0.0", withPool), func(b *ipamBench) {
			b.agent.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
		}, 0, "", "Detach DEL", 0},
		{"plugin fails", config("1.0.0", withPool), func(b *ipamBench) {
			b.agent.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
			b.fails("DEL", `{"code":999,"msg":"disk full"}`)
		}, 11, `ipam: the plugin "pool" did not do DEL: disk full`, "Detach DEL", 0},
		{"plugin is not there", config("1.0.0", `"network":"n","ipam":{"type":"pond"}`), func(b *ipamBench) {
			b.agent.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
		}, 11, `the addresses are not taken back: ipam.type: there is no plugin "pond" in CNI_PATH`, "Detach", 0},
		{"port stays", config("1.0.0", withPool), func(b *ipamBench) {
			b.agent.answers[wire.Detach] = &attach.Error{Kind: attach.Internal, Message: "broken"}
			b.kernel.deleteErr = errors.New("busy")
		}, 11, "busy", "Detach", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newIPAMBench(t)
			b.env["CNI_NETNS"] = "" // as when the sandbox is gone
			b.kernel.pair(hostVeth(), "net1", nil)
			b.record(t, key, hostVeth(), nil)
			if tt.do != nil {
				tt.do(b)
			}
			_, e := b.run(t, "DEL", tt.conf)
			if tt.code == 0 && e != nil || tt.code != 0 && (e == nil || e.Code != tt.code || !strings.Contains(e.Msg, tt.want)) {
				t.Errorf("got %+v, want code %d with %q", e, tt.code, tt.want)
			}
			if got := b.trail(); got != tt.trail || len(b.kernel.veths()) != tt.left {
				t.Errorf("order %q, want %q; left %v", got, tt.trail, b.kernel.veths())
			}
		})
	}
}

func TestIPAMQueries(t *testing.T) {
	prev := `,"prevResult":{"interfaces":[{"name":"br0"},{"name":"vetha"},{"name":"net1","sandbox":"/x"}]}`
	valid := `,"cni.dev/valid-attachments":[]`
	const old = `{"code":4,"msg":"unknown CNI_COMMAND: XX"}`
	for _, tt := range []struct {
		verb, keys, fails string
		code              uint
		want, trail       string
	}{
		{"CHECK", prev, "", 0, "", "Check CHECK"},
		{"CHECK", prev, `{"code":11,"msg":"not leased"}`, 100, `the port is not as ADD made it: ipam: the plugin "pool" did not do CHECK: not leased`, "Check CHECK"},
		{"STATUS", "", "", 0, "", "Status STATUS"},
		{"STATUS", "", `{"code":51,"msg":"few left"}`, 51, "few left", "Status STATUS"},
		{"STATUS", "", `{"code":101,"msg":"none left"}`, 50, "none left", "Status STATUS"},
		{"STATUS", "", old, 0, "", "Status STATUS"},
		{"GC", valid, "", 0, "", "GC GC"},
		{"GC", valid, `{"code":5,"msg":"disk full"}`, 5, "did not do GC: disk full", "GC GC"},
		{"GC", valid, old, 0, "", "GC GC"},
	} {
		t.Run(tt.verb+" "+tt.fails, func(t *testing.T) {
			b := newIPAMBench(t)
			b.kernel.pair("vetha", "net1", nil)
			b.record(t, attach.Key{ContainerID: "c1", IfName: "net1"}, "vetha", nil)
			if tt.fails != "" {
				b.fails(tt.verb, tt.fails)
			}
			conf := config("1.1.0", withPool+tt.keys)
			_, e := b.run(t, tt.verb, conf)
			if tt.code == 0 && e != nil || tt.code != 0 && (e == nil || e.Code != tt.code || !strings.Contains(e.Msg, tt.want)) {
				t.Errorf("got %+v, want code %d with %q", e, tt.code, tt.want)
			}
			if got := b.trail(); got != tt.trail || !json.Valid([]byte(b.read("stdin."+tt.verb))) || b.read("stdin."+tt.verb) != conf {
				t.Errorf("order %q, want %q; the plugin got %s", got, tt.trail, b.read("stdin."+tt.verb))
			}
		})
	}
}
