package agent

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
)

// heap is how much memory is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestManyAddresses: a node whose VMs have ten thousand addresses learns each, has them before the programs, keeps them over a kill
// and says of a list that it is not whole; what is known of as many on other nodes is beside them.
func TestManyAddresses(t *testing.T) {
	const ports, each, far = 100, 100, 5000
	l := newLive(t)
	s, _ := snapshot(t)
	web := s.Networks["web"]
	web.Addressing = desired.Addressing{Mode: learn.ModeObserved, Limit: 128}
	s.Networks = map[string]desired.Network{"web": web}
	since := time.Now().Add(-time.Hour).Truncate(time.Second)
	for i := range far {
		s.Identities = append(s.Identities, desired.Identity{Namespace: "shop", Name: fmt.Sprintf("far%04d.x", i), VM: fmt.Sprintf("far%04d", i), UID: fmt.Sprint("uf", i), Network: "web", Node: "n2",
			MAC: attach.MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}, Addresses: []desired.IdentityAddress{{Addr: netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), Provenance: learn.DHCP, Since: since, Until: since.Add(24 * time.Hour)}}})
	}
	l.take(s)
	before := heap()
	began := time.Now()
	var recs []*attach.Record
	for i := range ports {
		rec := l.veth(fmt.Sprint("many", i), byte(i))
		rec.Policy, rec.Trunk, rec.Pod = "web", "open", attach.Pod{Namespace: "shop", Name: fmt.Sprint("launcher-", i), UID: fmt.Sprint("u", i)}
		recs = append(recs, l.openAs(rec))
	}
	l.followAddresses()
	for i, rec := range recs {
		l.addresses.Own(rec.Key, wire.Owner{Name: fmt.Sprint("vm", i), UID: fmt.Sprint("vm-u", i), VM: true})
	}
	t.Logf("%d ports were made in %v", ports, time.Since(began))
	began = time.Now()
	for i, rec := range recs {
		for j := range each {
			f := snoop.Frame{At: time.Now(), Out: true, VLAN: 100, Data: arp(rec.MAC, fmt.Sprintf("10.1.%d.%d", i, j+1))}
			if !l.addresses.Heard(rec.HostIfIndex, f) {
				t.Fatalf("port %d is not known", i)
			}
		}
	}
	t.Logf("%d addresses were learnt in %v", ports*each, time.Since(began))
	programs := func() {
		t.Helper()
		known, err := l.kernel.dp.Addresses("open")
		l.must(err)
		ours := 0
		for _, e := range known {
			if i := slices.IndexFunc(recs, func(r *attach.Record) bool { return [6]byte(r.MAC) == e.MAC }); i >= 0 && e.Addr.As4()[2] == byte(i) {
				ours++
			}
		}
		if ours != ports*each || len(known) != ports*each+far {
			t.Errorf("the programs know %d addresses, %d of them of this node's VMs", len(known), ours)
		}
	}
	programs()
	list := func(what string) {
		t.Helper()
		if all := l.addressList(""); len(all.Items) != mostAddresses || !all.Cut {
			t.Errorf("%s the list has %d items, cut: %v", what, len(all.Items), all.Cut)
		}
		if one := l.addressList("shop/vm7"); len(one.Items) != each || one.Cut || one.Items[0].State != wire.AddressHeld || !one.Items[0].VM {
			t.Errorf("%s of one VM it has %d: %+v", what, len(one.Items), one.Items[:min(1, len(one.Items))])
		}
		if one := l.addressList("10.2.0.9"); len(one.Items) != 1 || one.Items[0].Node != "n2" || one.Items[0].Name != "far0009" || !one.Items[0].Since.Equal(since) {
			t.Errorf("%s of another node's it has %+v", what, one.Items)
		}
		byNetwork, conflicts := l.addresses.Count()
		if byNetwork["web"][wire.AddressHeld] != ports*each || conflicts != 0 {
			t.Errorf("%s %v are counted, %d conflicts", what, byNetwork, conflicts)
		}
	}
	list("at first")
	took := func(what string, do func()) {
		t.Helper()
		began := time.Now()
		do()
		t.Logf("%s took %v", what, time.Since(began))
	}
	took("what programs have noted", l.sightAddresses)
	took("following as the loop does", l.followAddresses)
	took("to save it", func() { l.saveAddresses(true) })
	file, err := os.Stat(l.statePath(addressesFile))
	l.must(err)
	used := heap() - before
	t.Logf("%d addresses of this node and %d of others are %d KiB of memory and %d KiB of disk", ports*each, far, used>>10, file.Size()>>10)
	if most := uint64(ports*each+far) * 8 << 10; used > most {
		t.Errorf("that is more than %d KiB", most>>10)
	}

	// Killed, and there again.
	l = l.restart()
	l.must(l.adoptRecords())
	l.take(s)
	l.followAddresses()
	l.sightAddresses()
	programs()
	list("after a kill")
	// Whoever claims one is refused it: nobody is forgotten.
	thief := arp(recs[1].MAC, "10.1.0.1")
	l.addresses.Heard(recs[1].HostIfIndex, snoop.Frame{At: time.Now(), Out: true, VLAN: 100, Data: thief})
	l.has("10.1.0.1", "10.1.0.1 Held ARP vm0, 10.1.0.1 Aside ARP vm1")
}
