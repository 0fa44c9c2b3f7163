package netns

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/test/vm/stream"
)

var (
	update    = flag.Bool("update", false, "write golden files anew")
	keepGoing = flag.Bool("keepgoing", false, "go on in a script after a line has failed")
)

// TestMain lets more tests run side by side than there are CPUs: a good part of a
// script is waiting for what must not arrive. With more than these an emulated
// machine takes longer for all of them, and each waits for the others.
func TestMain(m *testing.M) {
	flag.Parse()
	byHand := false
	flag.Visit(func(f *flag.Flag) { byHand = byHand || f.Name == "test.parallel" })
	if !byHand {
		if err := flag.Set("test.parallel", "3"); err != nil {
			panic(err) // the testing package has this flag
		}
	}
	os.Exit(m.Run())
}

// TestScripts runs testdata/*.txtar. Besides testscript's own commands they have
//
//	switch NAME                              a switch
//	node NAME SWITCH VLANS                   a node on a trunk port of it
//	cable NODE IF SWITCH VLANS               one more interface of a node
//	host NAME SWITCH VLANS [ADDR...]         a machine; VLANS as 100, or trunk=100,200
//	pod NAME                                 an empty sandbox
//	remove NAME                              a namespace dies
//	agent start NODE [-nowait] [FLAG...]     with the manifests of the script's folder NODE
//	agent stop|kill|freeze|thaw NODE         SIGTERM, -9, SIGSTOP, SIGCONT
//	agent put|sync NODE                      new manifests; sync waits until they are in force
//	cni VERB NODE POD [CONFIG] [KEY=VALUE]   calls plugins as a runtime does
//	guest NAME POD [ADDR...]                 a namespace plays the VM behind KubeVirt's wiring
//	realguest NAME POD                       a VM beside the node does; one that can move is booted
//	migrate VERB GUEST ...                   live migration, see cmdMigrate
//	trunk SWITCH SWITCH VLANS                joins two switches: a node with a plain bridge is one
//	manage NODE...                           a network of their own, mgmt0: $MGMT_NODE is 10.255.0.1 and so on
//	fault KIND ...                           something of the switches breaks, see faultUsage
//	heal [KIND ...]                          the faults that begin with these words end; or all
//	lldp|stp SWITCH on|off [NAME...]         LLDP, or BPDUs, out of its ports, each second
//	ra HOST prefix=P [every=1s] [lifetime=30m]  advertises a router; ra HOST off
//	dhcpd HOST server=ADDR offer=ADDR        offers that address to all who ask; dhcpd HOST off
//	arpburst HOST NET count=N [guests=N]     that many guests ask by ARP, all at once
//	dad start|clear|conflict HOST ADDR       duplicate address detection, see cmdDAD
//	finds NODE [FLAG...] -- ['CODE NODES VLANS'...]  a check of the fabric finds this, and no more
//	plug POD SWITCH VLANS MAC                a pod on a port of it, without any of the product
//	pings start|check|stop ID ...            how long an address was dark, see cmdPings
//	stream start|accept|check|stop ID ...    what a TCP connection lived through, see cmdStream
//	feed start|check|stop ID ...             datagrams that a guest asked for once, see cmdFeed
//	knock start|check|stop ID ...            new TCP connections all the time, none of which may pass
//	observe start|stop NODE ...              homeportctl observe -f, see cmdObserve
//	row TEXT                                 begins a row of the table of figures
//	compare PINGS BASELINE ROW AIM_MS        how much longer rows of one name are dark than of another
//	on NAME PROGRAM [ARG...]                 a program in that namespace
//	daemon start|stop ID ...                 a program that stays, see cmdDaemon
//	tcp NAME ADDR PORT [as CONN]             connects and reads the banner; as keeps it
//	say CONN                                 a line over a kept connection and back
//	udp NAME ADDR                            a datagram and back
//	send NAME IF [count=N] [macs=N] FRAME... raw frames, see ParseFrame and packetWords; from so many MACs, the given one first
//	sniff NAME IF as ID                      keeps what comes in
//	saw ID MIN [WANT...]                     at least so many matching frames, see ParseWant and packetWords
//	listing NODE                             links, VLANs, pins, records, map entries
//	eventually [-m REGEXP] COMMAND...        polls any of these until it succeeds
//	port NODE POD                            sets $PORT, the host interface
//	unhook NODE POD                          cuts the port's tcx links
//	burst add|del NODE PREFIX N CONFIG       N calls at once
//	refuse NODE POD CODE REGEXP CONFIG       ADD fails so, and nothing changes
//	same FILE NODE                           the listing is that of the file
//	slots NODE MIN MAX                       so many port slots have pins
//	show NODE NOUN...                        homeportctl; it may find something wrong
//	impostor NODE VERSION                    answers in the agent's place; 0 ends it
//	flood start|reached|running|stop ...     see cmdFlood
func TestScripts(t *testing.T) {
	t.Parallel()
	bin := requireLab(t)
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	p := params(bin)
	p.Files = files
	testscript.Run(t, p)
}

func params(bin Binaries) testscript.Params {
	return testscript.Params{
		Cmds:                wrapped(),
		ContinueOnError:     *keepGoing,
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
		Setup:               func(env *testscript.Env) error { return setup(env, bin) },
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "realguest":
				_, err := os.Stat(GuestsFile)
				return err == nil, nil
			case "tcx":
				return hasTCX(), nil
			}
			return false, fmt.Errorf("no condition %q", cond)
		},
	}
}

// requireLab skips where the lab cannot be built; inside our VMs it must be.
func requireLab(t *testing.T) Binaries {
	t.Helper()
	skip := t.Skipf
	if os.Getenv("HOMEPORT_IN_VM") != "" {
		skip = t.Fatalf
	}
	if os.Geteuid() != 0 {
		skip("the lab needs root")
	}
	bin, err := FindBinaries()
	if err != nil {
		skip("the lab needs the product: %v", err)
	}
	if err := vlanFiltering(); err != nil {
		skip("the lab needs a kernel whose bridge filters VLANs: %v", err)
	}
	return bin
}

func vlanFiltering() error {
	s, err := newSpace("probe", fmt.Sprintf("lab-probe-%d-%d", os.Getpid(), time.Now().UnixNano()))
	if err != nil {
		return err
	}
	defer s.close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br"
	on := true
	if err := s.Link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &on}); err != nil {
		return err
	}
	l, err := s.Link.LinkByName("br")
	if err != nil {
		return err
	}
	if br, ok := l.(*netlink.Bridge); !ok || br.VlanFiltering == nil || !*br.VlanFiltering {
		return errors.New("it ignores vlan_filtering")
	}
	return nil
}

// session is one running script.
type session struct {
	ts        *testscript.TestScript
	lab       *Lab
	conns     map[string]*Conn
	sniffers  map[string]*Sniffer
	floods    map[string]*Flood
	movers    map[string]*Mover
	pings     map[string]*Pings
	streams   map[string]*stream.Stream
	feeds     map[string]*feed
	knocks    map[string]*knocks
	observers map[string][]observer                 // by node
	tellers   map[string]*teller                    // lldp and stp, by switch
	stations  map[string]func()                     // what stops ra and dhcpd, by host
	dads      map[string]*detection                 // by host and address
	daemons   map[string]func(syscall.Signal) error // what ends them
	figures   figures
	impostor  io.Closer     // nil when the agent's socket is its own
	answer    time.Duration // how long a try of the current line may take
	ctx       context.Context
}

type sessionKey struct{}

func setup(env *testscript.Env, bin Binaries) error {
	name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"), ".")
	lab, err := New(name, bin)
	if err != nil {
		return err
	}
	s := &session{lab: lab, conns: map[string]*Conn{}, sniffers: map[string]*Sniffer{}, floods: map[string]*Flood{},
		movers: map[string]*Mover{}, pings: map[string]*Pings{}, streams: map[string]*stream.Stream{}, feeds: map[string]*feed{}, knocks: map[string]*knocks{}, observers: map[string][]observer{},
		tellers: map[string]*teller{}, stations: map[string]func(){}, dads: map[string]*detection{}, daemons: map[string]func(syscall.Signal) error{},
		figures: figures{script: name}, ctx: context.Background()}
	env.Values[sessionKey{}] = s
	env.Vars = append(env.Vars, "LAB="+lab.Dir)
	env.Defer(func() {
		if t, ok := env.T().(interface{ Failed() bool }); ok && t.Failed() {
			env.T().Log(s.autopsy())
		}
		if err := s.figures.write(env.T()); err != nil {
			env.T().Log("figures:", err)
		}
		if err := s.close(); err != nil {
			env.T().Log("cleaning up:", err)
		}
	})
	return nil
}

func (s *session) close() error {
	for _, c := range s.conns {
		_ = c.Close() // it may be cut already
	}
	for _, sn := range s.sniffers {
		_ = sn.Close() // it has no error to tell
	}
	for _, f := range s.floods {
		_, _ = f.Stop() // a script that has not asked does not judge it
	}
	for _, p := range s.pings {
		p.Stop()
	}
	for _, k := range s.knocks {
		k.close()
	}
	for _, st := range s.streams {
		st.Stop()
	}
	for _, f := range s.feeds {
		f.close()
	}
	for _, list := range s.observers {
		for _, o := range list {
			_ = o.stop() // a script that has not asked does not judge it
		}
	}
	if s.impostor != nil {
		_ = s.impostor.Close() // it has nothing to lose
	}
	return s.lab.Close()
}

// autopsy tells what a failed script leaves to look at.
func (s *session) autopsy() string {
	var b strings.Builder
	for name, space := range s.lab.spaces {
		fmt.Fprintf(&b, "--- what was lost in %s: %s\n", name, space.losses())
	}
	for name, n := range s.lab.nodes {
		fmt.Fprintf(&b, "--- agent of %s\n%s\n", name, n.LogTail(25))
		for _, args := range [][]string{{"status"}, {"ports", "-o", "wide"}, {"drops"}} {
			cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), args...)
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			err := n.Run(cmd)
			fmt.Fprintf(&b, "--- %s homeportctl %s (%v)\n%s\n", name, strings.Join(args, " "), err, out.String())
		}
	}
	return b.String()
}

// command is one of the lab's; out is what the script's stdout sees.
type command func(s *session, out io.Writer, args []string) error

// usageError fails a script whatever it expects.
type usageError struct{ text string }

func (e *usageError) Error() string { return "usage: " + e.text }

func commands() map[string]command {
	return map[string]command{
		"switch": cmdSwitch, "node": cmdNode, "cable": cmdCable, "host": cmdHost, "pod": cmdPod, "remove": cmdRemove,
		"agent": cmdAgent, "cni": cmdCNI, "guest": cmdGuest, "realguest": cmdRealGuest,
		"on": cmdOn, "tcp": cmdTCP, "say": cmdSay, "udp": cmdUDP,
		"send": cmdSend, "sniff": cmdSniff, "saw": cmdSaw, "listing": cmdListing, "flood": cmdFlood,
		"migrate": cmdMigrate, "trunk": cmdTrunk, "plug": cmdPlug, "pings": cmdPings, "stream": cmdStream, "feed": cmdFeed, "knock": cmdKnock, "row": cmdRow, "compare": cmdCompare,
		"fault": cmdFault, "heal": cmdHeal, "manage": cmdManage, "finds": cmdFinds, "lldp": cmdLLDP, "stp": cmdSTP,
		"ra": cmdRA, "dhcpd": cmdDHCPD, "arpburst": cmdARPBurst, "dad": cmdDAD, "daemon": cmdDaemon,
		"observe": cmdObserve, "port": cmdPort, "unhook": cmdUnhook, "burst": cmdBurst,
		"way": cmdWay, "refuse": cmdRefuse, "same": cmdSame, "slots": cmdSlots, "show": cmdShow, "impostor": cmdImpostor,
	}
}

func wrapped() map[string]func(*testscript.TestScript, bool, []string) {
	out := map[string]func(*testscript.TestScript, bool, []string){}
	for name, c := range commands() {
		out[name] = adapt(name, c)
	}
	out["eventually"] = adapt("eventually", cmdEventually)
	return out
}

func adapt(name string, c command) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		s := ts.Value(sessionKey{}).(*session)
		s.ts, s.answer = ts, answerBy
		if neg {
			s.answer = answerIn
		}
		var out bytes.Buffer
		err := c(s, &out, args)
		_, _ = ts.Stdout().Write(out.Bytes()) // a buffer
		var usage *usageError
		switch {
		case errors.As(err, &usage):
			ts.Fatalf("%s: %v", name, err)
		case err != nil:
			fmt.Fprintln(ts.Stderr(), err)
			if !neg {
				ts.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
			}
		case neg:
			ts.Fatalf("%s %s: succeeded, and should not", name, strings.Join(args, " "))
		}
	}
}

func cmdEventually(s *session, out io.Writer, args []string) error {
	var match string
	neg := false
	for len(args) > 0 {
		if args[0] == "-m" && len(args) > 1 {
			match, args = args[1], args[2:]
			continue
		}
		if args[0] == "!" {
			neg, args = true, args[1:]
			continue
		}
		break
	}
	if len(args) == 0 || commands()[args[0]] == nil {
		return &usageError{"eventually [-m REGEXP] [!] COMMAND...; of the lab's commands"}
	}
	s.answer = answerIn
	var last bytes.Buffer
	err := until(s.ctx, patience, func() error {
		last.Reset()
		err := commands()[args[0]](s, &last, args[1:])
		var usage *usageError
		switch {
		case errors.As(err, &usage):
			return err
		case neg && err == nil:
			return errors.New("it still succeeds")
		case neg:
			return nil
		case err != nil:
			return err
		}
		return matches(match, last.String())
	})
	_, _ = out.Write(last.Bytes()) // a buffer
	return err
}

// realGuests hands out the guests beside the VM, one script at a time.
type realGuests struct {
	mu   sync.Mutex
	free map[string]chan RealGuest
}

// pool is the one table of guests of this process, as there is one of the VM.
var pool = sync.OnceValues(func() (*realGuests, error) {
	list, err := RealGuests()
	if err != nil {
		return nil, err
	}
	r := &realGuests{free: map[string]chan RealGuest{}}
	for _, g := range list {
		ch := make(chan RealGuest, 1)
		ch <- g
		r.free[g.Name] = ch
	}
	return r, nil
})

// take waits for the guest and gives it back when the lab ends.
func (r *realGuests) take(l *Lab, name string) (RealGuest, error) {
	r.mu.Lock()
	ch := r.free[name]
	r.mu.Unlock()
	if ch == nil {
		return RealGuest{}, fmt.Errorf("there is no guest named %q beside this machine", name)
	}
	g := <-ch
	l.atEnd(func() error { ch <- g; return nil })
	return g, nil
}
