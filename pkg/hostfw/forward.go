package hostfw

import (
	"fmt"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// forwardCheck asks whether the host's FORWARD chain would drop bridged frames
// by its policy. The chain is listed only if such frames reach it: iptables of
// the legacy kind may load a kernel module by being asked.
func (h Host) forwardCheck(n Netfilter, err error, bridges []string) report.Check {
	c := report.Check{Name: "the host's FORWARD policy lets bridged frames pass", Answer: report.Yes}
	if err != nil {
		c.Answer, c.Detail = report.Unknown, "not known whether bridged frames reach it: "+err.Error()
		return c
	}
	var found, drops []string
	unknown := func(err error) {
		if c.Answer == report.Yes {
			c.Answer = report.Unknown
			c.Remedy = "install iptables (Debian: apt-get install iptables), or look by hand: nft list ruleset"
		}
		found = append(found, err.Error())
	}
	for _, f := range n.Reached() {
		used, err := h.InUse(f)
		if err != nil {
			unknown(err)
		}
		for _, u := range used {
			fw, err := u.forward()
			switch {
			case err != nil:
				unknown(err)
			case fw.accepts(bridges):
				found = append(found, fmt.Sprintf("%s: %s, and a rule accepts bridged frames", u.Name(), fw.policy))
			case fw.policy == "ACCEPT" && fw.rules == 0:
				found = append(found, u.Name()+": ACCEPT")
			case fw.policy == "ACCEPT":
				found = append(found, fmt.Sprintf("%s: ACCEPT, but its rules (%d) come first and were not judged", u.Name(), fw.rules))
			default:
				c.Answer = report.No
				drops = append(drops, u.Name())
				found = append(found, fmt.Sprintf("%s: policy of FORWARD is %s", u.Name(), fw.policy))
			}
		}
	}
	c.Detail = strings.Join(found, "; ")
	if len(found) == 0 {
		c.Detail = "bridged frames do not reach it"
	}
	if c.Answer == report.No {
		c.Needs = "a rule that accepts bridged frames"
		c.Remedy = BypassRemedy + "; or by hand: " + acceptCommands(drops, bridges)
	}
	return c
}

// Forward says, in words, what the host's FORWARD chains do to frames of a bridge.
func (h Host) Forward(n Netfilter, bridge string) string {
	return h.forwardCheck(n, nil, []string{bridge}).Detail
}

// BypassRemedy is what a trunk can have done about all this.
const BypassRemedy = "set spec.hostFirewall of the VLANTrunk to Bypass"

// acceptCommands let bridged frames, and only those, pass.
func acceptCommands(tools, bridges []string) string {
	var cmds []string
	for _, tool := range tools {
		for _, br := range bridges {
			cmds = append(cmds, tool+" -I FORWARD -i "+br+" -m physdev --physdev-is-bridged -j ACCEPT")
		}
		if len(bridges) == 0 {
			cmds = append(cmds, tool+" -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT")
		}
	}
	return strings.Join(cmds, "; ")
}

// forwardChain is what matters of a FORWARD chain.
type forwardChain struct {
	policy string
	rules  int
	// accepted are the bridges whose frames a rule accepts; "" is all.
	accepted []string
}

func (c forwardChain) accepts(bridges []string) bool {
	if slices.Contains(c.accepted, "") {
		return true
	}
	for _, br := range bridges {
		if !slices.Contains(c.accepted, br) {
			return false
		}
	}
	return len(bridges) > 0
}

// forward reads the FORWARD chain, and ours as if its rules were there.
func (u Used) forward() (forwardChain, error) {
	lines, err := u.Tool.List("filter", "FORWARD")
	if err != nil {
		return forwardChain{}, fmt.Errorf("list FORWARD of %s: %w", u.Name(), err)
	}
	const own = chainPrefix + "FORWARD"
	if at := slices.Index(lines, "-A FORWARD -j "+own); at >= 0 {
		inner, err := u.Tool.List("filter", own)
		if err != nil {
			return forwardChain{}, fmt.Errorf("list %s of %s: %w", own, u.Name(), err)
		}
		var rules []string
		for _, r := range rulesOf(own, inner) {
			rules = append(rules, "-A FORWARD "+r)
		}
		lines = slices.Replace(slices.Clone(lines), at, at+1, rules...)
	}
	return parseForward(u.Name(), lines)
}

// parseForward reads what "iptables -S FORWARD" prints.
func parseForward(tool string, lines []string) (forwardChain, error) {
	var c forwardChain
	for _, line := range lines {
		words := strings.Fields(line)
		switch {
		case len(words) == 3 && words[0] == "-P" && words[1] == "FORWARD":
			c.policy = words[2]
			continue
		case len(words) < 2 || words[0] != "-A":
			continue
		}
		c.rules++
		rest, in := words[2:], ""
		if len(rest) > 2 && rest[0] == "-i" {
			in, rest = rest[1], rest[2:]
		}
		if slices.Equal(rest, []string{"-m", "physdev", "--physdev-is-bridged", "-j", "ACCEPT"}) {
			c.accepted = append(c.accepted, in)
		}
	}
	if c.policy == "" {
		return c, fmt.Errorf("list FORWARD of %s: it has no policy line", tool)
	}
	return c, nil
}
