package agent

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/pkg/desired"
)

// managed is a node with a port in a managed bridge and a plugin in place.
func managed(t *testing.T) (live, UninstallConfig) {
	t.Helper()
	l := newLive(t)
	l.take(&desired.Snapshot{Revision: 2, Trunks: map[string]desired.Trunk{"open": {Name: "open", Bridge: "br0", Managed: true}}})
	l.open("veth1", 1)
	cfg := UninstallConfig{Paths: l.cfg.Paths, BPFFS: l.cfg.BPFFS, CNIBin: t.TempDir(), Log: l.log}
	if _, err := Install(newPlugin(t, "ours"), cfg.CNIBin); err != nil {
		t.Fatal(err)
	}
	return l, cfg
}

// left is what of Homeport is still there.
func (l live) left(cfg UninstallConfig) string {
	var out []string
	for _, name := range []string{"veth1", "br0"} {
		if l.exists(name) {
			out = append(out, name)
		}
	}
	for _, path := range []string{filepath.Join(cfg.BPFFS, "homeport"), cfg.Paths.RunDir, filepath.Join(cfg.CNIBin, PluginName)} {
		if exists(path) {
			out = append(out, filepath.Base(path))
		}
	}
	return strings.Join(out, " ")
}

// TestUninstall: not while an agent runs nor while a port lives; then all of it, and
// a second time there is nothing.
func TestUninstall(t *testing.T) {
	l, cfg := managed(t)
	all := l.left(cfg)
	if strings.Count(all, " ") != 4 {
		t.Fatalf("at first there is only: %s", all)
	}
	if done, err := Uninstall(cfg); err == nil || !strings.Contains(err.Error(), "stop it first") || len(done) != 0 {
		t.Errorf("beside an agent: %q, %v", done, err)
	}
	l.must(l.lock.Close())
	_, err := Uninstall(cfg)
	if err == nil || !strings.Contains(err.Error(), "1 ports live on this node: veth1 (pod ") || !strings.Contains(err.Error(), "--force") {
		t.Errorf("with a living port: %v", err)
	}
	rec := l.table.list()[0].rec
	if err := l.kernel.dp.VerifyPort(rec.HostIfIndex); err != nil || l.left(cfg) != all {
		t.Fatalf("the refusal changed something: %v; left: %s", err, l.left(cfg))
	}
	l.must(l.store.Delete(rec.Key)) // its record is lost: still a living port
	if _, err := Uninstall(cfg); err == nil || !strings.Contains(err.Error(), "veth1 (without a record)") || l.left(cfg) != all {
		t.Fatalf("with a port without a record: %v; left: %s", err, l.left(cfg))
	}
	host, err := netlink.LinkByName("veth1")
	l.must(err)
	l.must(netlink.LinkDel(host))
	done, err := Uninstall(cfg)
	if err != nil || l.left(cfg) != "" {
		t.Fatalf("left: %s; %q, %v", l.left(cfg), done, err)
	}
	want := []string{"removed bridge br0 of trunk open", "removed programs and maps below " + cfg.BPFFS + "/homeport",
		"removed " + cfg.Paths.RunDir, "removed " + filepath.Join(cfg.CNIBin, PluginName)}
	if !slices.Equal(done, want) {
		t.Errorf("it says %q, want %q", done, want)
	}
	if done, err := Uninstall(cfg); err != nil || len(done) != 0 || l.left(cfg) != "" {
		t.Errorf("a second time: %q, %v; left: %s", done, err, l.left(cfg))
	}
}

// TestUninstallForce ends living ports, known and unknown.
func TestUninstallForce(t *testing.T) {
	l, cfg := managed(t)
	stray := l.open("veth2", 2)
	l.must(l.store.Delete(stray.Key))
	l.must(l.lock.Close())
	cfg.Force = true
	done, err := Uninstall(cfg)
	if err != nil || l.left(cfg) != "" || l.exists("veth2") {
		t.Fatalf("left: %s; %q, %v", l.left(cfg), done, err)
	}
	if text := strings.Join(done, "\n"); !strings.Contains(text, "ended port veth1 of pod ") || !strings.Contains(text, "ended port veth2, which had no record") {
		t.Errorf("it says %q", done)
	}
}

// TestUninstallTrunksOfOthers: a managed bridge with somebody else's port is not
// removed, nor the state that a second try needs; an unknown one is told.
func TestUninstallTrunksOfOthers(t *testing.T) {
	l, cfg := managed(t)
	l.must(l.lock.Close())
	cfg.Force = true
	br, err := netlink.LinkByName("br0")
	l.must(err)
	l.must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "theirs", MasterIndex: br.Attrs().Index}, PeerName: "theirsp"}))
	state := filepath.Join(cfg.Paths.State(), snapshotFile)
	if done, err := Uninstall(cfg); err == nil || !strings.Contains(err.Error(), "bridge br0") || !l.exists("br0") || !exists(state) {
		t.Fatalf("with another's port in it: %q, %v; left: %s", done, err, l.left(cfg))
	}
	theirs, err := netlink.LinkByName("theirs")
	l.must(err)
	l.must(netlink.LinkDel(theirs))
	l.must(os.Remove(state))
	if _, err := Uninstall(cfg); err == nil || !strings.Contains(err.Error(), "ip link delete br0") || !l.exists("br0") {
		t.Fatalf("without its state: %v", err)
	}
	l.must(netlink.LinkDel(br))
	if done, err := Uninstall(cfg); err != nil || l.left(cfg) != "" {
		t.Errorf("at last: %q, %v; left: %s", done, err, l.left(cfg))
	}
}
