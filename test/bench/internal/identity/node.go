package identity

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"

	"github.com/homeport-cni/homeport/pkg/agent"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/kube"
	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/test/bench/internal/box"
	"github.com/homeport-cni/homeport/test/bench/internal/cni"
	"github.com/homeport-cni/homeport/test/bench/internal/flatagent"
)

// Command is the first argument that makes the benchmark be a node; the second is a file with a Node as JSON.
const Command = "identity-node"

// Node is one node of two: what it is told when it starts. Then it reads commands, a line each, and answers each with a line:
//
//	add POD UID    attaches the pod with our plugin: its NIC's MAC
//	say POD ADDR   the pod asks by ARP from an address: when, in nanoseconds of Unix time
//	await POD ADDR once it has seen for a while that the port takes nothing from the address: "closed"; then a second line
//	               when the first packet from there has got to the pod
type Node struct {
	Name   string
	API    string // socket that leads to the API server
	Server string // its URL
	TLS    rest.TLSClientConfig
	Plugin string // its binary
}

const (
	uplink, wire = "up0", "wire0"

	every  = time.Millisecond       // between packets to a port
	closed = 100 * time.Millisecond // nothing of them passed: the port is closed
	atMost = 30 * time.Second       // for all that is waited for
)

// Run is a node until ctx or its input ends.
func Run(ctx context.Context, file string) error {
	var n Node
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, &n); err != nil {
		return err
	}
	if err := errors.Join(box.Furnish(), box.Quiet()); err != nil {
		return err
	}
	v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: uplink, MTU: 1500}, PeerName: wire}
	if err := netlink.LinkAdd(v); err != nil {
		return err
	}
	for _, name := range []string{uplink, wire} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- n.agent(ctx) }()
	p := &pods{node: n, at: map[string]box.Netns{}}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(os.Stdin); s.Scan(); {
			lines <- s.Text()
		}
	}()
	for {
		select {
		case err := <-ended:
			return err
		case line, ok := <-lines:
			if !ok {
				cancel()
				return <-ended
			}
			if err := p.obey(ctx, strings.Fields(line), os.Stdout); err != nil {
				fmt.Println("error", strings.ReplaceAll(err.Error(), "\n", "; "))
			}
		}
	}
}

// agent is the node agent of production, but for its bridge, which keeps no VLANs apart.
func (n *Node) agent(ctx context.Context) error {
	api := &rest.Config{Host: n.Server, TLSClientConfig: n.TLS, QPS: -1, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", n.API)
	}}
	return flatagent.RunWith(ctx, "kube", func(cfg *agent.Config) error {
		cfg.Cluster, cfg.Fabric.Node = true, n.Name
		from, err := desired.NewKube(live.New(api), n.Name, cfg.Paths.State()+"/last-good.json")
		if err != nil {
			return err
		}
		reporter, err := kube.NewReporter(api, n.Name, cfg.Log)
		if err != nil {
			return err
		}
		live.Log(cfg.Log)
		from.TellOfPods(reporter.PodChanged)
		cfg.Source = from
		cfg.Report = func(ctx context.Context, node agent.View) error { return reporter.Run(ctx, node) }
		return nil
	})
}

// pods are those that this node has attached.
type pods struct {
	node Node
	at   map[string]box.Netns
}

func (p *pods) obey(ctx context.Context, words []string, out io.Writer) error {
	if len(words) == 3 && words[0] == "add" {
		mac, err := p.add(ctx, words[1], words[2])
		if err == nil {
			fmt.Fprintln(out, mac)
		}
		return err
	}
	if len(words) != 3 {
		return fmt.Errorf("%q is no command", words)
	}
	ns, ok := p.at[words[1]]
	addr, err := netip.ParseAddr(words[2])
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("pod %s is not here", words[1])
	case words[0] == "say":
		return ns.Do(func() error {
			nic, err := net.InterfaceByName(ifName)
			if err != nil {
				return err
			}
			s, err := socket(nic.Index, unix.ETH_P_ARP)
			if err != nil {
				return err
			}
			defer unix.Close(s)
			fmt.Fprintln(out, time.Now().UnixNano())
			_, err = unix.Write(s, ask(nic.HardwareAddr, addr))
			return err
		})
	case words[0] == "await":
		return p.await(ctx, ns, addr, out)
	}
	return fmt.Errorf("%q is no command", words)
}

const ifName = "net1"

// add attaches a pod, as its runtime would, until it works: the agent may not know of the pod yet.
func (p *pods) add(ctx context.Context, name, uid string) (mac string, err error) {
	ns, err := box.NewNetns(name)
	if err != nil {
		return "", err
	}
	plugin := cni.Plugin{Name: "homeport", Binary: p.node.Plugin,
		Conf: fmt.Sprintf(`{"cniVersion":"1.0.0","name":%q,"type":"homeport","network":%[1]q,"capabilities":{"mac":true}}`, network)}
	a := cni.Attachment{ID: fmt.Sprintf("%x", sha256.Sum256([]byte(name))), Netns: ns.Path, IfName: ifName,
		Args: fmt.Sprintf("IgnoreUnknown=1;K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", namespace, name, uid)}
	for deadline := time.Now().Add(atMost); ; time.Sleep(50 * time.Millisecond) {
		if _, err = plugin.Call(ctx, "ADD", a); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil {
		return "", err
	}
	p.at[name] = ns
	err = ns.Do(func() error {
		nic, err := net.InterfaceByName(ifName)
		if err == nil {
			mac = nic.HardwareAddr.String()
		}
		return err
	})
	return mac, err
}

// await sends packets to the pod's port by the uplink, each the first of a connection, until one gets there.
func (p *pods) await(ctx context.Context, ns box.Netns, from netip.Addr, out io.Writer) error {
	way, err := net.InterfaceByName(wire)
	if err != nil {
		return err
	}
	send, err := socket(way.Index, 0)
	if err != nil {
		return err
	}
	defer unix.Close(send)
	var mac net.HardwareAddr
	came, stop := make(chan int64, 1), make(chan struct{})
	if err := ns.Do(func() error {
		nic, err := net.InterfaceByName(ifName)
		if err != nil {
			return err
		}
		mac = nic.HardwareAddr
		s, err := socket(nic.Index, unix.ETH_P_IP)
		if err != nil {
			return err
		}
		go hear(s, from, came, stop)
		return nil
	}); err != nil {
		return err
	}
	defer close(stop)
	told := false
	tick := time.NewTicker(every)
	defer tick.Stop()
	began := time.Now()
	for port := uint16(1024); ; port++ {
		if _, err := unix.Write(send, datagram(mac, from, max(port, 1024))); err != nil {
			return err
		}
		select {
		case when := <-came:
			if !told {
				return fmt.Errorf("a packet from %v has passed before anybody said whose that is", from)
			}
			fmt.Fprintln(out, when)
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case now := <-tick.C:
			if !told && now.Sub(began) > closed {
				told = true
				fmt.Fprintln(out, "closed")
			}
			if now.Sub(began) > atMost {
				return fmt.Errorf("after %v no packet from %v has passed", atMost, from)
			}
		}
	}
}

// hear tells when a datagram from an address came, and closes the socket.
func hear(s int, from netip.Addr, came chan<- int64, stop <-chan struct{}) {
	defer unix.Close(s)
	_ = unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	b := make([]byte, 2048)
	for {
		select {
		case <-stop:
			return
		default:
		}
		n, _, err := unix.Recvfrom(s, b, 0)
		if err == nil && n >= 34 && netip.AddrFrom4([4]byte(b[26:30])) == from {
			came <- time.Now().UnixNano()
			return
		}
	}
}
