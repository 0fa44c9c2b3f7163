package hostfw

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// Each change by nft and by iptables-nft is told; looking is none, and the end ends it.
func TestChanges(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skipf("this machine has no such command: %v", err)
	}
	nft := func(args ...string) {
		if out, err := exec.Command("nft", args...).CombinedOutput(); err != nil {
			t.Errorf("nft %v: %v: %s", args, err, out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told, done := make(chan struct{}), make(chan error, 1)
	inNamespace(t, func() {
		nft("add", "table", "inet", "theirs") // and the kernel has loaded what it needs
		f, err := listen()
		if err != nil {
			t.Error(err)
			return
		}
		go func() { done <- tell(ctx, f, func() { told <- struct{}{} }) }()
		for _, args := range [][]string{
			{"add", "chain", "inet", "theirs", "gate", "{ type filter hook forward priority 10; policy drop; }"},
			{"add", "rule", "inet", "theirs", "gate", "counter"},
			{"delete", "table", "inet", "theirs"},
		} {
			nft(args...)
			select {
			case <-told:
			case <-time.After(time.Minute):
				t.Errorf("%v was not told", args)
			}
		}
		nft("list", "ruleset")
		select {
		case <-told:
			t.Error("a look at the rules was told as a change")
		case <-time.After(2 * changesGap):
		}
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
