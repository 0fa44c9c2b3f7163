package bridge

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Captures are the interfaces at which somebody looks at IP packets through packet sockets, as tcpdump
// does; 0 is all of them. Sockets for other protocols, as LLDP, are none, and neither are those that
// own says of, by their inode, that they are the caller's.
func (n *Net) Captures(own func(inode uint64) bool) (map[int]bool, error) {
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
	const proto, iface, running, inode = 3, 4, 5, 8
	for line := range strings.Lines(string(list)) {
		w := strings.Fields(line)
		if len(w) <= inode || w[running] != "1" {
			continue
		}
		if ino, err := strconv.ParseUint(w[inode], 10, 64); err == nil && own != nil && own(ino) {
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
