package packet

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/test/bench/internal/box"
)

// Rival is a firewall that the kernel has already: so many rules as ours, in force on all
// bridges of the namespace that it is set up in.
type Rival struct {
	Name  string
	rules func(n int) string
	// load is the command that reads rules; change is one that changes the one in the middle.
	load   []string
	change func(n, turn int) (argv []string, input string)
	// show prints the last rule with its counter, which the pattern finds.
	show    []string
	counter *regexp.Regexp
	// prepare is done before the rules are loaded.
	prepare func() error
	// forget has connections be unknown again; nil: none are known.
	forget func() error
}

// Rivals of the name.
var Rivals = []Rival{iptables, nftables}

// iptables sees bridged frames through br_netfilter. A rule names one prefix, which is the
// least that it can have; known connections are looked up first, as everybody has it. The legacy
// tables are the faster ones.
var iptables = Rival{
	Name: "iptables",
	rules: func(n int) string {
		var b bytes.Buffer
		b.WriteString("*filter\n:FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n")
		for i := range n - 1 {
			fmt.Fprintf(&b, "-A FORWARD %s -j DROP\n", iptablesRule(i, 0))
		}
		b.WriteString("-A FORWARD -s 10.100.0.0/16 -d 10.100.0.0/16 -p udp -j ACCEPT\nCOMMIT\n")
		return b.String()
	},
	load: []string{"iptables-legacy-restore"},
	change: func(n, turn int) ([]string, string) {
		at := n / 2
		argv := []string{"iptables-legacy", "-R", "FORWARD", strconv.Itoa(at + 2)}
		for _, word := range bytes.Fields([]byte(iptablesRule(at, turn))) {
			argv = append(argv, string(word))
		}
		return append(argv, "-j", "DROP"), ""
	},
	show:    []string{"iptables-legacy-save", "-c", "-t", "filter"},
	counter: regexp.MustCompile(`\[(\d+):\d+\] -A FORWARD -s 10.100.0.0/16 -d 10.100.0.0/16`),
	prepare: func() error {
		err := os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0)
		if errors.Is(err, os.ErrNotExist) {
			return errors.New("this kernel's bridges do not show frames to iptables: load br_netfilter (which has the host's bridges do so, too), or leave out -rivals iptables")
		}
		return err
	},
	forget: func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) },
}

func iptablesRule(i, turn int) string {
	if i%2 == 1 {
		return fmt.Sprintf("-s %s -p tcp --dport %d:%d", prefixOf(i), 1000+i, 1100+i+turn)
	}
	return fmt.Sprintf("-s %s -p udp --dport 4000:%d", prefixOf(i), 5000+i+turn)
}

// prefixOf is the prefix that a rule names.
func prefixOf(i int) string { return fmt.Sprintf("11.%d.%d.%d/29", i>>13, i>>5&255, i&31<<3) }

// nftables in the bridge family has all rules but the last in one verdict map by source and
// port, which can be as the rules do not overlap. It knows no connections there without
// nf_conntrack_bridge, which many kernels do not have.
var nftables = Rival{
	Name: "nftables",
	rules: func(n int) string {
		var b bytes.Buffer
		b.WriteString("table bridge bench {\n map m { type ipv4_addr . inet_proto . inet_service : verdict; flags interval; ")
		for i := range n - 1 {
			if i == 0 {
				b.WriteString("elements = { ")
			}
			fmt.Fprintf(&b, "%s : drop,\n", nftElement(i, 0))
		}
		if n > 1 {
			b.WriteString("}")
		}
		b.WriteString(`}
 chain c { type filter hook forward priority 0; policy drop;
  ip saddr . ip protocol . th dport vmap @m
  ip saddr 10.100.0.0/16 ip daddr 10.100.0.0/16 ip protocol udp counter accept
 }
}
`)
		return b.String()
	},
	load: []string{"nft", "-f", "-"},
	change: func(n, turn int) ([]string, string) {
		at := n / 2
		return []string{"nft", "-f", "-"}, fmt.Sprintf("delete element bridge bench m { %s : drop }\nadd element bridge bench m { %s : drop }\n",
			nftElement(at, turn-1), nftElement(at, turn))
	},
	show:    []string{"nft", "list", "chain", "bridge", "bench", "c"},
	counter: regexp.MustCompile(`counter packets (\d+)`),
}

func nftElement(i, turn int) string {
	if i%2 == 1 {
		return fmt.Sprintf("%s . tcp . %d-%d", prefixOf(i), 1000+i, 1100+i+turn)
	}
	return fmt.Sprintf("%s . udp . 4000-%d", prefixOf(i), 5000+i+turn)
}

// rivalPath is a path under a rival's rules, in a namespace of its own.
type rivalPath struct {
	Rival
	*Path
	size int
	ns   box.Netns
	sent uint64 // first packets
	turn int
}

func newRivalPath(r Rival, size int, flows int32, number byte, sinks box.Netns) (p *rivalPath, err error) {
	name := fmt.Sprintf("%.3s%d", r.Name, number)
	p = &rivalPath{Rival: r, size: size}
	if p.ns, err = box.NewNetns(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", r.Name, err), p.close())
		}
	}()
	return p, p.in(func() error {
		if err := box.Quiet(); err != nil {
			return err
		}
		if r.prepare != nil {
			if err := r.prepare(); err != nil {
				return err
			}
		}
		if p.Path, err = newPath(name, number, sinks, flows); err != nil {
			return err
		}
		if _, err := p.command(r.load, r.rules(size)); err != nil {
			return err
		}
		return p.Establish(1)
	})
}

// in does something in the path's namespace, on the caller's thread.
func (p *rivalPath) in(fn func() error) error {
	leave, err := p.ns.Enter()
	if err != nil {
		return err
	}
	return errors.Join(fn(), leave())
}

// command runs a tool in the namespace that the thread is in.
func (p *rivalPath) command(argv []string, input string) ([]byte, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = bytes.NewReader([]byte(input))
	var out, told bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &told
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%.500s", argv[0], err, told.Bytes())
	}
	return out.Bytes(), nil
}

// first is the turn of a contest.
func (p *rivalPath) first(n uint32) (s Sample, err error) {
	err = p.in(func() error {
		if p.forget != nil {
			if err := p.forget(); err != nil {
				return fmt.Errorf("forget connections: %w", err)
			}
		}
		s, err = p.MeasureFirst(n)
		p.sent += s.Packets
		return err
	})
	return s, err
}

// changeRule changes the rule in the middle.
func (p *rivalPath) changeRule() error {
	return p.in(func() error {
		p.turn++
		argv, input := p.change(p.size, p.turn)
		_, err := p.command(argv, input)
		return err
	})
}

// judged makes sure that every first packet went by the last rule.
func (p *rivalPath) judged() error {
	return p.in(func() error {
		out, err := p.command(p.show, "")
		if err != nil {
			return err
		}
		found := p.counter.FindSubmatch(out)
		if found == nil {
			return fmt.Errorf("%s: no counter in what %s prints", p.Rival.Name, p.show[0])
		}
		if n, err := strconv.ParseUint(string(found[1]), 10, 64); err != nil || n < p.sent {
			return fmt.Errorf("%s: the last rule counted %s packets, want at least the %d first ones", p.Rival.Name, found[1], p.sent)
		}
		return nil
	})
}

func (p *rivalPath) close() error {
	var err error
	if p.Path != nil {
		err = p.in(p.Path.Close)
	}
	return errors.Join(err, p.ns.Delete())
}
