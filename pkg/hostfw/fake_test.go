package hostfw

import (
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// fakeTool is iptables of one family and variant in memory.
type fakeTool struct {
	tb     testing.TB
	policy map[string]string   // by table/chain
	chains map[string][]string // rules by table/chain, without -A and chain
	err    error               // of all that is asked
	runs   []string            // what Restore got
}

func newFakeTool(tb testing.TB) *fakeTool {
	return &fakeTool{tb: tb,
		policy: map[string]string{"raw/PREROUTING": "ACCEPT", "filter/FORWARD": "ACCEPT"},
		chains: map[string][]string{"raw/PREROUTING": nil, "filter/FORWARD": nil}}
}

// forwarding is one whose FORWARD has these lines of "iptables -S".
func forwarding(tb testing.TB, lines ...string) *fakeTool {
	f := newFakeTool(tb)
	delete(f.policy, "filter/FORWARD")
	for _, l := range lines {
		if policy, ok := strings.CutPrefix(l, "-P FORWARD "); ok {
			f.policy["filter/FORWARD"] = policy
			continue
		}
		f.chains["filter/FORWARD"] = append(f.chains["filter/FORWARD"], strings.TrimPrefix(l, "-A FORWARD "))
	}
	return f
}

func (f *fakeTool) List(table, chain string) ([]string, error) {
	if f.err != nil {
		return nil, f.err
	}
	at := table + "/" + chain
	rules, ok := f.chains[at]
	if !ok {
		return nil, errors.New("No chain/target/match by that name.")
	}
	var out []string
	if p, builtin := f.policy[at]; builtin {
		out = append(out, "-P "+chain+" "+p)
	} else if chain != "FORWARD" {
		out = append(out, "-N "+chain)
	}
	for _, r := range rules {
		out = append(out, "-A "+chain+" "+r)
	}
	return out, nil
}

func (f *fakeTool) ChainExists(table, chain string) (bool, error) {
	_, ok := f.chains[table+"/"+chain]
	return ok, f.err
}

func (f *fakeTool) Save() (string, error) {
	var b strings.Builder
	for _, at := range slices.Sorted(maps.Keys(f.chains)) {
		table, chain, _ := strings.Cut(at, "/")
		policy := f.policy[at]
		if policy == "" {
			policy = "-"
		}
		fmt.Fprintf(&b, "*%s\n:%s %s [0:0]\n", table, chain, policy)
		for _, r := range f.chains[at] {
			fmt.Fprintf(&b, "-A %s %s\n", chain, r)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String(), f.err
}

// Restore does what iptables-restore --noflush does: all or, with an error, nothing.
func (f *fakeTool) Restore(lines string) error {
	if f.err != nil {
		return f.err
	}
	f.runs = append(f.runs, lines)
	next := map[string][]string{}
	for at, rules := range f.chains {
		next[at] = slices.Clone(rules)
	}
	table, committed := "", false
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		w := strings.SplitN(line, " ", 3)
		switch {
		case line == "COMMIT":
			committed = true
		case line[0] == '*':
			table = line[1:]
		case line[0] == ':':
			next[table+"/"+w[0][1:]] = nil
		case w[0] == "-F":
			next[table+"/"+w[1]] = nil
		case w[0] == "-X":
			if rules := next[table+"/"+w[1]]; len(rules) > 0 || f.jumped(next, w[1]) {
				return fmt.Errorf("line %q: Directory not empty", line)
			}
			delete(next, table+"/"+w[1])
		default:
			if err := edit(next, table+"/"+w[1], w[0], w[2]); err != nil {
				return fmt.Errorf("line %q: %w", line, err)
			}
		}
	}
	if !committed {
		return errors.New("no COMMIT")
	}
	f.chains = next
	return nil
}

func (f *fakeTool) jumped(chains map[string][]string, to string) bool {
	for _, rules := range chains {
		if slices.ContainsFunc(rules, func(r string) bool { return strings.HasSuffix(r, "-j "+to) }) {
			return true
		}
	}
	return false
}

func edit(chains map[string][]string, at, verb, rule string) error {
	rules, ok := chains[at]
	if !ok {
		return errors.New("no such chain")
	}
	switch verb {
	case "-A":
		rules = append(rules, rule)
	case "-I":
		rest, first := strings.CutPrefix(rule, "1 ")
		if !first {
			return errors.New("the fake inserts at 1 alone")
		}
		rules = slices.Insert(rules, 0, rest)
	case "-D":
		i := slices.Index(rules, rule)
		if i < 0 {
			return errors.New("Bad rule (does a matching rule exist in that chain?).")
		}
		rules = slices.Delete(rules, i, i+1)
	default:
		return errors.New("the fake does not know " + verb)
	}
	chains[at] = rules
	return nil
}

// tools is a node's iptables by family and variant; what is not in it is not
// installed.
type tools map[string]*fakeTool

func (t tools) open(f Family, v Variant) (Tool, error) {
	if tool := t[f.name(v)]; tool != nil {
		return tool, nil
	}
	return nil, fmt.Errorf("find %s: %w", f.name(v), exec.ErrNotFound)
}

// noNFT is a node without nft.
func noNFT(...string) (string, error) { return "", exec.ErrNotFound }

// emptyNFT is nft without any rule.
func emptyNFT(...string) (string, error) { return `{"nftables": [{"metainfo": {}}]}`, nil }
