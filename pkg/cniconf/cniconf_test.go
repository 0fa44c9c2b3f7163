package cniconf

import (
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

func newSet(tb testing.TB, s string) vlan.Set {
	tb.Helper()
	set, err := vlan.ParseSet(s)
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

// with makes a config of the keys every config has and the given ones.
func with(keys string) string {
	return `{"cniVersion":"1.0.0","name":"legacy","type":"homeport",` + keys + `}`
}

// refusal is a config and the lines of the error it meets.
type refusal struct {
	name, conf, args string
	want             []string
}

func TestParseRefusesPlaces(t *testing.T) {
	refuses(t, []refusal{
		{"no network", with(`"mtu":1500`), "", []string{`network: missing; name a VLANNetwork, or give bridge and vlan`}},
		{"network and vlan", with(`"network":"n","vlan":100`), "", []string{`vlan: cannot stand beside network, which says it; remove vlan or network`}},
		{"network and all else", with(`"network":"n","bridge":"br0","vlanTrunk":[{"id":1}],"nativeVlan":2`), "", []string{
			`bridge: cannot stand beside network, which says it; remove bridge or network`,
			`vlanTrunk: cannot stand beside network, which says it; remove vlanTrunk or network`,
			`nativeVlan: cannot stand beside network, which says it; remove nativeVlan or network`}},
		{"empty network", with(`"network":""`), "", []string{`network: is empty; give a name or leave the key out`}},
		{"network of another type", with(`"network":7`), "", []string{`network: 7 is not a JSON string; write a JSON string`}},
		{"bridge without a VLAN", with(`"bridge":"br0"`), "", []string{`vlan: missing; give vlan for an access port, or vlanTrunk for a guest that tags; a port without a VLAN is not made`}},
		{"VLAN without a bridge", with(`"vlan":100`), "", []string{`bridge: missing; name the bridge that the VLANs are on, or give network alone`}},
		{"long bridge", with(`"bridge":"a-bridge-too-far","vlan":1`), "", []string{`bridge: "a-bridge-too-far" is no interface name; use 1 to 15 characters without / : and space`}},
		{"VLAN 0", with(`"bridge":"br0","vlan":0`), "", []string{`vlan: 0 is not a VLAN; give a VLAN from 1 to 4094`}},
		{"VLAN 4095", with(`"bridge":"br0","vlan":4095`), "", []string{`vlan: 4095 is not a VLAN; give a VLAN from 1 to 4094`}},
		{"VLAN 65636", with(`"bridge":"br0","vlan":65636`), "", []string{`vlan: 65636 is not a VLAN; give a VLAN from 1 to 4094`}},
		{"VLAN -1", with(`"bridge":"br0","vlan":-1`), "", []string{`vlan: -1 is not a VLAN; give a VLAN from 1 to 4094`}},
		{"VLAN 100-", with(`"bridge":"br0","vlan":"100-"`), "", []string{`vlan: "100-" is not a whole JSON number; write a whole JSON number`}},
		{"VLAN 1.5", with(`"bridge":"br0","vlan":1.5`), "", []string{`vlan: 1.5 is not a whole JSON number; write a whole JSON number`}},
		{"native VLAN 4095", with(`"bridge":"br0","vlanTrunk":[{"id":1}],"nativeVlan":4095`), "", []string{`nativeVlan: 4095 is not a VLAN; give a VLAN from 1 to 4094`}},
		{"native without trunk", with(`"bridge":"br0","nativeVlan":7`), "", []string{`nativeVlan: goes with vlanTrunk; write vlan for an access port, or add vlanTrunk`}},
		{"two untagged VLANs", with(`"bridge":"br0","vlanTrunk":[{"id":1}],"vlan":8,"nativeVlan":7`), "", []string{`nativeVlan: 7 is not the 8 that vlan says; give the untagged VLAN once, as nativeVlan`}},
		{"empty trunk", with(`"bridge":"br0","vlanTrunk":[]`), "", []string{`vlanTrunk: is empty; write items as {"id": 100} or {"minID": 100, "maxID": 110}`}},
		{"trunk as text", with(`"bridge":"br0","vlanTrunk":"100-"`), "", []string{`vlanTrunk: "100-" is not a JSON list as [{"id": 100}, {"minID": 200, "maxID": 210}]; write a JSON list as [{"id": 100}, {"minID": 200, "maxID": 210}]`}},
		{"trunk items", with(`"bridge":"br0","vlanTrunk":[{"id":0},{"minID":90,"maxID":80},{"minID":5},{},{"id":5,"maxID":7},7,{"ID":5},{"minID":1,"maxID":4095},{"id":"x"},{"id":2,"id":3},{"minID":9,"maxID":8,"id":7},{"minID":8,"maxID":9,"id":4095}]`), "", []string{
			`vlanTrunk[0].id: 0 is not a VLAN; give a VLAN from 1 to 4094`,
			`vlanTrunk[1].minID: 90 is above maxID 80; write minID 80 and maxID 90`,
			`vlanTrunk[2]: is half a range; write items as {"id": 100} or {"minID": 100, "maxID": 110}`,
			`vlanTrunk[3]: names no VLAN; write items as {"id": 100} or {"minID": 100, "maxID": 110}`,
			`vlanTrunk[4]: is half a range; write items as {"id": 100} or {"minID": 100, "maxID": 110}`,
			`vlanTrunk[5]: 7 is not a JSON object; write items as {"id": 100} or {"minID": 100, "maxID": 110}`,
			`vlanTrunk[6].ID: unknown key; did you mean "id"?`,
			`vlanTrunk[7].maxID: 4095 is not a VLAN; give a VLAN from 1 to 4094`,
			`vlanTrunk[8].id: "x" is not a whole JSON number; write a whole JSON number`,
			`vlanTrunk[9].id: is written twice; write it once`,
			`vlanTrunk[10].minID: 9 is above maxID 8; write minID 8 and maxID 9`,
			`vlanTrunk[11].id: 4095 is not a VLAN; give a VLAN from 1 to 4094`}},
	})
}

func TestParseRefusesTheRest(t *testing.T) {
	refuses(t, []refusal{
		{"MTU -1", with(`"network":"n","mtu":-1`), "", []string{`mtu: -1 is out of range; give 68 to 65535 bytes, or leave the key out to take the network's`}},
		{"MTU 0", with(`"network":"n","mtu":0`), "", []string{`mtu: 0 is out of range; give 68 to 65535 bytes, or leave the key out to take the network's`}},
		{"MTU 65536", with(`"network":"n","mtu":65536`), "", []string{`mtu: 65536 is out of range; give 68 to 65535 bytes, or leave the key out to take the network's`}},
		{"MTU as text", with(`"network":"n","mtu":"1500"`), "", []string{`mtu: "1500" is not a whole JSON number; write a whole JSON number`}},
		{"multicast MAC", with(`"network":"n","mac":"01:00:5e:00:00:01"`), "", []string{`mac: "01:00:5e:00:00:01" is a multicast address; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"zero MAC", with(`"network":"n","mac":"00:00:00:00:00:00"`), "", []string{`mac: "00:00:00:00:00:00" is nobody's address; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"short MAC", with(`"network":"n","mac":"00:50:56"`), "", []string{`mac: "00:50:56" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"empty MAC", with(`"network":"n","mac":""`), "", []string{`mac: "" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"long MAC", with(`"network":"n","mac":"02:00:5e:10:00:00:00:01"`), "", []string{`mac: "02:00:5e:10:00:00:00:01" is no MAC address of six bytes; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"all MACs bad", with(`"network":"n","mac":"x","args":{"cni":{"mac":"y"}},"runtimeConfig":{"mac":"ff:ff:ff:ff:ff:ff"}`), "MAC=z", []string{
			`mac: "x" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`,
			`CNI_ARGS MAC: "z" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`,
			`args.cni.mac: "y" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`,
			`runtimeConfig.mac: "ff:ff:ff:ff:ff:ff" is a multicast address; give six bytes of one station, as 00:50:56:01:02:03`}},
		{"misspelt keys", with(`"network":"n","vlanTrunks":[],"Vlan":1,"macc":"x","nativeVLAN":1,"qwertyuiop":1,"cni.devx":1`), "", []string{
			`vlanTrunks: unknown key; did you mean "vlanTrunk"?`,
			`Vlan: unknown key; did you mean "vlan"?`,
			`macc: unknown key; did you mean "mac"?`,
			`nativeVLAN: unknown key; did you mean "nativeVlan"?`,
			`qwertyuiop: unknown key; remove it, or write one of network, bridge, vlan, vlanTrunk, nativeVlan, mtu, mac, migrationTarget, disableContainerInterface, capabilities, ipam`,
			`cni.devx: unknown key; remove it, or write one of network, bridge, vlan, vlanTrunk, nativeVlan, mtu, mac, migrationTarget, disableContainerInterface, capabilities, ipam`}},
		{"keys of the reference plugin", with(`"network":"n","macspoofchk":true,"isGateway":true,"preserveDefaultVlan":false,"hairpinMode":true,"trunk":[]`), "", []string{
			`macspoofchk: unknown key; remove it: a port lets out only the VM's own MAC, always`,
			`isGateway: unknown key; remove it: this plugin works on layer 2, and the gateway is a host of the VLAN`,
			`preserveDefaultVlan: unknown key; remove it: VLAN 1 is never kept; nativeVlan says which VLAN is untagged`,
			`hairpinMode: unknown key; remove it: this version has no such port setting`,
			`trunk: unknown key; write vlanTrunk`}},
		{"key written twice", with(`"network":"n","network":"m"`), "", []string{`network: is written twice; write it once`}},
		{"IPAM as text", with(`"network":"n","ipam":"host-local"`), "", []string{`ipam: "host-local" is not a JSON object; write a JSON object`}},
		{"IPAM's type no text", with(`"network":"n","ipam":{"type":7}`), "", []string{`ipam.type: 7 is not a JSON string; write a JSON string`}},
		{"IPAM of a path", with(`"network":"n","ipam":{"type":"../host-local"}`), "", []string{`ipam.type: "../host-local" is no plugin's name; give the name of a program in CNI_PATH, as host-local`}},
		{"IPAM of a folder", with(`"network":"n","ipam":{"type":".."}`), "", []string{`ipam.type: ".." is no plugin's name; give the name of a program in CNI_PATH, as host-local`}},
		{"IPAM without type", with(`"network":"n","ipam":{"subnet":"10.0.0.0/8"}`), "", []string{`ipam.type: missing; name the plugin that gives out addresses, as host-local, or remove ipam`}},
		{"IPAM of empty type", with(`"network":"n","ipam":{"type":"","subnet":"10.0.0.0/8"}`), "", []string{`ipam.type: missing; name the plugin that gives out addresses, as host-local, or remove ipam`}},
		{"IPAM in a chain", with(`"network":"n","ipam":{"type":"host-local"},"prevResult":{}`), "", []string{`ipam: the plugin before this one made the interface, and its addresses are that one's to give; set ipam at that plugin`}},
		{"IPAM and interface down", with(`"network":"n","ipam":{"type":"host-local"},"disableContainerInterface":true`), "", []string{`disableContainerInterface: ipam gives the interface addresses and routes, for which it must be up; remove the key or ipam`}},
		{"IPAM's capability", with(`"network":"n","ipam":{},"capabilities":{"mac":true,"ips":true}`), "", []string{`capabilities.ips: goes with ipam, whose plugin takes it; remove it, or name that plugin in ipam.type`}},
		{"capability", with(`"network":"n","ipam":{"type":"static"},"capabilities":{"mac":true,"portMappings":true}`), "", []string{`capabilities.portMappings: not supported; remove it; "mac" is the one capability, and with ipam "ips" and "ipRanges"`}},
		{"capabilities of another type", with(`"network":"n","capabilities":["mac"]`), "", []string{`capabilities: ["mac"] is not a JSON object as {"mac": true}; write a JSON object as {"mac": true}`}},
		{"switch as text", with(`"network":"n","disableContainerInterface":"true"`), "", []string{`disableContainerInterface: "true" is not true or false; write true or false`}},
		{"migration target as text", with(`"network":"n","migrationTarget":"yes"`), "", []string{`migrationTarget: "yes" is not true or false; write true or false`}},
		{"migration target without a MAC", with(`"network":"n","migrationTarget":true`), "", []string{`migrationTarget: no MAC is given, and the VM has one already; give the VM's MAC in mac, or in any of the other ways`}},
		{"interface down in a chain", with(`"network":"n","disableContainerInterface":true,"prevResult":{}`), "", []string{`disableContainerInterface: the plugin before this one made the interface; set the key at that plugin`}},
		{"prevResult of another type", with(`"network":"n","prevResult":[]`), "", []string{`prevResult: [] is not a JSON object; the runtime should pass the result of the plugin before this one`}},
		{"no name", `{"network":"n"}`, "", []string{`name: missing; name the CNI network`}},
		{"odd name", `{"name":"a b","network":"n"}`, "", []string{`name: "a b" has invalid characters; use letters, digits, and then also . _ -`}},
		{"all at once", with(`"bridge":"br0","vlan":4095,"mtu":0,"mac":"no","color":"red"`), "", []string{
			`color: unknown key; remove it, or write one of network, bridge, vlan, vlanTrunk, nativeVlan, mtu, mac, migrationTarget, disableContainerInterface, capabilities, ipam`,
			`vlan: 4095 is not a VLAN; give a VLAN from 1 to 4094`,
			`mac: "no" is no MAC address; give six bytes of one station, as 00:50:56:01:02:03`,
			`mtu: 0 is out of range; give 68 to 65535 bytes, or leave the key out to take the network's`}},
	})
}

func refuses(t *testing.T, tests []refusal) {
	t.Helper()
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Parse([]byte(tt.conf), tt.args)
			if err == nil {
				t.Fatal("accepted")
			}
			if diff := cmp.Diff(tt.want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			var e *attach.Error
			if !errors.As(err, &e) || e.Kind != attach.InvalidConfig {
				t.Errorf("%T is of another kind", err)
			}
		})
	}
}

func TestParseUndecodable(t *testing.T) {
	for _, conf := range []string{"", " ", "null", "7", "[]", "{", `{"name"`, `{"name":`, `{"name":"a",}`, `{"name":"a"}{}`, `{"name":"a"} x`, `{7:1}`, "\xff"} {
		_, err := Parse([]byte(conf), "")
		var e *DecodeError
		if !errors.As(err, &e) || !strings.Contains(e.Error(), "cannot be decoded") {
			t.Errorf("%q: %v", conf, err)
		}
	}
	var e *EnvError
	if _, err := Parse([]byte(with(`"network":"n"`)), "MAC"); !errors.As(err, &e) || !strings.HasPrefix(e.Error(), `CNI_ARGS: "MAC" has no value`) {
		t.Errorf("CNI_ARGS without value: %v", err)
	}
}

func TestParse(t *testing.T) {
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	base := func(change func(*Config)) *Config {
		c := &Config{CNIVersion: "1.0.0", Name: "legacy", Network: "n"}
		change(c)
		return c
	}
	inline := func(m vlan.Mode, pvid vlan.ID, tagged string) *Config {
		return base(func(c *Config) {
			c.Network = ""
			c.Inline = &attach.Inline{Bridge: "br0", VLANs: attach.VLANs{Mode: m, PVID: pvid, Tagged: newSet(t, tagged)}}
		})
	}
	const trunk = `"bridge":"br0","vlanTrunk":[{"id":200},{"minID":100,"maxID":110},{"minID":105,"maxID":105}]`
	tests := []struct {
		name, conf, args string
		want             *Config
	}{
		{"network", with(`"network":"n"`), "", base(func(*Config) {})},
		{"all standard keys", with(`"network":"n","cniVersions":["1.0.0"],"ipam":{},"dns":{"domain":"lab"},"args":{"cni":{"logicNetworkName":"x"},"labels":[]},
			"runtimeConfig":{"ips":["10.0.0.1"],"CNIDeviceInfoFile":"/x"},"disableCheck":true,"disableGC":true,"loadOnlyInlinedPlugins":true,
			"deviceID":"0000:00:01.0","pciBusID":"x","cni.dev/valid-attachments":[],"cni.dev/x":1,"capabilities":{"mac":true,"ips":false}`), "",
			base(func(c *Config) { c.DNS = types.DNS{Domain: "lab"} })},
		{"null is absent", with(`"network":"n","bridge":null,"vlan":null,"vlanTrunk":null,"mtu":null,"mac":null,"ipam":null,"prevResult":null,"args":null,"runtimeConfig":null,"capabilities":null`), "", base(func(*Config) {})},
		{"IPAM without type", with(`"network":"n","ipam":{"type":""}`), "", base(func(*Config) {})},
		{"IPAM of type null", with(`"network":"n","ipam":{"type":null}`), "", base(func(*Config) {})},
		{"IPAM", with(`"network":"n","ipam":{"type":"static","addresses":[]},"capabilities":{"ips":true,"ipRanges":true}`), "", base(func(c *Config) { c.IPAM = "static" })},
		{"access", with(`"bridge":"br0","vlan":100`), "", inline(vlan.Access, 100, "")},
		{"trunk has no untagged VLAN", with(trunk), "", inline(vlan.Trunk, 0, "100-110,200")},
		{"native", with(trunk + `,"nativeVlan":7`), "", inline(vlan.Native, 7, "100-110,200")},
		{"vlan beside trunk is native", with(trunk + `,"vlan":7`), "", inline(vlan.Native, 7, "100-110,200")},
		{"both and equal", with(trunk + `,"vlan":7,"nativeVlan":7`), "", inline(vlan.Native, 7, "100-110,200")},
		{"native is not tagged", with(trunk + `,"nativeVlan":105`), "", inline(vlan.Native, 105, "100-104,106-110,200")},
		{"range and id in one item", with(`"bridge":"br0","vlanTrunk":[{"minID":100,"maxID":110,"id":200},{"id":105,"minID":103,"maxID":106}]`), "", inline(vlan.Trunk, 0, "100-110,200")},
		{"whole trunk", with(`"bridge":"br0","vlanTrunk":[{"minID":1,"maxID":4094}]`), "", inline(vlan.Trunk, 0, "1-4094")},
		{"least MTU", with(`"network":"n","mtu":68`), "", base(func(c *Config) { c.MTU = 68 })},
		{"largest MTU", with(`"network":"n","mtu":65535`), "", base(func(c *Config) { c.MTU = 65535 })},
		{"pod", with(`"network":"n"`), "IgnoreUnknown=true;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=virt-launcher-a;K8S_POD_INFRA_CONTAINER_ID=;K8S_POD_UID=u-1;X=a=b;",
			base(func(c *Config) { c.Pod = attach.Pod{Namespace: "ns", Name: "virt-launcher-a", UID: "u-1"} })},
		{"migration target", with(`"network":"n","migrationTarget":true,"mac":"00:50:56:01:02:03"`), "", base(func(c *Config) {
			c.MigrationTarget, c.MAC, c.MACField = true, net.HardwareAddr{0, 0x50, 0x56, 1, 2, 3}, "mac"
		})},
		{"migration target in a chain", with(`"network":"n","migrationTarget":true,"prevResult":{}`), "", base(func(c *Config) { c.MigrationTarget, c.PrevResult = true, json.RawMessage(`{}`) })},
		{"interface down", with(`"network":"n","disableContainerInterface":true`), "", base(func(c *Config) { c.ContainerDown = true })},
		{"chained", with(`"network":"n","disableContainerInterface":false,"prevResult": {"interfaces":[]}`), "", base(func(c *Config) { c.PrevResult = json.RawMessage(`{"interfaces":[]}`) })},
		{"MAC", with(`"network":"n","mac":"00:50:56:00:00:01"`), "", base(func(c *Config) { c.MAC, c.MACField = mac("00:50:56:00:00:01"), "mac" })},
		{"MAC of CNI_ARGS", with(`"network":"n","mac":"00:50:56:00:00:01"`), "MAC=00:50:56:00:00:02", base(func(c *Config) { c.MAC, c.MACField = mac("00:50:56:00:00:02"), "CNI_ARGS MAC" })},
		{"MAC of args", with(`"network":"n","mac":"00:50:56:00:00:01","args":{"cni":{"mac":"00-50-56-00-00-03"}}`), "MAC=00:50:56:00:00:02", base(func(c *Config) { c.MAC, c.MACField = mac("00:50:56:00:00:03"), "args.cni.mac" })},
		{"MAC of runtimeConfig", with(`"runtimeConfig":{"mac":"0050.5600.0004"},"network":"n","mac":"00:50:56:00:00:01","args":{"cni":{"mac":"00:50:56:00:00:03"}}`), "MAC=00:50:56:00:00:02", base(func(c *Config) { c.MAC, c.MACField = mac("00:50:56:00:00:04"), "runtimeConfig.mac" })},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.conf), tt.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmp.Comparer(func(a, b vlan.Set) bool { return a == b })); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseEnv(t *testing.T) {
	tests := []struct {
		name string
		env  map[string]string
		want string // of the error; "" accepts
	}{
		{"nothing", nil, "CNI_COMMAND is not set; a container runtime"},
		{"odd verb", map[string]string{"CNI_COMMAND": "add"}, `CNI_COMMAND: "add" is not known; use ADD`},
		{"ADD alone", map[string]string{"CNI_COMMAND": "ADD"}, "CNI_CONTAINERID, CNI_IFNAME, CNI_NETNS: not set; ADD needs it"},
		{"DEL alone", map[string]string{"CNI_COMMAND": "DEL"}, "CNI_CONTAINERID, CNI_IFNAME: not set; DEL needs it"},
		{"CHECK without netns", map[string]string{"CNI_COMMAND": "CHECK", "CNI_CONTAINERID": "a", "CNI_IFNAME": "b"}, "CNI_NETNS: not set; CHECK needs it"},
		{"odd container", map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "../a", "CNI_IFNAME": "b"}, `CNI_CONTAINERID: "../a" has invalid characters`},
		{"container begins oddly", map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "-a", "CNI_IFNAME": "b"}, `CNI_CONTAINERID: "-a" has invalid characters`},
		{"long interface", map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "sixteen-letters-"}, `CNI_IFNAME: "sixteen-letters-" is no interface name; use 1 to 15`},
		{"interface with slash", map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "a/b"}, `CNI_IFNAME: "a/b" is no interface name`},
		{"DEL", map[string]string{"CNI_COMMAND": "DEL", "CNI_CONTAINERID": "a", "CNI_IFNAME": "b"}, ""},
		{"ADD", map[string]string{"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "a", "CNI_IFNAME": "b", "CNI_NETNS": "/x"}, ""},
		{"GC", map[string]string{"CNI_COMMAND": "GC"}, ""},
		{"STATUS", map[string]string{"CNI_COMMAND": "STATUS"}, ""},
		{"VERSION", map[string]string{"CNI_COMMAND": "VERSION"}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseEnv(func(k string) string { return tt.env[k] })
			var e *EnvError
			if tt.want == "" && err != nil || tt.want != "" && (!errors.As(err, &e) || !strings.HasPrefix(e.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for v, want := range map[string]bool{"": false, "0": false, "false": false, "1": true, "TRUE": true} {
		e, _ := ParseEnv(func(k string) string {
			return map[string]string{"CNI_COMMAND": "GC", "CNI_NETNS_OVERRIDE": v}[k]
		})
		if e.AnyNetns != want {
			t.Errorf("CNI_NETNS_OVERRIDE=%q: %t", v, e.AnyNetns)
		}
	}
}

// The names that the CNI library takes are ours too, and no others.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"", "a", "-a", "a-", "a.b_c-d", "..", ".", "a b", "a/b", "a:b", "\u00a0", "sixteen-letters-", "fifteen-letters"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validID(s), utils.ValidateContainerID(s) == nil; got != want {
			t.Errorf("id %q: %t, the library says %t", s, got, want)
		}
		if got, want := validIfName(s), utils.ValidateInterfaceName(s) == nil; got != want {
			t.Errorf("interface %q: %t, the library says %t", s, got, want)
		}
	})
}

func TestVersion(t *testing.T) {
	for conf, want := range map[string]string{
		"": "", "{": "", "[]": "", `{"cniVersion":7}`: "", `{"name":"a"}`: "",
		`{"cniVersion":"0.3.1","vlan":"x","mtu":false}`: "0.3.1",
	} {
		if got := Version([]byte(conf)); got != want {
			t.Errorf("%s: %q, want %q", conf, got, want)
		}
	}
}

func TestChained(t *testing.T) {
	for conf, want := range map[string]bool{
		"": false, "{": false, "[]": false, `{"cniVersion":"1.0.0"}`: false, `{"prevResult":null}`: false, `{"PrevResult":{}}`: false,
		`{"prevResult":{}}`: true, `{"prevResult":7}`: true, `{"cniVersion":7,"vlan":"x","prevResult":{"interfaces":{}}}`: true,
	} {
		if got := Chained([]byte(conf)); got != want {
			t.Errorf("%s: %t, want %t", conf, got, want)
		}
	}
}

func TestIPAM(t *testing.T) {
	for conf, want := range map[string]string{
		"": "", "{": "", "[]": "", `{"ipam":7}`: "", `{"ipam":{}}`: "", `{"ipam":null}`: "", `{"ipam":{"type":7}}`: "", `{"ipam":{"type":"../x"}}`: "", `{"ipam":{"type":""}}`: "",
		`{"cniVersion":7,"vlan":"x","prevResult":{},"ipam":{"type":"host-local","x":[]}}`: "host-local",
	} {
		if got := IPAM([]byte(conf)); got != want {
			t.Errorf("%s: %q, want %q", conf, got, want)
		}
	}
}

// What CHECK is given is ADD's own answer, and no word of a plugin before ours.
func TestParseCheck(t *testing.T) {
	for _, keys := range []string{`"ipam":{"type":"static"}`, `"disableContainerInterface":true`} {
		conf := []byte(with(`"network":"n","prevResult":{},` + keys))
		if _, err := Parse(conf, ""); err == nil {
			t.Errorf("%s: ADD takes it in a chain", keys)
		}
		if c, err := ParseCheck(conf, ""); err != nil || c.PrevResult == nil {
			t.Errorf("%s: %+v, %v", keys, c, err)
		}
	}
}

func TestParseGC(t *testing.T) {
	for _, tt := range []struct{ conf, want string }{
		{``, "cannot be decoded"},
		{`{"cni.dev/valid-attachments":[]}`, "name: missing; name the CNI network"},
		{`{"name":"a"}`, "cni.dev/valid-attachments: missing; list the attachments"},
		{`{"name":"a","cni.dev/valid-attachments":{}}`, "cni.dev/valid-attachments: {} is not a list"},
		{`{"name":"a","cni.dev/valid-attachments":[7]}`, "cni.dev/valid-attachments: [7] is not a list"},
		{`{"name":"a","cni.dev/valid-attachments":[{"containerID":"x"}]}`, "an attachment lacks containerID or ifname"},
		{`{"name":"a","cni.dev/valid-attachments":[],"cni.dev/valid-attachments":[]}`, "is written twice"},
	} {
		if _, err := ParseGC([]byte(tt.conf)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", tt.conf, err, tt.want)
		}
	}
	one := &GCConfig{Name: "a", Valid: []attach.Key{{ContainerID: "x", IfName: "net1"}}}
	for conf, want := range map[string]*GCConfig{
		`{"name":"a","cni.dev/valid-attachments":[]}`:                                                             {Name: "a"},
		`{"name":"a","cni.dev/valid-attachments":null}`:                                                           {Name: "a"},
		`{"name":"a","mtu":"x","cni.dev/valid-attachments":[{"containerID":"x","ifname":"net1"}]}`:                one,
		`{"name":"a","cni.dev/attachments":[{"containerID":"x","ifname":"net1"}]}`:                                one,
		`{"name":"a","cni.dev/attachments":[],"cni.dev/valid-attachments":[{"containerID":"x","ifname":"net1"}]}`: one,
	} {
		got, err := ParseGC([]byte(conf))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", conf, err, diff)
		}
	}
}

// Whatever comes in: no panic, and what is accepted keeps the Config's promises.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		with(`"network":"n"`), with(`"bridge":"br0","vlan":100,"mtu":1500,"mac":"00:50:56:00:00:01"`),
		with(`"bridge":"br0","vlanTrunk":[{"id":1},{"minID":2,"maxID":3}],"nativeVlan":1`),
		with(`"network":"n","prevResult":{"interfaces":[]},"ipam":{},"dns":{}`), `{"a":1,"a":2}`, `{`, `[]`,
	} {
		f.Add([]byte(s), "MAC=00:50:56:00:00:01;K8S_POD_NAME=a")
	}
	f.Fuzz(func(t *testing.T, conf []byte, args string) {
		Version(conf)
		if name := IPAM(conf); strings.Contains(name, "/") {
			t.Errorf("IPAM plugin %q", name)
		}
		gc, err := ParseGC(conf)
		if err == nil && gc.Name == "" {
			t.Error("GC without a name")
		}
		c, err := Parse(conf, args)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		if (c.Network == "") == (c.Inline == nil) || c.Name == "" {
			t.Errorf("network %q, inline %v, name %q", c.Network, c.Inline, c.Name)
		}
		if c.MTU != 0 && (c.MTU < attach.MinMTU || c.MTU > attach.MaxMTU) {
			t.Errorf("MTU %d", c.MTU)
		}
		if c.MAC != nil && (len(c.MAC) != 6 || c.MAC[0]&1 != 0) {
			t.Errorf("MAC %s", c.MAC)
		}
		if c.Inline == nil {
			return
		}
		v := c.Inline.VLANs
		if (v.Mode == vlan.Access) != v.Tagged.Empty() && v.Mode != vlan.Native || (v.Mode == vlan.Trunk) != (v.PVID == 0) || v.Tagged.Contains(v.PVID) {
			t.Errorf("VLANs %+v", v)
		}
	})
}
