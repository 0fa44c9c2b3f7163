package agent

import (
	"errors"
	"maps"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// An adopted bridge belongs to others, and so do the VLANs that its uplink had
// when a trunk first wanted them. What we add beside them is written down before
// it is done, and taken off when no trunk wants it any more.

// uplinkRecord is what we know of an adopted bridge's uplink. It is kept on disk.
type uplinkRecord struct {
	Bridge string `json:"bridge"`
	Uplink string `json:"uplink"`
	// BootID and Index tell this uplink from a later one of its name.
	BootID string `json:"bootID"`
	Index  int    `json:"index"`
	// Added are the wanted VLANs that were not there, Native among them if it is
	// the one of untagged frames; Found those that were.
	Added  vlan.Set `json:"added,omitzero"`
	Native vlan.ID  `json:"native,omitempty"`
	Found  vlan.Set `json:"found,omitzero"`
}

// uplinksFile holds the records.
const uplinksFile = "uplinks.json"

// added is what we added as it should be there.
func (r uplinkRecord) added() bridge.PortVLANs {
	v := bridge.PortVLANs{Members: r.Added}
	if r.Added.Contains(r.Native) {
		v.PVID = r.Native
		_ = v.Untagged.Add(r.Native)
	}
	return v
}

// wanting is the record when a trunk wants these VLANs and the uplink has those:
// each that is not known yet is either found there or to be added.
func (r uplinkRecord) wanting(want, have bridge.PortVLANs) uplinkRecord {
	unknown := want.Members.Minus(r.Added).Minus(r.Found)
	r.Found = r.Found.Union(unknown.Intersect(have.Members))
	r.Added = r.Added.Union(unknown.Minus(have.Members))
	return r
}

// settled is the record when the uplink has what the trunk wants, and nothing of
// ours besides.
func (r uplinkRecord) settled(want bridge.PortVLANs) uplinkRecord {
	r.Added, r.Found, r.Native = r.Added.Intersect(want.Members), r.Found.Intersect(want.Members), want.PVID
	return r
}

// ensureAdopted sets up a trunk on an adopted bridge. Only the loop calls it.
func (a *Agent) ensureAdopted(spec bridge.TrunkSpec) (bridge.TrunkStatus, error) {
	key := place{spec.Bridge, spec.Uplink}
	before := a.uplinks[key]
	up, err := a.kernel.net.LinkInfo(bridge.Ref{Name: spec.Uplink})
	if err != nil || up.Port == nil {
		return a.kernel.net.EnsureTrunk(spec) // it says what is wrong
	}
	have, err := a.kernel.net.ReadVLANs(up.Ref())
	if err != nil {
		return bridge.TrunkStatus{}, err
	}
	rec := before
	if rec.BootID != a.boot || rec.Index != up.Index {
		rec = uplinkRecord{Bridge: spec.Bridge, Uplink: spec.Uplink, BootID: a.boot, Index: up.Index}
	}
	spec.Added = rec.added()
	rec = rec.wanting(spec.UplinkVLANs(), have)
	a.keepUplink(key, rec)
	st, err := a.kernel.net.EnsureTrunk(spec)
	switch {
	case err == nil:
		a.keepUplink(key, rec.settled(spec.UplinkVLANs()))
	case errors.Is(err, bridge.ErrRefused), errors.Is(err, bridge.ErrNotFound), errors.Is(err, bridge.ErrNoVLANFiltering):
		a.keepUplink(key, before) // nothing was changed
	}
	return st, err
}

// keepUplink stores a record if it differs; a zero one is forgotten.
func (a *Agent) keepUplink(key place, r uplinkRecord) {
	if a.uplinks[key] == r {
		return
	}
	a.uplinks = maps.Clone(a.uplinks)
	if a.uplinks == nil {
		a.uplinks = map[place]uplinkRecord{}
	}
	a.uplinks[key] = r
	if r == (uplinkRecord{}) {
		delete(a.uplinks, key)
	}
	list := []uplinkRecord{}
	for _, r := range a.uplinks {
		list = append(list, r)
	}
	a.save(uplinksFile, list, "which VLANs of an adopted bridge's uplink are ours cannot be saved, so a restart would leave them there")
}

// loadUplinks reads what an earlier agent added. Without it nothing is taken off.
func (a *Agent) loadUplinks() {
	var list []uplinkRecord
	if !a.loadJSON(uplinksFile, &list) {
		return
	}
	a.uplinks = map[place]uplinkRecord{}
	for _, r := range list {
		a.uplinks[place{r.Bridge, r.Uplink}] = r
	}
}

// releaseUplinks takes off what we added to the uplinks of adopted bridges that
// no trunk is on any more.
func (a *Agent) releaseUplinks(snap *desired.Snapshot) {
	for key, r := range a.uplinks {
		wanted, managed := false, false
		for _, t := range snap.Trunks {
			wanted = wanted || !t.Managed && t.Bridge == key.bridge && t.Uplink == key.uplink
			managed = managed || t.Managed && t.Bridge == key.bridge // that one sees to its VLANs itself
		}
		if wanted {
			continue
		}
		if !managed && r.BootID == a.boot {
			off, err := a.kernel.net.ReleaseUplink(bridge.Ref{Name: r.Bridge}, bridge.Ref{Index: r.Index, Name: r.Uplink}, r.added())
			if err != nil {
				a.log.Warn("VLANs that were added to an adopted bridge's uplink cannot be taken off yet", "bridge", r.Bridge, "uplink", r.Uplink, "err", err)
				continue
			}
			a.log.Info("VLANs that were added to an adopted bridge's uplink are taken off", "bridge", r.Bridge, "uplink", r.Uplink, "vlans", off)
		}
		a.keepUplink(key, uplinkRecord{})
	}
}
