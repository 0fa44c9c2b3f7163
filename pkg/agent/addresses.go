package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/binding"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
)

const (
	addressesFile = "addresses.json" // binding.State
	// sightEvery is how often the programs are asked when VMs last said which addresses they have, saveEvery how often
	// what was learnt is kept on disk, if it has changed, and saveSoon how long after news: a lease that nobody has kept
	// when the agent is killed is a mere address to the next one.
	sightEvery = 30 * time.Second
	// vouchFor is for how long the programs go by what they were told of addresses, where requests are suppressed by it, should there be
	// no agent any more to tell them.
	vouchFor  = 3 * sightEvery
	saveEvery = 10 * time.Second
	saveSoon  = time.Second
)

// addressBook is who has which address, as the node knows it.
type addressBook struct {
	*binding.Keeper
	lost atomic.Uint64 // frames of programs of another version
	kick chan struct{} // something may be due

	mu       sync.Mutex
	switches map[string]toldSwitch // by trunk
}

// toldSwitch is what switchOf has found.
type toldSwitch struct {
	name string
	at   time.Time
}

// switchFor is for how long it is believed: whoever claims what others have may do so often.
const switchFor = 10 * time.Second

// addressMap has a Keeper write to the programs' map.
type addressMap struct{ dp *datapath.Datapath }

func addressKey(k binding.Key) datapath.AddressKey {
	return datapath.AddressKey{Trunk: k.Trunk, VLAN: k.VLAN, Addr: k.Addr}
}

// Put implements binding.Map.
func (m addressMap) Put(k binding.Key, h binding.Holder) error {
	return m.dp.PutAddress(addressKey(k), datapath.AddressHolder{MAC: h.MAC, Firm: h.Firm, Shared: h.Shared, Waits: h.Waits, Nobodys: h.Nobodys, Disputed: h.Disputed})
}

// Drop implements binding.Map.
func (m addressMap) Drop(k binding.Key) error { return m.dp.DropAddress(addressKey(k)) }

// openAddresses takes up what an agent before this one has learnt.
func (a *Agent) openAddresses() error {
	saved := &binding.State{}
	if !a.loadJSON(addressesFile, saved) {
		saved = nil
	}
	var err error
	a.addresses.kick = make(chan struct{}, 1)
	a.addresses.Keeper, err = binding.New(binding.Config{Node: a.cfg.Fabric.Node, Map: addressMap{a.kernel.dp}, Log: a.log, Now: time.Now, Uplink: a.switchOf,
		News: func() { a.tell(); ask(a.addresses.kick) }}, saved)
	if a.addresses.Keeper == nil {
		return err
	}
	if err != nil {
		a.log.Warn("addresses are learnt anew", "err", err)
	}
	return nil
}

// switchOf says at which port of which switch a trunk's uplink is, if LLDP tells.
func (a *Agent) switchOf(trunk string) string {
	b := &a.addresses
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.switches[trunk]
	if !ok || time.Since(s.at) > switchFor {
		s = toldSwitch{a.lookSwitch(trunk), time.Now()}
		if b.switches == nil {
			b.switches = map[string]toldSwitch{}
		}
		b.switches[trunk] = s
	}
	return s.name
}

func (a *Agent) lookSwitch(trunk string) string {
	a.mu.RLock()
	var t desired.Trunk
	if a.world.snap != nil {
		t = a.world.snap.Trunks[trunk]
	}
	a.mu.RUnlock()
	if t.Uplink == "" {
		return ""
	}
	up, err := a.kernel.net.LinkInfo(bridge.Ref{Name: t.Uplink})
	if err != nil {
		return ""
	}
	n, _, _ := a.lldp.at(up)
	if n == nil {
		return ""
	}
	return n.String()
}

// bookedPorts are the ports that are complete, as the book of addresses has them.
func (a *Agent) bookedPorts() (out []binding.Port) {
	for _, it := range a.table.list() {
		if r := &it.rec; it.open {
			out = append(out, binding.Port{Key: r.Key, IfIndex: r.HostIfIndex, Trunk: cmp.Or(r.Trunk, r.Bridge), Network: r.Policy, MAC: r.MAC, VLANs: r.VLANs, Pod: r.Pod,
				Held: r.Wanted() != attach.Active, Declared: r.Addresses})
		}
	}
	return out
}

// followAddresses has the book know the networks, ports and identities of now.
func (a *Agent) followAddresses() {
	a.mu.RLock()
	snap, unread := a.world.snap, a.world.unread
	a.mu.RUnlock()
	if snap == nil {
		return
	}
	var identities []desired.Identity
	if unread == nil { // else they are those that an earlier agent has written down, of whenever
		if identities = snap.Identities; identities == nil {
			identities = []desired.Identity{}
		}
	}
	a.addresses.Follow(snap.Networks, a.bookedPorts(), identities)
}

// keepAddresses hears what ports' programs tell, and does what time brings.
func (a *Agent) keepAddresses(ctx context.Context) error {
	heard, err := a.kernel.dp.Heard()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { heard.Close() })()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.tendAddresses(ctx)
	}()
	defer func() { <-done; a.saveAddresses(true) }()
	for {
		h, err := heard.Read()
		switch {
		case errors.Is(err, datapath.ErrClosed):
			return nil
		case errors.Is(err, datapath.ErrForeignEvent):
			a.addresses.lost.Add(1)
			continue
		case err != nil:
			return err
		}
		f := snoop.Frame{At: h.At, Out: h.Out, VLAN: h.VLAN, Data: h.Frame}
		if !a.addresses.Heard(h.IfIndex, f) { // it has come since the last round, or is gone
			a.addresses.FollowPorts(a.bookedPorts())
			a.addresses.Heard(h.IfIndex, f)
		}
	}
}

func (a *Agent) tendAddresses(ctx context.Context) {
	sight, save := time.NewTimer(0), time.NewTicker(saveEvery)
	defer sight.Stop()
	defer save.Stop()
	var soon <-chan time.Time // nil: all news is kept
	wait := saveSoon
	for {
		due := time.NewTimer(sightEvery)
		if next := a.addresses.Tick(); !next.IsZero() {
			due.Reset(min(max(time.Until(next), 0), sightEvery))
		}
		select {
		case <-ctx.Done():
			due.Stop()
			return
		case <-a.addresses.kick:
			if soon == nil {
				soon = time.After(wait)
			}
		case <-soon:
			began := time.Now()
			a.saveAddresses(false)
			soon, wait = nil, max(saveSoon, 10*time.Since(began)) // of a large book a small part of the time
		case <-due.C:
		case <-sight.C:
			a.sightAddresses()
			if a.addresses.Followed() {
				sight.Reset(sightEvery)
			} else { // nothing is vouched for yet
				sight.Reset(time.Second)
			}
		case <-save.C:
			a.saveAddresses(false)
		}
		due.Stop()
	}
}

func (a *Agent) saveAddresses(end bool) {
	if s := a.addresses.State(end); s != nil {
		a.save(addressesFile, s, "what was learnt of addresses cannot be kept")
	}
}

// sightAddresses takes what the programs have noted of addresses that are known, and has their map as it should be.
func (a *Agent) sightAddresses() {
	trunks := map[string]bool{}
	for _, p := range a.bookedPorts() {
		trunks[p.Trunk] = true
	}
	list, err := a.kernel.dp.Addresses(slices.Collect(maps.Keys(trunks))...)
	if err != nil {
		a.log.Warn("when addresses were last heard cannot be read", "err", err)
		return
	}
	have := make(map[binding.Key]binding.Holder, len(list))
	for _, e := range list {
		have[binding.Key{Trunk: e.Trunk, VLAN: e.VLAN, Addr: e.Addr}] = binding.Holder{MAC: e.MAC, Firm: e.Firm, Shared: e.Shared, Waits: e.Waits, Nobodys: e.Nobodys, Disputed: e.Disputed}
	}
	if a.addresses.Sync(have) {
		if err := a.kernel.dp.Vouch(vouchFor); err != nil {
			a.log.Warn("the port programs suppress no requests", "err", err)
		}
	}
	for _, e := range list {
		if !e.Seen.IsZero() {
			a.addresses.Sighted(binding.Key{Trunk: e.Trunk, VLAN: e.VLAN, Addr: e.Addr}, learn.MAC(e.MAC), e.Seen)
		}
	}
}

// mostAddresses is how many an answer has.
const mostAddresses = 5000

func (a *Agent) addressList(name string) wire.AddressList {
	l := wire.AddressList{TypeMeta: kind("AddressList"), Items: a.addresses.Addresses(name), MACs: a.addresses.MACConflicts(name)}
	if l.Cut = len(l.Items) > mostAddresses; l.Cut {
		l.Items = l.Items[:mostAddresses]
	}
	return l
}

// decideAddress takes a person's word on an address.
func (a *Agent) decideAddress(_ context.Context, d *wire.AddressDecision) (any, error) {
	switch {
	case d.Name == "":
		return nil, attach.Invalid("name", "there is none", "want the VM's or pod's name, or namespace/name")
	case !d.Address.IsValid() || d.Address.Zone() != "":
		return nil, attach.Invalid("address", fmt.Sprintf("%v is none", d.Address), "want an address, as 10.1.2.3 or 2001:db8::1")
	case d.By == "":
		return nil, attach.Invalid("by", "nobody decides", "say who does")
	}
	err := a.addresses.Decide(binding.Decision{Who: d.Name, Addr: d.Address.Unmap(), VLAN: d.VLAN, Deny: d.Deny, By: d.By})
	if err == nil {
		a.log.Info("a person has decided about an address", "address", d.Address, "of", d.Name, "denied", d.Deny, "by", d.By)
		a.saveAddresses(true)
	}
	return nil, err
}

// heldBy are the addresses that a port's NIC holds in its untagged VLAN.
func (a *Agent) heldBy(rec *attach.Record) (out []netip.Addr) {
	addresses, _ := a.addresses.Of(rec.Key)
	for _, x := range addresses {
		if x.State == wire.AddressHeld && x.VLAN == rec.VLANs.PVID && !slices.Contains(out, x.Address) {
			out = append(out, x.Address)
		}
	}
	return out
}
