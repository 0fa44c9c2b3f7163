package main

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/hostfw"
	"github.com/homeport-cni/homeport/pkg/report"
)

func newDoctor() *cobra.Command {
	var output, bpffs string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "say what this kernel and node can do, and what to do about the rest",
		Long: `Probes the kernel by trying, and looks at what else on this node touches bridged
frames. It changes nothing. Exit code: 0 Homeport works here, 1 it does not,
2 usage, 3 could not be found out.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := report.ParseFormat(output)
			if err != nil {
				return err // usage
			}
			d := report.Diagnose(checks(bpffs))
			if err := (report.Printer{W: cmd.OutOrStdout(), Format: format}).Diagnosis(d); err != nil {
				return failed(err)
			}
			return outcome(d.Outcome)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, wide, json or yaml")
	cmd.Flags().StringVar(&bpffs, "bpffs", "/sys/fs/bpf", "where the BPF file system should be")
	return cmd
}

func checks(bpffs string) []report.Check {
	var out []report.Check
	for _, f := range datapath.Features() {
		out = append(out, featureCheck(f))
	}
	host := hostfw.NewHost()
	host.BPFFS = bpffs
	return append(append(out, filteringCheck(bridge.ProbeVLANFiltering())), host.Checks(nil)...)
}

const askAsRoot = "run doctor as root on the node"

func featureCheck(f datapath.Feature) report.Check {
	c := report.Check{Name: f.Name, Required: f.Required, Purpose: f.Need}
	switch f.Answer {
	case datapath.Yes:
		c.Answer = report.Yes
	case datapath.No:
		c.Answer, c.Needs = report.No, strings.TrimPrefix(f.Detail, "needs ")
		c.Remedy = "use a kernel that has it: " + c.Needs + ", or a vendor's back-port"
	default:
		c.Answer, c.Detail, c.Remedy = report.Unknown, f.Detail, askAsRoot
	}
	return c
}

// filteringCheck is of what was tried, not looked up: nothing else is certain.
func filteringCheck(err error) report.Check {
	c := report.Check{Name: "bridge VLAN filtering", Required: true, Answer: report.Yes, Purpose: "keeping VLANs apart"}
	switch {
	case errors.Is(err, bridge.ErrNoVLANFiltering):
		c.Answer, c.Needs = report.No, "CONFIG_BRIDGE_VLAN_FILTERING"
		c.Remedy = "use a distribution's kernel; those of Debian, Ubuntu, RHEL, SLES, Flatcar and Talos have it"
	case err != nil:
		c.Answer, c.Detail, c.Remedy = report.Unknown, err.Error(), askAsRoot
	}
	return c
}

func outcome(a report.Answer) error {
	switch a {
	case report.Yes:
		return nil
	case report.No:
		return &failure{code: exitFailed}
	}
	return &failure{code: exitInconclusive}
}
