package cluster

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// launcherNIC is the pod's interface for the VM's network "lan": "pod" and 11 hex
// digits of the name's SHA-256 (pkg/network/namescheme/networknamescheme.go,
// GenerateHashedInterfaceName).
var launcherNIC = func() string {
	sum := sha256.Sum256([]byte("lan"))
	return "pod" + hex.EncodeToString(sum[:])[:11]
}()

// launcherMeta is what virt-controller writes into a launcher pod's metadata
// (pkg/virt-controller/services/template.go; names of labels in
// staging/src/kubevirt.io/api/core/v1/types.go: AppLabel, CreatedByLabel): labels,
// and the owner reference to the VirtualMachineInstance.
func launcherMeta(p *pod) (labels, owner string) {
	labels = fmt.Sprintf("kubevirt.io: virt-launcher, kubevirt.io/created-by: %s, vm.kubevirt.io/name: %s", p.vmi, p.name)
	owner = fmt.Sprintf(`  ownerReferences:
  - {apiVersion: kubevirt.io/v1, kind: VirtualMachineInstance, name: %s, uid: %s, controller: true, blockOwnerDeletion: true}`, p.name, p.vmi)
	return labels, owner
}
