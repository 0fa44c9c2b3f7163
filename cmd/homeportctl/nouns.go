package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/report"
)

func statusCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Is this node doing what it should, and if not, why",
		Long:  "Says whether this node does what it should: exit 0 if it is ready, 1 if not, with the reasons.",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, raw, err := view[wire.NodeStatus](c.Context(), o, wire.ViewRequest{What: wire.ViewStatus})
			if err != nil {
				return err
			}
			if err := show(o, s, raw, o.printer().Status); err != nil {
				return err
			}
			if !s.Ready {
				return &failure{code: exitFailed}
			}
			return nil
		},
	}
}

func portsCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:     "ports",
		Aliases: []string{"port"},
		Short:   "The VM ports: state, VLANs, MAC, pod, packets out of and into the VM",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, raw, err := view[portList](c.Context(), o, wire.ViewRequest{What: wire.ViewPorts})
			if err != nil {
				return err
			}
			return show(o, l.ports(), raw, o.printer().Ports)
		},
	}
	c.AddCommand(
		movePortCommand(o, wire.Open, "open", "Open a silent port: its VM runs there, though nobody has said so"),
		movePortCommand(o, wire.Release, "release", "Silence the port of a VM that has moved away (not where Kubernetes says where VMs run)"))
	return c
}

// movePortCommand tells the agent by hand where a VM runs.
func movePortCommand(o *options, verb wire.Verb, name, short string) *cobra.Command {
	return &cobra.Command{
		Use:   name + " PORT",
		Short: short,
		Long:  short + ". PORT is its host interface, pod, namespace/pod or container ID.",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%s wants one PORT, got %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			key, err := o.findPort(c.Context(), args[0])
			if err != nil {
				return err
			}
			return o.change(c.Context(), verb, key)
		},
	}
}

// change has the agent change something, and tells why it refuses to. That it cannot be asked is no refusal, nor that it is of
// another release.
func (o *options) change(ctx context.Context, verb wire.Verb, req any) error {
	_, err := o.call(ctx, verb, req)
	var refused *attach.Error
	if errors.As(err, &refused) && refused.Kind != attach.Unavailable && refused.Field != "verb" && refused.Field != "version" {
		return &failure{exitFailed, refused}
	}
	return err
}

// findPort is the one port that somebody means.
func (o *options) findPort(ctx context.Context, name string) (attach.Key, error) {
	l, _, err := view[portList](ctx, o, wire.ViewRequest{What: wire.ViewPorts})
	if err != nil {
		return attach.Key{}, err
	}
	var found []attach.Key
	for _, p := range l.Items {
		if isPort(name, p.HostIfName, p.ContainerID, p.Pod) {
			found = append(found, p.Key)
		}
	}
	switch len(found) {
	case 0:
		return attach.Key{}, &failure{exitFailed, fmt.Errorf("port %q: not attached on this node; next: %s ports", name, o.name)}
	case 1:
		return found[0], nil
	}
	return attach.Key{}, &failure{exitFailed, fmt.Errorf("port %q: that is %d ports; name the host interface of one; next: %s ports", name, len(found), o.name)}
}

func vlansCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:     "vlans",
		Aliases: []string{"vlan"},
		Short:   "VLANs of every bridge port as the kernel has them, printed as bridge(8) does",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, raw, err := view[wire.VLANList](c.Context(), o, wire.ViewRequest{What: wire.ViewVLANs})
			if err != nil {
				return err
			}
			return show(o, l, raw, o.printer().VLANs)
		},
	}
}

func policyCommand(o *options) *cobra.Command {
	group := &cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "The firewall: policy list, show NAME, compile PORT, simulate PORT",
		Args: func(c *cobra.Command, args []string) error {
			if err := noArgs(c, args); err != nil {
				return err
			}
			return errors.New("policy needs list, show NAME, compile PORT or simulate PORT")
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args refuses all
	}
	var hits bool
	list := &cobra.Command{
		Use:   "list",
		Short: "Every policy in the order of judgement, and what no rule matched",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, raw, err := view[wire.PolicyList](c.Context(), o, wire.ViewRequest{What: wire.ViewPolicies})
			if err != nil {
				return err
			}
			text := o.printer().Policies
			if hits {
				text = o.printer().Hits
			}
			return show(o, l, raw, text)
		},
	}
	list.Flags().BoolVar(&hits, "hits", false, "each rule with its hits and the last of them")
	one := &cobra.Command{
		Use:   "show NAME",
		Short: "One policy's rules with their ids and hits; -o wide shows long lists whole",
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("%s needs one NAME, got %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error { return showPolicy(c.Context(), o, args[0]) },
	}
	group.AddCommand(list, one, compileCommand(o), diffCommand(o), simulateCommand(o))
	return group
}

func showPolicy(ctx context.Context, o *options, name string) error {
	missing := func(cause error) error {
		return &failure{exitFailed, fmt.Errorf("policy %q: %w; next: %s policy list", name, cause, o.name)}
	}
	l, raw, err := view[wire.PolicyList](ctx, o, wire.ViewRequest{What: wire.ViewPolicies, Name: name})
	if isRefusal(err) {
		var e *attach.Error
		errors.As(err, &e)
		return missing(e)
	}
	if err != nil {
		return err
	}
	i := slices.IndexFunc(l.Items, func(p wire.Policy) bool { return p.Name == name })
	if i < 0 {
		return missing(errors.New("no such FirewallPolicy is in force on this node"))
	}
	return show(o, l.Items[i], raw, o.printer().Policy)
}

func dropsCommand(o *options) *cobra.Command {
	var port string
	c := &cobra.Command{
		Use:     "drops",
		Aliases: []string{"drop"},
		Short:   "What was dropped, by port, direction and reason",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			l, raw, err := view[wire.DropList](c.Context(), o, wire.ViewRequest{What: wire.ViewDrops})
			if err != nil {
				return err
			}
			if c.Flags().Changed("port") {
				at := func(d wire.Drop) bool { return isPort(port, d.Interface, d.ContainerID, d.Pod) }
				l.Items = slices.DeleteFunc(l.Items, func(d wire.Drop) bool { return !at(d) })
				if len(l.Items) == 0 {
					if err := portExists(c.Context(), o, port); err != nil {
						return err
					}
				}
				if raw, err = keepItems(raw, at); err != nil {
					return inconclusive(err)
				}
			}
			return show(o, l, raw, o.printer().Drops)
		},
	}
	c.Flags().StringVar(&port, "port", "", "only this port: host interface, pod, namespace/pod or container ID")
	return c
}

// isPort says whether name is what people call this port.
func isPort(name, hostIf, containerID string, pod attach.Pod) bool {
	return name != "" && (name == hostIf || name == containerID || name == pod.Name || name == pod.Namespace+"/"+pod.Name)
}

// portExists tells a port without drops from one that is not there.
func portExists(ctx context.Context, o *options, name string) error {
	l, _, err := view[portList](ctx, o, wire.ViewRequest{What: wire.ViewPorts})
	if err != nil {
		return err
	}
	if slices.ContainsFunc(l.Items, func(p portItem) bool { return isPort(name, p.HostIfName, p.ContainerID, p.Pod) }) {
		return nil
	}
	return &failure{exitFailed, fmt.Errorf("port %q: not attached on this node; next: %s ports", name, o.name)}
}

func versionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Versions of this program and of the node's agent",
		Args:  noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v := report.Versions{
				TypeMeta: wire.TypeMeta{APIVersion: wire.APIVersion, Kind: "Versions"},
				Client:   o.version,
				Protocol: wire.Version,
			}
			s, _, err := view[wire.NodeStatus](c.Context(), o, wire.ViewRequest{What: wire.ViewStatus})
			switch {
			case c.Context().Err() != nil:
				return err
			case err != nil:
				v.AgentUnknown = err.Error()
			default:
				v.Agent = s.Version
			}
			if err := o.printer().Versions(v); err != nil {
				return &failure{exitInconclusive, err}
			}
			return nil
		},
	}
}
