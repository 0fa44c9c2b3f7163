package agent

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// verdict says what the rules in force of a port do with the first packet of a
// connection, and which of them. It is the reference evaluator's word: no packet is
// sent, and nothing is counted.
func (a *Agent) verdict(req *wire.ViewRequest) (any, error) {
	if req.Port == nil || req.Packet == nil {
		return nil, attach.Invalid("port", "port and packet must both be there", "name a port, and what it would see")
	}
	p, err := readPacket(req.Packet)
	if err != nil {
		return nil, err
	}
	ports := a.table.list()
	i := slices.IndexFunc(ports, func(it item) bool { return it.rec.Key == *req.Port })
	if i < 0 {
		return nil, attach.Invalid("port", "it is not attached on this node", "see homeportctl ports")
	}
	rec := ports[i].rec
	id := rec.Config().Policy
	a.mu.RLock()
	set, ok := a.world.Sets[id]
	counters := a.world.Counters
	a.mu.RUnlock()
	if !ok {
		return nil, &attach.Error{Kind: attach.Unavailable, Field: "port", Message: fmt.Sprintf("its rules %q are not in force yet", id), Remedy: "see homeportctl status"}
	}
	out := wire.Verdict{TypeMeta: kind("Verdict"), Key: rec.Key, Interface: rec.HostIfName, Pod: rec.Pod, Rules: id, Network: set.Network,
		Packet: fmt.Sprintf("%s, %v -> %v, %s", p.Direction, p.Src, p.Dst, req.Packet.Service)}
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	v := policy.Evaluate(&set, p)
	out.Action = v.Action.String()
	if v.Rule < 0 {
		return out, nil
	}
	r := set.Rules[v.Rule]
	hits, err := a.kernel.RuleHits(compile.Counters{r.Key: counters[r.Key]})
	if err != nil {
		return nil, err
	}
	rule := ruleView(r, hits[r.Key])
	out.Policy, out.Rule = r.Key.Policy, &rule
	return out, nil
}

// readPacket checks a packet that somebody wrote.
func readPacket(in *wire.Packet) (policy.Packet, error) {
	p := policy.Packet{IP: true, Src: in.Source.Unmap(), Dst: in.Destination.Unmap()}
	if err := p.Direction.UnmarshalText([]byte(in.Direction)); err != nil {
		return p, attach.Invalid("packet.direction", err.Error(), "want In or Out")
	}
	if !p.Src.IsValid() || p.Src.BitLen() != p.Dst.BitLen() {
		return p, attach.Invalid("packet.destination", fmt.Sprintf("%v and %v are not of one family", in.Source, in.Destination), "want both IPv4, or both IPv6")
	}
	if number, ok := strings.CutPrefix(in.Service, "protocol/"); ok {
		n, err := strconv.ParseUint(number, 10, 8)
		if err != nil {
			return p, attach.Invalid("packet.service", fmt.Sprintf("%q is no IP protocol", number), "want a number from 0 to 255, as 47")
		}
		p.Protocol = uint8(n)
		return p, nil
	}
	s, err := policy.ParseService(in.Service)
	if err != nil {
		return p, attach.Invalid("packet.service", err.Error(), "want one as tcp/443, udp/53 or icmp/8")
	}
	icmp := s.Protocol == policy.ICMP || s.Protocol == policy.ICMPv6
	if s.First != s.Last && !(icmp && s.First>>8 == s.Last>>8) {
		return p, attach.Invalid("packet.service", fmt.Sprintf("%q is more than one", in.Service), "want one as tcp/443, udp/53 or icmp/8")
	}
	p.Protocol, p.HasService, p.Service = s.Protocol, true, s.First // of an ICMP type without a code, code 0
	return p, nil
}
