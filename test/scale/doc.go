// Package scale measures a node's agent in a large cluster: the bridge-agent of
// production, run natively against a real kube-apiserver that holds what 1,000
// nodes' worth of VMs come to. It has tests alone; make test-scale runs them, and
// docs/performance.md says what they found.
//
// The agent runs in a network namespace of its own, with a BPF file system of its
// own. Many kernels cannot filter VLANs, and there its trunk stays broken; the
// policy is compiled and made active in the kernel's maps all the same, and that is
// what is waited for. It reaches the API server through a proxy that counts.
package scale
