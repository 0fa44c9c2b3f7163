package datapath

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addresses are all that the programs know, in order.
func (b *bench) addresses() []Address {
	b.Helper()
	all, err := b.Addresses()
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(all, func(x, y Address) int { return strings.Compare(x.Network+x.Addr.String(), y.Network+y.Addr.String()) })
	return all
}

// What was put is there, as it was put last, until it is dropped or its network goes.
func TestAddresses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	at := func(network string, id vlan.ID, addr string) AddressKey {
		return AddressKey{network, id, netip.MustParseAddr(addr)}
	}
	put := func(k AddressKey, h AddressHolder) {
		t.Helper()
		if err := b.PutAddress(k, h); err != nil {
			t.Fatal(err)
		}
	}
	a, other, v6 := at("net-a", 100, "10.1.0.5"), at("net-b", 7, "10.1.0.5"), at("net-a", 4094, "fd00::5")
	every := AddressHolder{MAC: [6]byte(thief), Firm: true, Shared: true, Waits: true}
	put(a, mineFirm)
	put(other, theirs)
	put(v6, every)
	put(at("net-a", 100, "10.1.0.1"), nobodys)
	want := []Address{{AddressKey: at("net-a", 100, "10.1.0.1"), AddressHolder: nobodys}, {AddressKey: a, AddressHolder: mineFirm},
		{AddressKey: v6, AddressHolder: every}, {AddressKey: other, AddressHolder: theirs}}
	is := cmp.Options{cmp.Comparer(func(x, y netip.Addr) bool { return x == y }), cmpopts.EquateEmpty()}
	check := func() {
		t.Helper()
		if d := cmp.Diff(want, b.addresses(), is); d != "" {
			t.Errorf("want -, got +\n%s", d)
		}
	}
	check()
	// The same address to IPv4, whichever way it is written.
	put(at("net-a", 100, "::ffff:10.1.0.5"), mine)
	want[1].AddressHolder = mine
	check()
	// When it was seen is kept while its MAC stays, whatever else changes.
	c := accessPort()
	b.port(c)
	b.run(FromVM, arpBy(1, testMAC, vm4, peer4).bytes())
	seen := b.addresses()[1].Seen
	put(a, mineFirm)
	put(a, mineFirm)
	if got := b.addresses()[1]; seen.IsZero() || got.AddressHolder != mineFirm || got.Seen.Sub(seen).Abs() > time.Second {
		t.Errorf("%+v, was seen at %v", got, seen)
	}
	put(a, theirs)
	want[1].AddressHolder = theirs
	check()
	for range 2 {
		if err := b.DropAddress(v6); err != nil {
			t.Fatal(err)
		}
	}
	want = slices.Delete(want, 2, 3)
	check()
	for _, bad := range []struct {
		k    AddressKey
		h    AddressHolder
		want string
	}{
		{AddressKey{"net-a", 1, netip.Addr{}}, mine, "is no address of a NIC"},
		{at("net-a", 1, "fe80::1%eth0"), mine, "is no address of a NIC"},
		{at("net-a", 1, "::"), mine, "is no address of a NIC"},
		{at("net-a", 1, "10.0.0.1"), AddressHolder{}, "has no MAC: give that of its NIC's port"},
		{at("net-a", 1, "10.0.0.1"), AddressHolder{MAC: [6]byte(thief), Nobodys: true}, "is nobody's, and has MAC 02:00:00:00:00:07: give either"},
	} {
		if err := b.PutAddress(bad.k, bad.h); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v, want %s", bad, err, bad.want)
		}
	}
	if err := b.PutAddress(at("net-z", 1, "10.0.0.1"), mine); !errors.Is(err, ErrNoNetwork) {
		t.Errorf("a network that the node does not have: %v", err)
	}
	if err := b.DropAddress(at("net-z", 1, "10.0.0.1")); err != nil {
		t.Errorf("a network that the node does not have: %v", err)
	}
	check()
}

// With a network go its addresses, before its number is another's.
func TestAddressesOfGoneNetworks(t *testing.T) {
	b := newBench(t, Config{})
	sets := testSets(t)
	b.sync(sets...)
	k := AddressKey{"net-b", 100, vm4}
	if err := b.PutAddress(k, theirs); err != nil {
		t.Fatal(err)
	}
	was := b.names["net-b"]
	// A port's network stays though there is no policy for it, and so do its addresses.
	c := accessPort()
	netB(&c)
	b.port(c)
	b.sync(sets[0])
	b.sync(policy.Set{Network: "net-a", Default: policy.Allow})
	if got := b.addresses(); len(got) != 1 {
		t.Fatalf("%+v", got)
	}
	if err := b.DetachPort(loopback); err != nil {
		t.Fatal(err)
	}
	b.sync(sets[0])
	b.sync(policy.Set{Network: "net-a", Default: policy.Allow})
	b.sync(policy.Set{Network: "net-c", Default: policy.Allow}, policy.Set{Network: "net-a", Default: policy.Allow})
	if b.names["net-c"] != was {
		t.Fatalf("the number %d went to nobody: %v", was, b.names)
	}
	if got := b.addresses(); len(got) != 0 {
		t.Errorf("of a network that is gone another has %+v", got)
	}
	// What an agent has left that was killed in between goes with the next sweep.
	if err := b.PutAddress(AddressKey{"net-c", 100, vm4}, mine); err != nil {
		t.Fatal(err)
	}
	left := portHpAddressKey{Policy: 777, Vlan: 1, Addr: vm4.As16()}
	if err := b.maps[portMapAddresses].Put(left, portHpAddress{}); err != nil {
		t.Fatal(err)
	}
	if got := b.addresses(); len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if err := b.Sweep(); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := b.eachAddress(func(portHpAddressKey, portHpAddress) { n++ }); err != nil || n != 1 {
		t.Errorf("%d are left, %v", n, err)
	}
}

// TestManyAddresses: as many as there is room for, read whole; one more is refused and says why.
func TestManyAddresses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	number := b.names["net-a"]
	key := func(i int) portHpAddressKey {
		return portHpAddressKey{Policy: number, Vlan: 100, Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).As16()}
	}
	keys, values := make([]portHpAddressKey, AddressesMax), make([]portHpAddress, AddressesMax)
	for i := range keys {
		keys[i], values[i].Mac = key(i), [6]byte(testMAC)
	}
	if err := putAll(b.maps[portMapAddresses], keys, values); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Addresses(); len(all) != AddressesMax {
		t.Errorf("read %d of %d: %v", len(all), AddressesMax, err)
	}
	err := b.PutAddress(AddressKey{"net-a", 100, netip.MustParseAddr("11.0.0.1")}, mine)
	if err == nil || !strings.Contains(err.Error(), "have no room for more") {
		t.Error(err)
	}
	if err := b.dropAddresses(func(n uint32) bool { return n == number }); err != nil {
		t.Fatal(err)
	}
	if all := b.addresses(); len(all) > 0 {
		t.Errorf("%d are left", len(all))
	}
}

// TestPinnedAddresses: who reads pins sees who has an address; pins of an earlier version say nothing of it.
func TestPinnedAddresses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	netB(&c)
	b.port(c)
	b.hold(held{vm4.String(): mineFirm}, 100)
	b.run(FromVM, arpBy(1, testMAC, vm4, peer4).bytes())
	p, err := ReadPins(b.pins.bpffs)
	if err != nil || len(p.Problems) > 0 || len(p.Addresses) != 1 {
		t.Fatalf("%+v, %v", p, err)
	}
	a := p.Addresses[0]
	if a.Seen == nil || a.Addr != vm4 || a.Network != "net-b" || a.VLAN != 100 || a.MAC != testMAC.String() || a.Is != "firm" {
		t.Errorf("%+v", a)
	}
	for _, name := range []string{portMapAddresses, portMapHeardQuotas} {
		if err := os.Remove(b.pins.of(name)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := ReadPins(b.pins.bpffs); err != nil || len(p.Problems) > 0 || p.Addresses != nil {
		t.Errorf("pins of an earlier version: %+v, %v", p, err)
	}
}
