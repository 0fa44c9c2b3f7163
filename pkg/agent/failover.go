package agent

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/announce"
	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// A bond that changes its active member announces its own MAC on the new link and
// nobody else's: the switches go on sending what is for VMs to the old one, until
// each VM happens to speak. So does a switch that was reached by another way while
// a cable was out. The VMs of the node are then announced by the agent.

// wayOut is where frames for the wire leave a trunk.
type wayOut struct {
	Uplink   int  `json:"uplink"` // ifindex; 0 while there is none
	Member   int  `json:"member"` // ifindex of the bond's active member; 0 where there is none
	Forwards bool `json:"forwards"`
}

// waysFile is where the agent keeps the last way of each trunk, by bridge: what changes
// while no agent runs is told by the next one.
const waysFile = "ways.json"

// watchedUplinks are the uplinks whose events matter to followUplinks.
type watchedUplinks struct {
	mu   sync.Mutex
	at   map[int]bool // by ifindex
	news chan struct{}
}

// note asks for a look if the event is about one of the uplinks.
func (w *watchedUplinks) note(e bridge.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e.Resync || slices.ContainsFunc(e.Indexes, func(i int) bool { return w.at[i] }) {
		ask(w.news)
	}
}

func (w *watchedUplinks) watch(ways map[string]wayOut) {
	at := map[int]bool{}
	for _, way := range ways {
		at[way.Uplink] = true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = at
}

// followUplinks announces the VMs of a trunk when their way out is another one than
// it was. What it was before the first agent is not known, and so no reason.
func (a *Agent) followUplinks(ctx context.Context) error {
	tick := time.NewTicker(roundEvery) // as the loop's: no event is needed
	defer tick.Stop()
	var ways map[string]wayOut
	if !a.loadJSON(waysFile, &ways) {
		ways = nil
	}
	for {
		last := ways
		ways = a.lookAtWays(ctx, last)
		a.watched.watch(ways)
		if !maps.Equal(last, ways) {
			a.save(waysFile, ways, "a failover while no agent runs would not be noticed")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.watched.news:
		case <-tick.C:
		}
	}
}

// lookAtWays compares each trunk's way out with the last one.
func (a *Agent) lookAtWays(ctx context.Context, last map[string]wayOut) map[string]wayOut {
	ways := map[string]wayOut{}
	trunks := a.trunks()
	for _, name := range slices.Sorted(maps.Keys(trunks)) {
		t := trunks[name]
		was, known := last[t.Bridge]
		now, err := a.wayOut(t)
		if err != nil {
			a.log.Warn("an uplink cannot be read", "trunk", name, "uplink", t.Uplink, "err", err)
			if known {
				ways[t.Bridge] = was
			}
			continue
		}
		ways[t.Bridge] = now
		if why := now.since(was); known && why != "" {
			a.announceTrunk(ctx, t, why)
		}
	}
	return ways
}

// wayOut reads where frames of the trunk leave the node now.
func (a *Agent) wayOut(t desired.Trunk) (wayOut, error) {
	if t.Uplink == "" {
		return wayOut{}, nil
	}
	l, err := a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
	if errors.Is(err, bridge.ErrNotFound) {
		return wayOut{}, nil
	}
	return wayOut{Uplink: l.Index, Member: l.ActiveMember, Forwards: forwards(l)}, err
}

// since says what is new on the way that makes switches look for VMs in the wrong
// place; "" is nothing, or that there is no way now. A bond that has just lost its
// last member still forwards for a moment.
func (w wayOut) since(was wayOut) string {
	switch {
	case !w.Forwards, w.Uplink == was.Uplink && w.Member == 0 && was.Member != 0:
		return ""
	case w.Uplink != was.Uplink:
		return "the trunk has another uplink"
	case w.Member != was.Member:
		return "the bond has another active member"
	case !was.Forwards:
		return "the uplink forwards again"
	}
	return ""
}

// knownAddresses are those of the port's VM; today the declared ones alone.
func knownAddresses(r attach.Record) []netip.Addr { return r.Addresses }

func trunkJob(bridgeName string) string { return "trunk " + bridgeName }

// announceTrunk tells the network behind the uplink of all VMs of a trunk. The
// local bridge knows them: for it, nothing has moved.
func (a *Agent) announceTrunk(ctx context.Context, t desired.Trunk, why string) {
	if len(a.activeOnly(a.portsOf(t.Bridge))) == 0 {
		return // a trunk that is new, for one
	}
	a.log.Info("the VMs of a trunk are announced", "trunk", t.Name, "uplink", t.Uplink, "why", why)
	err := a.announcer.start(ctx, trunkJob(t.Bridge), func(ctx context.Context, s *announce.Sender) {
		a.announceStations(ctx, s, causeFailover, t.Bridge, func() []attach.Record { return a.portsOf(t.Bridge) }, knownAddresses)
	})
	if err != nil {
		a.log.Error("VMs cannot be announced: the network finds them only when they speak", "trunk", t.Name, "uplink", t.Uplink, "err", err)
	}
}
