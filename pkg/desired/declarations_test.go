package desired

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// TestDeclarations: each source's form, for the interface that it is about and for no other.
func TestDeclarations(t *testing.T) {
	const blue = "pod16477688c0e" // of a VM's network "blue"
	for name, tt := range map[string]struct {
		annotations map[string]string
		nic         PodNIC
		want        string
	}{
		"nothing":             {nil, PodNIC{Interface: "net1"}, ""},
		"empty":               {map[string]string{addressesAnnotation: "{}", networksAnnotation: "[]", calicoAnnotation: "[]", ovnAnnotation: "{}"}, PodNIC{Interface: "eth0"}, ""},
		"by the VM's network": {map[string]string{addressesAnnotation: `{"blue": ["10.0.0.5/24", "fd00::5"], "red": ["10.0.0.6"]}`}, PodNIC{Interface: "net1", VMNetwork: "blue"}, "network.kubevirt.io/addresses 10.0.0.5, network.kubevirt.io/addresses fd00::5"},
		"by the interface":    {map[string]string{addressesAnnotation: `{"blue": ["10.0.0.5"], "red": ["10.0.0.6"]}`}, PodNIC{Interface: blue}, "network.kubevirt.io/addresses 10.0.0.5"},
		"of another network":  {map[string]string{addressesAnnotation: `{"blue": ["10.0.0.5"]}`}, PodNIC{Interface: blue, VMNetwork: "red"}, ""},
		"null":                {map[string]string{addressesAnnotation: `{"blue": null}`}, PodNIC{Interface: blue}, ""},
		"Multus": {map[string]string{networksAnnotation: `[{"name": "a", "ips": ["10.0.0.1/24"]}, {"name": "b", "ips": ["10.0.0.2", "10.0.0.2/24", "fd00::2/64"], "mac": "00:50:56:00:00:01"}]`},
			PodNIC{Interface: "net2"}, "Multus 10.0.0.2, Multus fd00::2"},
		"Multus by interface":  {map[string]string{networksAnnotation: `[{"name": "a", "interface": "net2", "ips": ["10.0.0.1"]}, {"name": "b", "interface": "x", "ips": ["10.0.0.2"]}]`}, PodNIC{Interface: "net2"}, "Multus 10.0.0.1"},
		"Multus in short":      {map[string]string{networksAnnotation: `a, other/b@net7`}, PodNIC{Interface: "net1"}, ""},
		"Calico":               {map[string]string{calicoAnnotation: `["10.0.0.9"]`}, PodNIC{Interface: "eth0"}, "Calico 10.0.0.9"},
		"Calico, of another":   {map[string]string{calicoAnnotation: `["10.0.0.9"]`}, PodNIC{Interface: "net1"}, ""},
		"OVN's default":        {map[string]string{ovnAnnotation: `{"default": {"ip_addresses": ["10.0.0.9/24", "fd00::9/64"], "mac_address": "0a:58:0a:00:00:09", "ip_address": "10.0.0.9/24"}}`}, PodNIC{Interface: "eth0"}, "OVN 10.0.0.9, OVN fd00::9"},
		"OVN before two":       {map[string]string{ovnAnnotation: `{"default": {"ip_address": "10.0.0.9/24"}}`}, PodNIC{Interface: "eth0"}, "OVN 10.0.0.9"},
		"OVN, nobody's":        {map[string]string{ovnAnnotation: `{"default": {"ip_address": "10.0.0.9/24"}}`}, PodNIC{Interface: "net1"}, ""},
		"OVN's second":         {map[string]string{networksAnnotation: "a@x,a@y", ovnAnnotation: `{"shop/a": {"ip_addresses": ["10.0.0.1/24"]}, "shop/a/1": {"ip_addresses": ["10.0.0.2/24"]}}`}, PodNIC{Namespace: "shop", Interface: "y"}, "OVN 10.0.0.2"},
		"OVN's, elsewhere":     {map[string]string{networksAnnotation: `[{"name": "a", "namespace": "infra"}]`, ovnAnnotation: `{"shop/a": {"ip_addresses": ["10.0.0.1/24"]}, "infra/a": {"ip_addresses": ["10.0.0.2/24"]}}`}, PodNIC{Namespace: "shop", Interface: "net1"}, "OVN 10.0.0.2"},
		"hints are overruled":  {map[string]string{networksAnnotation: `[{"name": "a", "ips": ["10.0.0.1/24"]}]`, ovnAnnotation: `{"shop/a": {"ip_addresses": ["10.0.0.2/24", "fd00::2/64"]}}`}, PodNIC{Namespace: "shop", Interface: "net1"}, "Multus 10.0.0.1, OVN fd00::2"},
		"one address of three": {map[string]string{addressesAnnotation: `{"b": ["10.0.0.1"]}`, networksAnnotation: `[{"name": "a", "ips": ["10.0.0.1/24"]}]`, ovnAnnotation: `{"shop/a": {"ip_addresses": ["10.0.0.1/24"]}}`}, PodNIC{Namespace: "shop", Interface: "net1", VMNetwork: "b"}, "network.kubevirt.io/addresses 10.0.0.1, Multus 10.0.0.1, OVN 10.0.0.1"},
	} {
		found, errs := Declarations(tt.annotations, tt.nic)
		var got []string
		for _, d := range found {
			got = append(got, fmt.Sprint(d.Source, " ", d.Addr))
		}
		if text := strings.Join(got, ", "); text != tt.want || errs != nil {
			t.Errorf("%s: %q %v, want %q", name, text, errs, tt.want)
		}
	}
}

// TestBadDeclarations: each says the annotation, the place in it, and what would be right; what is good beside it counts.
func TestBadDeclarations(t *testing.T) {
	for _, tt := range []struct{ annotation, text, want string }{
		{addressesAnnotation, `10.0.0.5`, `is not JSON (invalid character '.' after top-level value): want {"NETWORK": ["10.1.2.3"]}, NETWORK as in spec.networks[].name of the VM`},
		{addressesAnnotation, `{"b": ["10.0.0.5"`, `is not JSON (unexpected end of JSON input): want {"NETWORK"`},
		{addressesAnnotation, `["10.0.0.5"]`, `is of another form (array): want {"NETWORK"`},
		{addressesAnnotation, `{"b": "10.0.0.5"}`, `["b"]: is of another form (string): want {"NETWORK"`},
		{addressesAnnotation, `{"b": [7]}`, `["b"]: is of another form (number): want {"NETWORK"`},
		{addressesAnnotation, `{"b": ["10.0.0.1", "10.0.0.300"]}`, `["b"][1]: "10.0.0.300" is no address: want one as 10.1.2.3, 10.1.2.3/24 or 2001:db8::1`},
		{addressesAnnotation, `{"b": ["10.0.0.1", "10.0.0.3/33"]}`, `["b"][1]: "10.0.0.3/33" is no address`},
		{addressesAnnotation, `{"b": ["10.0.0.1", "::ffff:10.0.0.3"]}`, `["b"][1]: "::ffff:10.0.0.3" is IPv4 written as IPv6: want 10.0.0.3`},
		{addressesAnnotation, `{"b": ["10.0.0.1", "fe80::1%eth0"]}`, `["b"][1]: "fe80::1%eth0" names an interface: want fe80::1`},
		{networksAnnotation, `[{"name": "a", "ips": ["10.0.0.1"]}`, `is not JSON (unexpected end of JSON input): want [{"name"`},
		{networksAnnotation, `{"name": "a"}`, `is of another form (object): want [{"name"`},
		{networksAnnotation, `["a", {"name": "b", "interface": "net1", "ips": ["10.0.0.1"]}]`, `[0]: is of another form (string): want [{"name"`},
		{networksAnnotation, `[{"name": "a", "ips": "10.0.0.1"}]`, `[0].ips: is of another form (string): want [{"name"`},
		{networksAnnotation, `[{"name": "a", "ips": ["10.0.0.1", "here"]}]`, `[0].ips[1]: "here" is no address`},
		{ovnAnnotation, `x`, `is not JSON (invalid character 'x' looking for beginning of value): want {"NAMESPACE/NETWORK"`},
		{ovnAnnotation, `{"shop/a": []}`, `["shop/a"]: is of another form (array): want {"NAMESPACE/NETWORK"`},
		{ovnAnnotation, `{"shop/a": {"ip_addresses": ["10.0.0.1/24", ""]}}`, `["shop/a"].ip_addresses[1]: "" is no address`},
	} {
		annotations := map[string]string{networksAnnotation: "a", tt.annotation: tt.text}
		found, errs := Declarations(annotations, PodNIC{Namespace: "shop", Interface: "net1", VMNetwork: "b"})
		if want := "annotation " + tt.annotation; len(errs) != 1 || !strings.HasPrefix(strings.ReplaceAll(errs[0].Error(), want+": ", want), want+tt.want) {
			t.Errorf("%s: %v, want %q", tt.text, errs, tt.want)
		}
		if good := strings.Contains(tt.text, `["10.0.0.1", `) || strings.Contains(tt.text, `["10.0.0.1/24", `) || strings.Contains(tt.text, `["a", `); good != (len(found) == 1) {
			t.Errorf("%s: %v", tt.text, found)
		}
	}
	if _, errs := Declarations(map[string]string{calicoAnnotation: `"10.0.0.1"`}, PodNIC{Interface: "eth0"}); len(errs) != 1 || !strings.Contains(errs[0].Error(), `cni.projectcalico.org/ipAddrs: is of another form (string): want ["10.1.2.3"]`) {
		t.Errorf("Calico: %v", errs)
	}
}

// FuzzDeclarations: whatever is written there, what comes out are addresses, each once of a source, and errors that name annotations.
func FuzzDeclarations(f *testing.F) {
	f.Add(`{"b": ["10.0.0.5/24"]}`, `[{"name": "a", "ips": ["10.0.0.1"]}]`, `["10.0.0.9"]`, `{"default": {"ip_address": "10.0.0.9/24"}}`, "eth0")
	f.Add(`{"b": null}`, `a,x/b@c,@,/`, `[`, `{"shop/a": 7}`, "net1")
	f.Add(`[[`, `[null, {}, {"ips": [""]}]`, `null`, `null`, "net3")
	f.Fuzz(func(t *testing.T, addresses, networks, calico, ovn, ifname string) {
		found, errs := Declarations(map[string]string{addressesAnnotation: addresses, networksAnnotation: networks, calicoAnnotation: calico, ovnAnnotation: ovn},
			PodNIC{Namespace: "shop", Interface: ifname, VMNetwork: "b"})
		for i, d := range found {
			if !d.Addr.IsValid() || d.Addr.Is4In6() || d.Addr.Zone() != "" || slices.Contains(found[:i], d) {
				t.Errorf("%+v", found)
			}
		}
		for _, err := range errs {
			if !slices.ContainsFunc(DeclarationAnnotations(), func(a string) bool { return strings.HasPrefix(err.Error(), "annotation "+a) }) || !strings.Contains(err.Error(), "want ") {
				t.Error(err)
			}
		}
	})
}

// TestIPAMClaims: which claim is named for which interface; what cannot be read names none.
func TestIPAMClaims(t *testing.T) {
	got := IPAMClaims(map[string]string{claimAnnotation: "db.default", networksAnnotation: `[{"name": "a", "ipam-claim-reference": "db.a"}, {"name": "b", "interface": "podb", "ipam-claim-reference": "db.b"},
		{"name": "c", "interface": "podc"}, {"name": "d", "ipam-claim-reference": 7}, "e"]`})
	if want := map[string]string{"eth0": "db.default", "net1": "db.a", "podb": "db.b"}; !maps.Equal(got, want) {
		t.Errorf("claims are %v, want %v", got, want)
	}
	for _, text := range []string{"", "a,b@net1", "[", `{"ipam-claim-reference": "x"}`, "null"} {
		if got := IPAMClaims(map[string]string{networksAnnotation: text}); len(got) > 0 {
			t.Errorf("%q names %v", text, got)
		}
	}
}
