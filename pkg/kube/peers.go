package kube

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/peer"
)

// peersTime is how long the API server may take to answer who the peers are.
const peersTime = 10 * time.Second

// Peers asks the API server for the agents of all nodes that have a trunk, each node once, in the
// order of their names. Of an agent that has told no address there is none. Nothing is kept: who
// checks nothing pays nothing.
func (r *Reporter) Peers(ctx context.Context) ([]peer.Peer, error) {
	ctx, cancel := context.WithTimeout(ctx, peersTime)
	defer cancel()
	var list v1alpha1.VLANTrunkNodeList
	if err := r.client.List(ctx, &list); err != nil {
		return nil, fmt.Errorf("the Kubernetes API does not list VLANTrunkNodes, which say where agents are: %w; see whether this node reaches its API server", err)
	}
	known := map[string]string{} // address by node
	for i := range list.Items {
		o := &list.Items[i]
		// All of a node have the same, but for what it has not written yet.
		known[o.Spec.Node] = cmp.Or(known[o.Spec.Node], o.Status.AgentAddress)
	}
	var all []peer.Peer
	for node, address := range known {
		all = append(all, peer.Peer{Node: node, Address: address})
	}
	slices.SortFunc(all, func(a, b peer.Peer) int { return cmp.Compare(a.Node, b.Node) })
	return all, nil
}
