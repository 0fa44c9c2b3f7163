package packet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
)

func TestMain(m *testing.M) {
	if os.Getuid() == 0 && !box.Inside() {
		code, err := box.Reenter(context.Background())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}
	if box.Inside() {
		if err := box.Furnish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

func needBox(t *testing.T) {
	t.Helper()
	if !box.Inside() {
		t.Skip("needs root: namespaces and BPF")
	}
	if err := box.Quiet(); err != nil {
		t.Fatal(err)
	}
}

// fakeHooks attaches a program that lets pass (or drops) and counts whatever
// it sees as established, or as `lie` says.
type fakeHooks struct {
	t      *testing.T
	drop   bool
	lie    uint64
	counts map[int][]*ebpf.Map
}

func (f *fakeHooks) Protect(ifindex int, _ string, _ net.HardwareAddr) error {
	if f.counts == nil {
		f.counts = map[int][]*ebpf.Map{}
	}
	for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		m, err := newCounter("fake")
		if err != nil {
			return err
		}
		f.t.Cleanup(func() { m.Close() })
		verdict := int32(-1) // TCX_NEXT
		if f.drop {
			verdict = 2
		}
		prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadAbs(14+9, asm.Byte),
			asm.JNE.Imm(asm.R0, 17, "out"),
			asm.LoadMapValue(asm.R1, m.FD(), 0),
			asm.Mov.Imm(asm.R2, 1),
			asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
			asm.Mov.Imm(asm.R0, verdict).WithSymbol("out"),
			asm.Return(),
		}})
		if err != nil {
			return err
		}
		f.t.Cleanup(func() { prog.Close() })
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: where})
		if err != nil {
			return err
		}
		f.t.Cleanup(func() { l.Close() })
		f.counts[ifindex] = append(f.counts[ifindex], m)
	}
	return nil
}

func (f *fakeHooks) Established(ifindex int) (uint64, error) {
	sum := f.lie
	f.lie = 0
	for _, m := range f.counts[ifindex] {
		n, err := count(m)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

var smoke = Config{Rounds: 2, Slices: 2, PerSlice: 5000, CPU: -1}

func TestRows(t *testing.T) {
	needBox(t)
	empty, err := NewEmpty()
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	rows, err := Rows(smoke, Case{Name: "one", Hooks: &fakeHooks{t: t}, Flows: 1}, Case{Name: "many", Hooks: &fakeHooks{t: t}, Flows: 100},
		Case{Name: "empty", Hooks: empty, Flows: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 3 {
		t.Fatalf("%d rows, want 3", len(rows))
	}
	for _, r := range rows {
		t.Log(r, r.Note)
		if r.Rounds != 2 || r.Baseline < 50e-9 || r.Baseline > 100e-6 || !strings.Contains(r.Note, "from_vm") {
			t.Errorf("unlikely row: %+v", r)
		}
	}
}

// TestRowsNotice: packets that do not arrive, or that the hooks do not say were
// of a known connection, make no row.
func TestRowsNotice(t *testing.T) {
	needBox(t)
	for _, c := range []struct {
		hooks *fakeHooks
		want  string
	}{
		{&fakeHooks{t: t, drop: true}, "0 packets arrived of 1 sent"},
		{&fakeHooks{t: t, lie: 3}, "of a known connection"},
	} {
		rows, err := Rows(smoke, Case{Hooks: c.hooks, Flows: 1})
		if err == nil || !strings.Contains(err.Error(), c.want) || len(rows) != 0 {
			t.Errorf("rows %v, error %v, want %q", rows, err, c.want)
		}
	}
}

// TestFrame checks one frame by hand.
func TestFrame(t *testing.T) {
	a := host{mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	b := host{mac: net.HardwareAddr{2, 0, 0, 0, 0, 2}}
	a.ip, b.ip = netip.MustParseAddr("10.100.0.1"), netip.MustParseAddr("10.100.0.2")
	f := frame(a, b, 1024, 4789)
	if len(f) != 60 || f[5] != 2 || f[11] != 1 || checksum(f[14:34]) != 0 {
		t.Errorf("bad frame % x", f)
	}
	if got := []byte{f[26], f[29], f[30], f[33], f[34], f[35], f[36], f[37]}; string(got) != string([]byte{10, 1, 10, 2, 4, 0, 0x12, 0xb5}) {
		t.Errorf("addresses or ports wrong: % x", f)
	}
}

// ported are hooks that count the same for both ways.
type ported struct{ fakeHooks }

func (f *ported) Allowed(ifindex int) (uint64, error) { return f.Established(ifindex) }
func (f *ported) Release(int) error                   { return nil }

// TestGridNotices: packets that went another way than the row is about, and rules of a rival
// that nothing went by, make no row.
func TestGridNotices(t *testing.T) {
	needBox(t)
	size := Size{Rules: 5, Addresses: 1000}
	silent := nftables
	silent.rules = func(int) string { return "table bridge bench { chain c { ip protocol 99 counter accept; }\n }\n" }
	for name, c := range map[string]struct {
		hooks  *ported
		rivals []Rival
		want   string
	}{
		"nobody lies":        {&ported{fakeHooks{t: t}}, []Rival{nftables}, ""},
		"another way":        {&ported{fakeHooks{t: t, lie: 3}}, nil, "counted"},
		"dropped":            {&ported{fakeHooks{t: t, drop: true}}, nil, "0 packets arrived"},
		"not in the way":     {&ported{fakeHooks{t: t}}, []Rival{silent}, "the last rule counted 0 packets"},
		"rules not readable": {&ported{fakeHooks{t: t}}, []Rival{{Name: "nonsense", rules: func(int) string { return "moon" }, load: nftables.load}}, "nonsense: nft: exit status 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if len(c.rivals) > 0 {
				if _, err := exec.LookPath("nft"); err != nil {
					t.Skip("needs nft")
				}
			}
			rows, _, err := GridRows(smoke, Grid{Label: "x", Sizes: []Size{size}, Hooks: func(Size) Ported { return c.hooks }, Rivals: c.rivals})
			if c.want == "" {
				if err != nil || len(rows) != 3 {
					t.Errorf("rows %v, error %v, want 3 rows", rows, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || len(rows) != 0 {
				t.Errorf("rows %v, error %v, want %q", rows, err, c.want)
			}
		})
	}
}

// TestRivals: the rule in the middle changes, and the rest stays.
func TestRivals(t *testing.T) {
	needBox(t)
	sinks, err := box.NewNetns("sinks")
	if err != nil {
		t.Fatal(err)
	}
	defer sinks.Delete()
	for i, r := range Rivals {
		t.Run(r.Name, func(t *testing.T) {
			if _, err := exec.LookPath(r.load[0]); err != nil {
				t.Skip("needs " + r.load[0])
			}
			if _, err := os.Stat("/proc/sys/net/bridge"); err != nil && r.Name == iptables.Name {
				t.Skip("without br_netfilter bridged frames do not visit iptables")
			}
			p, err := newRivalPath(r, 8, 1, byte(i), sinks)
			if err != nil {
				t.Fatal(err)
			}
			defer p.close()
			show := func() (lines []string) {
				err := p.in(func() error {
					argv := map[string][]string{"iptables": {"iptables-legacy-save"}, "nftables": {"nft", "-nn", "list", "map", "bridge", "bench", "m"}}[r.Name]
					out, err := p.command(argv, "")
					for word := range strings.SplitSeq(string(out), "\n") {
						if strings.Contains(word, "11.") || strings.Contains(word, "-A") {
							for one := range strings.SplitSeq(word, ",") {
								lines = append(lines, strings.Trim(one, " \t{}elmnts="))
							}
						}
					}
					return err
				})
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(lines)
				return lines
			}
			before := show()
			for range 2 {
				if err := p.changeRule(); err != nil {
					t.Fatal(err)
				}
			}
			after := show()
			differ := 0
			for i := range before {
				if before[i] != after[i] {
					differ++
				}
			}
			if len(before) != len(after) || len(before) < 7 || differ != 1 {
				t.Errorf("%d lines differ, want 1:\n%s\n\n%s", differ, strings.Join(before, "\n"), strings.Join(after, "\n"))
			}
		})
	}
}
