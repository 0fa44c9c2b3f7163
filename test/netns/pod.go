package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Pod is a virt-launcher pod's sandbox.
type Pod struct {
	*Space
	// ContainerID is what the runtime calls the sandbox.
	ContainerID string

	lab *Lab
	// added is what ADD was called with and answered, by interface.
	added map[string]attachment
}

type attachment struct {
	call   Call
	answer []byte
}

// Pod makes an empty sandbox.
func (l *Lab) Pod(name string) (*Pod, error) {
	s, err := l.newSpace(name)
	if err != nil {
		return nil, err
	}
	p := &Pod{Space: s, ContainerID: name + "." + hash11(l.ID) + hash11(name), lab: l, added: map[string]attachment{}}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pods[name] = p
	return p, nil
}

// FindPod finds a pod by its name.
func (l *Lab) FindPod(name string) (*Pod, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.pods[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("the lab has no pod named %q", name)
}

// PodIfName is what KubeVirt calls a pod's interface for a network of the VM
// (pkg/network/namescheme/networknamescheme.go).
func PodIfName(network string) string { return "pod" + hash11(network) }

// Add calls ADD for the pod's interface and remembers the answer.
func (p *Pod) Add(ctx context.Context, n *Node, c Call) ([]byte, error) {
	c.Verb, c.ContainerID, c.Netns = "ADD", p.ContainerID, p.Path
	out, err := n.CNI(ctx, c)
	if err == nil {
		p.added[c.IfName] = attachment{call: c, answer: out}
	}
	return out, err
}

// Last gives the call that DEL or CHECK must make for what ADD has done.
func (p *Pod) Last(verb, ifName string) (Call, error) {
	a, ok := p.added[ifName]
	if !ok {
		return Call{}, fmt.Errorf("pod %s: nothing was added as %s", p.Name, ifName)
	}
	c := a.call
	c.Verb, c.Prev = verb, a.answer
	return c, nil
}

// Wiring is what virt-handler makes of an interface inside the pod.
type Wiring struct {
	Network string // of the VM, as spec.networks[].name
	Bridge  string // k6t-...
	NIC     string // the pod's interface after its renaming
	Tap     string
	MAC     net.HardwareAddr
	MTU     int
}

// Wire does what KubeVirt's bridge binding does to the interface after ADD, in
// its order (pkg/network/setup/netpod/netpod.go, pkg/network/driver/nmstate):
// the bridge; the pod's interface down, renamed, with the bridge's MAC, in the
// bridge, up, learning off; at last a dummy with the interface's old name and
// MAC. The tap is the caller's.
func (p *Pod) Wire(network string) (*Wiring, error) {
	name := PodIfName(network)
	old, err := p.Link.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("pod %s: interface %s: %w", p.Name, name, err)
	}
	w := &Wiring{Network: network, Bridge: "k6t-" + hash11(network), NIC: hash11(network) + "-nic", Tap: "tap" + hash11(network),
		MAC: slices.Clone(old.Attrs().HardwareAddr), MTU: old.Attrs().MTU}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = w.Bridge
	if err := p.Link.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("pod %s: %s: %w", p.Name, w.Bridge, err)
	}
	if err := p.up(w.Bridge); err != nil {
		return nil, err
	}
	br, err := p.Link.LinkByName(w.Bridge)
	if err != nil {
		return nil, err
	}
	h := p.Link
	if err := errors.Join(h.LinkSetDown(old), h.LinkSetName(old, w.NIC), h.LinkSetHardwareAddr(old, br.Attrs().HardwareAddr),
		h.LinkSetMTU(old, w.MTU), h.LinkSetMaster(old, br), h.LinkSetUp(old), h.LinkSetLearning(old, false)); err != nil {
		return nil, fmt.Errorf("pod %s: %s: %w", p.Name, w.NIC, err)
	}
	attrs = netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, w.MAC, w.MTU
	if err := h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs}); err != nil {
		return nil, fmt.Errorf("pod %s: dummy %s: %w", p.Name, name, err)
	}
	return w, nil
}

// plugTap puts the guest's end, which is in the pod already, where the tap goes.
func (p *Pod) plugTap(w *Wiring, name string) error {
	br, err := p.Link.LinkByName(w.Bridge)
	if err != nil {
		return err
	}
	tap, err := p.Link.LinkByName(name)
	if err != nil {
		return err
	}
	h := p.Link
	return errors.Join(h.LinkSetDown(tap), h.LinkSetName(tap, w.Tap), h.LinkSetMTU(tap, w.MTU), h.LinkSetMaster(tap, br), h.LinkSetUp(tap))
}

// Guest makes a namespace play the VM: its only interface has the VM's MAC and
// the addresses, which nobody else is told. It has the services of Serve.
func (p *Pod) Guest(name, network string, addrs ...string) (*Space, error) {
	g, err := p.machine(name, network, cable, addrs)
	if err != nil {
		return nil, err
	}
	return g, p.lab.serve(g)
}

// Machine is Guest without services, behind a real tap.
func (p *Pod) Machine(name, network string, addrs ...string) (*Space, error) {
	return p.machine(name, network, p.lab.tapCable, addrs)
}

// machine wires the pod, and joins its tap to the NIC of a new namespace.
func (p *Pod) machine(name, network string, join func(pod *Space, tap string, g *Space, nic string) error, addrs []string) (*Space, error) {
	w, err := p.Wire(network)
	if err != nil {
		return nil, err
	}
	g, err := p.lab.newSpace(name)
	if err != nil {
		return nil, err
	}
	if err := quiet(g); err != nil {
		return nil, err
	}
	if err := join(p.Space, w.Tap, g, hostIf); err != nil {
		return nil, err
	}
	if err := p.plugTap(w, w.Tap); err != nil {
		return nil, fmt.Errorf("pod %s: tap: %w", p.Name, err)
	}
	nic, err := g.Link.LinkByName(hostIf)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(g.Link.LinkSetHardwareAddr(nic, w.MAC), g.Link.LinkSetMTU(nic, w.MTU), g.Link.LinkSetUp(nic)); err != nil {
		return nil, fmt.Errorf("guest %s: %w", name, err)
	}
	for _, a := range addrs {
		if err := g.address(hostIf, a); err != nil {
			return nil, err
		}
	}
	return g, until(context.Background(), patience, func() error { return p.Space.forwards(w.Tap) })
}

// RealGuest is a VM with a kernel of its own beside the node's, see test/vm.
type RealGuest struct {
	Name  string `json:"name"`
	MAC   string `json:"mac"`
	IP    string `json:"ip"`
	Iface string `json:"iface"`
	// Second is where it is joined to this machine once it has moved; nil is a
	// guest that stays.
	Second *wire.Place `json:"second"`
}

// GuestsFile lists the guests beside this VM; test/vm writes it.
const GuestsFile = "/run/lab/guests.json"

// RealGuests reads which guests there are.
func RealGuests() ([]RealGuest, error) {
	b, err := os.ReadFile(GuestsFile)
	if err != nil {
		return nil, fmt.Errorf("there is no guest beside this machine: %w", err)
	}
	var list []RealGuest
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", GuestsFile, err)
	}
	return list, nil
}

// wireFor is Wire for a VM that has a MAC of its own: ADD must have given it.
func (p *Pod) wireFor(network, mac string) (*Wiring, error) {
	w, err := p.Wire(network)
	if err == nil && w.MAC.String() != mac {
		err = fmt.Errorf("pod %s: ADD gave %s, but the VM has %s", p.Name, w.MAC, mac)
	}
	return w, err
}

// Attach puts the interface that is joined to the guest's NIC where the tap goes.
func (p *Pod) Attach(g RealGuest, network string) error {
	w, err := p.wireFor(network, g.MAC)
	if err != nil {
		return err
	}
	if err := p.takeIn(g.Name, g.Iface); err != nil {
		return err
	}
	// A real interface outlives the namespace and must find its way back.
	p.lab.atEnd(func() error { return p.giveBack(w.Tap, g.Iface) })
	return p.plugTap(w, g.Iface)
}

// giveBack returns a guest's interface to the namespace that it came from.
func (p *Pod) giveBack(tap, name string) error {
	nic, err := p.Link.LinkByName(tap)
	if err != nil {
		return fmt.Errorf("pod %s: the guest's interface: %w", p.Name, err)
	}
	return errors.Join(p.Link.LinkSetDown(nic), p.Link.LinkSetNoMaster(nic), p.Link.LinkSetName(nic, name), p.Link.LinkSetNsPid(nic, 1))
}
