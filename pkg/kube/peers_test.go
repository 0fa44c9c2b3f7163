package kube

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/peer"
)

func aTrunkNode(trunk, node, address string) *v1alpha1.VLANTrunkNode {
	return &v1alpha1.VLANTrunkNode{ObjectMeta: metav1.ObjectMeta{Name: trunk + "." + node},
		Spec: v1alpha1.VLANTrunkNodeSpec{Trunk: trunk, Node: node}, Status: v1alpha1.VLANTrunkNodeStatus{AgentAddress: address}}
}

// TestPeers: each node once, with its address if any of its trunks has it; the API server is
// asked once for each check, and what it does not answer is told.
func TestPeers(t *testing.T) {
	f := newFakeAPI(aTrunkNode("t", "n2", ""), aTrunkNode("u", "n2", "10.0.0.2:9748"), aTrunkNode("t", "n1", "10.0.0.1:9748"),
		aTrunkNode("t", "n3", ""), aTrunkNode("u", "n3", ""))
	r := newFakeReporter(f)
	got, err := r.Peers(t.Context())
	want := []peer.Peer{{Node: "n1", Address: "10.0.0.1:9748"}, {Node: "n2", Address: "10.0.0.2:9748"}, {Node: "n3"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if asked := f.take(); !slices.Equal(asked, []string{"list VLANTrunkNodeList"}) {
		t.Errorf("asked for %q", asked)
	}
	f.meet = func(string) error { return errors.New("connection refused") }
	if got, err := r.Peers(t.Context()); err == nil || got != nil || !strings.Contains(err.Error(), "the Kubernetes API does not list VLANTrunkNodes") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("%v %v", got, err)
	}
}

// TestAgentAddress: it is in the report of each trunk, also of one that is refused, and is
// written when it changes and not again.
func TestAgentAddress(t *testing.T) {
	f := newFakeAPI()
	r := newFakeReporter(f)
	n := &fakeNode{status: wire.NodeStatus{Desired: 1, Compiled: 1, Active: 1, AgentAddress: "10.0.0.1:9748", Trunks: []wire.TrunkStatus{{Name: "t", Ready: true}},
		Problems: []wire.Problem{{Kind: "VLANTrunk", Name: "u", Message: "no"}}}}
	for _, address := range []string{"10.0.0.1:9748", "[fd00::1]:9748", ""} {
		n.status.AgentAddress = address
		mustRound(t, r, n)
		for _, trunk := range []string{"t", "u"} {
			o, ok := f.objects["VLANTrunkNode /"+trunk+".n1"].(*v1alpha1.VLANTrunkNode)
			if !ok || o.Status.AgentAddress != address {
				t.Errorf("%s: %+v, want %q", trunk, o, address)
			}
		}
		f.take()
		mustRound(t, r, n)
		if asked := f.take(); len(asked) != 0 {
			t.Errorf("without news: %q", asked)
		}
	}
}

// TestPeersOfServer: what one agent publishes another finds, with the rights that the
// manifests give.
func TestPeersOfServer(t *testing.T) {
	b := newBench(t)
	address := func(s string) {
		t.Helper()
		b.node.set(func() { b.node.status.AgentAddress = s })
		until(b, new(v1alpha1.VLANTrunkNode), "", "t.n1", func(o *v1alpha1.VLANTrunkNode, found bool) bool { return found && o.Status.AgentAddress == s })
	}
	address("10.0.0.1:9748")
	other, err := NewReporter(b.agent("n2"), "n2", b.reporter.log)
	if err != nil {
		t.Fatal(err)
	}
	got, err := other.Peers(t.Context())
	if d := cmp.Diff([]peer.Peer{{Node: "n1", Address: "10.0.0.1:9748"}}, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	address("") // an agent without --agents-addr
	got, err = other.Peers(t.Context())
	if d := cmp.Diff([]peer.Peer{{Node: "n1"}}, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	b.Server.Stop()
	if _, err := other.Peers(t.Context()); err == nil || !strings.Contains(err.Error(), "see whether this node reaches its API server") {
		t.Error(err)
	}
	b.Server.Restart()
}
