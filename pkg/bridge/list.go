package bridge

import "slices"

// Links lists all interfaces of the namespace.
func (n *Net) Links() ([]Link, error) { return n.links(0) }

// Members lists the interfaces enslaved to a bond or a bridge.
func (n *Net) Members(ref Ref) ([]Link, error) { return n.links(ref.Index) }

// SortedPorts gives the bridge's ports in the order of their names.
func (o Observed) SortedPorts() []ObservedPort {
	var ps []ObservedPort
	for _, p := range o.Ports {
		ps = append(ps, p)
	}
	slices.SortFunc(ps, func(a, b ObservedPort) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return ps
}
