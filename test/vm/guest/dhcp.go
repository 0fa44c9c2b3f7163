package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

const (
	leaseScript = "/dhcp.sh"
	leased      = "/dhcp.lease"
)

// lease has busybox' client of DHCP ask for a lease, and gives the address.
func lease(nic string, args []string) (any, error) {
	if len(args) != 0 {
		return nil, errors.New("usage: dhcp")
	}
	text := "#!/bin/sh\n[ $1 != bound ] || { ip addr add $ip/$mask dev $interface && echo $ip > " + leased + "; }\n"
	if err := os.WriteFile(leaseScript, []byte(text), 0o755); err != nil {
		return nil, err
	}
	if err := os.RemoveAll(leased); err != nil {
		return nil, err
	}
	out, err := exec.Command("/bin/busybox", "udhcpc", "-i", nic, "-f", "-n", "-q", "-t", "10", "-T", "2", "-s", leaseScript).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("udhcpc: %w: %s", err, out)
	}
	is, err := os.ReadFile(leased)
	if err != nil {
		return nil, fmt.Errorf("no lease was taken: %w: %s", err, out)
	}
	addr, err := netip.ParseAddr(strings.TrimSpace(string(is)))
	return struct {
		Address netip.Addr `json:"address"`
	}{addr}, err
}
