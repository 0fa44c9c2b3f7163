package datapath

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Pinned is what the pinned maps say, for people who look for what is wrong.
type Pinned struct {
	ABI        int                `json:"abi"`
	Generation uint64             `json:"generation"` // in force; 0 is none
	Hash       string             `json:"hash"`       // of its content
	Links      []string           `json:"links"`      // names of pinned tcx links
	Networks   map[uint32]string  `json:"networks"`   // by policy number
	Ports      []PinnedPort       `json:"ports"`
	Stray      map[string]Counts  `json:"stray"`        // by reason: at hooks of interfaces without a record
	RuleHits   map[uint32]Counter `json:"ruleCounters"` // by index; those that are not zero
	Unanswered int                `json:"unansweredFlows"`
	Addresses  []PinnedAddress    `json:"addresses"` // who has them, as the programs know it
	HeardLost  uint64             `json:"heardLost"` // frames that say who has an address, and that nobody saw
	// Rules are the compiled policies of the generation in force.
	Rules []RuleMap `json:"-"`
	// Problems are what could not be read, and why.
	Problems []string `json:"-"`
}

// PinnedPort is one port's record, counters and number of connections.
type PinnedPort struct {
	IfIndex  int               `json:"ifindex"`
	State    string            `json:"state"`
	Network  string            `json:"network"`
	VLANs    attach.VLANs      `json:"vlans"`
	MAC      string            `json:"mac"`
	Security string            `json:"security,omitempty"`
	Slot     uint32            `json:"slot"`
	Serial   uint32            `json:"serial"`
	Flows    int               `json:"answeredFlows"` // expired ones too; -1 was not counted
	Counts   map[string]Counts `json:"counts"`        // by reason
}

// PinnedAddress is one address.
type PinnedAddress struct {
	Segment uint32     `json:"segment"` // SegmentOf its trunk
	VLAN    vlan.ID    `json:"vlan"`
	Addr    netip.Addr `json:"address"`
	MAC     string     `json:"mac"`  // of its NIC's port
	Is      string     `json:"is"`   // "firm, shared, waits, nobodys": what there is of it
	Seen    *time.Time `json:"seen"` // when the NIC last said that it has it
}

// Counts are of one reason, out of the VM and in to it.
type Counts struct {
	Out Counter `json:"out"`
	In  Counter `json:"in"`
}

// RuleMap is one map of the compiled policy: a network's pages as they are, or the
// tables of addresses as text.
type RuleMap struct {
	Name    string
	Content []byte
}

// Bounds of what ReadPins takes.
const (
	flowsCounted = 1 << 20 // of all ports
	rulesRead    = 64      // networks; each read may wait for a grace period
	pagesRead    = 8192    // of a network: 4 MiB
	prefixesRead = 100_000
)

// ReadPins reads what is pinned below a BPF filesystem and changes nothing; no
// agent is needed. An error means that nothing could be read; what could not
// besides that is in Problems. Rules need CAP_SYS_ADMIN, the rest CAP_BPF.
func ReadPins(bpffs string) (*Pinned, error) {
	d := &Datapath{pins: pins{bpffs}, maps: map[string]*ebpf.Map{}}
	defer func() { _ = d.Close() }() // nothing was written
	out := &Pinned{ABI: ABIVersion}
	names := []string{portMapControl, portMapPortIndex, portMapPortRecords, portMapPolicyNames,
		portMapStrayCounters, portMapConnsNew, portMapPrograms, portMapAddrs}
	for _, name := range names {
		m, err := ebpf.LoadPinnedMap(d.pins.of(name), nil)
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("nothing of ABI version %d is pinned below %s: %w", ABIVersion, bpffs, err)
		}
		if err != nil {
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		d.maps[name] = m
	}
	for _, name := range []string{portMapHosts, portMapLateCounters, portMapPortRates, portMapPortSegments, portMapAddresses, portMapHeardQuotas,
		portMapPortEthertypes, portMapUnicastLimits} {
		m, err := ebpf.LoadPinnedMap(d.pins.of(name), nil)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // earlier versions have none
			return nil, fmt.Errorf("open pinned map %s: %w", name, err)
		}
		d.maps[name] = m
	}
	var err error
	if d.control, err = mapControl(d.maps[portMapControl]); err != nil {
		return nil, err
	}
	if d.ports, err = mapPorts(d.maps[portMapPortIndex], d.maps[portMapPortRecords]); err != nil {
		return nil, err
	}
	if err := d.readNames(); err != nil {
		return nil, err
	}
	out.Generation, out.Hash = d.Generation(), fmt.Sprintf("%x", d.control.Hash)
	out.Networks = map[uint32]string{}
	for network, number := range d.names {
		out.Networks[number] = network
	}
	out.readPorts(d)
	out.readCounts(d)
	out.readRules(d)
	out.readAddresses(d)
	return out, nil
}

func (p *Pinned) problem(what string, err error) {
	if err != nil {
		p.Problems = append(p.Problems, fmt.Sprintf("%s: %v", what, err))
	}
}

func (p *Pinned) readPorts(d *Datapath) {
	if entries, err := os.ReadDir(d.pins.links()); err != nil {
		p.problem("pinned links", err)
	} else {
		for _, e := range entries {
			p.Links = append(p.Links, e.Name())
		}
	}
	counted := 0
	for _, port := range d.Ports() {
		at := PinnedPort{IfIndex: port.IfIndex, State: port.State.String(), Network: port.Network, VLANs: port.VLANs,
			MAC: port.MAC.String(), Slot: port.Slot, Serial: port.Serial, Flows: -1}
		if d.maps[portMapPortRates] != nil {
			full, err := d.Port(port.IfIndex)
			p.problem(fmt.Sprintf("port at interface %d", port.IfIndex), err)
			at.Security = full.Security.String()
		}
		counts, err := d.PortCounters(port.IfIndex)
		p.problem(fmt.Sprintf("port at interface %d", port.IfIndex), err)
		at.Counts = byReason(counts)
		if counted < flowsCounted {
			m, err := d.innerMap(portMapConns, port.Slot)
			if err == nil {
				at.Flows = 0
				err = eachFlow(m, func(portHpFlowKey, portHpFlow) { at.Flows++ })
				m.Close()
			}
			p.problem(fmt.Sprintf("connections of port at interface %d", port.IfIndex), err)
			counted += max(at.Flows, 0)
		}
		p.Ports = append(p.Ports, at)
	}
}

// readAddresses reads who has which address; earlier versions do not say.
func (p *Pinned) readAddresses(d *Datapath) {
	if d.maps[portMapAddresses] == nil || d.maps[portMapHeardQuotas] == nil {
		return
	}
	err := d.rawAddresses(func(k portHpAddressKey, a Address) {
		is := PinnedAddress{Segment: k.Segment, VLAN: a.VLAN, Addr: a.Addr, MAC: net.HardwareAddr(a.MAC[:]).String(), Is: a.AddressHolder.String()}
		if !a.Seen.IsZero() {
			is.Seen = &a.Seen
		}
		p.Addresses = append(p.Addresses, is)
	})
	p.problem("addresses", err)
	p.HeardLost, err = d.HeardLost()
	p.problem("what was heard", err)
}

func byReason(c ReasonCounters) map[string]Counts {
	out := map[string]Counts{}
	for reason, n := range c {
		out[reason.String()] = Counts{Out: n[policy.Out], In: n[policy.In]}
	}
	return out
}

func (p *Pinned) readCounts(d *Datapath) {
	stray, err := d.StrayCounters()
	p.problem("counters of strays", err)
	p.Stray = byReason(stray)
	p.problem("rule counters", p.readRuleHits(d))
	var cursor ebpf.MapBatchCursor
	keys, flows := make([]portHpNewKey, flowBatch), make([]portHpFlow, flowBatch)
	for {
		n, err := d.maps[portMapConnsNew].BatchLookup(&cursor, keys, flows, nil)
		p.Unanswered += n
		if err != nil {
			if !errors.Is(err, ebpf.ErrKeyNotExist) {
				p.problem("unanswered flows", err)
			}
			return
		}
	}
}

// readRuleHits reads all counters of rules that are not zero.
func (p *Pinned) readRuleHits(d *Datapath) error {
	p.RuleHits = map[uint32]Counter{}
	if err := d.openBooks(); err != nil {
		return err
	}
	for n, book := range d.books {
		err := eachCounter(book, func(at uint32, perCPU []portHpHits) {
			if sum := sumHits(perCPU, time.Time{}); sum.Counter != (Counter{}) {
				p.RuleHits[uint32(n*bookCounters)+at] = sum.Counter
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// readRules reads the side in force. The one other reader of maps of maps is the
// programs: on Linux 6.1 such a read waits for a grace period, which harms nobody
// here.
func (p *Pinned) readRules(d *Datapath) {
	if p.Generation == 0 {
		return
	}
	side := uint32(p.Generation & 1)
	tables, err := d.readTables(side)
	if err != nil {
		p.problem("compiled rules (CAP_SYS_ADMIN is needed, as root on the node has it)", err)
		return
	}
	text, err := tables.text()
	tables.close()
	p.problem("tables of addresses", err)
	p.Rules = append(p.Rules, RuleMap{"addresses.txt", text})
	for number := range p.Networks {
		if len(p.Rules) > rulesRead {
			p.problem("compiled rules", fmt.Errorf("only those of %d networks are read", rulesRead))
			return
		}
		var m *ebpf.Map
		err := d.maps[portMapPrograms].Lookup(number*2+side, &m)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			continue // a network that was, or that has no ports yet
		}
		if err != nil {
			p.problem("compiled rules of network "+p.Networks[number], err)
			continue
		}
		pages, err := pagesOf(m)
		m.Close()
		p.problem("compiled rules of network "+p.Networks[number], err)
		p.Rules = append(p.Rules, RuleMap{"rules-" + strconv.Itoa(int(number)) + ".bin", pages})
	}
}

// readTables opens the side's tables of addresses; hosts may be none, as earlier versions have it.
func (d *Datapath) readTables(side uint32) (*addrTables, error) {
	var t addrTables
	if err := d.maps[portMapAddrs].Lookup(side, &t.prefixes); err != nil {
		return nil, err
	}
	if d.maps[portMapHosts] == nil {
		return &t, nil
	}
	if err := d.maps[portMapHosts].Lookup(side, &t.hosts); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.close()
		return nil, err
	}
	return &t, nil
}

// each reads all entries, in no order, until use has enough.
func (t *addrTables) each(use func(compile.AddrClass) bool) error {
	var a compile.AddrClass
	if t.hosts != nil {
		a.Bits = hostBits
		it := t.hosts.Iterate()
		for it.Next(&a.Addr, &a.Class) {
			if !use(a) {
				return nil
			}
		}
		if err := it.Err(); err != nil {
			return err
		}
	}
	var key portAddrKey
	it := t.prefixes.Iterate()
	for it.Next(&key, &a.Class) {
		if a.Addr, a.Bits = key.Addr, uint8(key.Prefixlen); !use(a) {
			return nil
		}
	}
	return it.Err()
}

func (t *addrTables) text() ([]byte, error) {
	var b strings.Builder
	n := 0
	err := t.each(func(a compile.AddrClass) bool {
		if n++; n <= prefixesRead {
			fmt.Fprintf(&b, "%s class %d\n", a.Prefix(), a.Class)
		}
		return n <= prefixesRead
	})
	if err == nil && n > prefixesRead {
		err = fmt.Errorf("only %d prefixes are read", prefixesRead)
	}
	return []byte(b.String()), err
}

func pagesOf(m *ebpf.Map) ([]byte, error) {
	var b bytes.Buffer
	for i := range min(m.MaxEntries(), pagesRead) {
		page, err := m.LookupBytes(i)
		if err != nil {
			return b.Bytes(), err
		}
		b.Write(page)
	}
	if m.MaxEntries() > pagesRead {
		return b.Bytes(), fmt.Errorf("only %d of %d pages are read", pagesRead, m.MaxEntries())
	}
	return b.Bytes(), nil
}
