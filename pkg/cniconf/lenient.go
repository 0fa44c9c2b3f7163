package cniconf

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// Version reads the cniVersion of a config, or "" if there is none to be read.
// It never fails: DEL has to work with whatever is left of a config.
func Version(stdin []byte) string {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if json.Unmarshal(stdin, &head) != nil {
		return ""
	}
	return head.CNIVersion
}

// Chained says whether a config has the result of a plugin before us, however
// wrong it is otherwise.
func Chained(stdin []byte) bool {
	var fields map[string]json.RawMessage
	if json.Unmarshal(stdin, &fields) != nil {
		return false
	}
	prev, ok := fields["prevResult"]
	return ok && string(prev) != "null"
}

// IPAM reads which plugin gives out addresses, or "" where none can be read: DEL has
// to have it take back what it gave.
func IPAM(stdin []byte) string {
	var fields, ipam map[string]json.RawMessage
	var name string
	if json.Unmarshal(stdin, &fields) != nil || json.Unmarshal(fields["ipam"], &ipam) != nil ||
		json.Unmarshal(ipam["type"], &name) != nil || !validPlugin(name) {
		return ""
	}
	return name
}

// The keys by which a runtime names living attachments; the second one is what
// spec 1.1.0's drafts said and libcni still sends.
const (
	validKey       = "cni.dev/valid-attachments"
	validKeyLegacy = "cni.dev/attachments"
)

// GCConfig is what GC needs.
type GCConfig struct {
	// Name of the CNI network whose attachments are listed.
	Name  string
	Valid []attach.Key
}

// ParseGC reads network name and living attachments. Unlike DEL it fails on
// anything doubtful, as a list half read would end living ports. A missing
// list is refused, for it cannot be told from an empty one. Errors are those
// of Parse.
func ParseGC(stdin []byte) (*GCConfig, error) {
	o, err := decodeObject(stdin)
	if err != nil {
		return nil, &DecodeError{err}
	}
	p := &parser{fields: o.fields}
	c := new(GCConfig)
	c.Name, _ = p.text("name")
	if !p.has("name") {
		p.bad("name", "missing", "name the CNI network")
	}
	key := validKey
	if _, ok := o.fields[validKey]; !ok {
		key = validKeyLegacy
	}
	var list []struct {
		ContainerID string `json:"containerID"`
		IfName      string `json:"ifname"`
	}
	raw, ok := o.fields[key]
	switch {
	case !ok:
		p.bad(validKey, "missing", "list the attachments that are in use; [] for none")
	case slices.Contains(o.twice, key):
		p.bad(key, "is written twice", "write it once")
	case json.Unmarshal(raw, &list) != nil:
		p.bad(key, short(raw)+" is not a list of attachments", `write [{"containerID": "...", "ifname": "..."}]`)
	}
	for _, a := range list {
		if a.ContainerID == "" || a.IfName == "" {
			p.bad(key, "an attachment lacks containerID or ifname", `write [{"containerID": "...", "ifname": "..."}]`)
			break
		}
		c.Valid = append(c.Valid, attach.Key{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return c, nil
}
