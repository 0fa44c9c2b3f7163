package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// noon is when every test runs the program.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// addressList has a conflict, and a VM and a pod with names of commands.
func addressList() wire.AddressList {
	at := func(addr, state, vm string, mac byte, since, seen time.Duration) wire.Address {
		a := wire.Address{Trunk: "physnet1", VLAN: 100, Address: netip.MustParseAddr(addr), State: state, MAC: attach.MAC{2, 0, 0, 0, 0, mac}, Since: noon.Add(-since)}
		a.Namespace, a.Name, _ = strings.Cut(vm, "/")
		if seen > 0 {
			a.Seen = noon.Add(-seen)
		}
		if vm != "" {
			a.Network, a.Node, a.Place, a.VM, a.Provenance = "legacy-100", "n1", "n1", true, "ARP"
		}
		return a
	}
	declared := at("10.0.0.9", wire.AddressHeld, "shop/web-1", 0x65, 72*time.Hour, 0)
	declared.Provenance, declared.Source, declared.Node, declared.Place = "Declared", "Multus", "n2", ""
	twice := at("10.0.0.7", wire.AddressHeld, "shop/db", 0x64, 26*time.Hour, 40*time.Second)
	twice.Conflict = true
	other := at("10.0.0.7", wire.AddressOutside, "", 0xee, 5*time.Minute, 12*time.Second)
	other.Place = "sw-a port 7"
	refused := at("10.0.0.1", wire.AddressRefused, "shop/db", 0x64, time.Hour, time.Hour)
	refused.Why = "is a gateway of the network, and no NIC's to have: want another address"
	waits := at("fd00::7", wire.AddressWaiting, "shop/approve", 0x66, time.Minute, time.Minute)
	waits.Provenance = "ND"
	return wire.AddressList{TypeMeta: meta("AddressList"), Items: []wire.Address{declared, twice, other, refused, waits}}
}

// decided is the agent's side of approving: it knows of one claim.
func decided(_ context.Context, body json.RawMessage) (any, error) {
	var d wire.AddressDecision
	if err := json.Unmarshal(body, &d); err != nil {
		return nil, err
	}
	if d.Address != netip.MustParseAddr("10.0.0.7") {
		return nil, attach.Invalid("address", fmt.Sprintf("%v is not claimed by %s", d.Address, d.Name), "see homeportctl addresses")
	}
	return nil, nil
}

func TestAddresses(t *testing.T) {
	socket := newAgent(t, views(t))
	for _, args := range []string{"addresses 10.0.0.9", "address 10.0.0.9", "addresses ::ffff:10.0.0.9", "addresses web-1", "addresses shop/web-1"} {
		want := `ADDRESS   VLAN  NETWORK     VM          NODE  MAC                HOW       SINCE  SEEN  STATE
10.0.0.9  100   legacy-100  shop/web-1  n2    02:00:00:00:00:65  Declared  3d     -     Held
`
		if d := cmp.Diff(result{Stdout: want}, homeportctl(t, socket, strings.Fields(args)...)); d != "" {
			t.Errorf("%s (-want +got):\n%s", args, d)
		}
	}
	// The command approve does not hide a VM of that name.
	if r := homeportctl(t, socket, "addresses", "shop/approve"); r.Code != 0 || !strings.Contains(r.Stdout, "fd00::7  100   legacy-100  shop/approve ") {
		t.Errorf("%+v", r)
	}
	if r := homeportctl(t, socket, "addresses", "--help"); !strings.Contains(r.Stdout, "shop/approve") || !strings.Contains(r.Stdout, "\nUsage: homeportctl addresses [VM|IP] [flags], or homeportctl addresses COMMAND") {
		t.Errorf("help: %+v", r)
	}
	r := homeportctl(t, socket, "addresses", "10.0.0.9", "-o", "json")
	var l wire.AddressList
	if err := json.Unmarshal([]byte(r.Stdout), &l); err != nil || len(l.Items) != 1 || l.Items[0].Source != "Multus" {
		t.Errorf("%v in %+v", err, r)
	}
}

// Nothing at all is no error, but nothing of what was asked for is.
func TestNoAddresses(t *testing.T) {
	socket := newAgent(t, map[string]any{wire.ViewAddresses: wire.AddressList{TypeMeta: meta("AddressList"), Items: []wire.Address{}}})
	want := result{Stdout: "Nobody is known to have an address on this node's networks.\n"}
	if d := cmp.Diff(want, homeportctl(t, socket, "addresses")); d != "" {
		t.Error(d)
	}
	if r := homeportctl(t, socket, "addresses", "-o", "json"); r.Code != 0 || !strings.Contains(r.Stdout, `"items": []`) {
		t.Errorf("%+v", r)
	}
	if r := homeportctl(t, socket, "addresses", "10.0.0.9"); r.Code != 1 || r.Stdout != "" {
		t.Errorf("%+v", r)
	}
}

func TestApprove(t *testing.T) {
	var mu sync.Mutex
	var got []wire.AddressDecision
	socket := serveVerbs(t, map[wire.Verb]wire.Handler{wire.Decide: func(_ context.Context, body json.RawMessage) (any, error) {
		var d wire.AddressDecision
		err := json.Unmarshal(body, &d)
		mu.Lock()
		got = append(got, d)
		mu.Unlock()
		return nil, err
	}})
	four, six := netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")
	for args, want := range map[string]wire.AddressDecision{
		"web-1 10.0.0.7":                       {Name: "web-1", Address: four, By: "alice"},
		"shop/web-1 fd00:0::7 --vlan 200":      {Name: "shop/web-1", Address: six, VLAN: vlan.ID(200), By: "alice"},
		"--deny approve ::ffff:10.0.0.7":       {Name: "approve", Address: four, Deny: true, By: "alice"},
		"web-1 fd00::7 --vlan 4094 --deny":     {Name: "web-1", Address: six, VLAN: vlan.Max, Deny: true, By: "alice"},
		"shop/web-1.example.test 10.0.0.7":     {Name: "shop/web-1.example.test", Address: four, By: "alice"},
		strings.Repeat("a", 253) + " 10.0.0.7": {Name: strings.Repeat("a", 253), Address: four, By: "alice"},
	} {
		mu.Lock()
		got = nil
		mu.Unlock()
		r := homeportctl(t, socket, append([]string{"addresses", "approve"}, strings.Fields(args)...)...)
		mu.Lock()
		if d := cmp.Diff([]wire.AddressDecision{want}, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" || r != (result{}) {
			t.Errorf("%s: %+v (-want +got):\n%s", args, r, d)
		}
		mu.Unlock()
	}
}

// An agent that is older does not know of addresses.
func TestAddressesOfOlderAgent(t *testing.T) {
	socket := serveVerbs(t, map[wire.Verb]wire.Handler{wire.View: func(context.Context, json.RawMessage) (any, error) {
		return nil, attach.Invalid("what", `there is no view "addresses"`, "ask for status")
	}})
	for args, want := range map[string]string{
		"addresses":                        "there is no view",
		"addresses approve web-1 10.0.0.7": `the agent does not know "Decide"`,
	} {
		if r := homeportctl(t, socket, strings.Fields(args)...); r.Code != exitInconclusive || r.Stdout != "" || !strings.Contains(r.Stderr, want) {
			t.Errorf("%s: %+v", args, r)
		}
	}
}

func TestCaller(t *testing.T) {
	for _, tt := range []struct{ sudo, user, want string }{
		{"alice", "root", "alice"},
		{"", "bob", "bob"},
		{"", "", "1000"},
	} {
		env := map[string]string{"SUDO_USER": tt.sudo, "USER": tt.user}
		if got := caller(func(k string) string { return env[k] }, 1000); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}
