package netns

import (
	"fmt"
	"io"
	"time"

	"github.com/vishvananda/netlink"
)

// wayLines is how many lines cmdWay sends. Of a port's packets one now and then goes by the bridge
// though all others go past it.
const wayLines = 20

// cmdWay: way CONN NODE PORT fast|bridge: lines that are said on a connection arrive, and those to the
// VM at a port went past its node's bridge, or by it, as the counter of the port's interface says.
func cmdWay(s *session, out io.Writer, args []string) error {
	const usage = "way CONN NODE PORT fast|bridge"
	if err := want(args, 4, 4, usage); err != nil {
		return err
	}
	c := s.conns[args[0]]
	if c == nil || args[3] != "fast" && args[3] != "bridge" {
		return &usageError{usage}
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	sent := func() (packets uint64, err error) {
		err = n.Do(func() error {
			l, err := netlink.LinkByName(args[2])
			if err == nil {
				packets = l.Attrs().Statistics.TxPackets
			}
			return err
		})
		return packets, err
	}
	before, err := sent()
	if err != nil {
		return err
	}
	for range wayLines {
		if err := c.Say(fmt.Sprintf("line %d", time.Now().UnixNano()), answerIn); err != nil {
			return err
		}
	}
	after, err := sent()
	if err != nil {
		return err
	}
	byBridge := after - before
	fmt.Fprintf(out, "%d lines, %d packets by the bridge\n", wayLines, byBridge)
	if fast := byBridge < wayLines/4; fast != (args[3] == "fast") {
		return fmt.Errorf("of %d lines, %d packets went by the bridge", wayLines, byBridge)
	}
	return nil
}
