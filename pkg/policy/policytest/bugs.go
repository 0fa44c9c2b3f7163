package policytest

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// Bug is a mistake that a compiler could make. A comparison that does not find
// it within some sets is worth nothing.
type Bug struct {
	Name string
	// Live says that only packets at a port tell: what Lookup reads is right.
	Live bool
	// set misreads a set; program spoils the result. One of them is nil.
	set     func(*policy.Set)
	program func(*compile.Program)
}

// Build is compile.Build with the bug.
func (b Bug) Build(in compile.Input) (*compile.Program, error) {
	if b.set != nil {
		sets := slices.Clone(in.Sets)
		for i := range sets {
			sets[i].Rules = slices.Clone(sets[i].Rules)
			b.set(&sets[i])
		}
		in.Sets = sets
	}
	p, err := compile.Build(in)
	if err == nil && b.program != nil {
		b.program(p)
		for i, n := range p.Policies {
			var text []byte
			for _, page := range n.Pages {
				text = append(text, page[:]...)
			}
			p.Policies[i].Sum = sha256.Sum256(text)
		}
	}
	return p, err
}

// Bugs lists the deliberate bugs.
func Bugs() []Bug {
	return slices.Concat(setBugs(), serviceBugs(), headerBugs(), tableBugs(), addrBugs())
}

// eachRule changes every rule of a set.
func eachRule(change func(*policy.Rule)) func(*policy.Set) {
	return func(s *policy.Set) {
		for i := range s.Rules {
			change(&s.Rules[i])
		}
	}
}

func setBugs() []Bug {
	eachRange := func(change func(policy.AddrRange) policy.AddrRange) func(*policy.Set) {
		return eachRule(func(r *policy.Rule) {
			for _, list := range []*[]policy.AddrRange{&r.Sources, &r.Destinations} {
				*list = slices.Clone(*list)
				for j, a := range *list {
					(*list)[j] = change(a)
				}
			}
		})
	}
	return []Bug{
		{Name: "address ranges end one early", set: eachRange(func(r policy.AddrRange) policy.AddrRange {
			if r.First.Less(r.Last) {
				r.Last = r.Last.Prev()
			}
			return r
		})},
		{Name: "address ranges begin one early", set: eachRange(func(r policy.AddrRange) policy.AddrRange {
			if prev := r.First.Prev(); prev.IsValid() {
				r.First = prev
			}
			return r
		})},
		{Name: "an empty list is Any", set: eachRule(func(r *policy.Rule) {
			if len(r.Sources) == 0 {
				r.Sources = nil
			}
		})},
		{Name: "address sets are lost beside addresses", set: eachRule(func(r *policy.Rule) {
			if r.Sources != nil {
				r.SourceSets = nil
			}
		})},
		{Name: "only the first address set of a rule counts", set: eachRule(func(r *policy.Rule) {
			r.DestinationSets = slices.Clip(r.DestinationSets[:min(1, len(r.DestinationSets))])
		})},
		{Name: "sources are not turned round", set: eachRule(func(r *policy.Rule) { r.NotSources = false })},
		{Name: "destinations are not turned round", set: eachRule(func(r *policy.Rule) { r.NotDestinations = false })},
		{Name: "the VM's address does not matter", set: eachRule(func(r *policy.Rule) { r.LocalSets = nil })},
		{Name: "Pass drops", set: eachRule(func(r *policy.Rule) {
			if r.Action == policy.Pass {
				r.Action = policy.Drop
			}
		})},
		{Name: "Pass goes on at the next rule", set: func(s *policy.Set) {
			for i := range s.Rules { // as if it were not there
				s.Rules[i].Disabled = s.Rules[i].Disabled || s.Rules[i].Action == policy.Pass
			}
		}},
		{Name: "rules without state make connections", set: eachRule(func(r *policy.Rule) { r.Stateless = false }), Live: true},
		{Name: "TCP is not picked up", set: eachRule(func(r *policy.Rule) { r.Loose = false }), Live: true},
		{Name: "nobody asks for logs", set: eachRule(func(r *policy.Rule) { r.Log = false }), Live: true},
		{Name: "monitored rules decide", set: eachRule(func(r *policy.Rule) { r.Monitored = false })},
		{Name: "monitored rules are as disabled", set: eachRule(func(r *policy.Rule) { r.Disabled = r.Disabled || r.Monitored })},
		{Name: "Ethernet rules are about packets", set: func(s *policy.Set) {
			for i := range s.Rules {
				if r := &s.Rules[i]; r.Ethernet {
					r.Ethernet, r.Services = false, nil
				}
			}
		}},
		{Name: "Ethernet rules are not judged", set: eachRule(func(r *policy.Rule) { r.Disabled = r.Disabled || r.Ethernet })},
		{Name: "EtherTypes do not matter", set: eachRule(func(r *policy.Rule) {
			if r.Ethernet {
				r.Services = nil
			}
		})},
		{Name: "disabled rules decide", set: eachRule(func(r *policy.Rule) { r.Disabled = false })},
	}
}

func serviceBugs() []Bug {
	eachService := func(change func(*policy.Service)) func(*policy.Set) {
		return eachRule(func(r *policy.Rule) {
			r.Services = slices.Clone(r.Services)
			for j := range r.Services {
				change(&r.Services[j])
			}
		})
	}
	return []Bug{
		{Name: "TCP flags do not matter", set: eachService(func(s *policy.Service) { s.Flags = policy.TCPFlags{} })},
		{Name: "TCP flags that must not be set may be", set: eachService(func(s *policy.Service) { s.Flags.Mask = s.Flags.Set })},
		{Name: "service ranges end one early", set: eachService(func(s *policy.Service) {
			if s.First < s.Last && (policy.HasPorts(s.Protocol) || policy.HasTypes(s.Protocol)) {
				s.Last--
			}
		})},
		{Name: "source ports end one early", set: eachService(func(s *policy.Service) {
			if s.SourceFirst < s.SourceLast {
				s.SourceLast--
			}
		})},
		{Name: "source ports do not matter", set: eachService(func(s *policy.Service) { s.SourceFirst, s.SourceLast = 0, 0 })},
		{Name: "source ports are those of another service of the rule", set: eachRule(func(r *policy.Rule) {
			list := r.Services
			for _, a := range list {
				for _, b := range list {
					if a.Protocol == b.Protocol && b.SourceLast != 0 {
						a.SourceFirst, a.SourceLast = b.SourceFirst, b.SourceLast
						r.Services = append(slices.Clip(r.Services), a)
					}
				}
			}
		})},
		{Name: "all ports are not all of a protocol", set: eachService(func(s *policy.Service) {
			if s.Whole() && policy.HasPorts(s.Protocol) {
				s.SourceFirst, s.SourceLast = 1, 0xffff
			}
		})},
		{Name: "service sets are lost beside services", set: eachRule(func(r *policy.Rule) {
			if r.Services != nil {
				r.ServiceSets = nil
			}
		})},
		{Name: "only the first service set of a rule counts", set: eachRule(func(r *policy.Rule) {
			r.ServiceSets = slices.Clip(r.ServiceSets[:min(1, len(r.ServiceSets))])
		})},
		{Name: "only the first service of a rule counts", set: eachRule(func(r *policy.Rule) {
			r.Services = slices.Clip(r.Services[:min(1, len(r.Services))])
		})},
	}
}

func headerBugs() []Bug {
	bug := func(name string, change func(*compile.Header)) Bug {
		return Bug{Name: name, program: func(p *compile.Program) {
			for i := range p.Policies {
				if h, err := p.Policies[i].Header(); err == nil {
					change(&h)
					p.Policies[i].SetHeader(h)
				}
			}
		}}
	}
	return []Bug{
		bug("sources and destinations swapped", func(h *compile.Header) {
			h.SrcClassrow, h.DstClassrow = h.DstClassrow, h.SrcClassrow
		}),
		bug("directions swapped", func(h *compile.Header) { h.DirRow[0], h.DirRow[1] = h.DirRow[1], h.DirRow[0] }),
		bug("monitored rules are those of a direction", func(h *compile.Header) {
			h.Parts[compile.TiersMax-1] = compile.Part{DirRow: h.DirRow, Sportindex: h.Sportindex}
		}),
		bug("the last rule is monitored", func(h *compile.Header) { h.Rules = max(1, h.Rules) - 1 }),
		bug("Pass leads two tiers on", func(h *compile.Header) { copy(h.Parts[:compile.TiersMax-2], h.Parts[1:]) }),
		{Name: "Pass forgets source ports", program: func(p *compile.Program) {
			for i := range p.Policies {
				h, err := p.Policies[i].Header()
				if err != nil {
					continue
				}
				for i := range h.Parts {
					h.Parts[i].Sportindex = 0
				}
				p.Policies[i].SetHeader(h)
				for n := 0; h.Flagindex != 0 && n < 32*int(h.Meta-h.Flagparts); n++ {
					if n%(compile.TiersMax+1) > 0 { // not of all tiers
						clear(p.Policies[i].Pages[int(h.Flagparts)+n/32][n%32*16+8:][:4])
					}
				}
			}
		}},
		bug("wrong default", func(h *compile.Header) { h.DefaultAction ^= 1 }),
		bug("wrong counter of the default", func(h *compile.Header) { h.DefaultCounter++ }),
		bug("without a service like with any", func(h *compile.Header) { h.SvcNoneRow = h.DirRow[0] }),
		bug("the last class is missing", func(h *compile.Header) { h.Classes-- }),
	}
}

func tableBugs() []Bug {
	bug := func(name string, change func(h compile.Header, pages []compile.Page)) Bug {
		return Bug{Name: name, program: func(p *compile.Program) {
			for i := range p.Policies {
				if h, err := p.Policies[i].Header(); err == nil {
					change(h, p.Policies[i].Pages)
				}
			}
		}}
	}
	eachWord := func(change func(i int, word uint64) uint64) func(h compile.Header, pages []compile.Page) {
		return func(h compile.Header, pages []compile.Page) {
			rows := pages[h.Rows:h.Svcindex]
			for i := range len(rows) * compile.PageSize / 8 {
				b := rows[i*8/compile.PageSize][i*8%compile.PageSize:]
				binary.NativeEndian.PutUint64(b, change(i%int(h.Words), binary.NativeEndian.Uint64(b)))
			}
		}
	}
	return []Bug{
		bug("chunks shifted by one", func(h compile.Header, pages []compile.Page) {
			for _, page := range pageRange(pages, h.Svcindex, h.Svcchunk) {
				rotate(page)
			}
		}),
		bug("services shifted by one", func(h compile.Header, pages []compile.Page) {
			for _, page := range pageRange(pages, h.Svcchunk, h.Meta) {
				rotate(page)
			}
		}),
		bug("TCP and UDP swapped", func(h compile.Header, pages []compile.Page) {
			pages[h.Svcindex], pages[h.Svcindex+1] = pages[h.Svcindex+1], pages[h.Svcindex]
		}),
		bug("ICMP and ICMPv6 swapped", func(h compile.Header, pages []compile.Page) {
			pages[h.Svcindex+2], pages[h.Svcindex+3] = pages[h.Svcindex+3], pages[h.Svcindex+2]
		}),
		bug("rules past the first word are lost", eachWord(func(i int, word uint64) uint64 {
			if i > 0 {
				return 0
			}
			return word
		})),
		bug("the highest bit of every word is lost", eachWord(func(_ int, word uint64) uint64 { return word &^ (1 << 63) })),
		bug("row 0 has every rule", func(h compile.Header, pages []compile.Page) {
			for rule := range h.Rules {
				word := pages[h.Rows][8*(rule/64):]
				binary.NativeEndian.PutUint64(word, binary.NativeEndian.Uint64(word)|1<<(rule%64))
			}
		}),
		bug("each row loses its first rule", eachWord(func(_ int, word uint64) uint64 { return word & (word - 1) })),
		bug("monitored rules stand before all", func(h compile.Header, pages []compile.Page) {
			for i := int(h.Rules); i < 32*(len(pages)-int(h.Meta)); i++ {
				flags := pages[int(h.Meta)+i/32][i%32*16+12:]
				binary.NativeEndian.PutUint32(flags, binary.NativeEndian.Uint32(flags)&0xffff)
			}
		}),
		bug("rules swapped", func(h compile.Header, pages []compile.Page) {
			if h.Rules > 1 {
				page := &pages[h.Meta]
				a, b := [16]byte(page[:16]), [16]byte(page[16:32])
				copy(page[:16], b[:])
				copy(page[16:32], a[:])
			}
		}),
	}
}

func pageRange(pages []compile.Page, from, to uint32) (out []*compile.Page) {
	for i := from; i < to; i++ {
		out = append(out, &pages[i])
	}
	return out
}

// rotate moves every 16-bit entry of a page one place on.
func rotate(p *compile.Page) {
	old := *p
	copy(p[2:], old[:])
	copy(p[:2], old[len(old)-2:])
}

func addrBugs() []Bug {
	v4 := netip.MustParsePrefix("::ffff:0:0/96")
	drop := func(is func(i int, a compile.AddrClass) bool) func(*compile.Program) {
		return func(p *compile.Program) {
			var kept []compile.AddrClass
			for i, a := range p.Addrs {
				if !is(i, a) {
					kept = append(kept, a)
				}
			}
			p.Addrs = kept
		}
	}
	return []Bug{
		{Name: "a prefix is lost", program: func(p *compile.Program) {
			if n := len(p.Addrs); n > 0 {
				p.Addrs = slices.Delete(p.Addrs, n/2, n/2+1)
			}
		}},
		{Name: "the last prefix of the table is lost", program: func(p *compile.Program) {
			p.Addrs = p.Addrs[:max(0, len(p.Addrs)-1)]
		}},
		{Name: "single addresses are lost", program: drop(func(_ int, a compile.AddrClass) bool { return a.Bits == 128 })},
		{Name: "IPv6 ranges mean IPv4, too", program: drop(func(_ int, a compile.AddrClass) bool { return a.Prefix() == v4 })},
		{Name: "classes off by one", program: func(p *compile.Program) {
			for i := range p.Addrs {
				p.Addrs[i].Class++
			}
		}},
	}
}
