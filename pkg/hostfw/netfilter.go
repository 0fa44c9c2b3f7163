package hostfw

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// Family is one of the packet filters that br_netfilter can send frames to.
type Family string

// The families.
const (
	IPv4 Family = "IPv4"
	IPv6 Family = "IPv6"
	ARP  Family = "ARP"
)

// tool is the command of the family's filter; br_netfilter's settings are
// named after it.
func (f Family) tool() string {
	switch f {
	case IPv6:
		return "ip6tables"
	case ARP:
		return "arptables"
	}
	return "iptables"
}

// Way is one setting that sends bridged frames through the host's filter.
type Way struct {
	Family Family
	Bridge string // "" is all bridges
}

// String is the setting as people know it.
func (w Way) String() string {
	if w.Bridge == "" {
		return "net.bridge.bridge-nf-call-" + w.Family.tool() + "=1"
	}
	return "nf_call_" + w.Family.tool() + " 1 of bridge " + w.Bridge
}

// undo is the command that takes the setting back.
func (w Way) undo() string {
	if w.Bridge == "" {
		return "sysctl -w net.bridge.bridge-nf-call-" + w.Family.tool() + "=0"
	}
	return "ip link set " + w.Bridge + " type bridge nf_call_" + w.Family.tool() + " 0"
}

// Netfilter is what br_netfilter does in this network namespace.
type Netfilter struct {
	// Loaded says that the kernel has it, as a module or built in.
	Loaded bool
	// Ways are the settings in force (net/bridge/br_netfilter_hooks.c): the
	// global ones and those of each bridge, which can only add to them.
	Ways []Way
	// Tagged says that frames with a VLAN tag go the same way.
	Tagged bool
}

// Reaches says whether bridged frames of a family get to the host's filter.
func (n Netfilter) Reaches(f Family) bool {
	for _, w := range n.Ways {
		if w.Family == f {
			return true
		}
	}
	return false
}

// Of is what is done to the frames of one bridge.
func (n Netfilter) Of(bridge string) Netfilter {
	n.Ways = slices.DeleteFunc(slices.Clone(n.Ways), func(w Way) bool { return w.Bridge != "" && w.Bridge != bridge })
	return n
}

// Switches are the settings in force, as people know them.
func (n Netfilter) Switches() string {
	var ways []string
	for _, w := range n.Ways {
		ways = append(ways, w.String())
	}
	return strings.Join(ways, ", ")
}

// errHidden: before Linux 5.3 only the first network namespace has the sysctls.
var errHidden = errors.New("br_netfilter is loaded, but its sysctls cannot be seen from this network namespace")

// Netfilter reads what br_netfilter does to the frames of these bridges. A
// bridge that does not exist yet has no settings.
func (h Host) Netfilter(bridges []string) (Netfilter, error) {
	const sysctls = "proc/sys/net/bridge"
	if !h.exists(sysctls) {
		if h.exists("sys/module/br_netfilter") {
			return Netfilter{}, errHidden
		}
		return Netfilter{}, nil
	}
	n := Netfilter{Loaded: true}
	for _, f := range []Family{IPv4, IPv6, ARP} {
		on, err := h.isOn(sysctls + "/bridge-nf-call-" + f.tool())
		if err != nil {
			return Netfilter{}, err
		}
		if on {
			n.Ways = append(n.Ways, Way{Family: f})
		}
	}
	for _, br := range bridges {
		for _, f := range []Family{IPv4, IPv6, ARP} {
			on, err := h.isOn("sys/class/net/" + br + "/bridge/nf_call_" + f.tool())
			if err != nil {
				return Netfilter{}, err
			}
			if on {
				n.Ways = append(n.Ways, Way{f, br})
			}
		}
	}
	var err error
	n.Tagged, err = h.isOn(sysctls + "/bridge-nf-filter-vlan-tagged")
	return n, err
}

// isOn reads a switch; one that is not there is off.
func (h Host) isOn(file string) (bool, error) {
	switch v, err := h.read(file); {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("read a switch of br_netfilter: %w", err)
	case v == "0":
		return false, nil
	case v == "1":
		return true, nil
	default:
		return false, fmt.Errorf("read a switch of br_netfilter: /%s is %q, want 0 or 1", file, v)
	}
}

func netfilterCheck(n Netfilter, err error) report.Check {
	c := report.Check{Name: "bridged frames stay out of the host's iptables", Answer: report.Yes}
	switch {
	case err != nil:
		c.Answer, c.Detail = report.Unknown, err.Error()
		c.Remedy = "run this in the node's own network namespace, as root"
	case !n.Loaded:
		c.Detail = "br_netfilter is not loaded"
	case len(n.Ways) == 0:
		c.Detail = "br_netfilter is there, and all its switches are off"
	default:
		c.Answer, c.Detail, c.Remedy = report.No, n.explain(), n.remedy()
	}
	return c
}

func (n Netfilter) explain() string {
	text := "br_netfilter sends bridged frames through the host's packet filter: " + n.Switches() +
		". What a port lets pass may then still be dropped by a FORWARD rule meant for containers, be rewritten by a NAT rule," +
		" and takes room in the host's connection table."
	if n.Tagged {
		return text + " bridge-nf-filter-vlan-tagged=1 does this to tagged frames too, so trunk ports and uplinks are touched as well."
	}
	return text + " It looks only at frames without a VLAN tag: two access ports of one node are filtered," +
		" while traffic that crosses the uplink is tagged on one side and mostly escapes." +
		" The sign of it is a VM that can be reached from other nodes but not from its own."
}

func (n Netfilter) remedy() string {
	var global, own []string
	for _, w := range n.Ways {
		if w.Bridge == "" {
			global = append(global, w.undo())
		} else {
			own = append(own, w.undo())
		}
	}
	var parts []string
	if len(own) > 0 {
		parts = append(parts, "for the bridge alone: "+strings.Join(own, "; ")+".")
	}
	if len(global) > 0 {
		parts = append(parts, "kubelet, kube-proxy and flannel want the sysctls at 1, and no bridge can be exempted from them."+
			" So leave them, and "+BypassRemedy+"; or let bridged frames pass the host's FORWARD chain by hand: "+
			acceptCommands([]string{IPv4.tool(), IPv6.tool()}, nil)+
			". Only where nothing on the node counts on them: "+strings.Join(global, "; ")+".")
	}
	return strings.Join(parts, " ")
}
