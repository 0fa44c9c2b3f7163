/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Past the bridge: an established packet whose receiver has a port in the same bridge and VLAN
 * is judged for that port, too, at the hook where it came in, and handed to the port's VM. What
 * the bridge knows of MACs it knows still: it sees all that opens or ends a connection, and one
 * packet of a port now and then.
 */
#ifndef HOMEPORT_FASTPATH_H
#define HOMEPORT_FASTPATH_H

#include "conntrack.h"
#include "guard.h"

#define PACKET_HOST 0 /* include/uapi/linux/if_packet.h */

/* How often a port sends a packet by the bridge, in 2^30 ns: several times before it is forgotten there. */
#define BY_BRIDGE_EVERY 28

/* Where from_vm leaves for into_vm what it knows, in skb->cb. */
enum handed_on {
	TO_IFINDEX,
	OF_BRIDGE,
	OF_MTU,
	OF_VLAN,
};

static __always_inline int takes_part(const struct hp_port *port)
{
	return port->flags & HP_PORT_FAST && port->mode == HP_ACCESS;
}

static __always_inline struct hp_fast_port *fast_of(const struct hp_port *port)
{
	__u32 slot = port->slot;

	return bpf_map_lookup_elem(&fast_ports, &slot);
}

static __always_inline struct hp_fast_mac *fast_mac(__u32 bridge, __u16 vlan, const __u16 *mac)
{
	struct hp_fast_key key = { .bridge = bridge, .vlan = vlan };

	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	return bpf_map_lookup_elem(&fast_macs, &key);
}

/*
 * may_go_fast: whether there is somebody to whom the packet may go past the bridge. He is in skb->cb
 * then.
 */
__noinline int may_go_fast(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_port *fast;
	struct hp_fast_mac *to;
	__u32 now;

	if (!port || skb->vlan_present || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	fast = fast_of(port);
	if (!fast)
		return 0;
	now = handover_clock();
	if (now - fast->by_bridge >= BY_BRIDGE_EVERY) {
		fast->by_bridge = now;
		return 0;
	}
	to = fast_mac(fast->bridge, port->pvid, eth->dst);
	if (!to || to->lost || to->ifindex == skb->ifindex)
		return 0;
	skb->cb[TO_IFINDEX] = to->ifindex;
	skb->cb[OF_BRIDGE] = fast->bridge;
	skb->cb[OF_MTU] = fast->mtu;
	skb->cb[OF_VLAN] = port->pvid;
	return 1;
}

/*
 * may_enter: the port is what from_vm takes it for, which only knows what was written down. A
 * port that is not, the bridge may know better.
 */
__noinline int may_enter(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_port *fast;

	if (!port)
		return 0;
	fast = fast_of(port);
	return fast && takes_part(port) && port->state == HP_ACTIVE && fast->bridge == skb->cb[OF_BRIDGE] && fast->mtu == skb->cb[OF_MTU] &&
	       port->pvid == skb->cb[OF_VLAN] && (void *)(eth + 1) <= (void *)(long)skb->data_end && is_own(port, eth->dst);
}

/*
 * heard_elsewhere has packets for a MAC go by the bridge from now on, if this one, to
 * a port in its VLAN, comes from it but not from its port: its VM has moved, and user space
 * will know later than its neighbours. If it has not, the next packet from its port tells the bridge so.
 */
__noinline int heard_elsewhere(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_port *fast;
	struct hp_fast_mac *from;
	__u32 slot;

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	fast = fast_of(port);
	if (!fast)
		return 0;
	from = fast_mac(fast->bridge, port->pvid, eth->src);
	if (!from || from->ifindex == skb->ingress_ifindex)
		return 0;
	from->lost = 1;
	slot = from->slot;
	fast = bpf_map_lookup_elem(&fast_ports, &slot);
	if (fast)
		fast->by_bridge = handover_clock() - BY_BRIDGE_EVERY;
	return 0;
}

#endif
