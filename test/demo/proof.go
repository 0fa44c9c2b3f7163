package main

import (
	"encoding/hex"
	"fmt"
	"net"
	"strings"

	"github.com/homeport-cni/homeport/test/netns"
)

// banner is a shell line that opens a TCP connection and prints the first line
// of what the server says.
func banner(ip string, port int) string {
	return fmt.Sprintf("timeout 4 bash -c 'head -n1 </dev/tcp/%s/%d'", ip, port)
}

func (d *demo) reach() error {
	// ARP and the first steps of a just wired VM take a moment under emulation,
	// as does the first connection to one that has just come up.
	for _, c := range [][2]string{{"ping -c 1 -W 1 " + vm1IP, "1 received"}, {banner(vm1IP, 80), "vm1 80"}} {
		if err := d.settle(d.legacy100, c[0], c[1]); err != nil {
			return fmt.Errorf("legacy100 cannot reach vm1 on VLAN 100: %w", err)
		}
	}
	if err := d.must(d.legacy100, "ping -c 3 -i 0.2 -W 2 "+vm1IP, " 0% packet loss"); err != nil {
		return err
	}
	if err := d.must(d.legacy100, banner(vm1IP, 80), "homeport-guest vm1 80"); err != nil {
		return err
	}
	d.say("vm1 itself, over its control channel: its address is nowhere in the cluster's config")
	return d.must(d.node1.Space, "guestctl vm1 ip", vm1IP)
}

func (d *demo) isolated() error {
	t, err := d.startTrace(d.old200, "ether host "+d.guest.MAC())
	if err != nil {
		return err
	}
	if err := d.mustFail(d.old200, "ping -c 2 -i 0.3 -W 1 "+vm1IP, "100% packet loss"); err != nil {
		return err
	}
	if err := d.mustFail(d.node1.Space, "guestctl vm1 ping 10.100.0.99 2 700"); err != nil {
		return err
	}
	seen, err := t.stop()
	if err != nil {
		return err
	}
	if seen != "" {
		return fmt.Errorf("legacy200 saw frames of vm1")
	}
	d.say("VLAN 200 itself works: its legacy host reaches vm2 on the other node")
	if err := d.settle(d.old200, "ping -c 1 -W 1 "+vm2IP, "1 received"); err != nil {
		return err
	}
	if err := d.must(d.old200, "ping -c 2 -i 0.2 -W 2 "+vm2IP, " 0% packet loss"); err != nil {
		return err
	}
	return d.must(d.old200, banner(vm2IP, 80), "vm2 80")
}

func (d *demo) firewall() error {
	if err := d.must(d.legacy100, banner(vm1IP, 80), "homeport-guest vm1 80"); err != nil {
		return err
	}
	if err := d.mustFail(d.legacy100, banner(vm1IP, 22)); err != nil {
		return fmt.Errorf("rule 1002: %w", err)
	}
	return d.must(d.node1.Space, "homeportctl policy show vm-firewall", `^1001 .* Allow .* [1-9]\d*$`, `^1002 .* Drop .* [1-9]\d*$`)
}

// frame is what guestctl send wants: a whole frame in hex.
func frame(src string, tags ...uint16) (string, error) {
	mac, err := net.ParseMAC(src)
	if err != nil {
		return "", err
	}
	f := netns.Frame{Src: mac, Dst: net.HardwareAddr{255, 255, 255, 255, 255, 255}, Type: 0x88b5, Payload: make([]byte, 46)}
	for _, t := range tags {
		f.Tags = append(f.Tags, netns.Tag{TPID: 0x8100, VID: t})
	}
	return hex.EncodeToString(f.Bytes()), nil
}

// unguard takes the program away from vm1's port, behind the agent's back.
func (d *demo) unguard() error {
	if err := d.must(d.node1.Space, fmt.Sprintf("kill -9 %d", d.node1.AgentPID())); err != nil {
		return err
	}
	d.say("BREAK=mac: somebody takes the program off vm1's port")
	return d.must(d.node1.Space, "rm -f bpf/homeport/v*/links/*; for p in $(ip -o link show type veth | grep -o 'veth[0-9a-f]*'); do tc qdisc del dev $p clsact; done; true")
}

func (d *demo) forge() error {
	if d.breakage == "mac" {
		if err := d.unguard(); err != nil {
			return err
		}
	}
	spoofed, err := frame(evilMAC)
	if err != nil {
		return err
	}
	double, err := frame(d.guest.MAC(), 100, 200)
	if err != nil {
		return err
	}
	near, err := d.startTrace(d.legacy100, "ether proto 0x88b5")
	if err != nil {
		return err
	}
	far, err := d.startTrace(d.old200, "ether proto 0x88b5")
	if err != nil {
		return err
	}
	n := d.node1.Space
	d.say("a frame with source MAC %s, three times; and one tagged 100 and 200", evilMAC)
	if err := d.must(n, "guestctl vm1 send "+spoofed+" 3", `"sent":3`); err != nil {
		return err
	}
	if err := d.must(n, "guestctl vm1 send "+double+" 3", `"sent":3`); err != nil {
		return err
	}
	d.say("a ping behind them: what was sent before has been judged when it is answered")
	if err := d.must(n, "guestctl vm1 ping 10.100.0.20 1 3000", `"received":1`); err != nil {
		return err
	}
	for _, t := range []*trace{near, far} {
		seen, err := t.stop()
		if err != nil {
			return err
		}
		if seen != "" {
			return fmt.Errorf("%s saw a forged frame of vm1", t.m.Name)
		}
	}
	return d.must(n, "homeportctl drops", `Out +MACSpoof +([3-9]|\d\d)`, `Out +GuestTag +([3-9]|\d\d)`)
}

func (d *demo) killAgent() error {
	n := d.node1.Space
	var err error
	if d.hitsBefore, err = d.hits(); err != nil {
		return err
	}
	if err := d.must(n, fmt.Sprintf("kill -9 %d", d.node1.AgentPID())); err != nil {
		return err
	}
	if err := d.mustFail(n, "homeportctl status", "agent"); err != nil {
		return err
	}
	return d.asBefore()
}

// asBefore shows that traffic and rules are as they were.
func (d *demo) asBefore() error {
	if err := d.must(d.legacy100, "ping -c 2 -i 0.2 -W 2 "+vm1IP, " 0% packet loss"); err != nil {
		return err
	}
	if err := d.must(d.legacy100, banner(vm1IP, 80), "homeport-guest vm1 80"); err != nil {
		return err
	}
	if err := d.mustFail(d.legacy100, banner(vm1IP, 22)); err != nil {
		return err
	}
	return d.mustFail(d.old200, "ping -c 1 -W 1 "+vm1IP, "100% packet loss")
}

// hits reads rule 1001's counter.
func (d *demo) hits() (string, error) {
	out, err := d.sh(d.node1.Space, "homeportctl policy show vm-firewall")
	if err != nil {
		return "", err
	}
	for _, l := range strings.Split(out, "\n") {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "1001" {
			return f[len(f)-1], nil
		}
	}
	return "", fmt.Errorf("rule 1001 is not in policy vm-firewall")
}

func (d *demo) takeOver() error {
	if err := d.startAgent(d.node1); err != nil {
		return err
	}
	n := d.node1.Space
	if err := d.must(n, "homeportctl status", "Node is ready", "1 Active"); err != nil {
		return err
	}
	d.say("hits went on while nobody looked: rule 1001 had %s before", d.hitsBefore)
	now, err := d.hits()
	if err != nil {
		return err
	}
	var was, is int
	if _, err := fmt.Sscan(d.hitsBefore+" "+now, &was, &is); err != nil {
		return err
	}
	if is <= was {
		return fmt.Errorf("rule 1001 has %d hits, not more than the %d before", is, was)
	}
	return d.asBefore()
}

func (d *demo) delAll() error {
	n1, n2 := d.node1.Space, d.node2.Space
	if err := d.must(n1, plugin("DEL", d.pod1, "homeport", "vm1.json")); err != nil {
		return err
	}
	d.say("a list ends in reverse order: ours first, then bridge, which finds nothing and is content")
	if err := d.must(n2, plugin("DEL", d.pod2, "homeport", "vm2-homeport.json")); err != nil {
		return err
	}
	if err := d.must(n2, plugin("DEL", d.pod2, "bridge", "vm2-bridge.json")); err != nil {
		return err
	}
	if err := d.mustFail(d.legacy100, "ping -c 1 -W 1 "+vm1IP, "100% packet loss"); err != nil {
		return err
	}
	if err := d.must(n1, "homeportctl ports", "No VM port"); err != nil {
		return err
	}
	if err := d.must(n1, "ip -br link; bridge vlan show; ls -A run/attachments bpf/homeport/v*/links"); err != nil {
		return err
	}
	d.say("links, VLANs, records, pins and map entries of both nodes are compared with those before the ADDs")
	for _, c := range []struct {
		n      *netns.Node
		before string
	}{{d.node1, d.before1}, {d.node2, d.before2}} {
		now, err := c.n.Listing()
		if err != nil {
			return err
		}
		if diff := netns.Difference(c.before, now); diff != "" {
			return fmt.Errorf("DEL left something on %s:\n%s", c.n.Name, diff)
		}
	}
	return nil
}
