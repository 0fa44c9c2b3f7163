package agent

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/explain"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// trace says what a port's own program would do with a packet now, by its state,
// connections and rules. No packet is sent, and nothing is counted.
func (a *Agent) trace(req *wire.ViewRequest) (any, error) {
	if _, err := explain.Packet(req.Packet, policy.MAC{}); err != nil {
		return nil, err
	}
	rec, set, _, err := a.rulesOf(req.Port)
	if err != nil {
		return nil, err
	}
	p, err := explain.Packet(req.Packet, macOfPort(&rec))
	if err != nil {
		return nil, err
	}
	if req.Packet.VLAN > 4094 {
		return nil, attach.Invalid("packet.vlan", fmt.Sprintf("%d is no VLAN", req.Packet.VLAN), "want 1 to 4094, or none for a frame without a tag")
	}
	e, err := a.kernel.dp.Trace(rec.HostIfIndex, datapath.Hook(p.Direction), frameOf(p, req.Packet.VLAN))
	if errors.Is(err, datapath.ErrNoRecord) || errors.Is(err, unix.ENODEV) {
		return nil, &attach.Error{Kind: attach.Unavailable, Field: "port", Message: fmt.Sprintf("it has no program to ask: %v", err), Remedy: "see homeportctl ports whether it has ended meanwhile"}
	}
	if err != nil {
		return nil, err
	}
	out := wire.Trace{TypeMeta: kind("Trace"), Key: rec.Key, Interface: rec.HostIfName, Pod: rec.Pod, Rules: set.ID(),
		Packet:  explain.PacketText(req.Packet, p),
		Verdict: wire.EventAllow, Stage: e.Reason.Stage(), Reason: e.Reason.String(), Text: e.Reason.Text(), Ends: e.Ended,
		Rule: a.events.rule(e.Rule, e.Generation), Monitored: a.events.rule(e.Monitored, 0)}
	if p.Protocol == policy.TCP && req.Packet.TCPFlags == "" {
		out.Packet += ", " + explain.TCPFlags(p.Flags)
	}
	if req.Packet.VLAN != 0 {
		out.Packet += fmt.Sprintf(", VLAN %d", req.Packet.VLAN)
	}
	if e.Reason.Drops() {
		out.Verdict = wire.EventDrop
	}
	out.State, _ = a.kernel.State(rec.HostIfIndex)
	return out, nil
}

// frameOf is a frame of the packet as the port sees it. Checksums are 0, as the programs
// do not look at them.
func frameOf(p policy.Packet, tag uint16) []byte {
	b := append(append([]byte{}, p.DstMAC[:]...), p.SrcMAC[:]...)
	if tag != 0 {
		b = append(b, 0x81, 0x00)
		b = binary.BigEndian.AppendUint16(b, tag)
	}
	b = binary.BigEndian.AppendUint16(b, p.EtherType)
	if !p.IP {
		const least = 46 // of what a frame carries
		return append(b, make([]byte, least)...)
	}
	l4 := transport(p)
	src, dst := p.Src.AsSlice(), p.Dst.AsSlice()
	hops := byte(64)
	if explain.IsDiscovery(p) {
		hops = 255 // as it has on its own link
	}
	if p.Src.Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(20+len(l4)))
		b = append(b, 0, 0, 0x40, 0, hops, p.Protocol, 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(len(l4)))
		b = append(b, p.Protocol, hops)
	}
	return append(append(append(b, src...), dst...), l4...)
}

// transport is what follows the IP header.
func transport(p policy.Packet) []byte {
	b := make([]byte, 20)
	switch {
	case policy.HasTypes(p.Protocol):
		binary.BigEndian.PutUint16(b, p.Service)
		return b
	case !policy.HasPorts(p.Protocol):
		return b
	}
	binary.BigEndian.PutUint16(b, p.SourcePort)
	binary.BigEndian.PutUint16(b[2:], p.Service)
	switch p.Protocol {
	case policy.TCP:
		b[12], b[13] = 5<<4, p.Flags
	case policy.UDP:
		binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	case policy.SCTP: // an INIT, which has no verification tag
		b[12] = 1
	}
	return b
}
