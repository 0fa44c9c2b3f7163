package snoop

import (
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
)

// noise4 and noise6 are what a VM sends besides: it says nothing.
func noise4(name, dst string, port int) step {
	return step{name: name, out: true, data: eth(learn.MAC{1, 0, 0x5e, 0, 0, 0xfb}, vm, 0x0800, ip4(a4, dst, 17, udpOf(port, port, make([]byte, 40))))}
}

func noise6(name, dst string, port int) step {
	return step{name: name, out: true, data: eth(all6, vm, 0x86dd, ip6(ll, dst, 255, 17, udpOf(port, port, make([]byte, 40))))}
}

// mld is a report of the group in which the VM is looked for, from an address or none.
func mld(src string) step {
	report := cat([]byte{143, 0, 0, 0}, u16(0), u16(1), []byte{4, 0, 0, 0}, addr("ff02::1:ff00:101"))
	return step{name: "MLD report", out: true, data: between(eth(all6, vm, 0x86dd, ip6(src, "ff02::16", 1, 58, report)), 0)}
}

func igmp() step {
	return step{name: "IGMP report", out: true, data: eth(learn.MAC{1, 0, 0x5e, 0, 0, 0x16}, vm, 0x0800, ip4("0.0.0.0", "224.0.0.22", 2, make([]byte, 16)))}
}

func rarp() step {
	return step{name: "RARP of QEMU", out: true, data: padded(changed(arp(3, vm, vm, "0.0.0.0", all, "0.0.0.0"), 12, 0x80, 0x35))}
}

// conflictChecks are probes and announcements (RFC 5227, 2.1.1, 2.3).
func conflictChecks(announcements int) (steps []step) {
	for range 3 {
		steps = append(steps, step{name: "ARP probe", after: time.Second, out: true, data: padded(probe(vm, a4))})
	}
	for range announcements {
		steps = append(steps, step{name: "ARP announcement", after: 2 * time.Second, out: true, data: padded(announce(vm, a4)), want: claimsA4})
	}
	return steps
}

// linuxBoot is how systemd-networkd starts, with dnsmasq for both DHCPs: it names itself by a DUID, and dnsmasq puts options
// where the names of a server and a file are.
func linuxBoot() []step {
	clientDUID := opt(61, 255, 0xb5, 0x5e, 0x67, 0xff, 0, 2, 0, 0, 0xab, 0x11, 0x28, 0xd9, 0x42, 0x11, 0x6c, 0x70, 0x1f, 0x5a)
	wants := opt(55, 1, 3, 6, 12, 15, 26, 33, 42, 119, 120, 121)
	size := opt(57, 0x05, 0xc0)
	steps := []step{
		rarp(),
		mld("::"),
		{name: "DAD of link-local", after: 300 * time.Millisecond, out: true, data: ns(vm, "::", ll, cat([]byte{14, 1}, make([]byte, 6))), want: asksLL},
		{name: "DHCPDISCOVER", out: true, data: asks(nil, kind4(1), clientDUID, wants, size, opt(12, []byte("web-1")...), opt(80))},
		mld(ll),
		{name: "router solicitation", after: time.Second, out: true, data: rs(vm, ll, link(1, vm)), want: claimsLL},
		{name: "DHCPOFFER", data: answers(a4, nil, kind4(2), serverID4, lease(3600), opt(58, u32(1800)...), opt(59, u32(3150)...), opt(1, 255, 255, 255, 0), opt(3, 10, 100, 0, 1))},
		{name: "DHCPREQUEST", out: true, data: asks(nil, kind4(3), clientDUID, wants, size, serverID4, wanted(a4), opt(12, []byte("web-1")...))},
		{name: "router advertisement", data: eth(all6, router, 0x86dd, ip6(router6, "ff02::1", 255, 58, cat([]byte{134, 0, 0, 0, 64, 0xc0}, u16(1800), u32(0), u32(0), link(1, router))))},
		{name: "DHCPACK", data: answers(a4, func(d *dhcp4) { d.file = cat(lease(3600), opt(15, []byte("shop.example")...), []byte{255}) }, kind4(5), serverID4, opt(52, 1), opt(1, 255, 255, 255, 0)), want: leasedA4},
	}
	steps = append(steps, conflictChecks(2)...)
	return append(steps,
		step{name: "Solicit", out: true, data: asks6(1, opt6(6, u16(23), u16(24)), opt6(8, u16(0)), iaNA())},
		step{name: "Advertise", data: answers6(2, givesA6())},
		step{name: "Request", after: time.Second, out: true, data: asks6(3, serverID, opt6(8, u16(0)), givesA6())},
		step{name: "Reply", data: answers6(7, iaNA(iaAddr(a6, 3600, 3600)), status6(0), opt6(23, addr("2001:db8:100::2"))), want: leasedA6},
		step{name: "DAD", out: true, data: ns(vm, "::", a6), want: asksA6},
		step{name: "the router's question", after: time.Second, data: ns(router, router6, a6, link(1, router))},
		step{name: "its answer", out: true, data: na(vm, solicited|override, a6, link(2, vm)), want: claimsA6},
		step{name: "ARP for the router", out: true, data: padded(arp(1, vm, vm, a4, all, b4)), want: claimsA4},
		step{name: "the router's", data: padded(arp(2, router, router, b4, vm, a4)), want: []string{"Foreign 10.100.0.1 by ARP of router"}},
		noise4("mDNS", "224.0.0.251", 5353), noise6("mDNS", "ff02::fb", 5353),
		step{name: "DHCPREQUEST at half time", after: 30 * time.Minute, out: true, data: renews()},
		step{name: "DHCPACK", data: ack(func(d *dhcp4) { d.client, d.dst = a4, a4 }), want: leasedA4},
	)
}

// windowsBoot is how Windows starts: it knows its last address, wants answers by broadcast, checks for conflicts itself, asks for
// a proxy by DHCPINFORM, and talks to groups. Nobody answers by DHCPv6.
func windowsBoot() []step {
	id := opt(61, cat([]byte{1}, vm[:])...)
	vendor := opt(60, []byte("MSFT 5.0")...)
	name := opt(81, cat([]byte{0, 0, 0}, []byte("WEB-1.shop.example"))...)
	wants := opt(55, 1, 3, 6, 15, 31, 33, 43, 44, 46, 47, 119, 121, 249, 252)
	const newXID = testXID + 1
	const stable = "fe80::8d3b:6f1:ae02:9c11"
	inform := func(d *dhcp4) { d.xid, d.client, d.src = newXID, a4, a4 }
	toAll := func(d *dhcp4) { d.to = all }
	steps := []step{
		rarp(),
		mld("::"),
		{name: "DAD of link-local", out: true, data: ns(vm, "::", stable), want: []string{"Asks fe80::8d3b:6f1:ae02:9c11 by ND of vm"}},
		{name: "router solicitation", out: true, data: rs(vm, "::")},
		{name: "DHCPREQUEST of its last address", after: time.Second, out: true, data: asks(nil, kind4(3), id, wanted("10.100.0.99"), opt(12, []byte("WEB-1")...), name, vendor, wants)},
		{name: "DHCPNAK", data: nak(toAll), want: []string{"Withdraws 10.100.0.99 by DHCP of vm"}},
		{name: "DHCPDISCOVER", after: time.Second, out: true, data: asks(nil, kind4(1), id, opt(12, []byte("WEB-1")...), vendor, wants)},
		{name: "DHCPOFFER", data: answers(a4, toAll, kind4(2), serverID4, lease(3600))},
		{name: "DHCPREQUEST", out: true, data: asks(nil, kind4(3), id, wanted(a4), serverID4, opt(12, []byte("WEB-1")...), name, vendor, wants)},
		{name: "DHCPACK", data: answers(a4, toAll, kind4(5), opt(58, u32(1800)...), opt(59, u32(3150)...), lease(3600), serverID4, opt(1, 255, 255, 255, 0), opt(81, 3, 255, 255)), want: leasedA4},
		{name: "advertisement of link-local", out: true, data: na(vm, override, stable, link(2, vm)), want: []string{"Claims fe80::8d3b:6f1:ae02:9c11 by ND of vm"}},
		{name: "router solicitation", out: true, data: rs(vm, stable, link(1, vm)), want: []string{"Claims fe80::8d3b:6f1:ae02:9c11 by ND of vm"}},
		igmp(), mld(stable),
		noise4("LLMNR", "224.0.0.252", 5355), noise6("LLMNR", "ff02::1:3", 5355),
	}
	steps = append(steps, conflictChecks(1)...)
	return append(steps,
		noise4("NetBIOS", "10.100.0.255", 137), noise4("SSDP", "239.255.255.250", 1900), noise6("mDNS", "ff02::fb", 5353),
		step{name: "DHCPINFORM", out: true, data: asks(inform, kind4(8), id, vendor, opt(55, 252))},
		step{name: "DHCPACK of it", data: answers("0.0.0.0", func(d *dhcp4) { d.xid, d.client, d.dst = newXID, a4, a4 }, kind4(5), serverID4, opt(252, []byte("http://wpad\n")...))},
		step{name: "Solicit", out: true, data: asks6(1, opt6(8, u16(0)), opt6(39, []byte{0, 5, 'W', 'E', 'B', '-', '1'}), iaNA())},
		step{name: "ARP for the router", out: true, data: padded(arp(1, vm, vm, a4, all, b4)), want: claimsA4},
		step{name: "a thief", data: padded(announce(server, a4)), want: foreignA4},
		step{name: "its defence", out: true, data: padded(announce(vm, a4)), want: claimsA4},
		step{name: "DHCPRELEASE at the end", after: time.Hour, out: true, data: asks(func(d *dhcp4) { d.to, d.src, d.dst, d.client = server, a4, "10.100.0.2", a4 }, kind4(7), serverID4, id), want: withdrawA4},
	)
}

// statelessBoot is how Linux starts that has its IPv4 address in a file and takes its IPv6 address from a router's advertisements, which tell
// the router's MAC, too: it asks nobody, and sends.
func statelessBoot() []step {
	prefix := cat([]byte{3, 4, 64, 0xc0}, u32(86400), u32(14400), u32(0), addr("2001:db8:100::"))
	return []step{
		mld("::"),
		{name: "DAD of link-local", after: 300 * time.Millisecond, out: true, data: ns(vm, "::", ll, cat([]byte{14, 1}, make([]byte, 6))), want: asksLL},
		mld(ll),
		{name: "router solicitation", after: time.Second, out: true, data: rs(vm, ll, link(1, vm)), want: claimsLL},
		{name: "router advertisement", data: eth(all6, router, 0x86dd, ip6(router6, "ff02::1", 255, 58, cat([]byte{134, 0, 0, 0, 64, 0}, u16(1800), u32(0), u32(0), link(1, router), prefix)))},
		{name: "DAD", out: true, data: ns(vm, "::", a6, cat([]byte{14, 1}, make([]byte, 6))), want: asksA6},
		mld(ll),
		{name: "its first packet of IPv6", after: time.Second, out: true, data: eth(router, vm, 0x86dd, ip6(a6, "2001:db8::1", 64, 17, udpOf(40000, 123, make([]byte, 48))))},
		{name: "ARP for the router", out: true, data: padded(arp(1, vm, vm, a4, all, b4)), want: claimsA4},
		{name: "the router's", data: padded(arp(2, router, router, b4, vm, a4)), want: []string{"Foreign 10.100.0.1 by ARP of router"}},
		{name: "its first packet of IPv4", out: true, data: eth(router, vm, 0x0800, ip4(a4, "192.0.2.1", 17, udpOf(40000, 123, make([]byte, 48))))},
	}
}

// otherClients are how other programs ask and others answer.
func otherClients() []step {
	return []step{
		{name: "udhcpc", out: true, data: asks(nil, kind4(1), opt(61, cat([]byte{1}, vm[:])...), opt(57, 2, 0x40), opt(55, 1, 3, 6, 12, 15, 28, 42), opt(60, []byte("udhcp 1.36.1")...))},
		{name: "udhcpc", out: true, data: asks(nil, kind4(3), opt(61, cat([]byte{1}, vm[:])...), wanted(a4), serverID4, opt(57, 2, 0x40))},
		{name: "ISC dhcpd", data: answers(a4, nil, kind4(5), serverID4, lease(7200), opt(1, 255, 255, 255, 0), opt(3, 10, 100, 0, 1), opt(6, 10, 100, 0, 2)), want: []string{"Claims 10.100.0.10 by DHCP of vm for 2h0m0s"}},
		{name: "dhclient, which wakes", after: time.Hour, out: true, data: asks(func(d *dhcp4) { d.xid = 7 }, kind4(3), wanted(a4), opt(12, []byte("web")...), opt(55, 1, 28, 2, 3, 15, 6, 119, 12, 44, 47, 26, 121, 42))},
		{name: "Kea", data: answers(a4, func(d *dhcp4) { d.xid = 7 }, opt(1, 255, 255, 255, 0), lease(4000), kind4(5), serverID4, opt(61, cat([]byte{1}, vm[:])...)), want: []string{"Claims 10.100.0.10 by DHCP of vm for 1h6m40s"}},
		{name: "a server that closes with 0", data: answers(a4, func(d *dhcp4) { d.xid, d.noEnd = 7, true }, kind4(5), lease(3600), []byte{0, 0, 0}), want: leasedA4},
	}
}

// boots are all of them.
func boots() map[string][]step {
	return map[string][]step{"Linux": linuxBoot(), "Windows": windowsBoot(), "others": otherClients(), "stateless": statelessBoot()}
}

// TestBoot: what is said while a VM starts, and nothing else.
func TestBoot(t *testing.T) {
	for name, steps := range boots() {
		t.Run(name, func(t *testing.T) { play(t, steps) })
	}
}
