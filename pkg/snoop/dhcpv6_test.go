package snoop

import (
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/learn"
)

var (
	leasedA6   = []string{"Claims 2001:db8:100::10 by DHCP of vm for 1h0m0s"}
	withdrawA6 = []string{"Withdraws 2001:db8:100::10 by DHCP of vm"}
)

const temp6 = "2001:db8:100::aaaa"

func givesA6() []byte { return iaNA(iaAddr(a6, 1800, 3600)) }

// reply6 is a packet of the server with what a test makes of it.
func reply6(to learn.MAC, next byte, payload []byte) []byte {
	return eth(to, server, 0x86dd, ip6("fe80::2", ll, 64, next, payload))
}

func dhcpv6Talks() map[string][]step {
	answer := func(question byte, want []string, options ...[]byte) []step {
		return []step{{name: "question", out: true, data: asks6(question, givesA6())}, {name: "reply", data: answers6(7, options...), want: want}}
	}
	return map[string][]step{
		"a lease": {
			{name: "solicit", out: true, data: asks6(1, iaNA())},
			{name: "advertise", data: answers6(2, givesA6())},
			{name: "request", after: time.Second, out: true, data: asks6(3, serverID, givesA6())},
			{name: "reply", data: answers6(7, givesA6()), want: leasedA6},
			{name: "renew", after: 30 * time.Minute, out: true, data: asks6(5, serverID, givesA6())},
			{name: "reply", data: answers6(7, givesA6()), want: leasedA6},
			{name: "release", after: time.Minute, out: true, data: asks6(8, serverID, givesA6()), want: withdrawA6},
			{name: "its reply", data: answers6(7, status6(0)), want: nil},
		},
		"at once":                    {{name: "solicit", out: true, data: asks6(1, iaNA(), rapidCommit)}, {name: "reply", data: answers6(7, rapidCommit, givesA6()), want: leasedA6}},
		"renewed":                    answer(5, leasedA6, givesA6()),
		"rebound":                    answer(6, leasedA6, givesA6()),
		"confirmed":                  answer(4, nil, status6(0)),
		"confirm, as some answer":    answer(4, leasedA6, status6(0), givesA6()),
		"declined":                   {{name: "decline", out: true, data: asks6(9, serverID, iaNA(iaAddr(a6, 0, 0))), want: withdrawA6}},
		"released by a VM in the VM": {{name: "release", out: true, data: changed(asks6(8, serverID, givesA6()), 6, inner[:]...), want: []string{"Withdraws 2001:db8:100::10 by DHCP of inner"}}},
		"two released": {{name: "release", out: true, data: asks6(8, serverID, givesA6(), iaTA(iaAddr(temp6, 0, 0))),
			want: []string{withdrawA6[0], "Withdraws 2001:db8:100::aaaa by DHCP of vm"}}},
		"success, said thrice": answer(3, leasedA6, status6(0), iaNA(status6(0), iaAddr(a6, 3600, 3600, status6(0)))),
		"for ever":             answer(3, []string{"Claims 2001:db8:100::10 by DHCP of vm"}, iaNA(iaAddr(a6, 0xffffffff, 0xffffffff))),
		"taken away":           answer(5, withdrawA6, iaNA(iaAddr(a6, 0, 0))),
		"renumbered": answer(5, []string{withdrawA6[0], "Claims 2001:db8:200::10 by DHCP of vm for 1h0m0s", "Claims 2001:db8:100::aaaa by DHCP of vm for 10m0s"},
			iaNA(iaAddr(a6, 0, 0), iaAddr("2001:db8:200::10", 1800, 3600)), iaTA(iaAddr(temp6, 600, 600))),
		"one of two fails":  answer(3, leasedA6, iaNA(iaAddr(temp6, 1800, 3600, status6(1)), iaAddr(a6, 1800, 3600)), iaTA(status6(2), iaAddr(temp6, 60, 60))),
		"beside prefixes":   answer(3, leasedA6, opt6(25, u32(1), u32(0), u32(0), opt6(26, u32(60), u32(60), []byte{56}, addr("2001:db8:f00::"))), givesA6()),
		"by broadcast":      {{out: true, data: asks6(3)}, {name: "reply", data: reply6(all6, 17, udpOf(547, 546, message6(7, xid6, givesA6()))), want: leasedA6}},
		"to a VM in the VM": {{out: true, data: asks6(3)}, {name: "reply", data: reply6(inner, 17, udpOf(547, 546, message6(7, xid6, givesA6()))), want: []string{"Claims 2001:db8:100::10 by DHCP of inner for 1h0m0s"}}},
		"with tags":         {{out: true, data: tagged(asks6(3), 5)}, {name: "reply", data: tagged(answers6(7, givesA6()), 5), want: leasedA6}},
		"behind options":    {{out: true, data: between(asks6(3), 0)}, {name: "reply", data: between(answers6(7, givesA6()), 60), want: leasedA6}},
	}
}

// TestDHCPv6: what servers give and take.
func TestDHCPv6(t *testing.T) {
	for name, steps := range dhcpv6Talks() {
		t.Run(name, func(t *testing.T) { play(t, steps) })
	}
}

// TestDHCPv6Silent: after a request, what is no answer to it, or none that counts.
func TestDHCPv6Silent(t *testing.T) {
	whole := answers6(7, givesA6())
	const udp = 54
	for name, data := range map[string][]byte{
		"another question's":            reply6(vm, 17, udpOf(547, 546, message6(7, xid6+1, givesA6()))),
		"an advertise":                  answers6(2, givesA6()),
		"a reconfigure":                 answers6(10, givesA6()),
		"of a relay":                    answers6(13, givesA6()),
		"a release":                     answers6(8, givesA6()),
		"prefixes":                      answers6(7, opt6(25, u32(1), u32(0), u32(0), opt6(5, addr(a6), u32(60), u32(60)))),
		"an address in no IA":           answers6(7, iaAddr(a6, 60, 60)),
		"an address in an option":       answers6(7, opt6(17, u32(1), u32(2), u32(3), iaAddr(a6, 60, 60))),
		"an IA in an IA":                answers6(7, iaNA(iaNA(iaAddr(a6, 60, 60)))),
		"the message failed":            answers6(7, status6(1), givesA6()),
		"the message failed, said last": answers6(7, givesA6(), status6(5)),
		"failed, and then not":          answers6(7, iaNA(status6(2), status6(0), iaAddr(a6, 60, 60))),
		"the IA failed":                 answers6(7, iaNA(status6(2), iaAddr(a6, 60, 60))),
		"the IA failed, said last":      answers6(7, iaNA(iaAddr(a6, 60, 60), status6(6))),
		"the address failed":            answers6(7, iaNA(iaAddr(a6, 60, 60, status6(4)))),
		"a failure of no code":          answers6(7, iaNA(iaAddr(a6, 60, 60, opt6(13, []byte{0})))),
		"failed, and no time":           answers6(7, iaNA(status6(3), iaAddr(a6, 0, 0))),
		"preferred for longer":          answers6(7, iaNA(iaAddr(a6, 61, 60))),
		"a group":                       answers6(7, iaNA(iaAddr("ff02::1", 60, 60))),
		"none":                          answers6(7, iaNA(iaAddr("::", 60, 60))),
		"an IA_NA too short":            answers6(7, opt6(3, u32(1), u32(2)), givesA6()),
		"an IA_TA too short":            answers6(7, givesA6(), opt6(4, []byte{1})),
		"an address too short":          answers6(7, iaNA(opt6(5, addr(a6), u32(60)), iaAddr(a6, 60, 60))),
		"options that end":              answers6(7, givesA6(), []byte{0, 13, 0}),
		"an option too long":            answers6(7, givesA6(), []byte{0, 13, 0, 9, 0}),
		"an IA's option too long":       answers6(7, iaNA(iaAddr(a6, 60, 60), []byte{0, 9, 0, 9})),
		"an address's too long":         answers6(7, iaNA(iaAddr(a6, 60, 60, []byte{0, 9, 0, 9}))),
		"to the server's port":          reply6(vm, 17, udpOf(547, 547, message6(7, xid6, givesA6()))),
		"ICMPv6":                        changed(whole, 14+6, 58),
		"a fragment":                    between(whole, 44),
		"a datagram too long":           changed(whole, udp+4, 9),
		"a datagram that ends":          reply6(vm, 17, udpOf(547, 546, nil)),
		"a packet that ends":            changed(whole, 14+4, 0, 20),
		"cut off":                       whole[:len(whole)-1],
		"my own, come back":             changed(whole, 6, vm[:]...),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, []step{{name: "request", out: true, data: asks6(3)}, {name: name, data: data}, {name: "still asked", data: whole, want: leasedA6}})
		})
	}
}

// TestDHCPv6Unasked: what the VM sends that makes no question, and says nothing.
func TestDHCPv6Unasked(t *testing.T) {
	release := asks6(8, serverID, givesA6())
	for name, data := range map[string][]byte{
		"nothing":                 nil,
		"solicit":                 asks6(1, iaNA()),
		"information request":     asks6(11),
		"to another port":         reply6(vm, 17, udpOf(546, 546, message6(3, xid6))),
		"as a relay":              asks6(12, iaNA()),
		"a reply":                 asks6(7, givesA6()),
		"release of nothing":      asks6(8, serverID, iaNA()),
		"release of a group":      asks6(8, serverID, iaNA(iaAddr("ff02::1", 0, 0))),
		"release of prefixes":     asks6(8, opt6(25, u32(1), u32(0), u32(0))),
		"release, cut off":        release[:len(release)-1],
		"release, cut in the IA":  release[:len(release)-30],
		"a question to DHCPv4":    asks(func(d *dhcp4) { d.xid = xid6 }, kind4(3)),
		"rapid commit, in an IA":  asks6(1, iaNA(rapidCommit)),
		"rapid commit, too short": asks6(1, []byte{0, 14, 0, 1}),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, []step{{name: name, out: true, data: data}, {name: "reply", data: answers6(7, givesA6())}})
		})
	}
	play(t, []step{
		{name: "request", out: true, data: asks6(3)},
		{name: "another VLAN", vlan: 101, data: answers6(7, givesA6())},
		{name: "another port", port: "shop/web-2", data: answers6(7, givesA6())},
		{name: "a lease of DHCPv4", data: ack(func(d *dhcp4) { d.xid, d.mac = xid6, none })},
		{name: "too late", after: 2*time.Minute + 1, data: answers6(7, givesA6())},
	})
	cutRequest := asks6(3, givesA6())
	play(t, []step{
		{name: "request, cut off", out: true, data: cutRequest[:len(cutRequest)-20]},
		{name: "reply", data: answers6(7, givesA6()), want: leasedA6},
	})
}
