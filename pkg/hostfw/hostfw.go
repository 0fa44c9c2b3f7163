// Package hostfw finds out what else on a node has a hand in the frames of its
// bridges: br_netfilter and the host's iptables above all, then the network
// managers, and the few things that Homeport needs of the host. It looks and
// explains. It changes nothing but chains of its own, for trunks that want to
// bypass the host's filter, and it never switches a sysctl, since other parts of
// a Kubernetes node count on them.
//
// Netfilter sees a bridged frame only after the port programs did (tc ingress
// comes before the bridge), so it can drop what they let pass and never the
// other way round.
package hostfw

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// Host is the node that is looked at.
type Host struct {
	// Root holds proc, sys, etc, run, usr and boot.
	Root fs.FS
	// Tool opens a variant of iptables; the error is exec.ErrNotFound if the node
	// has no such command.
	Tool func(Family, Variant) (Tool, error)
	// NFT runs nft and gives what it says.
	NFT func(args ...string) (string, error)
	// Chains lists the base chains of a family of nftables (unix.NFPROTO_...). A kernel without it has none.
	Chains func(family uint8) ([]BaseChain, error)
	// BPFFS is where Homeport pins, an absolute path.
	BPFFS string
}

// DefaultBPFFS is where a node's BPF file system is by convention.
const DefaultBPFFS = "/sys/fs/bpf"

// NewHost is the node that this process runs on, with the network namespace
// that it runs in.
func NewHost() Host {
	return Host{Root: os.DirFS("/"), Tool: openTool, NFT: runNFT, Chains: listChains, BPFFS: DefaultBPFFS}
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
		h.droppersCheck(nf, err, bridges),
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
