package desired

import (
	"fmt"
	"strings"
	"testing"
)

// TestNetworkPeers: a peer by network is the addresses of its subnets as they are in force,
// and a network that rules name keeps them for these.
func TestNetworkPeers(t *testing.T) {
	with := func(subnets string) string {
		return edit(vlan100, "subnets: [{cidr: 10.100.0.0/24, gateway: 10.100.0.1}]", subnets)
	}
	other := edit(edit(web, "{name: web}", "{name: other}"), "vlan100", "vlan200")
	naming := func(peer string) string {
		return strings.Replace(other, "{cidr: 10.100.0.0/24}, {ip: 10.1.2.3}, {range: 10.0.0.5-10.0.0.9}", peer, 1)
	}
	named := naming("{network: vlan100}")
	if named == other {
		t.Fatal("the policy names no network")
	}
	list := func(s *Snapshot) string {
		return fmt.Sprint(s.PolicySet("vlan200", PodRef{}).Lists["VLANNetwork vlan100"])
	}
	st := func(docs ...string) state {
		return state{"all.yaml": strings.Join(append([]string{trunk0, vlan200}, docs...), "---\n")}
	}
	for name, c := range map[string]struct {
		states  []state
		list    string
		problem string // beginning with kind and name
	}{
		"in force":             {[]state{st(vlan100, named)}, "[10.100.0.0/24]", ""},
		"others":               {[]state{st(vlan100, named), st(with("subnets: [{cidr: 10.7.0.0/24}, {cidr: 'fd07::/64'}]"), named)}, "[10.7.0.0/24 fd07::/64]", ""},
		"two that touch":       {[]state{st(with("subnets: [{cidr: 10.7.1.0/24}, {cidr: 10.7.0.0/24}]"), named)}, "[10.7.0.0/23]", ""},
		"no such network":      {[]state{st(named)}, "[]", `FirewallPolicy other spec.rules[0].sources: rule 1001: VLANNetwork "vlan100" does not exist: want one of vlan200, or make it`},
		"without subnets":      {[]state{st(with("subnets: []"), named)}, "[]", "FirewallPolicy other spec.rules[0].sources: rule 1001: VLANNetwork vlan100 has no subnets: give it some, or name the peers by cidr"},
		"subnets are gone":     {[]state{st(vlan100, named), st(with("subnets: []"), named)}, "[10.100.0.0/24]", "VLANNetwork vlan100 spec.subnets: its subnets are gone, but rule 1001 of FirewallPolicy other names it: take it out there first, or put them back"},
		"the network is gone":  {[]state{st(vlan100, named), st(named)}, "[10.100.0.0/24]", "VLANNetwork vlan100 spec.subnets: its subnets are gone, but rule 1001 of FirewallPolicy other names it: take it out there first, or put them back"},
		"and nobody names it":  {[]state{st(vlan100, named), st(naming("{ip: 10.0.0.1}"))}, "[]", ""},
		"it is refused":        {[]state{st(vlan100, named), st(edit(with("subnets: [{cidr: 10.7.0.0/24}]"), "id: 100", "id: 99"), named)}, "[10.100.0.0/24]", "VLANNetwork vlan100 spec.vlan.id: VLAN 99 is not"},
		"it cannot be read":    {[]state{st(vlan100, named), st(with("subnets: [{cidr: 10.7.0.1/24}]"), named)}, "[10.100.0.0/24]", "VLANNetwork vlan100 spec.subnets[0].cidr:"},
		"it is there twice":    {[]state{st(vlan100, named), st(vlan100, with("subnets: [{cidr: 10.7.0.0/24}]"), named)}, "[10.100.0.0/24]", "VLANNetwork vlan100 metadata.name:"},
		"twice from the start": {[]state{st(vlan100, with("subnets: [{cidr: 10.7.0.0/24}]"), named)}, "[]", "FirewallPolicy other spec.rules[0].sources: rule 1001: VLANNetwork vlan100 is not in force: correct it"},
		"a set of such a name": {[]state{st(vlan100, "apiVersion: homeport.dev/v1alpha1\nkind: AddressSet\nmetadata: {name: VLANNetwork vlan100}\nspec: {addresses: [10.66.0.0/16]}\n", named)}, "[10.100.0.0/24]", "AddressSet VLANNetwork vlan100"},
	} {
		s := replay(c.states...)
		if got := list(s); got != c.list {
			t.Errorf("%s: %s, want %s", name, got, c.list)
		}
		found := len(s.Problems) == 0 && c.problem == ""
		for _, p := range s.Problems {
			found = found || c.problem != "" && strings.HasPrefix(fmt.Sprintf("%s %s %s: %s", p.Kind, p.Name, p.Field, p.Message), c.problem)
		}
		if !found {
			t.Errorf("%s: problems %v, want %q", name, s.Problems, c.problem)
		}
	}
	// What is as it was is at the same place, so that nobody reads it again.
	before, after := replay(st(vlan100, named)), replay(st(vlan100, named), st(with("subnets: [{cidr: 10.7.0.0/24}]"), named), st(vlan100, named))
	if list(before) != list(after) {
		t.Error("there and back is not the same")
	}
}
