package datapath

import (
	"errors"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
)

// What the verifier may need: a kernel refuses at 1,000,000 instructions and
// 512 bytes of stack. Both are the same for every port, for ever.
const (
	insnBudget  = 200_000
	stackBudget = 512
)

var (
	processed = regexp.MustCompile(`processed (\d+) insns`)
	stack     = regexp.MustCompile(`stack depth ([0-9+]+)`)
)

func TestVerifierBudget(t *testing.T) {
	needRoot(t)
	spec, err := portSpec(Config{ConnsQuota: 64})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	start := time.Now()
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{
		Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats},
	})
	var ve *ebpf.VerifierError
	if errors.As(err, &ve) {
		t.Fatalf("%+v", ve)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer coll.Close()
	t.Logf("loaded in %v", time.Since(start).Round(time.Millisecond))
	for name, p := range coll.Programs {
		t.Logf("%s:\n%s", name, p.VerifierLog)
		m := processed.FindStringSubmatch(p.VerifierLog)
		if m == nil {
			t.Fatalf("%s: no count in the verifier's log", name)
		}
		if n, _ := strconv.Atoi(m[1]); n > insnBudget {
			t.Errorf("%s: %d instructions verified, budget %d", name, n, insnBudget)
		}
		// The program's own, and no chain of calls is longer than two.
		var depth []int
		for _, s := range strings.Split(stack.FindStringSubmatch(p.VerifierLog)[1], "+") {
			n, _ := strconv.Atoi(s)
			depth = append(depth, n)
		}
		slices.Sort(depth[1:])
		sum := depth[0] + depth[len(depth)-1] + depth[len(depth)-2]
		t.Logf("%s: %s instructions, at most %d bytes of stack", name, m[1], sum)
		if sum > stackBudget {
			t.Errorf("%s: up to %d bytes of stack, budget %d", name, sum, stackBudget)
		}
	}
}
