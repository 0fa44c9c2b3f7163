package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/peer"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// fabricOf are agents of so many nodes, n1 and on, which know each other and have a check, and no trunk; each is
// answered by the others until its cancel.
func fabricOf(t *testing.T, n int) (agents []*Agent, silence []context.CancelFunc) {
	t.Helper()
	var peers []peer.Peer
	for i := range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		peers = append(peers, peer.Peer{Node: fmt.Sprint("n", i+1), Address: l.Addr().String()})
		l.Close()
	}
	key := keyFile(t, peer.MakeKey())
	for _, p := range peers {
		a := idleAgent(t)
		a.cfg.Paths = attach.Paths{RunDir: t.TempDir()}
		if err := os.MkdirAll(filepath.Dir(a.statePath("x")), 0o700); err != nil {
			t.Fatal(err)
		}
		a.cfg.Fabric = Fabric{Node: p.Node, Addr: p.Address, KeyFile: key, Peers: func(context.Context) ([]peer.Peer, error) { return peers, nil }}
		if err := a.joinFabric(); err != nil {
			t.Fatal(err)
		}
		a.world.snap = &desired.Snapshot{Checks: map[string]desired.Check{"hourly": {Name: "hourly", Every: time.Hour, Run: "1"}}}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- a.serveAgents(ctx) }()
		t.Cleanup(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			a.client.Close()
		})
		agents, silence = append(agents, a), append(silence, cancel)
	}
	for _, a := range agents {
		for _, p := range peers {
			for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				c, err := net.Dial("tcp", p.Address)
				if err == nil {
					c.Close()
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s does not listen for %s: %v", p.Node, a.prober.node, err)
				}
			}
		}
	}
	return agents, silence
}

// conductNow has an agent run the check, as if it were due.
func (a *Agent) conductNow(t *testing.T) {
	t.Helper()
	c := a.world.snap.Checks["hourly"]
	a.book.mu.Lock()
	last := a.keepCheck(&c).Last.ID
	a.book.mu.Unlock()
	a.conduct(t.Context(), &c, last)
}

// TestConduct: of agents that are told of each other by their flags, the first by name that answers runs a check for
// which any other has its time come; all are told; and who was away learns what it has missed.
func TestConduct(t *testing.T) {
	agents, silence := fabricOf(t, 3)
	n1, n2, n3 := agents[0], agents[1], agents[2]
	ran := func(a *Agent) reach.Ran {
		last, _ := a.knownRun(a.world.snap.Checks["hourly"])
		return last
	}
	n3.conductNow(t)
	if ran(n3).ID != "" || !n1.book.kept["hourly"].wanted || n2.book.kept["hourly"] != nil {
		t.Fatalf("n3 has run %+v, n1 knows %+v", ran(n3), n1.book.kept["hourly"])
	}
	n1.conductNow(t)
	first := ran(n1)
	if first.By != "n1" || first.Run != "1" || ran(n2).ID != first.ID || ran(n3).ID != first.ID || ran(n3).Report == nil || first.Error != "" {
		t.Fatalf("run by n1: %+v; n2 has %+v, n3 %+v", first, ran(n2), ran(n3))
	}
	// A request that n3 alone has read is answered by a run that was begun since, whatever that was asked by.
	c := n3.world.snap.Checks["hourly"]
	c.Run = "2"
	n3.world.snap.Checks["hourly"] = c
	n3.book.mu.Lock()
	n3.keepCheck(&c)
	n3.book.mu.Unlock()
	n1.conductNow(t)
	k := n3.book.kept["hourly"]
	if due := k.due(&c, nil); time.Until(due) < 50*time.Minute || k.Answered != "2" {
		t.Errorf("n3's request is due in %v, answered is %q", time.Until(due), k.Answered)
	}
	// n1 is gone: n2 runs the next one, and n1 learns of it when it is back.
	missed := ran(n1).ID
	silence[0]()
	n2.conductNow(t)
	if last := ran(n3); last.By != "n2" || ran(n1).ID != missed || len(last.Report.Findings) != 0 { // n1's absence is no matter of n3
		t.Errorf("after n1 has gone n3 has %+v, n1 %+v", last, ran(n1))
	}
	whole, err := n2.askReport(t.Context(), ran(n3), "")
	if err != nil || len(whole.Findings) != 1 || whole.Findings[0].Code != reach.AgentAbsent {
		t.Errorf("the whole report: %+v, %v", whole, err)
	}
	for _, a := range []*Agent{n1, n3} { // which it has by the connection
		if far, err := a.askReport(t.Context(), ran(n3), ""); err != nil || len(far.Findings) != 1 {
			t.Errorf("%s asks for it: %+v, %v", a.prober.node, far, err)
		}
		if part, err := a.askReport(t.Context(), ran(n3), "n3"); err != nil || len(part.Findings) != 0 {
			t.Errorf("%s asks for n3's part: %+v, %v", a.prober.node, part, err)
		}
	}
	own := n1.world.snap.Checks["hourly"]
	n1.catchUp(t.Context(), &own)
	if last := ran(n1); last.By != "n2" || last.ID != ran(n3).ID {
		t.Errorf("back again n1 has %+v", last)
	}
	// One before it that has no such check, as its manifests are others, does not run it.
	delete(n2.world.snap.Checks, "hourly")
	n3.conductNow(t)
	if last := ran(n3); last.By != "n3" {
		t.Errorf("n2 has no such check, and n3 has %+v", last)
	}
	n2.world.snap.Checks["hourly"] = n3.world.snap.Checks["hourly"]
	// Nobody speaks for another.
	forged := ran(n3)
	forged.ID, forged.By = "forged", "n2"
	all, _, err := n3.agents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n3.tellRun(t.Context(), forged, all)
	if ran(n2).ID == "forged" {
		t.Error("n2 believes n3 in the name of n2")
	}
}

// TestPublishFirst: a run that another agent has overtaken is told to nobody, nor is one that was ended with the agent,
// whose claim is given back; one that cannot be published is told all the same.
func TestPublishFirst(t *testing.T) {
	agents, _ := fabricOf(t, 2)
	n1, n2 := agents[0], agents[1]
	book := &claimBook{}
	n1.cfg.Fabric.Conductors = book
	knows := func(a *Agent) string { last, _ := a.knownRun(a.world.snap.Checks["hourly"]); return last.ID }

	book.publish = reach.ErrOvertaken
	n1.conductNow(t)
	if knows(n1)+knows(n2) != "" || book.published != 1 {
		t.Errorf("overtaken: n1 knows %q, n2 %q, published %d times", knows(n1), knows(n2), book.published)
	}
	ctx, cancel := context.WithCancel(t.Context())
	book.claimed = cancel // the agent ends while it runs
	c := n1.world.snap.Checks["hourly"]
	n1.conduct(ctx, &c, "")
	if knows(n1)+knows(n2) != "" || book.published != 1 || book.released != 1 {
		t.Errorf("ended: n1 knows %q, n2 %q, published %d, released %d", knows(n1), knows(n2), book.published, book.released)
	}
	book.claimed, book.publish = func() {}, nil
	n1.conductNow(t)
	if knows(n1) == "" || knows(n1) != knows(n2) {
		t.Errorf("published: n1 knows %q, n2 %q", knows(n1), knows(n2))
	}
}

// claimBook gives each claim.
type claimBook struct {
	fakeBook
	claimed             func()
	publish             error
	published, released int
}

func (b *claimBook) Claim(context.Context, string, string) (reach.Claim, error) {
	if b.claimed != nil {
		b.claimed()
	}
	return reach.Claim{Mine: true}, nil
}

func (b *claimBook) Publish(context.Context, reach.Ran) error { b.published++; return b.publish }
func (b *claimBook) Release(context.Context, string) error    { b.released++; return nil }

// TestRunFails: what cannot be run says so in the words of the object's fields, and is tried again.
func TestRunFails(t *testing.T) {
	agents, _ := fabricOf(t, 1)
	a := agents[0]
	c := a.world.snap.Checks["hourly"]
	c.Nodes = []string{"n9"}
	a.world.snap.Checks["hourly"] = c
	a.conductNow(t)
	last, _ := a.knownRun(c)
	if !strings.HasPrefix(last.Error, `spec.nodes: no agent is known of a node "n9"`) || a.book.kept["hourly"].Failures != 1 {
		t.Errorf("ran %+v", last)
	}
	if due := time.Until(a.book.kept["hourly"].due(&c, nil)); due < 30*time.Second || due > soonAfter {
		t.Errorf("due again in %v", due)
	}
	a.cfg.Fabric.Peers = func(context.Context) ([]peer.Peer, error) { return nil, errors.New("no API server") }
	if ran, _ := a.runCheck(t.Context(), &c); !strings.Contains(ran.Error, "no API server") {
		t.Errorf("without peers: %+v", ran)
	}
}
