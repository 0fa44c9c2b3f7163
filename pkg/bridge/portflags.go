package bridge

import (
	"strings"

	"github.com/vishvananda/netlink/nl"
)

// PortFlags are the switches of a bridge port, as bridge(8) names them.
type PortFlags struct {
	Learning   bool `json:"learning"`
	Flood      bool `json:"flood"`
	McastFlood bool `json:"mcastFlood"`
	BcastFlood bool `json:"bcastFlood"`
	Hairpin    bool `json:"hairpin"`
	Isolated   bool `json:"isolated"`
	// RootBlock refuses the port as the way to the spanning tree's root.
	RootBlock bool `json:"rootBlock"`
	// Guard switches the port off for good when a BPDU comes in.
	Guard         bool `json:"guard"`
	FastLeave     bool `json:"fastLeave"`
	McastToUcast  bool `json:"mcastToUcast"`
	ProxyARP      bool `json:"proxyARP"`
	ProxyARPWifi  bool `json:"proxyARPWifi"`
	VLANTunnel    bool `json:"vlanTunnel"`
	NeighSuppress bool `json:"neighSuppress"`
	Locked        bool `json:"locked"`
	MAB           bool `json:"mab"`
}

// GuestFlags are the flags of a port with a VM behind it:
//   - learning and all three kinds of flooding are on: the bridge is the VM's
//     switch, and a VM that has not sent yet must still be found;
//   - hairpin is off: one VM has one port, so a frame never returns to where it
//     came from (a guest that sees its own ARP takes it for a duplicate);
//   - isolation is off: VMs of one VLAN reach one another, policy permitting;
//   - root_block is on: a guest cannot become the root of the spanning tree of
//     an adopted bridge. guard is off, for one BPDU from the guest would then
//     close its port until somebody opens it by hand;
//   - the bridge answers nothing for a VM (no proxies, no suppression) and
//     opens no port by itself (no locking): all that is the port program's.
//
// A bridge plugin before us in a chain may have set some of these.
func GuestFlags() PortFlags {
	return PortFlags{Learning: true, Flood: true, McastFlood: true, BcastFlood: true, RootBlock: true}
}

// flagBits ties each flag to its attribute. mab comes before locked: the kernel
// refuses to unlock a port that still has it on.
func (f *PortFlags) flagBits() []flagBit {
	return []flagBit{
		{nl.IFLA_BRPORT_LEARNING, "learning", &f.Learning},
		{nl.IFLA_BRPORT_UNICAST_FLOOD, "flood", &f.Flood},
		{nl.IFLA_BRPORT_MCAST_FLOOD, "mcast_flood", &f.McastFlood},
		{nl.IFLA_BRPORT_BCAST_FLOOD, "bcast_flood", &f.BcastFlood},
		{nl.IFLA_BRPORT_MODE, "hairpin", &f.Hairpin},
		{nl.IFLA_BRPORT_ISOLATED, "isolated", &f.Isolated},
		{nl.IFLA_BRPORT_PROTECT, "root_block", &f.RootBlock},
		{nl.IFLA_BRPORT_GUARD, "guard", &f.Guard},
		{nl.IFLA_BRPORT_FAST_LEAVE, "fastleave", &f.FastLeave},
		{nl.IFLA_BRPORT_MCAST_TO_UCAST, "mcast_to_unicast", &f.McastToUcast},
		{nl.IFLA_BRPORT_PROXYARP, "proxy_arp", &f.ProxyARP},
		{nl.IFLA_BRPORT_PROXYARP_WIFI, "proxy_arp_wifi", &f.ProxyARPWifi},
		{nl.IFLA_BRPORT_VLAN_TUNNEL, "vlan_tunnel", &f.VLANTunnel},
		{nl.IFLA_BRPORT_NEIGH_SUPPRESS, "neigh_suppress", &f.NeighSuppress},
		{nl.IFLA_BRPORT_MAB, "mab", &f.MAB},
		{nl.IFLA_BRPORT_LOCKED, "locked", &f.Locked},
	}
}

type flagBit struct {
	attr int
	name string
	on   *bool
}

// flagWords prints the flags that are on, in the words of bridge(8).
func flagWords(f PortFlags) string {
	var on []string
	for _, bit := range f.flagBits() {
		if *bit.on {
			on = append(on, bit.name)
		}
	}
	return strings.Join(on, " ")
}

func parsePort(b []byte) (*PortAttrs, error) {
	as, err := attrs(b)
	if err != nil {
		return nil, err
	}
	var p PortAttrs
	bits := p.Flags.flagBits()
	for _, a := range as {
		if a.Attr.Type == nl.IFLA_BRPORT_STATE {
			p.State = PortState(num(a.Value))
		}
		for _, bit := range bits {
			if int(a.Attr.Type) == bit.attr {
				*bit.on = num(a.Value) != 0
			}
		}
	}
	return &p, nil
}
