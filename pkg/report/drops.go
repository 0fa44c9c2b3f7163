package report

import (
	"cmp"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Drops writes what was dropped, by port and direction, most packets first.
func (p Printer) Drops(l wire.DropList) error {
	if !p.Format.IsText() {
		return p.Document(l)
	}
	pg := p.text()
	if len(l.Items) == 0 {
		pg.line(say("Nothing was dropped: every drop counter is zero."))
		return p.flush(pg)
	}
	items := slices.Clone(l.Items)
	slices.SortStableFunc(items, func(a, b wire.Drop) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Direction, b.Direction),
			cmp.Compare(b.Packets, a.Packets), cmp.Compare(a.Reason, b.Reason))
	})
	g := pg.grid("PORT", "POD", "DIRECTION", "REASON", "PACKETS", "+BYTES", "+CONTAINER", "+IFNAME", "MEANING")
	for _, it := range items {
		g.row(say(it.Interface), say(pod(it.Pod)), say(it.Direction), say(it.Reason), count(it.Packets), count(it.Bytes),
			say(it.ContainerID), say(it.IfName), say(it.Text))
	}
	g.end()
	return p.flush(pg)
}
