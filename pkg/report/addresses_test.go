package report

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

var now = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// address is one of a VM, heard by ARP for two days and 90 s ago; of "", it is from outside.
func address(addr string, v vlan.ID, state, vm string, mac byte) wire.Address {
	a := wire.Address{Trunk: "physnet1", VLAN: v, Address: netip.MustParseAddr(addr), State: state, MAC: attach.MAC{2, 0, 0, 0, 0, mac},
		Since: now.Add(-48 * time.Hour), Seen: now.Add(-90 * time.Second)}
	if vm != "" {
		a.Network, a.VM, a.Node, a.Place, a.Provenance = "legacy", true, "n1", "n1", "ARP"
		a.Namespace, a.Name, _ = strings.Cut(vm, "/")
	}
	return a
}

// addressList is as an agent might have it, out of order.
func addressList() wire.AddressList {
	outsider := address("10.100.0.10", 100, wire.AddressOutside, "", 0xee)
	outsider.Place, outsider.Since = "sw-a port 7", now.Add(-5*time.Minute)
	held := address("10.100.0.10", 100, wire.AddressHeld, "shop/db", 0x10)
	held.Conflict = true
	elsewhere := address("10.100.0.10", 200, wire.AddressHeld, "shop/db", 0x10)
	declared := address("10.100.0.11", 100, wire.AddressHeld, "shop/web-1", 0) // its NIC is not there yet
	declared.Provenance, declared.Source, declared.Node, declared.Place, declared.Seen, declared.Conflict = "Declared", "Multus", "", "", time.Time{}, true
	declared.MAC = make(attach.MAC, 6)
	aside := address("10.100.0.11", 100, wire.AddressAside, "test/thief", 0x66)
	aside.Conflict, aside.Node, aside.Place = true, "n2", "n2"
	denied := address("10.100.0.11", 100, wire.AddressRefused, "test/denied", 0x67)
	denied.Why = "was denied to the NIC: approve it to take that back"
	leased := address("10.100.0.12", 100, wire.AddressHeld, "shop/"+strings.Repeat("long-", 12)+"vm", 0x12)
	leased.Provenance, leased.Until, leased.ApprovedBy = "DHCP", now.Add(time.Hour), "alice"
	leased.Seen = now.Add(3 * time.Second) // the other node's clock is ahead
	bare := address("10.100.0.13", 100, wire.AddressHeld, "shop/pod-x7k2p", 0x13)
	bare.VM, bare.MAC = false, nil
	waits := address("fd00:100:aaaa:bbbb:cccc:dddd:eeee:ffff", 100, wire.AddressWaiting, "shop/db", 0x10)
	waits.Provenance = "ND"
	link := address("fe80::10", 100, wire.AddressHeld, "shop/db", 0x10)
	link.Provenance = "ND"
	vip := address("10.100.0.99", 100, wire.AddressHeld, "shop/lb-1", 0x71)
	spare := address("10.100.0.99", 100, wire.AddressAside, "shop/lb-2", 0x72) // shared: no conflict
	twice := wire.MACConflict{Namespace: "shop", Name: "db", VM: true, MAC: held.MAC, VLAN: 100, Place: "uplink of n1, sw-a port 7", Since: now.Add(-time.Hour), Seen: now,
		Others: []wire.AddressClaimant{{Namespace: "test", Name: "copy", VM: true, MAC: held.MAC, Node: "n2"}}}
	return wire.AddressList{TypeMeta: meta("AddressList"), Cut: true, MACs: []wire.MACConflict{twice},
		Items: []wire.Address{outsider, waits, denied, link, aside, spare, vip, leased, elsewhere, held, bare, declared}}
}

func addressText(t *testing.T, p Printer, l wire.AddressList) string {
	t.Helper()
	var buf bytes.Buffer
	p.W = &buf
	if err := p.Addresses(l); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// A conflict is red in the table, for each side of it, and named below.
func TestAddressConflicts(t *testing.T) {
	text := addressText(t, Printer{Now: now, Color: true}, addressList())
	for _, want := range []string{"\x1b[31mHeld, CONFLICT\x1b[0m", "\x1b[31mAside, CONFLICT\x1b[0m", "\x1b[31mOutside, CONFLICT\x1b[0m", "\x1b[32mHeld\x1b[0m",
		"\x1b[33mAside\x1b[0m", "\x1b[33mRefused: was denied", "  \x1b[31m10.100.0.10 in physnet1/100 is claimed by shop/db (02:"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if n := strings.Count(text, ", CONFLICT"); n != 4 {
		t.Errorf("%d rows are in conflict, want 4:\n%s", n, text)
	}

	// Of one VM's addresses, the other side is not there.
	l := addressList()
	l.Cut, l.Items, l.MACs = false, l.Items[9:10], nil
	want := "  10.100.0.10 in physnet1/100 is claimed by shop/db (02:00:00:00:00:10, at n1, since 2026-08-30T12:00:00Z) and by others: ask for the address\n"
	if text := addressText(t, Printer{Now: now}, l); !strings.HasSuffix(text, "\n\nCONFLICTS\n"+want) {
		t.Errorf("%s\ndoes not end in\n%s", text, want)
	}
	l.Items[0].Conflict = false
	if text := addressText(t, Printer{Now: now, Color: true}, l); strings.Contains(text, "CONFLICT") || strings.Contains(text, "more than") {
		t.Errorf("of none, and all of them:\n%s", text)
	}
}

func TestAge(t *testing.T) {
	for _, tt := range []struct {
		p    Printer
		ago  time.Duration
		want string
	}{
		{Printer{Now: now}, 0, "0s"},
		{Printer{Now: now}, -time.Hour, "0s"},
		{Printer{Now: now}, 90 * time.Second, "90s"},
		{Printer{Now: now}, 26 * time.Hour, "26h"},
		{Printer{Now: now}, 73 * time.Hour, "3d1h"},
		{Printer{Now: now, Format: Wide}, time.Hour, "2026-09-01T11:00:00Z"},
		{Printer{}, time.Hour, "2026-09-01T11:00:00Z"},
	} {
		if got := tt.p.age(now.Add(-tt.ago)); got != tt.want {
			t.Errorf("%v ago is %q, want %q", tt.ago, got, tt.want)
		}
	}
	if got := (Printer{Now: now}).age(time.Time{}); got != "" {
		t.Errorf("never is %q", got)
	}
}
