package v1alpha1

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestParseCIDR(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1/8":         "want 10.0.0.0/8, or 10.0.0.1/32",
		"2001:db8::1/32":     "want 2001:db8::/32, or 2001:db8::1/128",
		"10.0.0.0":           "want a prefix as 10.0.0.0/8",
		"10.0.0.0/33":        "want a prefix as",
		"10.0.0/8":           "want a prefix as",
		"::ffff:10.0.0.0/96": "want 0.0.0.0/0",
		"::ffff:10.0.0.0/90": "is IPv4 written as IPv6",
		"fe80::%eth0/64":     "want a prefix as",
		"":                   "want a prefix as",
	} {
		if p, err := ParseCIDR(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCIDR(%q) = %v, %v; want an error with %q", in, p, err, want)
		}
	}
	for _, in := range []string{"10.0.0.0/8", "0.0.0.0/0", "::/0", "10.0.0.1/32", "2001:db8::/33"} {
		if p, err := ParseCIDR(in); err != nil || p.String() != in {
			t.Errorf("ParseCIDR(%q) = %v, %v", in, p, err)
		}
	}
}

func TestParseRange(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.9-10.0.0.5":        "want 10.0.0.5-10.0.0.9",
		"10.0.0.9-::1":             "mixes IPv4 and IPv6",
		"10.0.0.9":                 "want two addresses",
		"10.0.0.9-":                `last address "": want an address`,
		"-10.0.0.9":                `first address "": want an address`,
		"10.0.0.1-10.0.0.2-3":      "last address",
		"10.0.0.1-20":              `last address "20"`,
		"fe80::1%eth0-fe80::2":     "zones mean nothing here: want fe80::1",
		"::ffff:10.0.0.1-10.0.0.2": "is IPv4 written as IPv6: want 10.0.0.1",
	} {
		if a, b, err := ParseRange(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseRange(%q) = %v, %v, %v; want an error with %q", in, a, b, err, want)
		}
	}
	a, b, err := ParseRange("2001:db8::1 - 2001:db8::ff")
	if err != nil || a != netip.MustParseAddr("2001:db8::1") || b != netip.MustParseAddr("2001:db8::ff") {
		t.Errorf("ParseRange = %v, %v, %v", a, b, err)
	}
	if _, _, err := ParseRange("10.0.0.1-10.0.0.1"); err != nil {
		t.Errorf("range of one: %v", err)
	}
}

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]string{
		"90-80":  "is reversed: want 80-90",
		"80,":    `"": want ports from 1 to 65535`,
		"0":      "want ports from 1 to 65535",
		"65536":  "want ports from 1 to 65535",
		"080":    "want ports from 1 to 65535",
		"+80":    "want ports from 1 to 65535",
		"1-2-3":  "want ports from 1 to 65535",
		"80-":    "want ports from 1 to 65535",
		"http":   "want ports from 1 to 65535",
		"1,9-8 ": `"9-8": is reversed: want 8-9`,
		"":       "want ports from 1 to 65535",
	} {
		if p, err := ParsePorts(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParsePorts(%q) = %v, %v; want an error with %q", in, p, err, want)
		}
	}
	got, err := ParsePorts("443, 1-65535 ,80 - 81")
	if want := []PortRange{{443, 443}, {1, 65535}, {80, 81}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("ParsePorts = %v, %v; want %v", got, err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"10.0.0.0/8", "10.0.0.5-10.0.0.9", "80,443,8000-8010", "::ffff:1.2.3.4", "fe80::1%x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := ParseCIDR(s); err == nil && (p != p.Masked() || p.Addr().Is4In6()) {
			t.Errorf("ParseCIDR(%q) = %v", s, p)
		}
		if a, b, err := ParseRange(s); err == nil && (b.Less(a) || a.BitLen() != b.BitLen() || a.Zone()+b.Zone() != "") {
			t.Errorf("ParseRange(%q) = %v, %v", s, a, b)
		}
		ports, err := ParsePorts(s)
		for _, p := range ports {
			if err != nil || p.First == 0 || p.First > p.Last {
				t.Errorf("ParsePorts(%q) = %v, %v", s, ports, err)
			}
		}
	})
}

// decode reads an object as the Kubernetes API gives it.
func decode[T any](t *testing.T, text string) *T {
	t.Helper()
	var v T
	dec := json.NewDecoder(strings.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// fields lists what errors are about.
func fields(errs field.ErrorList) string {
	var out []string
	for _, e := range errs {
		out = append(out, e.Field)
	}
	return strings.Join(out, " ")
}

// What JSON can say and YAML manifests cannot: empty lists and texts, false.
func TestValidateFromJSON(t *testing.T) {
	trunk := decode[VLANTrunk](t, `{"metadata":{"name":"t"},"spec":{"bridge":{"name":"","managed":false},"uplink":{"allowedVLANs":""}}}`)
	trunk.Default()
	if got, want := fields(ValidateVLANTrunk(trunk)), "spec.bridge.name spec.uplink.allowedVLANs"; got != want {
		t.Errorf("trunk: errors at %s, want %s", got, want)
	}
	network := decode[VLANNetwork](t, `{"metadata":{"name":"n"},"spec":{"trunk":"t","vlan":{"id":5,"trunk":[]},"defaultAction":"Drop",
		"subnets":[{"cidr":""},{"cidr":"10.0.0.0/24"},{"cidr":"10.0.0.0/24"}],"portSecurity":{"macChanges":"No","ipGuard":"On"}}}`)
	network.Default()
	if got, want := fields(ValidateVLANNetwork(network)), "spec.vlan.trunk spec.subnets[0].cidr spec.subnets[2].cidr "+
		"spec.portSecurity.macChanges spec.portSecurity.ipGuard"; got != want {
		t.Errorf("network: errors at %s, want %s", got, want)
	}
	policy := decode[FirewallPolicy](t, `{"metadata":{"name":"p"},"spec":{"category":"Application",
		"appliedTo":[{"any":false},{"network":"a"},{"network":"a"}],
		"rules":[{"id":1,"action":"Allow","log":false,"sources":[],"destinations":[{}],"services":[{"any":true,"protocol":"TCP"}]},
		{"id":4294967296,"action":"Allow","name":"`+strings.Repeat("x", 256)+`","services":[{"protocol":"UDP","types":[1]},{"protocol":"ICMP","types":[]},{}]}]}}`)
	policy.Default()
	if got, want := fields(ValidateFirewallPolicy(policy)), "spec.appliedTo[0] spec.appliedTo[2].network "+
		"spec.rules[0].sources spec.rules[0].destinations[0] spec.rules[0].services[0].any spec.rules[1].id spec.rules[1].name "+
		"spec.rules[1].services[0].types spec.rules[1].services[1].types spec.rules[1].services[2].protocol"; got != want {
		t.Errorf("policy: errors at\n%s, want\n%s", got, want)
	}
}

func TestDefault(t *testing.T) {
	trunk, network := &VLANTrunk{}, &VLANNetwork{}
	policy := &FirewallPolicy{Spec: FirewallPolicySpec{Rules: []FirewallRule{{}, {Direction: DirectionIn}}}}
	trunk.Default()
	network.Default()
	policy.Default()
	if trunk.Spec.InlineConfig != InlineRefuse || trunk.Spec.HostFirewall != HostFirewallDetect || network.Spec.VLAN.Mode != ModeAccess ||
		policy.Spec.Rules[0].Direction != DirectionInOut || policy.Spec.Rules[1].Direction != DirectionIn ||
		policy.Spec.Rules[0].State != RuleEnabled {
		t.Errorf("defaults: %+v %+v %+v", trunk.Spec, network.Spec, policy.Spec)
	}
	if network.Spec.DefaultAction != "" || trunk.Spec.Bridge.Managed != nil {
		t.Error("defaultAction and managed have no default")
	}
}

// Every error names what would be right.
func TestErrorsNameTheRemedy(t *testing.T) {
	for _, errs := range []field.ErrorList{
		ValidateVLANTrunk(&VLANTrunk{}), ValidateVLANNetwork(&VLANNetwork{}), ValidateFirewallPolicy(&FirewallPolicy{}),
		ValidateFirewallPolicy(&FirewallPolicy{Spec: FirewallPolicySpec{Rules: []FirewallRule{{}}}}),
	} {
		if len(errs) == 0 {
			t.Error("an empty object is good")
		}
		for _, e := range errs {
			if body := e.ErrorBody(); !strings.Contains(body, "want ") && !strings.Contains(body, "supported values") {
				t.Errorf("%s: %s", e.Field, body)
			}
		}
	}
}

// TestParseSpan: each form that an item of a set may have, and its ends.
func TestParseSpan(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1":            "10.0.0.1-10.0.0.1",
		"10.0.0.0/30":         "10.0.0.0-10.0.0.3",
		"0.0.0.0/0":           "0.0.0.0-255.255.255.255",
		"2001:db8::/33":       "2001:db8::-2001:db8:7fff:ffff:ffff:ffff:ffff:ffff",
		"10.0.0.5 - 10.0.0.9": "10.0.0.5-10.0.0.9",
		"ten":                 "want an address as 10.1.2.3 or 2001:db8::1",
		"10.0.0.1/8":          "has host bits set: want 10.0.0.0/8, or 10.0.0.1/32 for the one address",
		"10.0.0.9-10.0.0.5":   "is reversed: want 10.0.0.5-10.0.0.9",
	} {
		first, last, err := ParseSpan(text)
		got := first.String() + "-" + last.String()
		if err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
