package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Observed is a bridge as it is now.
type Observed struct {
	// Exists says that there is an interface of that name, IsBridge that it is
	// a bridge; the rest is set only then.
	Exists, IsBridge bool
	Bridge           Ref
	BridgeAttrs
	MAC net.HardwareAddr
	MTU int // bytes
	Up  bool
	// Self is the VLANs of the bridge device itself.
	Self PortVLANs
	// Ports of the bridge by ifindex.
	Ports map[int]ObservedPort
	// Loose are the interfaces that were asked for and exist, but are not
	// ports of this bridge.
	Loose map[int]ObservedPort
}

// ObservedPort is an interface at a bridge, or one that should be.
type ObservedPort struct {
	Ref
	VLANs PortVLANs
	PortAttrs
	Master int // ifindex; 0 is none
	MTU    int // bytes
	// Up is the administrative state, Running the carrier.
	Up, Running bool
	// Paired says that it is one end of a veth pair whose other end is in another network namespace.
	Paired bool
}

// Observe reads a bridge and all its ports, and besides them the interfaces in
// also, wherever they are. A bridge or interface that is not there is not an
// error. The answer is no snapshot: the kernel may change between the reads.
func (n *Net) Observe(bridge string, also ...Ref) (Observed, error) {
	o := Observed{Ports: map[int]ObservedPort{}, Loose: map[int]ObservedPort{}}
	br, err := n.LinkInfo(Ref{Name: bridge})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return o, err
	}
	if o.Exists = err == nil; o.Exists {
		o.Bridge, o.MAC, o.MTU, o.Up = br.Ref(), br.MAC, br.MTU, br.Up
		o.IsBridge = br.Bridge != nil
	}
	if o.IsBridge {
		o.BridgeAttrs = *br.Bridge
		if err := n.observePorts(&o); err != nil {
			return o, fmt.Errorf("bridge %s: %w", bridge, err)
		}
	}
	for _, ref := range also {
		if o.hasPort(ref) {
			continue
		}
		l, err := n.LinkInfo(ref)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return o, err
		}
		if _, isPort := o.Ports[l.Index]; !isPort {
			o.Loose[l.Index] = observedPort(l)
		}
	}
	if o.IsBridge && len(o.Loose) > 0 {
		// They may be because it went away in the middle.
		_, err := n.LinkInfo(o.Bridge)
		if errors.Is(err, ErrNotFound) {
			return Observed{Ports: map[int]ObservedPort{}, Loose: o.Loose}, nil
		}
		if err != nil {
			return o, err
		}
	}
	return o, nil
}

// hasPort says whether ref names one of the ports that were read.
func (o Observed) hasPort(ref Ref) bool {
	if ref.Index != 0 {
		p, ok := o.Ports[ref.Index]
		return ok && (ref.Name == "" || ref.Name == p.Name)
	}
	for _, p := range o.Ports {
		if p.Name == ref.Name {
			return true
		}
	}
	return false
}

func (n *Net) observePorts(o *Observed) error {
	ls, err := n.links(o.Bridge.Index)
	if err != nil {
		return err
	}
	vlans, err := n.dumpVLANs(0)
	if err != nil {
		return err
	}
	o.Self = vlans[o.Bridge.Index]
	for _, l := range ls {
		p := observedPort(l)
		p.VLANs = vlans[l.Index]
		if o.VLANFiltering && p.VLANs.Members.Empty() {
			// Cut off, or gone from the bridge since its links were read.
			now, err := n.LinkInfo(l.Ref())
			if errors.Is(err, ErrNotFound) || err == nil && now.Master != o.Bridge.Index {
				continue
			}
			if err != nil {
				return err
			}
		}
		o.Ports[l.Index] = p
	}
	return nil
}

func observedPort(l Link) ObservedPort {
	p := ObservedPort{Ref: l.Ref(), Master: l.Master, MTU: l.MTU, Up: l.Up, Running: l.Running, Paired: l.Kind == "veth" && l.LowerNetnsID >= 0}
	if l.Port != nil {
		p.PortAttrs = *l.Port
	}
	return p
}

// Event says that interfaces have changed, and not how: look again.
type Event struct {
	// Resync says that announcements were lost: look at everything.
	Resync bool
	// Indexes are the interfaces that were made, changed or deleted, entered
	// or left a bridge, or whose VLANs or queueing disciplines (clsact) have
	// changed; rising.
	Indexes []int
}

// Watch announces changes of the namespace's interfaces until the context ends;
// then the channel is closed. What happens while the receiver is busy is joined
// into one event. A channel closed earlier, after a last Resync, says that the
// kernel's announcements cannot be read any more: watch again.
func (n *Net) Watch(ctx context.Context) (<-chan Event, error) {
	s, err := n.listen(unix.RTNLGRP_LINK, unix.RTNLGRP_TC)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: %w", err)
	}
	// VLANs of ports also come as links; this group, since Linux 5.6, has the
	// bridge's own too.
	_ = unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.RTNLGRP_BRVLAN)
	const buffer = 4 << 20 // bytes: some thousand interfaces at once
	if s.SetReceiveBufferSize(buffer, true) != nil {
		_ = s.SetReceiveBufferSize(buffer, false)
	}
	w := &watcher{changed: map[int]bool{}, wake: make(chan struct{}, 1)}
	stop := context.AfterFunc(ctx, s.Close)
	go func() {
		defer close(w.wake)
		w.read(s)
		if stop() {
			s.Close()
		}
	}()
	out := make(chan Event)
	go w.send(ctx, out)
	return out, nil
}

// watcher is what was announced and not yet handed on.
type watcher struct {
	mu      sync.Mutex
	changed map[int]bool
	resync  bool
	wake    chan struct{} // of one: "there is something"
}

// gather is how long announcements are left to pile up in the socket: one change
// makes a dozen of them, and to wake for each costs more than to read them.
const gather = 20 * time.Millisecond

// read notes announcements until the socket is closed or broken.
func (w *watcher) read(s *nl.NetlinkSocket) {
	var paused time.Time
	for {
		msgs, from, err := s.Receive()
		if time.Since(paused) > gather {
			time.Sleep(gather)
			paused = time.Now()
		}
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EINVAL): // lost, or cut short
			w.note(nil, true)
			continue
		case err != nil:
			w.note(nil, true)
			return
		case from.Pid != nl.PidKernel:
			continue
		}
		var at []int
		for _, m := range msgs {
			// struct ifinfomsg, tcmsg and br_vlan_msg all have the index there.
			if len(m.Data) >= 8 {
				at = append(at, int(int32(binary.NativeEndian.Uint32(m.Data[4:]))))
			}
		}
		w.note(at, false)
	}
}

func (w *watcher) note(at []int, resync bool) {
	w.mu.Lock()
	for _, i := range at {
		w.changed[i] = true
	}
	w.resync = w.resync || resync
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default: // it is awake already
	}
}

func (w *watcher) take() (Event, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := Event{Resync: w.resync, Indexes: slices.Sorted(maps.Keys(w.changed))}
	some := w.resync || len(w.changed) > 0
	w.resync = false
	clear(w.changed)
	return e, some
}

func (w *watcher) send(ctx context.Context, out chan<- Event) {
	defer close(out)
	for open := true; open; {
		select {
		case <-ctx.Done():
			return
		case _, open = <-w.wake:
		}
		e, some := w.take()
		if !some {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case out <- e:
		}
	}
}

// rawMsg is a fixed header given as bytes.
type rawMsg []byte

// Len implements nl.NetlinkRequestData.
func (m rawMsg) Len() int { return len(m) }

// Serialize implements nl.NetlinkRequestData.
func (m rawMsg) Serialize() []byte { return m }
