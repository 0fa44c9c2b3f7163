package hostfw

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

// Each change by nft and by iptables-nft is told. Looking as the agent does is none, and
// neither are elements of sets; and the end ends it.
func TestChanges(t *testing.T) {
	t.Parallel() // it waits for quiet, most of the time
	for _, name := range []string{"nft", "iptables-nft"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("this machine has no such command: %v", err)
		}
	}
	run := func(name string, args ...string) {
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Errorf("%s %v: %v: %s", name, args, err, out)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := make(chan struct{}, 1)
	inNamespace(t, func() {
		f, err := listen()
		if err != nil {
			t.Error(err)
			return
		}
		done := make(chan error, 1)
		go func() {
			done <- tell(ctx, f, func() {
				select {
				case told <- struct{}{}:
				default:
				}
			})
		}()
		// calm waits until all that was told is over: a message may come in two parts.
		calm := func() {
			for {
				select {
				case <-told:
				case <-time.After(2 * changesGap):
					return
				}
			}
		}
		for _, c := range [][]string{
			{"nft", "add", "table", "inet", "theirs"},
			{"nft", "add", "chain", "inet", "theirs", "gate", "{ type filter hook forward priority 10; policy drop; }"},
			{"nft", "add", "rule", "inet", "theirs", "gate", "counter"},
			{"iptables-nft", "-A", "FORWARD", "-j", "DROP"},
			{"iptables-nft", "-P", "FORWARD", "DROP"},
			{"nft", "flush", "chain", "inet", "theirs", "gate"},
		} {
			calm()
			run(c[0], c[1:]...)
			select {
			case <-told:
			case <-time.After(time.Minute):
				t.Errorf("%v was not told", c)
			}
		}
		run("nft", "add", "set", "inet", "theirs", "banned", "{ type ipv4_addr; }")
		calm()
		run("nft", "add", "element", "inet", "theirs", "banned", "{ 10.0.0.1, 10.0.0.2 }")
		h := NewHost()
		used, err := h.InUse(IPv4)
		if err != nil {
			t.Error(err)
		}
		for _, u := range used {
			if _, err := u.Compare(nil); err != nil {
				t.Error(err)
			}
		}
		if _, err := h.Leftover(IPv4, used); err != nil {
			t.Error(err)
		}
		if drops, err := h.Droppers([]Family{IPv4}, []string{"br0"}, true); err != nil || len(drops) == 0 {
			t.Errorf("droppers: %q, %v; want the gate", drops, err)
		}
		select {
		case <-told:
			t.Error("an element of a set, or a look at the rules, was told as a change")
		case <-time.After(2 * changesGap):
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
