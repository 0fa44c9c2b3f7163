package snoop

import (
	"testing"

	"github.com/homeport-cni/homeport/pkg/learn"
)

const (
	a4, b4 = "10.100.0.10", "10.100.0.1"
	a6     = "2001:db8:100::10"
)

var (
	claimsA4  = []string{"Claims 10.100.0.10 by ARP of vm"}
	asksA6    = []string{"Asks 2001:db8:100::10 by ND of vm"}
	claimsA6  = []string{"Claims 2001:db8:100::10 by ND of vm"}
	asksLL    = []string{"Asks fe80::5054:ff:fe00:101 by ND of vm"}
	claimsLL  = []string{"Claims fe80::5054:ff:fe00:101 by ND of vm"}
	foreignA4 = []string{"Foreign 10.100.0.10 by ARP of server"}
	foreignA6 = []string{"Foreign 2001:db8:100::10 by ND of server"}
)

// arpSays are packets of ARP, each by itself.
func arpSays() []step {
	request := arp(1, vm, vm, a4, all, b4)
	return []step{
		{name: "a request", out: true, data: padded(request), want: claimsA4},
		{name: "one not filled up", out: true, data: request, want: claimsA4},
		{name: "a reply", out: true, data: arp(2, vm, vm, a4, router, b4), want: claimsA4},
		{name: "an announcement", out: true, data: announce(vm, a4), want: claimsA4},
		{name: "an announcement by a reply", out: true, data: arp(2, vm, vm, a4, all, a4), want: claimsA4},
		{name: "a VM's in the VM", out: true, data: arp(1, inner, inner, a4, all, b4), want: []string{"Claims 10.100.0.10 by ARP of inner"}},
		{name: "with a tag", out: true, data: tagged(request, 100), want: claimsA4},
		{name: "with a priority tag", out: true, data: tagged(request, 0xa000), want: claimsA4},
		{name: "from elsewhere, as a request", data: arp(1, server, server, a4, all, b4), want: foreignA4},
		{name: "from elsewhere, as a reply to me", data: padded(arp(2, server, server, a4, vm, a4)), want: foreignA4},
		{name: "from elsewhere, with a tag", data: tagged(announce(server, a4), 100), want: foreignA4},
		{name: "of a virtual router, from its member", data: arp(2, server, router, b4, vm, a4), want: []string{"Foreign 10.100.0.1 by ARP of router"}},
		{name: "of a cluster, by a group's MAC", data: arp(2, server, learn.MAC{3, 0xbf, 0, 0, 0, 1}, b4, vm, a4), want: []string{"Foreign 10.100.0.1 by ARP of 03:bf:00:00:00:01"}},
	}
}

// TestARP: what does not say who has an address.
func TestARP(t *testing.T) {
	play(t, arpSays())
	request := arp(1, vm, vm, a4, all, b4)
	foreign := arp(1, server, server, a4, all, b4)
	play(t, []step{
		{name: "forged: another's hardware address", out: true, data: arp(2, vm, server, a4, router, b4)},
		{name: "forged: from another", out: true, data: arp(2, server, vm, a4, router, b4)},
		{name: "a probe", out: true, data: probe(vm, a4)},
		{name: "a probe from elsewhere", data: probe(server, a4)},
		{name: "of all", out: true, data: arp(1, vm, vm, "255.255.255.255", all, b4)},
		{name: "of a group", out: true, data: arp(1, vm, vm, "224.0.0.1", all, b4)},
		{name: "of a group from elsewhere", data: arp(1, server, server, "239.1.2.3", all, b4)},
		{name: "from a group's MAC", out: true, data: arp(1, all6, all6, a4, all, b4)},
		{name: "from no MAC", out: true, data: arp(1, none, none, a4, all, b4)},
		{name: "from no MAC elsewhere", data: arp(1, none, server, a4, all, b4)},
		{name: "that names no MAC", data: arp(1, server, none, a4, all, b4)},
		{name: "for me, by another", data: arp(2, server, vm, a4, all, b4)},
		{name: "my own, come back", data: request},
		{name: "my own MAC with another in it", data: arp(1, vm, server, a4, all, b4)},
		{name: "RARP", out: true, data: arp(3, vm, vm, a4, vm, a4)},
		{name: "RARP as QEMU announces", out: true, data: changed(arp(3, vm, vm, "0.0.0.0", all, "0.0.0.0"), 12, 0x80, 0x35)},
		{name: "inverse ARP", out: true, data: arp(8, vm, vm, a4, all, b4)},
		{name: "operation 0", data: arp(0, server, server, a4, all, b4)},
		{name: "operation 257", out: true, data: arp(257, vm, vm, a4, all, b4)},
		{name: "not of Ethernet", out: true, data: changed(request, 14, 0, 6)},
		{name: "not of IPv4", out: true, data: changed(request, 16, 0x86, 0xdd)},
		{name: "hardware addresses of 8 bytes", out: true, data: changed(request, 18, 8)},
		{name: "addresses of 16 bytes", data: changed(foreign, 19, 16)},
		{name: "two tags", out: true, data: tagged(tagged(request, 100), 100)},
		{name: "a provider's tag", out: true, data: changed(tagged(request, 100), 12, 0x88, 0xa8)},
		{name: "another EtherType", out: true, data: changed(request, 12, 0x88, 0xcc)},
		{name: "nothing", out: true, data: nil},
		{name: "one byte short", out: true, data: request[:14+27]},
		{name: "a tag that ends", out: true, data: tagged(request, 100)[:17]},
	})
}

// ndSays are messages of neighbour discovery, each by itself.
func ndSays() []step {
	const hop, routing, dest = 0, 43, 60
	sol := ns(vm, a6, router6, link(1, vm))
	steps := []step{
		{name: "a solicitation", out: true, data: sol, want: claimsA6},
		{name: "one without its link address", out: true, data: ns(vm, a6, router6), want: claimsA6},
		{name: "one from a link-local address", out: true, data: ns(vm, ll, router6, link(1, vm)), want: claimsLL},
		{name: "a router solicitation", out: true, data: rs(vm, ll, link(1, vm)), want: claimsLL},
		{name: "one without its link address", out: true, data: rs(vm, ll), want: claimsLL},
		{name: "an advertisement", out: true, data: na(vm, override, a6, link(2, vm)), want: claimsA6},
		{name: "an answer", out: true, data: na(vm, solicited|override, a6, link(2, vm)), want: claimsA6},
		{name: "an answer without its link address", out: true, data: na(vm, solicited, a6), want: claimsA6},
		{name: "no flags", out: true, data: na(vm, 0, a6, link(2, vm)), want: claimsA6},
		{name: "a router's", out: true, data: na(vm, isRouter|override, a6, link(2, vm)), want: claimsA6},
		{name: "from another address of its own", out: true, data: nd(vm, ll, "ff02::1", 136, u32(0x20000000), addr(a6)), want: claimsA6},
		{name: "a VM's in the VM", out: true, data: ns(inner, a6, router6, link(1, inner)), want: []string{"Claims 2001:db8:100::10 by ND of inner"}},
		{name: "other options before", out: true, data: ns(vm, a6, router6, []byte{14, 1, 1, 2, 3, 4, 5, 6}, link(1, vm)), want: claimsA6},
		{name: "only the first counts", out: true, data: ns(vm, a6, router6, link(1, vm), link(1, server)), want: claimsA6},
		{name: "the other kind of link option", out: true, data: ns(vm, a6, router6, link(2, server)), want: claimsA6},
		{name: "with a tag", out: true, data: tagged(sol, 100), want: claimsA6},
		{name: "filled up", out: true, data: cat(sol, make([]byte, 9)), want: claimsA6},
		{name: "behind hop-by-hop options", out: true, data: between(sol, hop), want: claimsA6},
		{name: "behind destination options", out: true, data: between(sol, dest), want: claimsA6},
		{name: "behind a routing header", out: true, data: between(sol, routing), want: claimsA6},
		{name: "behind all three", out: true, data: between(sol, hop, dest, routing, dest), want: claimsA6},
		{name: "behind eight", out: true, data: between(sol, hop, routing, routing, routing, routing, routing, routing, routing), want: claimsA6},
		{name: "duplicate address detection", out: true, data: ns(vm, "::", a6), want: asksA6},
		{name: "with a nonce", out: true, data: ns(vm, "::", a6, []byte{14, 1, 1, 2, 3, 4, 5, 6}), want: asksA6},
		{name: "of a VM in the VM", out: true, data: ns(inner, "::", a6), want: []string{"Asks 2001:db8:100::10 by ND of inner"}},
		{name: "from elsewhere", data: na(server, override, a6, link(2, server)), want: foreignA6},
		{name: "from elsewhere, without its link address", data: na(server, override, a6), want: foreignA6},
		{name: "from elsewhere, for another", data: na(server, override, a6, link(2, router), link(2, server)), want: []string{"Foreign 2001:db8:100::10 by ND of router"}},
		{name: "from elsewhere, with another option", data: na(server, override, a6, link(1, router)), want: foreignA6},
		{name: "from elsewhere, behind options", data: between(na(server, override, a6, link(2, server)), dest), want: foreignA6},
		{name: "my link-local from elsewhere", data: na(server, override, ll, link(2, server)), want: []string{"Foreign fe80::5054:ff:fe00:101 by ND of server"}},
	}
	return steps
}

// TestND: what is believed of neighbour discovery, and what is not.
func TestND(t *testing.T) {
	play(t, ndSays())
	const hop, routing, fragment, dest, auth = 0, 43, 44, 60, 51
	sol, adv, foreign := ns(vm, a6, router6, link(1, vm)), na(vm, override, a6, link(2, vm)), na(server, override, a6, link(2, server))
	play(t, []step{
		{name: "duplicate address detection that names a link address", out: true, data: ns(vm, "::", a6, link(1, vm))},
		{name: "duplicate address detection of a group", out: true, data: ns(vm, "::", "ff02::1")},
		{name: "duplicate address detection elsewhere", data: ns(server, "::", a6)},
		{name: "a router solicitation from no address", out: true, data: rs(vm, "::")},
		{name: "a solicitation elsewhere", data: ns(server, a6, router6, link(1, server))},
		{name: "a router solicitation elsewhere", data: rs(server, "fe80::2", link(1, server))},
		{name: "a router's advertisement", out: true, data: nd(vm, ll, "ff02::1", 134, u32(0x40000708), u32(0), u32(0))},
		{name: "a redirect", out: true, data: nd(vm, ll, "ff02::1", 137, u32(0), addr(a6), addr(a6))},
		{name: "an echo", out: true, data: nd(vm, a6, router6, 128, u32(1), addr(a6))},
		{name: "a report of groups", out: true, data: between(nd(vm, "::", "ff02::16", 143, u32(1), []byte{4, 0, 0, 0}, addr("ff02::1:ff00:10")), hop)},
		{name: "hop limit 254", out: true, data: changed(sol, 14+7, 254)},
		{name: "hop limit 1", data: changed(foreign, 14+7, 1)},
		{name: "code 1", out: true, data: changed(adv, 14+41, 1)},
		{name: "code 1 elsewhere", data: changed(foreign, 14+41, 1)},
		{name: "for a group", out: true, data: ns(vm, a6, "ff02::1")},
		{name: "about a group", out: true, data: nd(vm, ll, "ff02::1", 136, u32(0), addr("ff02::1"))},
		{name: "about a group elsewhere", data: nd(server, ll, "ff02::1", 136, u32(0), addr("ff05::2"))},
		{name: "about none", out: true, data: nd(vm, ll, "ff02::1", 136, u32(0), addr("::"))},
		{name: "from a group", out: true, data: ns(vm, "ff02::1", router6)},
		{name: "IPv4 inside", out: true, data: nd(vm, ll, "ff02::1", 136, u32(0), cat(make([]byte, 10), []byte{0xff, 0xff}, addr(a4)))},
		{name: "forged: another's source link address", out: true, data: ns(vm, a6, router6, link(1, server))},
		{name: "forged: another's in a router solicitation", out: true, data: rs(vm, ll, link(1, server))},
		{name: "forged: another's target link address", out: true, data: na(vm, override, a6, link(2, server))},
		{name: "forged: the first counts", out: true, data: na(vm, override, a6, link(2, server), link(2, vm))},
		{name: "for me, by another", data: na(server, override, a6, link(2, vm))},
		{name: "for nobody", data: na(server, override, a6, link(2, none))},
		{name: "my own, come back", data: na(vm, override, a6, link(2, vm))},
		{name: "from a group's MAC", out: true, data: ns(all6, a6, router6, link(1, all6))},
		{name: "an option without a length", out: true, data: ns(vm, a6, router6, link(1, vm), []byte{14, 0, 0, 0, 0, 0, 0, 0})},
		{name: "an option too long", out: true, data: ns(vm, a6, router6, []byte{1, 2, 0, 0, 0, 0, 0, 0})},
		{name: "half an option", out: true, data: ns(vm, a6, router6, []byte{1})},
		{name: "a link address of two units", out: true, data: ns(vm, a6, router6, []byte{1, 2}, vm[:], make([]byte, 8))},
		{name: "a solicitation without a target", out: true, data: nd(vm, a6, router6, 135, u32(0), addr(a6)[:15])},
		{name: "a router solicitation too short", out: true, data: nd(vm, a6, router6, 133, []byte{0, 0, 0})},
		{name: "a packet that ends before", out: true, data: changed(sol, 14+4, 0, 23)},
		{name: "padding is no target", out: true, data: changed(sol, 14+4, 0, 8)},
		{name: "version 4", out: true, data: changed(sol, 14, 0x40)},
		{name: "a fragment that is whole", out: true, data: between(sol, fragment)},
		{name: "a fragment elsewhere", data: between(foreign, fragment)},
		{name: "a fragment behind options", out: true, data: between(adv, dest, fragment)},
		{name: "options behind a fragment header", out: true, data: between(adv, hop, fragment, dest)},
		{name: "behind nine", out: true, data: between(sol, hop, routing, routing, routing, routing, routing, routing, routing, routing)},
		{name: "behind what is not known", out: true, data: between(sol, auth)},
		{name: "behind no end", out: true, data: changed(between(sol, dest), 14+40, 60)},
		{name: "behind more than there is", out: true, data: changed(between(sol, hop), 14+41, 200)},
		{name: "UDP is none", out: true, data: changed(sol, 14+6, 17)},
	})
}
