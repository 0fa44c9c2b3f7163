package hostfw

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/hostfw/hostfwtest"
)

var (
	ownBridge = Bridge{Name: "br-phys"}
	adopted   = Bridge{Name: "br-site", Shared: true, Ports: []string{"veth1"}, MAC: net.HardwareAddr{0x00, 0x50, 0x56, 0xaa, 0xbb, 0x22}}
)

// compare wants no error.
func compare(t *testing.T, u Used, bridges ...Bridge) []Edited {
	t.Helper()
	edits, err := u.Compare(bridges)
	if err != nil {
		t.Fatal(err)
	}
	return edits
}

// repair puts all right, and then nothing must be left to do.
func repair(t *testing.T, u Used, bridges ...Bridge) {
	t.Helper()
	for _, e := range compare(t, u, bridges...) {
		if err := e.Repair(); err != nil {
			t.Fatalf("%s: %v", e.Message, err)
		}
	}
	if again := compare(t, u, bridges...); len(again) > 0 {
		t.Fatalf("after the repair: %s", again[0].Message)
	}
}

func TestBypassRules(t *testing.T) {
	f := hostfwtest.New()
	f.Chains["filter/FORWARD"] = []string{"-j DOCKER-USER"}
	u := Used{IPv4, NFT, f}
	for _, e := range compare(t, u, ownBridge, adopted) {
		if !e.Absent {
			t.Errorf("%s: nothing of it is there, and it does not say so", e.Chain)
		}
	}
	repair(t, u, ownBridge, adopted)
	const bpf = ` -m bpf --bytecode "6,32 0 0 4292870146,21 0 3 1454029602,40 0 0 4292870144,21 0 1 80,6 0 0 0,6 0 0 65535"`
	want := map[string][]string{
		"raw/PREROUTING": {"-j HOMEPORT-RAW"},
		"raw/HOMEPORT-RAW": {
			"-i br-phys -m physdev --physdev-is-in -j CT --notrack",
			"-i br-phys -m physdev --physdev-is-in -j ACCEPT",
			"-i br-site -m physdev --physdev-in veth1" + bpf + " -j CT --notrack",
			"-i br-site -m physdev --physdev-in veth1" + bpf + " -j ACCEPT",
		},
		"filter/FORWARD": {"-j HOMEPORT-FORWARD", "-j DOCKER-USER"},
		"filter/HOMEPORT-FORWARD": {
			"-i br-phys -m physdev --physdev-is-bridged -j ACCEPT",
			"-i br-site -m physdev --physdev-in veth1 --physdev-is-bridged -j ACCEPT",
			"-i br-site -m physdev --physdev-out veth1 --physdev-is-bridged -j ACCEPT",
		},
	}
	if d := cmp.Diff(want, f.Chains); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
}

// What others do to our chains is seen, said, and put right, and what is theirs
// stays.
func TestBypassEdited(t *testing.T) {
	const theirs = "-s 10.0.0.0/8 -j DROP"
	for name, tt := range map[string]struct {
		edit func(map[string][]string)
		want string
	}{
		"flushed": {func(c map[string][]string) { c["filter/HOMEPORT-FORWARD"] = nil }, "1 of its 1 rules are missing"},
		"deleted": {func(c map[string][]string) {
			delete(c, "filter/HOMEPORT-FORWARD")
			c["filter/FORWARD"] = []string{theirs}
		}, "it is not there; FORWARD does not jump to it"},
		"added to": {func(c map[string][]string) {
			c["filter/HOMEPORT-FORWARD"] = slices.Insert(c["filter/HOMEPORT-FORWARD"], 0, "-j DROP")
		}, "0 of its 1 rules are missing, and 1 are not ours"},
		"doubled": {func(c map[string][]string) {
			r := c["filter/HOMEPORT-FORWARD"]
			c["filter/HOMEPORT-FORWARD"] = append(r, r...)
		}, "another order, or doubled"},
		"unjumped": {func(c map[string][]string) { c["filter/FORWARD"] = []string{theirs} }, "FORWARD does not jump to it"},
		"preceded": {func(c map[string][]string) { c["filter/FORWARD"] = []string{theirs, "-j HOMEPORT-FORWARD"} }, "a rule of FORWARD comes first: " + theirs},
		"narrowed": {func(c map[string][]string) { c["filter/FORWARD"] = []string{"-p tcp -j HOMEPORT-FORWARD", theirs} }, "should jump to it once, for all frames"},
		"twice": {func(c map[string][]string) {
			c["filter/FORWARD"] = []string{"-j HOMEPORT-FORWARD", theirs, "-j HOMEPORT-FORWARD"}
		}, "should jump to it once"},
		"by a goto": {func(c map[string][]string) { c["filter/FORWARD"] = []string{"-g HOMEPORT-FORWARD", theirs} }, "should jump to it once"},
	} {
		t.Run(name, func(t *testing.T) {
			f := hostfwtest.New()
			f.Chains["filter/FORWARD"] = []string{theirs}
			u := Used{IPv4, NFT, f}
			repair(t, u, ownBridge)
			count := len(f.Chains)
			tt.edit(f.Chains)
			got := compare(t, u, ownBridge)
			if len(got) != 1 || got[0].Chain != "HOMEPORT-FORWARD" || !strings.Contains(got[0].Message, tt.want) {
				t.Fatalf("%+v, want %q", got, tt.want)
			}
			runs := len(f.Runs)
			repair(t, u, ownBridge)
			if len(f.Runs) != runs+1 {
				t.Errorf("%d transactions, want 1", len(f.Runs)-runs)
			}
			want := []string{"-j HOMEPORT-FORWARD", theirs}
			if d := cmp.Diff(want, f.Chains["filter/FORWARD"]); d != "" || len(f.Chains) != count {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

// A chain that is as it should be is not touched: a restart is no gap.
func TestBypassUntouched(t *testing.T) {
	f := hostfwtest.New()
	u := Used{IPv4, NFT, f}
	repair(t, u, ownBridge)
	runs := len(f.Runs)
	repair(t, u, ownBridge)
	if len(f.Runs) != runs {
		t.Errorf("it was written again: %s", f.Runs[runs:])
	}
	// Another bridge: the chain is never empty in between, since it is one transaction.
	repair(t, u, ownBridge, Bridge{Name: "br2"})
	if len(f.Runs) != runs+2 || strings.Contains(strings.Join(f.Runs[runs:], ""), "PREROUTING") {
		t.Errorf("jumps that are right were touched: %s", f.Runs[runs:])
	}
}

func TestRemoveBypass(t *testing.T) {
	all := tools{"iptables-nft": hostfwtest.New(), "ip6tables-nft": hostfwtest.New(), "iptables-legacy": hostfwtest.New()}
	h := Host{Root: files(map[string]string{"proc/thread-self/net/ip_tables_names": "filter\nraw\n"}), Tool: all.open}
	for _, name := range []string{"iptables-nft", "iptables-legacy"} {
		all[name].Chains["filter/FORWARD"] = []string{"-j THEIRS"}
		repair(t, Used{IPv4, NFT, all[name]}, ownBridge)
	}
	done, err := h.RemoveBypass()
	want := []string{"chain HOMEPORT-RAW of iptables-nft", "chain HOMEPORT-FORWARD of iptables-nft",
		"chain HOMEPORT-RAW of iptables-legacy", "chain HOMEPORT-FORWARD of iptables-legacy"}
	if d := cmp.Diff(want, done); d != "" || err != nil {
		t.Errorf("%v; -want +got:\n%s", err, d)
	}
	for name, f := range all {
		if text, _ := f.Save(); strings.Contains(text, chainPrefix) || name != "ip6tables-nft" && !strings.Contains(text, "THEIRS") {
			t.Errorf("%s is left with:\n%s", name, text)
		}
	}
	if done, err := h.RemoveBypass(); len(done) > 0 || err != nil {
		t.Errorf("a second time: %q, %v", done, err)
	}
	all["iptables-nft"].Chains["filter/HOMEPORT-FORWARD"] = nil
	all["iptables-nft"].Chains["filter/THEIRS"] = []string{"-j HOMEPORT-FORWARD"}
	if _, err := h.RemoveBypass(); err == nil || !strings.Contains(err.Error(), "iptables-nft: chain HOMEPORT-FORWARD of table filter: ") {
		t.Errorf("with another's jump to it: %v", err)
	}
	h.Tool = tools{}.open
	if done, err := h.RemoveBypass(); len(done) > 0 || err != nil {
		t.Errorf("without iptables: %q, %v", done, err)
	}
}

func TestInUse(t *testing.T) {
	const none = ""
	for name, tt := range map[string]struct {
		nft, legacy string // a rule of FORWARD, "empty", or none: the command is not there
		files       map[string]string
		names       string
		err         string
	}{
		"nft":                     {"-j KUBE-FORWARD", "empty", nil, "iptables-nft", ""},
		"legacy":                  {"empty", "-j KUBE-FORWARD", map[string]string{"proc/thread-self/net/ip_tables_names": "filter\n"}, "iptables-legacy", ""},
		"both":                    {"-j KUBE-FORWARD", "-j DOCKER", map[string]string{"proc/thread-self/net/ip_tables_names": "filter\n"}, "iptables-nft iptables-legacy", ""},
		"neither has rules":       {"empty", "empty", nil, "iptables-nft", ""},
		"ours is no sign":         {"-j HOMEPORT-FORWARD", "-j DOCKER", map[string]string{"proc/thread-self/net/ip_tables_names": "filter\n"}, "iptables-legacy", ""},
		"legacy alone":            {none, "empty", nil, "iptables-legacy", ""},
		"only the other: legacy":  {none, "empty", map[string]string{"sys/module/nft_compat/refcnt": "3"}, "", "the host's rules may be in iptables-nft, which cannot be asked"},
		"only the other: nft":     {"empty", none, map[string]string{"proc/thread-self/net/ip_tables_names": "nat\n"}, "", "the host's rules may be in iptables-legacy, which cannot be asked"},
		"nft's, and legacy's too": {"-j KUBE-FORWARD", none, map[string]string{"proc/thread-self/net/ip_tables_names": "nat\n"}, "iptables-nft", "may be in iptables-legacy"},
		"neither command":         {none, none, nil, "", "install iptables in both variants"},
	} {
		t.Run(name, func(t *testing.T) {
			all := tools{}
			for command, rule := range map[string]string{"iptables-nft": tt.nft, "iptables-legacy": tt.legacy} {
				if rule == none {
					continue
				}
				all[command] = hostfwtest.New()
				if rule != "empty" {
					all[command].Chains["filter/FORWARD"] = []string{rule}
				}
			}
			used, err := Host{Root: files(tt.files), Tool: all.open}.InUse(IPv4)
			var names []string
			for _, u := range used {
				names = append(names, u.Name())
			}
			if got := strings.Join(names, " "); got != tt.names || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q, %v; want %q, %q", got, err, tt.names, tt.err)
			}
		})
	}
}

// A kernel without nf_tables is none of nft's: its command is there, and fails.
func TestNoNFTables(t *testing.T) {
	broken, legacy := hostfwtest.New(), hostfwtest.New()
	broken.Err = errors.New("Could not fetch rule set generation id")
	h := Host{Root: files(nil), Tool: tools{"iptables-nft": broken, "iptables-legacy": legacy}.open}
	if used, err := h.InUse(IPv4); err != nil || len(used) != 1 || used[0].Variant != Legacy {
		t.Errorf("%v, %v", used, err)
	}
	h.Tool = tools{"iptables-nft": broken}.open
	if used, err := h.InUse(IPv4); err == nil || len(used) > 0 || !strings.Contains(err.Error(), "generation id") {
		t.Errorf("%v, %v", used, err)
	}
}

func TestLeftover(t *testing.T) {
	nft, legacy := hostfwtest.New(), hostfwtest.New()
	h := Host{Root: files(map[string]string{"proc/thread-self/net/ip_tables_names": "filter\n"}), Tool: tools{"iptables-nft": nft, "iptables-legacy": legacy}.open}
	repair(t, Used{IPv4, NFT, nft}, ownBridge)
	if left, err := h.Leftover(IPv4, []Used{{IPv4, NFT, nft}}); len(left) > 0 || err != nil {
		t.Errorf("of what is in use: %v, %v", left, err)
	}
	left, err := h.Leftover(IPv4, []Used{{IPv4, Legacy, legacy}})
	if len(left) != 2 || left[0].Variant != NFT || err != nil {
		t.Fatalf("%v, %v", left, err)
	}
	for _, e := range left {
		if err := e.Repair(); err != nil {
			t.Error(err)
		}
	}
	if text, _ := nft.Save(); strings.Contains(text, chainPrefix) {
		t.Errorf("left:\n%s", text)
	}
	legacy.Err = errors.New("Another app is currently holding the xtables lock")
	if _, err := h.Leftover(IPv4, nil); !errors.Is(err, legacy.Err) {
		t.Errorf("nobody knows what is left: %v", err)
	}
}

func TestWildcardNames(t *testing.T) {
	for _, b := range []Bridge{{Name: "br+"}, {Name: "br0", Shared: true, Ports: []string{"veth+"}}} {
		if _, err := (Used{IPv4, NFT, hostfwtest.New()}).Compare([]Bridge{b}); err == nil || !strings.Contains(err.Error(), "stands for any name") {
			t.Errorf("%v: %v", b, err)
		}
	}
}

// inNamespace runs f in a network namespace of its own, with commands that it starts.
func inNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread goes with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		defer func() { done <- err }() // also after a skip
		if err == nil {
			f()
		}
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// The real commands take what we write, print it back as we wrote it, and let it go.
func TestRealTables(t *testing.T) {
	for _, f := range []Family{IPv4, IPv6} {
		for _, v := range variants() {
			t.Run(f.name(v), func(t *testing.T) {
				tool, err := openTool(f, v)
				if errors.Is(err, exec.ErrNotFound) {
					t.Skipf("this machine has no such command: %v", err)
				}
				if err != nil {
					t.Fatal(err)
				}
				inNamespace(t, func() { realTables(t, Used{f, v, tool}) })
			})
		}
	}
}

func realTables(t *testing.T, u Used) {
	const theirs = "*filter\n:THEIRS - [0:0]\n-A FORWARD -j THEIRS\nCOMMIT\n"
	if err := u.Tool.Restore(theirs); err != nil {
		t.Skipf("this kernel has no %s: %v", u.Name(), err)
	}
	must := func(edits []Edited, err error) []Edited {
		if err != nil {
			t.Errorf("%s: %v", u.Name(), err)
		}
		for _, e := range edits {
			if err := e.Repair(); err != nil {
				t.Errorf("%s: %s: %v", u.Name(), e.Message, err)
			}
		}
		return edits
	}
	// Of this thread's namespace, which is not the process's first thread's.
	if tables, err := NewHost().legacyTables(u.Family); err != nil || slices.Contains(tables, "filter") != (u.Variant == Legacy) {
		t.Errorf("legacy tables with rules of %s: %q, %v", u.Name(), tables, err)
	}
	bridges := []Bridge{ownBridge, adopted}
	if n := len(must(u.Compare(bridges))); n != 2 {
		t.Errorf("%d chains to make, want 2", n)
	}
	if edits, err := u.Compare(bridges); len(edits) > 0 || err != nil {
		t.Errorf("what was written is not what is printed: %+v, %v", edits, err)
	}
	if err := u.Tool.Restore("*raw\n-F HOMEPORT-RAW\n-I PREROUTING 1 -s " + map[Family]string{IPv4: "192.0.2.1", IPv6: "2001:db8::1"}[u.Family] + " -j ACCEPT\nCOMMIT\n"); err != nil {
		t.Errorf("edit: %v", err)
	}
	if edits := must(u.Compare(bridges)); len(edits) != 1 || !strings.Contains(edits[0].Message, "4 of its 4 rules are missing") || !strings.Contains(edits[0].Message, "comes first: -s ") {
		t.Errorf("after the edit: %+v", edits)
	}
	must(u.Compare(nil))
	text, err := run(u.Tool.(command).path+"-save", "")
	if err != nil || strings.Contains(text, chainPrefix) || !strings.Contains(text, "-A FORWARD -j THEIRS") {
		t.Errorf("left, %v:\n%s", err, text)
	}
	for _, edit := range []struct {
		lines string
		want  bool
	}{
		{"", true}, // THEIRS
		{"*filter\n-F FORWARD\nCOMMIT\n*raw\n-F PREROUTING\nCOMMIT\n", false},
		{"*mangle\n:KUBE-IPTABLES-HINT - [0:0]\nCOMMIT\n", true},
		{"*mangle\n-X KUBE-IPTABLES-HINT\nCOMMIT\n", false},
		{"*filter\n:FORWARD DROP [0:0]\nCOMMIT\n", true},
	} {
		if edit.lines != "" {
			if err := u.Tool.Restore(edit.lines); err != nil {
				t.Errorf("%q: %v", edit.lines, err)
			}
		}
		if got, err := u.holdsRules([]string{"filter", "nat", "raw", "mangle"}); got != edit.want || err != nil {
			t.Errorf("after %q: holds rules: %v, %v", edit.lines, got, err)
		}
	}
}
