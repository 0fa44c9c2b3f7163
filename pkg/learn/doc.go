// Package learn knows which NIC holds which IP address, how that became known, and who else claims it.
//
// A VM that was moved here brings an address that no object of Kubernetes knows. What is known of it comes bit by
// bit: someone declares it, a DHCP server acknowledges it, frames are heard that name it, the guest agent lists it.
// A [Book] takes such events, each with its time, and says what they change. It asks nothing and has no clock:
// the same settings and events give the same book ([Replay]), and a book that is written down ([Book.Dump]) and read
// again ([Load]) goes on as if nothing had been.
//
// # Claims
//
// An address means one host within a [Segment]: a VLAN of a trunk. That a NIC has an address there is a claim.
// Each source adds its own evidence to it, and the claim's provenance is the best that there is: Manual, Declared,
// DHCP, GuestAgent, and last ND and ARP. When the best goes, the claim falls back to the rest. With a lease ends
// also what was seen while it ran, for that was seen of the lease; what is seen later is a new claim. A claim
// keeps its age for as long as there is any evidence for it.
//
// # Who holds an address
//
// One of the NICs that claim an address holds it: that is a binding. The others are aside.
//
//   - A declaration holds before anything that was observed, however late it comes. What a person set by hand (Manual)
//     holds before a declaration that an object makes.
//   - Of two declarations alike, and of two that were observed, the older holds. DHCP is observed, too.
//   - When the holder's claim is gone, the next one aside is promoted. A claim is gone when it was withdrawn, when its lease
//     is over, when it was not heard for the network's expiry, or with its NIC.
//   - A shared address is held by who announced it last, on the wire. Declarations come first here, too. Those who had it
//     before are kept aside for the network's expiry, or an hour, and nobody is in conflict. It is shared where the network of one
//     that can hold it says so; those of networks that do not are aside then. Only a declaration of theirs has it move no more.
//
// The mode of the NIC's network says what is observed may do:
//
//   - Observed: it may hold. The first who is seen with an address has it.
//   - Approved: it waits until a person approves it. An approved claim holds as an observed one does, and counts from its
//     approval; an approval outlives the claim, so that who comes back need not be approved again. What is held when a
//     network comes to this mode from Observed is approved by that.
//   - Declared: it is refused. Only where it claims what another NIC has by declaration, it is kept aside, so that the
//     conflict is seen. What is held when a network comes to this mode is lost.
//
// IPv6 link-local addresses are observed in any mode: nobody declares them.
//
// A denied address is refused to the NIC in any mode, until it is approved, or declared for it.
//
// # What is no binding
//
// Unspecified, multicast, loopback and broadcast addresses, IPv4 inside IPv6, the first and (of IPv4) last address
// of a subnet, the network's gateways, and, where the network has subnets, whatever is in none. IPv6 link-local addresses
// may be in none. This is so for declarations, too; one that is unfit is kept, and takes effect when a change of the
// network makes it fit ([Book.Unfit]). What is observed must be heard again.
//
// # Conflicts
//
// An address that is held, and claimed by another NIC, aside or waiting, is in conflict; so is one that is
// heard on the uplink from a MAC of no NIC. A claim from outside never holds, and ends 10 minutes after it was last heard. A
// conflict has both sides with MAC, place and time, and lasts as long as both.
//
// # Bounds
//
// A NIC may have 16 observed addresses of IPv4 and 16 of IPv6 in a segment, or as many as its network says, at most 128,
// whether it holds them, is aside or waits; beside these, four IPv6 link-local addresses. More are refused. Nothing
// that is held is lost by that, and one that is refused is taken when it is heard again and there is room. Leases and declarations
// do not count here; of each a NIC may have 128. All segments together, 1,024 are observed. Of
// decisions about addresses that a NIC does not claim, the latest 64 are kept, also of those that were taken on other nodes. From outside, the 1,024 latest claims in a
// segment are kept, and the four latest for an address.
//
// # Time
//
// What is not heard for the network's expiry counts no more. While the NIC is absent, as the VM is stopped, that does not
// run, and it begins anew when the VM is back. A lease runs on, for its server gives the address to somebody else then.
// Events may come late: what was earlier counts as earlier, so two nodes that hear of each other late come to the same. Who
// learns of a claim that somebody else knows already feeds it twice, as seen now and as seen first. A book goes to the latest time that
// it is told, so an event must not have one that is to come; when the clock was ahead and is set back, [Book.Rewind] takes the book along.
//
// # Changes
//
// Whoever follows the changes has the holders, those aside, those who wait, and the conflicts, as the read-outs say
// them. A sighting of what is known changes nothing and costs next to nothing: when and where a claim was last seen is in the
// read-outs alone.
package learn
