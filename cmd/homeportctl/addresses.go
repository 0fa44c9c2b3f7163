package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// addressesCommand says who has which address.
func addressesCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:     "addresses [VM|IP]",
		Aliases: []string{"address"},
		Short:   "Who has which IP address, where, since when, and how that is known",
		Long: "Says who has which address on this node's networks, on whatever node. VM is a VM or pod, as name or\n" +
			"namespace/name: one that is called approve is asked for by its namespace, as shop/approve.",
		Example: fmt.Sprintf(`  %[1]s addresses                           all of this node's networks
  %[1]s addresses 10.100.0.10               who has it, and who else says so
  %[1]s addresses shop/web-1 -o wide        with the times, the declaration and who approved it`, o.name),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%s takes one VM or IP, got %q", c.CommandPath(), args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			req := wire.ViewRequest{What: wire.ViewAddresses}
			unknown := ""
			if len(args) > 0 {
				var err error
				if req.Name, unknown, err = whose(args[0]); err != nil {
					return usage(c, err)
				}
			}
			l, raw, err := view[wire.AddressList](c.Context(), o, req)
			if err != nil {
				return err
			}
			if len(l.Items) == 0 && req.Name != "" {
				return &failure{exitFailed, fmt.Errorf("%s; next: %s addresses shows all that are known; or ask on a node that has its network", unknown, o.name)}
			}
			return show(o, l, raw, o.printer().Addresses)
		},
	}
	c.AddCommand(approveCommand(o))
	return c
}

// approveCommand takes a person's word on an address.
func approveCommand(o *options) *cobra.Command {
	var deny bool
	var in uint16
	c := &cobra.Command{
		Use:   "approve VM IP",
		Short: "Approve that a VM or pod has an address that it claims, or deny it",
		Long: "Approves that a VM or pod has an address that it claims, as on networks of addressing.mode Approved it must be, or\n" +
			"denies it, on any network; either takes the other back. VM is its name, or namespace/name where there are several.",
		Example: fmt.Sprintf(`  %[1]s addresses approve shop/web-1 10.100.0.10
  %[1]s addresses approve shop/router fd00::1 --vlan 200
  %[1]s addresses approve shop/web-1 10.100.0.11 --deny`, o.name),
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 2 {
				return fmt.Errorf("%s wants VM and IP, got %d arguments", c.CommandPath(), len(args))
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			d := wire.AddressDecision{Name: args[0], VLAN: vlan.ID(in), Deny: deny, By: o.user}
			if _, err := netip.ParseAddr(args[0]); err == nil {
				return usage(c, fmt.Errorf("%q is an address: want the VM first, then the IP", args[0]))
			}
			if err := checkName(args[0]); err != nil {
				return usage(c, err)
			}
			var err error
			if d.Address, err = hostAddress(args[1]); err != nil {
				return usage(c, err)
			}
			if c.Flags().Changed("vlan") && d.VLAN.Validate() != nil {
				return usage(c, fmt.Errorf("--vlan %d is no VLAN: want 1 to 4094, or leave it out for wherever the VM claims the address", in))
			}
			return o.change(c.Context(), wire.Decide, d)
		},
	}
	c.Flags().BoolVar(&deny, "deny", false, "deny it instead: what was approved is taken back")
	c.Flags().Uint16Var(&in, "vlan", 0, "only in the VLAN of this `ID`; without, wherever the VM claims the address")
	return c
}

// usage is an error in what was typed for a command.
func usage(c *cobra.Command, err error) error {
	return &failure{exitUsage, fmt.Errorf("%w; next: %s --help", err, c.CommandPath())}
}

// whose reads what addresses are asked for by: the agent's word for it, and what there is to say if nothing is known.
func whose(text string) (name, unknown string, err error) {
	if looksLikeAddress(text) {
		a, err := hostAddress(text)
		return a.String(), fmt.Sprintf("no NIC on this node's networks has %v, and nobody was heard with it", a), err
	}
	return text, fmt.Sprintf("no VM or pod %q is known to have an address on this node's networks, or to claim one", text), checkName(text)
}

// looksLikeAddress: no name has a colon, and few have but digits and dots: those are asked for with their namespace.
func looksLikeAddress(text string) bool {
	if _, err := netip.ParsePrefix(text); err == nil {
		return true
	}
	return strings.Contains(text, ":") || strings.Contains(text, ".") && strings.Trim(text, "0123456789.") == ""
}

// hostAddress reads one address. IPv4 inside IPv6 is that IPv4 address.
func hostAddress(text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is no IP address: want one, as 10.100.0.10 or fd00::10", text)
	case a.Zone() != "":
		return a, fmt.Errorf("%q names an interface: want %v, without a zone", text, a.WithZone(""))
	}
	return a.Unmap(), nil
}

// checkName says what is wrong with the name of a VM or pod.
func checkName(text string) error {
	parts := strings.Split(text, "/")
	for _, part := range parts {
		if part == "" || len(parts) > 2 || strings.ContainsAny(part, ": \t\n") {
			return fmt.Errorf("%q is no VM or pod: want its name, or namespace/name", text)
		}
	}
	return nil
}

// caller is who runs the program: also behind sudo, and where nobody says so, by number.
func caller(getenv func(string) string, uid int) string {
	return cmp.Or(getenv("SUDO_USER"), getenv("USER"), strconv.Itoa(uid))
}
