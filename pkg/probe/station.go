package probe

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Place is where a station stands.
type Place struct {
	Node   string
	Uplink string
	MAC    MAC // the uplink's
	// Own are other MACs that are this node's, as VMs' are: heard from the wire, somebody
	// else has them.
	Own map[MAC]bool
}

// Station is one node's part in one check, at one uplink. It listens from the start.
type Station struct {
	place Place
	run   RunID
	keys  Keys
	conn  Conn
	pace  Pace

	mu    sync.Mutex
	book  *book
	seq   uint32
	asked map[netip.Addr]bool // addresses of others
	peers map[MAC]bool        // Foreign MACs of those whose hellos were heard, of whichever check
	// sources are those that the station asks from itself.
	sources map[sourceKey]*source
	replies chan reply
	waiting map[asker]bool  // of replies
	ctx     context.Context // until Close
	end     context.CancelFunc
	work    sync.WaitGroup
	done    chan struct{} // closed when nothing is received any more
}

// Pace lets frames out: it waits until one more of a class may go. Many may wait at once.
type Pace interface {
	Wait(context.Context, Class) error
}

// Start begins to listen; conn is the station's from now on.
func Start(conn Conn, keys Keys, pace Pace, run RunID, at Place) *Station {
	s := &Station{place: at, run: run, keys: keys, conn: conn, pace: pace, book: newBook(), asked: map[netip.Addr]bool{}, peers: map[MAC]bool{},
		sources: map[sourceKey]*source{}, replies: make(chan reply, maxReplies), waiting: map[asker]bool{}, done: make(chan struct{})}
	s.ctx, s.end = context.WithCancel(context.Background())
	s.work.Go(s.listen)
	s.work.Go(s.answer)
	return s
}

// MAC is the uplink's.
func (s *Station) MAC() MAC { return s.place.MAC }

// Close ends it.
func (s *Station) Close() error {
	s.end()
	err := s.conn.Close()
	s.work.Wait()
	return err
}

// Send puts frames on the wire, those of each class in their order; classes do not wait for each
// other. What makes no sense, or the interface does not take, is noted, and the next is tried; the error is
// the context's, or that the station is closed.
func (s *Station) Send(ctx context.Context, asks []Ask) error {
	of := map[Class][]Ask{}
	for _, a := range asks {
		if err := a.validate(); err != nil {
			s.Refuse(a, err)
			continue
		}
		of[a.Class()] = append(of[a.Class()], a)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var all sync.WaitGroup
	for class, asks := range of {
		all.Go(func() {
			if err := s.sendAll(ctx, class, asks); err != nil {
				stop(err)
			}
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

func (s *Station) sendAll(ctx context.Context, class Class, asks []Ask) error {
	for _, a := range asks {
		frames := []func(Ask) ([]byte, error){s.frame}
		if a.Frames() == 2 {
			joined := func(a Ask) ([]byte, error) { return joins(s.place.MAC.Foreign(), a.Source) }
			frames = []func(Ask) ([]byte, error){joined, s.frame}
		}
		var err error
		for _, of := range frames {
			if err := s.pace.Wait(ctx, class); err != nil {
				return err
			}
			if err = s.put(a, of); err != nil {
				break
			}
		}
		s.mu.Lock()
		if err == nil {
			s.detected(a)
		} else {
			s.book.refuse(a, err)
		}
		s.mu.Unlock()
		if errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

// Refuse notes that the station may not send what it was asked to.
func (s *Station) Refuse(a Ask, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.refuse(a, err)
}

// put sends what is made of an Ask.
func (s *Station) put(a Ask, of func(Ask) ([]byte, error)) error {
	data, err := of(a)
	if err != nil {
		return err
	}
	if err := s.conn.Send(Frame{VLAN: a.tagOf(), Data: data, Length: len(data)}); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book.sent++
	return nil
}

// frame makes what an Ask is about.
func (s *Station) frame(a Ask) ([]byte, error) {
	me := s.place.MAC
	switch a.Kind {
	case Gateway:
		s.mu.Lock()
		s.asked[a.Target] = true
		s.mu.Unlock()
		if a.Target.Is4() {
			return arpProbe(me, a.Target)
		}
		return solicitation(me, a.Target)
	case DHCP:
		return discover(me, s.xid())
	case Routers:
		return routerSolicitation(me)
	case Detect, Host, Echo:
		return s.addressed(a)
	}
	from, to := me, broadcast
	switch a.Kind {
	case Foreign:
		from = me.Foreign()
	case Unicast:
		to = a.To
	}
	s.mu.Lock()
	s.seq++
	g := Greeting{Run: s.run, Seq: s.seq, Kind: a.Kind, Node: s.place.Node, Uplink: s.place.Uplink, VLAN: a.VLAN, Untagged: a.Untagged, Size: a.Size}
	s.mu.Unlock()
	return g.frame(s.keys, from, to)
}

// xid tells the answers to this run's DISCOVERs from others.
func (s *Station) xid() uint32 { return binary.BigEndian.Uint32(s.run[:4]) }

// Observation is what has happened up to now.
func (s *Station) Observation() Observation {
	s.mu.Lock()
	defer s.mu.Unlock()
	if lost, err := s.conn.Lost(); err == nil {
		s.book.lost = lost // what was lost stays so when nobody can tell any more
	}
	o := s.book.observation()
	for k, src := range s.sources {
		o.Sources = append(o.Sources, Source{k.tag, k.address, src.asked, src.held})
	}
	slices.SortFunc(o.Sources, func(x, y Source) int { return cmp.Or(cmp.Compare(x.Tag, y.Tag), x.Address.Compare(y.Address)) })
	return o
}

func (s *Station) listen() {
	defer close(s.done)
	for {
		f, err := s.conn.Receive()
		if err != nil {
			return
		}
		if len(f.Data) >= etherHead {
			s.hear(f)
		}
	}
}

func (s *Station) hear(f Frame) {
	from := MAC(f.Data[6:12])
	if binary.BigEndian.Uint16(f.Data[12:]) == EtherHello {
		if g, ok, err := readHello(s.keys, f); ok {
			s.hearHello(f, g, err)
			return
		}
	}
	w := read(f.Data, s.place.MAC)
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.book.page(f.VLAN)
	if from == s.place.MAC || s.place.Own[from] {
		if _, known := p.mine[from]; known || len(p.mine) < maxOthers {
			p.mine[from]++
		}
		return
	}
	if !ofLink(MAC(f.Data[:6])) {
		p.others++
	}
	s.hearOfSources(f, w.claim)
	switch {
	case w.claim != nil:
		if s.asked[w.claim.address] {
			p.claim(w.claim)
		}
	case w.offer != nil:
		if w.xid == s.xid() && len(p.offers) < maxOthers {
			p.offers[*w.offer] = true
		}
	case w.ra != nil:
		if _, known := p.ras[w.ra.Address]; known || len(p.ras) < maxOthers {
			p.ras[w.ra.Address] = *w.ra
		}
	}
}

func (s *Station) hearHello(f Frame, g Greeting, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.meet(MAC(f.Data[6:12]), g.Kind)
	}
	switch {
	case err != nil:
		if g.Run == s.run {
			s.book.unread++
			s.book.unreadWhy = err.Error()
		}
	case g.Run == s.run && g.Kind == Unicast && MAC(f.Data[:6]) != s.place.MAC.Foreign():
		// A peer's, that the switch has not learnt yet.
	case g.Run == s.run && vlan.ID(g.VLAN).Validate() == nil:
		s.book.page(f.VLAN).hello(g)
	}
}

// meet notes a peer by a hello of a kind, and whom it is from. s.mu is held.
func (s *Station) meet(from MAC, k Kind) {
	if k != Foreign {
		from = from.Foreign()
	}
	if len(s.peers) < maxHellos {
		s.peers[from] = true
	}
}
