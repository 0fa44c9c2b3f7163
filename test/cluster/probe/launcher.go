package main

import (
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/vishvananda/netlink"
)

// wireLauncher does with a pod's NIC what virt-handler does for bridge binding
// (pkg/network/setup/netpod/netpod.go, bridgeBindingSpec; names as in
// pkg/network/link/names.go): the NIC goes into a bridge under another name and with
// another MAC, and a dummy takes its place. The VM's tap is one end of a veth pair
// here; the other end, with the VM's MAC, is the VM. It gives the VM's name.
func wireLauncher(nic, mac string) (string, error) {
	const vm = "vm0"
	hash := strings.TrimPrefix(nic, "pod")
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return "", fmt.Errorf("%s: %w", nic, err)
	}
	hw, mtu := link.Attrs().HardwareAddr, link.Attrs().MTU
	guest := hw // the guest has the MAC that the pod's NIC was given
	if mac != "" {
		if guest, err = net.ParseMAC(mac); err != nil {
			return "", err
		}
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "k6t-" + hash, MTU: mtu}}
	tap := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tap" + hash, MTU: mtu}, PeerName: vm, PeerHardwareAddr: guest}
	dummy := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: nic, MTU: mtu, HardwareAddr: hw}}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge), netlink.LinkSetDown(link),
		netlink.LinkSetName(link, hash+"-nic")); err != nil {
		return "", fmt.Errorf("bridge: %w", err)
	}
	made, err := netlink.LinkByName(bridge.Name)
	if err != nil {
		return "", err
	}
	err = errors.Join(
		netlink.LinkSetHardwareAddr(link, made.Attrs().HardwareAddr),
		netlink.LinkSetMaster(link, made), netlink.LinkSetUp(link), netlink.LinkSetLearning(link, false),
		netlink.LinkAdd(tap), netlink.LinkSetMaster(tap, made), netlink.LinkSetUp(tap),
		netlink.LinkAdd(dummy),
	)
	if err != nil {
		return "", fmt.Errorf("wiring of %s: %w", nic, err)
	}
	return vm, nil
}

func giveAddress(nic, addr string) error {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("%s: %w", nic, err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, a), netlink.LinkSetUp(link))
}
