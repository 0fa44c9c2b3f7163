package learn

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// reference is the rules once more, written to be read and not to be fast: a flat list of evidence, and after every event all
// roles from the beginning. It has no bounds but the network's limit and the four of link-local addresses.
type reference struct {
	outsideFor time.Duration
	nets       map[string]Network
	rows       []row
	since      map[who]time.Time
	standing   map[who]time.Time
	decision   map[who]Decision
	role       map[who]Role
	moves      map[place]bool // shared, as of the last judgement
	absent     map[NIC]bool
	turned     map[NIC]time.Time
	outs       []OutsideState
	now        time.Time
}

type who struct {
	at  place
	nic NIC
}

type row struct {
	who
	Evidence
}

// refer evaluates a whole log.
func refer(s Settings, log []Event) *reference {
	r := &reference{
		outsideFor: s.Outside, nets: map[string]Network{}, since: map[who]time.Time{}, standing: map[who]time.Time{},
		decision: map[who]Decision{}, role: map[who]Role{}, absent: map[NIC]bool{}, turned: map[NIC]time.Time{},
	}
	for k, v := range s.Networks {
		r.nets[k] = v
	}
	for _, e := range log {
		if e.check() != nil {
			continue
		}
		r.advance(e.At)
		r.take(e)
		r.judge(e.At)
		r.advance(r.now)
	}
	return r
}

func (r *reference) of(w who) (out []Evidence) {
	for _, x := range r.rows {
		if x.who == w {
			out = append(out, x.Evidence)
		}
	}
	slices.SortFunc(out, func(a, b Evidence) int {
		if a.Provenance != b.Provenance {
			return int(b.Provenance) - int(a.Provenance)
		}
		return strings.Compare(a.Source, b.Source)
	})
	return out
}

func (r *reference) keys() (out []who) {
	for _, x := range r.rows {
		if !slices.Contains(out, x.who) {
			out = append(out, x.who)
		}
	}
	slices.SortFunc(out, func(a, b who) int {
		if d := a.at.compare(b.at); d != 0 {
			return d
		}
		return a.nic.compare(b.nic)
	})
	return out
}

// class: 0 nothing, 1 observed, 2 leased, 3 firm.
func (r *reference) class(w who) int {
	evs := r.of(w)
	switch {
	case len(evs) == 0:
		return 0
	case evs[0].Provenance >= Declared:
		return 3
	case evs[0].Provenance == DHCP:
		return 2
	}
	return 1
}

func (r *reference) net(n NIC) *Network {
	if v, ok := r.nets[n.Network]; ok {
		return &v
	}
	return nil
}

func (r *reference) fit(w who) bool { return r.net(w.nic).unfit(w.at.Addr) == "" }

func (r *reference) firmly(at place) bool {
	for _, w := range r.keys() {
		if w.at == at && r.class(w) == 3 && r.fit(w) {
			return true
		}
	}
	return false
}

func (r *reference) room(w who) bool {
	n := 0
	for _, o := range r.keys() {
		if o.nic == w.nic && o.at.Segment == w.at.Segment && o != w && r.class(o) == 1 &&
			o.at.Addr.Is4() == w.at.Addr.Is4() && linkLocal(o.at.Addr) == linkLocal(w.at.Addr) {
			n++
		}
	}
	if linkLocal(w.at.Addr) {
		return n < 4
	}
	return n < r.net(w.nic).limit()
}

// makeRoom: of what counts as w would, and was heard a day ago and more, the one that was heard first goes, if that is enough.
func (r *reference) makeRoom(w who, now time.Time) bool {
	if r.absent[w.nic] {
		return false
	}
	kept := slices.Clone(r.rows)
	var first who
	heard := now.Add(-Quiet)
	for _, o := range r.keys() {
		if o.nic != w.nic || o == w || o.at.Segment != w.at.Segment || r.class(o) != 1 || o.at.Addr.Is4() != w.at.Addr.Is4() || linkLocal(o.at.Addr) != linkLocal(w.at.Addr) {
			continue
		}
		if d := r.decision[o]; !d.At.IsZero() && !d.Denied {
			continue
		}
		last := r.turned[w.nic]
		for _, e := range r.of(o) {
			if e.Seen.After(last) {
				last = e.Seen
			}
		}
		if last.Before(heard) || first == (who{}) && last.Equal(heard) {
			first, heard = o, last
		}
	}
	r.drop(func(x row) bool { return x.who == first })
	if first != (who{}) && r.room(w) {
		return true
	}
	r.rows = kept
	return false
}

func (r *reference) drop(such func(row) bool) { r.rows = slices.DeleteFunc(r.rows, such) }

// fallen is called when evidence is gone: what was more than a sighting must have room as one.
func (r *reference) fallen(w who, was int) {
	if r.class(w) == 1 && was > 1 && !r.room(w) {
		r.drop(func(x row) bool { return x.who == w })
	}
}

func (r *reference) take(e Event) {
	w := who{place{e.Segment, e.Addr}, e.NIC}
	switch e.Kind {
	case EventClaim:
		r.claim(w, e)
	case EventWithdraw:
		was, found := r.class(w), false
		r.drop(func(x row) bool {
			hit := x.who == w && x.Provenance == e.Provenance && (x.Source == e.Source || e.Provenance < Declared) && !x.Seen.After(e.At)
			found = found || hit
			return hit
		})
		if found && e.Provenance == DHCP {
			r.drop(func(x row) bool { return x.who == w && x.Provenance < DHCP && !x.Seen.After(e.At) })
		}
		r.fallen(w, was)
	case EventOutside:
		r.outside(e)
	case EventApprove, EventDeny:
		keys := r.keys()
		for k := range r.decision {
			keys = append(keys, k)
		}
		for _, k := range keys {
			if k.nic != e.NIC || k.at.Addr != e.Addr || (e.Segment != Segment{} && k.at.Segment != e.Segment) ||
				(e.Kind == EventDeny && r.class(k) == 3) || r.decision[k].At.After(e.At) {
				continue
			}
			r.decision[k] = Decision{Denied: e.Kind == EventDeny, By: e.By, At: e.At}
			if e.Kind == EventDeny {
				r.drop(func(x row) bool { return x.who == k })
			}
		}
	case EventGone:
		r.drop(func(x row) bool { return x.nic == e.NIC })
		for k := range r.decision {
			if k.nic == e.NIC {
				delete(r.decision, k)
			}
		}
		delete(r.absent, e.NIC)
		delete(r.turned, e.NIC)
	case EventAbsent, EventPresent:
		if absent := e.Kind == EventAbsent; absent != r.absent[e.NIC] && !e.At.Before(r.turned[e.NIC]) {
			r.absent[e.NIC], r.turned[e.NIC] = absent, e.At
		}
	case EventNetwork, EventNetworkGone:
		r.network(e)
	}
}

func (r *reference) claim(w who, e Event) {
	isFirm := e.Provenance >= Declared
	if !isFirm {
		e.Source = ""
	}
	for i := range r.rows {
		x := &r.rows[i]
		if x.who != w || x.Provenance != e.Provenance || x.Source != e.Source {
			continue
		}
		if e.At.Before(x.Since) {
			x.Since = e.At
			r.earlier(w, e.At)
		}
		if !e.At.Before(x.Seen) {
			x.Seen, x.Place = e.At, e.Place
			if e.MAC != (MAC{}) {
				x.MAC = e.MAC
			}
			if e.Provenance == DHCP {
				x.Until = e.Until
			}
		}
		return
	}
	was := r.class(w)
	if !isFirm {
		mode := ModeObserved
		if n := r.net(w.nic); n != nil {
			mode = n.Mode
		}
		if !r.fit(w) || r.decision[w].Denied || mode == ModeDeclared && was != 3 && !r.firmly(w.at) && family(w.at.Addr) != 0 {
			return
		}
		if e.Provenance < DHCP && was == 0 && !r.room(w) && !r.makeRoom(w, e.At) {
			return
		}
	} else if r.decision[w].Denied {
		delete(r.decision, w)
	}
	if was == 0 {
		r.since[w] = e.At
		delete(r.standing, w)
	}
	r.earlier(w, e.At)
	v := Evidence{Provenance: e.Provenance, Source: e.Source, MAC: e.MAC, Place: e.Place, Since: e.At, Seen: e.At}
	if e.Provenance == DHCP {
		v.Until = e.Until
	}
	r.rows = append(r.rows, row{w, v})
}

func (r *reference) earlier(w who, at time.Time) {
	if at.Before(r.since[w]) {
		if r.standing[w].Equal(r.since[w]) {
			r.standing[w] = at
		}
		r.since[w] = at
	}
}

func (r *reference) outside(e Event) {
	if reason := (*Network)(nil).unfit(e.Addr); reason != ReasonNoNetwork {
		return
	}
	for i := range r.outs {
		if o := &r.outs[i]; o.Segment == e.Segment && o.Addr == e.Addr && o.MAC == e.MAC {
			if e.At.Before(o.Since) {
				o.Since = e.At
			}
			if !e.At.Before(o.Seen) {
				o.Seen, o.Place = e.At, e.Place
			}
			return
		}
	}
	r.outs = append(r.outs, OutsideState{Segment: e.Segment, Addr: e.Addr, MAC: e.MAC, Place: e.Place, Since: e.At, Seen: e.At})
	var here []OutsideState
	for _, o := range r.outs {
		if o.Segment == e.Segment && o.Addr == e.Addr {
			here = append(here, o)
		}
	}
	if len(here) > 4 {
		worst := slices.MinFunc(here, func(a, b OutsideState) int {
			if d := a.Seen.Compare(b.Seen); d != 0 {
				return d
			}
			return slices.Compare(a.MAC[:], b.MAC[:])
		})
		r.outs = slices.DeleteFunc(r.outs, func(o OutsideState) bool { return o == worst })
	}
}

func (r *reference) network(e Event) {
	was, known := r.nets[e.Network]
	if e.Kind == EventNetworkGone {
		delete(r.nets, e.Network)
	} else {
		r.nets[e.Network] = *e.Settings
	}
	for _, w := range r.keys() {
		if w.nic.Network != e.Network {
			continue
		}
		if known && was.Mode == ModeObserved && r.nets[e.Network].Mode == ModeApproved && family(w.at.Addr) != 0 && r.role[w] == Holder &&
			r.class(w) < 3 && r.decision[w] == (Decision{}) {
			r.decision[w] = Decision{By: ByChange, At: e.At}
		}
		if !r.fit(w) {
			r.drop(func(x row) bool { return x.who == w && x.Provenance < Declared })
		}
	}
}

// ends is when a row counts no more.
func (r *reference) ends(x row) time.Time {
	if x.Provenance == DHCP {
		return x.Until
	}
	if x.Provenance >= Declared || r.absent[x.nic] {
		return time.Time{}
	}
	d := r.net(x.nic).Expiry
	if d == 0 && r.moves[x.at] && r.role[x.who] == Beside {
		d = SharedExpiry
	}
	if d == 0 {
		return time.Time{}
	}
	if t := r.turned[x.nic]; t.After(x.Seen) {
		return t.Add(d)
	}
	return x.Seen.Add(d)
}

// advance lets time pass, from one end to the next.
func (r *reference) advance(to time.Time) {
	if to.After(r.now) {
		r.now = to
	}
	for {
		var first time.Time
		soonest := func(t time.Time) {
			if !t.IsZero() && !t.After(r.now) && (first.IsZero() || t.Before(first)) {
				first = t
			}
		}
		for _, x := range r.rows {
			soonest(r.ends(x))
		}
		for _, o := range r.outs {
			soonest(o.Seen.Add(r.outsideFor))
		}
		if first.IsZero() {
			return
		}
		for _, w := range r.keys() {
			was := r.class(w)
			var lease time.Time
			r.drop(func(x row) bool {
				t := r.ends(x)
				over := x.who == w && !t.IsZero() && !t.After(first)
				if over && x.Provenance == DHCP {
					lease = t
				}
				return over
			})
			r.drop(func(x row) bool { return x.who == w && x.Provenance < DHCP && !x.Seen.After(lease) })
			r.fallen(w, was)
		}
		r.outs = slices.DeleteFunc(r.outs, func(o OutsideState) bool { return !o.Seen.Add(r.outsideFor).After(first) })
		r.judge(first)
	}
}

// shared finds the addresses that may move, of those that could hold theirs: where a network says so, and none that does not has a
// declaration.
func (r *reference) shared(could map[who]time.Time) map[place]bool {
	moves, stays := map[place]bool{}, map[place]bool{}
	for w := range could {
		if r.net(w.nic).shares(w.at.Addr) {
			moves[w.at] = true
		} else if r.class(w) == 3 {
			stays[w.at] = true
		}
	}
	for at := range stays {
		delete(moves, at)
	}
	return moves
}

func (r *reference) judge(now time.Time) {
	for _, w := range r.keys() {
		if n := r.net(w.nic); n != nil && n.Mode == ModeDeclared && r.class(w) < 3 && !r.firmly(w.at) && family(w.at.Addr) != 0 {
			r.drop(func(x row) bool { return x.who == w })
		}
	}
	r.role = map[who]Role{}
	best := map[place]who{}
	standing := map[who]time.Time{}
	for _, w := range r.keys() {
		can := r.class(w) == 3 && r.fit(w)
		if r.class(w) < 3 {
			d := r.decision[w]
			m := r.net(w.nic).Mode
			if family(w.at.Addr) == 0 {
				m = ModeObserved // nobody declares them
			}
			can = m == ModeObserved || m == ModeApproved && d != (Decision{}) && !d.Denied
			if m == ModeApproved && !can {
				r.role[w] = Pending
			}
		}
		if can {
			standing[w] = now
			if t := r.standing[w]; !t.IsZero() {
				standing[w] = t
			}
		}
		if r.fit(w) && r.role[w] == "" {
			r.role[w] = Beside
		}
	}
	r.standing = standing
	r.moves = r.shared(standing)
	for w := range standing {
		if r.moves[w.at] && !r.net(w.nic).shares(w.at.Addr) {
			continue
		}
		if b, ok := best[w.at]; !ok || r.before(w, b) {
			best[w.at] = w
		}
	}
	for _, w := range best {
		r.role[w] = Holder
	}
}

// before compares two that can hold an address.
func (r *reference) before(a, b who) bool {
	rank := func(w who) Provenance { return max(r.of(w)[0].Provenance, DHCP) }
	if rank(a) != rank(b) {
		return rank(a) > rank(b)
	}
	if r.moves[a.at] {
		heard := func(w who) (t time.Time) {
			for _, v := range r.of(w) {
				if v.Provenance != GuestAgent && v.Provenance < Declared && v.Seen.After(t) {
					t = v.Seen
				}
			}
			return t
		}
		if x, y := heard(a), heard(b); !x.Equal(y) {
			return x.After(y)
		}
	}
	if rank(a) >= Declared {
		since := func(w who) time.Time {
			t := r.of(w)[0].Since
			for _, v := range r.of(w) {
				if v.Provenance == rank(w) && v.Since.Before(t) {
					t = v.Since
				}
			}
			return t
		}
		if x, y := since(a), since(b); !x.Equal(y) {
			return x.Before(y)
		}
	}
	for _, t := range []map[who]time.Time{r.standing, r.since} {
		if !t[a].Equal(t[b]) {
			return t[a].Before(t[b])
		}
	}
	return a.nic.compare(b.nic) < 0
}

// lines is all that there is to read out, in text.
func (r *reference) lines() (out []string) {
	at := map[place][]Claimant{}
	kind := map[place]int{}
	for _, w := range r.keys() {
		if r.role[w] == "" {
			continue
		}
		evs := r.of(w)
		var mac MAC
		for _, v := range slices.Backward(evs) {
			if v.MAC != (MAC{}) {
				mac = v.MAC
			}
		}
		out = append(out, line(w.at, w.nic, r.role[w], mac, evs[0].Provenance, r.since[w], r.decision[w]))
		c := Claimant{NIC: w.nic, Role: r.role[w], MAC: mac, Provenance: evs[0].Provenance, Since: r.since[w]}
		if r.class(w) == 3 {
			kind[w.at]++
		}
		if c.Role == Holder {
			at[w.at] = append([]Claimant{c}, at[w.at]...)
		} else {
			at[w.at] = append(at[w.at], c)
		}
	}
	for p, all := range at {
		if all[0].Role != Holder || r.moves[p] {
			continue
		}
		k := ConflictOutside
		if len(all) > 1 {
			k = ConflictInside
		}
		if kind[p] > 1 {
			k = ConflictDeclared
		}
		for _, o := range r.outs {
			ours := slices.ContainsFunc(r.rows, func(x row) bool { return x.at == p && x.MAC == o.MAC })
			if (place{o.Segment, o.Addr}) == p && !ours {
				all = append(all, Claimant{Outside: true, MAC: o.MAC, Since: o.Since})
			}
		}
		if len(all) < 2 {
			continue
		}
		slices.SortFunc(all[1:], Claimant.compare)
		var times []time.Time
		for _, c := range all {
			times = append(times, c.Since)
		}
		slices.SortFunc(times, time.Time.Compare)
		out = append(out, conflictLine(&Conflict{Segment: p.Segment, Addr: p.Addr, Kind: k, Since: times[1], Claimants: all}))
	}
	slices.Sort(out)
	return out
}

func line(at place, id NIC, role Role, mac MAC, p Provenance, since time.Time, d Decision) string {
	return fmt.Sprintf("%v %v %v %s %v %v since %v %v", at.Segment, at.Addr, id, role, mac, p, since.UnixMilli(), d)
}

func conflictLine(d *Conflict) string {
	s := fmt.Sprintf("conflict %v %v %s since %v", d.Segment, d.Addr, d.Kind, d.Since.UnixMilli())
	for _, c := range d.Claimants {
		s += fmt.Sprintf(" [%v %v %s %v %v %v]", c.Outside, c.NIC, c.Role, c.MAC, c.Provenance, c.Since.UnixMilli())
	}
	return s
}
