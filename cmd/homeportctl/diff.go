package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/report"
)

// diffCommand compares what ports really have.
func diffCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "What differs between the rules of a port now and before, or of two ports",
		Long: "Compares the rules that judge a port, as `policy compile` tells them: which were added, removed, changed or moved, whose\n" +
			"sets have other items, and what follows them. Hits are not compared. OLD and NEW are each a port of this node (its host\n" +
			"interface, pod, namespace/pod or container ID) or what `policy compile PORT -o json` (or yaml) wrote, also on another\n" +
			"node: a file whose name ends in .json, .yaml or .yml or begins with / or ., or - for standard input. Exit code 0 is no\n" +
			"difference, 1 is some, 3 is that a side cannot be had.",
		Example: fmt.Sprintf(`  %[1]s policy compile shop/db -o json > before.json
  %[1]s policy diff before.json shop/db
  ssh node1 %[1]s policy compile shop/db -o json | %[1]s policy diff - shop/db`, o.name),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%s wants OLD and NEW, got %d arguments", c.CommandPath(), len(args))
			}
			if args[0] == "-" && args[1] == "-" {
				return fmt.Errorf("%s: OLD and NEW are both -, but standard input can be read once", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			var sides [2]wire.PortRules
			for i, name := range args {
				var err error
				if sides[i], err = o.rulesAt(c.Context(), name, c.InOrStdin()); err != nil {
					return err
				}
			}
			d := report.Compare(args[0], args[1], sides[0], sides[1])
			if err := o.printer().PolicyDiff(d); err != nil {
				return &failure{exitInconclusive, err}
			}
			switch {
			case !d.Same():
				return &failure{code: exitFailed}
			case d.Unknown != nil:
				return &failure{code: exitInconclusive}
			}
			return nil
		},
	}
}

// rulesAt gives the rules of a port, or those that a file has. Exit code 1 is a
// difference's, so what cannot be had is inconclusive.
func (o *options) rulesAt(ctx context.Context, name string, stdin io.Reader) (v wire.PortRules, err error) {
	ext := filepath.Ext(name)
	if name == "-" || ext == ".json" || ext == ".yaml" || ext == ".yml" || strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") {
		return readRules(name, stdin)
	}
	key, err := o.findPort(ctx, name)
	var f *failure
	if errors.As(err, &f) && f.code == exitFailed {
		return v, &failure{exitInconclusive, f.err}
	}
	if err != nil {
		return v, err
	}
	v, _, err = view[wire.PortRules](ctx, o, wire.ViewRequest{What: wire.ViewRules, Port: &key})
	return v, err
}

// readRules reads what policy compile wrote.
func readRules(name string, stdin io.Reader) (wire.PortRules, error) {
	bad := func(cause error) (wire.PortRules, error) {
		return wire.PortRules{}, &failure{exitInconclusive, fmt.Errorf("%s: %w; next: write it by policy compile PORT -o json", name, cause)}
	}
	var text []byte
	var err error
	if name == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(name)
	}
	var pe *os.PathError
	if errors.As(err, &pe) {
		return bad(pe.Err)
	}
	if err != nil {
		return bad(err)
	}
	var v struct {
		wire.PortRules
		StateName string `json:"state"` // of any release
	}
	if err := yaml.Unmarshal(text, &v); err != nil { // JSON is YAML
		return bad(err)
	}
	if want := (wire.TypeMeta{APIVersion: wire.APIVersion, Kind: "PortRules"}); v.TypeMeta != want {
		return bad(fmt.Errorf("has kind %q of %q: want %s of %s", v.Kind, v.APIVersion, want.Kind, want.APIVersion))
	}
	v.State = parseState(v.StateName)
	return v.PortRules, nil
}
