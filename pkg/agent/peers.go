package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/peer"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// Fabric is how agents of one fabric know and trust each other.
type Fabric struct {
	// Node is this node's name among them; "" is the host's.
	Node string
	// Addr is the host:port at which the others ask this agent; "" is nowhere.
	Addr string
	// KeyFile holds the fabric keys; "" is a key that nobody else has.
	KeyFile string
	// Patient has the agent run while KeyFile cannot be used, and take part as soon as it can; else
	// that is an error. Addr is waited for in any case, as one that is given to the node later.
	Patient bool
	// Conductors settle who runs ReachabilityChecks; nil: the agents among themselves.
	Conductors Conductors
	// Peers are the agents of the other nodes; nil is none. One without an address is known to be
	// there, and not where.
	Peers func(context.Context) ([]peer.Peer, error)
}

// told is Addr as others can use it; "" if they cannot.
func (f *Fabric) told() string {
	host, port, err := net.SplitHostPort(f.Addr)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(host)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil || n == 0 || ip.IsUnspecified() || ip.Zone() != "" {
		return ""
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(n)).String()
}

// The verbs by which agents ask each other, where nothing else is said with the bodies of reachRequest and
// the answers that reach.Agent has.
const (
	verbDescribe = "describe"
	verbStart    = "start"
	verbSend     = "send"
	verbObserve  = "observe"
	verbStop     = "stop"
	verbRan      = "ran"    // reach.Ran: what came of a ReachabilityCheck
	verbTurn     = "turn"   // turnRequest -> turnAnswer
	verbReport   = "report" // turnRequest -> reach.Report: the whole
)

// reachRequest has what the verb needs of it.
type reachRequest struct {
	Run    probe.RunID `json:"run,omitzero"`
	Trunk  string      `json:"trunk,omitempty"`
	Trunks []string    `json:"trunks,omitempty"`
	PPS    int         `json:"pps,omitempty"`
	Asks   []probe.Ask `json:"asks,omitempty"`
	// Check is the ReachabilityCheck that is run, if it is one.
	Check string `json:"check,omitempty"`
}

// ring reads the fabric keys, or makes one for this process alone.
func (f *Fabric) ring() (*peer.Ring, error) {
	switch {
	case f.KeyFile != "" && f.Patient:
		return peer.AwaitRing(f.KeyFile)
	case f.KeyFile != "":
		return peer.OpenRing(f.KeyFile)
	}
	keys, err := peer.ParseKeys([]byte(peer.MakeKey()))
	if err != nil {
		return nil, err
	}
	return peer.Fixed(keys), nil
}

// joinFabric has the agent know its name, its keys and its peers.
func (a *Agent) joinFabric() (err error) {
	node := a.cfg.Fabric.Node
	if node == "" {
		if node, err = os.Hostname(); err != nil {
			return err
		}
	}
	if a.ring, err = a.cfg.Fabric.ring(); err != nil {
		return fmt.Errorf("keys of the fabric (--fabric-key): %w", err)
	}
	a.client = peer.NewClient(a.ring, node, a.cfg.Version)
	a.prober = newProber(a, node, helloKeys{a.ring})
	a.segment = a.prober
	return nil
}

// helloKeys are a ring's, as hellos need them.
type helloKeys struct{ ring *peer.Ring }

func (k helloKeys) Sign(message []byte) ([4]byte, [16]byte) {
	id, mac := k.ring.Keys().Sign(message)
	return id, mac
}

func (k helloKeys) Verify(id [4]byte, message []byte, mac [16]byte) bool {
	return k.ring.Keys().Verify(id, message, mac)
}

// tryEvery is how soon what others have to see to is looked at again.
const tryEvery = 5 * time.Second

// awaitAgents listens for the agents of other nodes, as soon as there is a key to know them by and
// the address is there: no VM waits for that.
func (a *Agent) awaitAgents(ctx context.Context) (net.Listener, error) {
	said := ""
	for {
		err := a.ring.Alone()
		if err == nil {
			var l net.Listener
			var lc net.ListenConfig
			if l, err = lc.Listen(ctx, "tcp", a.cfg.Fabric.Addr); err == nil {
				a.log.Info("agents of other nodes are answered", "address", l.Addr(), "keys", a.ring.Keys())
				return l, nil
			}
			err = fmt.Errorf("listen for the agents of other nodes (--agents-addr): %w", err)
		}
		if text := err.Error(); text != said {
			a.log.Warn("this node takes no part in checks of the fabric yet; tried again", "err", err)
			said = text
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(tryEvery):
		}
	}
}

// serveAgents answers the agents of other nodes.
func (a *Agent) serveAgents(ctx context.Context) error {
	if a.cfg.Fabric.Addr == "" {
		return nil
	}
	l, err := a.awaitAgents(ctx)
	if err != nil {
		return err
	}
	s := &peer.Server{Ring: a.ring, Node: a.prober.node, Version: a.cfg.Version, Log: a.log, Handlers: map[string]peer.Handler{
		verbDescribe: reachHandler(func(ctx context.Context, r reachRequest) (any, error) {
			a.letOther(r.Check)
			return a.prober.Describe(ctx)
		}),
		verbStart: reachHandler(func(ctx context.Context, r reachRequest) (any, error) {
			return nil, a.prober.Start(ctx, r.Run, r.Trunks, r.PPS)
		}),
		verbSend: reachHandler(func(ctx context.Context, r reachRequest) (any, error) {
			return nil, a.prober.Send(ctx, r.Run, r.Trunk, r.Asks)
		}),
		verbObserve: reachHandler(func(ctx context.Context, r reachRequest) (any, error) { return a.prober.Observe(ctx, r.Run, r.Trunk) }),
		verbStop:    reachHandler(func(ctx context.Context, r reachRequest) (any, error) { return nil, a.prober.Stop(ctx, r.Run) }),
		verbRan: func(ctx context.Context, from string, body json.RawMessage) (any, error) {
			return reachHandler(func(_ context.Context, r reach.Ran) (any, error) {
				if r.By != from { // each speaks for itself
					return nil, fmt.Errorf("node %s tells what node %q has found", from, r.By)
				}
				return nil, a.takeRun(r)
			})(ctx, from, body)
		},
		verbTurn:   reachHandler(func(_ context.Context, r turnRequest) (any, error) { return a.takeTurn(r), nil }),
		verbReport: reachHandler(func(_ context.Context, r turnRequest) (any, error) { return a.reportOf(r) }),
	}}
	return s.Serve(ctx, l)
}

// reachHandler decodes the body for h.
func reachHandler[T any](h func(context.Context, T) (any, error)) peer.Handler {
	return func(ctx context.Context, _ string, body json.RawMessage) (any, error) {
		var r T
		if err := json.Unmarshal(body, &r); err != nil {
			return nil, fmt.Errorf("%w; install one release on all nodes", err)
		}
		return h(ctx, r)
	}
}

// farAgent is the agent of another node.
type farAgent struct {
	client *peer.Client
	peer   peer.Peer
	check  string // that it is asked for, if there is one
}

func (f farAgent) Node() string { return f.peer.Node }

func (f farAgent) Describe(ctx context.Context) (d reach.Description, err error) {
	err = f.client.Call(ctx, f.peer, verbDescribe, reachRequest{Check: f.check}, &d)
	return d, err
}

func (f farAgent) Start(ctx context.Context, run probe.RunID, trunks []string, pps int) error {
	return f.client.Call(ctx, f.peer, verbStart, reachRequest{Run: run, Trunks: trunks, PPS: pps}, nil)
}

func (f farAgent) Send(ctx context.Context, run probe.RunID, trunk string, asks []probe.Ask) error {
	return f.client.Call(ctx, f.peer, verbSend, reachRequest{Run: run, Trunk: trunk, Asks: asks}, nil)
}

func (f farAgent) Observe(ctx context.Context, run probe.RunID, trunk string) (o probe.Observation, err error) {
	err = f.client.Call(ctx, f.peer, verbObserve, reachRequest{Run: run, Trunk: trunk}, &o)
	return o, err
}

func (f farAgent) Stop(ctx context.Context, run probe.RunID) error {
	return f.client.Call(ctx, f.peer, verbStop, reachRequest{Run: run}, nil)
}

// agents are those of all nodes, this one's among them, and the nodes whose agents cannot be asked.
func (a *Agent) agents(ctx context.Context) (all []reach.Agent, absent []reach.Absent, err error) {
	all = []reach.Agent{a.prober}
	if a.cfg.Fabric.Peers == nil {
		return all, nil, nil
	}
	peers, err := a.cfg.Fabric.Peers(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("find the agents of other nodes: %w", err)
	}
	peers = slices.Clone(peers)
	slices.SortFunc(peers, func(x, y peer.Peer) int { return cmp.Compare(x.Node, y.Node) })
	alone := a.ring.Alone()
	for _, p := range peers {
		switch {
		case p.Node == a.prober.node:
		case alone != nil:
			absent = append(absent, reach.Absent{Node: p.Node, Why: fmt.Sprintf("the agent of %s, which was to ask it, has no key of the fabric yet: %v", a.prober.node, alone)})
		case p.Address == "":
			absent = append(absent, reach.Absent{Node: p.Node, Why: "its agent has told no address to be asked at: it runs without --agents-addr, or is of an older release"})
		default:
			all = append(all, farAgent{client: a.client, peer: p})
		}
	}
	return all, absent, nil
}

// ParsePeers reads "n1=10.0.0.1:9748,n2=10.0.0.2:9748".
func ParsePeers(text string) ([]peer.Peer, error) {
	var all []peer.Peer
	var errs []error
	if text == "" {
		return nil, nil
	}
	for _, part := range strings.Split(text, ",") {
		node, address, ok := strings.Cut(strings.TrimSpace(part), "=")
		_, _, err := net.SplitHostPort(address)
		switch {
		case !ok || node == "" || err != nil:
			errs = append(errs, fmt.Errorf("%q: want NODE=HOST:PORT", part))
		case slices.ContainsFunc(all, func(p peer.Peer) bool { return p.Node == node }):
			errs = append(errs, fmt.Errorf("node %q is named twice", node))
		default:
			all = append(all, peer.Peer{Node: node, Address: address})
		}
	}
	return all, errors.Join(errs...)
}
