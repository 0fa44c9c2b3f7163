package netns

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

var moveCount = flag.Int("moves", 0, "TestMigrate also compares how long a guest is dark by so many moves through plain bridges and as many with Homeport")

// darkScript moves a guest n times from one plain bridge to the other and n times from
// one node with Homeport to the other, in turn, under pings every 10 ms.
func darkScript(dir string, n int) (string, error) {
	site, err := os.ReadFile("testdata/migrate/moves.txtar")
	if err != nil {
		return "", err
	}
	_, files, _ := strings.Cut(string(site), "\n-- net.json --\n")
	var b strings.Builder
	b.WriteString(`switch fabric
host h100 fabric 100 10.100.0.20/24 fd00:100::20/64
switch b1
switch b2
trunk fabric b1 100
trunk fabric b2 100
node n1 fabric 100,200
node n2 fabric 100,200
mkdir n2
cp n1/site.yaml n2/site.yaml
agent start n1
agent start n2
pod first
plug first b1 100 00:50:56:aa:bb:02
realguest vm2 first
eventually on h100 ping -c 1 -W 2 10.100.0.12
pings start v4 h100 10.100.0.12 every=10ms
stream start tcp h100 10.100.0.12
`)
	at := "first"
	move := func(row, to string, arrive string, leave ...string) {
		fmt.Fprintf(&b, "row %s\npod %s\n%s\nexec sleep 4\nmigrate to vm2 %s\npings check v4 50\nstream check tcp\nmigrate end vm2\n%s\nremove %s\n", row, to, arrive, to, strings.Join(leave, "\n"), at)
		at = to
	}
	plug := func(pod, bridge string) string { return "plug " + pod + " " + bridge + " 100 00:50:56:aa:bb:02" }
	add := func(pod, node string) string {
		return "cni add " + node + " " + pod + " target.json mac=00:50:56:aa:bb:02"
	}
	for i := range n {
		p := func(s string) string { return "p" + s + strconv.Itoa(i) }
		move("plain", p("a"), plug(p("a"), "b2"))
		move("onwards", p("b"), add(p("b"), "n1"))
		move("Homeport", p("c"), add(p("c"), "n2"), "cni del n1 "+at)
		move("back", p("d"), plug(p("d"), "b1"), "cni del n2 "+at)
	}
	b.WriteString("compare v4 plain Homeport 100\n\n-- net.json --\n" + files)
	name := filepath.Join(dir, "dark.txtar")
	return name, os.WriteFile(name, []byte(b.String()), 0o600)
}

// cmdCompare says how much longer rows of one name are dark than those of another, as
// medians; the aim is what people are told, and fails nothing: machines are noisy.
func cmdCompare(s *session, out io.Writer, args []string) error {
	if err := want(args, 4, 4, "compare PINGS BASELINE ROW AIM_MS"); err != nil {
		return err
	}
	aim, err := strconv.ParseInt(args[3], 10, 64)
	if err != nil {
		return &usageError{err.Error()}
	}
	column := args[0] + " dark ms"
	base, have := median(s.figures.of(args[1], column, "")), median(s.figures.of(args[2], column, ""))
	base2, have2 := median(s.figures.of(args[1], column, pausedColumn)), median(s.figures.of(args[2], column, pausedColumn))
	verdict := "met"
	if have-base > aim {
		verdict = "missed"
	}
	s.figures.notes = append(s.figures.notes, fmt.Sprintf("dark, median of %d moves each: %s %d ms, %s %d ms, ratio %.2f, difference %+d ms; aim at most %+d ms: %s; beyond QEMU's own pause %d ms and %d ms",
		s.figures.count(args[2]), args[1], base, args[2], have, float64(have)/float64(max(base, 1)), have-base, aim, verdict, base2, have2))
	fmt.Fprintln(out, s.figures.notes[len(s.figures.notes)-1])
	return nil
}

// of gives what the rows of a name have in a column, less what they have in another, if
// that is not "".
func (f *figures) of(row, column, less string) (values []int64) {
	for _, r := range f.rows {
		if v, ok := r.values[column]; ok && r.name == row {
			values = append(values, v-r.values[less])
		}
	}
	return values
}

func (f *figures) count(row string) (n int) {
	for _, r := range f.rows {
		if r.name == row {
			n++
		}
	}
	return n
}

func median(v []int64) int64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
