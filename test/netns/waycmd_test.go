package netns

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
)

// wayLines is how many lines cmdWay sends. Of a port's packets one now and then goes by the bridge
// though all others go past it.
const wayLines = 20

// cmdWay: way CONN NODE IF [vlan=N] fast|bridge: lines that are said on a connection arrive, and their packets
// that leave by an interface of the node went past its bridge, or by it. At a port the interface's counter tells, which
// counts what the bridge sends; at the uplink that of the bridge, of a VLAN, which has to be switched on (vlan_stats_enabled) and
// counts what comes by the uplink, too.
func cmdWay(s *session, out io.Writer, args []string) error {
	const usage = "way CONN NODE IF [vlan=N] fast|bridge"
	if err := want(args, 4, 5, usage); err != nil {
		return err
	}
	c, how := s.conns[args[0]], args[len(args)-1]
	if c == nil || how != "fast" && how != "bridge" {
		return &usageError{usage}
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	most := uint64(wayLines / 4)
	sent := func() (uint64, error) { return n.sentBy(args[2]) }
	if len(args) == 5 {
		text, ok := cutPrefix(args[3], "vlan=")
		vid, err := strconv.Atoi(text)
		if !ok || err != nil {
			return &usageError{usage}
		}
		sent = func() (uint64, error) { return n.sentInVLAN(s.ctx, args[2], vid) }
		most = wayLines * 3 / 2
	}
	before, err := sent()
	if err != nil {
		return err
	}
	for range wayLines {
		if err := c.Say(fmt.Sprintf("line %d", time.Now().UnixNano()), s.answer); err != nil {
			return err
		}
	}
	after, err := sent()
	if err != nil {
		return err
	}
	byBridge := after - before
	fmt.Fprintf(out, "%d lines, %d packets by the bridge\n", wayLines, byBridge)
	if fast := byBridge < most; fast != (how == "fast") {
		return fmt.Errorf("of %d lines, %d packets went by the bridge", wayLines, byBridge)
	}
	return nil
}

// sentBy is how many packets the kernel has sent at an interface.
func (n *Node) sentBy(name string) (packets uint64, err error) {
	err = n.Do(func() error {
		l, err := netlink.LinkByName(name)
		if err == nil {
			packets = l.Attrs().Statistics.TxPackets
		}
		return err
	})
	return packets, err
}

// sentInVLAN is how many packets the bridge has sent at one of its ports in a VLAN.
func (n *Node) sentInVLAN(ctx context.Context, name string, vid int) (uint64, error) {
	cmd := n.Command(ctx, "bridge", "-s", "-j", "vlan", "show", "dev", name)
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := n.Run(cmd); err != nil {
		return 0, err
	}
	var ports []struct {
		VLANs []struct {
			VLAN    int     `json:"vid"`
			Packets *uint64 `json:"tx_packets"`
		} `json:"vlans"`
	}
	if err := json.Unmarshal(out.Bytes(), &ports); err != nil {
		return 0, fmt.Errorf("bridge -s -j vlan: %w: %s", err, out.String())
	}
	for _, p := range ports {
		for _, v := range p.VLANs {
			if v.VLAN == vid && v.Packets != nil {
				return *v.Packets, nil
			}
		}
	}
	return 0, fmt.Errorf("bridge -s -j vlan does not count VLAN %d of %s: %s", vid, name, out.String())
}
