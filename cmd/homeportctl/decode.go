package main

import (
	"encoding/json"
	"fmt"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// portList is wire.PortList as it is read.
type portList struct {
	Items []portItem `json:"items"`
}

// portItem reads a port's state by its name. A state that a newer agent has is
// shown as "unknown" instead of hiding all ports.
type portItem struct {
	wire.Port
	StateName string `json:"state"`
}

// ports is the list with its states set.
func (l portList) ports() wire.PortList {
	var out wire.PortList
	for _, it := range l.Items {
		p := it.Port
		p.State = parseState(it.StateName)
		out.Items = append(out.Items, p)
	}
	return out
}

func parseState(name string) attach.State {
	for s := attach.Dark; s <= attach.Released; s++ {
		if s.String() == name {
			return s
		}
	}
	return attach.Released + 1
}

// keepItems is a list as the agent sent it, with only the items that keep says.
func keepItems[T any](raw json.RawMessage, keep func(T) bool) (json.RawMessage, error) {
	var list struct {
		wire.TypeMeta
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read the agent's list: %w", err)
	}
	kept := []json.RawMessage{}
	for _, it := range list.Items {
		var v T
		if err := json.Unmarshal(it, &v); err != nil {
			return nil, fmt.Errorf("read the agent's list: %w", err)
		}
		if keep(v) {
			kept = append(kept, it)
		}
	}
	list.Items = kept
	return json.Marshal(list)
}
