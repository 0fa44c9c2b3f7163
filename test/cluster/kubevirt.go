package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// VM is a VirtualMachineInstance with its launcher pod, as KubeVirt 1.9 makes them.
type VM struct {
	Namespace, Name string
	Node            string
	Network         string // its NetworkAttachmentDefinition
	MAC, Address    string // with prefix length
	Labels          string // as {a: b} without the braces
	// Tap is a NIC of the node at whose other end is a QEMU guest; without one the
	// pod itself plays the VM.
	Tap string
}

// launcherNIC is the pod's interface for the VM's network "lan": "pod" and 11 hex
// digits of the name's SHA-256 (pkg/network/namescheme/networknamescheme.go,
// GenerateHashedInterfaceName).
var launcherNIC = func() string {
	sum := sha256.Sum256([]byte("lan"))
	return "pod" + hex.EncodeToString(sum[:])[:11]
}()

// CreateVM makes the VirtualMachineInstance, then its launcher pod as virt-controller
// does (pkg/virt-controller/services/template.go): the VM's labels (podLabels), the
// labels AppLabel and CreatedByLabel, an owner reference, and Multus' annotation with
// interface, mac, name and namespace (pkg/network/multus/annotation.go). Names of
// labels are in staging/src/kubevirt.io/api/core/v1/types.go. It gives all that it made
// as YAML.
func (c *Cluster) CreateVM(ctx context.Context, v *VM) (string, error) {
	vmi := fmt.Sprintf(`
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  domain: {devices: {interfaces: [{name: lan, bridge: {}, macAddress: %q}]}}
  networks: [{name: lan, multus: {networkName: %s}}]
`, v.Name, v.Namespace, v.Labels, v.MAC, v.Network)
	if _, err := c.Kubectl(ctx, vmi, "apply", "-f", "-"); err != nil {
		return vmi, err
	}
	uid, err := c.Kubectl(ctx, "", "-n", v.Namespace, "get", "vmi", v.Name, "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		return vmi, err
	}
	command := fmt.Sprintf(`["/bin/probe", "-launcher", "-nic", %q, "-addr", %q]`, launcherNIC, v.Address)
	if v.Tap != "" {
		command = fmt.Sprintf(`["/bin/probe", "-launcher", "-nic", %q, "-tap", %q]`, launcherNIC, v.Tap)
	}
	pod := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %[1]s
  namespace: %[2]s
  labels: {%[3]s, kubevirt.io: virt-launcher, kubevirt.io/created-by: %[4]s, vm.kubevirt.io/name: %[1]s}
  annotations:
    kubevirt.io/domain: %[1]s
    k8s.v1.cni.cncf.io/networks: '[{"interface":%[5]q,"mac":%[6]q,"name":%[7]q,"namespace":%[2]q}]'
  ownerReferences: [{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: %[1]s, uid: %[4]s, controller: true, blockOwnerDeletion: true}]
spec:
  nodeSelector: {kubernetes.io/hostname: %[8]s}
%[9]s`, v.Name, v.Namespace, v.Labels, uid, launcherNIC, v.MAC, v.Network, v.Node, probeSpec(command, "{}"))
	_, err = c.Kubectl(ctx, pod, "apply", "-f", "-")
	return vmi + "---" + pod, err
}

// probeSpec is the rest of a pod's spec: a container that runs test/cluster/probe.
func probeSpec(command, resources string) string {
	return `  terminationGracePeriodSeconds: 1
  enableServiceLinks: false
  automountServiceAccountToken: false
  dnsPolicy: Default
  containers:
  - name: probe
    image: ` + boxImage + `
    imagePullPolicy: Never
    command: ` + command + `
    securityContext: {capabilities: {add: [NET_ADMIN]}}
    resources: ` + resources + `
`
}

// RunVM writes what virt-controller and virt-handler would when the VM runs
// (VirtualMachineInstanceStatus in staging/src/kubevirt.io/api/core/v1/types.go):
//
//	(label) kubevirt.io/nodeName: NodeNameLabel
//	activePods   UID of the pod to its node (pkg/virt-controller/watch/vmi)
//	phase        Running
//	nodeName     where the VM runs
//	interfaces   name, mac, ipAddress, ipAddresses, podInterfaceName, infoSource
//	             (VirtualMachineInstanceNetworkInterface; pkg/network/setup/netstat.go)
func (c *Cluster) RunVM(ctx context.Context, v *VM) error {
	uid, err := c.Kubectl(ctx, "", "-n", v.Namespace, "get", "pod", v.Name, "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		return err
	}
	ip, _, _ := strings.Cut(v.Address, "/")
	patch := fmt.Sprintf(`{"metadata":{"labels":{"kubevirt.io/nodeName":%[1]q}},"status":{"phase":"Running","nodeName":%[1]q,"activePods":{%[2]q:%[1]q},"interfaces":[`+
		`{"name":"lan","mac":%[3]q,"ipAddress":%[4]q,"ipAddresses":[%[4]q],"podInterfaceName":%[5]q,"infoSource":"domain,guest-agent,multus-status"}]}}`,
		v.Node, uid, v.MAC, ip, launcherNIC)
	_, err = c.Kubectl(ctx, "", "-n", v.Namespace, "patch", "vmi", v.Name, "--type=merge", "-p", patch)
	return err
}
