package compile

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// NetworkError says why one set cannot be compiled.
type NetworkError struct {
	Network string // the set's ID
	Err     error
}

// Error names the network, the cause and the remedy.
func (e *NetworkError) Error() string { return fmt.Sprintf("network %q: %v", e.Network, e.Err) }

// Unwrap gives the cause.
func (e *NetworkError) Unwrap() error { return e.Err }

// RefusedError lists the networks whose sets cannot be compiled, by name. The
// others are in order: put the last good set of these in their place, or leave
// them out if there is none (their ports then drop everything), and try again.
type RefusedError struct{ Networks []*NetworkError }

// Error has a line for every network.
func (e *RefusedError) Error() string { return errors.Join(e.Unwrap()...).Error() }

// Unwrap gives the errors of the networks.
func (e *RefusedError) Unwrap() []error {
	errs := make([]error, len(e.Networks))
	for i, n := range e.Networks {
		errs[i] = n
	}
	return errs
}

// refusals gathers errors by network, in order.
type refusals []*NetworkError

func (r *refusals) add(network string, err error) {
	if err != nil {
		*r = append(*r, &NetworkError{network, err})
	}
}

func (r refusals) err() error {
	if len(r) == 0 {
		return nil
	}
	return &RefusedError{r}
}

// Build compiles all that a node enforces. Equal meaning of lists gives equal
// bytes, whatever the order of sets, of addresses in a list and of services.
// The error is a [*RefusedError] that names each network at fault.
func Build(in Input) (*Program, error) { return new(Compiler).Build(in) }

// sorted gives the sets by ID; the input stays as it is.
func sorted(sets []policy.Set) []policy.Set {
	sets = slices.Clone(sets)
	slices.SortStableFunc(sets, func(a, b policy.Set) int { return cmp.Compare(a.ID(), b.ID()) })
	return sets
}

// check refuses what the compiled form cannot say. What it found of the lists of
// address sets is in checked, so that each is looked at once.
func check(set *policy.Set, counters Counters, checked map[policy.ListID]error) error {
	if len(set.Rules) > RulesMax {
		return fmt.Errorf("has %d rules (%s), but a network can have %d: "+
			"join rules that differ only in addresses or services, or apply policies to fewer networks",
			len(set.Rules), perPolicy(set.Rules), RulesMax)
	}
	var errs []error
	if set.Default > policy.Allow {
		errs = append(errs, fmt.Errorf("default action %v is not enforced", set.Default))
	}
	errs = append(errs, checkCounter(policy.DefaultKey(set.Network), counters))
	seen := map[policy.RuleKey]bool{}
	errs = append(errs, checkTiers(set.Rules))
	for i := range set.Rules {
		r := &set.Rules[i]
		if seen[r.Key] {
			errs = append(errs, fmt.Errorf("rule %v is there twice: ids are unique within their policy", r.Key))
		}
		seen[r.Key] = true
		errs = append(errs, checkRule(r), checkSets(set, r, checked), checkCounter(r.Key, counters))
	}
	return errors.Join(errs...)
}

// checkTiers wants tiers in order, few enough, and such that it is clear what a monitored
// rule would have decided.
func checkTiers(rules []policy.Rule) error {
	passing := -1 // the last tier with a Pass rule
	for i := range rules {
		r := &rules[i]
		switch {
		case i > 0 && r.Tier < rules[i-1].Tier:
			return fmt.Errorf("rule %v is of tier %d, behind one of tier %d", r.Key, r.Tier, rules[i-1].Tier)
		case r.Tier > TiersMax-2:
			return fmt.Errorf("rule %v is of tier %d, but the last one is %d", r.Key, r.Tier, TiersMax-2)
		case r.Action == policy.Pass:
			passing = int(r.Tier)
		}
		if r.Monitored && passing == int(r.Tier) {
			return fmt.Errorf("rule %v is monitored, in a tier with Pass rules", r.Key)
		}
	}
	return nil
}

func checkCounter(key policy.RuleKey, counters Counters) error {
	n, ok := counters[key]
	if !ok {
		return fmt.Errorf("%v has no counter: Allocate comes before Build", key)
	}
	if n >= CountersMax {
		return fmt.Errorf("%v has counter %d, but the last one is %d", key, n, CountersMax-1)
	}
	return nil
}

func checkRule(r *policy.Rule) error {
	if r.Action > policy.Pass {
		return fmt.Errorf("rule %v: action %v is not enforced", r.Key, r.Action)
	}
	if r.Directions == 0 || r.Directions > policy.InOut {
		return fmt.Errorf("rule %v: directions %v: must be In, Out or InOut", r.Key, r.Directions)
	}
	if r.Ethernet && (r.Action > policy.Allow || r.LocalSets != nil) {
		return fmt.Errorf("rule %v is about frames, which it can allow or drop, whatever their addresses", r.Key)
	}
	for _, list := range [][]policy.AddrRange{r.Sources, r.Destinations} {
		if err := checkRanges(list); err != nil {
			return fmt.Errorf("rule %v: %w", r.Key, err)
		}
	}
	if err := checkServices(r.Services); err != nil {
		return fmt.Errorf("rule %v: %w", r.Key, err)
	}
	if slices.ContainsFunc(r.Services, func(s policy.Service) bool { return (s.EtherType != 0) != r.Ethernet }) {
		return fmt.Errorf("rule %v: EtherTypes are of category Ethernet, which has nothing else", r.Key)
	}
	return nil
}

func checkServices(list []policy.Service) error {
	if len(list) > ServicesMax {
		return fmt.Errorf("has %d services, each port range counted for each of its source port ranges, but can have %d: name ranges, or split it", len(list), ServicesMax)
	}
	for _, s := range list {
		if err := s.Check(); err != nil {
			return err
		}
	}
	return nil
}

// checkSets wants the lists that a rule names.
func checkSets(set *policy.Set, r *policy.Rule, checked map[policy.ListID]error) error {
	for _, name := range r.ServiceSets {
		list, ok := set.ServiceLists[name]
		if !ok {
			return fmt.Errorf("rule %v: ServiceSet %s is not known", r.Key, name)
		}
		if err := checkServices(list); err != nil {
			return fmt.Errorf("rule %v: ServiceSet %s: %w", r.Key, name, err)
		}
	}
	for _, name := range slices.Concat(r.SourceSets, r.DestinationSets, r.LocalSets) {
		list, ok := set.Lists[name]
		if !ok {
			return fmt.Errorf("rule %v: address set %q is not known", r.Key, name)
		}
		id := policy.IDOf(list)
		err, ok := checked[id]
		if !ok {
			err = checkRanges(list)
			checked[id] = err
		}
		if err != nil {
			return fmt.Errorf("rule %v: address set %q: %w", r.Key, name, err)
		}
	}
	return nil
}

func checkRanges(list []policy.AddrRange) error {
	for _, a := range list {
		if err := checkRange(a); err != nil {
			return err
		}
	}
	return nil
}

func checkRange(a policy.AddrRange) error {
	switch {
	case !a.First.IsValid() || !a.Last.IsValid():
		return errors.New("a range of addresses without an end")
	case a.First.Zone() != "" || a.Last.Zone() != "":
		return fmt.Errorf("range %v-%v: addresses in rules have no zone", a.First, a.Last)
	case a.First.BitLen() != a.Last.BitLen():
		return fmt.Errorf("range %v-%v: both ends must be IPv4, or both IPv6", a.First, a.Last)
	case a.Last.Less(a.First):
		return fmt.Errorf("range %v-%v: the end is below the start", a.First, a.Last)
	case a.First.Is4In6() && a.Last.Is4In6():
		return fmt.Errorf("range %v-%v: write IPv4 addresses as IPv4", a.First, a.Last)
	}
	return nil
}

// perPolicy counts rules by policy, in their order: "web" 100, "base" 40.
func perPolicy(rules []policy.Rule) string {
	count := map[string]int{}
	var order []string
	for i := range rules {
		name := rules[i].Key.Policy
		if count[name] == 0 {
			order = append(order, name)
		}
		count[name]++
	}
	for i, name := range order {
		order[i] = fmt.Sprintf("policy %q %d", name, count[name])
	}
	return strings.Join(order, ", ")
}

// sumOf is the hash of a table of addresses.
func sumOf(addrs []AddrClass) [sha256.Size]byte {
	h := sha256.New()
	var b []byte
	for part := range slices.Chunk(addrs, 1024) {
		b = appendAddrs(b[:0], part)
		h.Write(b)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// appendAddrs appends entries as bytes, all of one length.
func appendAddrs(b []byte, addrs []AddrClass) []byte {
	for _, a := range addrs {
		b = append(b, a.Addr[:]...)
		b = append(b, a.Bits)
		b = binary.LittleEndian.AppendUint32(b, a.Class)
	}
	return b
}

// hash is the content of a program as hex SHA-256, from the hashes of its parts.
func hash(addrs [sha256.Size]byte, policies []Policy) string {
	h := sha256.New()
	h.Write(addrs[:])
	for i := range policies {
		fmt.Fprintf(h, "%q", policies[i].Network)
		h.Write(policies[i].Sum[:])
	}
	return hex.EncodeToString(h.Sum(nil))
}
