package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// observeCommand shows what becomes of packets.
func observeCommand(o *options) *cobra.Command {
	var follow bool
	var want eventFilter
	c := &cobra.Command{
		Use:   "observe",
		Short: "What becomes of packets: new connections, drops and ends, each with its rule",
		Long: "Shows each packet that rules let pass by themselves (the first of a connection), each drop, and the end of connections,\n" +
			"with the rule that decided. With -f it shows what happens from now on. Without, it shows what the agent remembers:\n" +
			"what rules with log: true decided, and what was observed lately. -o json is one event a line.",
		Example: fmt.Sprintf(`  %[1]s observe -f --verdict drop             every drop on this node, as it happens
  %[1]s observe -f --port shop/db --address 10.0.0.0/24
  %[1]s observe --rule web/1001 -o json       what that rule decided lately`, o.name),
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := want.check(); err != nil {
				return &failure{exitUsage, fmt.Errorf("%w; next: %s --help", err, c.CommandPath())}
			}
			return observe(c.Context(), o, &want, follow)
		},
	}
	f := c.Flags()
	f.BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	f.StringVar(&want.port, "port", "", "only at this port: host interface, pod or namespace/pod")
	f.StringSliceVar(&want.addresses, "address", nil, "only from or to this `IP` or CIDR; repeatable")
	f.StringVar(&want.rule, "rule", "", "only what this `POLICY[/ID]` decided, or would have, were it not monitored")
	f.StringSliceVar(&want.verdicts, "verdict", nil, "only these: `allow, drop, end`")
	return c
}

// eventFilter is what somebody wants to see; what is empty is any.
type eventFilter struct {
	port, rule          string
	addresses, verdicts []string

	prefixes []netip.Prefix
	ports    []string // host interfaces that port is
}

// check reads the flags.
func (f *eventFilter) check() error {
	for _, text := range f.addresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			var a netip.Addr
			if a, err = netip.ParseAddr(text); err == nil {
				p = netip.PrefixFrom(a, a.BitLen())
			}
		}
		if err != nil {
			return fmt.Errorf("--address %q: want an address or a CIDR, as 10.0.0.7 or 10.0.0.0/24", text)
		}
		f.prefixes = append(f.prefixes, p)
	}
	for i, v := range f.verdicts {
		switch v = strings.ToLower(v); v {
		case "allow", "drop", "end":
			f.verdicts[i] = v
		default:
			return fmt.Errorf("--verdict %q: want allow, drop or end", v)
		}
	}
	return nil
}

// wants says whether an event is to be shown.
func (f *eventFilter) wants(e *wire.Event) bool {
	return (f.port == "" || isPort(f.port, e.Interface, "", e.Pod) || slices.Contains(f.ports, e.Interface)) &&
		(len(f.verdicts) == 0 || slices.Contains(f.verdicts, strings.ToLower(e.Verdict))) &&
		(len(f.prefixes) == 0 || slices.ContainsFunc(f.prefixes, func(p netip.Prefix) bool {
			return p.Contains(e.Source) || p.Contains(e.Destination)
		})) &&
		(f.rule == "" || f.is(e.Rule) || f.is(e.Monitored))
}

func (f *eventFilter) is(r *wire.EventRule) bool {
	return r != nil && r.Policy != "" && (f.rule == r.Policy || f.rule == fmt.Sprintf("%s/%d", r.Policy, r.ID))
}

// findPorts learns which host interfaces --port is now. Who follows wants one; what was
// remembered may be of one that has ended.
func (f *eventFilter) findPorts(ctx context.Context, o *options) error {
	if f.port == "" {
		return nil
	}
	l, _, err := view[portList](ctx, o, wire.ViewRequest{What: wire.ViewPorts})
	for _, p := range l.Items {
		if isPort(f.port, p.HostIfName, p.ContainerID, p.Pod) {
			f.ports = append(f.ports, p.HostIfName)
		}
	}
	return err
}

// knowsRule says whether a rule of this name is on the node now. Who asks for one that is not, as by a mistake, waits for nothing.
func (f *eventFilter) knowsRule(ctx context.Context, o *options) (bool, error) {
	l, _, err := view[wire.PolicyList](ctx, o, wire.ViewRequest{What: wire.ViewPolicies})
	return slices.ContainsFunc(l.Items, func(p wire.Policy) bool {
		return f.rule == p.Name || slices.ContainsFunc(p.Rules, func(r wire.Rule) bool { return f.rule == fmt.Sprintf("%s/%d", p.Name, r.ID) })
	}), err
}

// observe asks the agent until there is no more of what it remembered or, to follow, until
// ctx ends. An agent that is started anew is waited for.
func observe(ctx context.Context, o *options, want *eventFilter, follow bool) error {
	if err := want.findPorts(ctx, o); err != nil {
		return err
	}
	noPort := &failure{exitFailed, fmt.Errorf("port %q: not attached on this node; next: %s ports", want.port, o.name)}
	if follow && want.port != "" && len(want.ports) == 0 {
		return noPort
	}
	if want.rule != "" {
		known, err := want.knowsRule(ctx, o)
		if err != nil {
			return err
		}
		if !known {
			fmt.Fprintf(o.stderr, "%s: --rule %s: no such policy or rule is in force on this node now; next: %s policy list\n", o.name, want.rule, o.name)
		}
	}
	q := &wire.EventQuery{Follow: follow}
	var lost, newest uint64
	shown, away := 0, false
	for first := true; ; first = false {
		l, raw, err := view[wire.EventList](ctx, o, wire.ViewRequest{What: wire.ViewEvents, Events: q})
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && (first || !follow || isRefusal(err)): // that of another release, say, which no waiting mends
			return err
		case err != nil:
			if !away {
				fmt.Fprintf(o.stderr, "%s: %v; waiting for it\n", o.name, err)
			}
			away = true
			select {
			case <-ctx.Done():
			case <-time.After(retryEvery):
			}
			continue
		}
		if away {
			fmt.Fprintf(o.stderr, "%s: observing again; what was in between is not shown\n", o.name)
			away, lost = false, l.Lost
		}
		n, err := showEvents(o, want, l.Items, raw)
		if err != nil {
			return err
		}
		shown += n
		missed := uint64(0)
		if !first && l.Lost > lost {
			missed = l.Lost - lost
		}
		if n := len(l.Items); n > 0 && !first && l.Items[0].Seq > *q.After+1 {
			missed += l.Items[0].Seq - *q.After - 1
		}
		if missed > 0 {
			fmt.Fprintf(o.stderr, "%s: %d events are not shown: a port tells of 1000 a second, and the agent keeps the last ones alone\n", o.name, missed)
		}
		if first {
			newest = l.Newest
		}
		switch {
		case !follow && (len(l.Items) == 0 || l.Next >= newest):
			if want.port != "" && len(want.ports) == 0 && shown == 0 {
				return noPort
			}
			return nil
		case first && follow: // as tcpdump does: silence is no news then
			fmt.Fprintf(o.stderr, "%s: observing from now on\n", o.name)
		}
		lost, q.After = l.Lost, &l.Next
	}
}

// retryEvery is how long to wait for an agent that does not answer.
const retryEvery = time.Second

// showEvents writes those that are wanted, and says how many these are.
func showEvents(o *options, want *eventFilter, items []wire.Event, raw json.RawMessage) (shown int, err error) {
	var sent struct{ Items []json.RawMessage }
	if err := json.Unmarshal(raw, &sent); err != nil {
		return 0, inconclusive(err)
	}
	var some []wire.Event
	var texts []json.RawMessage
	for i := range items {
		if want.wants(&items[i]) {
			some, texts = append(some, items[i]), append(texts, sent.Items[i])
		}
	}
	if err := o.printer().Events(some, texts); err != nil {
		return 0, &failure{exitInconclusive, err}
	}
	return len(some), nil
}
