package snoop

import (
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const writtenBoots = "testdata/boots.txt"

// TestWritten: the packet tables of starting guests are in a file, too, for tests that have a port program and an agent to play them
// to. HOMEPORT_UPDATE=1 writes it.
func TestWritten(t *testing.T) {
	var b strings.Builder
	b.WriteString("# What guests send (out) and get (in) while they start, and what each frame says of addresses, a line each:\n")
	b.WriteString("# guest, seconds since the frame before, direction, name, what it says, frame in hex; tabs between. Made by TestWritten.\n")
	all := boots()
	for _, guest := range slices.Sorted(maps.Keys(all)) {
		for _, s := range all[guest] {
			dir := "in"
			if s.out {
				dir = "out"
			}
			fmt.Fprintf(&b, "%s\t%g\t%s\t%s\t%s\t%s\n", guest, s.after.Seconds(), dir, s.name, strings.Join(s.want, ", "), hex.EncodeToString(s.data))
		}
	}
	if os.Getenv("HOMEPORT_UPDATE") != "" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(writtenBoots, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is, err := os.ReadFile(writtenBoots)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(is), b.String()); diff != "" {
		t.Errorf("%s is not what the tables say; HOMEPORT_UPDATE=1 writes it anew (-is +want):\n%s", writtenBoots, diff)
	}
}
