package vm

import (
	"slices"
	"strings"
	"testing"
)

const testDep = `kernel/net/bridge/bridge.ko: kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/802/stp.ko: kernel/net/llc/llc.ko
kernel/net/llc/llc.ko:
kernel/net/bridge/br_netfilter.ko: kernel/net/bridge/bridge.ko kernel/net/802/stp.ko kernel/net/llc/llc.ko
kernel/net/8021q/8021q.ko: kernel/net/802/mrp.ko
kernel/net/802/mrp.ko:
kernel/drivers/net/veth.ko.xz:
`

func testModules(t *testing.T, dep string) *moduleDeps {
	t.Helper()
	m, err := parseModuleDeps(dep, "kernel/drivers/virtio/virtio-pci.ko\n")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestModuleOrder(t *testing.T) {
	m := testModules(t, testDep)
	got, err := m.order([]string{"virtio_pci", "br-netfilter", "veth", "bridge", "8021q"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 7 {
		t.Errorf("%d files, want 7: %v", len(got), got)
	}
	for i, file := range got {
		for _, need := range m.deps[file] {
			if j := slices.Index(got, need); j < 0 || j > i {
				t.Errorf("%s is at %d, what it needs, %s, at %d", file, i, need, j)
			}
		}
		if slices.Index(got, file) != i {
			t.Errorf("%s is there twice", file)
		}
	}
}

func TestModuleOrderRefuses(t *testing.T) {
	for _, c := range []struct{ name, dep, ask, want string }{
		{"unknown name", testDep, "nosuch", "no such module"},
		{"circle", "a.ko: b.ko\nb.ko: a.ko\n", "a", "needs itself"},
		{"unlisted dependency", "a.ko: b.ko\n", "a", "not listed"},
	} {
		_, err := testModules(t, c.dep).order([]string{c.ask})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := parseModuleDeps("no colon here\n", ""); err == nil {
		t.Error("line without colon: no error")
	}
}

func TestModulesUnderAndSubset(t *testing.T) {
	m := testModules(t, testDep)
	if got := strings.Join(m.under([]string{"kernel/net/802", "kernel/net/llc/llc"}), " "); got != "llc mrp stp" {
		t.Errorf("under: %q", got)
	}
	dep, alias := m.subset([]string{"kernel/net/llc/llc.ko"}, "alias net-pf-26 llc\nalias rtnl-link-veth veth\n# comment\n")
	if dep != "kernel/net/llc/llc.ko: \n" || alias != "alias net-pf-26 llc\n" {
		t.Errorf("subset: %q, %q", dep, alias)
	}
}

func TestStripSignature(t *testing.T) {
	sign := func(body, sig string, length byte) []byte {
		return []byte(body + sig + string(append(make([]byte, 11), length)) + sigMagic)
	}
	for _, c := range []struct{ name, in, want string }{
		{"signed", string(sign("MODULE", "SIGNATURE", 9)), "MODULE"},
		{"unsigned", "MODULE", "MODULE"},
		{"empty", "", ""},
		{"length beyond the file", string(sign("M", "S", 200)), string(sign("M", "S", 200))},
		{"magic only", sigMagic, sigMagic},
	} {
		if got := string(stripSignature([]byte(c.in))); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
