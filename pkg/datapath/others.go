package datapath

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Others says what others have put at the hooks and the queue of ports, and at the one hook of
// uplinks, in words; it names none at which there is nothing.
func (d *Datapath) Others(ports []int, uplinks ...int) (map[int]string, error) {
	qdiscs, err := d.netlink.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list queueing disciplines: %w", err)
	}
	hooked, queue := map[int]bool{}, map[int]string{}
	for _, q := range qdiscs {
		switch a := q.Attrs(); q.Type() {
		case "clsact", "ingress":
			hooked[a.LinkIndex] = true
		case "noqueue":
		default:
			queue[a.LinkIndex] = q.Type()
		}
	}
	found := map[int]string{}
	look := func(ifindex int, at ...Hook) error {
		what, err := d.othersAt(ifindex, hooked[ifindex], at)
		if err != nil {
			return fmt.Errorf("interface %d: %w", ifindex, err)
		}
		if what != "" {
			found[ifindex] = what
		}
		return nil
	}
	for _, ifindex := range ports {
		if kind := queue[ifindex]; kind != "" {
			found[ifindex] = "a queueing discipline (" + kind + ")"
			continue
		}
		if err := look(ifindex, FromVM, ToVM); err != nil {
			return nil, err
		}
	}
	for _, ifindex := range uplinks {
		if err := look(ifindex, inbound); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// othersAt looks at hooks of one interface; filters are only where there is a qdisc for them.
func (d *Datapath) othersAt(ifindex int, filters bool, at []Hook) (string, error) {
	for _, h := range at {
		side := [allHooks]string{"ingress", "egress", "ingress"}[h]
		if filters {
			list, err := d.netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}, h.parent())
			// Of an ingress qdisc there is no egress, and an interface may be gone by now.
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
				return "", fmt.Errorf("list filters: %w", err)
			}
			for _, f := range list {
				if b, ok := f.(*netlink.BpfFilter); !ok || b.Handle != filterHandle || b.Priority != filterPriority {
					return "a tc filter at " + side, nil
				}
			}
		}
		if !d.tcx {
			continue
		}
		q, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: h.attachType()})
		if errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("list tcx programs: %w", err)
		}
		for _, p := range q.Programs {
			if !d.own(p.ID) {
				return "a tcx program at " + side, nil
			}
		}
	}
	return "", nil
}

// own says whether a program is one of the loaded ones.
func (d *Datapath) own(id ebpf.ProgramID) bool { return slices.Contains(d.progID[:], id) }
