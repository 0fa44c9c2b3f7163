package reach

import (
	"time"

	"github.com/homeport-cni/homeport/pkg/probe"
)

// PPS is the pace of a class of frames out of an uplink, of all checks together; 0 is that of all frames.
//
// Dynamic ARP inspection shuts a port that sends more than 15 ARP packets a second, which VMs share; the
// like of it for DHCP has no limit by default, and is often given that one. Routers limit what their
// processors get of neighbour discovery and echo requests.
func PPS(c probe.Class) int {
	switch c {
	case probe.ClassARP, probe.ClassDHCP:
		return 10
	case probe.ClassND:
		return 20
	case probe.ClassEcho:
		return 50
	}
	return 0
}

// sliceTime is how much is sent at once: nodes that have nothing to send are asked all the same, and
// so do not take the check for dead.
const sliceTime = 5 * time.Second

// parts cuts what is sent into parts of sliceTime.
func (c *check) parts(asks []probe.Ask) (parts [][]probe.Ask) {
	from, of := 0, map[probe.Class]int{}
	for i, a := range asks {
		if of[a.Class()] += a.Frames(); i > from && c.takes(i+1-from, of) > sliceTime {
			parts = append(parts, asks[from:i])
			from, of = i, map[probe.Class]int{a.Class(): a.Frames()}
		}
	}
	return append(parts, asks[from:])
}

// sendTime is how long frames take to be sent.
func (c *check) sendTime(asks []probe.Ask) time.Duration {
	of := map[probe.Class]int{}
	for _, a := range asks {
		of[a.Class()] += a.Frames()
	}
	return c.takes(len(asks), of)
}

// takes is sendTime of so many frames, and of those of classes. The slowest counts.
func (c *check) takes(frames int, of map[probe.Class]int) time.Duration {
	took := time.Duration(frames) * time.Second / time.Duration(c.options.MaxPPS)
	for class, n := range of {
		if pps := PPS(class); pps > 0 {
			took = max(took, time.Duration(n)*time.Second/time.Duration(pps))
		}
	}
	return took
}
