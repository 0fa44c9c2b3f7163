package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// manifestFlags ask about manifests that no node needs to have, in place of a port.
type manifestFlags struct{ dir, network, vm string }

func (f *manifestFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.dir, "manifests", "", "`DIR` of *.yaml manifests to ask, as a node reads them, in place of a PORT; no agent is needed")
	c.Flags().StringVar(&f.network, "network", "", "`NAME` of a VLANNetwork in --manifests: a port on it is meant")
	c.Flags().StringVar(&f.vm, "vm", "", "`NAMESPACE/NAME` of a VM: --manifests are a cluster's objects then, and its NIC on the network is meant")
	c.Args = func(c *cobra.Command, args []string) error {
		switch manifests, network := c.Flags().Changed("manifests"), c.Flags().Changed("network"); {
		case !manifests && !network && c.Flags().Changed("vm"):
			return fmt.Errorf("%s: --vm is one in --manifests: want that and --network, too", c.CommandPath())
		case !manifests && !network:
			return onePort(c, args)
		case len(args) > 0:
			return fmt.Errorf("%s: --manifests asks about no PORT: leave %s out, or the flag", c.CommandPath(), args[0])
		case f.dir == "":
			return fmt.Errorf("%s: --network is one in --manifests: want that, too", c.CommandPath())
		case c.Flags().Changed("vm") && !isNamespaced(f.vm):
			return fmt.Errorf("%s: --vm %q: want NAMESPACE/NAME of a VM", c.CommandPath(), f.vm)
		case f.network == "":
			return fmt.Errorf("%s: --manifests needs --network, the one of the port that is meant", c.CommandPath())
		}
		return nil
	}
}

// rules are those that judge a port on the network, by the manifests. What is wrong with
// any is told on stderr, and then there are none: a node would keep what it has.
func (f *manifestFlags) rules(stderr io.Writer) (policy.Set, error) {
	cannot := func(cause error) (policy.Set, error) { return policy.Set{}, &failure{exitInconclusive, cause} }
	s, pod, err := f.read(stderr)
	if err != nil {
		return cannot(err)
	}
	for _, p := range s.Problems {
		fmt.Fprintln(stderr, p)
	}
	if n := len(s.Problems); n > 0 {
		return cannot(fmt.Errorf("%s: %d of its manifests' problems are above; next: correct them", f.dir, n))
	}
	if _, ok := s.Networks[f.network]; !ok {
		want := "it has none"
		if len(s.Networks) > 0 {
			want = "want one of " + strings.Join(slices.Sorted(maps.Keys(s.Networks)), ", ")
		}
		return cannot(fmt.Errorf("--network %q: no VLANNetwork in %s: %s", f.network, f.dir, want))
	}
	all := s.PolicySets() // of all networks, since they share a node's counters
	counters, err := compile.Allocate(nil, all)
	if err == nil {
		_, err = compile.Build(compile.Input{Sets: all, Counters: counters})
	}
	var refused *compile.RefusedError
	if errors.As(err, &refused) {
		return cannot(fmt.Errorf("a node would refuse these rules: %w", refused))
	}
	if err != nil {
		return cannot(err)
	}
	return s.PolicySet(f.network, pod), nil
}

// read gives what is in force by the manifests, and the pod of the port that is meant, if that is a VM's.
func (f *manifestFlags) read(stderr io.Writer) (*desired.Snapshot, desired.PodRef, error) {
	if f.vm == "" {
		s, err := desired.NewDir(f.dir, "").Load()
		return s, desired.PodRef{}, err
	}
	c, unread, err := desired.ReadCluster(f.dir)
	if err != nil {
		return nil, desired.PodRef{}, err
	}
	if len(unread) > 0 {
		return &desired.Snapshot{Problems: unread}, desired.PodRef{}, nil
	}
	namespace, name, _ := strings.Cut(f.vm, "/")
	s, pod, notices, err := c.Port(f.network, namespace, name)
	if err != nil {
		return nil, pod, fmt.Errorf("--vm %q: %w", f.vm, err)
	}
	for _, n := range notices {
		fmt.Fprintln(stderr, "notice:", n)
	}
	return s, pod, nil
}

func isNamespaced(name string) bool {
	namespace, name, _ := strings.Cut(name, "/")
	return namespace != "" && name != "" && !strings.Contains(name, "/")
}

// open is the state of the port that is meant.
const open = attach.Active
