package desired

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// MoveState is a pod's part in the live migrations of its VM.
type MoveState uint8

// The parts.
const (
	// MoveUnknown: it cannot be said yet.
	MoveUnknown MoveState = iota
	// MoveNone: the pod is no target; if it runs a VM, that is in it.
	MoveNone
	// MoveTarget: the VM is to come to the pod and still runs in another.
	MoveTarget
	// MoveArrived: the VM has come to the pod.
	MoveArrived
	// MoveLeft: the VM has gone to another pod.
	MoveLeft
)

// String names the part.
func (s MoveState) String() string {
	return [...]string{"Unknown", "None", "Target", "Arrived", "Left"}[s]
}

// Move is what Kubernetes says of a pod's part in live migrations.
type Move struct {
	State MoveState
	Why   string // for people
	// VM is the VirtualMachineInstance, as namespace/name, that names the pod as its
	// own; "" is none.
	VM string
	// Migrating says that the VM names the pod as source or target of its last migration,
	// which only KubeVirt can write; Failed that this migration has failed.
	Migrating, Failed bool
	// UnderWay says that this migration has neither failed nor brought the VM to its target.
	UnderWay bool
	// Claims says that the pod says to be a target; Gone that Kubernetes does not know it.
	Claims, Gone bool
	// Migration is the UID of that migration; "" without one.
	Migration string
	// MACs and Addresses are those of that VM's interfaces, by the names that they have
	// in the pod.
	MACs      map[string]string
	Addresses map[string][]netip.Addr
}

// Labels and annotations of KubeVirt's pods (staging/src/kubevirt.io/api/core/v1/types.go).
const (
	// migrationLabel is on pods that are made to be the target of a migration.
	migrationLabel = "kubevirt.io/migrationJobUID"
	// readyAnnotation is on a target's pod once its VM runs in it. Only that it is
	// there counts.
	readyAnnotation = "kubevirt.io/migration-target-ready-timestamp"
)

// vmi is what is known of the VirtualMachineInstance that a pod says to be of.
type vmi struct {
	object *unstructured.Unstructured // nil: there is none, or it could not be asked for
	asked  bool                       // object says all: nil is that there is none
	fresh  bool                       // it was asked for, and not taken from a watch, which may be behind
	err    error                      // why it could not be asked for
}

// moveOf says what a pod's part is. Whoever makes pods writes their labels and
// owners: that one says to be a target keeps it silent until its
// VirtualMachineInstance was asked, and makes it one only if that names it.
func moveOf(pod *metav1.PartialObjectMetadata, v vmi) Move {
	m := partOf(pod, v)
	_, m.Claims = pod.Labels[migrationLabel]
	return m
}

func partOf(pod *metav1.PartialObjectMetadata, v vmi) Move {
	_, labelled := pod.Labels[migrationLabel]
	owner := ownerVMI(pod)
	switch {
	case owner == "" && labelled:
		return Move{State: MoveNone, Why: fmt.Sprintf("the pod has the label %s, but is no VirtualMachineInstance's", migrationLabel)}
	case owner == "":
		return Move{State: MoveNone, Why: "the pod runs no VM"}
	case v.object == nil && !labelled: // it began here
		return Move{State: MoveNone, Why: "the pod is no migration's target"}
	case v.object == nil && v.asked:
		return Move{State: MoveNone, Why: fmt.Sprintf("the pod has the label %s, but VirtualMachineInstance %s does not exist", migrationLabel, owner)}
	case v.object == nil && v.err != nil:
		return Move{Why: fmt.Sprintf("the pod says to be the target of a migration; whether it is cannot be found out: %v", v.err)}
	case v.object == nil:
		return Move{Why: fmt.Sprintf("the pod says to be the target of a migration; VirtualMachineInstance %s has not been asked yet", owner)}
	}
	if uid := metav1.GetControllerOf(pod).UID; uid != v.object.GetUID() {
		if labelled && !v.fresh {
			return Move{Why: fmt.Sprintf("the pod says to be the target of a migration of another VirtualMachineInstance %s than is known", owner)}
		}
		return Move{State: MoveNone, Why: fmt.Sprintf("the pod is of another VirtualMachineInstance %s than there is (UID %s)", owner, uid)}
	}
	s := readMigration(v.object)
	id := pod.Namespace + "/" + owner
	named := s.active[string(pod.UID)] || s.target == pod.Name || s.source == pod.Name
	if !named {
		if labelled {
			return Move{Why: fmt.Sprintf("the pod says to be the target of a migration, but VirtualMachineInstance %s names it neither in status.activePods nor in status.migrationState", owner)}
		}
		return Move{State: MoveNone, Why: "the pod is no migration's target"}
	}
	migrating := s.target == pod.Name || s.source == pod.Name
	m := Move{Migrating: migrating, Failed: migrating && s.failed, UnderWay: migrating && !s.failed && !s.handedOver(), VM: id, MACs: s.macs, Addresses: s.addresses}
	if migrating {
		m.Migration = s.uid
	}
	_, ready := pod.Annotations[readyAnnotation]
	switch over := s.handedOver(); {
	case s.source == pod.Name && s.target != pod.Name && over:
		m.State, m.Why = MoveLeft, fmt.Sprintf("VirtualMachineInstance %s runs in pod %s on node %s now", owner, s.target, s.targetNode)
	case s.target != "" && s.target != pod.Name && over && !labelled: // by an earlier one
		m.State, m.Why = MoveLeft, fmt.Sprintf("VirtualMachineInstance %s runs in pod %s on node %s now", owner, s.target, s.targetNode)
	case s.target != pod.Name && s.source != pod.Name && labelled && ready: // what the two objects say is not of one time
		m.Why = fmt.Sprintf("the pod has been the target of an earlier migration than VirtualMachineInstance %s tells of", owner)
	case !labelled:
		m.State, m.Why = MoveNone, "the pod is no migration's target"
	case s.source == pod.Name: // it came by an earlier one, and is to go on
		m.State, m.Why = MoveArrived, fmt.Sprintf("VirtualMachineInstance %s has come to it, and goes on from it", owner)
	case s.target == pod.Name && (over || ready && !s.failed):
		m.State, m.Why = MoveArrived, fmt.Sprintf("VirtualMachineInstance %s has come to it", owner)
	case s.target == pod.Name && s.failed:
		m.State, m.Why = MoveTarget, fmt.Sprintf("the migration of VirtualMachineInstance %s to it has failed: %s", owner, s.failure)
	default:
		m.State, m.Why = MoveTarget, fmt.Sprintf("VirtualMachineInstance %s is to come to it by live migration, and has not yet", owner)
	}
	return m
}

// ownerVMI is the name of the VirtualMachineInstance that a launcher pod says to be
// of; "" is none.
func ownerVMI(pod *metav1.PartialObjectMetadata) string {
	if o := metav1.GetControllerOf(pod); o != nil && o.Kind == vmiKind.Kind {
		return o.Name
	}
	return ""
}

// migration is what a VirtualMachineInstance's status says of where it runs.
type migration struct {
	active         map[string]bool // UIDs of its pods
	uid            string          // of the last migration, or of the one under way
	source, target string          // its pods
	targetNode     string
	ready          bool // it runs at the target
	completed      bool
	failed         bool
	failure        string
	macs           map[string]string
	addresses      map[string][]netip.Addr
}

// handedOver says whether the VM runs at the target. A migration that fails does so
// before: the source goes on then.
func (m *migration) handedOver() bool { return (m.ready || m.completed) && !m.failed }

func readMigration(o *unstructured.Unstructured) migration {
	m := migration{active: map[string]bool{}, macs: map[string]string{}, addresses: map[string][]netip.Addr{}}
	pods, _, _ := unstructured.NestedStringMap(o.Object, "status", "activePods")
	for uid := range pods {
		m.active[uid] = true
	}
	text := func(field string) string {
		s, _, _ := unstructured.NestedString(o.Object, "status", "migrationState", field)
		return s
	}
	flag := func(field string) bool {
		b, _, _ := unstructured.NestedBool(o.Object, "status", "migrationState", field)
		return b
	}
	m.uid = text("migrationUid")
	m.source, m.target, m.targetNode = text("sourcePod"), text("targetPod"), text("targetNode")
	m.ready, m.completed = text("targetNodeDomainReadyTimestamp") != "", flag("completed")
	m.failed, m.failure = flag("failed"), cmp.Or(text("failureReason"), "no reason given")
	interfaces, _, _ := unstructured.NestedSlice(o.Object, "status", "interfaces")
	for _, i := range interfaces {
		nic, ok := i.(map[string]any)
		if !ok {
			continue
		}
		field := func(k string) string { s, _, _ := unstructured.NestedString(nic, k); return s }
		name := cmp.Or(field("podInterfaceName"), podInterface(field("name")))
		if mac := field("mac"); mac != "" && name != "" {
			m.macs[name] = mac
		}
		texts, _, _ := unstructured.NestedStringSlice(nic, "ipAddresses")
		for _, text := range texts {
			if ip, err := netip.ParseAddr(text); err == nil && name != "" {
				m.addresses[name] = append(m.addresses[name], ip.Unmap())
			}
		}
	}
	return m
}

// podInterface is the name that a VM's network has in its pods: "pod" and 11 hex
// digits of its SHA-256 (pkg/network/namescheme/networknamescheme.go).
func podInterface(network string) string {
	sum := sha256.Sum256([]byte(network))
	return "pod" + hex.EncodeToString(sum[:])[:11]
}
