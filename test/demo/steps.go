package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/test/netns"
)

// Addresses that the VMs had before they were moved. No file of the product
// names vm1's but the firewall rules that came along.
const (
	oldSubnet = "10.100.0.0/24"
	vm1IP     = "10.100.0.10"
	vm2IP     = "10.200.0.10"
	vm2MAC    = "00:50:56:aa:bb:02"
	network   = "legacy" // the VMs' name of the network
	evilMAC   = "02:de:ad:be:ef:01"
)

func (d *demo) steps() []step {
	return []step{
		{"Two nodes and two legacy hosts on a switch", d.wireUp},
		{"Each node's agent makes its trunk as the manifests say", d.startAgents},
		{"vm1, a real VM, onto VLAN 100: our plugin as the main one", d.addMain},
		{"vm2 onto VLAN 200 of the other node: behind the reference plugin bridge", d.addChained},
		{"VLAN 100: the legacy host reaches vm1 under its old address", d.reach},
		{"VLAN 200 sees nothing of VLAN 100", d.isolated},
		{"The firewall: rule 1001 allows tcp/80 from the old subnet, rule 1002 drops tcp/22", d.firewall},
		{"vm1 forges its MAC, and a frame with two tags to hop into VLAN 200", d.forge},
		{"kill -9 of the agent changes nothing", d.killAgent},
		{"A new agent takes over", d.takeOver},
		{"DEL leaves nothing", d.delAll},
	}
}

// write puts a file into a node's folder.
func write(n *netns.Node, name, text string) error {
	return os.WriteFile(filepath.Join(n.Dir, name), []byte(text), 0o644)
}

func (d *demo) wireUp() error {
	var err error
	if d.fabric, err = d.lab.Switch("switch"); err != nil {
		return err
	}
	trunk := netns.SwitchPort{Tagged: []uint16{100, 200}}
	if d.node1, err = d.lab.Node("node1", d.fabric, trunk); err != nil {
		return err
	}
	if d.node2, err = d.lab.Node("node2", d.fabric, trunk); err != nil {
		return err
	}
	d.legacy100, err = d.lab.Host("legacy100", d.fabric, netns.SwitchPort{PVID: 100}, "10.100.0.20/24")
	if err != nil {
		return err
	}
	// It has an address of VLAN 100's subnet too, to try what must not work.
	d.old200, err = d.lab.Host("legacy200", d.fabric, netns.SwitchPort{PVID: 200}, "10.200.0.20/24", "10.100.0.99/24")
	if err != nil {
		return err
	}
	d.say("node1, node2: tagged ports with VLANs 100 and 200; legacy100, legacy200: one untagged VLAN each")
	if err := d.must(d.fabric, "bridge vlan show", `legacy100\S+ +100 PVID`, `legacy200\S+ +200 PVID`); err != nil {
		return err
	}
	return d.must(d.node1.Space, "uname -rm; ip -br link show eth1", "UP")
}

const site = `apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100,200"}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec: {trunk: trunk0, vlan: {mode: Access, id: 100}, defaultAction: Drop}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan200}
spec: {trunk: trunk0, vlan: {mode: Access, id: 200}, defaultAction: Allow}
`

const firewall = `apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: vm-firewall}
spec:
  category: Application
  appliedTo: [{network: vlan100}]
  rules:
  - {id: 1001, action: Allow, direction: In, sources: [{cidr: ` + oldSubnet + `}], destinations: [{ip: ` + vm1IP + `}], services: [{protocol: TCP, ports: "80"}]}
  - {id: 1002, action: Drop, direction: In, destinations: [{ip: ` + vm1IP + `}], services: [{protocol: TCP, ports: "22"}]}
  - {id: 1003, action: Allow, services: [{protocol: ICMP}]}
  - {id: 1004, action: Allow, direction: In, sources: [{cidr: ` + oldSubnet + `}]}
`

func (d *demo) startAgents() error {
	for _, n := range []*netns.Node{d.node1, d.node2} {
		rules := firewall
		if d.breakage == "rule" {
			rules = dropLine(rules, "id: 1002")
		}
		if err := write(n, "manifests/site.yaml", site); err != nil {
			return err
		}
		if err := write(n, "manifests/firewall.yaml", rules); err != nil {
			return err
		}
		if n == d.node1 {
			if err := d.must(n.Space, "cat manifests/site.yaml manifests/firewall.yaml"); err != nil {
				return err
			}
		}
		if err := d.startAgent(n); err != nil {
			return err
		}
	}
	d.say("a bridge without VLANs, such as clusters have for the reference plugin")
	if err := d.must(d.node2.Space, "ip link add flat0 address 02:00:00:00:00:f0 type bridge && ip link set flat0 up"); err != nil {
		return err
	}
	var err error
	if d.before1, err = d.node1.Listing(); err != nil {
		return err
	}
	if d.before2, err = d.node2.Listing(); err != nil {
		return err
	}
	if err := d.must(d.node1.Space, "homeportctl status", "Node is ready"); err != nil {
		return err
	}
	return d.must(d.node2.Space, "homeportctl vlans", `eth1 +100`)
}

func (d *demo) startAgent(n *netns.Node) error {
	fmt.Fprintf(d.out, "  %s$ bridge-agent %s &\n", n.Name, strings.Join(n.AgentArgs(), " "))
	if err := n.StartAgent(); err != nil {
		return err
	}
	return n.WaitReady(d.ctx, 60*time.Second)
}

func dropLine(text, with string) string {
	var out []string
	for _, l := range strings.Split(text, "\n") {
		if !strings.Contains(l, with) {
			out = append(out, l)
		}
	}
	return strings.Join(out, "\n")
}

// plugin is the command line by which a runtime runs a CNI plugin.
func plugin(verb string, p *netns.Pod, name, config string) string {
	return fmt.Sprintf("CNI_COMMAND=%s CNI_CONTAINERID=%s CNI_NETNS=%s CNI_IFNAME=%s CNI_PATH=cni cni/%s < %s",
		verb, p.ContainerID, p.Path, netns.PodIfName(network), name, config)
}

func (d *demo) addMain() error {
	var err error
	if d.pod1, err = d.lab.Pod("virt-launcher-vm1"); err != nil {
		return err
	}
	vlan := "vlan100"
	if d.breakage == "vlan" {
		vlan = "vlan200"
	}
	conf := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "legacy-100", "type": "homeport", "network": %q,
 "capabilities": {"mac": true}, "runtimeConfig": {"mac": %q}}`+"\n", vlan, d.guest.MAC())
	if err := write(d.node1, "vm1.json", conf); err != nil {
		return err
	}
	n := d.node1.Space
	d.say("the NetworkAttachmentDefinition's config, with the MAC that Multus hands on from the VM's spec")
	if err := d.must(n, "cat vm1.json"); err != nil {
		return err
	}
	if err := d.must(n, plugin("ADD", d.pod1, "homeport", "vm1.json"), `"mac": "`+d.guest.MAC()+`"`, `"sandbox": "`+d.pod1.Path); err != nil {
		return err
	}
	if err := d.guest.Join(d.ctx, d.pod1); err != nil {
		return err
	}
	d.say("KubeVirt wires the pod: it renames the interface, changes its MAC, bridges it to the VM's tap")
	if err := d.must(d.pod1.Space, "ip -br link show type veth; ip -br link show type bridge", "-nic@"); err != nil {
		return err
	}
	return d.must(n, "homeportctl ports", `Active +`+vlan+` +access \d+ +`+d.guest.MAC())
}

func (d *demo) addChained() error {
	var err error
	if d.pod2, err = d.lab.Pod("virt-launcher-vm2"); err != nil {
		return err
	}
	n := d.node2.Space
	const first = `{"cniVersion": "1.0.0", "name": "legacy-200", "type": "bridge", "bridge": "flat0",
 "disableContainerInterface": true, "ipam": {}, "capabilities": {"mac": true}, "runtimeConfig": {"mac": "` + vm2MAC + `"}}` + "\n"
	if err := write(d.node2, "vm2-bridge.json", first); err != nil {
		return err
	}
	d.say("the runtime runs the plugins of the list in order; the first one is the reference plugin")
	answer, err := d.sh(n, plugin("ADD", d.pod2, "bridge", "vm2-bridge.json"))
	if err != nil {
		return err
	}
	second := map[string]any{"cniVersion": "1.0.0", "name": "legacy-200", "type": "homeport", "network": "vlan200", "prevResult": json.RawMessage(answer)}
	b, err := json.Marshal(second)
	if err != nil {
		return err
	}
	if err := write(d.node2, "vm2-homeport.json", string(b)); err != nil {
		return err
	}
	d.say("ours is next: it takes the veth over into the trunk, and corrects the result's bridge")
	if err := d.must(n, plugin("ADD", d.pod2, "homeport", "vm2-homeport.json"), `"br-trunk0"`, vm2MAC); err != nil {
		return err
	}
	if _, err := d.pod2.Guest("vm2", network, vm2IP+"/24"); err != nil {
		return err
	}
	if err := d.must(n, "ip -br link show master br-trunk0", `veth`); err != nil {
		return err
	}
	return d.must(n, "homeportctl vlans", `veth\S+ +200 PVID Egress Untagged`)
}
