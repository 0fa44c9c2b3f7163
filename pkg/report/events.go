package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Events writes what became of packets, one line each, oldest first: as text, as JSON
// lines, or as YAML documents. raw are the events as the agent sent them.
func (p Printer) Events(list []wire.Event, raw []json.RawMessage) error {
	if p.Format.IsText() {
		pg := p.text()
		for i := range list {
			pg.event(&list[i])
		}
		return p.flush(pg)
	}
	for _, r := range raw {
		if p.Format == YAML {
			if err := p.write([]byte("---\n")); err != nil {
				return err
			}
			if err := p.Document(r); err != nil {
				return err
			}
			continue
		}
		var line bytes.Buffer
		if err := json.Compact(&line, r); err != nil {
			return fmt.Errorf("encode the report: %w", err)
		}
		line.WriteByte('\n')
		if err := p.write(line.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// event is one line.
func (p *page) event(e *wire.Event) {
	verdict := say(e.Verdict)
	switch e.Verdict {
	case wire.EventAllow:
		verdict.tone = good
	case wire.EventDrop:
		verdict.tone = bad
	}
	layout := "15:04:05.000"
	if p.wide {
		layout = "2006-01-02T15:04:05.000Z"
	}
	p.put(say(e.Time.UTC().Format(layout)), len(layout)+1)
	p.put(verdict, len(wire.EventAllow)+1)
	p.put(say(e.Direction), len("Out")+1)
	parts := []string{portOf(e.Interface, e.Pod), packetOf(e)}
	if p.wide {
		parts = append(parts, fmt.Sprintf("vlan %d, %v -> %v, %d bytes", e.VLAN, e.SourceMAC, e.DestinationMAC, e.Length))
	}
	why := e.Reason
	if e.Rule != nil {
		why += " by " + eventRule(e.Rule)
		if e.Rule.Label != "" {
			why += " [" + e.Rule.Label + "]"
		}
	}
	if m := e.Monitored; m != nil {
		why += " (monitored: " + eventRule(m) + " would " + m.Action + ")"
	}
	p.line(say(strings.Join(append(parts, why), "  ")))
}

// packetOf is "from -> to protocol flags".
func packetOf(e *wire.Event) string {
	var from, to string
	switch {
	case !e.Source.IsValid():
		from, to = e.SourceMAC.String(), e.DestinationMAC.String()
	case e.SourcePort != 0 || e.DestinationPort != 0:
		from = netip.AddrPortFrom(e.Source, e.SourcePort).String()
		to = netip.AddrPortFrom(e.Destination, e.DestinationPort).String()
	default:
		from, to = e.Source.String(), e.Destination.String()
	}
	text := from + " -> " + to
	if e.Protocol != "" {
		text += " " + e.Protocol
	}
	if e.TCPFlags != "" {
		text += " " + e.TCPFlags
	}
	return text
}

// eventRule names a rule in one word, or a network's default.
func eventRule(r *wire.EventRule) string {
	if r.Policy == "" {
		return defaultOf(r.Network)
	}
	return fmt.Sprintf("%s/%d", r.Policy, r.ID)
}
