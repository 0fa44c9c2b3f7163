// Package netns is the laboratory: nodes, a switch, legacy hosts, launcher pods
// and their guests, each a network namespace of one kernel, joined by veth pairs
// as cables join real ones. The product's own binaries run in it, called as a
// container runtime calls them.
//
// A node has an uplink named eth1, a run directory of its own (a paths file
// beside its copy of the binaries says which) and a BPF file system of its own.
// A switch is a VLAN-aware bridge that knows, for each port, which VLANs it
// carries. Launchers are wired as KubeVirt's bridge binding does after ADD.
//
// A VM beside the node VM that can move (test/vm, places=2) goes from pod to pod by
// QEMU's live migration: a Mover has one of its two NICs in the pod where it runs, the
// other in the pod that it moves to. Two switches joined by a trunk, and a pod plugged
// into one of them, are a node with a plain bridge, which is what the product is
// compared with: testdata/migrate has its scripts, each run alone (TestMigrate), and
// their tables of figures go to /out/figures.txt and figures.json. Pings say how long an
// address was dark, a stream (test/vm/stream) what one TCP connection lived through,
// knocks whether anything passed that policy drops.
//
// What a fabric does to frames when it is wrong, a script has it do by command, for as
// long as it likes: faults are at the ports of switches, each is undone by itself, and
// nodes are left as they are but for what "refuse" does (testdata/fabric.txtar shows each). Beside the switches,
// nodes may have a management network.
//
// Attacks and what they imitate are sent by tools of Debian where it has them: arping, ndisc6
// and rdisc6, dnsmasq as the DHCP server, busybox's udhcpc and dhclient as its clients, keepalived
// for VRRP. What these do not say wrong enough, "send" crafts from words (craftcmd_test.go). Scapy,
// which with Python is 27 MB beside the 61 that a VM's image has and starts for seconds in
// emulation, makes its attacks outside, for TestAttacks of pkg/datapath.
//
// Everything belongs to a Lab and goes with it. Laboratories are independent of
// each other, so tests may run side by side.
//
// The scripts in testdata read like an operator's shell; script_test.go says
// which commands they have beside those of testscript.
package netns
