// Package hostfw finds out what else on a node has a hand in the frames of its
// bridges: br_netfilter and the host's iptables above all, then the network
// managers, and the few things that Homeport needs of the host. It looks and
// explains; it changes nothing, and it never switches a sysctl, since other
// parts of a Kubernetes node count on them.
//
// Netfilter sees a bridged frame only after the port programs did (tc ingress
// comes before the bridge), so it can drop what they let pass and never the
// other way round.
package hostfw

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"github.com/homeport-cni/homeport/pkg/report"
)

// Chains lists the rules of a chain as "iptables -S" prints them.
type Chains interface {
	List(table, chain string) ([]string, error)
}

// Host is the node that is looked at.
type Host struct {
	// Root holds proc, sys, etc, run, usr and boot.
	Root fs.FS
	// Chains opens the host's packet filter of a family.
	Chains func(Family) (Chains, error)
	// BPFFS is where Homeport pins, an absolute path.
	BPFFS string
}

// DefaultBPFFS is where a node's BPF file system is by convention.
const DefaultBPFFS = "/sys/fs/bpf"

// lockWait bounds the wait for the lock of iptables, seconds.
const lockWait = 5

// NewHost is the node that this process runs on, with the network namespace
// that it runs in.
func NewHost() Host {
	return Host{Root: os.DirFS("/"), Chains: openIptables, BPFFS: DefaultBPFFS}
}

func openIptables(f Family) (Chains, error) {
	proto := iptables.ProtocolIPv4
	if f == IPv6 {
		proto = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Timeout(lockWait))
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", f.tool(), err)
	}
	return ipt, nil
}

// HostChecks are the checks of this node; see [Host.Checks].
func HostChecks(bridges []string) []report.Check { return NewHost().Checks(bridges) }

// Checks asks everything that this package knows to ask. Bridges are those of
// the trunks; none means every bridge of the node.
func (h Host) Checks(bridges []string) []report.Check {
	if len(bridges) == 0 {
		bridges = h.bridges()
	}
	nf, err := h.Netfilter(bridges)
	return []report.Check{
		h.kernelVersion(),
		h.bpffs(),
		netfilterCheck(nf, err),
		h.forwardCheck(nf, err, bridges),
		h.querier(bridges),
		h.networkManager(),
		h.networkd(),
	}
}

// bridges are the names of all bridges in this network namespace.
func (h Host) bridges() []string {
	dirs, _ := fs.Glob(h.Root, "sys/class/net/*/bridge") // the pattern is right, and there is no other error
	var names []string
	for _, d := range dirs {
		names = append(names, path.Base(path.Dir(d)))
	}
	slices.Sort(names)
	return names
}

// read gives a one-line file of proc or sys.
func (h Host) read(file string) (string, error) {
	b, err := fs.ReadFile(h.Root, file)
	return strings.TrimSpace(string(b)), err
}

func (h Host) exists(file string) bool {
	_, err := fs.Stat(h.Root, file)
	return err == nil
}
