package vm

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Consoles of kernels that died: of a breakpoint of their own, as 6.1 and 6.12 say
// it, and of what is nobody else's fault.
const (
	patched61 = "[    1.612886] int3: 0000 [#1] PREEMPT SMP NOPTI\r\n" +
		"[    1.612886] RIP: 0010:enqueue_timer+0xa5/0x100\r\n[    1.612886] Code: 26 01 c6 45 24 00 eb <09> 5b 5d 41\r\n[    1.7] Kernel panic - not syncing: Fatal exception\r\n"
	patched612 = "[    1.612886] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n" +
		"[    1.612886] RIP: 0010:enqueue_timer+0xa5/0x100\r\n[    1.612886] Code: 26 01 c6 45 24 00 eb <09> 5b 5d 41\r\n[    1.7] Kernel panic - not syncing: Fatal exception\r\n"
	breakpoint = "[    1.612886] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n" +
		"[    1.612886] RIP: 0010:enqueue_timer+0xa5/0x100\r\n[    1.612886] Code: 26 01 c6 45 24 00 cc <09> 5b 5d 41\r\n[    1.7] Kernel panic - not syncing: Fatal exception\r\n"
	faulted = "[    1.612886] Oops: general protection fault: 0000 [#1] PREEMPT SMP NOPTI\r\n" +
		"[    1.612886] RAX: int3: 0000 [#1]\r\n[    1.7] Kernel panic - not syncing: Fatal exception\r\n"
)

// TestBootAgain: a VM is booted again only when its kernel fell over a breakpoint of
// its own, which it had taken back, before the command began.
func TestBootAgain(t *testing.T) {
	for _, c := range []struct {
		name, console string
		started       bool
		again         bool
		patched       bool
	}{
		{"6.1 booting", patched61, false, true, true},
		{"6.12 booting", patched612, false, true, true},
		{"the command had begun", patched612, true, false, true},
		{"a breakpoint that is there", breakpoint, false, false, false},
		{"another oops", faulted, false, false, false},
		{"nothing said", "", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			console := filepath.Join(t.TempDir(), "console.log")
			if err := os.WriteFile(console, []byte(c.console), 0o600); err != nil {
				t.Fatal(err)
			}
			r := &run{started: c.started, node: newMachine("node", Kernel{}, "", console, 512, 1, false)}
			r.node.output = &limitedBuffer{}
			err := r.died(io.EOF)
			if !errors.Is(err, ErrDied) || errors.Is(err, errBooting) != c.again || errors.Is(err, errPatched) != c.patched {
				t.Errorf("booted again: want %v, QEMU's fault: want %v, got %v", c.again, c.patched, err)
			}
			if c.console != "" && !strings.Contains(err.Error(), "enqueue_timer") && !strings.Contains(err.Error(), "protection fault") {
				t.Errorf("the console's words are missing: %v", err)
			}
			tries := 0
			var said bytes.Buffer
			code, err := untilBooted(&said, func() (int, error) {
				if tries++; tries == 2 {
					return 7, nil
				}
				return CodeDied, r.died(io.EOF)
			})
			if c.again && (tries != 2 || code != 7 || err != nil || !strings.Contains(said.String(), "booting again")) {
				t.Errorf("%d tries, code %d, %v, said %q", tries, code, err, said.String())
			}
			if !c.again && (tries != 1 || code != CodeDied || err == nil || said.Len() > 0) {
				t.Errorf("%d tries, code %d, %v, said %q", tries, code, err, said.String())
			}
		})
	}
	tries := 0
	if _, err := untilBooted(io.Discard, func() (int, error) { tries++; return CodePatched, errBooting }); tries != boots || err == nil {
		t.Errorf("a VM that never boots: %d tries, %v", tries, err)
	}
}

// TestKernelArgs: a machine boots with what its kernel has, and its guests do, too.
func TestKernelArgs(t *testing.T) {
	m := newMachine("node", Kernel{Args: CoarseTimers}, "", "", 512, 1, false)
	if !slices.Contains(m.args, commandLine+" "+CoarseTimers) || m.kernelArgs != CoarseTimers {
		t.Errorf("%q, %v", m.kernelArgs, m.args)
	}
	if m := newMachine("node", Kernel{}, "", "", 512, 1, false); !slices.Contains(m.args, commandLine) {
		t.Errorf("%v", m.args)
	}
}

// TestThreads: the CPUs of a machine take turns if asked to.
func TestThreads(t *testing.T) {
	for one, want := range map[bool]string{true: "tcg,thread=single", false: "tcg,thread=multi"} {
		if m := newMachine("node", Kernel{}, "", "", 512, 2, one); !slices.Contains(m.args, want) {
			t.Errorf("one thread %v: no %s in %v", one, want, m.args)
		}
	}
}
