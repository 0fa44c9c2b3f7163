package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/report"
)

// helpText is one screen: examples first.
const helpText = `{{if .Example}}Examples:
{{.Example}}

{{end}}{{with or .Long .Short}}{{.}}
{{end}}Usage: {{if .HasAvailableSubCommands}}{{if ne .Use .Name}}{{.UseLine}}, or {{end}}{{.CommandPath}} COMMAND [flags]; commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{else}}{{.UseLine}}{{end}}
Flags:
{{.Flags.FlagUsages}}{{if not .HasParent}}Exit codes: 0 well, 1 something is wrong, 2 usage, 3 could not find out, 130 interrupted.
{{end}}`

// options are what the flags say.
type options struct {
	surroundings
	format report.Format
	socket string
}

// printer writes to stdout in the format asked for.
func (o *options) printer() report.Printer {
	return report.Printer{W: o.stdout, Format: o.format, Color: o.color, Now: o.now}
}

// outputFlag is -o: it refuses a wrong format as the flag is read.
type outputFlag struct{ format *report.Format }

func (f outputFlag) String() string {
	if f.format == nil {
		return ""
	}
	return string(*f.format)
}

func (f outputFlag) Type() string { return "FORMAT" }

func (f outputFlag) Set(s string) error {
	v, err := report.ParseFormat(s)
	if err == nil {
		*f.format = v
	}
	return err
}

// newRoot is the tree of commands.
func newRoot(s surroundings) *cobra.Command {
	o := &options{surroundings: s, format: report.Table}
	root := &cobra.Command{
		Use:         "homeportctl",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: s.name},
		Long:        "Shows the VM ports of this node, their VLANs and firewall, and what the fabric carries.",
		Example: fmt.Sprintf(`  %[1]s status                    is this node doing what it should, and if not, why
  %[1]s check                     what the fabric carries, by node and VLAN
  %[1]s observe -f                new connections and drops, each with its rule`, s.name),
		Args:              noArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(s.stdout)
	root.SetErr(s.stderr)
	root.SetHelpTemplate(helpText)
	root.SetUsageTemplate(helpText)
	flags := root.PersistentFlags()
	flags.VarP(outputFlag{&o.format}, "output", "o", "table, wide, json or yaml")
	flags.StringVar(&o.socket, "socket", "", "the agent's socket")
	if err := flags.MarkHidden("socket"); err != nil {
		panic(err) // the line above defines it
	}
	complete := cobra.FixedCompletions([]string{"table", "wide", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)
	if err := root.RegisterFlagCompletionFunc("output", complete); err != nil {
		panic(err) // as above
	}
	root.AddCommand(statusCommand(o), portsCommand(o), addressesCommand(o), vlansCommand(o), policyCommand(o), dropsCommand(o), observeCommand(o), traceCommand(o), checkCommand(o), explainCommand(o), bundleCommand(o), versionCommand(o))
	return root
}

// noArgs refuses arguments and what is taken for a command but is none.
func noArgs(c *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case c.HasSubCommands():
		return fmt.Errorf("%q is no command of %s", args[0], c.CommandPath())
	}
	return fmt.Errorf("%s takes no argument, got %q", c.CommandPath(), args[0])
}
