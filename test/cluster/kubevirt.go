package cluster

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// VM is a VirtualMachineInstance with its launcher pod, as KubeVirt 1.9 makes them.
type VM struct {
	Namespace, Name string
	Node            string
	Network         string // its NetworkAttachmentDefinition
	MAC             string // "" is that it names none, and has what its first pod got
	Got             string // that, once there is one
	Address         string // with prefix length
	Labels          string // as {a: b} without the braces
	Silent          bool   // it has no guest agent, so that nobody tells its address
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
	mac := ""
	if v.MAC != "" {
		mac = ", macAddress: " + strconv.Quote(v.MAC)
	}
	vmi := fmt.Sprintf(`
apiVersion: kubevirt.io/v1
kind: VirtualMachineInstance
metadata: {name: %s, namespace: %s, labels: {%s}}
spec:
  domain: {devices: {interfaces: [{name: lan, bridge: {}%s}]}}
  networks: [{name: lan, multus: {networkName: %s}}]
`, v.Name, v.Namespace, v.Labels, mac, v.Network)
	if _, err := c.Kubectl(ctx, vmi, "apply", "-f", "-"); err != nil {
		return vmi, err
	}
	uid, err := c.uid(ctx, v.Namespace, "vmi", v.Name)
	if err != nil {
		return vmi, err
	}
	pod := v.launcher(v.Name, v.Node, uid, v.Labels)
	_, err = c.Kubectl(ctx, pod, "apply", "-f", "-")
	return vmi + "---" + pod, err
}

// launcher is a launcher pod of the VM with some labels of its own.
func (v *VM) launcher(name, node, uid, labels string) string {
	command := fmt.Sprintf(`["/bin/probe", "-launcher", "-nic", %q, "-addr", %q, "-mac", %q]`, launcherNIC, v.Address, v.Got)
	if v.Tap != "" {
		command = fmt.Sprintf(`["/bin/probe", "-launcher", "-nic", %q, "-tap", %q]`, launcherNIC, v.Tap)
	}
	mac := ""
	if v.MAC != "" {
		mac = `,"mac":` + strconv.Quote(v.MAC)
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: %[10]s
  namespace: %[2]s
  labels: {%[3]s, kubevirt.io: virt-launcher, kubevirt.io/created-by: %[4]s, vm.kubevirt.io/name: %[1]s}
  annotations:
    kubevirt.io/domain: %[1]s
    k8s.v1.cni.cncf.io/networks: '[{"interface":%[5]q%[6]s,"name":%[7]q,"namespace":%[2]q}]'
  ownerReferences: [{apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: %[1]s, uid: %[4]s, controller: true, blockOwnerDeletion: true}]
spec:
  nodeSelector: {kubernetes.io/hostname: %[8]s}
%[9]s`, v.Name, v.Namespace, labels, uid, launcherNIC, mac, v.Network, node, probeSpec(command, "{}"), name)
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
	uid, err := c.uid(ctx, v.Namespace, "pod", v.Name)
	if err != nil {
		return err
	}
	ip, _, _ := strings.Cut(v.Address, "/")
	told := fmt.Sprintf(`"ipAddress":%[1]q,"ipAddresses":[%[1]q],"infoSource":"domain,guest-agent,multus-status"`, ip)
	if v.Silent {
		told = `"infoSource":"domain,multus-status"`
	}
	patch := fmt.Sprintf(`{"metadata":{"labels":{"kubevirt.io/nodeName":%[1]q}},"status":{"phase":"Running","nodeName":%[1]q,"activePods":{%[2]q:%[1]q},"interfaces":[`+
		`{"name":"lan","mac":%[3]q,"podInterfaceName":%[4]q,%[5]s}]}}`,
		v.Node, uid, cmp.Or(v.MAC, v.Got), launcherNIC, told)
	return c.patch(ctx, v.Namespace, "vmi", v.Name, patch)
}

func (c *Cluster) uid(ctx context.Context, namespace, kind, name string) (string, error) {
	return c.Kubectl(ctx, "", "-n", namespace, "get", kind, name, "-o", "jsonpath={.metadata.uid}")
}

func (c *Cluster) patch(ctx context.Context, namespace, kind, name, patch string) error {
	_, err := c.Kubectl(ctx, "", "-n", namespace, "patch", kind, name, "--type=merge", "-p", patch)
	return err
}

// Migration is a VM's live migration to a pod on another node. Its methods write what
// KubeVirt does, and when (pkg/virt-controller/watch/migration/migration.go,
// pkg/virt-handler/migration-target.go).
type Migration struct {
	*VM
	Source, Target string // pods
	To             string // node
}

// CreateTarget makes the target's pod: the VM's launcher with the label
// MigrationJobLabel, and, as podLabels copies all labels of the VM, with the source's
// node as kubevirt.io/nodeName.
func (c *Cluster) CreateTarget(ctx context.Context, m *Migration) (string, error) {
	uid, err := c.uid(ctx, m.Namespace, "vmi", m.Name)
	if err != nil {
		return "", err
	}
	labels := fmt.Sprintf("%s, kubevirt.io/nodeName: %s, kubevirt.io/migrationJobUID: job-%s", m.Labels, m.Node, m.Target)
	pod := m.launcher(m.Target, m.To, uid, labels)
	_, err = c.Kubectl(ctx, pod, "apply", "-f", "-")
	return pod, err
}

// ScheduleMigration says that the target's pod is the VM's (activePods), as
// virt-controller does when it sees the pod.
func (c *Cluster) ScheduleMigration(ctx context.Context, m *Migration) error {
	uid, err := c.uid(ctx, m.Namespace, "pod", m.Target)
	if err != nil {
		return err
	}
	return c.patch(ctx, m.Namespace, "vmi", m.Name, fmt.Sprintf(`{"status":{"activePods":{%q:%q}}}`, uid, m.To))
}

// PrepareMigration is what is written once the target's pod is ready: the label
// MigrationTargetNodeNameLabel and status.migrationState.
func (c *Cluster) PrepareMigration(ctx context.Context, m *Migration) error {
	return c.patch(ctx, m.Namespace, "vmi", m.Name, fmt.Sprintf(`{"metadata":{"labels":{"kubevirt.io/migrationTargetNodeName":%[1]q}},
		"status":{"migrationState":{"sourceNode":%[2]q,"sourcePod":%[3]q,"targetNode":%[1]q,"targetPod":%[4]q,"migrationUid":"job-%[4]s",
		"completed":null,"failed":null,"targetNodeDomainReadyTimestamp":null}}}`, m.To, m.Node, m.Source, m.Target))
}

// ReadyMigration says that the VM runs at the target: first in its status, by
// virt-handler, then on the target's pod, by virt-controller.
func (c *Cluster) ReadyMigration(ctx context.Context, m *Migration) error {
	err := c.patch(ctx, m.Namespace, "vmi", m.Name, `{"status":{"migrationState":{"targetNodeDomainReadyTimestamp":"2026-01-01T00:00:00Z"}}}`)
	if err != nil {
		return err
	}
	return c.patch(ctx, m.Namespace, "pod", m.Target, `{"metadata":{"annotations":{"kubevirt.io/migration-target-ready-timestamp":"2026-01-01 00:00:00 +0000 UTC"}}}`)
}

// FailMigration gives it up (virt-handler, before the VM runs at the target).
func (c *Cluster) FailMigration(ctx context.Context, m *Migration) error {
	return c.patch(ctx, m.Namespace, "vmi", m.Name, `{"status":{"migrationState":{"completed":true,"failed":true,"failureReason":"no room"}}}`)
}

// CompleteMigration is the end: the VM's node is the target's.
func (c *Cluster) CompleteMigration(ctx context.Context, m *Migration) error {
	return c.patch(ctx, m.Namespace, "vmi", m.Name, fmt.Sprintf(`{"metadata":{"labels":{"kubevirt.io/nodeName":%[1]q,"kubevirt.io/migrationTargetNodeName":null}},
		"status":{"nodeName":%[1]q,"migrationState":{"completed":true}}}`, m.To))
}
