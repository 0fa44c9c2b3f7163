package desired

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// inForce lists the objects of a snapshot, with what the tests below change.
func inForce(s *Snapshot) string {
	var out []string
	for name, t := range s.Trunks {
		out = append(out, name+"="+t.Bridge+"/"+t.AllowedVLANs.String())
	}
	for name, n := range s.Networks {
		at := n.PVID
		out = append(out, name+"="+n.Trunk+"/"+vlanSet(at).String()+"/"+[]string{"Drop", "Allow"}[n.Default])
	}
	for _, p := range s.Policies {
		ids := ""
		for _, r := range p.Rules {
			ids += "," + r.Name
		}
		out = append(out, p.Name+"="+strings.Join(p.Networks, "+")+ids)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

const (
	trunkIn = "trunk0=br-trunk0/100-110,200,4000"
	v100In  = "vlan100=trunk0/100/Drop"
	v200In  = "vlan200=trunk0/200/Allow"
	webIn   = "web=vlan100,web from the old subnet,"
	everyIn = "everywhere=,"
	allIn   = everyIn + " " + trunkIn + " " + v100In + " " + v200In + " " + webIn
)

// secondState is a state after the good one: what is in force then, and what is
// said.
type secondState struct {
	name    string
	state   state
	inForce string
	want    string
}

func (c secondState) run(t *testing.T) {
	d, dir := newDir(t, good())
	if got := inForce(mustLoad(t, d)); got != allIn {
		t.Fatalf("in force at first\n got %s\nwant %s", got, allIn)
	}
	c.state.put(t, dir)
	s := mustLoad(t, d)
	if got := inForce(s); got != c.inForce {
		t.Errorf("in force\n got %s\nwant %s", got, c.inForce)
	}
	if got, want := problems(s, dir), strings.TrimPrefix(c.want, "\n"); got != want {
		t.Errorf("problems\n got:\n%swant:\n%s", got, want)
	}
	if again := mustLoad(t, d); !reflect.DeepEqual(again, s) {
		t.Errorf("reading the same directory again\n got %+v\nwant %+v", again, s)
	}
	good().put(t, dir)
	if s = mustLoad(t, d); inForce(s) != allIn || len(s.Problems) > 0 {
		t.Errorf("after repair in force\n got %s\nwant %s\nproblems:\n%s", inForce(s), allIn, problems(s, dir))
	}
}

// Mistakes in one object, or in one file.
func TestLastGood(t *testing.T) {
	renamed := edit(web, "web from the old subnet", "new")
	newIn := strings.Replace(allIn, "web from the old subnet", "new", 1)
	badNet := edit(vlan100, "id: 100", "id: 4095")
	for _, c := range []secondState{
		{"a bad object freezes no other", good().with("networks.yml", docs(badNet, vlan200), "policy.yaml", docs(renamed, everywhere)), newIn, `
networks.yml:6: VLANNetwork vlan100: spec.vlan.id: Invalid value: 4095: want a VLAN from 1 to 4094 (the last good version stays in force)
`},
		{"a new bad object is not there", good().with("more.yaml", edit(badNet, "{name: vlan100}", "{name: x}"), "policy.yaml", docs(renamed, everywhere)), newIn, `
more.yaml:6: VLANNetwork x: spec.vlan.id: Invalid value: 4095: want a VLAN from 1 to 4094
`},
		{"removed objects are removed", good().with("policy.yaml", everywhere), strings.Replace(allIn, " "+webIn, "", 1), ""},
		{"a removed file is removed", good().with("policy.yaml", ""), trunkIn + " " + v100In + " " + v200In, ""},
		{"objects may change files", state{"all.yaml": docs(everywhere, vlan200, trunk0, web, vlan100)}, allIn, ""},
		{"a file that is no YAML keeps its own", good().with("networks.yml", "kind: [", "policy.yaml", docs(renamed)), strings.Replace(newIn, everyIn+" ", "", 1), `
networks.yml: VLANNetwork vlan100: is missing from its file, which cannot be read in full: correct the file, or delete it to remove the object (the last good version stays in force)
networks.yml: VLANNetwork vlan200: is missing from its file, which cannot be read in full: correct the file, or delete it to remove the object (the last good version stays in force)
networks.yml:1: is not YAML: did not find expected node content (the last good version stays in force)
`},
		{"a broken document hides no neighbour", good().with("policy.yaml", docs(everywhere, "a: [\n", renamed)), newIn, `
policy.yaml:9: is not YAML: did not find expected node content
`},
		{"an object that lost its name", good().with("policy.yaml", docs(edit(web, "name: web}", "labels: {a: b}}"), everywhere)), allIn, `
policy.yaml: FirewallPolicy web: is missing from its file, which cannot be read in full: correct the file, or delete it to remove the object (the last good version stays in force)
policy.yaml:3: FirewallPolicy: metadata.name: Required value: want a name as vlan100 (the last good version stays in force)
`},
		{"an emptied file", good().with("policy.yaml", "\n"), allIn, `
policy.yaml: FirewallPolicy everywhere: is missing from its file, which is empty: correct the file, or delete it to remove the object (the last good version stays in force)
policy.yaml: FirewallPolicy web: is missing from its file, which is empty: correct the file, or delete it to remove the object (the last good version stays in force)
`},
		{"a copy of an object", good().with("copy.yaml", edit(vlan100, "Drop", "Allow")), allIn, `
copy.yaml:3: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in networks.yml line 3: want it once (the last good version stays in force)
networks.yml:3: VLANNetwork vlan100: metadata.name: VLANNetwork vlan100 is also in copy.yaml line 3: want it once (the last good version stays in force)
`},
	} {
		t.Run(c.name, c.run)
	}
}

// Objects that do not fit together.
func TestLastGoodTogether(t *testing.T) {
	for _, c := range []secondState{
		{"a trunk that drops a VLAN in use", good().with("trunk.yaml", edit(trunk0, "100-110,200,4000", "100-110")), allIn, `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: VLAN 200 is used by VLANNetwork vlan200: want it in the list, or remove the network first (the last good version stays in force)
`},
		{"a VLAN in use that becomes management", good().with("trunk.yaml", edit(trunk0, `"4000"`, `"200,4000"`)), allIn, `
trunk.yaml:8: VLANTrunk trunk0: spec.managementVLANs: VLAN 200 is used by VLANNetwork vlan200: take it out, or remove the network first (the last good version stays in force)
`},
		{"a trunk's MTU under a network's", good().with("trunk.yaml", edit(trunk0, "mtu: 1500", "mtu: 1400")), allIn, `
trunk.yaml:7: VLANTrunk trunk0: spec.mtu: 1400 is under the MTU of VLANNetwork vlan100: want at least 1500 (the last good version stays in force)
`},
		{"a trunk drops a VLAN while its network changes otherwise",
			good().with("trunk.yaml", edit(trunk0, "100-110,200,4000", "100-110"), "networks.yml", docs(vlan100, edit(vlan200, "Allow", "Drop"))),
			strings.Replace(allIn, "200/Allow", "200/Drop", 1), `
trunk.yaml:6: VLANTrunk trunk0: spec.uplink.allowedVLANs: VLAN 200 is used by VLANNetwork vlan200: want it in the list, or remove the network first (the last good version stays in force)
`},
		{"a trunk and its network change together",
			good().with("trunk.yaml", edit(trunk0, "100-110,200,4000", "100-110,300"), "networks.yml", docs(vlan100, edit(vlan200, "id: 200", "id: 300"))),
			strings.NewReplacer("100-110,200,4000", "100-110,300", "trunk0/200", "trunk0/300").Replace(allIn), ""},
		{"a removed trunk with networks", good().with("trunk.yaml", ""), allIn, `
trunk.yaml: VLANTrunk trunk0: is gone, but VLANNetwork vlan100 is on it: remove that too, or put the trunk back (the last good version stays in force)
`},
		{"all but a policy removed", state{"policy.yaml": everywhere}, everyIn, ""},
		{"a removed network that a policy names", good().with("networks.yml", vlan200), strings.Replace(allIn, v100In+" ", "", 1), `
policy.yaml:7: FirewallPolicy web: spec.appliedTo[0].network: VLANNetwork "vlan100" does not exist: want one of vlan200, or make it (the last good version stays in force)
`},
		{"networks that swap VLANs", good().with("networks.yml", docs(edit(vlan100, "id: 100", "id: 200"), edit(vlan200, "id: 200", "id: 100"))),
			strings.NewReplacer("=trunk0/100", "=trunk0/200", "=trunk0/200", "=trunk0/100").Replace(allIn), ""},
		{"a network that takes another's VLAN", good().with("networks.yml", docs(vlan100, edit(vlan200, "id: 200", "id: 100"))), allIn, `
networks.yml:16: VLANNetwork vlan200: spec.vlan.id: VLAN 100 of trunk trunk0 is VLANNetwork vlan100 already: want one network for a VLAN (the last good version stays in force)
`},
		{"a new trunk that takes a bridge", good().with("more.yaml", edit(edit(trunk0, "{name: trunk0}", "{name: a}"), "eth1", "eth2")), allIn, `
more.yaml:5: VLANTrunk a: spec.bridge.name: VLANTrunk trunk0 has the same bridge br-trunk0: want another
`},
		{"three new networks for one VLAN", good().with("more.yaml", docs(
			edit(edit(vlan200, "{name: vlan200}", "{name: a}"), "id: 200", "id: 101"), edit(edit(vlan200, "{name: vlan200}", "{name: b}"), "id: 200", "id: 101"),
			edit(edit(vlan200, "{name: vlan200}", "{name: c}"), "id: 200", "id: 101"))), allIn, `
more.yaml:6: VLANNetwork a: spec.vlan.id: VLAN 101 of trunk trunk0 is VLANNetwork b already: want one network for a VLAN
more.yaml:14: VLANNetwork b: spec.vlan.id: VLAN 101 of trunk trunk0 is VLANNetwork a already: want one network for a VLAN
more.yaml:22: VLANNetwork c: spec.vlan.id: VLAN 101 of trunk trunk0 is VLANNetwork a already: want one network for a VLAN
`},
	} {
		t.Run(c.name, c.run)
	}
}

// A source that is gone is no wish for nothing.
func TestSourceGone(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		break_ func(t *testing.T, dir string)
		want   string
	}{
		"missing": {func(t *testing.T, dir string) { must(t, os.RemoveAll(dir)) }, "no such file or directory"},
		"a file": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			writeTo(t, dir, trunk0)
		}, "want a directory of *.yaml manifests"},
		"empty": {func(t *testing.T, dir string) { state{}.put(t, dir) }, "has no manifests any more"},
		"only comments": {func(t *testing.T, dir string) {
			state{"a.yaml": "# nothing\n---\n", "b.yaml": ""}.put(t, dir)
		}, "has no manifests any more"},
		"only other files": {func(t *testing.T, dir string) { state{"README": "x", ".a.yaml": trunk0}.put(t, dir) }, "has no manifests any more"},
		"a link to nowhere": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			must(t, os.Symlink("nowhere", dir))
		}, "no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			d, dir := newDir(t, good())
			before := mustLoad(t, d)
			c.break_(t, dir)
			var since time.Time
			for range 2 {
				s, err := d.Load()
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("error %v, want one with %q", err, c.want)
				}
				if !s.sameContent(before) || s.Revision != before.Revision {
					t.Errorf("snapshot changed to revision %d: %s", s.Revision, inForce(s))
				}
				if len(s.Problems) != 1 || !s.Problems[0].Kept || !strings.Contains(s.Problems[0].Message, c.want) {
					t.Errorf("problems %+v, want the error, kept", s.Problems)
				}
				if text := s.Problems[0].String(); strings.Count(text, dir) != 1 || strings.Count(err.Error(), dir) != 1 {
					t.Errorf("the path is not said once: problem %q, error %q", text, err)
				}
				if s.Stale == nil || s.Stale.Since.IsZero() || strings.Count(s.Stale.Message, dir) != 1 || !strings.Contains(s.Stale.Message, c.want) {
					t.Fatalf("not told to be stale: %+v", s.Stale)
				}
				if since.IsZero() {
					since = time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
					d.last.Stale.Since = since // as if it had been so for long
				} else if !s.Stale.Since.Equal(since) {
					t.Errorf("stale since %v, want %v", s.Stale.Since, since)
				}
			}
			must(t, os.RemoveAll(dir))
			good().with("networks.yml", vlan100).put(t, dir)
			if s := mustLoad(t, d); s.Stale != nil || len(s.Problems) != 0 || s.Revision != before.Revision+1 || len(s.Networks) != 1 {
				t.Errorf("after repair: revision %d, %s, problems %v", s.Revision, inForce(s), s.Problems)
			}
		})
	}
}

// TestStaleOverRestart: a restart knows since when the source has been gone, and
// a source that came back meanwhile is no longer said to be.
func TestStaleOverRestart(t *testing.T) {
	d, dir := newDir(t, good())
	d.cache = filepath.Join(t.TempDir(), "snapshot.json")
	mustLoad(t, d)
	state{}.put(t, dir)
	first, err := d.Load()
	if err == nil || first.Stale == nil || first.Stale.Reason != "SourceEmpty" {
		t.Fatalf("emptied: %v, %+v", err, first.Stale)
	}
	again := NewDir(d.path, d.cache)
	again.prime()
	if !reflect.DeepEqual(again.last.Stale, first.Stale) {
		t.Errorf("after a restart %+v, before %+v", again.last.Stale, first.Stale)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s, err := again.Load()
	if err == nil || s.Stale == nil || s.Stale.Reason != "SourceUnreadable" || !s.Stale.Since.Equal(first.Stale.Since) {
		t.Errorf("then missing: %v, %+v; want it since %v", err, s.Stale, first.Stale.Since)
	}
	good().put(t, dir)
	if s := mustLoad(t, again); s.Stale != nil {
		t.Errorf("after repair: %+v", s.Stale)
	}
	fresh := NewDir(d.path, d.cache)
	fresh.prime()
	if fresh.last.Stale != nil {
		t.Errorf("stored as stale after repair: %+v", fresh.last.Stale)
	}
}

func TestNothingEver(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	d := NewDir(dir, "")
	if s, err := d.Load(); s != nil || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v, %v; want nil, not exist", s, err)
	}
	state{}.put(t, dir)
	if s := mustLoad(t, d); s.Revision != 1 || inForce(s) != "" || len(s.Problems) != 0 {
		t.Errorf("empty directory at start: %+v", s)
	}
	want := []policy.Set{{Network: "", Default: policy.Drop}}
	if got := mustLoad(t, d).PolicySets(); !reflect.DeepEqual(got, want) {
		t.Errorf("policy sets %+v, want %+v", got, want)
	}
}

// Revision rises with content only.
func TestRevision(t *testing.T) {
	d, dir := newDir(t, good())
	for i, c := range []struct {
		state state
		want  uint64
	}{
		{good(), 1},
		{good().with("notes.txt", "x"), 1},
		{state{"all.yaml": docs(web, everywhere, vlan100, vlan200, "# moved\n"+trunk0)}, 1},
		{good().with("bad.yaml", "["), 1},
		{good().with("policy.yaml", web), 2},
		{good(), 3},
	} {
		c.state.put(t, dir)
		if s := mustLoad(t, d); s.Revision != c.want {
			t.Errorf("step %d: revision %d, want %d", i, s.Revision, c.want)
		}
	}
}

// A snapshot that was handed on does not change any more.
func TestSnapshotIsImmutable(t *testing.T) {
	d, dir := newDir(t, good())
	first := mustLoad(t, d)
	trunks, networks, policies := maps.Clone(first.Trunks), maps.Clone(first.Networks), slices.Clone(first.Policies)
	state{"trunk.yaml": trunk0, "bad.yaml": "["}.put(t, dir)
	mustLoad(t, d)
	if !reflect.DeepEqual(first.Trunks, trunks) || !reflect.DeepEqual(first.Networks, networks) ||
		!reflect.DeepEqual(first.Policies, policies) || len(first.Problems) != 0 {
		t.Errorf("first snapshot became %+v", first)
	}
}
