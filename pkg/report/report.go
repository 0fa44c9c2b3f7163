// Package report turns what was found out into text: the views of a node's
// agent for homeportctl, and the answers of bridge-agent doctor. Measuring is
// done elsewhere; nothing here does I/O but to the io.Writer it was given, so
// that the same value always prints the same.
package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// Format is how a report is written, the value of -o.
type Format string

// The formats. Table and Wide are for people and may change; JSON and YAML
// carry apiVersion and kind and are stable.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Formats lists every format, the default first.
func Formats() []Format { return []Format{Table, Wide, JSON, YAML} }

// ParseFormat reads a name as -o has it; the error lists the right ones.
func ParseFormat(s string) (Format, error) {
	var names []string
	for _, f := range Formats() {
		if s == string(f) {
			return f, nil
		}
		names = append(names, string(f))
	}
	return "", fmt.Errorf("output format %q is unknown: want %s", s, strings.Join(names, ", "))
}

// IsText says whether the format is one for people.
func (f Format) IsText() bool { return f != JSON && f != YAML }

// Printer writes reports to W. The zero Format is Table. Color adds SGR
// sequences to text; whether W is a terminal is the caller's to know. Now is what
// ages are told from; without it, text has times.
type Printer struct {
	W      io.Writer
	Format Format
	Color  bool
	Now    time.Time
}

// Document writes v, which may be a json.RawMessage, as JSON or as YAML. JSON
// is indented and its keys stay in v's order, fields unknown to this version
// included.
func (p Printer) Document(v any) error {
	var compact bytes.Buffer
	enc := json.NewEncoder(&compact)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	if p.Format == YAML {
		out, err := yaml.JSONToYAML(compact.Bytes())
		if err != nil {
			return fmt.Errorf("encode the report: %w", err)
		}
		return p.write(out)
	}
	var out bytes.Buffer
	if err := json.Indent(&out, compact.Bytes(), "", "  "); err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	return p.write(out.Bytes())
}

func (p Printer) write(b []byte) error {
	if _, err := p.W.Write(b); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// text starts a report for people.
func (p Printer) text() *page { return &page{color: p.Color, wide: p.Format == Wide} }

// flush writes the page at once: a report is whole or not there.
func (p Printer) flush(pg *page) error { return p.write(pg.buf.Bytes()) }
