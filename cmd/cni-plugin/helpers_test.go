package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// fakeAgent answers on a socket as a test tells it to.
type fakeAgent struct {
	mu       sync.Mutex
	asked    []wire.Request
	answers  map[wire.Verb]any // a value, or an *attach.Error
	version  int
	delay    time.Duration
	onAttach func(net.Conn, attach.Request)
	onAsk    func(wire.Verb)
}

// asks lists the verbs that came, in order.
func (a *fakeAgent) asks() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var l []string
	for _, r := range a.asked {
		l = append(l, string(r.Verb))
	}
	return strings.Join(l, " ")
}

// body decodes the last request of a verb.
func (a *fakeAgent) body(tb testing.TB, v wire.Verb, out any) {
	tb.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range slices.Backward(a.asked) {
		if r.Verb == v {
			if err := json.Unmarshal(r.Body, out); err != nil {
				tb.Fatal(err)
			}
			return
		}
	}
	tb.Fatalf("the agent was not asked to %s", v)
}

func (a *fakeAgent) serve(c net.Conn) {
	defer c.Close()
	for {
		var r wire.Request
		if err := wire.ReadMessage(c, &r); err != nil {
			return
		}
		a.mu.Lock()
		a.asked = append(a.asked, r)
		if a.onAsk != nil {
			a.onAsk(r.Verb)
		}
		v, delay, answer := a.answers[r.Verb], a.delay, wire.Answer{Version: a.version}
		a.mu.Unlock()
		time.Sleep(delay)
		if e, ok := v.(*attach.Error); ok {
			answer.Error = e
		} else {
			if r.Verb == wire.Attach {
				v = a.attach(c, r)
			}
			answer.Body, _ = json.Marshal(v)
		}
		if wire.WriteMessage(c, answer) != nil {
			return
		}
	}
}

// attach makes the record as the agent would.
func (a *fakeAgent) attach(c net.Conn, r wire.Request) attach.Record {
	rec := attach.Record{Version: attach.RecordVersion, Bridge: "br0", EffectiveMTU: 1400}
	if err := json.Unmarshal(r.Body, &rec.Request); err != nil {
		panic(err)
	}
	if rec.Inline != nil {
		rec.Bridge = rec.Inline.Bridge
	}
	if rec.Adopted {
		rec.EffectiveMTU = rec.MTU
	}
	if a.onAttach != nil {
		a.onAttach(c, rec.Request)
	}
	return rec
}

// newAgent listens in dir and answers everything kindly.
func newAgent(tb testing.TB, paths attach.Paths) *fakeAgent {
	tb.Helper()
	a := &fakeAgent{version: wire.Version, answers: map[wire.Verb]any{
		wire.Prepare: wire.Prepared{Bridge: "br0", MTU: 1400, VLANs: attach.VLANs{Mode: vlan.Access, PVID: 100}},
		wire.Detach:  wire.Detached{Found: true},
		wire.Check:   wire.Checked{},
		wire.GC:      wire.Collected{},
	}}
	l, err := net.Listen("unix", paths.Socket())
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { a.serve(c) })
		}
	})
	tb.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return a
}

// fakeKernel is interfaces in memory.
type fakeKernel struct {
	links     map[string]bridge.Link // the node's
	peers     map[string]bridge.Link // the sandbox's
	next      int
	deleteErr error
	createErr error
	// What TakeOut and FindVeth fail with.
	takeOutErr, findErr error
	log                 []string
	spec                bridge.VethSpec // of the last pair
	// What Configure was told last, and fails with.
	given        bridge.Addressing
	configureErr error
	onConfigure  func()
}

func newKernel() *fakeKernel {
	k := &fakeKernel{links: map[string]bridge.Link{}, peers: map[string]bridge.Link{}, next: 10}
	k.add(bridge.Link{Name: "br0", Kind: "bridge", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 0xb0}})
	return k
}

func (k *fakeKernel) add(l bridge.Link) bridge.Link {
	k.next++
	l.Index = k.next
	k.links[l.Name] = l
	return l
}

// pair makes a veth as another plugin does.
func (k *fakeKernel) pair(host, peer string, mac net.HardwareAddr) {
	h := k.add(bridge.Link{Name: host, Kind: "veth", MAC: net.HardwareAddr{0xfe, 0, 0, 0, 0, 1}, MTU: 1450})
	p := bridge.Link{Index: 2, Name: peer, Kind: "veth", MAC: mac, MTU: 1450, Lower: h.Index}
	h.Lower = p.Index
	k.links[host], k.peers[peer] = h, p
}

func (k *fakeKernel) CreateVeth(s bridge.VethSpec) (bridge.Veth, error) {
	k.log = append(k.log, "create "+s.HostName)
	if k.createErr != nil {
		return bridge.Veth{}, k.createErr
	}
	_, host := k.links[s.HostName]
	_, peer := k.peers[s.PeerName]
	if host || peer {
		return bridge.Veth{}, fmt.Errorf("create: %w", syscall.EEXIST)
	}
	mac := s.PeerMAC
	if mac == nil {
		mac = net.HardwareAddr{2, 0xaa, 0, 0, 0, 1}
	}
	k.spec = s
	k.pair(s.HostName, s.PeerName, mac)
	h := k.links[s.HostName]
	return bridge.Veth{Host: h.Ref(), HostMAC: h.MAC, PeerIndex: 2, PeerMAC: mac, MTU: s.MTU}, nil
}

func (k *fakeKernel) TakeOut(ref bridge.Ref) error {
	l, err := k.LinkInfo(ref)
	if err == nil {
		err = k.takeOutErr
	}
	if err != nil {
		return err
	}
	k.log = append(k.log, "take out "+l.Name)
	l.Up, l.Master = false, 0
	k.links[l.Name] = l
	return nil
}

// open says whether an interface is up or in a bridge.
func (k *fakeKernel) open(name string) bool { return k.links[name].Up || k.links[name].Master != 0 }

func (k *fakeKernel) DeleteVeth(ref bridge.Ref) error {
	if k.deleteErr != nil {
		return k.deleteErr
	}
	l, err := k.LinkInfo(ref)
	if errors.Is(err, bridge.ErrNotFound) {
		return nil
	}
	if l.Kind != "veth" {
		return fmt.Errorf("%w: %s is no veth", bridge.ErrRefused, l.Name)
	}
	k.log = append(k.log, "delete "+l.Name)
	delete(k.links, l.Name)
	for n, p := range k.peers {
		if p.Lower == l.Index {
			delete(k.peers, n)
		}
	}
	return nil
}

func (k *fakeKernel) LinkInfo(ref bridge.Ref) (bridge.Link, error) {
	if ref == (bridge.Ref{}) {
		return bridge.Link{}, errors.New("interface name is empty") // as the real one says
	}
	for _, l := range k.links {
		if (ref.Name == "" || l.Name == ref.Name) && (ref.Index == 0 || l.Index == ref.Index) {
			return l, nil
		}
	}
	return bridge.Link{}, fmt.Errorf("%s: %w", ref, bridge.ErrNotFound)
}

func (k *fakeKernel) FindVeth(_, ifName string) (peer, host bridge.Link, err error) {
	if k.findErr != nil {
		return peer, host, k.findErr
	}
	peer, ok := k.peers[ifName]
	if !ok {
		return peer, host, fmt.Errorf("%s: %w", ifName, bridge.ErrNotFound)
	}
	host, err = k.LinkInfo(bridge.Ref{Index: peer.Lower})
	return peer, host, err
}

func (k *fakeKernel) Configure(_, ifName string, a bridge.Addressing) error {
	k.log = append(k.log, "configure "+ifName)
	k.given = a
	if k.onConfigure != nil {
		k.onConfigure()
	}
	return k.configureErr
}

func (k *fakeKernel) Close() error { return nil }

func (k *fakeKernel) veths() []string {
	var l []string
	for n, link := range k.links {
		if link.Kind == "veth" {
			l = append(l, n)
		}
	}
	slices.Sort(l)
	return l
}

// bench is a plugin with everything around it fake.
type bench struct {
	kernel *fakeKernel
	paths  attach.Paths
	env    map[string]string
	stderr bytes.Buffer
	p      *plugin
}

func newBench(tb testing.TB) *bench {
	tb.Helper()
	dir, err := os.MkdirTemp("", "hp") // a socket's path is short: not TempDir
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{kernel: newKernel(), paths: attach.Paths{RunDir: dir}}
	b.env = map[string]string{
		"CNI_CONTAINERID": "c1", "CNI_IFNAME": "net1", "CNI_NETNS": "/proc/self/ns/net", "CNI_NETNS_OVERRIDE": "true",
		"CNI_PATH": "/opt/cni/bin", "CNI_ARGS": "IgnoreUnknown=true;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=virt-launcher-a",
	}
	b.p = &plugin{
		version:    "test",
		getenv:     func(k string) string { return b.env[k] },
		stderr:     &b.stderr,
		findPaths:  func() (attach.Paths, error) { return b.paths, nil },
		openKernel: func() (kernel, error) { return b.kernel, nil },
	}
	b.patience(30 * time.Second)
	return b
}

// patience is how long the plugin waits for the agent, whatever the verb.
func (b *bench) patience(d time.Duration) {
	b.p.addTimeout, b.p.delTimeout, b.p.gcTimeout, b.p.queryTimeout, b.p.ipamTimeout = d, d, d, d, d
}

// slowAgent answers later than the plugin waits, however slow this machine is.
func slowAgent(tb testing.TB, b *bench) {
	newAgent(tb, b.paths).delay = 600 * time.Millisecond
	b.patience(200 * time.Millisecond)
}

// cniErr is an error as the runtime reads it.
type cniErr struct {
	CNIVersion string `json:"cniVersion"`
	Code       uint   `json:"code"`
	Msg        string `json:"msg"`
	Details    string `json:"details"`
}

// run serves one verb; the error is nil when the exit status is 0.
func (b *bench) run(tb testing.TB, verb, conf string) (string, *cniErr) {
	tb.Helper()
	env := maps.Clone(b.env)
	if _, set := env["CNI_COMMAND"]; !set {
		env["CNI_COMMAND"] = verb
	}
	var out bytes.Buffer
	p := *b.p
	p.getenv = func(k string) string { return env[k] }
	p.stdin, p.stdout = strings.NewReader(conf), &out
	if p.run(tb.Context()) == 0 {
		return out.String(), nil
	}
	e := new(cniErr)
	if err := json.Unmarshal(out.Bytes(), e); err != nil || e.Msg == "" {
		tb.Fatalf("%s: the error is no JSON of an error: %v: %s", verb, err, out.String())
	}
	return out.String(), e
}

// hostVeth is the name that ADD gives in a bench.
func hostVeth() string { return bridge.HostVethName("c1", "net1") }

// config is one of the given version with some keys more.
func config(version, keys string) string {
	if keys != "" {
		keys = "," + keys
	}
	return fmt.Sprintf(`{"cniVersion":%q,"name":"legacy","type":"homeport"%s}`, version, keys)
}

func socketLeft(tb testing.TB, paths attach.Paths) {
	tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: paths.Socket(), Net: "unix"})
	if err != nil {
		tb.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := os.Stat(filepath.Join(paths.RunDir, "agent.sock")); err != nil {
		tb.Fatal(err)
	}
}
