package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/cluster/node"
	"github.com/homeport-cni/homeport/test/vm/boot"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// setUp makes the machine a node: disk, name, network, cgroups, and the way to the
// API server, which kube-proxy would make.
func setUp() (*node.Conf, error) {
	if err := unix.Mount("/dev/vda", "/var", "ext4", 0, ""); err != nil {
		return nil, fmt.Errorf("disk: %w", err)
	}
	b, err := os.ReadFile(node.ConfPath)
	if err != nil {
		return nil, err
	}
	conf := new(node.Conf)
	if err := json.Unmarshal(b, conf); err != nil {
		return nil, fmt.Errorf("%s: %w", node.ConfPath, err)
	}
	if conf.NoBPFFS {
		if err := unix.Unmount("/sys/fs/bpf", 0); err != nil {
			return nil, fmt.Errorf("/sys/fs/bpf: %w", err)
		}
	}
	for _, dir := range []string{"/run/node", "/var/log", "/var/lib/kubelet", "/opt/cni/bin"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	id := strings.ReplaceAll(fmt.Sprintf("%-32s", fmt.Sprintf("%x", conf.Name)), " ", "0")
	if err := errors.Join(
		os.WriteFile("/etc/machine-id", []byte(id+"\n"), 0o644),
		os.Symlink(node.Dir+"/cni", "/etc/cni"),
		unix.Mount(node.Dir+"/cni-bin", "/opt/cni/bin", "", unix.MS_BIND, ""),
		unix.Sethostname([]byte(conf.Name)),
		cgroups(), sysctls(), network(conf),
	); err != nil {
		return nil, err
	}
	return conf, nil
}

// cgroups frees the top of the hierarchy, as its groups can only then be given
// controllers.
func cgroups() error {
	const top = "/sys/fs/cgroup/"
	if err := os.Mkdir(top+"system", 0o755); err != nil {
		return err
	}
	pids, err := os.ReadFile(top + "cgroup.procs")
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		_ = os.WriteFile(top+"system/cgroup.procs", []byte(pid), 0o644) // not kernel threads
	}
	controllers, err := os.ReadFile(top + "cgroup.controllers")
	if err != nil {
		return err
	}
	for c := range strings.FieldsSeq(string(controllers)) {
		if err := os.WriteFile(top+"cgroup.subtree_control", []byte("+"+c), 0o644); err != nil {
			return fmt.Errorf("cgroup controller %s: %w", c, err)
		}
	}
	return nil
}

// sysctls are what kubeadm asks of a node; the others make room for the bursts of
// an emulated machine.
func sysctls() error {
	return errors.Join(
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644),
		os.WriteFile("/proc/sys/net/bridge/bridge-nf-call-iptables", []byte("1"), 0o644),
		boot.EnlargeQueues(),
		os.WriteFile("/sys/kernel/mm/transparent_hugepage/enabled", []byte("never"), 0o644), // clearing them is slow here
	)
}

func network(conf *node.Conf) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	// An empty clsact that stays: see keepHooks of test/vm/init.
	if err := netlink.QdiscAdd(&netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: lo.Attrs().Index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}); err != nil {
		return fmt.Errorf("clsact on lo: %w", err)
	}
	if err := name(conf.TrunkMAC, "eth1"); err != nil {
		return err
	}
	eth0, err := boot.FindInterface(conf.EthMAC, 10*time.Second)
	if err != nil {
		return err
	}
	link, err := netlink.LinkByName(eth0)
	if err != nil {
		return err
	}
	addr, err := netlink.ParseAddr(conf.Address)
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.AddrAdd(link, addr), netlink.LinkSetUp(link)); err != nil {
		return fmt.Errorf("%s: %w", eth0, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(conf.Gateway)}); err != nil {
		return fmt.Errorf("default route: %w", err)
	}
	// Once for all pods: the bridge plugin's ipMasq would run iptables ten times a pod.
	toAPI := " -d " + conf.Service + " -p tcp --dport 443 -j DNAT --to-destination " + conf.API
	rules := []string{"OUTPUT" + toAPI, "PREROUTING" + toAPI, "POSTROUTING -s 10.20.0.0/16 -o " + eth0 + " -j MASQUERADE"}
	// Nodes have no network in common but the trunk: QEMU passes on what agents ask each other.
	for own, way := range conf.Agents {
		ip, port, err := net.SplitHostPort(own)
		if err != nil {
			return err
		}
		rules = append(rules, "OUTPUT -d "+ip+" -p tcp --dport "+port+" -j DNAT --to-destination "+way)
	}
	for _, rule := range rules {
		out, err := exec.Command("iptables", append([]string{"-t", "nat", "-A"}, strings.Fields(rule)...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("iptables %s: %w: %s", rule, err, out)
		}
	}
	return nil
}

// name gives the NIC with a MAC its name.
func name(mac, to string) error {
	from, err := boot.FindInterface(mac, 10*time.Second)
	if err != nil || from == to {
		return err
	}
	link, err := netlink.LinkByName(from)
	if err != nil {
		return fmt.Errorf("%s: %w", from, err)
	}
	return netlink.LinkSetName(link, to)
}

// guests makes the VMs beside the node known to guestctl, and names their NICs.
func guests(all []wire.Guest) error {
	var ports []string
	for _, g := range all {
		ports = append(ports, wire.ControlPort(g.Name))
		if err := name(g.NodeMAC, g.Iface); err != nil {
			return err
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return errors.Join(boot.LinkPorts(ports, 20*time.Second),
		os.MkdirAll(filepath.Dir(wire.GuestsPath), 0o755), os.WriteFile(wire.GuestsPath, b, 0o644))
}
