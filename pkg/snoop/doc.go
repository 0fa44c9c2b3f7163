// Package snoop reads what frames at a VM's port say about who has which IP address.
//
// A [Reader] is given frames as the port's program tells them, perhaps not whole, and answers with what they say. It asks nothing
// and has no clock; all that it keeps is what the VM has asked DHCP servers, for their answers are believed only if it has asked.
//
// # What the VM sends
//
//   - ARP (RFC 826), a request or a reply, claims its sender address. An ARP probe has none (RFC 5227). The sender hardware address
//     must be the frame's own source, or the packet is forged and says nothing.
//   - A neighbour or router solicitation claims the address that it comes from, a neighbour advertisement its target (RFC 4861).
//     Duplicate address detection (RFC 4862) comes from none, and asks for its target: a host that gives itself an address by a router's
//     advertisements need not say anything else of it, ever. As hosts do, one is believed with hop limit 255, code 0 and options that fit, also
//     behind extension headers, at most 8, but never in a fragment, not even in one that is whole (RFC 6980). The link-layer address
//     that it names for the address must be the frame's own source. Checksums are not looked at: a guest may leave them to its NIC.
//   - DHCPRELEASE withdraws the client's address, DHCPDECLINE the requested one (RFC 2131); Release and Decline those that they list
//     (RFC 8415).
//
// # What DHCP servers answer
//
// DHCPACK claims the address that it gives if the VM asked with its transaction number and hardware address, and that was the
// source of the frame. One that names no lease time makes no lease: it answers a DHCPINFORM, or is no DHCPACK by the standard.
// DHCPNAK withdraws what was requested, if it is the first answer. A Reply claims what its IA_NA and IA_TA give for a time, and
// withdraws what they give for none, unless it, the IA or the address has a status other than success. Prefixes (IA_PD) are not
// addresses of the VM. What goes between relays and servers says nothing of this VM, and neither do fragments.
//
// # What others send
//
// ARP and neighbour advertisements that come from another MAC than the port's are told as Foreign. Whether that is a duplicate
// is for the caller, who knows what the port has.
//
// # Frames that are not whole
//
// What is there must be enough; a prefix of a frame says what the frame says, or nothing. A DHCPv6 message counts
// only as a whole, since its last option may be the status that takes all back; of a DHCPv4 message the options that are there do.
// Nothing is ever said of an unspecified, multicast or broadcast address, or of IPv4 inside IPv6.
//
// # Bounds
//
// Of each port the latest 8 questions are kept, of DHCPv4 and DHCPv6 in all its VLANs together, for two minutes each: less than 1 KiB.
// They go with [Reader.Forget]. A frame is not kept, and says no more than it has addresses.
package snoop
