package datapath

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addresses are all that the programs know, in order.
func (b *bench) addresses() []Address {
	b.Helper()
	all, err := b.Addresses("net-a", "net-b")
	if err != nil {
		b.Fatal(err)
	}
	slices.SortFunc(all, func(x, y Address) int { return strings.Compare(x.Trunk+x.Addr.String(), y.Trunk+y.Addr.String()) })
	return all
}

// What was put is there, as it was put last, until it is dropped or its network goes.
func TestAddresses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	at := func(trunk string, id vlan.ID, addr string) AddressKey {
		return AddressKey{trunk, id, netip.MustParseAddr(addr)}
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
	check()
}

// TestAddressesElsewhere: what programs know of a trunk that nobody asks for is forgotten.
func TestAddressesElsewhere(t *testing.T) {
	b := newBench(t, Config{})
	for _, trunk := range []string{"net-a", "gone"} {
		if err := b.PutAddress(AddressKey{trunk, 100, vm4}, mine); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.addresses(); len(got) != 1 || got[0].Trunk != "net-a" {
		t.Errorf("%+v", got)
	}
	n := 0
	if err := b.eachAddress(func(portHpAddressKey, portHpAddress) { n++ }); err != nil || n != 1 {
		t.Errorf("%d are left, %v", n, err)
	}
	if SegmentOf("net-a") == SegmentOf("gone") || SegmentOf("") == 0 {
		t.Error("segments are no numbers of their own")
	}
}

// TestPortOfBefore: of a port that an earlier version has made, the programs do not know the trunk until it is written anew.
func TestPortOfBefore(t *testing.T) {
	b := newBench(t, Config{})
	c := accessPort()
	c.Trunk = "net-a"
	b.port(c)
	rec, err := b.record(loopback)
	if err != nil {
		t.Fatal(err)
	}
	segment := func() uint32 {
		t.Helper()
		p, err := b.Port(loopback)
		if err != nil {
			t.Fatal(err)
		}
		return p.Segment
	}
	if segment() != SegmentOf("net-a") {
		t.Error("the port is not on its trunk")
	}
	if err := b.maps[portMapPortSegments].Put(rec.Slot, uint32(0)); err != nil {
		t.Fatal(err)
	}
	if segment() != 0 {
		t.Error("a trunk is told that nobody has noted")
	}
	if err := b.UpdatePort(loopback, c); err != nil || segment() != SegmentOf("net-a") {
		t.Errorf("written anew it is not on its trunk: %v", err)
	}
}

// TestManyAddresses: as many as there is room for, read whole; one more is refused and says why.
func TestManyAddresses(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	key := func(i int) portHpAddressKey {
		return portHpAddressKey{Segment: SegmentOf("net-a"), Vlan: 100, Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).As16()}
	}
	keys, values := make([]portHpAddressKey, AddressesMax), make([]portHpAddress, AddressesMax)
	for i := range keys {
		keys[i], values[i].Mac = key(i), [6]byte(testMAC)
	}
	if err := putAll(b.maps[portMapAddresses], keys, values); err != nil {
		t.Fatal(err)
	}
	if all, err := b.Addresses("net-a"); len(all) != AddressesMax {
		t.Errorf("read %d of %d: %v", len(all), AddressesMax, err)
	}
	err := b.PutAddress(AddressKey{"net-a", 100, netip.MustParseAddr("11.0.0.1")}, mine)
	if err == nil || !strings.Contains(err.Error(), "have no room for more") {
		t.Error(err)
	}
	if all, err := b.Addresses(); err != nil || len(all) > 0 {
		t.Errorf("%d are left, %v", len(all), err)
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
	if a.Seen == nil || a.Addr != vm4 || a.Segment != SegmentOf("net-b") || a.VLAN != 100 || a.MAC != testMAC.String() || a.Is != "firm" {
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
