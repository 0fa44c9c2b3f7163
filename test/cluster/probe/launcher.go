package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// wireLauncher does with a pod's NIC what virt-handler does for bridge binding
// (pkg/network/setup/netpod/netpod.go, bridgeBindingSpec; names as in
// pkg/network/link/names.go): the NIC goes into a bridge under another name and with
// another MAC, and a dummy takes its place. tap is an interface that leads to a VM;
// it is waited for. Without one the VM is one end of a veth pair, with the MAC that is
// given or else the NIC had; its name is given back.
func wireLauncher(nic, tap, mac string) (vm string, err error) {
	hash := strings.TrimPrefix(nic, "pod")
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return "", fmt.Errorf("%s: %w", nic, err)
	}
	was := *link.Attrs()
	vmMAC := was.HardwareAddr
	if mac != "" {
		if vmMAC, err = net.ParseMAC(mac); err != nil {
			return "", err
		}
	}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "k6t-" + hash, MTU: was.MTU}}
	dummy := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: nic, MTU: was.MTU, HardwareAddr: was.HardwareAddr}}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.LinkSetUp(bridge), netlink.LinkSetDown(link),
		netlink.LinkSetName(link, hash+"-nic")); err != nil {
		return "", fmt.Errorf("bridge: %w", err)
	}
	made, err := netlink.LinkByName(bridge.Name)
	if err != nil {
		return "", err
	}
	if err := errors.Join(
		netlink.LinkSetARPOff(made), // the VM's address is in this network namespace, where it could answer for it
		netlink.LinkSetHardwareAddr(link, made.Attrs().HardwareAddr),
		netlink.LinkSetMaster(link, made), netlink.LinkSetUp(link), netlink.LinkSetLearning(link, false),
		netlink.LinkAdd(dummy),
	); err != nil {
		return "", fmt.Errorf("wiring of %s: %w", nic, err)
	}
	var port netlink.Link
	if tap != "" {
		port, err = waitLink(tap)
	} else {
		vm = "vm0"
		port = &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "tap" + hash, MTU: was.MTU}, PeerName: vm, PeerHardwareAddr: vmMAC}
		err = netlink.LinkAdd(port)
	}
	if err != nil {
		return "", fmt.Errorf("tap: %w", err)
	}
	return vm, errors.Join(netlink.LinkSetMaster(port, made), netlink.LinkSetUp(port))
}

// waitLink waits for an interface that somebody moves here.
func waitLink(name string) (netlink.Link, error) {
	for {
		link, err := netlink.LinkByName(name)
		if missing := (netlink.LinkNotFoundError{}); err == nil || !errors.As(err, &missing) {
			return link, err
		}
		time.Sleep(100 * time.Millisecond)
	}
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

// announce sends what QEMU does when the VM is about to run at the target of its
// migration (net/announce.c): a reverse ARP request with the VM's MAC, untagged.
func announce(nic string) error {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("%s: %w", nic, err)
	}
	mac := link.Attrs().HardwareAddr
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac...)
	frame = append(frame, 0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3)
	frame = append(append(frame, mac...), 0, 0, 0, 0)
	frame = append(append(frame, mac...), 0, 0, 0, 0)
	frame = append(frame, make([]byte, 60-len(frame))...)
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index})
}

// pause has the VM say and hear nothing, or ends that.
func pause(nic string, down bool) error {
	link, err := netlink.LinkByName(nic)
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", nic, err)
	case down:
		return netlink.LinkSetDown(link)
	}
	return netlink.LinkSetUp(link)
}

// know gives the VM a neighbour's address, as one that comes by live migration has it.
func know(nic, ip, mac string) error {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return fmt.Errorf("%s: %w", nic, err)
	}
	hw, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	return netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: net.ParseIP(ip), HardwareAddr: hw})
}
