package desired

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// Every object keeps its own last good version. What the directory says of an
// object is a proposal; the version in force is the fallback. A proposal is
// refused if it is wrong by itself (then it never gets here), or if it cannot be
// in force together with the other objects. Of two objects that exclude each
// other the one that changes gives way to the one in force, so that a mistake
// never takes away what works; if both are new, neither is taken. A trunk is not
// removed while a network is on it. Refusing one proposal can leave another one
// without a ground, so this is repeated until nothing more is refused.
//
// The result depends on what is in force and what the directory says, not on
// time or on the order of files.

// held is an object in force and the file that it came from.
type held struct {
	file  string
	value any // Trunk, Network, Policy, AddressSet, ServiceSet, PodPolicy or Check
}

// slot is one object while it is decided which version of it is in force.
type slot struct {
	key
	old     *held   // in force so far; nil if none
	next    *object // proposed, good by itself; nil if there is none
	gone    bool    // the directory has no such object any more
	refused bool    // the proposal, or the removal, is not taken
}

func (s *slot) current() any {
	switch {
	case !s.refused && s.next != nil:
		return s.next.value
	case !s.refused && s.gone || s.old == nil:
		return nil
	}
	return s.old.value
}

// changing says whether the slot proposes something else than what is in force.
func (s *slot) changing() bool {
	if s.refused || s.next == nil {
		return !s.refused && s.gone && s.old != nil
	}
	if s.old == nil {
		return true
	}
	if next, ok := s.next.value.(AddressSet); ok {
		old, ok := s.old.value.(AddressSet)
		return !ok || !old.equal(next)
	}
	return !reflect.DeepEqual(s.old.value, s.next.value)
}

// clash is why two objects cannot both be in force, told at either of them.
type clash struct {
	field, message           string
	otherField, otherMessage string
}

// refusal is a slot whose proposal will not be taken.
type refusal struct {
	*slot
	field, message string
}

type resolver struct {
	slots    map[key]*slot
	order    []key // sorted
	problems []Problem
	pending  []refusal
	standing []refusal // clashes among what is in force already
	// everywhere says that trunks may be on different nodes, and so cannot clash.
	everywhere bool
}

// resolve decides what is in force after the source was read.
func resolve(old map[key]held, files []manifest) (map[key]held, []Problem) {
	return newResolver(old, files).resolve()
}

func (r *resolver) resolve() (map[key]held, []Problem) {
	for r.pass() {
	}
	for _, f := range r.standing {
		r.report(f)
	}
	for _, s := range r.of(v1alpha1.KindFirewallPolicy) {
		if !s.refused {
			r.reportAbsent(s)
			r.reportFutile(s)
		}
	}
	for _, s := range r.of(v1alpha1.KindReachabilityCheck) {
		if !s.refused {
			r.reportUnchecked(s)
		}
	}
	for i, p := range r.problems {
		if s, ok := r.slots[key{p.Kind, p.Name}]; ok {
			r.problems[i].Kept = s.current() != nil
		}
	}
	next := map[key]held{}
	for k, s := range r.slots {
		switch v := s.current(); {
		case v == nil:
		case !s.refused && s.next != nil && s.old != nil && !s.changing():
			next[k] = held{s.next.file, s.old.value} // the same one, for large ones are compared often
		case !s.refused && s.next != nil:
			next[k] = held{s.next.file, v}
		default:
			next[k] = *s.old
		}
	}
	return next, r.problems
}

func newResolver(old map[key]held, files []manifest) *resolver {
	r := &resolver{slots: map[key]*slot{}}
	for k, h := range old {
		r.slots[k] = &slot{key: k, old: &h, gone: true}
	}
	unsure := map[string]int{}
	seen := map[key][]object{}
	for _, m := range files {
		for _, o := range m.objects {
			seen[o.key] = append(seen[o.key], o)
		}
		if m.unsure != "" {
			unsure[m.file] = 0
		}
	}
	for _, m := range files {
		for _, o := range m.objects {
			if o.Kind != v1alpha1.KindVLANNetwork {
				continue
			}
			if len(seen[o.key]) > 1 {
				o.value = nil // neither is taken
			}
			if set, ok := o.subnets(); ok {
				seen[set.key] = []object{set}
			}
		}
	}
	for k, objects := range seen {
		s := r.slots[k]
		if s == nil {
			s = &slot{key: k}
			r.slots[k] = s
		}
		s.gone = false
		if len(objects) > 1 {
			r.reportTwins(objects)
		} else if objects[0].value != nil {
			s.next = &objects[0]
		}
	}
	r.order = slices.SortedFunc(maps.Keys(r.slots), key.compare)
	for _, m := range files {
		for _, k := range r.order {
			if s := r.slots[k]; m.unsure != "" && s.gone && s.old.file == m.file {
				s.gone = false
				unsure[m.file]++
				r.problems = append(r.problems, Problem{File: m.file, Kind: k.Kind, Name: k.Name,
					Message: "is missing from its file, which " + m.unsure + ": correct the file, or delete it to remove the object"})
			}
		}
		for _, p := range m.problems {
			p.Kept = unsure[m.file] > 0
			r.problems = append(r.problems, p)
		}
	}
	return r
}

// reportTwins names every place where an object is described.
func (r *resolver) reportTwins(objects []object) {
	for i, o := range objects {
		other := objects[(i+1)%len(objects)]
		r.problems = append(r.problems, Problem{
			File: o.file, Line: lineOf(o.lines, "metadata.name"), Kind: o.Kind, Name: o.Name, Field: "metadata.name",
			Message: fmt.Sprintf("%s is also in %s line %d: want it once",
				o.key, other.file, lineOf(other.lines, "metadata.name")),
		})
	}
}

func (r *resolver) report(f refusal) {
	p := Problem{Kind: f.Kind, Name: f.Name, Field: f.field, Message: f.message}
	if network, ok := strings.CutPrefix(f.Name, subnetsOf); ok {
		p.Kind, p.Name, p.Field = v1alpha1.KindVLANNetwork, network, "spec.subnets"
	}
	switch {
	case f.next != nil:
		p.File, p.Line = f.next.file, lineOf(f.next.lines, f.field)
	case f.old != nil:
		p.File = f.old.file
	}
	r.problems = append(r.problems, p)
}

// apply refuses what a step found, so that all of a step's pairs are judged by
// the same values.
func (r *resolver) apply() bool {
	for _, f := range r.pending {
		f.refused = true
	}
	told := map[key]bool{}
	for _, f := range r.pending {
		if !told[f.key] {
			r.report(f)
		}
		told[f.key] = true
	}
	refused := len(r.pending) > 0
	r.pending = nil
	return refused
}

// pass looks at all pairs once and says whether something was refused.
func (r *resolver) pass() bool {
	r.standing = nil
	trunks, networks := r.of(v1alpha1.KindVLANTrunk), r.of(v1alpha1.KindVLANNetwork)
	for i, a := range trunks {
		if r.everywhere {
			break
		}
		for _, b := range trunks[i+1:] {
			r.settle(a, b, true, trunksClash)
		}
	}
	refused := r.apply()
	for _, n := range networks {
		if v, ok := n.current().(Network); ok {
			t := r.slots[key{v1alpha1.KindVLANTrunk, v.Trunk}]
			if t == nil {
				t = &slot{key: key{v1alpha1.KindVLANTrunk, v.Trunk}}
			}
			r.settle(n, t, false, func(a, b any) *clash { return r.offTrunk(a, b, t) })
		}
	}
	refused = r.apply() || refused
	type place struct {
		trunk string
		vlan  uint16
	}
	sharing := map[place][]*slot{}
	for _, b := range networks {
		v, ok := b.current().(Network)
		if !ok || v.PVID == 0 {
			continue
		}
		at := place{v.Trunk, uint16(v.PVID)}
		for _, a := range sharing[at] {
			r.settle(a, b, true, networksClash)
		}
		sharing[at] = append(sharing[at], b)
	}
	refused = r.apply() || refused
	refused = r.passPolicies() || refused
	return r.passSets() || refused
}

func (r *resolver) of(kind string) []*slot {
	var out []*slot
	for _, k := range r.order {
		if k.Kind == kind {
			out = append(out, r.slots[k])
		}
	}
	return out
}

// settle decides which of two objects gives way if they exclude each other.
// Equals (two of a kind) both do if both are new, else the first one does.
func (r *resolver) settle(a, b *slot, equals bool, test func(a, b any) *clash) {
	c := test(a.current(), b.current())
	if c == nil {
		return
	}
	aOut, bOut := refusal{a, c.field, c.message}, refusal{b, c.otherField, c.otherMessage}
	aNew, bNew := a.changing(), b.changing()
	if aNew && bNew {
		// The one that keeps to what is in force in this respect is right.
		if a.old != nil && test(a.old.value, b.current()) != nil {
			aNew = false
		} else if !equals || b.old != nil && test(a.current(), b.old.value) != nil {
			bNew = false
		}
	}
	if aNew {
		r.pending = append(r.pending, aOut)
	}
	if bNew {
		r.pending = append(r.pending, bOut)
	}
	if !aNew && !bNew {
		r.standing = append(r.standing, aOut)
		if equals {
			r.standing = append(r.standing, bOut)
		}
	}
}

// passPolicies refuses policies and checks that change and name networks that are not there. A
// network may go while a policy names it: then the policy stays, and is reported.
func (r *resolver) passPolicies() bool {
	var wrong []*slot
	for _, s := range r.of(v1alpha1.KindFirewallPolicy) {
		if s.changing() && (r.reportAbsent(s) || r.reportFutile(s)) {
			wrong = append(wrong, s)
		}
	}
	for _, s := range r.of(v1alpha1.KindReachabilityCheck) {
		if s.changing() && r.reportUnchecked(s) {
			wrong = append(wrong, s)
		}
	}
	for _, s := range wrong {
		s.refused = true
	}
	return len(wrong) > 0
}

// reportUnchecked reports the networks that a check names and that are not there.
func (r *resolver) reportUnchecked(s *slot) (found bool) {
	v, ok := s.current().(Check)
	if !ok || s.next == nil {
		return false
	}
	for _, name := range v.Networks {
		if n := r.slots[key{v1alpha1.KindVLANNetwork, name}]; n != nil && n.current() != nil || slices.Contains(v.Far, name) {
			continue
		}
		r.report(refusal{s, "spec.networks", r.absent(v1alpha1.KindVLANNetwork, name)})
		found = true
	}
	return found
}

// reportAbsent reports the networks that a policy names and that are not there.
func (r *resolver) reportAbsent(s *slot) (found bool) {
	v, ok := s.current().(Policy)
	if !ok || s.next == nil {
		return false
	}
	networks := slices.Clone(v.Networks)
	for _, n := range v.NICs {
		networks = append(networks, n.Network)
	}
	for i, name := range networks {
		if n := r.slots[key{v1alpha1.KindVLANNetwork, name}]; n != nil && n.current() != nil {
			continue
		}
		// Any was taken apart from networks by validation: indexes agree, unless
		// others stand between them.
		at := fmt.Sprintf("spec.appliedTo[%d].network", i)
		if len(v.VMs)+len(v.NICs)+len(v.AddressSets) > 0 {
			at = "spec.appliedTo"
		}
		r.report(refusal{s, at, r.absent(v1alpha1.KindVLANNetwork, name)})
		found = true
	}
	return found
}

// absent says of an object that it is not there, and what would be right.
func (r *resolver) absent(kind, name string) string {
	if network, ok := strings.CutPrefix(name, subnetsOf); ok {
		if s := r.slots[key{v1alpha1.KindVLANNetwork, network}]; s == nil || s.current() == nil {
			return r.absent(v1alpha1.KindVLANNetwork, network)
		}
		return name + " has no subnets: give it some, or name the peers by cidr"
	}
	if s := r.slots[key{kind, name}]; s != nil && !s.gone {
		return fmt.Sprintf("%s %s is not in force: correct it", kind, name)
	}
	var names []string
	for _, s := range r.of(kind) {
		if s.current() != nil && len(names) < 8 && !strings.HasPrefix(s.Name, subnetsOf) {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return fmt.Sprintf("%s %q does not exist: make it", kind, name)
	}
	return fmt.Sprintf("%s %q does not exist: want one of %s, or make it", kind, name, strings.Join(names, ", "))
}
