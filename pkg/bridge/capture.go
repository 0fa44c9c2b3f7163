package bridge

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Captures are the interfaces at which somebody looks at IP packets through packet sockets, as tcpdump
// does; 0 is all of them. Sockets for other protocols, as LLDP, are none.
func (n *Net) Captures() (map[int]bool, error) {
	var list []byte
	err := inNetns(n.ns, func() (err error) {
		list, err = os.ReadFile("/proc/thread-self/net/packet")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for captures: %w", err)
	}
	found := map[int]bool{}
	// sk RefCnt Type Proto Iface R Rmem User Inode (net/packet/af_packet.c, packet_seq_show); first of all a head.
	const proto, iface, running = 3, 4, 5
	for line := range strings.Lines(string(list)) {
		w := strings.Fields(line)
		if len(w) <= running || w[running] != "1" {
			continue
		}
		p, err1 := strconv.ParseUint(w[proto], 16, 16)
		i, err2 := strconv.Atoi(w[iface])
		if err1 == nil && err2 == nil && (p == unix.ETH_P_ALL || p == unix.ETH_P_IP || p == unix.ETH_P_IPV6) {
			found[i] = true
		}
	}
	return found, nil
}
