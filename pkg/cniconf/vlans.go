package cniconf

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// wantID and wantItem are remedies.
const (
	wantID   = "give a VLAN from 1 to 4094"
	wantItem = `write items as {"id": 100} or {"minID": 100, "maxID": 110}`
)

// place reads where the port goes: a network by name, or bridge and VLANs.
func (p *parser) place(c *Config) {
	if p.has("network") {
		c.Network, _ = p.text("network")
		for _, k := range []string{"bridge", "vlan", "vlanTrunk", "nativeVlan"} {
			if p.has(k) {
				p.bad(k, "cannot stand beside network, which says it", "remove "+k+" or network")
			}
		}
		return
	}
	vlans, given := p.vlans()
	if !p.has("bridge") {
		if given {
			p.bad("bridge", "missing", "name the bridge that the VLANs are on, or give network alone")
		} else {
			p.bad("network", "missing", "name a VLANNetwork, or give bridge and vlan")
		}
		return
	}
	bridge, ok := p.text("bridge")
	if ok && !validIfName(bridge) {
		p.bad("bridge", fmt.Sprintf("%q is no interface name", bridge), "use 1 to 15 characters without / : and space")
	}
	if !given {
		p.bad("vlan", "missing", "give vlan for an access port, or vlanTrunk for a guest that tags; a port without a VLAN is not made")
	}
	c.Inline = &attach.Inline{Bridge: bridge, VLANs: vlans}
}

// vlans reads vlan, vlanTrunk and nativeVlan; given says that one of them is
// there. vlan alone is Access, vlanTrunk alone is Trunk with no untagged VLAN.
// With vlanTrunk, vlan means what it means to the reference bridge plugin: the
// VLAN of untagged frames; nativeVlan is the same by its own name. The untagged
// VLAN is taken out of the tagged ones: on a port a VLAN leaves in one form.
func (p *parser) vlans() (v attach.VLANs, given bool) {
	access, hasAccess := p.vlanID("vlan")
	native, hasNative := p.vlanID("nativeVlan")
	hasTrunk := p.has("vlanTrunk")
	if hasTrunk {
		v.Tagged = p.trunk()
	}
	given = hasAccess || hasNative || hasTrunk
	switch {
	case hasAccess && hasNative && access != native:
		p.bad("nativeVlan", fmt.Sprintf("%d is not the %d that vlan says", native, access), "give the untagged VLAN once, as nativeVlan")
	case hasNative && !hasTrunk:
		p.bad("nativeVlan", "goes with vlanTrunk", "write vlan for an access port, or add vlanTrunk")
	case !hasTrunk:
		v.Mode, v.PVID = vlan.Access, access
	case hasAccess:
		v.Mode, v.PVID = vlan.Native, access
	case hasNative:
		v.Mode, v.PVID = vlan.Native, native
	default:
		v.Mode = vlan.Trunk
	}
	if v.Mode == vlan.Native {
		v.Tagged.Remove(v.PVID)
	}
	return v, given
}

// vlanID reads one VLAN; has says that the key is there, good or not.
func (p *parser) vlanID(k string) (id vlan.ID, has bool) {
	if !p.has(k) {
		return 0, false
	}
	n, ok := p.number(k)
	if ok && (n < int64(vlan.Min) || n > int64(vlan.Max)) {
		p.bad(k, fmt.Sprintf("%d is not a VLAN", n), wantID)
		return 0, true
	}
	return vlan.ID(n), true
}

// trunk reads the list as the reference bridge plugin reads it (v1.9.1,
// collectVlanTrunk): an item has id, or minID and maxID, or all three.
func (p *parser) trunk() (set vlan.Set) {
	var items []json.RawMessage
	if !p.into("vlanTrunk", &items, `a JSON list as [{"id": 100}, {"minID": 200, "maxID": 210}]`) {
		return set
	}
	if len(items) == 0 {
		p.bad("vlanTrunk", "is empty", wantItem)
	}
	for i, raw := range items {
		field := fmt.Sprintf("vlanTrunk[%d]", i)
		o, err := decodeObject(raw)
		if err != nil {
			p.bad(field, short(raw)+" is not a JSON object", wantItem)
			continue
		}
		item := &parser{prefix: p.prefix + field + ".", fields: o.fields}
		known := []string{"id", "minID", "maxID"}
		for _, k := range o.order {
			if !slices.Contains(known, k) {
				remedy := wantItem
				if n := nearest(k, known); n != "" {
					remedy = fmt.Sprintf("did you mean %q?", n)
				}
				item.bad(k, "unknown key", remedy)
			}
		}
		for _, k := range o.twice {
			item.bad(k, "is written twice", "write it once")
		}
		runs, why := item.runs()
		if why != "" {
			p.bad(field, why, wantItem)
		} else if len(item.errs) == 0 {
			for _, r := range runs {
				// It cannot fail: the ends were checked.
				_ = set.AddRange(r)
			}
		}
		p.errs = append(p.errs, item.errs...)
	}
	return set
}

// runs reads one item: a range, a single VLAN or both. why says that its keys do
// not go together.
func (p *parser) runs() (all []vlan.Range, why string) {
	id, hasID := p.vlanID("id")
	first, hasFirst := p.vlanID("minID")
	last, hasLast := p.vlanID("maxID")
	switch {
	case len(p.errs) > 0:
		return nil, ""
	case hasFirst != hasLast:
		return nil, "is half a range"
	case !hasFirst && !hasID:
		return nil, "names no VLAN"
	case first > last:
		p.bad("minID", fmt.Sprintf("%d is above maxID %d", first, last), fmt.Sprintf("write minID %d and maxID %d", last, first))
	}
	if hasFirst {
		all = append(all, vlan.Range{First: first, Last: last})
	}
	if hasID {
		all = append(all, vlan.Range{First: id, Last: id})
	}
	return all, ""
}
