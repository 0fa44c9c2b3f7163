package hostfw

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
)

// Bypass: bridged frames pass the host's packet filter untouched. Two chains of
// our own do that, each jumped to before all else:
//
//   - raw HOMEPORT-RAW from PREROUTING takes the frames out of connection
//     tracking. With that no NAT rule of the host sees them, neither DNAT nor
//     MASQUERADE, and they take no room in its table;
//   - filter HOMEPORT-FORWARD from FORWARD accepts them.
//
// A bridge of Homeport's own has one rule in each: whatever is bridged there,
// from port to port or by the uplink, both ways, is a VM's. On a bridge of others
// there are the ports of VMs alone, and of their frames those to the node's own
// MAC stay the host's: the node may be a VM's gateway there, or its services'.
//
// Rules that ask for a bridge port load br_netfilter, whose switches are on by
// default. So there are none where frames do not reach the filter anyway.

// Bridge is a bridge whose frames are to bypass the host's packet filter.
type Bridge struct {
	Name string
	// Shared says that others have ports in it too, and the node perhaps an
	// address: only frames of Ports bypass then, and none to MAC, the bridge's own.
	Shared bool
	Ports  []string
	MAC    net.HardwareAddr
}

// chainPrefix begins the names of our chains.
const chainPrefix = "HOMEPORT-"

// ownChain is one chain of ours.
type ownChain struct {
	table, from, name string
	rules             func([]Bridge) []string // as "iptables -S" prints them, without -A and chain
}

func ownChains() []ownChain {
	return []ownChain{
		{"raw", "PREROUTING", chainPrefix + "RAW", rawRules},
		{"filter", "FORWARD", chainPrefix + "FORWARD", forwardRules},
	}
}

// ChainNames are those of our chains.
func ChainNames() []string {
	var out []string
	for _, c := range ownChains() {
		out = append(out, c.name)
	}
	return out
}

// rawRules take frames out of connection tracking, and past the host's other
// rules of this table. In PREROUTING nobody knows yet where a frame will go.
func rawRules(bridges []Bridge) []string {
	var out []string
	add := func(match string) { out = append(out, match+" -j CT --notrack", match+" -j ACCEPT") }
	for _, b := range bridges {
		if !b.Shared {
			add("-i " + b.Name + " -m physdev --physdev-is-in")
			continue
		}
		for _, p := range b.Ports {
			add("-i " + b.Name + " -m physdev --physdev-in " + p + ` -m bpf --bytecode "` + notTo(b.MAC) + `"`)
		}
	}
	return out
}

func forwardRules(bridges []Bridge) []string {
	var out []string
	for _, b := range bridges {
		if !b.Shared {
			out = append(out, "-i "+b.Name+" -m physdev --physdev-is-bridged -j ACCEPT")
			continue
		}
		for _, p := range b.Ports {
			out = append(out, "-i "+b.Name+" -m physdev --physdev-in "+p+" --physdev-is-bridged -j ACCEPT",
				"-i "+b.Name+" -m physdev --physdev-out "+p+" --physdev-is-bridged -j ACCEPT")
		}
	}
	return out
}

// notTo is a classic BPF program, in the form of iptables -m bpf, that matches
// frames to any other MAC than this one: iptables knows no match of destination
// MACs. Load offsets from SKF_LL_OFF (linux/filter.h) on are in the Ethernet header.
func notTo(mac net.HardwareAddr) string {
	const linkLayer = 1<<32 - 0x200000
	var high, low uint32
	if len(mac) == 6 {
		high = uint32(mac[0])<<8 | uint32(mac[1])
		low = uint32(mac[2])<<24 | uint32(mac[3])<<16 | uint32(mac[4])<<8 | uint32(mac[5])
	}
	return fmt.Sprintf("6,32 0 0 %d,21 0 3 %d,40 0 0 %d,21 0 1 %d,6 0 0 0,6 0 0 65535", linkLayer+2, low, linkLayer, high)
}

// Edited is a chain of ours that is not as it should be.
type Edited struct {
	Used
	Table, Chain string
	// Absent says that nothing of it is there, as before it is set up.
	Absent  bool
	Message string // what is wrong
	repair  string // lines of iptables-restore
}

// Repair puts the chain right in one transaction: no frame meets it half done.
func (e Edited) Repair() error {
	if err := e.Tool.Restore(e.repair); err != nil {
		return fmt.Errorf("chain %s of table %s: %w", e.Chain, e.Table, err)
	}
	return nil
}

// Compare says what our chains lack or have too much for these bridges to bypass
// the filter. Without bridges they should not be there at all.
func (u Used) Compare(bridges []Bridge) ([]Edited, error) {
	for _, b := range bridges {
		for _, name := range append([]string{b.Name}, b.Ports...) {
			if strings.HasSuffix(name, "+") {
				return nil, fmt.Errorf("interface %s: to iptables its + stands for any name that begins so: choose another", name)
			}
		}
	}
	var out []Edited
	for _, c := range ownChains() {
		want := c.rules(bridges)
		have, err := u.read(c)
		if err != nil {
			return out, fmt.Errorf("%s: read chain %s of table %s: %w", u.Name(), c.name, c.table, err)
		}
		e := Edited{Used: u, Table: c.table, Chain: c.name, Absent: !have.exists}
		if len(want) == 0 {
			if e.Absent {
				continue
			}
			e.Message, e.repair = "it should not be there", c.removal(have)
		} else if e.Message = c.difference(want, have); e.Message != "" {
			e.repair = c.text(want, have)
		} else {
			continue
		}
		out = append(out, e)
	}
	return out, nil
}

// chainState is a chain of ours as it is.
type chainState struct {
	exists bool
	rules  []string // without -A and chain
	jumps  []string // rules that lead to it, without -A and chain
	before string   // the rule before the first of these
}

func (u Used) read(c ownChain) (chainState, error) {
	lines, err := u.Tool.List(c.table, c.name)
	if err != nil {
		exists, xerr := u.Tool.ChainExists(c.table, c.name)
		if xerr == nil && !exists {
			err = nil // so nothing can jump to it
		}
		return chainState{}, err
	}
	s := chainState{exists: true, rules: rulesOf(c.name, lines)}
	lines, err = u.Tool.List(c.table, c.from)
	for i, rule := range rulesOf(c.from, lines) {
		if strings.HasSuffix(rule, "-j "+c.name) || strings.HasSuffix(rule, "-g "+c.name) {
			s.jumps = append(s.jumps, rule)
		} else if i == 0 {
			s.before = rule
		}
	}
	return s, err
}

// rulesOf are the rules of a chain without -A and chain, each blank one space.
func rulesOf(chain string, lines []string) []string {
	var out []string
	for _, l := range lines {
		if words := strings.Fields(l); len(words) > 2 && words[0] == "-A" && words[1] == chain {
			out = append(out, strings.Join(words[2:], " "))
		}
	}
	return out
}

// difference says what is wrong with a chain that should have these rules, "" if
// nothing is.
func (c ownChain) difference(want []string, have chainState) string {
	var wrong []string
	switch {
	case !have.exists:
		wrong = append(wrong, "it is not there")
	case !slices.Equal(want, have.rules):
		missing, extra := 0, 0
		for _, r := range want {
			if !slices.Contains(have.rules, r) {
				missing++
			}
		}
		for _, r := range have.rules {
			if !slices.Contains(want, r) {
				extra++
			}
		}
		switch {
		case missing == 0 && extra == 0:
			wrong = append(wrong, "its rules are in another order, or doubled")
		case extra == 0:
			wrong = append(wrong, fmt.Sprintf("%d of its %d rules are missing", missing, len(want)))
		default:
			wrong = append(wrong, fmt.Sprintf("%d of its %d rules are missing, and %d are not ours", missing, len(want), extra))
		}
	}
	switch {
	case len(have.jumps) == 0:
		wrong = append(wrong, c.from+" does not jump to it")
	case len(have.jumps) > 1 || have.jumps[0] != "-j "+c.name:
		wrong = append(wrong, fmt.Sprintf("%s should jump to it once, for all frames, and does so by %q", c.from, have.jumps))
	case have.before != "":
		wrong = append(wrong, fmt.Sprintf("a rule of %s comes first: %s", c.from, have.before))
	}
	return strings.Join(wrong, "; ")
}

// text makes the chain what it should be. Naming it in a restore without flush
// empties it, in the same transaction.
func (c ownChain) text(want []string, have chainState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n:%s - [0:0]\n", c.table, c.name)
	for _, r := range want {
		fmt.Fprintf(&b, "-A %s %s\n", c.name, r)
	}
	if have.before != "" || len(have.jumps) != 1 || have.jumps[0] != "-j "+c.name {
		c.unjump(&b, have)
		fmt.Fprintf(&b, "-I %s 1 -j %s\n", c.from, c.name)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

func (c ownChain) removal(have chainState) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", c.table)
	c.unjump(&b, have)
	fmt.Fprintf(&b, "-F %s\n-X %s\nCOMMIT\n", c.name, c.name)
	return b.String()
}

func (c ownChain) unjump(b *strings.Builder, have chainState) {
	for _, j := range have.jumps {
		fmt.Fprintf(b, "-D %s %s\n", c.from, j)
	}
}

// RemoveBypass takes our chains out of all variants of both families, and says
// which. It is for when nobody is to keep them any more.
func (h Host) RemoveBypass() (done []string, err error) {
	for _, f := range []Family{IPv4, IPv6} {
		edits, lerr := h.Leftover(f, nil)
		err = errors.Join(err, lerr)
		for _, e := range edits {
			if rerr := e.Repair(); rerr != nil {
				err = errors.Join(err, fmt.Errorf("%s: %w", e.Name(), rerr))
				continue
			}
			done = append(done, fmt.Sprintf("chain %s of %s", e.Chain, e.Name()))
		}
	}
	return done, err
}

// Leftover are our chains of a family in variants that are not among used: one
// that the host has begun to use takes the place of another.
func (h Host) Leftover(f Family, used []Used) (out []Edited, err error) {
	legacy, err := h.legacyTables(f)
	if err != nil {
		return nil, err
	}
	for _, v := range variants() {
		if v == Legacy && len(legacy) == 0 || slices.ContainsFunc(used, func(u Used) bool { return u.Variant == v }) {
			continue // to ask legacy's would make its tables
		}
		tool, terr := h.Tool(f, v)
		if terr != nil {
			continue // what is not there made nothing
		}
		edits, cerr := Used{f, v, tool}.Compare(nil)
		if cerr != nil && (v == Legacy || h.nftCompat()) { // else it is a kernel without it
			err = errors.Join(err, cerr)
		}
		out = append(out, edits...)
	}
	return out, err
}
