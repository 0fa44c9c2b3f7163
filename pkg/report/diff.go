package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// PolicyDiff is how the rules of a port became others: of another moment, or of
// another port.
type PolicyDiff struct {
	wire.TypeMeta `json:",inline"`
	Old           DiffSide     `json:"old"`
	New           DiffSide     `json:"new"`
	Items         []RuleChange `json:"items"` // in the new order of judgement; removed ones last
	Sets          []SetChange  `json:"sets,omitempty"`
	// Unknown are sets that rules of both sides name and whose items a side does not
	// tell, as agents of earlier releases do not.
	Unknown []string   `json:"unknown,omitempty"`
	Default *[2]string `json:"default,omitempty"` // old and new, if they differ
}

// DiffSide says whose rules are compared.
type DiffSide struct {
	Name  string `json:"name"` // as it was asked for: a file or a port
	Port  string `json:"port"`
	Rules int    `json:"rules"`
}

// RuleChange is a rule that is not as it was. Hits are left out of the comparison.
type RuleChange struct {
	Change string     `json:"change"` // Added, Removed, Changed or Moved
	Policy string     `json:"policy"`
	ID     uint32     `json:"id"`
	Old    *wire.Rule `json:"old,omitempty"`
	New    *wire.Rule `json:"new,omitempty"`
	// Fields are what differs, in words.
	Fields []string `json:"fields,omitempty"`
	// Behind is the rule that it stands behind now, "" if it is the first; absent if it
	// kept its place among the others, or is there no more.
	Behind *string `json:"behind,omitempty"`
}

// SetChange is an AddressSet or ServiceSet that rules of both sides name and that has
// other items.
type SetChange struct {
	Old wire.NamedSet `json:"old"`
	New wire.NamedSet `json:"new"`
}

// Same says that nothing is known to differ.
func (d *PolicyDiff) Same() bool {
	return len(d.Items) == 0 && len(d.Sets) == 0 && d.Default == nil
}

// Compare finds what differs between the rules of two ports, or of one at two moments.
func Compare(oldName, newName string, was, is wire.PortRules) PolicyDiff {
	d := PolicyDiff{TypeMeta: wire.TypeMeta{APIVersion: wire.APIVersion, Kind: "PolicyDiff"}, Items: []RuleChange{},
		Old: DiffSide{oldName, portOf(was.Interface, was.Pod), len(was.Items)}, New: DiffSide{newName, portOf(is.Interface, is.Pod), len(is.Items)}}
	place := map[ruleKey]int{}
	for i := range was.Items {
		place[keyOf(&was.Items[i])] = i
	}
	stays := inOrder(place, is.Items)
	have := map[ruleKey]bool{}
	for i := range is.Items {
		now, key := &is.Items[i], keyOf(&is.Items[i])
		have[key] = true
		c := RuleChange{Policy: key.policy, ID: key.id, New: &now.Rule}
		if at, ok := place[key]; ok {
			c.Old = &was.Items[at].Rule
			c.Fields = ruleFields(c.Old, c.New)
			if a, b := was.Items[at].Tier, now.Tier; a != b && a != "" && b != "" {
				c.Fields = append(c.Fields, fmt.Sprintf("tier: %s -> %s", a, b))
			}
		}
		if !stays[i] {
			behind := ""
			if i > 0 {
				behind = keyOf(&is.Items[i-1]).String()
			}
			c.Behind = &behind
		}
		switch {
		case c.Old == nil:
			c.Change = "Added"
		case c.Fields != nil:
			c.Change = "Changed"
		case c.Behind != nil:
			c.Change = "Moved"
		default:
			continue
		}
		d.Items = append(d.Items, c)
	}
	for i := range was.Items {
		if key := keyOf(&was.Items[i]); !have[key] {
			d.Items = append(d.Items, RuleChange{Change: "Removed", Policy: key.policy, ID: key.id, Old: &was.Items[i].Rule})
		}
	}
	before, named := setsOf(&was), setsOf(&is)
	for _, name := range slices.Sorted(maps.Keys(named)) {
		a, both := before[name]
		b := named[name]
		switch {
		case !both:
		case a == nil || b == nil:
			d.Unknown = append(d.Unknown, name)
		case a.Hash != b.Hash:
			d.Sets = append(d.Sets, SetChange{*a, *b})
		}
	}
	if was.Default.Action != is.Default.Action {
		d.Default = &[2]string{was.Default.Action, is.Default.Action}
	}
	return d
}

// setsOf gives the sets that rules name, as they name them; nil is one that is not told of.
func setsOf(v *wire.PortRules) map[string]*wire.NamedSet {
	out := map[string]*wire.NamedSet{}
	for i := range v.Items {
		r := &v.Items[i].Rule
		for _, list := range [][]string{r.Sources, r.Destinations, r.Services, r.Local} {
			for _, item := range list {
				item = strings.TrimPrefix(item, allBut)
				if slices.ContainsFunc([]string{"AddressSet ", "ServiceSet ", "VLANNetwork "}, func(kind string) bool { return strings.HasPrefix(item, kind) }) {
					out[item] = nil
				}
			}
		}
	}
	for i, s := range v.Sets {
		out[s.Kind+" "+s.Name] = &v.Sets[i]
	}
	return out
}

// allBut heads a list that excludes what it names.
const allBut = "all but "

// ruleKey is what tells the rules of a port apart.
type ruleKey struct {
	policy string
	id     uint32
}

func keyOf(r *wire.PortRule) ruleKey { return ruleKey{r.Policy, r.ID} }

func (k ruleKey) String() string { return k.policy + " " + strconv.FormatUint(uint64(k.id), 10) }

// inOrder says of each rule whether it kept its place among the others: those that did
// are as many as can be, for the fewest moves explain a new order best. It is the
// longest increasing subsequence of the old places (Fredman 1975).
func inOrder(old map[ruleKey]int, rules []wire.PortRule) []bool {
	ends := []int{} // of the best subsequence of each length, its last rule
	before := make([]int, len(rules))
	at := func(i int) int { return old[keyOf(&rules[i])] }
	for i := range rules {
		before[i] = -1
		place, ok := old[keyOf(&rules[i])]
		if !ok {
			continue
		}
		n, _ := slices.BinarySearchFunc(ends, place, func(end, place int) int { return cmp.Compare(at(end), place) })
		if n > 0 {
			before[i] = ends[n-1]
		}
		if n == len(ends) {
			ends = append(ends, i)
		} else {
			ends[n] = i
		}
	}
	stays := make([]bool, len(rules))
	if len(ends) > 0 {
		for i := ends[len(ends)-1]; i >= 0; i = before[i] {
			stays[i] = true
		}
	}
	return stays
}

// about is what a rule is about.
func about(r *wire.Rule) string {
	if r.Ethernet {
		return "frames"
	}
	return "packets"
}

// ruleFields says what two versions of a rule have otherwise; nil is nothing.
func ruleFields(was, is *wire.Rule) (out []string) {
	field := func(name, a, b string) {
		if a != b {
			out = append(out, fmt.Sprintf("%s: %s -> %s", name, cmp.Or(a, "none"), cmp.Or(b, "none")))
		}
	}
	list := func(name string, a, b []string) {
		if slices.Equal(a, b) {
			return
		}
		if len(a) == 0 || len(b) == 0 || strings.HasPrefix(a[0], allBut) || strings.HasPrefix(b[0], allBut) { // Any is no list
			field(name, cmp.Or(strings.Join(a, ","), "Any"), cmp.Or(strings.Join(b, ","), "Any"))
			return
		}
		var words []string
		for _, v := range b {
			if !slices.Contains(a, v) {
				words = append(words, "+"+v)
			}
		}
		for _, v := range a {
			if !slices.Contains(b, v) {
				words = append(words, "-"+v)
			}
		}
		out = append(out, name+": "+cmp.Or(strings.Join(words, " "), "the same in another order"))
	}
	flag := func(on bool) string { return strconv.FormatBool(on) }
	field("name", was.Name, is.Name)
	field("action", was.Action, is.Action)
	field("about", about(was), about(is))
	field("state", cmp.Or(was.State, "Enabled"), cmp.Or(is.State, "Enabled"))
	field("direction", was.Direction, is.Direction)
	list("sources", was.Sources, is.Sources)
	list("destinations", was.Destinations, is.Destinations)
	list("services", was.Services, is.Services)
	list("VM's addresses", was.Local, is.Local)
	field("stateful", flag(!was.Stateless), flag(!is.Stateless))
	field("tcpStrict", flag(!was.Loose), flag(!is.Loose))
	field("sticky", flag(was.Sticky), flag(is.Sticky))
	field("log", flag(was.Log), flag(is.Log))
	field("logLabel", was.LogLabel, is.LogLabel)
	return out
}

// PolicyDiff writes what differs, one line for each change.
func (p Printer) PolicyDiff(d PolicyDiff) error {
	if !p.Format.IsText() {
		return p.Document(d)
	}
	pg := p.text()
	side := func(s DiffSide) cell { return say(fmt.Sprintf("%s: %s, %d rules", s.Name, s.Port, s.Rules)) }
	pg.pairs([2]cell{{"Old", head}, side(d.Old)}, [2]cell{{"New", head}, side(d.New)})
	pg.blank()
	for _, name := range d.Unknown {
		pg.line(cell{"Whether " + name + " has other items is not known: a side does not tell, as agents of earlier releases do not.", warn})
	}
	if d.Unknown != nil {
		pg.blank()
	}
	if d.Same() {
		pg.line(say("The rules are the same, in the same order."))
		return p.flush(pg)
	}
	g := pg.grid("CHANGE", "POLICY", "ID", "WHAT")
	for _, c := range d.Items {
		what := slices.Clone(c.Fields)
		switch c.Change {
		case "Added":
			what = []string{pg.ruleText(c.New)}
		case "Removed":
			what = []string{pg.ruleText(c.Old)}
		}
		switch {
		case c.Behind == nil:
		case *c.Behind == "":
			what = append(what, "now the first")
		default:
			what = append(what, "now behind "+*c.Behind)
		}
		g.row(cell{c.Change, changeTone[c.Change]}, say(c.Policy), say(c.ID), say(strings.Join(what, "; ")))
	}
	for _, s := range d.Sets {
		what := fmt.Sprintf("%d -> %d ranges", s.Old.Items, s.New.Items)
		if s.Old.Items == s.New.Items {
			what = fmt.Sprintf("%d ranges, others than before", s.New.Items)
		}
		g.row(cell{"Changed", warn}, say(s.New.Kind+" "+s.New.Name), say(""), say(what))
	}
	if d.Default != nil {
		g.row(cell{"Changed", warn}, say("(default)"), say(""), say(fmt.Sprintf("action: %s -> %s", d.Default[0], d.Default[1])))
	}
	g.end()
	return p.flush(pg)
}

var changeTone = map[string]tone{"Added": good, "Removed": bad, "Changed": warn, "Moved": warn}

// ruleText is a rule in one phrase.
func (p *page) ruleText(r *wire.Rule) string {
	text := fmt.Sprintf("%s %s, %s -> %s, %s", r.Action, p.where(r), p.some(r.Sources, "Any"), p.some(r.Destinations, "Any"), p.some(r.Services, "Any"))
	add := func(is bool, what string) {
		if is {
			text += ", " + what
		}
	}
	add(r.Ethernet, "Ethernet")
	add(r.State != "", r.State)
	add(r.Stateless, "stateful: false")
	add(r.Loose, "tcpStrict: false")
	add(r.Sticky, "sticky")
	add(r.Log, "log")
	add(r.Name != "", "named "+r.Name)
	return text
}
