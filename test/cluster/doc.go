// Package cluster is a Kubernetes cluster for tests: etcd, API server, controller
// manager and scheduler as processes on loopback, and nodes in QEMU on Debian's
// kernels with containerd, runc, kubelet and Multus, joined by a VLAN trunk.
// Homeport is installed as an administrator does it, from deploy/daemonset.yaml.
//
// There is no KubeVirt: its launcher pods and the status of its
// VirtualMachineInstances are reproduced (kubevirt.go). Nothing needs root; nothing
// listens but on loopback.
package cluster
