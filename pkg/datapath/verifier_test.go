package datapath

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
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
		n, _ := strconv.Atoi(m[1])
		if n > insnBudget {
			t.Errorf("%s: %d instructions verified, budget %d", name, n, insnBudget)
		}
		if kernel := os.Getenv("HOMEPORT_IN_VM"); kernel != "" {
			if known := verified(t, kernel, name); n > known+known/5 {
				t.Errorf("%s: %d instructions verified on %s, a fifth more than the %d of %s: make it cheaper, or change the table and say why", name, n, kernel, known, verifierTable)
			}
		}
		sum, chain := deepest(t, spec.Programs[name].Instructions, stack.FindStringSubmatch(p.VerifierLog)[1])
		t.Logf("%s: %s instructions, at most %d bytes of stack: %s", name, m[1], sum, chain)
		if sum > stackBudget {
			t.Errorf("%s: up to %d bytes of stack, budget %d: %s", name, sum, stackBudget, chain)
		}
	}
}

const verifierTable = "testdata/verifier.tsv"

// verified is what the table says that a kernel verifies for a program, in instructions.
func verified(t *testing.T, kernel, program string) int {
	t.Helper()
	table, err := os.ReadFile(verifierTable)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == kernel && f[1] == program {
			n, err := strconv.Atoi(f[2])
			if err != nil {
				t.Fatalf("%s: %q: %v", verifierTable, line, err)
			}
			return n
		}
	}
	t.Fatalf("%s has no line for %s on %s", verifierTable, program, kernel)
	return 0
}

// deepest is the chain of calls that takes most stack, by what each function takes, in
// their order in the program. The kernel rounds each up to 32 bytes.
func deepest(t *testing.T, program asm.Instructions, depths string) (sum int, chain string) {
	t.Helper()
	var order []string
	calls := map[string][]string{}
	for _, ins := range program {
		if s := ins.Symbol(); s != "" {
			order = append(order, s)
		}
		if ins.IsFunctionCall() {
			in := order[len(order)-1]
			calls[in] = append(calls[in], ins.Reference())
		}
	}
	depth := map[string]int{}
	for i, s := range strings.Split(depths, "+") {
		if i == len(order) {
			t.Fatalf("stack of more functions than %v", order)
		}
		n, _ := strconv.Atoi(s)
		depth[order[i]] = (max(n, 1) + 31) / 32 * 32
	}
	if len(depth) != len(order) {
		t.Fatalf("stack %s of functions %v", depths, order)
	}
	var walk func(string) (int, string)
	walk = func(f string) (most int, below string) {
		for _, callee := range calls[f] {
			if n, chain := walk(callee); n > most {
				most, below = n, " > "+chain
			}
		}
		return most + depth[f], fmt.Sprintf("%s %d%s", f, depth[f], below)
	}
	return walk(order[0])
}
