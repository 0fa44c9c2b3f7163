// Package hostfwtest has an iptables without a kernel, for tests.
package hostfwtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Tool is iptables of one family and variant in memory. It is for one goroutine.
type Tool struct {
	Policy map[string]string   // by table/chain
	Chains map[string][]string // rules by table/chain, without -A and chain
	Err    error               // of all that is asked
	Runs   []string            // what Restore got
}

// New is one without rules.
func New() *Tool {
	return &Tool{
		Policy: map[string]string{"raw/PREROUTING": "ACCEPT", "filter/FORWARD": "ACCEPT"},
		Chains: map[string][]string{"raw/PREROUTING": nil, "filter/FORWARD": nil},
	}
}

// Forwarding is one whose FORWARD has these lines of "iptables -S".
func Forwarding(lines ...string) *Tool {
	f := New()
	delete(f.Policy, "filter/FORWARD")
	for _, l := range lines {
		if policy, ok := strings.CutPrefix(l, "-P FORWARD "); ok {
			f.Policy["filter/FORWARD"] = policy
			continue
		}
		f.Chains["filter/FORWARD"] = append(f.Chains["filter/FORWARD"], strings.TrimPrefix(l, "-A FORWARD "))
	}
	return f
}

// List gives what "iptables -S" prints of a chain.
func (f *Tool) List(table, chain string) ([]string, error) {
	if f.Err != nil {
		return nil, f.Err
	}
	at := table + "/" + chain
	rules, ok := f.Chains[at]
	if !ok && (table == "nat" || table == "mangle") && !strings.HasPrefix(chain, "HOMEPORT") {
		return []string{"-P " + chain + " ACCEPT"}, nil // none of ours
	}
	if !ok {
		return nil, errors.New("no such chain")
	}
	var out []string
	if p, builtin := f.Policy[at]; builtin {
		out = append(out, "-P "+chain+" "+p)
	} else if chain != "FORWARD" {
		out = append(out, "-N "+chain)
	}
	for _, r := range rules {
		out = append(out, "-A "+chain+" "+r)
	}
	return out, nil
}

// ChainExists says so of one in a table.
func (f *Tool) ChainExists(table, chain string) (bool, error) {
	_, ok := f.Chains[table+"/"+chain]
	return ok, f.Err
}

// Save gives what iptables-save prints.
func (f *Tool) Save() (string, error) {
	var b strings.Builder
	for _, at := range slices.Sorted(maps.Keys(f.Chains)) {
		table, chain, _ := strings.Cut(at, "/")
		policy := f.Policy[at]
		if policy == "" {
			policy = "-"
		}
		fmt.Fprintf(&b, "*%s\n:%s %s [0:0]\n", table, chain, policy)
		for _, r := range f.Chains[at] {
			fmt.Fprintf(&b, "-A %s %s\n", chain, r)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String(), f.Err
}

// Restore does what iptables-restore --noflush does: all or, with an error, nothing.
func (f *Tool) Restore(lines string) error {
	if f.Err != nil {
		return f.Err
	}
	f.Runs = append(f.Runs, lines)
	next := map[string][]string{}
	for at, rules := range f.Chains {
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
	f.Chains = next
	return nil
}

func (f *Tool) jumped(chains map[string][]string, to string) bool {
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
			return errors.New("no such rule")
		}
		rules = slices.Delete(rules, i, i+1)
	default:
		return errors.New("the fake does not know " + verb)
	}
	chains[at] = rules
	return nil
}
