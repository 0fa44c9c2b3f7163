package desired

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// replay gives what is in force after a source went through the states.
func replay(states ...state) *Snapshot {
	old := map[key]held{}
	var s *Snapshot
	for _, st := range states {
		var files []manifest
		for name, content := range st {
			files = append(files, parseManifest(name, []byte(content)))
		}
		slices.SortFunc(files, func(a, b manifest) int { return strings.Compare(a.file, b.file) })
		var problems []Problem
		old, problems = resolve(old, files)
		s, _ = build(old, problems, s)
	}
	return s
}

// randomState makes a state of a few objects in random files. A valid one has
// no problems by itself; the others may have any.
func randomState(r *rand.Rand, valid bool) state {
	var objects []string
	add := func(format string, args ...any) {
		objects = append(objects, "apiVersion: homeport.dev/v1alpha1\n"+fmt.Sprintf(format, args...))
	}
	var networks []string
	vlans := r.Perm(8)
	for t := range 1 + r.IntN(2) {
		allowed, uplink, mtu := "1-8", t, 1500+r.IntN(3)
		if !valid && r.IntN(3) == 0 {
			allowed, uplink = fmt.Sprintf("1-%d", r.IntN(9)), r.IntN(2)
		}
		add("kind: VLANTrunk\nmetadata: {name: t%d}\nspec:\n  bridge: {name: br%d, managed: true}\n"+
			"  uplink: {interface: eth%d, allowedVLANs: %q}\n  mtu: %d\n", t, t, uplink, allowed, mtu)
		for n := range r.IntN(4) {
			name, id := fmt.Sprintf("n%d", t*4+n), 1+vlans[t*4+n]
			if !valid && r.IntN(3) == 0 {
				id = r.IntN(10)
			}
			if !valid && r.IntN(4) == 0 {
				name = fmt.Sprintf("n%d", r.IntN(8))
			}
			add("kind: VLANNetwork\nmetadata: {name: %s}\nspec:\n  trunk: t%d\n  vlan: {id: %d}\n  defaultAction: Drop\n", name, t, id)
			networks = append(networks, name)
		}
	}
	addSets := func(kind string, own func() string) (sets int) {
		sets = r.IntN(5)
		for i := range sets {
			includes := []string{}
			for j := range sets {
				if j < i && r.IntN(2) == 0 || !valid && r.IntN(8) == 0 {
					includes = append(includes, fmt.Sprintf("s%d", j))
				}
			}
			add("kind: %s\nmetadata: {name: s%d}\nspec:\n  %s\n  includes: [%s]\n", kind, i, own(), strings.Join(includes, ", "))
		}
		return sets
	}
	bad := func(good string) string {
		if !valid && r.IntN(6) == 0 {
			return "x"
		}
		return good
	}
	sets := addSets("AddressSet", func() string { return "addresses: [" + bad(fmt.Sprintf("10.0.%d.%d", r.IntN(3), r.IntN(250))) + "]" })
	serviceSets := addSets("ServiceSet", func() string {
		return fmt.Sprintf("services: [{protocol: TCP, ports: %q}]", bad(fmt.Sprint(1+r.IntN(20))))
	})
	for p := range r.IntN(4) {
		peers := ""
		if sets > 0 && r.IntN(2) == 0 {
			peers = fmt.Sprintf(", sources: [{addressSet: s%d}]", r.IntN(sets))
		} else if !valid && r.IntN(4) == 0 {
			peers = fmt.Sprintf(", destinations: [{ip: 1.1.1.1}, {addressSet: s%d}]", r.IntN(5))
		}
		if serviceSets > 0 && r.IntN(2) == 0 {
			peers += fmt.Sprintf(", services: [{protocol: TCP, ports: %q}, {serviceSet: s%d}]", fmt.Sprint(1+r.IntN(20)), r.IntN(serviceSets))
		} else if !valid && r.IntN(4) == 0 {
			peers += fmt.Sprintf(", services: [{serviceSet: s%d}]", r.IntN(5))
		}
		applied := "any: true"
		if len(networks) > 0 && r.IntN(2) == 0 {
			applied = "network: " + networks[r.IntN(len(networks))]
		}
		if !valid && r.IntN(3) == 0 {
			applied = "network: n7"
		}
		add("kind: FirewallPolicy\nmetadata: {name: p%d}\nspec:\n  category: Application\n  order: %d\n"+
			"  appliedTo: [{%s}]\n  rules: [{id: %d, action: Drop%s}]\n", p, r.IntN(3), applied, 1+r.IntN(3), peers)
	}
	out := state{}
	for _, o := range objects {
		if !valid && r.IntN(8) == 0 {
			o = o[:r.IntN(len(o))]
		}
		file := fmt.Sprintf("%d.yaml", r.IntN(3))
		if out[file] != "" {
			o = docs(out[file], o)
		}
		out[file] = o
	}
	return out
}

// With good states only the last one counts, in whatever order the others were.
func TestReplayValid(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 30 {
		var states []state
		for range 6 {
			states = append(states, randomState(r, true))
		}
		for _, last := range states {
			want := replay(last)
			if len(want.Problems) > 0 {
				t.Fatalf("seed %d: state is not valid: %v\n%v", seed, want.Problems, last)
			}
			backwards := slices.Clone(states)
			slices.Reverse(backwards)
			shuffled := slices.Clone(states)
			r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
			for name, before := range map[string][]state{"forwards": states, "backwards": backwards, "shuffled": shuffled} {
				if got := replay(append(slices.Clone(before), last)...); !reflect.DeepEqual(got, want) {
					t.Fatalf("seed %d, %s: after\n%v\n got %+v\nwant %+v", seed, name, last, got, want)
				}
			}
		}
	}
}

// Whatever the states: what is in force fits together, every version in force
// was good once, everything that is not as the directory says is reported, and a
// good state heals all.
func TestReplayAny(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var states []state
		for range 1 + r.IntN(6) {
			states = append(states, randomState(r, r.IntN(4) == 0))
		}
		got := replay(states...)
		if msg := inconsistent(got); msg != "" {
			t.Fatalf("seed %d: %s\nafter %q", seed, msg, states)
		}
		if again := replay(states...); !reflect.DeepEqual(again, got) {
			t.Fatalf("seed %d: two replays differ:\n%+v\n%+v", seed, got, again)
		}
		last := states[len(states)-1]
		if fresh := replay(last); len(got.Problems) == 0 && !got.sameContent(fresh) {
			t.Fatalf("seed %d: no problem, but in force is\n%+v\nwant\n%+v", seed, got, fresh)
		}
		good := randomState(r, true)
		if healed, want := replay(append(states, good)...), replay(good); !reflect.DeepEqual(healed, want) {
			t.Fatalf("seed %d: after a good state\n got %+v\nwant %+v", seed, healed, want)
		}
	}
}

// inconsistent says what in a snapshot does not fit together.
func inconsistent(s *Snapshot) string {
	for _, a := range s.Trunks {
		for _, b := range s.Trunks {
			if c := trunksClash(a, b); a.Name != b.Name && c != nil {
				return c.message
			}
		}
	}
	for _, a := range s.Networks {
		trunk, ok := s.Trunks[a.Trunk]
		if !ok {
			return "no trunk " + a.Trunk
		}
		r := &resolver{}
		if c := r.offTrunk(a, trunk, &slot{key: key{v1alpha1.KindVLANTrunk, a.Trunk}}); c != nil {
			return c.message
		}
		for _, b := range s.Networks {
			if c := networksClash(a, b); a.Name != b.Name && c != nil {
				return c.message
			}
		}
	}
	for _, p := range s.Policies {
		for _, n := range p.namings() {
			if n.Kind == v1alpha1.KindServiceSet {
				all, wrong := contents(s.ServiceSets, n.Name, nil, func(a ServiceSet) []policy.Service { return a.Services })
				if wrong != "" {
					return wrong
				}
				got := s.serviceLists[n.Name]
				for _, service := range append(slices.Clone(got), all...) {
					if !slices.Contains(all, service) || !slices.Contains(got, service) {
						return fmt.Sprintf("ServiceSet %s has %v: want %v", n.Name, got, all)
					}
				}
				continue
			}
			all, circle := contents(s.Sets, n.Name, nil, func(a AddressSet) []policy.AddrRange { return a.Ranges })
			if circle != "" {
				return circle
			}
			flat := policy.Set{Lists: map[string][]policy.AddrRange{"": s.lists[n.Name].ranges}}
			for _, host := range []string{"10.0.0.", "10.0.1.", "10.0.2."} {
				for i := range 256 {
					a := netip.MustParseAddr(fmt.Sprint(host, i))
					in := flat.Matches(&policy.Rule{Directions: policy.OnlyIn, SourceSets: []string{""}}, policy.Packet{Direction: policy.In, IP: true, Src: a})
					if in != slices.ContainsFunc(all, func(r policy.AddrRange) bool { return r.Contains(a) }) {
						return fmt.Sprintf("set %s has %v, %v: %v", n.Name, a, in, all)
					}
				}
			}
		}
	}
	return ""
}

// contents is what a set has with those that it includes, and what is wrong with that.
func contents[S namedSet, T any](sets map[string]S, name string, path []string, own func(S) []T) ([]T, string) {
	a, ok := sets[name]
	if !ok {
		return nil, "no set " + name
	}
	if slices.Contains(path, name) {
		return nil, "a circle " + name
	}
	out := slices.Clone(own(a))
	for _, i := range a.includes() {
		more, wrong := contents(sets, i, append(slices.Clone(path), name), own)
		if wrong != "" {
			return nil, wrong
		}
		out = append(out, more...)
	}
	return out, ""
}

// A large directory is read in time that does not matter.
func BenchmarkResolve(b *testing.B) {
	st := state{"trunk.yaml": edit(trunk0, "100-110,200,4000", "1-3999")}
	var sb strings.Builder
	for i := range 1000 {
		name := fmt.Sprintf("n%d", i)
		sb.WriteString("---\n" + edit(edit(vlan200, "{name: vlan200}", "{name: "+name+"}"), "id: 200", fmt.Sprint("id: ", i+1)))
		sb.WriteString("---\n" + edit(edit(web, "{name: web}", "{name: p"+name+"}"), "vlan100", name))
	}
	st["networks.yaml"] = sb.String()
	if s := replay(st); len(s.Problems) > 0 || len(s.Policies) != 1000 {
		b.Fatalf("%d policies, problems %v", len(s.Policies), s.Problems[:1])
	}
	for b.Loop() {
		replay(st, st)
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, s := range good() {
		f.Add([]byte(s))
	}
	f.Add([]byte("---\n--- {a: b}\n...\n%YAML 1.1\n---\na: &x [*x, <<: *x]\n? [k]\n: !!binary v\n"))
	f.Add([]byte("apiVersion: homeport.dev/v1alpha1\nkind: FirewallPolicy\nmetadata: {name: {a: b}}\nspec: [1, 2]\n"))
	f.Add([]byte("\xff\xfea\x00"))
	f.Add([]byte("\xef\xbb\xbf" + trunk0))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := parseManifest("f.yaml", data)
		lines := 1 // with the line breaks of YAML 1.1
		for _, r := range string(data) {
			if strings.ContainsRune("\n\r\u0085\u2028\u2029", r) {
				lines++
			}
		}
		for _, p := range m.problems {
			if p.File != "f.yaml" || p.Message == "" || p.Line < 1 || p.Line > lines {
				t.Errorf("problem %+v in %d lines", p, lines)
			}
		}
		for _, o := range m.objects {
			if o.Name == "" || o.file != "f.yaml" {
				t.Errorf("object %+v", o)
			}
		}
		held, _ := resolve(nil, []manifest{m})
		s, _ := build(held, nil, nil)
		if msg := inconsistent(s); msg != "" {
			t.Error(msg)
		}
		s.PolicySets()
	})
}
