package vm

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Spec says what one run is to be.
type Spec struct {
	Kernel    string        // series, as in the cache: 6.1 or 6.12
	Mem       int           // MiB of the node VM
	SMP       int           // CPUs of the node VM
	OneThread bool          // they take turns, see newMachine
	Coarse    bool          // its timers, and its guests': CoarseTimers
	Timeout   time.Duration // for everything, from the start of QEMU
	Files     []Copy        // files; programs bring their libraries
	Dirs      []Copy        // folders
	Env       []string      // K=V for the command
	Modules   []string      // more modules to load before the command
	Guests    []wire.Guest  // guests beside the node VM
	Out       string        // host folder for /out and console logs; empty: none kept
	Argv      []string      // the command, as seen in the VM
	Verbose   bool          // tell stages and times on standard error
}

// Copy is a host path and where it goes in the VM.
type Copy struct{ Host, Guest string }

// Usage is printed for -h and after a bad argument.
const Usage = `usage: vmrun -kernel 6.12 [flags] -- COMMAND [ARG...]

  vmrun -kernel 6.1 -- uname -r
  vmrun -kernel 6.12 -file ./x.test:/bin/x.test -out out -- /bin/x.test -test.v
  vmrun -kernel 6.12 -guest name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24 -- guestctl vm1 ip
  vmrun -kernel 6.12 -guest name=vm2,mac=00:50:56:aa:bb:02,ip6=fd00::2/64,places=2 -- guestctl -host boot vm2

Runs COMMAND in a Debian kernel under QEMU and exits with its exit code;
123 when the kernel died of a fault of QEMU's, 124 when the time is up, 125 when the VM died without saying, 2 for bad usage.
Files that COMMAND writes to /out are copied to the -out folder.

A guest with places=2 has two NICs of the node VM, and can move from one to the
other by live migration. It runs only when asked to: guestctl -host tells how.

`

type copies struct{ list *[]Copy }

func (c copies) String() string { return "" }
func (c copies) Set(s string) error {
	host, guest, ok := strings.Cut(s, ":")
	if !ok || host == "" || !path.IsAbs(guest) {
		return fmt.Errorf("%q: want HOST:/path/in/vm", s)
	}
	*c.list = append(*c.list, Copy{host, path.Clean(guest)})
	return nil
}

// ParseArgs reads a vmrun command line, without the program name. Help goes to
// w; flag.ErrHelp means that help was asked for.
func ParseArgs(args []string, w io.Writer) (Spec, error) {
	var s Spec
	fs := flag.NewFlagSet("vmrun", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller tells the error, once
	fs.Usage = func() {}
	fs.StringVar(&s.Kernel, "kernel", "", "kernel `series`: 6.1 or 6.12")
	fs.IntVar(&s.Mem, "mem", 1024, "memory of the node VM in `MiB`")
	fs.IntVar(&s.SMP, "smp", 2, "`CPUs` of the node VM")
	fs.BoolVar(&s.OneThread, "one-thread", false, "CPUs of the node VM take turns: more gets done in all when VMs run side by side")
	fs.BoolVar(&s.Coarse, "coarse-timers", false, "timers of all VMs are as fine as a tick, 4 ms: they compute less, and are no good for measuring")
	fs.DurationVar(&s.Timeout, "timeout", 10*time.Minute, "for the whole run")
	fs.StringVar(&s.Out, "out", "", "host `folder` for the files of /out and the console logs")
	fs.BoolVar(&s.Verbose, "v", false, "tell stages and times on standard error")
	fs.Var(copies{&s.Files}, "file", "copy a file into the VM, `host:/guest`; repeatable")
	fs.Var(copies{&s.Dirs}, "dir", "copy a folder into the VM, `host:/guest`; repeatable")
	fs.Func("env", "set `K=V` for the command; repeatable", func(v string) error {
		if k, _, ok := strings.Cut(v, "="); !ok || k == "" {
			return fmt.Errorf("%q: want K=V", v)
		}
		s.Env = append(s.Env, v)
		return nil
	})
	fs.Func("module", "load this kernel `module` too; repeatable", func(v string) error {
		s.Modules = append(s.Modules, v)
		return nil
	})
	fs.Func("guest", "start a guest beside the VM, `name=N,mac=M,ip=CIDR[,ip6=CIDR][,gw=IP][,vlan=ID][,places=2][,announce=rarp]`; ip6 alone will do; repeatable", func(v string) error {
		g, err := ParseGuest(v)
		s.Guests = append(s.Guests, g)
		return err
	})
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(w, Usage)
			fs.SetOutput(w)
			fs.PrintDefaults()
		}
		return Spec{}, err
	}
	s.Argv = fs.Args()
	return s, s.Check()
}

// Check tells all that is wrong with a Spec.
func (s Spec) Check() error {
	var errs []error
	if s.Kernel == "" {
		errs = append(errs, errors.New("-kernel is missing; say -kernel 6.1 or -kernel 6.12"))
	} else if !kernelSeries.MatchString(s.Kernel) {
		errs = append(errs, fmt.Errorf("-kernel %q: want a series such as 6.1 or 6.12", s.Kernel))
	}
	if s.Mem < 256 {
		errs = append(errs, fmt.Errorf("-mem %d: the node VM needs at least 256 MiB", s.Mem))
	}
	if s.SMP < 1 || s.SMP > 16 {
		errs = append(errs, fmt.Errorf("-smp %d: want 1 to 16", s.SMP))
	}
	if s.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("-timeout %v: want more than 0", s.Timeout))
	}
	if len(s.Argv) == 0 {
		errs = append(errs, errors.New("no command; put it after --"))
	}
	if len(s.Guests) > 8 {
		errs = append(errs, fmt.Errorf("%d guests: at most 8", len(s.Guests)))
	}
	names, macs := map[string]bool{}, map[string]bool{}
	for _, g := range s.Guests {
		if names[g.Name] || macs[g.MAC] {
			errs = append(errs, fmt.Errorf("-guest %s: another guest has its name or MAC %s", g.Name, g.MAC))
		}
		names[g.Name], macs[g.MAC] = true, true
	}
	return errors.Join(errs...)
}

var (
	kernelSeries = regexp.MustCompile(`^[0-9]+\.[0-9]+$`)
	guestName    = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_]{0,14}$`)
)

// ParseGuest reads a -guest value.
func ParseGuest(spec string) (wire.Guest, error) {
	var g wire.Guest
	for _, kv := range strings.Split(spec, ",") {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return g, fmt.Errorf("%q: want key=value", kv)
		}
		if err := setGuest(&g, k, v); err != nil {
			return g, fmt.Errorf("%s=%s: %w", k, v, err)
		}
	}
	for _, f := range []struct{ key, value string }{{"name", g.Name}, {"mac", g.MAC}, {"ip", g.IP + g.IP6}} {
		if f.value == "" {
			return g, fmt.Errorf("%s= is missing", f.key)
		}
	}
	return g, nil
}

func setGuest(g *wire.Guest, key, value string) error {
	switch key {
	case "name":
		if !guestName.MatchString(value) {
			return errors.New("want a letter, then letters, digits or _, at most 15")
		}
		g.Name = value
	case "mac":
		mac, err := net.ParseMAC(value)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
			return errors.New("want a unicast Ethernet address such as 00:50:56:aa:bb:01")
		}
		g.MAC = mac.String()
	case "ip", "ip6":
		p, err := netip.ParsePrefix(value)
		if err != nil || p.Addr().Is4() != (key == "ip") {
			return errors.New("want an address with prefix length such as 10.100.0.10/24, for ip6 fd00::10/64")
		}
		if key == "ip" {
			g.IP = p.String()
		} else {
			g.IP6 = p.String()
		}
	case "gw":
		a, err := netip.ParseAddr(value)
		if err != nil || !a.Is4() {
			return errors.New("want an IPv4 address")
		}
		g.Gateway = a.String()
	case "vlan":
		id, err := strconv.Atoi(value)
		if err != nil || id < 1 || id > 4094 {
			return errors.New("want a VLAN ID, 1 to 4094")
		}
		g.VLAN = id
	case "places":
		switch value {
		case "1":
			g.Second = nil
		case "2":
			g.Second = &wire.Place{}
		default:
			return errors.New("want 1, or 2 for a guest that can move")
		}
	case "announce":
		if value != "rarp" {
			return errors.New("want rarp, which leaves the announcement to QEMU; without it the guest announces itself too")
		}
		g.Announce = value
	default:
		return errors.New("unknown key; known are name, mac, ip, ip6, gw, vlan, places, announce")
	}
	return nil
}
