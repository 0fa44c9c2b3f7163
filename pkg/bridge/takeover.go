package bridge

import (
	"fmt"
	"strings"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// mark is the alias (IFLA_IFALIAS; `ip link show` prints it) of every managed
// bridge. It is how a bridge is known for ours by an agent that did not make
// it: it lasts as long as the bridge and goes with it, and neither the settings
// nor the ports say anything that another tool could not have made so.
//
// The kernel takes no alias with RTM_NEWLINK's birth of a link, so a bridge of
// ours is without it for an instant. What a kill leaves in that instant has no
// address, no port and no VLAN, and passes checkTakeOver.
const mark = "homeport trunk"

func aliasAttr(text string) *nl.RtAttr { return nl.NewRtAttr(unix.IFLA_IFALIAS, []byte(text)) }

// Marked says whether a link is a bridge with the mark of a managed one.
func (l Link) Marked() bool { return l.Kind == "bridge" && l.Alias == mark }

// ours says whether a bridge is a managed one: it has the mark, or this process
// has marked it and somebody took the mark away since.
func (n *Net) ours(br Link) bool {
	_, marked := n.marked.Load(br.Ref())
	return marked || br.Alias == mark
}

// setMark makes a bridge ours, and sends nothing if it is.
func (n *Net) setMark(br Link) error {
	if br.Alias != mark {
		if err := n.setLink(br.Index, nil, aliasAttr(mark)); err != nil {
			return fmt.Errorf("mark it as managed: %w", err)
		}
	}
	n.marked.Store(br.Ref(), true)
	return nil
}

// checkTakeOver refuses to make a managed bridge of one that is there already
// and that somebody uses: the node would be cut off from the moment that VLANs
// are filtered there and only the trunk's own are let through. The error names
// everything that was found.
func (n *Net) checkTakeOver(spec TrunkSpec, br, up Link) error {
	var found []string
	if br.Master != 0 {
		found = append(found, "the master "+n.linkName(br.Master))
	}
	used, err := n.carries(br.Index)
	if err != nil {
		return err
	}
	found = append(found, used...)
	ports, err := n.links(br.Index)
	if err != nil {
		return err
	}
	for _, p := range ports {
		if p.Index != up.Index {
			found = append(found, "the port "+p.Name)
		}
	}
	if up.Index != 0 && up.Master == br.Index {
		if used, err = n.carries(up.Index); err != nil {
			return err
		}
		for _, u := range used {
			found = append(found, u+" on its uplink "+up.Name)
		}
	}
	lost, words, err := n.lostVLANs(spec, br, up)
	if err != nil {
		return err
	}
	if len(found)+len(words) == 0 {
		return nil
	}
	remedy := "set bridge.managed: false to adopt it as it is, or move these away first"
	if !lost.Empty() {
		remedy += fmt.Sprintf("; VLANs listed in managementVLANs stay (%s are not)", lost)
	}
	if len(found) == 0 {
		remedy = fmt.Sprintf("set bridge.managed: false to adopt it as it is, or list VLANs %s in managementVLANs", lost)
	}
	return fmt.Errorf("%w: it is there already, was not made by Homeport, and carries %s, which the node would lose; %s",
		ErrRefused, strings.Join(append(found, words...), ", "), remedy)
}

// lostVLANs gives the VLANs that a bridge itself and its uplink are in and
// would not be in, or not in the same way, under our management; as a set and
// in words.
func (n *Net) lostVLANs(spec TrunkSpec, br, up Link) (vlan.Set, []string, error) {
	var lost vlan.Set
	var words []string
	if spec.Flat {
		return lost, nil, nil
	}
	note := func(have PortVLANs, gone vlan.Set, where string) {
		if gone.Empty() {
			return
		}
		lost = lost.Union(gone)
		words = append(words, fmt.Sprintf("VLANs %s %s", have.only(gone), where))
	}
	self, err := n.readVLANs(br.Index)
	if err != nil {
		return lost, nil, err
	}
	note(self, self.Members.Minus(spec.Management), "on the bridge itself")
	if up.Index != 0 && up.Master == br.Index {
		have, err := n.readVLANs(up.Index)
		if err != nil {
			return lost, nil, err
		}
		c := spec.uplinkChange(have)
		gone := c.del.Union(c.add.Intersect(have.Members))
		if have.PVID != c.want.PVID {
			gone = gone.Union(single(have.PVID))
		}
		note(have, gone, "on its uplink "+up.Name)
	}
	return lost, words, nil
}

// only is the part of p that is about the VLANs of s.
func (p PortVLANs) only(s vlan.Set) PortVLANs {
	q := PortVLANs{Members: p.Members.Intersect(s), Untagged: p.Untagged.Intersect(s)}
	if s.Contains(p.PVID) {
		q.PVID = p.PVID
	}
	return q
}
