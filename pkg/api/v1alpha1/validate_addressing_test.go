package v1alpha1

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// networkWith is a good one, with what more says.
func networkWith(t *testing.T, more string) *VLANNetwork {
	t.Helper()
	n := decode[VLANNetwork](t, `{"metadata":{"name":"n"},"spec":{"trunk":"t","vlan":{"id":5},"defaultAction":"Drop"`+more+`}}`)
	n.Default()
	return n
}

// TestAddressing: what cannot be is refused by its field, with what would be right.
func TestAddressing(t *testing.T) {
	const subnets = `,"subnets":[{"cidr":"10.0.0.0/24","gateway":"10.0.0.1"},{"cidr":"fd00::/64"}]`
	many := strings.TrimSuffix(strings.Repeat(`"10.0.0.7",`, 65), ",")
	for _, tt := range []struct{ more, want string }{
		{`{}`, ""},
		{`{"mode":"Approved","limit":128,"expiry":"8760h","sharedAddresses":["10.0.0.2","10.0.0.16/28","fd00::9","fe80::1","0.0.0.0/0"]}`, "sharedAddresses[4]"},
		{`{"mode":"Declared","limit":1,"expiry":"1m","sharedAddresses":["10.0.0.0/24","10.0.0.0/28"]}`, ""},
		{`{"suppression":"Enabled"}`, ""},
		{`{"suppression":"Disabled"}`, ""},
		{`{"suppression":"true"}`, "suppression"},
		{`{"mode":"observed"}`, "mode"},
		{`{"networkStatus":"Disabled"}`, ""},
		{`{"networkStatus":"Always"}`, "networkStatus"},
		{`{"limit":0}`, "limit"},
		{`{"limit":129}`, "limit"},
		{`{"limit":-1}`, "limit"},
		{`{"expiry":"0s"}`, "expiry"},
		{`{"expiry":"59s"}`, "expiry"},
		{`{"expiry":"8761h"}`, "expiry"},
		{`{"expiry":"-24h"}`, "expiry"},
		{`{"expiry":"abc"}`, "expiry"},
		{`{"expiry":"24"}`, "expiry"},
		{`{"sharedAddresses":["10.0.1.1"]}`, "sharedAddresses[0]"},
		{`{"sharedAddresses":["10.0.0.0/16"]}`, "sharedAddresses[0]"},
		{`{"sharedAddresses":["10.0.0.1/32"]}`, "sharedAddresses[0]"},
		{`{"sharedAddresses":["10.0.0.2/24"]}`, "sharedAddresses[0]"},
		{`{"sharedAddresses":["10.0.0.2","10.0.0.2"]}`, "sharedAddresses[1]"},
		{`{"sharedAddresses":["::ffff:10.0.0.2","127.0.0.1","::","224.0.0.18","",  "10.0.0.2-10.0.0.3"]}`,
			"sharedAddresses[0] sharedAddresses[1] sharedAddresses[2] sharedAddresses[3] sharedAddresses[4] sharedAddresses[5]"},
		{`{"sharedAddresses":[` + many + `]}`, "sharedAddresses"},
	} {
		errs := ValidateVLANNetwork(networkWith(t, subnets+`,"addressing":`+tt.more))
		if got := strings.ReplaceAll(fields(errs), "spec.addressing.", ""); got != tt.want {
			t.Errorf("%s: errors at %q, want %q", tt.more, got, tt.want)
		}
		for _, e := range errs {
			if body := e.ErrorBody(); !strings.Contains(body, "want ") && !strings.Contains(body, "supported values") && !strings.Contains(body, "name each") {
				t.Errorf("%s: %s", e.Field, body)
			}
		}
	}
	if got := ValidateVLANNetwork(networkWith(t, `,"addressing":{"networkStatus":"Enabled"}`)).ToAggregate(); got == nil || got.Error() != "spec.addressing.networkStatus: Forbidden: is enforced with --source kube alone: leave it out" {
		t.Errorf("network-status without Kubernetes: %v", got)
	}
	if errs := ValidateVLANNetwork(networkWith(t, `,"addressing":{"sharedAddresses":["192.168.7.9","10.0.0.1"]}`)); len(errs) > 0 {
		t.Errorf("without subnets: %v", errs)
	}
}

// TestEtherTypes: words and numbers, each once, and no more than programs know of.
func TestEtherTypes(t *testing.T) {
	var sixteen []string
	for i := range 16 {
		sixteen = append(sixteen, fmt.Sprintf("0x88%02x", i))
	}
	for _, tt := range []struct {
		list []string
		want string // "" is that it is good
		n    int
	}{
		{nil, "", 0},
		{[]string{"IPv6", "IPv4", "ARP", "LLDP", "PPPoE", "0x88b5", "0x88B6", "0x0600", "0xffff"}, "", 10},
		{sixteen, "", 16},
		{[]string{"All"}, "", 0},
		{[]string{"ARP", "All"}, "1: stands alone: want it, or the EtherTypes that may leave", 0},
		{[]string{"All", "All"}, "0: stands alone", 0},
		{[]string{"all"}, "0: is no EtherType", 0},
		{[]string{}, "-1: is empty: want the EtherTypes that may leave, or All, or leave it out", 0},
		{append([]string{"ARP"}, sixteen...), "-1: are 17 EtherTypes: want at most 16", 0},
		{append(slices.Clone(sixteen[:15]), "PPPoE"), "-1: are 17 EtherTypes: want at most 16, of which PPPoE is two", 0},
		{[]string{"ARP", "arp"}, "1: is no EtherType: want IPv4, IPv6, ARP, LLDP, PPPoE, All, or a number", 0},
		{[]string{"ARP", "0x0806"}, "1: is there already", 0},
		{[]string{"PPPoE", "0x8864"}, "1: is there already", 0},
		{[]string{"0x05dc"}, "0: is no EtherType", 0},
		{[]string{"0x05ff"}, "0: is no EtherType", 0},
		{[]string{"2048"}, "0: is no EtherType", 0},
		{[]string{"008892"}, "0: is no EtherType", 0},
		{[]string{"0x889"}, "0: is no EtherType", 0},
		{[]string{"0x+892"}, "0: is no EtherType", 0},
		{[]string{"0x18892"}, "0: is no EtherType", 0},
		{[]string{""}, "0: is no EtherType", 0},
		{[]string{"0x8035"}, "0: is RARP, which always passes", 0},
		{[]string{"0x8100"}, "0: is a VLAN tag: want the EtherType of what is behind it", 0},
	} {
		got, i, err := ParseEtherTypes(tt.list)
		if tt.want == "" && (err != nil || len(got) != tt.n || !slices.IsSorted(got)) {
			t.Errorf("%q: %v, %v", tt.list, got, err)
		}
		if text := fmt.Sprintf("%d: %v", i, err); tt.want != "" && !strings.HasPrefix(text, tt.want) {
			t.Errorf("%q: %s, want %s", tt.list, text, tt.want)
		}
	}
	for list, want := range map[string]string{`["ARP","IP"]`: ".etherTypes[1]", `[]`: ".etherTypes", `["ARP","All"]`: ".etherTypes[1]", `["All"]`: "", `["0x88b5"]`: ""} {
		for at, security := range map[string]string{"spec.portSecurity": `{"etherTypes":` + list + `}`,
			"spec.portSecurity.exceptions[0]": `{"etherTypes":["ARP"],"exceptions":[{"macs":["00:50:56:00:00:01"],"etherTypes":` + list + `}]}`} {
			wanted := ""
			if want != "" {
				wanted = at + want
			}
			if got := fields(ValidateVLANNetwork(networkWith(t, `,"portSecurity":`+security))); got != wanted {
				t.Errorf("%s: errors at %q, want %q", security, got, wanted)
			}
		}
	}
}
