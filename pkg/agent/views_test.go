package agent

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/homeport-cni/homeport/pkg/policy"
)

// TestPeerTexts: a side of a rule in words tells Any from nobody.
func TestPeerTexts(t *testing.T) {
	list := []policy.AddrRange{policy.RangeOf(netip.MustParsePrefix("10.0.0.0/8"))}
	for want, got := range map[string][]string{
		"[]":                           peerTexts(nil, nil, false),
		"[nobody now]":                 peerTexts([]policy.AddrRange{}, nil, false),
		"[10.0.0.0/8]":                 peerTexts(list, nil, false),
		"[AddressSet site 10.0.0.0/8]": peerTexts(list, []string{"site"}, false),
		"[all but AddressSet site]":    peerTexts(nil, []string{"site"}, true),
		"[AddressSet site]":            peerTexts([]policy.AddrRange{}, []string{"site"}, false),
	} {
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
}
