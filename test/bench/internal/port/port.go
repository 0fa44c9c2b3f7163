// Package port puts Homeport's port programs at bridge ports for a measurement:
// the programs, maps and hooks of production, and a policy of full width.
package port

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// VLAN of the ports.
const VLAN vlan.ID = 100

// Firewall is the port programs with a policy in force.
type Firewall struct {
	dp       *datapath.Datapath
	compiler compile.Compiler
	counters compile.Counters
	// By number of addresses: the sets, and what one was before SwapAddress.
	lists   map[int]map[string][]policy.AddrRange
	without map[int][]policy.AddrRange
	swaps   int
	// fast are the ports of the fast path.
	fast map[int]datapath.FastPort
	// made are the rules of networks by name, as long as these are the same, as the agent has them.
	made map[string]made
	// What Listen reads.
	ear   *datapath.HeardReader
	heard atomic.Int64
}

type made struct {
	of    Network
	rules []policy.Rule
}

// Open loads the programs, and the policies of networks.
func Open(bpffs string, networks ...Network) (f *Firewall, err error) {
	f = &Firewall{lists: map[int]map[string][]policy.AddrRange{}, without: map[int][]policy.AddrRange{}, made: map[string]made{}, fast: map[int]datapath.FastPort{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.dp, err = datapath.Open(datapath.Config{BPFFS: bpffs}); err != nil {
		return f, err
	}
	return f, f.Load(networks...)
}

// Load compiles the policies of networks and puts them in force, in place of those before.
func (f *Firewall) Load(networks ...Network) error { return f.Enforce(f.Sets(networks...)) }

// Sets are the rules of networks.
func (f *Firewall) Sets(networks ...Network) (sets []policy.Set) {
	for _, n := range networks {
		if f.lists[n.Addresses] == nil {
			f.lists[n.Addresses] = addressSets(n.Addresses)
		}
		set := policy.Set{Network: n.Name(), Default: policy.Drop, Lists: f.lists[n.Addresses]}
		if f.made[n.Name()].of != n {
			f.made[n.Name()] = made{n, n.rules(len(set.Lists) - 1)}
		}
		set.Rules = f.made[n.Name()].rules
		sets = append(sets, set)
	}
	return sets
}

// Enforce compiles rules and puts them in force.
func (f *Firewall) Enforce(sets []policy.Set) (err error) {
	if f.counters, err = f.compiler.Allocate(f.counters, sets); err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	p, err := f.compiler.Build(compile.Input{Sets: sets, Counters: f.counters})
	if err != nil {
		return fmt.Errorf("policy: %w", err)
	}
	if _, err := f.dp.Sync(p); err != nil {
		return fmt.Errorf("load policy: %w", err)
	}
	return nil
}

// SwapAddress has another address than ever before in a set of those that rules of n's addresses
// name, in place of the one of the last call. Load puts it in force.
func (f *Firewall) SwapAddress(n Network) {
	f.swaps++
	lists := maps.Clone(f.lists[n.Addresses])
	name := setName(1)
	if f.without[n.Addresses] == nil {
		f.without[n.Addresses] = lists[name]
	}
	another := netip.AddrFrom4([4]byte{9, 9, byte(f.swaps >> 8), byte(f.swaps)})
	lists[name] = policy.MergeRanges(append(slices.Clone(f.without[n.Addresses]), policy.AddrRange{First: another, Last: another}))
	f.lists[n.Addresses] = lists
}

// Anew has the next Load compile everything.
func (f *Firewall) Anew() { f.compiler = compile.Compiler{} }

// Until gives the time from now until another generation is in force, which fn brings about.
func (f *Firewall) Until(fn func() error) (active time.Duration, err error) {
	before, start := f.dp.Generation(), time.Now()
	var ended atomic.Bool
	seen := make(chan time.Duration)
	go func() {
		for f.dp.Generation() == before && !ended.Load() {
			runtime.Gosched()
		}
		seen <- time.Since(start)
	}()
	err = fn()
	ended.Store(true)
	active = <-seen
	if err == nil && f.dp.Generation() == before {
		err = errors.New("nothing has changed")
	}
	return active, err
}

// Rules that NSX has at most for one NIC.
const Rules = 4000

// Network with so many rules, whose address sets hold so many addresses and prefixes.
type Network struct {
	Rules, Addresses int
	// Turn is how often the rule in the middle has changed its range of ports.
	Turn int
	// Number tells networks of the same size apart: their rules are about other services.
	Number int
	// Ethernet: all its rules but one are about frames, and no addresses.
	Ethernet bool
}

// Name of the network.
func (n Network) Name() string {
	name := fmt.Sprintf("bench-%d-%d-%d", n.Rules, n.Addresses, n.Number)
	if n.Ethernet {
		name += "-ethernet"
	}
	return name
}

// Most is the most rules that a network can have.
const Most = compile.RulesMax

// lan is where all ports of a measurement are.
const lan = "lan"

// addressSets are some 10 addresses and prefixes each, 500 if they are 1M, a tenth of which
// the next set has, too.
func addressSets(addresses int) map[string][]policy.AddrRange {
	lists := map[string][]policy.AddrRange{lan: {policy.RangeOf(netip.MustParsePrefix("10.100.0.0/16"))}}
	sets := min(2000, addresses/10)
	for i := range sets {
		var list []policy.AddrRange
		each := addresses / sets
		for j := range each {
			at := i
			if j < each/10 {
				at = (i + 1) % sets
			}
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], 11<<24|uint32(at*each+j)<<3)
			list = append(list, policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4(a), 29+j%4)))
		}
		lists[setName(i)] = policy.MergeRanges(list)
	}
	return lists
}

func setName(i int) string { return fmt.Sprintf("set%04d", i) }

// rules name so many sets. All but the last are about others: every other one is of the
// packets' service, and of other sources. If there are fewer rules than sets, each names several, so
// that all sets are named. The last rule allows UDP within the LAN.
func (n Network) rules(sets int) (rules []policy.Rule) {
	others := max(0, n.Rules-1)
	if n.Ethernet {
		rules, others = n.frameRules(others), 0
	}
	for i := range others {
		r := policy.Rule{
			Key: policy.RuleKey{Policy: n.Name(), ID: uint32(i + 1)}, Action: policy.Drop, Directions: policy.InOut,
			Services: []policy.Service{{Protocol: policy.UDP, First: 4000 - uint16(n.Number), Last: 5000 + uint16(i)}},
		}
		if i%2 == 1 {
			r.Services = []policy.Service{{Protocol: policy.TCP, First: uint16(1000 + n.Number + i), Last: uint16(1100 + n.Number + i)}}
		}
		if i == others/2 {
			r.Services[0].Last += uint16(n.Turn)
		}
		for j := i; j < max(sets, i+1); j += others {
			r.SourceSets = append(r.SourceSets, setName(j%sets))
		}
		slices.Sort(r.SourceSets)
		rules = append(rules, r)
	}
	if n.Rules > 0 {
		rules = append(rules, policy.Rule{
			Key: policy.RuleKey{Policy: n.Name(), ID: uint32(n.Rules)}, Action: policy.Allow, Directions: policy.InOut,
			SourceSets: []string{lan}, DestinationSets: []string{lan},
			Services: []policy.Service{{Protocol: policy.UDP, First: 0, Last: 65535}},
		})
	}
	return rules
}

// frameRules are so many Ethernet rules: all but the last are about other MACs and EtherTypes, and
// that one allows IPv4.
func (n Network) frameRules(count int) (rules []policy.Rule) {
	for i := range count {
		mac := policy.MACAddr(policy.MAC{0x00, 0x50, 0x56, 0, byte(i >> 8), byte(i)})
		r := policy.Rule{Key: policy.RuleKey{Policy: n.Name() + "-frames", ID: uint32(i + 1)}, Ethernet: true, Action: policy.Drop, Directions: policy.InOut,
			Sources: []policy.AddrRange{{First: mac, Last: mac}}, Services: []policy.Service{{EtherType: 0x9300 + uint16(i%64)}}}
		if i%2 == 1 {
			r.Services = []policy.Service{{EtherType: policy.EtherIPv4}}
		}
		if i == count-1 {
			r.Action, r.Sources, r.Services = policy.Allow, nil, []policy.Service{{EtherType: policy.EtherIPv4}}
		}
		rules = append(rules, r)
	}
	return rules
}

// Use gives an open port the rules of a network.
func (f *Firewall) Use(ifindex int, network string, mac net.HardwareAddr) error {
	return f.dp.UpdatePort(ifindex, config(network, mac))
}

func config(network string, mac net.HardwareAddr) attach.PortConfig {
	return attach.PortConfig{Policy: network, VLANs: attach.VLANs{Mode: vlan.Access, PVID: VLAN}, MAC: mac}
}

// In protects ports that are in a network at first.
func (f *Firewall) In(n Network) Ports { return Ports{Firewall: f, network: n} }

// Past has them take the fast path, too: among each other.
func (p Ports) Past() Ports {
	p.past = true
	return p
}

// PastTo has one port take the fast path to and from what else is at its bridge, as an uplink, with this tag there or none.
func (p Ports) PastTo(tag vlan.ID) Ports {
	p.past, p.uplink, p.tag = true, true, tag
	return p
}

// Ports are the hooks of ports that are in a network at first.
type Ports struct {
	*Firewall
	network Network
	past    bool
	uplink  bool
	tag     vlan.ID
}

// Protect attaches both hooks, in the form that a port has once the agent has
// settled it, and opens the port.
func (p Ports) Protect(ifindex int, name string, mac net.HardwareAddr) error {
	if err := p.dp.FillPool(1); err != nil {
		return err
	}
	if err := p.dp.AttachPort(attach.Interface{Index: ifindex, Name: name}, config(p.network.Name(), mac)); err != nil {
		return err
	}
	if err := p.dp.SettlePort(ifindex); err != nil {
		return err
	}
	if err := p.dp.SetState(ifindex, attach.Active); err != nil || !p.past {
		return err
	}
	l, err := netlink.LinkByIndex(ifindex)
	if err != nil {
		return err
	}
	of := datapath.FastPort{Bridge: l.Attrs().MasterIndex, MTU: l.Attrs().MTU}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, other := range links {
		if a := other.Attrs(); p.uplink && a.MasterIndex == of.Bridge && a.Index != ifindex {
			of.Uplink, of.Tag, of.Inbound = a.Index, p.tag, true
		}
	}
	p.fast[ifindex] = of
	if err := p.attachInbound(); err != nil {
		return err
	}
	if _, err = p.dp.SetFastPath(p.fast); err == nil {
		_, err = p.dp.FoundFast(ifindex, p.fast[ifindex])
	}
	return err
}

func (f *Firewall) attachInbound() error {
	var uplinks []int
	for _, of := range f.fast {
		if of.Inbound {
			uplinks = append(uplinks, of.Uplink)
		}
	}
	failed, err := f.dp.AttachInbound(uplinks...)
	for _, why := range failed {
		err = errors.Join(err, why)
	}
	return err
}

// Live counts the connections that a port knows.
func (f *Firewall) Live(ifindex int) (int, error) {
	conns, err := f.dp.Conns(ifindex)
	return len(conns), err
}

// Scan looks through the connections of all ports, as the agent does to free those that are over.
func (f *Firewall) Scan() error {
	_, err := f.dp.GCConns(nil)
	return err
}

// Release forgets the port.
func (f *Firewall) Release(ifindex int) error {
	delete(f.fast, ifindex)
	return f.dp.DetachPort(ifindex)
}

// Established counts the packets that passed the port as part of a known
// connection, both directions.
func (f *Firewall) Established(ifindex int) (uint64, error) {
	return f.passed(ifindex, policy.ReasonEstablished)
}

// Allowed counts the packets that a rule allowed at the port.
func (f *Firewall) Allowed(ifindex int) (uint64, error) {
	return f.passed(ifindex, policy.ReasonRuleAllow)
}

func (f *Firewall) passed(ifindex int, why policy.Reason) (uint64, error) {
	c, err := f.dp.PortCounters(ifindex)
	if err != nil {
		return 0, err
	}
	return c[why][0].Packets + c[why][1].Packets, nil
}

// Close lets go; ports stay judged until their interfaces go.
func (f *Firewall) Close() error {
	if f.dp == nil {
		return nil
	}
	if f.ear != nil {
		_ = f.ear.Close() // which ends its reader
	}
	return f.dp.Close()
}

// Know has the programs know so many addresses in the ports' VLAN, of as many NICs, and no others.
func (f *Firewall) Know(n int) error {
	if _, err := f.dp.Addresses(); err != nil { // of no trunk: all are forgotten
		return err
	}
	for i := range n {
		k := datapath.AddressKey{VLAN: VLAN, Addr: netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)})}
		if err := f.dp.PutAddress(k, datapath.AddressHolder{MAC: [6]byte{0, 0x50, 0x56, 0, byte(i >> 8), byte(i)}}); err != nil {
			return err
		}
	}
	return nil
}

// Listen counts for Heard what the programs tell of addresses, until Close.
func (f *Firewall) Listen() error {
	r, err := f.dp.Heard()
	if err != nil {
		return err
	}
	f.ear = r
	go func() {
		for {
			if _, err := r.Read(); err != nil {
				return
			}
			f.heard.Add(1)
		}
	}()
	return nil
}

// Heard says how much that was since it was last asked.
func (f *Firewall) Heard() int { return int(f.heard.Swap(0)) }
