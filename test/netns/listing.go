package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/datapath"
)

// Listing tells in a stable order what of the product is on the node: links
// with their masters and VLANs, pins, records, and the ports that the programs
// know. Two listings that are equal mean that nothing was left and nothing lost.
func (n *Node) Listing() (string, error) {
	var lines []string
	links, err := n.Link.LinkList()
	if err != nil {
		return "", err
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	vlans, err := n.Link.BridgeVlanList()
	if err != nil {
		return "", err
	}
	for _, l := range links {
		a := l.Attrs()
		line := fmt.Sprintf("link %s %s mtu %d", a.Name, l.Type(), a.MTU)
		if a.MasterIndex != 0 {
			line += " master " + names[a.MasterIndex]
		}
		if br, ok := l.(*netlink.Bridge); ok {
			line += fmt.Sprintf(" vlan_filtering %v mac %s", br.VlanFiltering != nil && *br.VlanFiltering, a.HardwareAddr)
		}
		var vids []string
		for _, v := range vlans[int32(a.Index)] {
			vids = append(vids, fmt.Sprintf("%d/%d", v.Vid, v.Flags))
		}
		if len(vids) > 0 {
			line += " vlan " + strings.Join(vids, ",")
		}
		lines = append(lines, line)
	}
	more, err := n.listFiles(names)
	if err != nil {
		return "", err
	}
	lines = append(lines, more...)
	ports, err := datapath.PinnedPorts(n.BPFFS())
	if err != nil {
		return "", err
	}
	for _, index := range ports {
		name := names[index]
		if name == "" {
			name = "(no interface)"
		}
		lines = append(lines, "port map "+name)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n", nil
}

// listFiles lists pins and records. The link pins of an interface that is there
// come and go as the agent moves ports from one kind of hook to the other, and has the fast path at
// uplinks or not; those of one that is not are listed. Which slots the pool has ready is chance; those
// of ports are told with the port.
func (n *Node) listFiles(names map[int]string) ([]string, error) {
	var lines []string
	varies := func(rel string) bool {
		var index int
		_, err := fmt.Sscanf(filepath.Base(rel), "%d-", &index)
		kind := filepath.Base(filepath.Dir(rel))
		return err == nil && ((kind == "links" || kind == "uplinks") && names[index] != "" || kind == "slots")
	}
	for kind, dir := range map[string]string{"pin": n.BPFFS(), "record": filepath.Join(n.RunDir(), "attachments")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			if !d.IsDir() {
				rel, _ := filepath.Rel(dir, path) // both are absolute
				if kind != "pin" || !varies(rel) {
					lines = append(lines, kind+" "+rel)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return lines, nil
}

// Slots counts the port slots that have pins: those of ports, those that the pool
// has ready, and those of ports that are gone until they are made fresh or freed.
func (n *Node) Slots() (int, error) {
	slots := map[int]bool{}
	err := filepath.WalkDir(n.BPFFS(), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) != "slots" {
			return err
		}
		var slot int
		if _, err := fmt.Sscanf(d.Name(), "%d-", &slot); err != nil {
			return fmt.Errorf("pin %s: %w", path, err)
		}
		slots[slot] = true
		return nil
	})
	return len(slots), err
}

// Difference gives the lines that only one of two sorted texts has.
func Difference(before, now string) string {
	count := map[string]int{}
	for _, l := range strings.Split(before, "\n") {
		count[l]--
	}
	for _, l := range strings.Split(now, "\n") {
		count[l]++
	}
	var b strings.Builder
	for _, l := range strings.Split(before+"\n"+now, "\n") {
		switch {
		case count[l] < 0:
			fmt.Fprintf(&b, "- %s\n", l)
			count[l]++
		case count[l] > 0:
			fmt.Fprintf(&b, "+ %s\n", l)
			count[l]--
		}
	}
	return b.String()
}
