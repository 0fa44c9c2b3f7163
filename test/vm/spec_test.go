package vm

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

func TestParseArgsRefuses(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"-- true", "-kernel is missing"},
		{"-kernel six -- true", `-kernel "six"`},
		{"-kernel ../6.1 -- true", "want a series"},
		{"-kernel 6.1", "no command"},
		{"-kernel 6.1 -mem 10 -- true", "-mem 10"},
		{"-kernel 6.1 -smp 0 -- true", "-smp 0"},
		{"-kernel 6.1 -timeout 0s -- true", "-timeout 0s"},
		{"-kernel 6.1 -file nocolon -- true", "want HOST:/path"},
		{"-kernel 6.1 -file a:relative -- true", "want HOST:/path"},
		{"-kernel 6.1 -env NOVALUE -- true", "want K=V"},
		{"-kernel 6.1 -guest name=a,mac=02:00:00:00:00:01 -- true", "ip= is missing"},
		{"-kernel 6.1 -guest name=a,ip=10.0.0.1/8 -- true", "mac= is missing"},
		{"-kernel 6.1 -guest name=a-b -- true", "want a letter"},
		{"-kernel 6.1 -guest mac=01:00:00:00:00:01 -- true", "unicast"},
		{"-kernel 6.1 -guest ip=10.0.0.1 -- true", "prefix length"},
		{"-kernel 6.1 -guest ip6=10.0.0.1/8 -- true", "prefix length"},
		{"-kernel 6.1 -guest vlan=4095 -- true", "1 to 4094"},
		{"-kernel 6.1 -guest vlan=0 -- true", "1 to 4094"},
		{"-kernel 6.1 -guest places=3 -- true", "2 for a guest that can move"},
		{"-kernel 6.1 -guest announce=loudly -- true", "want rarp"},
		{"-kernel 6.1 -guest colour=red -- true", "unknown key"},
		{"-kernel 6.1 -guest name=a,mac=02:00:00:00:00:01,ip=10.0.0.1/8 -guest name=a,mac=02:00:00:00:00:02,ip=10.0.0.2/8 -- true", "another guest"},
		{"-kernel 6.1 -nosuch -- true", "nosuch"},
	} {
		_, err := ParseArgs(strings.Fields(c.args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.args, err, c.want)
		}
	}
}

func TestParseArgs(t *testing.T) {
	s, err := ParseArgs(strings.Fields("-kernel 6.12 -mem 512 -smp 1 -one-thread -coarse-timers -timeout 30s -out o -file a:/bin/a -file b:/b -dir d:/d "+
		"-env A=b=c -module br_netfilter -guest name=vm1,mac=00:50:56:AA:bb:01,ip=10.100.0.10/24,ip6=fd00:100::10/64,gw=10.100.0.1,vlan=100 -- /bin/a -x -- y"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if s.Kernel != "6.12" || s.Mem != 512 || s.SMP != 1 || !s.OneThread || !s.Coarse || s.Timeout != 30*time.Second || s.Out != "o" {
		t.Errorf("plain flags: %+v", s)
	}
	if len(s.Files) != 2 || s.Files[1] != (Copy{"b", "/b"}) || len(s.Dirs) != 1 || s.Env[0] != "A=b=c" || s.Modules[0] != "br_netfilter" {
		t.Errorf("repeated flags: %+v", s)
	}
	want := wire.Guest{Name: "vm1", MAC: "00:50:56:aa:bb:01", IP: "10.100.0.10/24", IP6: "fd00:100::10/64", Gateway: "10.100.0.1", VLAN: 100}
	if len(s.Guests) != 1 || s.Guests[0] != want {
		t.Errorf("guest: %+v", s.Guests)
	}
	g, err := ParseGuest("name=vm2,mac=00:50:56:aa:bb:02,ip6=fd00:100::12/64,places=2,announce=rarp")
	if err != nil || g.IP != "" || g.Second == nil || g.Announce != "rarp" {
		t.Errorf("a guest of IPv6 alone that can move: %+v, %v", g, err)
	}
	if strings.Join(s.Argv, " ") != "/bin/a -x -- y" {
		t.Errorf("command: %q", s.Argv)
	}
	var help bytes.Buffer
	if _, err := ParseArgs([]string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-guest") {
		t.Errorf("-h: %v, %q", err, help.String())
	}
}

func TestUnpack(t *testing.T) {
	pack := func(names ...string) io.Reader {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, n := range names {
			if err := w.WriteHeader(&tar.Header{Name: n, Size: 2, Mode: 0o640, Typeflag: tar.TypeReg}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("hi")); err != nil {
				t.Fatal(err)
			}
		}
		w.Close()
		return &b
	}
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"../evil", "/etc/evil", "a/../../evil"} {
		if err := unpack(pack(bad), dir); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
	if err := unpack(pack("good"), dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "good")); err != nil || string(b) != "hi" {
		t.Errorf("good: %q, %v", b, err)
	}
	if err := unpack(pack("dropped"), ""); err != nil {
		t.Errorf("without a folder: %v", err)
	}
}

func TestFindKernelTellsWhatToDo(t *testing.T) {
	t.Setenv("HOMEPORT_CACHE", t.TempDir())
	if _, err := FindKernel("6.1"); err == nil || !strings.Contains(err.Error(), "hack/deps.sh") {
		t.Errorf("empty cache: %v", err)
	}
}

func TestConsoleTail(t *testing.T) {
	name := filepath.Join(t.TempDir(), "console")
	write := func(s string) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(strings.Repeat("noise\r\n", 50) + "BUG: here\r\n" + strings.Repeat("trace\r\n", 50))
	if got := consoleTail(name); !strings.Contains(got, "BUG: here") || strings.Contains(got, "noise") || strings.Contains(got, "\r") {
		t.Errorf("trouble: %q", got)
	}
	write(strings.Repeat("noise\n", 50) + "last\n")
	if got := consoleTail(name); !strings.HasSuffix(got, "last") || strings.Count(got, "noise") != 29 {
		t.Errorf("no trouble: %q", got)
	}
}
