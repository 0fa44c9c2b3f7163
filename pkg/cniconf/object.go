package cniconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// object is a JSON object with the spelling and order of its keys kept, which
// encoding/json forgets when it decodes into a struct.
type object struct {
	fields map[string]json.RawMessage
	order  []string // each key once
	twice  []string // keys that were written more than once
}

func decodeObject(b []byte) (*object, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	open, err := d.Token()
	if errors.Is(err, io.EOF) {
		return nil, errors.New("it is empty")
	}
	if err != nil {
		return nil, err
	}
	if open != json.Delim('{') {
		return nil, fmt.Errorf("it begins with %v", open)
	}
	o := &object{fields: map[string]json.RawMessage{}}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		k, ok := key.(string)
		if !ok {
			return nil, fmt.Errorf("%v stands where a key should", key)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		if _, ok := o.fields[k]; !ok {
			o.order = append(o.order, k)
		} else if !slices.Contains(o.twice, k) {
			o.twice = append(o.twice, k)
		}
		o.fields[k] = v
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the object")
	}
	return o, nil
}

// short quotes a piece of the config for an error.
func short(b []byte) string {
	const limit = 40
	if len(b) > limit {
		return string(b[:limit]) + "..."
	}
	return string(b)
}
