package v1alpha1

import (
	"fmt"
	"strings"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// VLANText is how VMPort.spec.vlans words what a port carries: "100" for access,
// "100-110,200" for guests that tag, "7 untagged, 100-110" for both. Two ports
// carry the same exactly if their texts are equal.
func VLANText(untagged vlan.ID, tagged vlan.Set) string {
	switch {
	case untagged == 0:
		return tagged.String()
	case tagged.Empty():
		return fmt.Sprint(untagged)
	}
	return fmt.Sprintf("%d untagged, %s", untagged, tagged)
}

// Text is what VMPort.spec.vlans says of a port that carries v. What is no VLAN
// in v, which the API server refuses, is given as it is written.
func (v NetworkVLAN) Text() string {
	var untagged vlan.ID
	if v.ID != nil && v.Mode != ModeTrunk {
		untagged = vlan.ID(*v.ID)
	}
	if v.Mode == ModeAccess || v.Mode == "" {
		return VLANText(untagged, vlan.Set{})
	}
	tagged, _, err := ParseTrunk(v.Trunk)
	if err != nil {
		return strings.Join(v.Trunk, ",")
	}
	return VLANText(untagged, tagged)
}
