package hostfw

import (
	"bufio"
	"bytes"
	"fmt"
	"io/fs"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// The oldest kernel that Homeport is made for: that of RHEL 9.
const (
	leastMajor = 5
	leastMinor = 14
)

// kernelVersion informs: distributions carry features back to old numbers, so
// what counts is what can be probed.
func (h Host) kernelVersion() report.Check {
	c := report.Check{Name: "the kernel is recent enough", Needs: fmt.Sprintf("kernel %d.%d", leastMajor, leastMinor)}
	release, err := h.read("proc/sys/kernel/osrelease")
	if err != nil {
		c.Answer, c.Detail = report.Unknown, err.Error()
		return c
	}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		c.Answer, c.Detail = report.Unknown, fmt.Sprintf("release %q is not understood", release)
		return c
	}
	c.Answer, c.Detail = report.Yes, release
	if major < leastMajor || major == leastMajor && minor < leastMinor {
		c.Answer = report.No
		c.Remedy = "use a newer kernel; the checks of single features tell what is missing on this one"
	}
	return c
}

// bpffs asks whether what is pinned there outlives the agent.
func (h Host) bpffs() report.Check {
	c := report.Check{Name: "the BPF file system is mounted", Required: true, Needs: "bpffs at " + h.BPFFS,
		Remedy: "mount -t bpf bpf " + h.BPFFS + " (systemd does it at boot; in a pod, mount it from the host with mountPropagation)"}
	b, err := fs.ReadFile(h.Root, "proc/self/mountinfo")
	if err != nil {
		c.Answer, c.Detail = report.Unknown, err.Error()
		return c
	}
	c.Answer, c.Detail = report.No, "nothing is mounted at "+h.BPFFS
	for s := bufio.NewScanner(bytes.NewReader(b)); s.Scan(); {
		at, fstype := mount(s.Text())
		switch {
		case at != h.BPFFS:
		case fstype == "bpf": // the last mount at a place is the one seen
			c.Answer, c.Detail = report.Yes, "at "+h.BPFFS
		default:
			c.Answer, c.Detail = report.No, "what is mounted at "+h.BPFFS+" is "+fstype
		}
	}
	return c
}

// mount gives place and kind of a line of mountinfo (proc_pid_mountinfo(5)).
func mount(line string) (at, fstype string) {
	left, right, _ := strings.Cut(line, " - ")
	l, r := strings.Fields(left), strings.Fields(right)
	if len(l) < 5 || len(r) < 1 {
		return "", ""
	}
	return l[4], r[0]
}

// querier warns of snooping bridges that lose their group members after some
// minutes, since nobody asks for them: IPv6 neighbour discovery goes with them.
func (h Host) querier(bridges []string) report.Check {
	c := report.Check{Name: "multicast snooping has a querier", Answer: report.Yes, Detail: "no bridge yet"}
	var silent, remedies []string
	for _, br := range bridges {
		dir := "sys/class/net/" + br + "/bridge/"
		snoops, err := h.read(dir + "multicast_snooping")
		if err != nil || snoops == "0" {
			continue // no such bridge yet, a kernel without snooping, or switched off
		}
		if asks, err := h.read(dir + "multicast_querier"); err == nil && asks == "1" {
			continue
		}
		silent = append(silent, br)
		remedies = append(remedies, "ip link set "+br+" type bridge mcast_snooping 0")
	}
	if len(bridges) > 0 {
		c.Detail = "the bridges do not snoop, or ask by themselves"
	}
	if len(silent) > 0 {
		c.Answer = report.Unknown
		c.Detail = strings.Join(silent, ", ") + ": snoops, and does not ask for group members itself. Unless a router does so in every VLAN," +
			" memberships can expire after about four minutes, and IPv6 neighbour discovery with them"
		c.Remedy = strings.Join(remedies, "; ")
	}
	return c
}
