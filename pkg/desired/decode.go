package desired

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// decoder fills a struct from a YAML node by its json tags, and is strict where
// a manifest that says something else than its author meant could follow:
// unknown and repeated keys, other types, keys without a value, aliases. It goes
// on after an error, so that one look at a file tells all that is wrong with it.
type decoder struct {
	offset   int            // of the document in its file, in lines
	lines    map[string]int // by field path
	problems []Problem      // Line, Field and Message are set
}

func newDecoder(offset int) *decoder {
	return &decoder{offset: offset, lines: map[string]int{}}
}

// lineOf gives the line of a field, or of the nearest one that encloses it.
func lineOf(lines map[string]int, path string) int {
	for {
		if line, ok := lines[path]; ok {
			return line
		}
		if path == "" {
			return 0
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// covered says whether a problem was already found at the path or around it.
func (d *decoder) covered(path string) bool {
	for _, p := range d.problems {
		rest, ok := strings.CutPrefix(path, p.Field)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

func (d *decoder) fail(n *yaml.Node, path, format string, args ...any) {
	d.problems = append(d.problems, Problem{
		Line: n.Line + d.offset, Field: path, Message: fmt.Sprintf(format, args...),
	})
}

// decode fills v, which can be set, from n.
func (d *decoder) decode(n *yaml.Node, v reflect.Value, path string) {
	if _, ok := d.lines[path]; !ok {
		d.lines[path] = n.Line + d.offset
	}
	if n.Kind == yaml.AliasNode {
		d.fail(n, path, "aliases are not followed: write the value out")
		return
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		d.fail(n, path, "has no value: give it one or leave the key out")
		return
	}
	if v.Type() == reflect.TypeFor[metav1.ObjectMeta]() {
		d.decodeMeta(n, v.Addr().Interface().(*metav1.ObjectMeta), path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		d.decodeStruct(n, v, path)
	case reflect.Map:
		d.decodeMap(n, v, path)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			d.wrongType(n, path, "a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, item := range n.Content {
			d.decode(item, v.Index(i), path+"["+strconv.Itoa(i)+"]")
		}
	default:
		d.decodeScalar(n, v, path)
	}
}

func (d *decoder) decodeScalar(n *yaml.Node, v reflect.Value, path string) {
	tag := ""
	if n.Kind == yaml.ScalarNode {
		tag = n.ShortTag()
	}
	switch v.Kind() {
	case reflect.String:
		switch {
		case n.Kind == yaml.ScalarNode && tag != "!!str":
			d.fail(n, path, "%s is not a text in YAML: want quotes, as %q", clip(n.Value), clip(n.Value))
		case tag != "!!str":
			d.wrongType(n, path, "a text")
		case n.Value == "":
			d.fail(n, path, "is empty: give it a value or leave the key out")
		default:
			v.SetString(n.Value)
		}
	case reflect.Bool:
		if tag != "!!bool" || n.Value != "true" && n.Value != "false" {
			d.wrongType(n, path, "true or false")
			return
		}
		v.SetBool(n.Value == "true")
	case reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		// One spelling a number: 0100 is octal to some and decimal to others.
		if tag != "!!int" || err != nil || strconv.FormatInt(i, 10) != n.Value {
			d.wrongType(n, path, "a whole number in plain decimal")
			return
		}
		if v.OverflowInt(i) {
			d.fail(n, path, "%d is out of range: want a number of at most %d bits", i, v.Type().Bits()-1)
			return
		}
		v.SetInt(i)
	default:
		d.fail(n, path, "cannot be given in a manifest: leave it out")
	}
}

func (d *decoder) decodeMap(n *yaml.Node, v reflect.Value, path string) {
	v.Set(reflect.MakeMap(v.Type()))
	d.eachKey(n, path, func(key string) string { return path + "[" + key + "]" }, func(key, value *yaml.Node, at string) {
		if value.Kind == yaml.ScalarNode && value.ShortTag() == "!!str" {
			v.SetMapIndex(reflect.ValueOf(key.Value), reflect.ValueOf(value.Value)) // "" is a fine label
			return
		}
		item := reflect.New(v.Type().Elem()).Elem()
		d.decode(value, item, at)
		v.SetMapIndex(reflect.ValueOf(key.Value), item)
	})
}

func (d *decoder) decodeStruct(n *yaml.Node, v reflect.Value, path string) {
	fields, names := jsonFields(v)
	d.eachKey(n, path, func(key string) string { return child(path, key) }, func(key, value *yaml.Node, at string) {
		f, ok := fields[key.Value]
		if !ok {
			d.fail(key, at, "unknown field: want one of %s", strings.Join(names, ", "))
			return
		}
		d.decode(value, f, at)
	})
}

// decodeMeta reads what a manifest may say of its object; the API server writes
// the rest, and a namespace would be without effect.
func (d *decoder) decodeMeta(n *yaml.Node, m *metav1.ObjectMeta, path string) {
	var own struct {
		Name        string            `json:"name"`
		Labels      map[string]string `json:"labels"`
		Annotations map[string]string `json:"annotations"`
	}
	d.decodeStruct(n, reflect.ValueOf(&own).Elem(), path)
	m.Name, m.Labels, m.Annotations = own.Name, own.Labels, own.Annotations
}

// eachKey visits a mapping's keys, each once, and notes their lines.
func (d *decoder) eachKey(n *yaml.Node, path string, at func(key string) string, visit func(key, value *yaml.Node, at string)) {
	if n.Kind != yaml.MappingNode {
		d.wrongType(n, path, "a mapping (key: value)")
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fail(key, path, "has a key that is not a plain word")
			continue
		}
		if line, ok := first[key.Value]; ok {
			d.fail(key, at(key.Value), "key is given twice, first in line %d: want it once", line)
			continue
		}
		first[key.Value] = key.Line + d.offset
		d.lines[at(key.Value)] = key.Line + d.offset
		visit(key, value, at(key.Value))
	}
}

func (d *decoder) wrongType(n *yaml.Node, path, want string) {
	found := "something else"
	switch {
	case n.Kind == yaml.MappingNode:
		found = "a mapping"
	case n.Kind == yaml.SequenceNode:
		found = "a list"
	case n.Kind == yaml.ScalarNode:
		found = strconv.Quote(clip(n.Value))
	}
	d.fail(n, path, "is %s: want %s", found, want)
}

// jsonFields maps json names to a struct's fields, those of inlined structs
// included, and lists the names in the order of declaration.
func jsonFields(v reflect.Value) (map[string]reflect.Value, []string) {
	fields, names := map[string]reflect.Value{}, []string(nil)
	for i := range v.NumField() {
		name, options, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		if name == "" && options == "inline" {
			inner, more := jsonFields(v.Field(i))
			for k, f := range inner {
				fields[k] = f
			}
			names = append(names, more...)
			continue
		}
		if name == "status" { // is what became of an object, not what people want
			continue
		}
		fields[name] = v.Field(i)
		names = append(names, name)
	}
	return fields, names
}

func child(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// clip keeps messages readable when a value is not.
func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "..."
	}
	return s
}
