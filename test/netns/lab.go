package netns

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
)

// root is where labs keep their files.
const root = "/run/lab"

// Binaries says where the programs under test are.
type Binaries struct {
	// Product holds cni-plugin, bridge-agent and homeportctl.
	Product string
	// Reference holds the CNI plugin bridge of containernetworking, and may hold its
	// IPAM plugins dhcp, host-local and static; "" is none.
	Reference string
}

// FindBinaries reads HOMEPORT_BIN and HOMEPORT_CNI_BIN; without the first it
// takes bin/ of the checkout above the working directory.
func FindBinaries() (Binaries, error) {
	b := Binaries{Product: os.Getenv("HOMEPORT_BIN"), Reference: os.Getenv("HOMEPORT_CNI_BIN")}
	if b.Product == "" {
		dir, err := os.Getwd()
		if err != nil {
			return b, err
		}
		for ; b.Product == ""; dir = filepath.Dir(dir) {
			if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
				b.Product = filepath.Join(dir, "bin")
			} else if dir == filepath.Dir(dir) {
				return b, errors.New("the product's binaries: set HOMEPORT_BIN to their folder")
			}
		}
	}
	for _, name := range []string{"cni-plugin", "bridge-agent", "homeportctl"} {
		if _, err := os.Stat(filepath.Join(b.Product, name)); err != nil {
			return b, fmt.Errorf("the product's binaries: %w; run make build", err)
		}
	}
	return b, nil
}

// Lab is everything of one test. It is for one goroutine unless a method says
// otherwise.
type Lab struct {
	// ID tells this lab's namespaces and files from those of others.
	ID string
	// Dir holds the lab's files.
	Dir string

	bin     Binaries
	mu      sync.Mutex
	spaces  map[string]*Space
	nodes   map[string]*Node
	pods    map[string]*Pod
	cables  map[string]int     // ports of a switch used so far
	ports   []switchPort       // with what is at their other end
	limits  map[switchPort]int // the longest payload, where it is limited
	faults  []fault            // that are on, the latest last
	serial  int                // of the latest fault
	managed int                // nodes in the management network
	closers []func() error
}

// New makes an empty lab; name is what people call it.
func New(name string, bin Binaries) (*Lab, error) {
	if err := os.MkdirAll(root, 0o755); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(root, name+"-")
	if err != nil {
		return nil, err
	}
	l := &Lab{ID: filepath.Base(dir), Dir: dir, bin: bin, spaces: map[string]*Space{}, nodes: map[string]*Node{},
		pods: map[string]*Pod{}, cables: map[string]int{}, limits: map[switchPort]int{}}
	l.atEnd(func() error { return os.RemoveAll(dir) })
	return l, nil
}

// atEnd adds to what Close does, first of all that it does.
func (l *Lab) atEnd(f func() error) { l.closers = append(l.closers, f) }

// Close ends all processes of the lab and removes all it made.
func (l *Lab) Close() error {
	var errs []error
	for i := len(l.closers) - 1; i >= 0; i-- {
		errs = append(errs, l.closers[i]())
	}
	l.closers = nil
	return errors.Join(errs...)
}

// Space finds a namespace by its name.
func (l *Lab) Space(name string) (*Space, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.spaces[name]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("the lab has nothing named %q", name)
}

// FindNode finds a node by its name.
func (l *Lab) FindNode(name string) (*Node, error) {
	if n := l.nodes[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("the lab has no node named %q", name)
}

func (l *Lab) newSpace(name string) (*Space, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if name == "" || strings.ContainsAny(name, "/ ") || l.spaces[name] != nil {
		return nil, fmt.Errorf("%q is no name for something new in the lab", name)
	}
	s, err := newSpace(name, l.ID+"-"+name)
	if err != nil {
		return nil, err
	}
	l.spaces[name] = s
	l.atEnd(func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.spaces[name] != s {
			return nil
		}
		delete(l.spaces, name)
		return s.close()
	})
	return s, nil
}

// Remove deletes a namespace before the end, as when a pod dies.
func (l *Lab) Remove(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.spaces[name]
	if s == nil {
		return fmt.Errorf("the lab has nothing named %q", name)
	}
	delete(l.spaces, name)
	delete(l.pods, name)
	l.ports = slices.DeleteFunc(l.ports, func(p switchPort) bool { return p.to == s })
	return s.close()
}

// switchBridge is the name of the bridge inside a switch.
const switchBridge = "fabric"

// Switch makes a switch without ports: a VLAN-aware bridge that gives a port no
// VLAN by itself.
func (l *Lab) Switch(name string) (*Space, error) {
	s, err := l.newSpace(name)
	if err != nil {
		return nil, err
	}
	// A switch says nothing of its own.
	if err := s.Sysctl("ipv6/conf/default/disable_ipv6", "1"); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = switchBridge
	filtering, noPVID := true, uint16(0)
	br := &netlink.Bridge{LinkAttrs: attrs, VlanFiltering: &filtering, VlanDefaultPVID: &noPVID}
	if err := s.Link.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("switch %s: %w", name, err)
	}
	return s, s.up(switchBridge)
}

// ManagementIf is a node's interface in the management network.
const ManagementIf = "mgmt0"

// Manage joins a node to the management network, which is apart from all switches, and
// gives its address there.
func (l *Lab) Manage(n *Node) (netip.Addr, error) {
	const name = "management"
	mgmt, err := l.Space(name)
	if err != nil {
		if mgmt, err = l.newSpace(name); err != nil {
			return netip.Addr{}, err
		}
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		if err := errors.Join(mgmt.Sysctl("ipv6/conf/default/disable_ipv6", "1"),
			mgmt.Link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}), mgmt.up(name)); err != nil {
			return netip.Addr{}, err
		}
	}
	br, err := mgmt.Link.LinkByName(name)
	if err != nil {
		return netip.Addr{}, err
	}
	l.managed++
	port := fmt.Sprintf("node%d", l.managed)
	if err := cable(mgmt, port, n.Space, ManagementIf); err != nil {
		return netip.Addr{}, err
	}
	end, err := mgmt.Link.LinkByName(port)
	if err != nil {
		return netip.Addr{}, err
	}
	addr := netip.AddrFrom4([4]byte{10, 255, 0, byte(l.managed)})
	return addr, errors.Join(mgmt.Link.LinkSetMaster(end, br), mgmt.up(port), n.up(ManagementIf),
		n.address(ManagementIf, addr.String()+"/24"))
}

// SwitchPort is what a port of the switch carries.
type SwitchPort struct {
	PVID   uint16   // untagged; 0 is none
	Tagged []uint16 // allowed tags
}

// ParseSwitchPort reads "100" (access), "100,200" with tagged set (a trunk) or
// "native=5,100,200".
func ParseSwitchPort(text string, tagged bool) (SwitchPort, error) {
	var p SwitchPort
	for _, part := range strings.Split(text, ",") {
		native := false
		if v, ok := cutPrefix(part, "native="); ok {
			part, native = v, true
		}
		var first, last uint16
		if n, err := fmt.Sscanf(part, "%d-%d", &first, &last); err != nil || n != 2 {
			if _, err := fmt.Sscanf(part, "%d", &first); err != nil {
				return p, fmt.Errorf("VLANs %q: want 100 or 100,200-210 or native=5,100", text)
			}
			last = first
		}
		if native || !tagged {
			p.PVID = first
			continue
		}
		for v := first; v <= last; v++ {
			p.Tagged = append(p.Tagged, v)
		}
	}
	return p, nil
}

// plug joins a space to a port of the switch; its end is called ifName and is up.
func (l *Lab) plug(sw, space *Space, ifName string, port SwitchPort) error {
	name, err := l.cableTo(sw, space, ifName, port)
	if err != nil {
		return err
	}
	return errors.Join(sw.up(name), space.up(ifName))
}

// Plug joins a pod straight to a port of a switch, without any of the product: its
// interface has the name and the MAC of a VM's, as after ADD.
func (l *Lab) Plug(p *Pod, sw *Space, port SwitchPort, mac net.HardwareAddr) error {
	ifName := PodIfName(defaultNetwork)
	name, err := l.cableTo(sw, p.Space, ifName, port)
	if err != nil {
		return err
	}
	nic, err := p.Link.LinkByName(ifName)
	if err == nil {
		err = p.Link.LinkSetHardwareAddr(nic, mac)
	}
	if err != nil {
		return fmt.Errorf("pod %s: MAC %s: %w", p.Name, mac, err)
	}
	return errors.Join(sw.up(name), p.up(ifName))
}

// Trunk joins two switches; the port at each end has the other's name and a number.
func (l *Lab) Trunk(a, b *Space, port SwitchPort) error {
	l.cables[b.Name]++
	ifName := fmt.Sprintf("%s.%d", a.Name, l.cables[b.Name])
	name, err := l.cableTo(a, b, ifName, port)
	if err != nil {
		return err
	}
	l.addPort(switchPort{sw: b, name: ifName, to: a, toIf: name})
	return errors.Join(setPort(b, ifName, port), a.up(name), b.up(ifName))
}

// cableTo joins a space to a new port of the switch, which is down like the other end.
func (l *Lab) cableTo(sw, space *Space, ifName string, port SwitchPort) (portName string, err error) {
	l.cables[sw.Name]++
	name := space.Name
	if len(name) > 12 {
		name = name[:12]
	}
	portName = fmt.Sprintf("%s.%d", name, l.cables[sw.Name])
	if err := cable(sw, portName, space, ifName); err != nil {
		return "", err
	}
	l.addPort(switchPort{sw: sw, name: portName, to: space, toIf: ifName})
	return portName, setPort(sw, portName, port)
}

// setPort makes an interface a port of the switch.
func setPort(sw *Space, portName string, port SwitchPort) error {
	link, err := sw.Link.LinkByName(portName)
	if err != nil {
		return err
	}
	br, err := sw.Link.LinkByName(switchBridge)
	if err != nil {
		return fmt.Errorf("%s is no switch: %w", sw.Name, err)
	}
	if err := sw.Link.LinkSetMaster(link, br); err != nil {
		return fmt.Errorf("switch port %s: %w", portName, err)
	}
	if port.PVID != 0 {
		if err := sw.Link.BridgeVlanAdd(link, port.PVID, true, true, false, true); err != nil {
			return fmt.Errorf("switch port %s: VLAN %d: %w", portName, port.PVID, err)
		}
	}
	for _, v := range port.Tagged {
		if err := sw.Link.BridgeVlanAdd(link, v, false, false, false, true); err != nil {
			return fmt.Errorf("switch port %s: VLAN %d: %w", portName, v, err)
		}
	}
	return nil
}

// defaultNetwork is the VM's name of its network where nobody names one.
const defaultNetwork = "legacy"

// hostIf is the only interface of a host, and of a guest.
const hostIf = "eth0"

// Host makes a machine that knows nothing of Homeport, on a port of the switch,
// with the services of Serve.
func (l *Lab) Host(name string, sw *Space, port SwitchPort, addrs ...string) (*Space, error) {
	s, err := l.newSpace(name)
	if err != nil {
		return nil, err
	}
	if err := quiet(s); err != nil {
		return nil, err
	}
	if err := l.plug(sw, s, hostIf, port); err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if err := s.address(hostIf, a); err != nil {
			return nil, err
		}
	}
	return s, l.serve(s)
}

// quiet keeps a namespace from asking whether its addresses are taken.
func quiet(s *Space) error {
	return errors.Join(s.Sysctl("ipv6/conf/default/accept_dad", "0"),
		s.Sysctl("ipv6/conf/default/router_solicitations", "0"))
}

// hash11 is how KubeVirt makes interface names of a network's name
// (pkg/network/namescheme).
func hash11(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])[:11]
}

// patience is how long what must come about is waited for: emulated machines are slow,
// and may share their CPUs with others.
const patience = 150 * time.Second

// until polls f until it says nil, and gives its last error when time is up. Between
// two tries it waits at least as long as a try takes, for to ask costs what is waited
// for its CPU.
func until(ctx context.Context, limit time.Duration, f func() error) error {
	deadline := time.Now().Add(limit)
	const first, longest = 50 * time.Millisecond, 400 * time.Millisecond
	for wait := first; ; wait = min(wait*3/2, longest) {
		asked := time.Now()
		err := f()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still so after %v: %w", limit, err)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(max(wait, min(time.Since(asked), time.Until(deadline)))):
		}
	}
}
