package binding

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
)

// State is all that a Keeper knows, as a value that JSON keeps.
type State struct {
	Book  learn.State
	Ports []PortState        `json:",omitempty"`
	NICs  []NICState         `json:",omitempty"`
	Far   []desired.Identity `json:",omitempty"`
}

// PortState is whose NIC a port had.
type PortState struct {
	Key   attach.Key
	NIC   learn.NIC
	VM    bool        `json:",omitempty"`
	Owner *wire.Owner `json:",omitempty"`
	Said  []Said      `json:",omitempty"`
}

// Said is an address that was fed for a port.
type Said struct {
	Addr       string
	Source     string `json:",omitempty"`
	Provenance learn.Provenance
}

// NICState is what is known of a NIC beside the book.
type NICState struct {
	NIC  learn.NIC
	MAC  learn.MAC
	Node string `json:",omitempty"`
	VM   bool   `json:",omitempty"`
}

// sightingsEvery is how often what a Keeper knows is worth saving for no more than when addresses were last seen.
const sightingsEvery = 5 * time.Minute

// State gives what a Keeper knows if anything has changed since it was last asked; else nil. At the end there is no later.
func (k *Keeper) State(end bool) *State {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.cfg.Now()
	if !k.unsaved && !(k.sighted && (end || now.Sub(k.saved) >= sightingsEvery)) {
		return nil
	}
	k.unsaved, k.sighted, k.saved = false, false, now
	s := &State{Book: k.book.Dump()}
	for key, p := range k.ports {
		o := PortState{Key: key, NIC: p.nic, VM: p.vm}
		if owner, ok := k.owners[key]; ok {
			o.Owner = &owner
		}
		for d := range p.said {
			o.Said = append(o.Said, Said{d.addr.String(), d.source, d.by})
		}
		slices.SortFunc(o.Said, func(a, b Said) int {
			return cmp.Or(strings.Compare(a.Addr, b.Addr), strings.Compare(a.Source, b.Source))
		})
		s.Ports = append(s.Ports, o)
	}
	slices.SortFunc(s.Ports, func(a, b PortState) int { return strings.Compare(portID(a.Key), portID(b.Key)) })
	for id, n := range k.nics {
		s.NICs = append(s.NICs, NICState{id, n.mac, n.node, n.vm})
	}
	slices.SortFunc(s.NICs, func(a, b NICState) int { return strings.Compare(fmt.Sprint(a.NIC), fmt.Sprint(b.NIC)) })
	for _, o := range k.far {
		s.Far = append(s.Far, o)
	}
	slices.SortFunc(s.Far, func(a, b desired.Identity) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(string(a.MAC), string(b.MAC)))
	})
	return s
}

// load goes on with what another Keeper knew. Its ports are those of then, until Follow says which there are. While nobody
// has listened nobody was silent, and leases were renewed.
func (k *Keeper) load(s *State) (err error) {
	k.loadManual(&s.Book)
	away := max(k.cfg.Now().Sub(s.Book.Now), 0)
	for i := range s.Book.NICs {
		for j := range s.Book.NICs[i].Claims {
			for l := range s.Book.NICs[i].Claims[j].Evidence {
				e := &s.Book.NICs[i].Claims[j].Evidence[l]
				e.Seen = e.Seen.Add(away)
				if !e.Until.IsZero() {
					e.Until = e.Until.Add(away)
				}
			}
		}
	}
	if k.book, err = learn.Load(s.Book); err != nil {
		return fmt.Errorf("what was learnt before is of no use: %w", err)
	}
	k.book.Rewind(k.cfg.Now()) // that Keeper's clock may have been ahead
	for name, n := range s.Book.Settings.Networks {
		if name != "" {
			k.networks[name] = network{settings: n}
		}
	}
	for _, n := range s.NICs {
		k.nics[n.NIC] = nic{mac: n.MAC, node: n.Node, vm: n.VM}
		k.macs[n.MAC]++
	}
	for _, o := range s.Ports {
		p := &port{Port: Port{Key: o.Key}, nic: o.NIC, vm: o.VM, said: map[said]bool{}}
		for _, d := range o.Said {
			if a, err := parseAddr(d.Addr); err == nil {
				p.said[said{a, d.Source, d.Provenance}] = true
			}
		}
		k.ports[o.Key] = p
		if o.Owner != nil {
			k.owners[o.Key] = *o.Owner
		}
		k.moved = true
		n := k.nics[o.NIC]
		n.ports++
		k.nics[o.NIC] = n
	}
	for id, n := range k.nics {
		if n.ports == 0 && n.vm {
			k.left[id] = k.cfg.Now()
		}
	}
	for _, o := range s.Far {
		k.far[identityNIC(&o)] = o
	}
	return nil
}

// loadManual knows again what people have set.
func (k *Keeper) loadManual(s *learn.State) {
	for _, n := range s.NICs {
		for _, c := range n.Claims {
			if !slices.ContainsFunc(c.Evidence, func(e learn.Evidence) bool { return e.Source == sourceManual }) {
				continue
			}
			if k.manual[n.NIC] == nil {
				k.manual[n.NIC] = map[Key]bool{}
			}
			k.manual[n.NIC][Key{c.Segment.Trunk, c.Segment.VLAN, c.Addr}] = true
		}
	}
}
