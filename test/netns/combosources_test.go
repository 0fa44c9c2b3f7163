package netns

import (
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// In this VLAN nodes have addresses to ask from, and a host at the second switch is a target.
const comboSourced = 100

// sourcedKinds are faults of what is asked from there: the target is silent; a host at the second switch has a node's
// IPv4 address; less than full size gets to the gateway; and, which is none, the gateway answers no echo.
var sourcedKinds = []string{"target", "held", "route", "mute"}

// comboSources is the part of the network that says so.
func comboSources() string {
	list := ""
	for n := range comboNodes {
		list += fmt.Sprintf(`{node: %s, addresses: [%s, "fd00:100::f%d"]}, `, port(n), comboSource(n), n+1)
	}
	return fmt.Sprintf(`, reachability: {sources: [%s], targets: [10.0.100.20, "fd00:100::20"]}`, list)
}

func comboSource(node int) string { return fmt.Sprintf("10.0.100.%d", 241+node) }

// plantSourced is plant of those that the command fault does not make.
func (c *comboLab) plantSourced(f planted) error {
	lab := c.s.lab
	name := map[string]string{"held": "guest100", "mute": "gw100"}[f.kind]
	s, err := lab.Space(name)
	if err != nil {
		return err
	}
	if f.kind == "held" {
		addr := comboSource(f.node) + "/24"
		return lab.add([]string{f.kind}, nil, func() (func() error, error) {
			return func() error { return s.tool("ip", "addr", "del", addr, "dev", hostIf) }, s.address(hostIf, addr)
		})
	}
	ignore := func(value string) error {
		return s.tool("sysctl", "-q", "-w", "net.ipv4.icmp_echo_ignore_all="+value, "net.ipv6.icmp.echo_ignore_all="+value)
	}
	return lab.add([]string{f.kind}, nil, func() (func() error, error) { return func() error { return ignore("0") }, ignore("1") })
}

// askers may ask for a node whether anybody has its address: they hear each other, and the MAC that asks gets in.
func (o *oracle) askers(n int) (list []int) {
	for p := range comboNodes {
		if o.hears(n, p, comboSourced) && o.hears(p, n, comboSourced) && !o.has("secured", p, 0) {
			list = append(list, p)
		}
	}
	return list
}

// taken says that somebody is known to have the node's address: the node itself hears it, or one of two askers. It is
// undecided if there are more, and it is not the same for all.
func (o *oracle) taken(n int) bool {
	answered := func(p int) bool {
		return o.reaches(p, hostAt2, comboSourced) && !o.has("arp", p, 0) && !o.has("secured", p, 0)
	}
	all := o.askers(n)
	if !o.has("held", n, 0) || len(all) == 0 {
		return false
	}
	know := slices.DeleteFunc(slices.Clone(all), func(p int) bool { return !answered(p) })
	o.undecided = o.undecided || !answered(n) && len(all) > 2 && len(know) > 0 && len(know) < len(all)
	return answered(n) || len(know) > 0
}

// sourced is what is found by what is asked from sources, after all else that is found in the VLAN.
func (o *oracle) sourced(clear []int) {
	const v = comboSourced
	found := func(n int, codes ...reach.Code) bool {
		return slices.ContainsFunc(codes, func(c reach.Code) bool { return o.found[comboAtom(c, port(n), v)] })
	}
	type finding struct {
		code reach.Code
		node int
	}
	var list []finding
	// tell is of all who ask, if it is so for all.
	tell := func(c reach.Code, asked, bad []int) {
		for _, n := range bad {
			if len(bad) == len(asked) {
				n = -1
			}
			list = append(list, finding{c, n})
		}
	}
	for _, family := range []int{4, 6} {
		var targets, silent, echoes, small []int
		for _, n := range clear {
			if family == 4 && o.taken(n) {
				list = append(list, finding{reach.DuplicateAddress, n})
				continue
			}
			if len(o.askers(n)) == 0 {
				continue
			}
			gets := !o.has("secured", n, 0) && !(family == 4 && o.has("arp", n, 0))
			// What filters ARP, or all MACs but one, has been told.
			if !found(n, reach.MACFiltered, reach.GatewayFiltered) {
				targets = append(targets, n)
				if !gets || o.has("target", -1, 0) || !o.reaches(n, hostAt2, v) {
					silent = append(silent, n)
				}
			}
			// So has what is between nodes; and of two who have the address it is chance who is asked.
			two := family == 4 && o.found[comboAtom(reach.DuplicateAddress, "*", v)]
			if gets && len(o.answers(n, v, family)) > 0 && !two && !o.has("mute", -1, 0) && !found(n, reach.MTUBelowIntent) {
				echoes = append(echoes, n)
				if o.has("route", -1, 0) || o.has("mtu", n, 0) || o.has("narrow", -1, 0) && trunkOf(n) != trunkOf(comboGateways[v].at) {
					small = append(small, n)
				}
			}
		}
		tell(reach.TargetSilent, targets, silent)
		tell(reach.MTUBelowIntent, echoes, small)
	}
	for _, f := range list {
		o.find(f.code, f.node, v)
	}
}
