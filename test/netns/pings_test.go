package netns

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"
)

// answerTo is what the other end sends back: the request with another type, and for
// IPv4 behind an IP header, as a raw socket gives it.
func answerTo(p *Pings, n int) []byte {
	b := p.request(n)
	if p.v6 {
		b[0] = 129
		return b
	}
	b[0] = 0
	return append(append([]byte{0x45}, make([]byte, 19)...), b...)
}

func TestPingsNumbers(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		p := &Pings{v6: v6, id: 7}
		for _, n := range []int{0, 1, 70000} { // more than a sequence number holds
			if got, ok := p.number(answerTo(p, n)); !ok || got != n {
				t.Errorf("IPv6 %v: the answer to %d is read as %d, %v", v6, n, got, ok)
			}
		}
		for name, b := range map[string][]byte{
			"a request":      p.request(1),
			"somebody's":     answerTo(&Pings{v6: v6, id: 8}, 1),
			"a short one":    answerTo(p, 1)[:12],
			"nothing at all": nil,
		} {
			if n, ok := p.number(b); ok {
				t.Errorf("IPv6 %v: %s is read as answer %d", v6, name, n)
			}
		}
	}
	b := (&Pings{id: 7}).request(1)
	sum := binary.BigEndian.Uint16(b[2:])
	binary.BigEndian.PutUint16(b[2:], 0)
	if sum == 0 || internetChecksum(b) != sum {
		t.Errorf("checksum %#x, want %#x", sum, internetChecksum(b))
	}
}

// TestPingsResult: ten are asked, 100 ms apart; 3 and 4 are lost, 5 is 250 ms late.
func TestPingsResult(t *testing.T) {
	begun := time.Now()
	at := func(ms int) time.Time { return begun.Add(time.Duration(ms) * time.Millisecond) }
	p := &Pings{id: 7, since: begun}
	for n := range 10 {
		p.sent, p.got = append(p.sent, at(100*n)), append(p.got, time.Time{})
	}
	for _, a := range []struct{ n, ms int }{{0, 1}, {1, 101}, {2, 201}, {6, 700}, {5, 750}, {6, 760}, {7, 760}, {8, 801}} {
		p.answer(answerTo(p, a.n), at(a.ms))
	}
	r := p.result(9, at(810))
	if r.Sent != 9 || r.Lost != 2 || !slices.Equal(r.FirstLost, []int{3, 4}) || r.Dark != 499*time.Millisecond || r.Slowest != 250*time.Millisecond {
		t.Errorf("%v", r)
	}
	if want := "9 sent, 2 lost, 499 ms dark, slowest answer 250 ms; first lost [3 4]"; r.String() != want {
		t.Errorf("%q, want %q", r, want)
	}
	// The darkness that began before goes on.
	p.answer(answerTo(p, 9), at(1001))
	if r := p.result(10, at(1002)); r.Sent != 1 || r.Lost != 0 || r.Dark != 200*time.Millisecond {
		t.Errorf("the next: %v", r)
	}
}

func TestFigures(t *testing.T) {
	f := figures{script: "moves"}
	f.add("nobody's", 1)
	f.rows = append(f.rows, figureRow{"plain", map[string]int64{}})
	f.add("v4 dark ms", 120)
	f.rows = append(f.rows, figureRow{"Homeport", map[string]int64{}})
	f.add("v4 dark ms", 130)
	f.add("v4 lost", 0)
	got := f.String()
	var cells [][]string
	for _, line := range strings.Split(got, "\n") {
		cells = append(cells, strings.Fields(line))
	}
	if len(cells) != 3 || !slices.Equal(cells[1], []string{"plain", "120", "-"}) || !slices.Equal(cells[2], []string{"Homeport", "130", "0"}) {
		t.Errorf("table:\n%s", got)
	}
}
