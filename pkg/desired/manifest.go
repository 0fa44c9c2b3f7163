package desired

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

// key identifies an object for as long as it lives, in whatever file it is.
type key struct{ Kind, Name string }

func (k key) String() string { return k.Kind + " " + k.Name }

func (k key) compare(o key) int {
	if k.Kind != o.Kind {
		return strings.Compare(k.Kind, o.Kind)
	}
	return strings.Compare(k.Name, o.Name)
}

// object is one document of a file that says which object it describes.
type object struct {
	key
	file  string
	lines map[string]int // by field path; "" is the document itself
	value any            // Trunk, Network, Policy, AddressSet, ServiceSet or Check; nil if the document is refused
}

// manifest is what a file holds.
type manifest struct {
	file    string
	objects []object
	// unsure, if not "", says that a part of the file could not be attributed
	// to an object, and why. An object that used to be in this file may still
	// be meant by it.
	unsure   string
	problems []Problem
}

// unreadable is why a file leaves doubts about what it holds.
const unreadable = "cannot be read in full"

// parseManifest reads a file of any number of YAML documents. A document that
// is not even YAML hides none of its neighbours.
func parseManifest(file string, data []byte) manifest {
	m := manifest{file: file}
	if len(bytes.TrimSpace(data)) == 0 {
		m.unsure = "is empty" // an editor may be about to write it
		return m
	}
	if !utf8.Valid(data) {
		m.unsure = unreadable
		bad := len(data) - len(bytes.ToValidUTF8(data, nil))
		m.problems = []Problem{{File: file, Line: 1, Message: fmt.Sprintf("has %d bytes that are not UTF-8: want UTF-8", bad)}}
		return m
	}
	offset := 0
	for _, chunk := range splitDocuments(data) {
		m.parseChunk(chunk, offset)
		offset += bytes.Count(chunk, []byte("\n"))
	}
	for i := range m.problems {
		m.problems[i].File = file
	}
	return m
}

// splitDocuments cuts before every line that starts a document: "---" in the
// first column cannot be anything else (YAML 1.2.2, 9.1.2).
func splitDocuments(data []byte) [][]byte {
	var out [][]byte
	start := 0
	for pos := 0; pos < len(data); {
		end := len(data)
		if i := bytes.IndexByte(data[pos:], '\n'); i >= 0 {
			end = pos + i + 1
		}
		rest, ok := bytes.CutPrefix(data[pos:end], []byte("---"))
		marker := ok && (len(rest) == 0 || bytes.IndexByte([]byte(" \t\r\n"), rest[0]) >= 0)
		if marker && pos > start {
			out = append(out, data[start:pos])
			start = pos
		}
		pos = end
	}
	return append(out, data[start:])
}

func (m *manifest) parseChunk(chunk []byte, offset int) {
	nodes, err := parseYAML(chunk)
	for _, n := range nodes {
		m.parseDocument(n, offset)
	}
	if err != nil {
		m.unsure = unreadable
		m.problems = append(m.problems, Problem{
			Line: syntaxLine(chunk, err) + offset, Message: "is not YAML: " + syntaxText(err),
		})
	}
}

// parseYAML gives the documents in front of the first error, without empty ones.
func parseYAML(chunk []byte) ([]*yaml.Node, error) {
	var out []*yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(chunk))
	for {
		var doc yaml.Node
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if len(doc.Content) == 1 && doc.Content[0].ShortTag() != "!!null" {
			out = append(out, doc.Content[0])
		}
	}
}

// syntaxLine finds where the parser gave up, which its error does not say: that
// names the start of what encloses the place. The line is the last one of the
// shortest text that fails in the same way.
func syntaxLine(chunk []byte, err error) int {
	lines := bytes.SplitAfter(bytes.TrimRight(chunk, "\n"), []byte("\n"))
	ends := make([]int, len(lines))
	for i, end := 0, 0; i < len(lines); i++ {
		end += len(lines[i])
		ends[i] = end
	}
	return 1 + sort.Search(len(lines)-1, func(i int) bool {
		_, got := parseYAML(chunk[:ends[i]])
		return got != nil && got.Error() == err.Error()
	})
}

// syntaxText is the parser's message without its line.
func syntaxText(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if _, after, ok := strings.Cut(rest, ": "); ok {
			return after
		}
	}
	return text
}

func (m *manifest) parseDocument(root *yaml.Node, offset int) {
	if root.Kind != yaml.MappingNode {
		m.unsure = unreadable
		m.problems = append(m.problems, Problem{Line: root.Line + offset,
			Message: "is no object: want a mapping with apiVersion, kind, metadata and spec"})
		return
	}
	k := key{Kind: text(root, "kind"), Name: text(root, "metadata", "name")}
	d := newDecoder(offset)
	o := object{key: k, lines: d.lines}
	if !slices.Contains(v1alpha1.Kinds(), k.Kind) {
		d.fail(at(root, "kind"), "kind", "%s: want %s; this version knows no other kinds",
			found(k.Kind), strings.Join(v1alpha1.Kinds(), ", "))
	} else {
		if v := text(root, "apiVersion"); v != v1alpha1.APIVersion {
			d.fail(at(root, "apiVersion"), "apiVersion", "%s: want %s", found(v), v1alpha1.APIVersion)
		}
		o.value = d.object(root, k.Kind)
	}
	for _, p := range d.problems {
		p.Kind, p.Name = k.Kind, k.Name
		m.problems = append(m.problems, p)
	}
	if len(d.problems) > 0 {
		o.value = nil
	}
	if !slices.Contains(v1alpha1.Kinds(), k.Kind) || k.Name == "" {
		m.unsure = unreadable
		return
	}
	o.file = m.file
	m.objects = append(m.objects, o)
}

// found words a text that may be absent.
func found(s string) string {
	if s == "" {
		return "is missing, or no text"
	}
	return "is " + strconv.Quote(clip(s))
}

// object decodes, checks and converts a document of a known kind.
func (d *decoder) object(root *yaml.Node, kind string) (value any) {
	var errs field.ErrorList
	var rules []v1alpha1.FirewallRule
	switch kind {
	case v1alpha1.KindVLANTrunk:
		var o v1alpha1.VLANTrunk
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromTrunk(&o)
	case v1alpha1.KindVLANNetwork:
		var o v1alpha1.VLANNetwork
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromNetwork(&o)
	case v1alpha1.KindFirewallPolicy:
		var o v1alpha1.FirewallPolicy
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromPolicy(&o)
		errs, rules = append(errs, noVMs(&o)...), o.Spec.Rules
	case v1alpha1.KindAddressSet:
		var o v1alpha1.AddressSet
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromAddressSet(&o)
	case v1alpha1.KindServiceSet:
		var o v1alpha1.ServiceSet
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromServiceSet(&o)
	case v1alpha1.KindReachabilityCheck:
		var o v1alpha1.ReachabilityCheck
		d.decode(root, reflect.ValueOf(&o).Elem(), "")
		value, errs = FromCheck(&o)
	default:
		errs = field.ErrorList{field.InternalError(nil, fmt.Errorf("no decoder for kind %s", kind))}
	}
	// What is wrong with the YAML explains what is wrong with the object.
	decoded := decoder{problems: d.problems}
	for _, e := range errs {
		if !decoded.covered(e.Field) {
			d.problems = append(d.problems, Problem{
				Line: lineOf(d.lines, e.Field), Field: e.Field, Message: inRule(rules, e.Field) + e.ErrorBody(),
			})
		}
	}
	return value
}

// noVMs refuses what selects ports by labels: a directory does not say whose a port
// is, nor who may say so.
func noVMs(p *v1alpha1.FirewallPolicy) (errs field.ErrorList) {
	for i, a := range p.Spec.AppliedTo {
		if a.VM != nil {
			errs = append(errs, field.Forbidden(field.NewPath("spec", "appliedTo").Index(i).Child("vm"),
				"labels of VMs are known to Kubernetes alone: in a directory of manifests want network, addressSet or any: true"))
		}
	}
	return errs
}

// at gives the node of a mapping's key, or the mapping.
func at(n *yaml.Node, name string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == name {
			return n.Content[i]
		}
	}
	return n
}

// text looks a text up by its path, and gives "" if there is none.
func text(n *yaml.Node, path ...string) string {
	for _, name := range path {
		if n.Kind != yaml.MappingNode {
			return ""
		}
		var next *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == name {
				next = n.Content[i+1]
				break
			}
		}
		if next == nil {
			return ""
		}
		n = next
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" {
		return ""
	}
	return n.Value
}
