package kube

// ready is the condition that a node's objects have.
const ready = "Ready"

// Reasons of the condition Ready of a VLANTrunkNode; docs/reference/conditions.md
// says what to do about each.
const (
	ReasonHealthy       = "Healthy"           // the trunk carries what it should
	ReasonTrunkBroken   = "TrunkBroken"       // bridge or uplink could not be set up
	ReasonLinkDown      = "LinkDown"          // the uplink is absent, switched off or hears nobody
	ReasonDrift         = "Drift"             // others changed something that is not repaired
	ReasonPolicyPending = "PolicyPending"     // the desired policy is not the active one
	ReasonRefused       = "Refused"           // the trunk cannot be in force on this node as it is written
	ReasonPortActive    = "Active"            // of a VMPort: it is attached and passes what it may
	ReasonPortProblem   = "PortProblem"       // of a VMPort: something at the port is not as it should be
	ReasonPortClosed    = "NotActive"         // of a VMPort: its state lets nothing pass
	ReasonVMUnconfirmed = "VMUnconfirmed"     // of a VMPort: the pod says that it is a VM's, and its VM does not say so
	ReasonNoVM          = "PodIsNoVMLauncher" // of a VMPort: the pod is an ordinary one
)
