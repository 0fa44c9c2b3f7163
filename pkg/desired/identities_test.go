package desired

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/learn"
)

// TestLearn: what a book gets to know of a network.
func TestLearn(t *testing.T) {
	for more, want := range map[string]string{
		``: `{"Mode":"Observed"}`,
		`, addressing: {}, subnets: [{cidr: 10.0.0.0/24, gateway: 10.0.0.1}, {cidr: "fd00::/64"}]`:          `{"Mode":"Observed","Subnets":["10.0.0.0/24","fd00::/64"],"Gateways":["10.0.0.1"]}`,
		`, addressing: {mode: Declared, limit: 2, expiry: 1h, sharedAddresses: ["10.0.0.9", "fd00::/120"]}`: `{"Mode":"Declared","Limit":2,"Expiry":3600000000000,"Shared":["10.0.0.9/32","fd00::/120"]}`,
	} {
		n, wrong := secured(t, more)
		l := n.Learn()
		got, err := json.Marshal(l)
		if wrong != "" || err != nil || string(got) != want {
			t.Errorf("%s: %s%v %s, want %s", more, wrong, err, got, want)
		}
		if err := l.Validate(); err != nil {
			t.Errorf("%s: a book does not take it: %v", more, err)
		}
	}
	if v1alpha1.MaxAddresses != learn.MaxLimit {
		t.Errorf("limit %d in manifests, %d in books", v1alpha1.MaxAddresses, learn.MaxLimit)
	}
}

// TestBadAddresses: what manifests say wrongly of addresses and guards.
func TestBadAddresses(t *testing.T) {
	for _, c := range []badCase{
		{name: "addresses", content: vlan100 + `  addressing: {mode: Trusted, suppression: On, limit: 0, expiry: 0s, sharedAddresses: [10.100.0.5, 10.100.0.5/32, 10.100.0.1, 10.9.0.0/24, 10.100.0.9/28, 10.100.0.0/23, "fe80::1", "ff02::1", here]}
  portSecurity:
    ipGuard: Enabled
    arpGuard: Learn
    ndGuard: On
    rateLimits: {unknownUnicast: -1}
    exceptions: [{macs: ["00:50:56:0a:0b:0c"], ipGuard: Loose, etherTypes: [ARP, RARP], lldp: On}]
`, want: `
networks.yml:18: VLANNetwork vlan100: spec.addressing.expiry: Invalid value: "0s": want a time from 1m to 8760h, as 24h, or leave it out for never
networks.yml:18: VLANNetwork vlan100: spec.addressing.limit: Invalid value: 0: want 1 to 128 addresses, or leave it out for 16
networks.yml:18: VLANNetwork vlan100: spec.addressing.mode: Unsupported value: "Trusted": supported values: "Observed", "Declared", "Approved"
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[1]: Duplicate value: "10.100.0.5/32": name each address once
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[2]: Invalid value: "10.100.0.1": is a gateway of spec.subnets, which is no VM's to have: want another address, or take the gateway out there where VMs are it
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[3]: Invalid value: "10.9.0.0/24": is not within one of spec.subnets: want addresses of one, or add their subnet there
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[4]: Invalid value: "10.100.0.9/28": has host bits set: want 10.100.0.0/28, or 10.100.0.9/32 for the one address
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[5]: Invalid value: "10.100.0.0/23": is not within one of spec.subnets: want addresses of one, or add their subnet there
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[7]: Invalid value: "ff02::1": has addresses that no NIC has: want an address as 10.1.2.3, or a prefix as 10.1.2.16/28
networks.yml:18: VLANNetwork vlan100: spec.addressing.sharedAddresses[8]: Invalid value: "here": want an address as 10.1.2.3 or 2001:db8::1
networks.yml:18: VLANNetwork vlan100: spec.addressing.suppression: Unsupported value: "On": supported values: "Enabled", "Disabled"
networks.yml:20: VLANNetwork vlan100: spec.portSecurity.ipGuard: Unsupported value: "Enabled": supported values: "Off", "Learn", "Strict"
networks.yml:21: VLANNetwork vlan100: spec.portSecurity.arpGuard: Unsupported value: "Learn": supported values: "Enabled", "Disabled"
networks.yml:22: VLANNetwork vlan100: spec.portSecurity.ndGuard: Unsupported value: "On": supported values: "Enabled", "Disabled"
networks.yml:23: VLANNetwork vlan100: spec.portSecurity.rateLimits.unknownUnicast: Invalid value: -1: want 0, which is no limit, to 1000000 packets a second
networks.yml:24: VLANNetwork vlan100: spec.portSecurity.exceptions[0].etherTypes[1]: Invalid value: "RARP": is no EtherType: want IPv4, IPv6, ARP, LLDP, PPPoE, All, or a number from 0x0600 to 0xffff, as "0x88b5"
networks.yml:24: VLANNetwork vlan100: spec.portSecurity.exceptions[0].ipGuard: Unsupported value: "Loose": supported values: "Off", "Learn", "Strict"
networks.yml:24: VLANNetwork vlan100: spec.portSecurity.exceptions[0].lldp: unknown field: want one of vm, macs, macChanges, forgedTransmits, promiscuous, ipGuard, arpGuard, ndGuard, etherTypes, dhcpServerGuard, raGuard, rateLimits, bpduGuard
`},
		{name: "a probe that there is not", content: vlan100 + "  addressing: {probe: Maybe}\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.addressing.probe: Unsupported value: "Maybe": supported values: "Off", "Report", "Refuse"
`},
		{name: "a field of addressing", content: vlan100 + "  addressing: {shared: [10.100.0.5]}\n", want: `
networks.yml:18: VLANNetwork vlan100: spec.addressing.shared: unknown field: want one of mode, limit, expiry, sharedAddresses, probe, networkStatus, suppression
`},
	} {
		c.file, c.content = "networks.yml", docs(vlan200, c.content)
		t.Run(c.name, c.run)
	}
}

// watchedIdentity is a VMIdentity as a watch keeps it.
func watchedIdentity(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := identity()
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	u.SetGroupVersionKind(identity().GroupVersionKind())
	kept, err := packing(slimIdentity)(u)
	if err != nil {
		t.Fatal(err)
	}
	return kept.(*unstructured.Unstructured)
}

// TestReadIdentity: all that an object says of a NIC comes through the watch; what is no address is none.
func TestReadIdentity(t *testing.T) {
	since := time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC)
	for name, tt := range map[string]struct {
		text  string
		want  Identity
		other []Identity // further NICs
	}{
		"a VM's": {`{metadata: {namespace: shop, name: till-lan}, spec: {network: lan, vm: {name: till, uid: u1}, addresses: [10.0.0.12, "fd00::1", here, 10.0.0.11, 10.0.0.12, 7]}, status: {node: n1, mac: "00:50:56:00:00:0a", addresses: [
			{address: "fe80::1", vlan: 7, provenance: ND}, {address: "fe80::1", vlan: 5, provenance: ND}, {address: "10.0.0.300"}, 7,
			{address: 10.0.0.9, vlan: 0, provenance: DHCP, since: "2026-05-01T10:00:00Z", until: "2026-05-01T12:00:00+01:00"}, {address: 10.0.0.8, provenance: Guess, approved: ann}],
			waiting: [{address: "::ffff:10.0.0.7", provenance: ARP}],
			decisions: [{address: 10.0.0.6, vlan: 7, by: ann, at: "2026-05-01T10:00:00Z"}, {address: 10.0.0.6, denied: true, by: bob, at: "2026-05-01T10:00:00Z"}, {address: 10.0.0.5, by: ann}, {address: 10.0.0.4, at: "2026-05-01T10:00:00Z"}, 7, {address: here, by: ann, at: "2026-05-01T10:00:00Z"}]}}`,
			Identity{Namespace: "shop", Name: "till-lan", VM: "till", UID: "u1", Network: "lan", Node: "n1", MAC: nicA, Addresses: []IdentityAddress{
				{Addr: netip.MustParseAddr("10.0.0.8"), Approved: "ann"}, {Addr: netip.MustParseAddr("10.0.0.9"), Provenance: learn.DHCP, Since: since, Until: since.Add(time.Hour)},
				{Addr: netip.MustParseAddr("fe80::1"), VLAN: 5, Provenance: learn.ND}, {Addr: netip.MustParseAddr("fe80::1"), VLAN: 7, Provenance: learn.ND}},
				Waiting:   []IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP}},
				Manual:    []netip.Addr{netip.MustParseAddr("10.0.0.11"), netip.MustParseAddr("10.0.0.12"), netip.MustParseAddr("fd00::1")},
				Decisions: []IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.6"), Denied: true, By: "bob", At: since}, {Addr: netip.MustParseAddr("10.0.0.6"), VLAN: 7, By: "ann", At: since}}}, nil},
		"a VM's with several NICs": {`{metadata: {namespace: shop, name: till-lan}, spec: {network: lan, vm: {name: till, uid: u1}, addresses: [10.0.0.12]}, status: {node: n1, mac: "00:50:56:00:00:0a", addresses: [
			{address: 10.0.0.9, provenance: ARP, mac: "00:50:56:00:00:0B"}, {address: 10.0.0.8, provenance: ARP}, {address: 10.0.0.7, provenance: ARP, mac: "00:50:56:00:00:0a"}],
			waiting: [{address: 10.0.0.6, provenance: ARP, mac: "00:50:56:00:00:0b"}],
			decisions: [{address: 10.0.0.5, by: ann, at: "2026-05-01T10:00:00Z", mac: "00:50:56:00:00:01"}]}}`,
			Identity{Namespace: "shop", Name: "till-lan", VM: "till", UID: "u1", Network: "lan", Node: "n1", MAC: nicA, Manual: []netip.Addr{netip.MustParseAddr("10.0.0.12")},
				Addresses: []IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.7"), Provenance: learn.ARP}, {Addr: netip.MustParseAddr("10.0.0.8"), Provenance: learn.ARP}}},
			[]Identity{
				{Namespace: "shop", Name: "till-lan", VM: "till", UID: "u1", Network: "lan", Node: "n1", MAC: parseMAC("00:50:56:00:00:01"), Decisions: []IdentityDecision{{Addr: netip.MustParseAddr("10.0.0.5"), By: "ann", At: since}}},
				{Namespace: "shop", Name: "till-lan", VM: "till", UID: "u1", Network: "lan", Node: "n1", MAC: nicB,
					Addresses: []IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.9"), Provenance: learn.ARP}}, Waiting: []IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.6"), Provenance: learn.ARP}}}}},
		"a pod's": {`{metadata: {namespace: shop, name: pod-1}, spec: {network: lan, pod: {name: web, uid: u2, node: n2}}, status: {mac: here}}`,
			Identity{Namespace: "shop", Name: "pod-1", Pod: "web", UID: "u2", Network: "lan", Node: "n2"}, nil},
		"nothing": {`{metadata: {namespace: shop, name: x}, spec: [], status: {addresses: {}}}`, Identity{Namespace: "shop", Name: "x"}, nil},
	} {
		want := append([]Identity{tt.want}, tt.other...)
		got := readIdentity(watchedIdentity(t, tt.text))
		if !slices.EqualFunc(got.identities, want, func(a, b Identity) bool { return a.equal(&b) }) {
			t.Errorf("%s: %+v, want %+v", name, got.identities, want)
		}
		held := 0
		for _, id := range want {
			held += len(id.Addresses)
		}
		if len(got.addresses) != held {
			t.Errorf("%s: as a peer it has %v, want %d addresses", name, got.addresses, held)
		}
	}
}

// TestIdentitiesChange: what changes in any NIC's identity is news, whatever rules there are, and changes no revision. The file of
// the last good snapshot is not written for it each time.
func TestIdentitiesChange(t *testing.T) {
	stored := filepath.Join(t.TempDir(), "last-good.json")
	k := &keeper{cache: stored}
	base := Identity{Namespace: "a", Name: "b", VM: "b", UID: "u", Network: "lan", Node: "n1", MAC: nicA,
		Addresses: []IdentityAddress{{Addr: netip.MustParseAddr("10.0.0.1"), Provenance: learn.ARP, Since: time.Unix(7, 0)}}}
	take := func(ids ...Identity) *Snapshot {
		k.identities = ids
		return k.take([]manifest{{}}, func(string) string { return "" })
	}
	last := take(base)
	for name, change := range map[string]func(*Identity){
		"VM":         func(i *Identity) { i.UID = "v" },
		"node":       func(i *Identity) { i.Node = "n2" },
		"MAC":        func(i *Identity) { i.MAC = nicB },
		"set":        func(i *Identity) { i.Manual = []netip.Addr{netip.MustParseAddr("10.0.0.2")} },
		"decided":    func(i *Identity) { i.Decisions = []IdentityDecision{{By: "ann"}} },
		"gone":       func(i *Identity) { i.Addresses = nil },
		"waiting":    func(i *Identity) { i.Waiting = i.Addresses },
		"address":    func(i *Identity) { i.Addresses[0].Addr = netip.MustParseAddr("10.0.0.2") },
		"VLAN":       func(i *Identity) { i.Addresses[0].VLAN = 9 },
		"provenance": func(i *Identity) { i.Addresses[0].Provenance = learn.DHCP },
		"since":      func(i *Identity) { i.Addresses[0].Since = time.Unix(8, 0) },
		"until":      func(i *Identity) { i.Addresses[0].Until = time.Unix(9, 0) },
		"approved":   func(i *Identity) { i.Addresses[0].Approved = "ann" },
	} {
		other := base
		other.Addresses = append([]IdentityAddress(nil), base.Addresses...)
		change(&other)
		next := take(other)
		if !differs(next, last) || next.Revision != last.Revision {
			t.Errorf("%s: told %v, revision %d after %d", name, differs(next, last), next.Revision, last.Revision)
		}
		same := other
		same.Addresses = append([]IdentityAddress(nil), other.Addresses...)
		for i := range same.Addresses {
			same.Addresses[i].Since = same.Addresses[i].Since.UTC()
		}
		if again := take(same); differs(again, next) {
			t.Errorf("%s: news twice", name)
		}
		last = take(base)
	}
	onDisk := func() string {
		s, err := LoadSnapshot(stored)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(s.Identities)
	}
	first := onDisk()
	moved := base
	moved.Node = "n9"
	if take(moved); onDisk() != first {
		t.Error("written at once")
	}
	k.saved = k.saved.Add(-identitiesEvery)
	s := take(moved)
	back, err := LoadSnapshot(stored)
	if err != nil || !back.sameIdentities(s) || !reflect.DeepEqual(back.Identities[0].MAC, s.Identities[0].MAC) {
		t.Errorf("a minute later: %+v, %v", back, err)
	}
}
