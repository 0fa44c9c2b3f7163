package netns

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/homeport-cni/homeport/test/vm/control"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// Mover is a VM beside the node's that moves from pod to pod by live migration. It has
// a NIC of this machine for each of its two places; one is in the pod where the VM
// runs, the other in the one that it moves to or has moved away from.
type Mover struct {
	RealGuest
	network string
	seats   map[int]*seat // by place
}

// seat is a guest's interface in a pod, where the tap goes.
type seat struct {
	pod   *Pod
	tap   string
	iface string // its name outside
}

// Boot starts the guest in a pod, which ADD has prepared, and waits until it answers.
func (l *Lab) Boot(ctx context.Context, g RealGuest, p *Pod, network string) (*Mover, error) {
	m := &Mover{RealGuest: g, network: network, seats: map[int]*seat{}}
	l.atEnd(m.off)
	if err := m.sit(1, p); err != nil {
		return nil, err
	}
	if _, err := m.ask(ctx, "boot"); err != nil {
		return nil, err
	}
	guest, err := control.Find(g.Name)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	a, err := control.Ask(ctx, guest, "ip")
	if err == nil && !a.OK {
		err = errors.New(a.Error)
	}
	return m, err
}

// ask asks vmrun for something and gives what it says of the guest.
func (m *Mover) ask(ctx context.Context, verb string, args ...string) (wire.Move, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	a, err := control.Ask(ctx, control.Host(), strings.Join(append([]string{verb, m.Name}, args...), " "))
	var st wire.Move
	if err == nil && len(a.Result) > 0 {
		err = json.Unmarshal(a.Result, &st)
	}
	if err == nil && !a.OK {
		err = fmt.Errorf("%s %s: %s", verb, m.Name, a.Error)
	}
	return st, err
}

// Status tells where the guest is and how its last move went.
func (m *Mover) Status(ctx context.Context) (wire.Move, error) { return m.ask(ctx, "status") }

func (m *Mover) nic(place int) string {
	if place == 2 {
		return m.Second.Iface
	}
	return m.Iface
}

// sit wires a pod and puts the guest's interface of a place in.
func (m *Mover) sit(place int, p *Pod) error {
	w, err := p.wireFor(m.network, m.MAC)
	if err != nil {
		return err
	}
	s := &seat{pod: p, tap: w.Tap, iface: m.nic(place)}
	if err := p.takeIn(m.Name, s.iface); err != nil {
		return err
	}
	m.seats[place] = s
	// A real interface outlives the namespace and must find its way back.
	p.lab.atEnd(func() error { return m.rise(place) })
	return p.plugTap(w, s.iface)
}

// rise takes the interface of a place out of its pod; a place without one is fine.
func (m *Mover) rise(place int) error {
	s := m.seats[place]
	if s == nil {
		return nil
	}
	delete(m.seats, place)
	return s.pod.giveBack(s.tap, s.iface)
}

// Prepare wires the pod that the guest is to move to and starts the QEMU that waits
// for it there, in virt-handler's order.
func (m *Mover) Prepare(ctx context.Context, p *Pod) error {
	st, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if st.Place == 0 {
		return fmt.Errorf("guest %s does not run: %s", m.Name, st.Error)
	}
	if err := m.sit(3-st.Place, p); err != nil {
		return err
	}
	if _, err = m.ask(ctx, "incoming"); err != nil {
		return err
	}
	return p.lab.settled(ctx)
}

// settled waits until every bridge port in the lab that is up has its carrier: the
// kernel tells bridges of it up to a second late (net/core/link_watch.c), which a
// target that is prepared in less time would take for darkness of the move.
func (l *Lab) settled(ctx context.Context) error {
	return until(ctx, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, s := range l.spaces {
			links, err := s.Link.LinkList()
			if err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			for _, link := range links {
				if err := s.forwarding(link.Attrs()); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// forwarding says what keeps a bridge port from it.
func (s *Space) forwarding(a *netlink.LinkAttrs) error {
	if a.MasterIndex != 0 && a.Flags&net.FlagUp != 0 && a.OperState != netlink.OperUp && a.OperState != netlink.OperUnknown {
		return fmt.Errorf("%s: %s is up, but %s", s.Name, a.Name, a.OperState)
	}
	return nil
}

// forwards is forwarding of one interface.
func (s *Space) forwards(name string) error {
	link, err := s.Link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	return s.forwarding(link.Attrs())
}

// Start begins to move the guest; args are those of vmrun: limit=MIB, hold.
func (m *Mover) Start(ctx context.Context, args ...string) error {
	_, err := m.ask(ctx, "migrate", args...)
	return err
}

// Finish lets the move go on as fast as it can, and waits until the guest runs at the
// target.
func (m *Mover) Finish(ctx context.Context) (wire.Move, error) {
	st, err := m.Status(ctx)
	if err != nil {
		return st, err
	}
	if st.Running() {
		// It may complete meanwhile.
		_, _ = m.ask(ctx, "limit")
		if _, err := m.ask(ctx, "release"); err != nil {
			return st, err
		}
	}
	err = until(ctx, 2*patience, func() error {
		if st, err = m.Status(ctx); err != nil {
			return err
		}
		if st.Running() || st.Phase == wire.MoveCompleted && st.PausedMs == 0 {
			return fmt.Errorf("guest %s is still moving: %+v", m.Name, st)
		}
		return nil
	})
	if err == nil && st.Phase != wire.MoveCompleted {
		err = fmt.Errorf("the move of guest %s did not complete: %+v", m.Name, st)
	}
	return st, err
}

// Cancel ends the move; the guest goes on where it is, and the target's interface
// leaves its pod.
func (m *Mover) Cancel(ctx context.Context) (wire.Move, error) {
	before, err := m.Status(ctx)
	if err != nil {
		return before, err
	}
	st, err := m.ask(ctx, "cancel")
	if err != nil {
		return st, err
	}
	return st, m.rise(before.Target)
}

// End ends the QEMU that the guest has moved away from, as when its pod ends.
func (m *Mover) End(ctx context.Context) error {
	before, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if _, err := m.ask(ctx, "end"); err != nil {
		return err
	}
	return m.rise(before.Source)
}

// off ends the guest, wherever it is.
func (m *Mover) off() error {
	_, err := m.ask(context.Background(), "off")
	return err
}

// takeIn moves a guest's interface from outside all namespaces into the pod.
func (p *Pod) takeIn(guest, name string) error {
	nic, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("guest %s: interface %s: %w", guest, name, err)
	}
	if err := errors.Join(netlink.LinkSetDown(nic), netlink.LinkSetNsFd(nic, int(p.handle))); err != nil {
		return fmt.Errorf("guest %s: interface %s into pod %s: %w", guest, name, p.Name, err)
	}
	return nil
}
