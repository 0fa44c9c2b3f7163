package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/explain"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// onePort wants one PORT.
func onePort(c *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s wants one PORT, got %d arguments", c.CommandPath(), len(args))
	}
	return nil
}

// compileCommand lists what a port really has.
func compileCommand(o *options) *cobra.Command {
	var m manifestFlags
	c := &cobra.Command{
		Use:   "compile PORT",
		Short: "What a port really has: the rules of all policies that judge it, in their order",
		Long: "Lists the rules that judge a port now, those of all policies that are applied to it in the order of judgement, and\n" +
			"what follows them. HITS are those of all ports of the node. PORT is its host interface, pod, namespace/pod or\n" +
			"container ID. With --manifests they are what a directory comes to for a port on a network, before any node has it; with\n" +
			"--vm, too, what a cluster's objects come to for a VM on it, by its labels and those of others.",
		Example: fmt.Sprintf(`  %[1]s policy compile shop/db
  %[1]s policy compile --manifests site/ --network vlan100
  %[1]s policy compile --manifests cluster/ --network vlan100 --vm shop/db
  %[1]s policy compile --manifests site/ --network vlan100 -o json | %[1]s policy diff shop/db -`, o.name),
		RunE: func(c *cobra.Command, args []string) error {
			if m.dir != "" {
				set, err := m.rules(c.ErrOrStderr())
				if err != nil {
					return err
				}
				v := explain.PortRules(&set)
				v.State = open
				return tell(o, v, o.printer().PortRules)
			}
			key, err := o.findPort(c.Context(), args[0])
			if err != nil {
				return err
			}
			v, raw, err := view[wire.PortRules](c.Context(), o, wire.ViewRequest{What: wire.ViewRules, Port: &key})
			if err != nil {
				return err
			}
			return show(o, v, raw, o.printer().PortRules)
		},
	}
	m.add(c)
	return c
}

// simulateCommand asks what a port's rules would say.
func simulateCommand(o *options) *cobra.Command {
	var f packetFlags
	var m manifestFlags
	var mac string
	c := &cobra.Command{
		Use:   "simulate PORT --from ADDR[:PORT] --to ADDR:PORT/PROTOCOL",
		Short: "What a port's rules say about a connection's first packet, and which rule",
		Long: "Says what the rules in force of a port do with the first packet of a connection, or with a frame of --ether-type, and\n" +
			"which rule decides. Nothing is sent or counted. PORT is its host interface, pod, namespace/pod or container ID. With\n" +
			"--manifests the rules are what a directory comes to for a port on a network, before any node has it; with --vm, too,\n" +
			"what a cluster's objects come to for a VM on it, by its labels and those of others.",
		Example: fmt.Sprintf(`  %[1]s policy simulate veth8f2c01 --from 10.0.0.9 --to 10.0.0.7:443/tcp
  %[1]s policy simulate shop/virt-launcher-db-x7k2p --out --from 10.0.0.7 --to 10.0.0.9:8/icmp
  %[1]s policy simulate veth8f2c01 --ether-type 0x8892 --peer-mac 00:1b:1b:0a:0b:0c
  %[1]s policy simulate --manifests site/ --network vlan100 --from fd00::9 --to [fd00::7]:53/udp
  %[1]s policy simulate --manifests cluster/ --network vlan100 --vm shop/db --from 10.0.0.9 --to 10.0.0.7:443/tcp`, o.name),
		RunE: func(c *cobra.Command, args []string) error {
			vm := policy.MAC{0x02, 0, 0, 0, 0, 0xff} // of nobody
			if mac != "" {
				var err error
				if vm, err = policy.ParseMAC(mac); err != nil {
					return &failure{exitUsage, fmt.Errorf("--vm-mac %q: %w", mac, err)}
				}
			}
			if m.dir != "" {
				return simulateManifests(c, o, &f, &m, vm)
			}
			if mac != "" {
				return &failure{exitUsage, fmt.Errorf("--vm-mac is for --manifests: the MAC of port %s is known", args[0])}
			}
			v, raw, err := askOfPacket[wire.Verdict](c, o, wire.ViewVerdict, args[0], &f)
			if err != nil {
				return err
			}
			return show(o, v, raw, o.printer().Verdict)
		},
	}
	f.add(c)
	m.add(c)
	c.Flags().StringVar(&mac, "vm-mac", "", "`MAC` of the VM, with --manifests, if Ethernet rules name it")
	return c
}

// simulateManifests is simulate where no agent is asked.
func simulateManifests(c *cobra.Command, o *options, f *packetFlags, m *manifestFlags, vm policy.MAC) error {
	p, err := f.packet(c)
	if err != nil {
		return err
	}
	if _, err := explain.Packet(p, vm); err != nil {
		return &failure{exitUsage, err}
	}
	set, err := m.rules(c.ErrOrStderr())
	if err != nil {
		return err
	}
	v, _, _, err := explain.Verdict(set, p, vm)
	if err != nil {
		return &failure{exitUsage, err}
	}
	v.State = open
	return tell(o, v, o.printer().Verdict)
}

// traceCommand asks a port's own program.
func traceCommand(o *options) *cobra.Command {
	var f packetFlags
	c := &cobra.Command{
		Use:   "trace PORT --from ADDR[:PORT] --to ADDR:PORT/PROTOCOL",
		Short: "What a port's own program would do with a packet now, where and why",
		Long: "Has a copy of the port's own program judge a packet, by the port's state, connections and rules of now, and says which\n" +
			"part of it decides, for what reason and by which rule. Nothing is sent, counted or remembered. PORT is its host interface,\n" +
			"pod, namespace/pod or container ID.",
		Example: fmt.Sprintf(`  %[1]s trace veth8f2c01 --from 10.0.0.9 --to 10.0.0.7:443/tcp
  %[1]s trace veth8f2c01 --from 10.0.0.9:49152 --to 10.0.0.7:443/tcp --tcp-flags A
  %[1]s trace veth8f2c01 --ether-type ARP --peer-mac 00:1b:1b:0a:0b:0c
  %[1]s trace shop/db --out --vlan 200 --from 10.2.0.7 --to 10.2.0.9:8/icmp`, o.name),
		Args: onePort,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("vlan") && f.vlan == 0 {
				return fmt.Errorf("--vlan 0 is no VLAN: want 1 to 4094, or leave it out for a frame without a tag")
			}
			v, raw, err := askOfPacket[wire.Trace](c, o, wire.ViewTrace, args[0], &f)
			if err != nil {
				return err
			}
			return show(o, v, raw, o.printer().Trace)
		},
	}
	f.add(c)
	c.Flags().Uint16Var(&f.vlan, "vlan", 0, "`ID` of the frame's 802.1Q tag, on a trunk port; without, it has no tag")
	return c
}

// packetFlags are the flags that say what a port would see.
type packetFlags struct {
	from, to, tcpFlags string
	peer, etherType    string
	code               uint8
	vlan               uint16
	out                bool
}

// askOfPacket has the agent say something of a packet at a port.
func askOfPacket[T any](c *cobra.Command, o *options, what, port string, f *packetFlags) (v T, raw json.RawMessage, err error) {
	p, err := f.packet(c)
	if err != nil {
		return v, nil, err
	}
	key, err := o.findPort(c.Context(), port)
	if err != nil {
		return v, nil, err
	}
	v, raw, err = view[T](c.Context(), o, wire.ViewRequest{What: what, Port: &key, Packet: p})
	var refused *attach.Error
	if isRefusal(err) && errors.As(err, &refused) {
		return v, nil, &failure{exitUsage, refused}
	}
	return v, raw, err
}

func (f *packetFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.from, "from", "", "`ADDR[:PORT]` that opens the connection; without a port, from one as clients take it (49152)")
	c.Flags().StringVar(&f.to, "to", "", "`ADDR:PORT/PROTOCOL` that it opens: tcp, udp or sctp with a port, icmp or icmpv6 with a type; ADDR/47 for others")
	c.Flags().Uint8Var(&f.code, "code", 0, "`CODE` of an icmp or icmpv6 type")
	c.Flags().StringVar(&f.peer, "peer-mac", "", "`MAC` of the other side, if Ethernet rules name it; without, one that nobody has")
	c.Flags().StringVar(&f.etherType, "ether-type", "", "`TYPE` of a frame that is not IP, as LLDP or 0x8892, in place of --from and --to")
	c.Flags().StringVar(&f.tcpFlags, "tcp-flags", "", "`LETTERS` of FSRPAUEC; without, TCP is a SYN, which opens a connection")
	c.Flags().BoolVar(&f.out, "out", false, "the VM at the port sends it; without, it comes to the VM")
}

// packet is what the flags say.
func (f *packetFlags) packet(c *cobra.Command) (*wire.Packet, error) {
	p := &wire.Packet{Direction: "In", VLAN: f.vlan, TCPFlags: f.tcpFlags, PeerMAC: f.peer, EtherType: f.etherType}
	if f.out {
		p.Direction = "Out"
	}
	var err error
	switch {
	case c.Flags().Changed("tcp-flags") && f.tcpFlags == "":
		err = errors.New("--tcp-flags has none: want letters of FSRPAUEC, or leave it out for a SYN")
	case f.etherType == "":
		err = readPacket(p, f.from, f.to, f.code)
	case f.from != "" || f.to != "" || f.code != 0:
		err = fmt.Errorf("--ether-type %s: such a frame has no IP addresses: leave --from, --to and --code out, or the EtherType", f.etherType)
	}
	if err != nil {
		return nil, &failure{exitUsage, fmt.Errorf("%w; next: %s --help", err, c.CommandPath())}
	}
	return p, nil
}

// readPacket reads the addresses and the service.
func readPacket(p *wire.Packet, from, to string, code uint8) (err error) {
	if source, err := netip.ParseAddrPort(from); err == nil {
		p.Source, p.SourcePort = source.Addr(), source.Port()
	} else if p.Source, err = netip.ParseAddr(from); err != nil {
		return fmt.Errorf("--from %q: want an address, as 10.0.0.9, or one with its port, as 10.0.0.9:53 or [fd00::9]:53", from)
	}
	wrong := fmt.Errorf("--to %q: want an address, a port and a protocol, as 10.0.0.7:443/tcp, [fd00::7]:53/udp or 10.0.0.7:8/icmp; or a protocol's number, as 10.0.0.7/47", to)
	i := strings.LastIndexByte(to, '/')
	if i < 0 {
		return wrong
	}
	where, protocol := to[:i], to[i+1:]
	if _, err := strconv.ParseUint(protocol, 10, 8); err == nil {
		p.Service = "ip/" + protocol
		if p.Destination, err = netip.ParseAddr(strings.Trim(where, "[]")); err != nil {
			return wrong
		}
		return nil
	}
	target, err := netip.ParseAddrPort(where)
	if err != nil {
		return wrong
	}
	p.Destination, p.Service = target.Addr(), fmt.Sprintf("%s/%d", protocol, target.Port())
	if code != 0 && !strings.HasPrefix(protocol, "icmp") {
		return fmt.Errorf("--code %d: %s has no codes: leave it out, or ask about icmp or icmpv6", code, protocol)
	}
	if strings.HasPrefix(protocol, "icmp") {
		p.Service += fmt.Sprintf("/%d", code)
	}
	return nil
}
