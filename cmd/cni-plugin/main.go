// Command cni-plugin is the CNI plugin of type homeport: it puts an interface
// of a pod, as a rule a KubeVirt VM's, on a VLAN of a trunk. It makes the veth
// pair and asks the node's agent for all the rest. A container runtime calls
// it; people read its help by calling it themselves.
package main

import (
	"context"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// version is set by the linker.
var version = "unknown"

func main() {
	stayLean()
	p := &plugin{
		version:      version,
		getenv:       os.Getenv,
		stdin:        os.Stdin,
		stdout:       os.Stdout,
		stderr:       os.Stderr,
		findPaths:    attach.FindPaths,
		openKernel:   openKernel,
		addTimeout:   10 * time.Second,
		delTimeout:   2 * time.Second,
		gcTimeout:    60 * time.Second,
		queryTimeout: 5 * time.Second,
		ipamTimeout:  60 * time.Second,
	}
	os.Exit(p.run(context.Background()))
}

// stayLean starts the program again with few processors on a node that has
// many: Go's runtime takes memory and threads for each (5 MB in all at 50 of
// them, 11 MB at 256), though one verb is done by one thread. Where the runtime
// already keeps to the cgroup's limit, as in Multus's, it does nothing.
func stayLean() {
	const many, few = 32, "2"
	if runtime.GOMAXPROCS(0) <= many {
		return
	}
	if os.Setenv("GOMAXPROCS", few) == nil {
		// It returns only if it fails; then this process does the work.
		_ = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	}
}
