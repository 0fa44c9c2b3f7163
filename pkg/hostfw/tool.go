package hostfw

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// Variant is one of the two packet filters of the kernel that iptables can
// speak to. Both judge a frame, whichever of them the host's own rules are in.
type Variant string

// The variants.
const (
	NFT    Variant = "nft"
	Legacy Variant = "legacy"
)

func variants() []Variant { return []Variant{NFT, Legacy} }

// Tool is the command iptables of one family and variant.
type Tool interface {
	// List gives the rules of a chain as "iptables -S" prints them.
	List(table, chain string) ([]string, error)
	ChainExists(table, chain string) (bool, error)
	// Restore carries out lines of iptables-restore, each table at once.
	Restore(lines string) error
}

const (
	// lockWait bounds the wait for the lock of iptables, seconds.
	lockWait = 5
	// commandLimit bounds a whole run of it.
	commandLimit = 30 * time.Second
)

// command is the real Tool.
type command struct {
	*iptables.IPTables
	path string
}

// openTool finds the command by its own name, as iptables-nft, or as the plain
// one if that is of the variant.
func openTool(f Family, v Variant) (Tool, error) {
	path, err := findTool(f, v)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", f.name(v), err)
	}
	proto := iptables.ProtocolIPv4
	if f == IPv6 {
		proto = iptables.ProtocolIPv6
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Timeout(lockWait), iptables.Path(path))
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", f.name(v), err)
	}
	return command{ipt, path}, nil
}

func findTool(f Family, v Variant) (string, error) {
	path, err := exec.LookPath(f.name(v))
	if err == nil {
		return path, nil
	}
	plain, perr := exec.LookPath(f.tool())
	if perr != nil {
		return "", err
	}
	version, verr := run(plain, "", "--version")
	if verr != nil {
		return "", verr
	}
	// Before 1.8, when there was but one, it does not say which.
	if strings.Contains(version, "(nf_tables)") == (v == NFT) {
		return plain, nil
	}
	return "", err
}

// name is how the command of a variant is called.
func (f Family) name(v Variant) string { return f.tool() + "-" + string(v) }

func (c command) Restore(lines string) error {
	_, err := run(c.path+"-restore", lines, "--noflush", "-w", strconv.Itoa(lockWait))
	return err
}

// run runs a program to its end and gives what it says, or what it complains of.
func run(path, stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, diag bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &diag
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", path, err, strings.Join(strings.Fields(diag.String()), " "))
	}
	return out.String(), nil
}

// Used is a variant that the host's rules are in, and the command for it.
type Used struct {
	Family  Family
	Variant Variant
	Tool    Tool
}

// Name is the command's, as iptables-nft.
func (u Used) Name() string { return u.Family.name(u.Variant) }

// installIptables is what to do where a variant cannot be reached.
const installIptables = "install iptables in both variants (Debian: apt-get install iptables; RHEL: dnf install iptables-nft, iptables-legacy); the image of Homeport has them"

// InUse are the variants that hold rules or chains of others, or a policy that
// drops: kubelet and kube-proxy, Docker and firewalls each leave some. Where
// there are none it is nft's, and legacy's on a node that has no other. The error
// names what the host may use and what cannot be reached; the variants that can
// be are given all the same.
func (h Host) InUse(f Family) ([]Used, error) {
	legacy, err := h.legacyTables(f)
	if err != nil {
		return nil, err
	}
	var used, spare []Used
	var hidden, silent []error // what surely matters, and what does only if all else is empty
	for _, v := range variants() {
		u := Used{Family: f, Variant: v}
		there := v == Legacy && len(legacy) > 0 || v == NFT && h.nftCompat() // in the kernel
		if u.Tool, err = h.Tool(f, v); err != nil {
			if there {
				hidden = append(hidden, fmt.Errorf("the host's rules may be in %s, which cannot be asked (%w): %s", u.Name(), err, installIptables))
			}
			silent = append(silent, err)
			continue
		}
		holds, err := u.holdsRules(legacy)
		switch {
		case err != nil && there:
			hidden = append(hidden, fmt.Errorf("list the rules of %s: %w", u.Name(), err))
		case err != nil: // a kernel without it
			silent = append(silent, fmt.Errorf("list the rules of %s: %w", u.Name(), err))
		case holds:
			used = append(used, u)
		default:
			spare = append(spare, u)
		}
	}
	if len(used) == 0 && len(hidden) == 0 && len(spare) > 0 {
		used = spare[:1]
	}
	if len(used) == 0 && len(hidden) == 0 {
		return nil, fmt.Errorf("%w: %s", errors.Join(silent...), installIptables)
	}
	return used, errors.Join(hidden...)
}

// nftCompat says that rules of iptables-nft are in the kernel, or were: all but the
// plainest need this module.
func (h Host) nftCompat() bool { return h.exists("sys/module/nft_compat") }

// legacyTables names the tables of the legacy variant that the kernel has, without
// asking the command, which would make them.
func (h Host) legacyTables(f Family) ([]string, error) {
	// Not proc/net: that is of the process's first thread, which a probe may have had
	// a namespace of its own in.
	file := "proc/thread-self/net/ip_tables_names"
	if f == IPv6 {
		file = "proc/thread-self/net/ip6_tables_names"
	}
	if !h.exists(file) {
		return nil, nil
	}
	tables, err := h.read(file)
	if err != nil {
		return nil, fmt.Errorf("find out whether legacy iptables is in use: %w", err)
	}
	return strings.Fields(tables), nil
}

// holdsRules looks at the chains that bridged frames come by, and for kubelet's
// hints, and leaves out what is ours. It goes chain by chain and stops at the first
// that tells: to list all would be dear on a node with many services.
func (u Used) holdsRules(legacy []string) (bool, error) {
	for _, at := range [][2]string{{"filter", "FORWARD"}, {"nat", "PREROUTING"}, {"nat", "POSTROUTING"}, {"raw", "PREROUTING"},
		{"mangle", "PREROUTING"}, {"mangle", "FORWARD"}, {"mangle", "POSTROUTING"}} {
		if u.Variant == Legacy && !slices.Contains(legacy, at[0]) {
			continue
		}
		lines, err := u.Tool.List(at[0], at[1])
		if err != nil {
			return false, err
		}
		for _, l := range lines {
			if l == "-P "+at[1]+" DROP" || strings.HasPrefix(l, "-A ") && !strings.Contains(l, chainPrefix) {
				return true, nil
			}
		}
	}
	if u.Variant == Legacy && !slices.Contains(legacy, "mangle") {
		return false, nil
	}
	for _, hint := range []string{"KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"} { // kubelet, pkg/kubelet/kubelet_network_linux.go
		if there, err := u.Tool.ChainExists("mangle", hint); there || err != nil {
			return there, err
		}
	}
	return false, nil
}
