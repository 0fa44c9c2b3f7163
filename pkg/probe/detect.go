package probe

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

const (
	// detectDelay is at most how long the first question waits, so that NICs which come together do not speak in step,
	// and detectionMost how far questions are apart at most (RFC 5227, 1.1: PROBE_WAIT, PROBE_MAX).
	detectDelay   = time.Second
	detectionMost = 2 * time.Second
	// DetectionTime is how long it takes at most to find that nobody has an address, if frames need not wait for their pace.
	DetectionTime = detectDelay + (Detections-1)*detectionMost + DetectionWait
)

// Detector asks at an uplink whether somebody has addresses that NICs of this node are to have, before they use them
// (RFC 5227, 2.1.1; RFC 4862, 5.4). Many may ask at once.
//
// It asks from the uplink's Foreign MAC, and not from the NIC's. A frame from the NIC's would have switches send there
// what is for it; but a VM that is moved, as from vSphere, may still run where it was with that MAC, and one that is
// refused should not have been seen at all. To a switch that limits the MACs of a port, it is one more, and always the same,
// which checks of the fabric with sources use, too. A frame of its own that comes back is known by it, without a nonce (RFC 7527).
type Detector struct {
	conn Conn
	pace Pace
	me   MAC // the uplink's

	mu   sync.Mutex
	asks map[sourceKey][]*detection // those under way, the oldest first
	done chan struct{}              // closed when nothing is received any more
}

// detection is of one address for one NIC.
type detection struct {
	own   MAC
	taken Taken
	news  chan<- struct{}
}

// Taken is an address that somebody else has.
type Taken struct {
	Address netip.Addr
	MAC     MAC
	// Wants says that he asks for it himself, to have it.
	Wants bool
	// Here says that he does so by this Detector.
	Here bool
}

// NewDetector begins to listen; conn is the Detector's from now on, and takes frames for the Foreign MAC. me is the uplink's MAC.
func NewDetector(conn Conn, pace Pace, me MAC) *Detector {
	d := &Detector{conn: conn, pace: pace, me: me, asks: map[sourceKey][]*detection{}, done: make(chan struct{})}
	go d.listen()
	return d
}

// Close ends it, and whoever asks by it gets net.ErrClosed.
func (d *Detector) Close() error {
	err := d.conn.Close()
	<-d.done
	return err
}

// Ask asks for addresses in the VLAN that has a tag at the uplink, 0 is none, for the NIC that has a MAC. It gives those that
// somebody else has, in the order of the addresses, when that is known of all or the time to answer is over. An answer from
// the NIC's own MAC is none.
func (d *Detector) Ask(ctx context.Context, tag vlan.ID, own MAC, addresses []netip.Addr) ([]Taken, error) {
	for _, a := range addresses {
		if !IsHost(a) {
			return nil, fmt.Errorf("%v is no address of a host", a)
		}
	}
	news := make(chan struct{}, 1)
	mine := d.begin(tag, own, addresses, news)
	defer d.end(tag, addresses, mine)
	wait := rand.N(detectDelay)
	for n := range Detections {
		all, err := d.rest(ctx, wait, mine, news)
		if err != nil || all {
			return d.taken(mine), err
		}
		for i, a := range addresses {
			if d.isTaken(mine[i]) {
				continue
			}
			if err := d.send(ctx, tag, a, n == 0); err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return d.taken(mine), err
			}
		}
		wait = DetectionGap + rand.N(detectionMost-DetectionGap)
	}
	_, err := d.rest(ctx, DetectionWait, mine, news)
	return d.taken(mine), err
}

// begin notes who asks. Of two NICs of this node, which do not hear each other at the uplink, the first is to have the address.
func (d *Detector) begin(tag vlan.ID, own MAC, addresses []netip.Addr, news chan<- struct{}) (mine []*detection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range addresses {
		k, det := sourceKey{tag, a}, &detection{own: own, news: news}
		for _, o := range d.asks[k] {
			if o.own != own && o.taken.MAC == (MAC{}) {
				det.take(Taken{Address: a, MAC: o.own, Wants: true, Here: true})
				break
			}
		}
		d.asks[k] = append(d.asks[k], det)
		mine = append(mine, det)
	}
	return mine
}

func (d *Detector) end(tag vlan.ID, addresses []netip.Addr, mine []*detection) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, a := range addresses {
		k := sourceKey{tag, a}
		d.asks[k] = slices.DeleteFunc(d.asks[k], func(o *detection) bool { return o == mine[i] })
		if len(d.asks[k]) == 0 {
			delete(d.asks, k)
		}
	}
}

// rest waits, or until all addresses are taken.
func (d *Detector) rest(ctx context.Context, wait time.Duration, mine []*detection, news <-chan struct{}) (all bool, err error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		if len(d.taken(mine)) == len(mine) {
			return true, nil
		}
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-d.done:
			return false, net.ErrClosed
		case <-timer.C:
			return false, nil
		case <-news:
		}
	}
}

func (d *Detector) isTaken(det *detection) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return det.taken.MAC != MAC{}
}

func (d *Detector) taken(mine []*detection) (out []Taken) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, det := range mine {
		if det.taken.MAC != (MAC{}) {
			out = append(out, det.taken)
		}
	}
	return out
}

// take notes who has the address, the first who does; who only wants it gives way to him. The Detector's mu is held.
func (det *detection) take(t Taken) {
	if det.taken.MAC != (MAC{}) && (t.Wants || !det.taken.Wants) {
		return
	}
	det.taken = t
	select {
	case det.news <- struct{}{}:
	default:
	}
}

// send asks once for an address. The first time it joins the group of those who have one like it: a switch that snoops on MLD sends it nothing
// of others that ask so, else.
func (d *Detector) send(ctx context.Context, tag vlan.ID, a netip.Addr, first bool) error {
	me := d.me.Foreign()
	makers := []func(MAC, netip.Addr) ([]byte, error){solicitation}
	switch {
	case a.Is4():
		makers[0] = arpProbe
	case first:
		makers = append([]func(MAC, netip.Addr) ([]byte, error){joins}, makers...)
	}
	for _, maker := range makers {
		if err := d.pace.Wait(ctx, classOf(a)); err != nil {
			return err
		}
		data, err := maker(me, a)
		if err == nil {
			err = d.conn.Send(Frame{VLAN: tag, Data: data, Length: len(data)})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *Detector) listen() {
	defer close(d.done)
	for {
		f, err := d.conn.Receive()
		if err != nil {
			return
		}
		if len(f.Data) >= etherHead {
			d.hear(f)
		}
	}
}

// hear notes who says to have an address that is asked for, or asks for it as one does who is to have it: he asks all, while a switch
// which asks whether somebody that it has learnt is still there asks him.
func (d *Detector) hear(f Frame) {
	var t Taken
	if c := read(f.Data, d.me).claim; c != nil {
		t = Taken{Address: c.address, MAC: c.mac}
	} else if q, ok := readQuestion(f.Data); ok && q.from.IsUnspecified() && MAC(f.Data[:6]).IsGroup() {
		t = Taken{Address: q.target, MAC: q.mac, Wants: true}
	}
	from := MAC(f.Data[6:12])
	if t.MAC == (MAC{}) || slices.Contains([]MAC{from, t.MAC}, d.me.Foreign()) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, det := range d.asks[sourceKey{f.VLAN, t.Address}] {
		if from != det.own && t.MAC != det.own {
			det.take(t)
		}
	}
}
