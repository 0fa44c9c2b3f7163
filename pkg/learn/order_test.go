package learn

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Sightings of many, in whatever order they come, come to the same where neither limit nor time decide.
func TestOrderOfSightings(t *testing.T) {
	for seed := range 300 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		s := Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Shared: prefixes("10.0.0.8/32")}, "b": mode(ModeObserved)}}
		var log []Event
		for i := range 40 {
			e := says(i, someNICs[r.IntN(len(someNICs))], someAddrs[r.IntN(4)].String(), []Provenance{ARP, DHCP, GuestAgent, Declared}[r.IntN(4)])
			if r.IntN(8) == 0 {
				e = outside(i, e.Addr.String(), byte(r.IntN(3)))
			}
			log = append(log, e)
		}
		b, err := Replay(s, log)
		if err != nil {
			t.Fatal(err)
		}
		r.Shuffle(len(log), func(i, j int) { log[i], log[j] = log[j], log[i] })
		other, err := Replay(s, log)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(lines(b), lines(other)); d != "" {
			t.Fatalf("seed %d (-in order +shuffled):\n%s", seed, d)
		}
		if d := cmp.Diff(dumpText(t, b), dumpText(t, other)); d != "" {
			t.Fatalf("seed %d (-in order +shuffled):\n%s", seed, d)
		}
	}
}

// What is of other NICs, other addresses and other networks may come before or after.
func TestOrderOfUnrelated(t *testing.T) {
	for seed := range 300 {
		choose := seeded(uint64(seed))
		s, all := someLog(choose, 60)
		// Two logs that have nothing to do with each other: web in one segment, old in the other.
		var one, two []Event
		for _, e := range all {
			switch {
			case e.NIC == web && e.Kind != EventNetwork && e.Kind != EventNetworkGone:
				if e.Segment != (Segment{}) {
					e.Segment = someSegments[0]
				}
				one = append(one, e)
			case e.NIC == old || e.Network == "b":
				if e.Segment != (Segment{}) {
					e.Segment = someSegments[1]
				}
				two = append(two, e)
			}
		}
		var want string
		for order := range 4 {
			var log []Event
			a, b := one, two
			for len(a)+len(b) > 0 {
				// By time, but those of one second in any order.
				first := len(b) == 0 || len(a) > 0 && a[0].At.Before(b[0].At)
				if len(a) > 0 && len(b) > 0 && a[0].At.Sub(b[0].At).Abs() < 10*time.Second && order > 0 {
					first = choose(2) == 0
				}
				if first {
					log, a = append(log, a[0]), a[1:]
				} else {
					log, b = append(log, b[0]), b[1:]
				}
			}
			book, err := Replay(s, log)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(lines(book), "\n")
			if order == 0 {
				want = got
			} else if d := cmp.Diff(want, got); d != "" && !expires(s, log) {
				t.Fatalf("seed %d (-by time +otherwise):\n%s", seed, d)
			}
		}
	}
}

// expires says whether anything may end by time: then it matters how late an event comes.
func expires(s Settings, log []Event) bool {
	for _, n := range s.Networks {
		if n.Expiry > 0 || n.Shared != nil {
			return true
		}
	}
	return slices.ContainsFunc(log, func(e Event) bool {
		return !e.Until.IsZero() || e.Settings != nil && (e.Settings.Expiry > 0 || e.Settings.Shared != nil)
	})
}
