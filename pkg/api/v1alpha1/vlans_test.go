package v1alpha1

import "testing"

func TestVLANText(t *testing.T) {
	id := func(n int32) *int32 { return &n }
	for _, tt := range []struct {
		vlan NetworkVLAN
		want string
	}{
		{NetworkVLAN{ID: id(100)}, "100"},
		{NetworkVLAN{Mode: ModeAccess, ID: id(1)}, "1"},
		{NetworkVLAN{Mode: ModeTrunk, Trunk: []string{"200", "100-105", "106-110"}}, "100-110,200"},
		{NetworkVLAN{Mode: ModeNative, ID: id(7), Trunk: []string{"100-110"}}, "7 untagged, 100-110"},
		{NetworkVLAN{Mode: ModeTrunk, Trunk: []string{"200", "x"}}, "200,x"},
	} {
		if got := tt.vlan.Text(); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.vlan, got, tt.want)
		}
	}
}
