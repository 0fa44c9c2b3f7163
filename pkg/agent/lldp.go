package agent

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/probe"
)

// lldpBook is what the switches at the node's uplinks say of themselves.
type lldpBook struct {
	mu      sync.Mutex
	since   map[int]time.Time // when listening began, by ifindex
	heard   map[int]heardLLDP // last word, by ifindex
	members map[int][]int     // of bonds, by ifindex
}

type heardLLDP struct {
	probe.Neighbour
	at time.Time
}

func newLLDPBook() *lldpBook {
	return &lldpBook{since: map[int]time.Time{}, heard: map[int]heardLLDP{}, members: map[int][]int{}}
}

// at is what is known of the switch at an uplink, or at a member of a bond, the active one first; how long it was
// listened for; and whether the last word has run out.
func (b *lldpBook) at(up bridge.Link) (n *probe.Neighbour, listened time.Duration, lapsed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, index := range append([]int{up.ActiveMember, up.Index}, b.members[up.Index]...) {
		if index == 0 {
			continue
		}
		if since, ok := b.since[index]; ok {
			listened = max(listened, now.Sub(since))
		}
		h, ok := b.heard[index]
		switch {
		case !ok:
		case now.Sub(h.at) <= h.TTL:
			told := h.Neighbour
			return &told, listened, false
		default:
			lapsed = true
		}
	}
	return nil, listened, lapsed
}

// followLLDP listens at all uplinks, and at the members of bonds, where switches' words come.
func (a *Agent) followLLDP(ctx context.Context) error {
	s, err := probe.OpenLLDP()
	if err != nil {
		a.log.Warn("switches cannot be heard: checks will not know their ports", "err", err)
		return nil
	}
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	go func() {
		tick := time.NewTicker(roundEvery)
		defer tick.Stop()
		for {
			a.joinLLDP(s)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	buf := make([]byte, 2048)
	for {
		index, data, err := s.Receive(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			return err
		}
		a.lldp.take(index, data, a.log.Debug)
	}
}

// take notes a switch's word; one with no time to live is its last (IEEE 802.1AB-2016, 9.1.1.2).
func (b *lldpBook) take(index int, data []byte, debug func(string, ...any)) {
	n, err := probe.ReadLLDP(data)
	if err != nil {
		debug("LLDP", "interface", index, "err", err)
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ours := b.since[index]; ours {
		b.heard[index] = heardLLDP{*n, time.Now()}
	}
}

// joinLLDP listens at what has become an uplink, or a member of one, and forgets what is none.
func (a *Agent) joinLLDP(s *probe.LLDPSocket) {
	at, bonds := map[int]bool{}, map[int][]int{}
	for _, t := range a.trunks() {
		l, err := a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
		if err != nil || t.Uplink == "" {
			continue
		}
		at[l.Index] = true
		if l.Kind != "bond" {
			continue
		}
		members, err := a.kernel.net.Members(l.Ref())
		if err != nil {
			a.log.Debug("members of a bond", "bond", t.Uplink, "err", err)
		}
		for _, m := range members {
			at[m.Index] = true
			bonds[l.Index] = append(bonds[l.Index], m.Index)
		}
	}
	a.lldp.mu.Lock()
	defer a.lldp.mu.Unlock()
	a.lldp.members = bonds
	for index := range at {
		if _, known := a.lldp.since[index]; !known {
			a.lldp.since[index] = time.Now()
		}
		if err := s.Join(index); err != nil {
			a.log.Debug("LLDP", "interface", index, "err", err)
		}
	}
	for index := range a.lldp.since {
		if !at[index] {
			delete(a.lldp.since, index)
			delete(a.lldp.heard, index)
		}
	}
}
