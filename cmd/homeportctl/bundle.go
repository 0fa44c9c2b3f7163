package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/bundle"
	"github.com/homeport-cni/homeport/pkg/report"
)

// bundleOptions are what the flags of bundle say.
type bundleOptions struct {
	file, node, bpffs, cniConf, cniBin string
}

func bundleCommand(o *options) *cobra.Command {
	var b bundleOptions
	c := &cobra.Command{
		Use:   "bundle",
		Short: "All that support needs of this node, in one file, without secrets",
		Long: `Writes records, VLAN tables, maps, logs and status of this node into one tar.gz, and
prints its name. It needs no agent: what cannot be collected is told in ` + bundle.Manifest + `.
Secrets, kubeconfigs, tokens, keys and certificates are left out. Run it as root.`,
		Example: fmt.Sprintf(`  %[1]s bundle                    homeport-bundle-NODE-TIME.tar.gz, here
  %[1]s bundle -o /tmp/n1.tar.gz  a file of that name, which must not exist
  %[1]s bundle -o - > n1.tar.gz   to stdout, as through kubectl exec`, o.name),
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return writeBundle(c.Context(), o, b) },
	}
	f := c.Flags()
	f.StringVarP(&b.file, "output", "o", "", "file to write, which must not exist; - is stdout")
	f.StringVar(&b.node, "node", os.Getenv("NODE_NAME"), "name of this node, for the bundle's (default: $NODE_NAME, or the host's)")
	f.StringVar(&b.bpffs, "bpffs", "/sys/fs/bpf", "where the BPF file system is mounted, or a directory in it")
	f.StringVar(&b.cniConf, "cni-conf", "/etc/cni/net.d", "directory of CNI configs")
	f.StringVar(&b.cniBin, "cni-bin", "/opt/cni/bin", "directory of CNI plugins")
	return c
}

func writeBundle(ctx context.Context, o *options, b bundleOptions) error {
	if b.node == "" {
		b.node, _ = os.Hostname() // without it, the name has the time
	}
	head := bundle.Head{Node: cmp.Or(b.node, "node"), Time: time.Now(), Version: o.version}
	if b.file == "-" {
		if isTerminal(o.stdout) {
			return errors.New("a bundle is no text for a terminal: send stdout to a file, or leave -o out")
		}
		w := bundle.New(o.stdout, head)
		collect(ctx, o, b, w)
		return finish(ctx, w.Close())
	}
	if b.file == "" {
		b.file = head.Name() + ".tar.gz"
	}
	f, err := os.OpenFile(b.file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &failure{exitFailed, fmt.Errorf("%s is there already and is not overwritten; next: remove it, or name another by -o", b.file)}
	}
	if err != nil {
		return &failure{exitFailed, fmt.Errorf("%w; next: name another file by -o", err)}
	}
	w := bundle.New(f, head)
	collect(ctx, o, b, w)
	if err := finish(ctx, errors.Join(w.Close(), f.Close())); err != nil {
		return errors.Join(err, os.Remove(b.file))
	}
	fmt.Fprintln(o.stdout, b.file)
	if n := w.Lacks(); n > 0 {
		fmt.Fprintf(o.stderr, "%s: %d things could not be collected; %s in it says which, and why\n", o.name, n, bundle.Manifest)
	}
	return nil
}

// finish: one that was interrupted is no bundle.
func finish(ctx context.Context, err error) error {
	if err = cmp.Or(ctx.Err(), err); err != nil {
		return &failure{exitFailed, fmt.Errorf("write the bundle: %w", err)}
	}
	return nil
}

// collect adds everything, what changes fastest first.
func collect(ctx context.Context, o *options, b bundleOptions, w *bundle.Writer) {
	collectAgent(ctx, o, w)
	w.Pins(b.bpffs)
	if n, err := bridge.Open(); err != nil {
		w.Missing("network", err)
	} else {
		w.Network(n)
		_ = n.Close() // it was only read
	}
	if paths, err := o.findPaths(); err != nil {
		w.Missing("attachments", err)
	} else {
		w.Dir(paths.Attachments(), "attachments")
		w.Dir(paths.State(), "state")
		w.Try("rules-by-port.txt", func() ([]byte, error) { return rulesByPort(paths) })
	}
	w.CNI(os.DirFS(b.cniConf), b.cniConf)
	w.Host(os.DirFS("/"))
	collectBinaries(ctx, b, w)
}

// collectAgent adds the agent's views, for people and for programs. An agent that
// does not answer once is not asked again: each question has its patience.
func collectAgent(ctx context.Context, o *options, w *bundle.Writer) {
	for _, v := range agentViews {
		raw, err := o.ask(ctx, wire.ViewRequest{What: v.what})
		var answer *attach.Error
		if err != nil {
			w.Missing("agent/"+v.what, err)
			if !errors.As(err, &answer) || answer.Kind == attach.Unavailable {
				w.Missing("agent", errors.New("it is not asked for the rest"))
				return
			}
			continue
		}
		addView(w, v.what, raw, v.print)
	}
}

// addView adds an answer as text, and as JSON if it is more than text.
func addView(w *bundle.Writer, what string, raw json.RawMessage, print func(report.Printer, json.RawMessage) error) {
	w.Try("agent/"+what+".txt", func() ([]byte, error) {
		var text bytes.Buffer
		err := print(report.Printer{W: &text, Format: report.Wide}, raw)
		return text.Bytes(), err
	})
	if what == wire.ViewLog || what == wire.ViewMetrics {
		return
	}
	w.Try("agent/"+what+".json", func() ([]byte, error) {
		var doc bytes.Buffer
		err := report.Printer{W: &doc, Format: report.JSON}.Document(raw)
		return doc.Bytes(), err
	})
}

// agentViews are what the agent is asked, and how it is shown.
var agentViews = []struct {
	what  string
	print func(report.Printer, json.RawMessage) error
}{
	{wire.ViewStatus, as(report.Printer.Status)},
	{wire.ViewPorts, as(func(p report.Printer, l portList) error { return p.Ports(l.ports()) })},
	{wire.ViewDrops, as(report.Printer.Drops)},
	{wire.ViewVLANs, as(report.Printer.VLANs)},
	{wire.ViewPolicies, as(allPolicies)},
	{wire.ViewAddresses, as(report.Printer.Addresses)},
	{wire.ViewLog, as(plain)},
	{wire.ViewMetrics, as(plain)},
}

// as decodes an answer for print.
func as[T any](print func(report.Printer, T) error) func(report.Printer, json.RawMessage) error {
	return func(p report.Printer, raw json.RawMessage) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		return print(p, v)
	}
}

func plain(p report.Printer, t wire.Text) error {
	if t.Cut {
		fmt.Fprintln(p.W, "(there was more than this)") // to memory
	}
	_, err := io.WriteString(p.W, t.Text)
	return err
}

// allPolicies is policy list, and each policy whole.
func allPolicies(p report.Printer, l wire.PolicyList) error {
	if err := p.Policies(l); err != nil {
		return err
	}
	for _, it := range l.Items {
		fmt.Fprintln(p.W) // to memory
		if err := p.Policy(it); err != nil {
			return err
		}
	}
	return nil
}

// doctorPatience bounds doctor, which tries out what the kernel can do.
const doctorPatience = time.Minute

// collectBinaries describes the programs beside this one and the plugin in place,
// and has the agent's binary say what this node can do.
func collectBinaries(ctx context.Context, b bundleOptions, w *bundle.Writer) {
	self, err := os.Executable()
	if err != nil {
		w.Missing("binaries.txt", err)
		return
	}
	agent := filepath.Join(filepath.Dir(self), "bridge-agent")
	w.Binaries([]string{self, agent, filepath.Join(filepath.Dir(self), "cni-plugin"), filepath.Join(b.cniBin, "homeport")})
	w.Try("agent/version.txt", func() ([]byte, error) { return output(ctx, agent, "--version") })
	w.Try("doctor.txt", func() ([]byte, error) { return output(ctx, agent, "doctor", "-o", "wide", "--bpffs", b.bpffs) })
}

// output is what a program says, also if it found something wrong.
func output(ctx context.Context, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, doctorPatience)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() && len(out) > 0 {
		err = nil
	}
	return out, err
}
