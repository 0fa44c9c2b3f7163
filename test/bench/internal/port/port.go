// Package port puts Homeport's port programs at bridge ports for a measurement:
// the programs, maps and hooks of production, and a policy of full width.
package port

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// network is the name of what the ports are in.
const network = "bench"

// VLAN of the ports.
const VLAN vlan.ID = 100

// Firewall is the port programs with a policy in force.
type Firewall struct {
	dp *datapath.Datapath
}

// Open loads programs and policy.
func Open(bpffs string) (f *Firewall, err error) {
	f = &Firewall{}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.dp, err = datapath.Open(datapath.Config{BPFFS: bpffs}); err != nil {
		return f, err
	}
	p, err := program()
	if err != nil {
		return f, err
	}
	if _, err := f.dp.Sync(p); err != nil {
		return f, fmt.Errorf("load policy: %w", err)
	}
	return f, f.dp.FillPool(8)
}

// Rules of the network that the ports are in at first: as many as NSX has for one NIC.
const Rules = 4000

// Network with rules.
type Network struct {
	Name  string
	Rules int
}

// Networks that a port can be in.
func Networks() []Network {
	return []Network{{"bench-0", 0}, {"bench-128", 128}, {network, Rules}, {"bench-most", compile.RulesMax}}
}

// program is the policies of all networks.
func program() (*compile.Program, error) {
	var sets []policy.Set
	for _, n := range Networks() {
		sets = append(sets, set(n.Name, n.Rules))
	}
	counters, err := compile.Allocate(nil, sets)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := compile.Build(compile.Input{Sets: sets, Counters: counters})
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return p, nil
}

// set drops by default. All n rules but the last are about others, each about another
// subnet and service; the last allows UDP within 10.100.0.0/16.
func set(network string, n int) policy.Set {
	set := policy.Set{Network: network, Default: policy.Drop}
	for i := range max(0, n-1) {
		set.Rules = append(set.Rules, policy.Rule{
			Key: policy.RuleKey{Policy: network, ID: uint32(i + 1)}, Action: policy.Drop, Directions: policy.InOut,
			Sources:  []policy.AddrRange{policy.RangeOf(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16 + byte(i>>8), byte(i), 0}), 24))},
			Services: []policy.Service{{Protocol: policy.TCP, First: uint16(1000 + i), Last: uint16(1100 + i)}},
		})
	}
	if n > 0 {
		lan := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.100.0.0/16"))}
		set.Rules = append(set.Rules, policy.Rule{
			Key: policy.RuleKey{Policy: network, ID: uint32(n)}, Action: policy.Allow, Directions: policy.InOut, Sources: lan, Destinations: lan,
			Services: []policy.Service{{Protocol: policy.UDP, First: 0, Last: 65535}},
		})
	}
	return set
}

// Use gives an open port the rules of a network.
func (f *Firewall) Use(ifindex int, network string, mac net.HardwareAddr) error {
	return f.dp.UpdatePort(ifindex, config(network, mac))
}

func config(network string, mac net.HardwareAddr) attach.PortConfig {
	return attach.PortConfig{Policy: network, VLANs: attach.VLANs{Mode: vlan.Access, PVID: VLAN}, MAC: mac}
}

// Protect attaches both hooks, in the form that a port has once the agent has
// settled it, and opens the port.
func (f *Firewall) Protect(ifindex int, name string, mac net.HardwareAddr) error {
	if err := f.dp.AttachPort(attach.Interface{Index: ifindex, Name: name}, config(network, mac)); err != nil {
		return err
	}
	if err := f.dp.SettlePort(ifindex); err != nil {
		return err
	}
	return f.dp.SetState(ifindex, attach.Active)
}

// Release forgets the port.
func (f *Firewall) Release(ifindex int) error { return f.dp.DetachPort(ifindex) }

// Established counts the packets that passed the port as part of a known
// connection, both directions.
func (f *Firewall) Established(ifindex int) (uint64, error) {
	c, err := f.dp.PortCounters(ifindex)
	if err != nil {
		return 0, err
	}
	e := c[policy.ReasonEstablished]
	return e[0].Packets + e[1].Packets, nil
}

// Close lets go; ports stay judged until their interfaces go.
func (f *Firewall) Close() error {
	if f.dp == nil {
		return nil
	}
	return f.dp.Close()
}
