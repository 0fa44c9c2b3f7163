package report

import (
	"fmt"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// VLANs writes VLAN membership in the idiom of "bridge -compressvlans vlan":
// one line a run of VLANs with equal flags, the port named on its first line.
// Wide adds the bridge and what the port is.
func (p Printer) VLANs(l wire.VLANList) error {
	if !p.Format.IsText() {
		return p.Document(l)
	}
	pg := p.text()
	items := slices.Clone(l.Items)
	slices.SortStableFunc(items, func(a, b wire.PortVLANs) int {
		if c := strings.Compare(a.Bridge, b.Bridge); c != 0 {
			return c
		}
		return strings.Compare(a.Interface, b.Interface)
	})
	const width = 18 // as bridge(8): an interface name (15 and a NUL) and two spaces
	before := func(name, bridge, role cell) {
		pg.put(name, width)
		if pg.wide {
			pg.put(bridge, width)
			pg.put(role, len("uplink")+2)
		}
	}
	before(cell{"port", head}, cell{"bridge", head}, cell{"role", head})
	pg.line(cell{"vlan-id", head})
	for _, it := range items {
		before(say(it.Interface), say(it.Bridge), say(it.Role))
		for i, line := range memberships(it) {
			if i > 0 {
				before(cell{}, cell{}, cell{})
			}
			pg.line(say(line))
		}
	}
	return p.flush(pg)
}

// memberships are the vlan-id lines of one port, "None" if it has no VLAN.
func memberships(it wire.PortVLANs) []string {
	if it.VLANs.Empty() {
		return []string{"None"}
	}
	flags := func(id vlan.ID) string {
		var f string
		if id == it.PVID {
			f += " PVID"
		}
		if it.Untagged.Contains(id) {
			f += " Egress Untagged"
		}
		return f
	}
	var lines []string
	for _, run := range it.VLANs.Ranges() {
		for first := run.First; first <= run.Last; {
			last := first
			for last < run.Last && flags(last+1) == flags(first) {
				last++
			}
			lines = append(lines, fmt.Sprintf("%s%s", vlan.Range{First: first, Last: last}, flags(first)))
			first = last + 1
		}
	}
	return lines
}
