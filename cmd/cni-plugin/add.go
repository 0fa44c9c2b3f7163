package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/cniconf"
	"github.com/homeport-cni/homeport/pkg/store"
)

// add makes a port. The agent is asked first whether it can be (Prepare), so
// that what cannot work changes nothing; then the veth pair is made, or adopted
// if a plugin before us made it, and the agent makes the host end a port.
func (p *plugin) add(ctx context.Context, r *request) error {
	conf, err := cniconf.Parse(r.stdin, r.Args)
	if err != nil {
		return err
	}
	if err := checkNetns(r.Netns, r.AnyNetns); err != nil {
		return err
	}
	req, prev, err := requested(r, conf)
	if err != nil {
		return err
	}
	ipam, err := p.findIPAM(r, conf.IPAM)
	if err != nil {
		return err
	}
	k, err := p.openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	inTime, cancel := context.WithTimeout(ctx, p.addTimeout)
	defer cancel()
	agent, err := wire.Dial(inTime, r.paths.Socket())
	if err != nil {
		return err
	}
	defer agent.Close()
	var prepared wire.Prepared
	if err := agent.Call(inTime, wire.Prepare, req, &prepared); err != nil {
		return err
	}
	if prepared.Longer > 0 {
		inTime, cancel = context.WithTimeout(ctx, p.addTimeout+prepared.Longer)
		defer cancel()
	}
	if prev != nil {
		var rec attach.Record
		if err := agent.Call(inTime, wire.Attach, req, &rec); err != nil {
			return err
		}
		return p.print(prev.corrected(k, &rec))
	}
	if ipam != nil && prepared.VLANs.PVID == 0 {
		return attach.Invalid("ipam", "the port has no untagged VLAN, where the interface could use an address", "choose a port that has one (vlan or nativeVlan), or remove ipam")
	}
	m := &mainAdd{plugin: p, kernel: k, request: r, conf: conf, ipam: ipam, longer: prepared.Longer}
	if err := m.port(inTime, agent, req, prepared); err != nil {
		return err
	}
	err = m.address(ctx)
	if err == nil {
		err = p.print(m.result)
	}
	if err != nil {
		return m.undo(ctx, err)
	}
	return nil
}

// requested is what the agent is asked for, and the result of the plugin before us, if
// there is one.
func requested(r *request, conf *cniconf.Config) (req attach.Request, prev *prevResult, err error) {
	req = attach.Request{
		Key: r.Key, CNINetwork: conf.Name, Network: conf.Network, Inline: conf.Inline,
		MTU: conf.MTU, MAC: attach.MAC(conf.MAC), Pod: conf.Pod, Netns: r.Netns, MigrationTarget: conf.MigrationTarget,
	}
	if conf.PrevResult == nil {
		return req, nil, nil
	}
	if prev, err = parsePrev(conf.PrevResult, r); err != nil {
		return req, nil, err
	}
	return req, prev, adopt(prev, r.found, conf, &req)
}

// mainAdd is an ADD where nobody before us made an interface. The port comes first and
// its addresses after it: a plugin that asks a DHCP server needs the port for that. Until
// it has an address the pod's end is down, or as that plugin has it.
type mainAdd struct {
	*plugin
	kernel  kernel
	request *request
	conf    *cniconf.Config
	ipam    *ipam         // nil is none
	longer  time.Duration // as Prepared has it
	veth    bridge.Veth
	result  *result
}

// port makes the veth pair and leaves none if the port does not come about.
func (m *mainAdd) port(ctx context.Context, agent *wire.Client, req attach.Request, prepared wire.Prepared) (err error) {
	mac := m.conf.MAC
	if mac == nil {
		mac = net.HardwareAddr(prepared.MAC)
	}
	k, r := m.kernel, m.request
	m.veth, err = createVeth(k, bridge.VethSpec{
		HostName:  bridge.HostVethName(r.ContainerID, r.IfName),
		PeerName:  r.IfName,
		PeerNetns: r.Netns,
		PeerMAC:   mac,
		MTU:       prepared.MTU,
		PeerUp:    !m.conf.ContainerDown && m.ipam == nil,
	})
	if err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		// Hanging up first makes the agent stop and undo its part.
		_ = agent.Close()
		if derr := k.DeleteVeth(m.veth.Host); derr != nil {
			err = errors.Join(err, fmt.Errorf("and the veth pair is left: %w", derr))
		}
	}()
	req.MAC, req.HostIfIndex, req.HostIfName = attach.MAC(m.veth.PeerMAC), m.veth.Host.Index, m.veth.Host.Name
	var rec attach.Record
	if err := agent.Call(ctx, wire.Attach, req, &rec); err != nil {
		return err
	}
	m.result = newResult(k, r, m.conf, m.veth, &rec)
	return nil
}

// address has the IPAM plugin give addresses. They are declared before the interface has
// them, so that nothing which goes by them meets the pod's first packets unprepared.
func (m *mainAdd) address(ctx context.Context) error {
	if m.ipam == nil {
		return nil
	}
	got, err := m.ipam.add(ctx)
	if err != nil {
		return err
	}
	r := m.request
	// On a connection of its own, for the agent does not wait as long as IPAM plugins may take.
	if err := m.ask(ctx, m.addTimeout+m.longer, r, wire.Declare, wire.DeclareRequest{Key: r.Key, Addresses: got.addrs}, nil); err != nil {
		return err
	}
	if err := m.kernel.Configure(r.Netns, r.IfName, got.conf); err != nil {
		return &tryAgain{fmt.Errorf("ipam: what the plugin %q gave cannot be set up: %w", m.ipam.name, err)}
	}
	return got.putInto(m.result)
}

// undo ends a port that is complete but for the rest of the ADD, and has its addresses
// taken back. It returns err with what could not be undone, as text: the code of the
// error is err's.
func (m *mainAdd) undo(ctx context.Context, err error) error {
	ctx = context.WithoutCancel(ctx)
	port := func() error { return told("and the port is left", m.delPort(ctx, m.request)) }
	if m.ipam == nil {
		return errors.Join(err, port())
	}
	return errors.Join(err, inTurn(m.ipam.name, port, func() error {
		return told("and its addresses may be left", m.ipam.call(ctx, cniconf.VerbDel))
	}))
}

func told(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %v", what, err)
	}
	return nil
}

// createVeth makes the pair. The agent has said that no port of this key lives,
// so a host end of its name is what an ADD left that was killed half way, and
// makes room.
func createVeth(k kernel, spec bridge.VethSpec) (bridge.Veth, error) {
	veth, err := k.CreateVeth(spec)
	if !errors.Is(err, syscall.EEXIST) {
		return veth, err
	}
	host := bridge.Ref{Name: spec.HostName}
	if _, lerr := k.LinkInfo(host); errors.Is(lerr, bridge.ErrNotFound) {
		return veth, &cniconf.EnvError{Message: fmt.Sprintf(
			"CNI_IFNAME: the sandbox %s already has an interface %s; give another name or remove that one", spec.PeerNetns, spec.PeerName)}
	}
	if derr := k.DeleteVeth(host); derr != nil {
		return veth, errors.Join(err, derr)
	}
	return k.CreateVeth(spec)
}

// foundVeth is what the kernel says of the pair that a plugin before us made,
// or why it has none.
type foundVeth struct {
	peer, host bridge.Link
	err        error
}

// closeFound brings the host end that a plugin before us left down and out of
// its bridge: there it stands without a firewall, and perhaps in another VLAN.
// It goes by the sandbox and the kernel alone and is done first of all, before
// the config is looked at and with the agent dead: whatever goes wrong from here
// on, the VM stays cut off until the runtime's DEL or another ADD. That is right
// also where the config is refused, for a wrong config is no leave to stay in
// the other plugin's bridge.
//
// The one exception is a host end that is this attachment's port already: a
// second ADD is refused by the agent and must not cut off what lives.
func (p *plugin) closeFound(r *request) error {
	if !cniconf.Chained(r.stdin) {
		return nil
	}
	f := new(foundVeth)
	r.found = f
	if f.err = checkNetns(r.Netns, r.AnyNetns); f.err != nil {
		return nil // add refuses it
	}
	k, err := p.openKernel()
	if err != nil {
		return err
	}
	defer k.Close()
	if f.peer, f.host, f.err = k.FindVeth(r.Netns, r.IfName); f.err != nil {
		return nil // nothing was found to close; adopt says why
	}
	rec, err := store.At(r.paths.Attachments()).Get(r.Key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.note("%v", err)
	}
	if rec != nil && rec.HostIfIndex == f.host.Index {
		boot, err := attach.BootID()
		if err == nil && rec.BootID == boot {
			return nil
		}
	}
	if err := k.TakeOut(f.host.Ref()); err != nil {
		return &tryAgain{fmt.Errorf("take %s out of the bridge that it was left in: %w", f.host.Name, err)}
	}
	return nil
}

// adopt takes the pair that the kernel has; the result of the plugin before us
// only has to agree. It completes req.
func adopt(prev *prevResult, f *foundVeth, conf *cniconf.Config, req *attach.Request) error {
	if f.err != nil {
		return prev.refuse(fmt.Sprintf("its interface %s cannot be adopted: %v", prev.container.name, f.err))
	}
	if prev.node(f.host.Name) == nil {
		return prev.refuse(fmt.Sprintf("it does not name %s, the node's end of %s", f.host.Name, prev.container.name))
	}
	if conf.MAC != nil && !bytes.Equal(conf.MAC, f.peer.MAC) {
		return attach.Invalid(conf.MACField, fmt.Sprintf("%s was asked for, but the plugin before this one gave %s the MAC %s", conf.MAC, prev.container.name, f.peer.MAC),
			`let that plugin have it too ("capabilities": {"mac": true}), or leave it out here`)
	}
	if conf.MTU != 0 && conf.MTU != f.peer.MTU {
		return attach.Invalid("mtu", fmt.Sprintf("%d was asked for, but the plugin before this one gave %s an MTU of %d", conf.MTU, prev.container.name, f.peer.MTU),
			"set mtu at that plugin and leave it out here")
	}
	req.MAC, req.MTU, req.Adopted = attach.MAC(f.peer.MAC), f.peer.MTU, true
	req.HostIfIndex, req.HostIfName, req.Addresses = f.host.Index, f.host.Name, prev.addresses
	prev.learn(f.peer, f.host)
	return nil
}

// Magic numbers of the file systems that network namespaces live in
// (linux/magic.h: NSFS_MAGIC, PROC_SUPER_MAGIC).
const (
	nsfsMagic = 0x6e736673
	procMagic = 0x9fa0
)

// checkNetns makes sure that the sandbox is a network namespace and not the
// node's own, where the pair would tear a hole.
func checkNetns(path string, any bool) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return &netnsError{fmt.Sprintf("CNI_NETNS: the sandbox %s is gone or unreadable: %v; the pod must be made anew", path, err)}
	}
	if fs.Type != nsfsMagic && fs.Type != procMagic {
		return &netnsError{fmt.Sprintf("CNI_NETNS: %s is not a network namespace (a plain file is left when a sandbox is gone); the pod must be made anew", path)}
	}
	var sandbox, own syscall.Stat_t
	if syscall.Stat(path, &sandbox) != nil || syscall.Stat("/proc/thread-self/ns/net", &own) != nil {
		return nil // what cannot be compared is the kernel's to refuse
	}
	if !any && sandbox.Dev == own.Dev && sandbox.Ino == own.Ino {
		return &netnsError{fmt.Sprintf("CNI_NETNS: %s is the node's own network namespace; give the pod's, or set CNI_NETNS_OVERRIDE=true", path)}
	}
	return nil
}

// macText prints a MAC as results have it.
func macText(m net.HardwareAddr) string { return strings.ToLower(m.String()) }
