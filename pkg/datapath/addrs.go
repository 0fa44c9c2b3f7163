package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// addrTables have the classes of a side's addresses: hosts those of single ones, prefixes
// those of all others. What the outer maps have stays when their descriptors are closed.
type addrTables struct{ hosts, prefixes *ebpf.Map }

// hostBits is the length of a prefix that is a single address.
const hostBits = 128

func isHost(a compile.AddrClass) bool { return a.Bits == hostBits }

func countHosts(addrs []compile.AddrClass) (n int) {
	for i := range addrs {
		if isHost(addrs[i]) {
			n++
		}
	}
	return n
}

// newTables makes empty tables for so many hosts and prefixes, and some more.
func (d *Datapath) newTables(hosts, prefixes int) (*addrTables, error) {
	var t addrTables
	for _, m := range []struct {
		of   **ebpf.Map
		name string
		n    int
	}{{&t.hosts, portMapHosts, hosts}, {&t.prefixes, portMapAddrs, prefixes}} {
		spec := d.inner[m.name].Copy()
		spec.MaxEntries = uint32(m.n + m.n/8 + 1024)
		var err error
		if *m.of, err = ebpf.NewMap(spec); err != nil {
			t.close()
			return nil, fmt.Errorf("make a table for %d %s: %w", m.n, m.name, err)
		}
	}
	return &t, nil
}

func (t *addrTables) close() {
	_, _ = t.hosts.Close(), t.prefixes.Close() // descriptors, also of none
}

// room says whether the tables can hold so many.
func (t *addrTables) room(hosts, prefixes int) bool {
	return hosts <= int(t.hosts.MaxEntries()) && prefixes <= int(t.prefixes.MaxEntries())
}

// change takes entries out and puts others in.
func (t *addrTables) change(gone, put []compile.AddrClass) error {
	for _, a := range gone {
		err := error(nil)
		if isHost(a) {
			err = t.hosts.Delete(a.Addr)
		} else {
			err = t.prefixes.Delete(prefixKey(a))
		}
		if err != nil {
			return fmt.Errorf("delete %v: %w", a.Prefix(), err)
		}
	}
	hosts := countHosts(put)
	hostKeys, hostClasses := make([][16]byte, 0, hosts), make([]uint32, 0, hosts)
	keys, classes := make([]portAddrKey, 0, len(put)-hosts), make([]uint32, 0, len(put)-hosts)
	for _, a := range put {
		if isHost(a) {
			hostKeys, hostClasses = append(hostKeys, a.Addr), append(hostClasses, a.Class)
		} else {
			keys, classes = append(keys, prefixKey(a)), append(classes, a.Class)
		}
	}
	return errors.Join(putAll(t.hosts, hostKeys, hostClasses), putAll(t.prefixes, keys, classes))
}

func prefixKey(a compile.AddrClass) portAddrKey {
	return portAddrKey{Prefixlen: uint32(a.Bits), Addr: a.Addr}
}

// forgetTables has the side's tables be made anew.
func (s *side) forgetTables() {
	if s.tables != nil {
		s.tables.close()
	}
	s.tables, s.addrs = nil, nil
}

// publishAddrs has the side's tables hold addrs: by what differs, or by new ones.
func (d *Datapath) publishAddrs(addrs []compile.AddrClass, side uint32) error {
	s := &d.sides[side]
	hosts := countHosts(addrs)
	prefixes := len(addrs) - hosts
	if s.tables != nil {
		gone, put := differ(s.addrs, addrs)
		// An entry costs more in a table that there is than in a new one.
		if s.tables.room(hosts, prefixes) && len(gone)+len(put) <= len(addrs)/4+16 {
			tables := s.tables
			s.tables = nil // until they are whole again
			err := tables.change(gone, put)
			if err == nil {
				s.tables, s.addrs = tables, addrs
				return nil
			}
			d.log.Warn("the tables of addresses could not be changed; they are made anew", "err", err)
			tables.close()
		}
	}
	tables, err := d.newTables(hosts, prefixes)
	if err != nil {
		return err
	}
	if err := tables.change(nil, addrs); err != nil {
		tables.close()
		return fmt.Errorf("fill tables of %d hosts and %d prefixes: %w", hosts, prefixes, err)
	}
	s.forgetTables() // what is there now may be neither, if publishing fails half-way
	err = errors.Join(
		d.maps[portMapHosts].Put(side, uint32(tables.hosts.FD())),
		d.maps[portMapAddrs].Put(side, uint32(tables.prefixes.FD())))
	if err != nil {
		tables.close()
		return fmt.Errorf("publish the tables of addresses: %w", err)
	}
	s.tables, s.addrs = tables, addrs
	return nil
}

// differ gives what has to go from tables that have the entries was, and what has to be
// put into them, so that they have the entries is. Both are sorted.
func differ(was, is []compile.AddrClass) (gone, put []compile.AddrClass) {
	if len(was) == len(is) && (len(is) == 0 || &was[0] == &is[0]) {
		return nil, nil
	}
	for len(was) > 0 && len(is) > 0 {
		if was[0] == is[0] {
			was, is = was[1:], is[1:]
			continue
		}
		c := was[0].Compare(is[0])
		if c < 0 {
			gone, was = append(gone, was[0]), was[1:]
			continue
		}
		put = append(put, is[0])
		if c == 0 {
			was = was[1:]
		}
		is = is[1:]
	}
	return append(gone, was...), append(put, is...)
}
