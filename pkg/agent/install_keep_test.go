package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keeping is an agent that keeps a plugin in place while the test lasts.
func keeping(t *testing.T, from string) *Agent {
	t.Helper()
	a := idleAgent(t)
	a.cfg.CNIBin, a.plugin.from, a.plugin.gap = filepath.Join(t.TempDir(), "cni", "bin"), from, time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.keepPlugin(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("keepPlugin ends with %v", err)
		}
	})
	return a
}

// within polls until ok, well before the clock alone would make the agent look.
func within(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(pluginEvery / 4); ; time.Sleep(5 * time.Millisecond) {
		done, state := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not seen; last: %s", what, state)
		}
	}
}

// TestKeepPlugin: whatever takes the plugin away, it comes back, and is counted.
func TestKeepPlugin(t *testing.T) {
	a := keeping(t, newPlugin(t, "ours"))
	to := filepath.Join(a.cfg.CNIBin, PluginName)
	inForce := func() (bool, string) {
		b, err := os.ReadFile(to)
		info, serr := os.Stat(to)
		if err := errors.Join(err, serr); err != nil {
			return false, err.Error()
		}
		return string(b) == "ours" && info.Mode().Perm() == 0o755, fmt.Sprintf("%q %v", b, info.Mode())
	}
	within(t, "at the start", inForce)
	for n, harm := range []struct {
		name string
		do   func() error
	}{
		{"deleted", func() error { return os.Remove(to) }},
		{"overwritten", func() error { return os.WriteFile(to, []byte("theirs"), 0o755) }},
		{"another of the same size", func() error { return os.WriteFile(to, []byte("OURS"), 0o755) }},
		{"not executable", func() error { return os.Chmod(to, 0o644) }},
		{"the directory moved away", func() error { return os.Rename(a.cfg.CNIBin, a.cfg.CNIBin+"-old") }},
		{"deleted from the new directory", func() error { return os.Remove(to) }},
	} {
		within(t, "noticed before "+harm.name, func() (bool, string) {
			return a.plugin.installs() == n+1, fmt.Sprint(a.plugin.installs())
		})
		if err := harm.do(); err != nil {
			t.Fatal(err)
		}
		within(t, harm.name, inForce)
	}
}

// TestPluginCannotBeKept: it is told in status until it is well, and ends nothing.
func TestPluginCannotBeKept(t *testing.T) {
	from := newPlugin(t, "ours")
	a := idleAgent(t)
	a.cfg.CNIBin, a.plugin.from = t.TempDir(), from
	to := filepath.Join(a.cfg.CNIBin, PluginName)
	if err := os.Mkdir(to, 0o755); err != nil {
		t.Fatal(err)
	}
	if wait := a.checkPlugin(); wait != pluginRetry {
		t.Errorf("after a failure the next look is in %v", wait)
	}
	c := a.plugin.conditions()
	if len(c) != 1 || c[0].Type != pluginNotInPlace || c[0].Status != "True" || !strings.Contains(c[0].Message, to+" is a directory: remove it") {
		t.Fatalf("conditions: %+v", c)
	}
	since := c[0].LastTransitionTime
	a.checkPlugin()
	if c := a.plugin.conditions(); len(c) != 1 || c[0].LastTransitionTime != since {
		t.Errorf("a problem that lasts is of another time: %+v", c)
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if wait := a.checkPlugin(); wait != pluginGap || len(a.plugin.conditions()) != 0 || a.plugin.installs() != 1 {
		t.Errorf("once it can be: next look in %v, %+v, %d", wait, a.plugin.conditions(), a.plugin.installs())
	}
	if wait := a.checkPlugin(); wait != pluginEvery || a.plugin.installs() != 1 {
		t.Errorf("when all is well: next look in %v, written %d times", wait, a.plugin.installs())
	}
	if err := os.Remove(from); err != nil {
		t.Fatal(err)
	}
	a.checkPlugin()
	if c := a.plugin.conditions(); len(c) != 1 || !strings.Contains(c[0].Message, from) {
		t.Errorf("without a binary: %+v", c)
	}
}

// TestPluginInStatus: the condition and the counter are where people look.
func TestPluginInStatus(t *testing.T) {
	l := newLive(t)
	l.cfg.CNIBin, l.plugin.from = t.TempDir(), newPlugin(t, "ours")
	l.checkPlugin()
	if _, body := l.get("/metrics"); !strings.Contains(body, "\nhomeport_plugin_installed_total 1\n") {
		t.Error("the installation is not counted")
	}
	l.plugin.from = "/none/such"
	l.checkPlugin()
	if c := l.nodeStatus().Conditions; len(c) != 1 || c[0].Type != pluginNotInPlace {
		t.Errorf("status: %+v", c)
	}
	if _, body := l.get("/metrics"); !strings.Contains(body, "\nhomeport_desired_state_stale 0\n") {
		t.Error("desired state is called stale")
	}
}
