package v1alpha1

import (
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// TestProbedSubnets: an address is of the narrowest subnet that it is in, in whichever order they are written, and must be fit for all.
func TestProbedSubnets(t *testing.T) {
	wide, narrow := Subnet{CIDR: "10.0.0.0/16"}, Subnet{CIDR: "10.0.1.0/24"}
	for _, tt := range []struct {
		addresses []string
		want      string
	}{
		{[]string{"10.0.1.5", "10.0.9.9"}, "[]"},
		{[]string{"10.0.1.5", "10.0.1.6"}, `[addresses[1]: Invalid value: "10.0.1.6": is the second of 10.0.1.0/24: one is enough, take the other out]`},
		{[]string{"10.0.1.255"}, `[addresses[0]: Invalid value: "10.0.1.255": is the broadcast address of 10.0.1.0/24: want a host's]`},
		{[]string{"10.0.255.255"}, `[addresses[0]: Invalid value: "10.0.255.255": is the broadcast address of 10.0.0.0/16: want a host's]`},
		{[]string{"10.1.0.1"}, `[addresses[0]: Invalid value: "10.1.0.1": is in none of spec.subnets: want an address of the VLAN, or add its subnet there]`},
	} {
		for _, subnets := range [][]Subnet{{wide, narrow}, {narrow, wide}} {
			spec := &VLANNetworkSpec{VLAN: NetworkVLAN{Mode: ModeAccess}, Subnets: subnets, Reachability: &Reachability{Sources: []ReachabilitySource{{Node: "n1", Addresses: tt.addresses}}}}
			errs := validateProbed(field.NewPath("reachability"), spec)
			for _, e := range errs {
				e.Field = e.Field[len("reachability.sources[0]."):]
			}
			if got := fmt.Sprint(slices.Clone([]*field.Error(errs))); got != tt.want {
				t.Errorf("%v of %v: %s, want %s", tt.addresses, subnets, got, tt.want)
			}
		}
	}
}
