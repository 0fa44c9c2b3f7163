package desired

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// keeper has what is in force of one source, and stores it for the next start.
type keeper struct {
	cache string // file of the last good snapshot; "" stores nothing

	mu      sync.Mutex // guards what follows; methods want it held
	primed  bool       // the cache was looked at
	last    *Snapshot
	files   map[key]string        // which file each object of last came from
	unsaved bool                  // last is not in the cache yet
	notes   []Problem             // what is wrong with the source itself, for as long as it lives
	pods    func() map[string]Pod // of this node; nil is a source that knows none

	identities []Identity // of the last look
	behind     bool       // the cache has older ones
	saved      time.Time  // when the cache was written
}

// identitiesEvery is how often the cache is written for no more than identities: they change
// with each VM of the cluster, and all that is in force is in one file.
const identitiesEvery = time.Minute

// take makes the snapshot that is in force once the source says files. Problems
// name files as place does.
func (k *keeper) take(files []manifest, place func(string) string) *Snapshot {
	objects, problems := resolve(k.objects(), files)
	for i := range problems {
		problems[i].File = place(problems[i].File)
	}
	next, origins := build(objects, problems, k.last)
	for _, p := range next.ties() {
		p.File = place(origins[key{p.Kind, p.Name}])
		next.Problems = append(next.Problems, p)
	}
	if k.pods != nil && next.ByLabel() {
		next.Pods = k.pods()
	}
	next.Identities = k.identities
	k.behind = k.behind || k.last != nil && !next.sameIdentities(k.last)
	k.unsaved = k.unsaved || k.behind && time.Since(k.saved) >= identitiesEvery || k.last == nil || k.last.Stale != nil || !next.sameContent(k.last) || !next.samePods(k.last) || !next.sameChecks(k.last) || !maps.Equal(origins, k.files)
	switch {
	case k.last == nil:
		next.Revision = 1
	case next.sameContent(k.last):
		next.Revision = k.last.Revision
	default:
		next.Revision = k.last.Revision + 1
	}
	next.Problems = append(next.Problems, k.notes...)
	k.last, k.files = next, origins
	if p := k.save(); p != nil {
		next.Problems = append(next.Problems, *p)
	}
	return next
}

// goStale is the last good snapshot, with err among its problems and marked as
// stale since err was first met. A restart remembers since when.
func (k *keeper) goStale(source, reason string, err error) *Snapshot {
	stale := *k.last
	problem := Problem{File: source, Kept: true, Message: fmt.Sprintf("%v; everything stays as it last was", err)}
	stale.Stale = &Stale{Since: time.Now().UTC().Truncate(time.Second), Reason: reason, Message: fmt.Sprintf("%s: %v", source, err)}
	if before := k.last.Stale; before != nil {
		stale.Stale.Since = before.Since
	}
	k.unsaved = k.unsaved || k.last.Stale == nil
	stale.Problems = append([]Problem{problem}, k.notes...)
	k.last = &stale
	if p := k.save(); p != nil {
		stale.Problems = append(stale.Problems, *p)
	}
	return &stale
}

// prime reads the cache, once.
func (k *keeper) prime() {
	if k.primed || k.cache == "" {
		return
	}
	k.primed = true
	s, files, err := load(k.cache)
	switch {
	case err == nil:
		k.last, k.files = s, files
	case errors.Is(err, fs.ErrNotExist):
	default:
		p := Problem{File: k.cache, Message: fmt.Sprintf("the last good snapshot cannot be used: %v", err)}
		if aside := k.cache + ".corrupt"; os.Rename(k.cache, aside) == nil {
			p.Message += "; set aside as " + aside
		}
		k.notes = append(k.notes, p)
	}
}

func (k *keeper) save() *Problem {
	if k.cache == "" || !k.unsaved {
		return nil
	}
	if err := save(k.cache, k.last, k.files); err != nil {
		return &Problem{File: k.cache, Message: fmt.Sprintf("the last good snapshot cannot be stored, "+
			"so a restart would know only what the source says then: %v", err)}
	}
	k.unsaved, k.behind, k.saved = false, false, time.Now()
	return nil
}

// objects gives what is in force, by object.
func (k *keeper) objects() map[key]held {
	if k.last == nil {
		return nil
	}
	s, out := k.last, map[key]held{}
	put := func(kind, name string, value any) {
		o := key{kind, name}
		out[o] = held{k.files[o], value}
	}
	for name, t := range s.Trunks {
		put(v1alpha1.KindVLANTrunk, name, t)
	}
	for name, n := range s.Networks {
		put(v1alpha1.KindVLANNetwork, name, n)
	}
	for _, p := range s.Policies {
		if name, ok := strings.CutPrefix(p.Name, kindClusterPolicy+"/"); ok {
			put(kindClusterPolicy, name, p)
			continue
		}
		put(v1alpha1.KindFirewallPolicy, p.Name, p)
	}
	for name, a := range s.Sets {
		put(v1alpha1.KindAddressSet, name, a)
	}
	for name, a := range s.ServiceSets {
		put(v1alpha1.KindServiceSet, name, a)
	}
	for name, c := range s.Checks {
		put(v1alpha1.KindReachabilityCheck, name, c)
	}
	for _, p := range s.PodPolicies {
		put(kindPodPolicy, p.FullName(), p)
	}
	return out
}

// build makes a snapshot of objects, and says which file each came from. What it need
// not make anew it takes from last. The Revision is left to the caller.
func build(objects map[key]held, problems []Problem, last *Snapshot) (*Snapshot, map[key]string) {
	s := &Snapshot{Trunks: map[string]Trunk{}, Networks: map[string]Network{}, Policies: []Policy{}, Problems: problems}
	files := map[key]string{}
	for k, h := range objects {
		files[k] = h.file
		switch v := h.value.(type) {
		case Trunk:
			s.Trunks[v.Name] = v
		case Network:
			s.Networks[v.Name] = v
		case Policy:
			s.Policies = append(s.Policies, v)
		case PodPolicy:
			s.PodPolicies = append(s.PodPolicies, v)
		case Check:
			if s.Checks == nil {
				s.Checks = map[string]Check{}
			}
			s.Checks[v.Name] = v
		}
	}
	slices.SortFunc(s.Policies, judgedBefore)
	s.useSets(func(k key) any {
		if name, ok := strings.CutPrefix(k.Name, subnetsOf); ok {
			network := object{key: key{v1alpha1.KindVLANNetwork, name}, value: objects[key{v1alpha1.KindVLANNetwork, name}].value}
			if set, ok := network.subnets(); ok && set.value != nil { // else it is on other nodes
				return set.value
			}
		}
		return objects[k].value
	}, last)
	slices.SortFunc(s.PodPolicies, func(a, b PodPolicy) int { return a.compare(&b) })
	slices.SortStableFunc(s.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Field, b.Field), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return s, files
}

func (s *Snapshot) sameContent(o *Snapshot) bool {
	return reflect.DeepEqual(s.Trunks, o.Trunks) && reflect.DeepEqual(s.Networks, o.Networks) &&
		reflect.DeepEqual(s.Policies, o.Policies) && reflect.DeepEqual(s.PodPolicies, o.PodPolicies) &&
		reflect.DeepEqual(s.ServiceSets, o.ServiceSets) && maps.EqualFunc(s.Sets, o.Sets, AddressSet.equal)
}

func (s *Snapshot) samePods(o *Snapshot) bool { return maps.EqualFunc(s.Pods, o.Pods, Pod.equal) }

func (s *Snapshot) sameChecks(o *Snapshot) bool {
	return maps.EqualFunc(s.Checks, o.Checks, func(a, b Check) bool { return reflect.DeepEqual(a, b) })
}

func (p Pod) equal(o Pod) bool {
	return p.UID == o.UID && p.Owner == o.Owner && maps.Equal(p.Labels, o.Labels) && maps.Equal(p.VM, o.VM) && maps.Equal(p.Namespace, o.Namespace)
}
