// Command cni-plugin is the CNI plugin of type homeport: it puts an interface
// of a pod, as a rule a KubeVirt VM's, on a VLAN of a trunk. It makes the veth
// pair and asks the node's agent for all the rest. A container runtime calls
// it; people read its help by calling it themselves.
package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// version is set by the linker.
var version = "unknown"

func main() {
	// Multus runs its plugins in a container of 50 MiB for all of them. This
	// process lives for milliseconds and uses less than the collector's first
	// threshold, unless it is fed something huge: then it collects.
	debug.SetGCPercent(50)
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
	}
	os.Exit(p.run(context.Background()))
}
