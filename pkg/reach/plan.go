package reach

import (
	"cmp"
	"hash/fnv"
	"maps"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// station is one node's place on a trunk.
type station struct {
	Trunk
	node, version string
	agent         Agent
	obs           probe.Observation
	// index of obs: which hellos came, and those of each VLAN that was meant.
	came  map[hello]bool
	meant map[vlan.ID][]located
	// tries are how often it was to ask.
	tries map[question]int
}

// hello is one of a kind, as it came.
type hello struct {
	in, vlan     vlan.ID // with this tag; of that VLAN
	node, uplink string
	kind         probe.Kind
}

type located struct {
	in vlan.ID
	*probe.HeardHello
}

// take notes what the station has heard.
func (s *station) take(obs probe.Observation) {
	s.obs, s.came, s.meant = obs, map[hello]bool{}, map[vlan.ID][]located{}
	for i := range obs.Heard {
		in := obs.Heard[i].VLAN
		for j := range obs.Heard[i].Hellos {
			h := &obs.Heard[i].Hellos[j]
			s.came[hello{in, h.VLAN, h.Node, h.Uplink, h.Kind}] = true
			s.meant[h.VLAN] = append(s.meant[h.VLAN], located{in, h})
		}
	}
}

func (s *station) masked() bool { return s.Down != "" }

// segment is a VLAN of a trunk, with all who should have it.
type segment struct {
	trunk   string
	vlan    vlan.ID
	members []*station // by node and uplink
	mtu     int        // the largest that a network there has
	// networks that have the VLAN, by name.
	networks []string
	gateways []netip.Addr
	subnets  []netip.Prefix
	dhcp     bool
	servers  []netip.Addr
	hosts    []netip.Addr // beside gateways, that must answer
	// askers are who has asked whether anybody has a member's source, beside the member; alone is that
	// there was nobody else.
	askers map[own][]*station
	alone  bool
	// like is the segment in which the size of echoes was measured for this one, too; confirmed is there of
	// whom it is the size that a gateway does not answer.
	like      *segment
	confirmed map[own]bool
	// two are addresses that two stations have.
	two map[netip.Addr]bool
}

// segments are what is intended and selected: VLANs of networks, on the nodes where
// their trunks are; and those that were asked for by number, if the trunk allows them.
func segments(stations []*station, o *Options) []*segment {
	type key struct {
		trunk string
		vlan  vlan.ID
	}
	found := map[key]*segment{}
	at := func(s *station, id vlan.ID) *segment {
		g := found[key{s.Name, id}]
		if g == nil {
			g = &segment{trunk: s.Name, vlan: id}
			found[key{s.Name, id}] = g
		}
		return g
	}
	for _, s := range stations {
		if len(o.Networks) == 0 {
			for id := range o.VLANs.Intersect(s.Allowed).All() {
				at(s, id).add(s, Network{})
			}
		}
		for _, n := range s.Networks {
			if !o.wantsNetwork(n.Name) {
				continue
			}
			for id := range n.VLANs.All() {
				if !o.wantsVLAN(id) {
					continue
				}
				at(s, id).add(s, n)
			}
		}
	}
	all := slices.DeleteFunc(slices.Collect(maps.Values(found)), func(g *segment) bool {
		return !slices.ContainsFunc(g.members, func(s *station) bool { return o.wantsNode(s.node) })
	})
	slices.SortFunc(all, func(a, b *segment) int { return cmp.Or(cmp.Compare(a.trunk, b.trunk), cmp.Compare(a.vlan, b.vlan)) })
	for _, g := range all {
		slices.SortFunc(g.members, func(a, b *station) int { return cmp.Or(cmp.Compare(a.node, b.node), cmp.Compare(a.Uplink, b.Uplink)) })
		if g.mtu == 0 {
			g.mtu = slices.MinFunc(g.members, func(a, b *station) int { return cmp.Compare(a.MTU, b.MTU) }).MTU
		}
		slices.Sort(g.networks)
		slices.SortFunc(g.gateways, netip.Addr.Compare)
		slices.SortFunc(g.hosts, netip.Addr.Compare)
	}
	return all
}

func (g *segment) add(s *station, n Network) {
	if !slices.Contains(g.members, s) {
		g.members = append(g.members, s)
	}
	if n.Name != "" && !slices.Contains(g.networks, n.Name) {
		g.networks = append(g.networks, n.Name)
	}
	g.mtu = max(g.mtu, n.MTU)
	if n.Home != g.vlan {
		return // its addresses may be anywhere
	}
	g.subnets = union(g.subnets, n.Subnets)
	g.gateways = union(g.gateways, n.Gateways)
	g.hosts = union(g.hosts, n.Targets)
	g.dhcp = g.dhcp || n.DHCP
	g.servers = union(g.servers, n.DHCPServers)
}

// union adds what is new to a list.
func union[T comparable](list, more []T) []T {
	for _, x := range more {
		if !slices.Contains(list, x) {
			list = append(list, x)
		}
	}
	return list
}

// active are the members that can speak.
func (g *segment) active() []*station {
	return slices.DeleteFunc(slices.Clone(g.members), (*station).masked)
}

// asksFor says that the node itself names an address as a gateway in this VLAN: what others name, it does
// not ask for.
func (g *segment) asksFor(s *station, a netip.Addr) bool {
	return slices.ContainsFunc(s.Networks, func(n Network) bool { return n.Home == g.vlan && slices.Contains(n.Gateways, a) })
}

// isOwn says that a VM of the node itself answers for an address, to others: what the node sends out
// of its uplink does not get there.
func (g *segment) isOwn(s *station, address string) bool {
	for _, p := range g.members {
		for _, c := range p.obs.In(g.tagAt(p)).Claims {
			if p != s && c.Address.String() == address && slices.Contains(s.VMs, c.MAC) {
				return true
			}
		}
	}
	return false
}

// asked is the MTU that a segment's full hellos of a station have: no more than its uplink's.
func (g *segment) asked(s *station) int { return min(g.mtu, s.MTU) }

// neighbours are the peers that a station sends unicasts to: the next ones on its ring, so that what one
// node sends does not grow with their number.
func (g *segment) neighbours(s *station) []*station {
	const width = 2
	next := g.after(s)
	return next[:min(width, len(next))]
}

// after are a station's peers on a ring, the next one first, in an order that each VLAN has of its own.
func (g *segment) after(s *station) []*station {
	ring := g.active()
	at := func(x *station) uint64 {
		h := fnv.New64a()
		h.Write([]byte{byte(g.vlan >> 8), byte(g.vlan)})
		h.Write([]byte(x.node))
		h.Write([]byte{0})
		h.Write([]byte(x.Uplink))
		return h.Sum64()
	}
	slices.SortFunc(ring, func(a, b *station) int { return cmp.Compare(at(a), at(b)) })
	i := slices.Index(ring, s)
	if i < 0 {
		return nil
	}
	return append(slices.Clone(ring[i+1:]), ring[:i]...)
}
