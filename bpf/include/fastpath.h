/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Past the bridge: an established packet whose receiver has a port in the same bridge and VLAN
 * is judged for that port, too, at the hook where it came in, and handed to the port's VM; one whose
 * receiver the port has heard by the uplink is sent there. What
 * the bridge knows of MACs it knows still: it sees all that opens or ends a connection, all that comes by
 * the uplink, and one packet of a port now and then.
 */
#ifndef HOMEPORT_FASTPATH_H
#define HOMEPORT_FASTPATH_H

#include "conntrack.h"
#include "guard.h"

#define PACKET_HOST 0 /* include/uapi/linux/if_packet.h */

/* How often a port sends a packet by the bridge, in 2^30 ns: several times before it is forgotten there. */
#define BY_BRIDGE_EVERY 28

/* For how long somebody is behind the uplink who is not heard, in the same units: much shorter than to a bridge, which hears more. */
#define FAR_FOR 10

/* Where from_vm leaves for into_vm what it knows, in skb->cb; for the uplink the first and the last. */
enum handed_on {
	TO_IFINDEX,
	OF_BRIDGE,
	OF_MTU,
	OF_VLAN, /* for the uplink: the tag */
};

enum way {
	BY_BRIDGE,
	TO_PORT,
	TO_UPLINK,
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

static __always_inline struct hp_fast_key fast_key(__u32 bridge, __u16 vlan, const __u16 *mac)
{
	struct hp_fast_key key = { .bridge = bridge, .vlan = vlan };

	__builtin_memcpy(key.mac, mac, sizeof(key.mac));
	return key;
}

union fast_uplink {
	struct hp_fast_uplink of;
	__u64 word;
};

/* uplink_of: the port's way to the uplink; its ifindex is 0 if there is none. */
static __always_inline struct hp_fast_uplink uplink_of(const struct hp_port *port, const struct hp_fast_port *fast)
{
	union fast_uplink u = { .word = *(const volatile __u64 *)&fast->uplink };

	if (u.of.vlan != port->pvid)
		u.of.ifindex = 0;
	return u.of;
}

/* fast_way: which way the packet goes. Where past the bridge, skb->cb says. */
__noinline int fast_way(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_port *fast;
	struct hp_fast_key key;
	struct hp_fast_mac *to;
	struct hp_fast_uplink uplink;
	struct hp_fast_far *far;
	__u32 now;

	if (!port || skb->vlan_present || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return BY_BRIDGE;
	fast = fast_of(port);
	if (!fast)
		return BY_BRIDGE;
	now = handover_clock();
	if (now - fast->by_bridge >= BY_BRIDGE_EVERY) {
		fast->by_bridge = now;
		return BY_BRIDGE;
	}
	key = fast_key(fast->bridge, port->pvid, eth->dst);
	to = bpf_map_lookup_elem(&fast_macs, &key);
	if (!to) {
		uplink = uplink_of(port, fast);
		if (!uplink.ifindex)
			return BY_BRIDGE;
		far = bpf_map_lookup_elem(&fast_far, &key);
		if (!far || far->uplink != uplink.ifindex || now - far->heard > FAR_FOR || (__s32)(far->heard - fast->since) <= 0)
			return BY_BRIDGE;
		skb->cb[TO_IFINDEX] = uplink.ifindex;
		skb->cb[OF_VLAN] = uplink.tag;
		return TO_UPLINK;
	}
	if (to->lost || to->ifindex == skb->ifindex)
		return BY_BRIDGE;
	skb->cb[TO_IFINDEX] = to->ifindex;
	skb->cb[OF_BRIDGE] = fast->bridge;
	skb->cb[OF_MTU] = fast->mtu;
	skb->cb[OF_VLAN] = port->pvid;
	return TO_PORT;
}

/* to_uplink sends the packet there as the bridge would. */
static __always_inline int to_uplink(struct __sk_buff *skb)
{
	__u32 tag = skb->cb[OF_VLAN], uplink = skb->cb[TO_IFINDEX];

	if (tag && bpf_skb_vlan_push(skb, bpf_htons(ETHERTYPE_VLAN), tag))
		return TC_ACT_SHOT; /* no memory */
	return bpf_redirect(uplink, 0);
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
 * heard has packets for a MAC go by the bridge from now on, if this one, to
 * a port in its VLAN, comes from it but not from its port: its VM has moved, and user space
 * will know later than its neighbours. If it has not, the next packet from its port tells the bridge so.
 * Who is not of this node, and comes by the uplink, is behind it; once a second that is noted, and else not looked at.
 */
__noinline int heard(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_far *far, fresh;
	struct hp_fast_uplink uplink;
	struct hp_fast_port *fast;
	struct hp_fast_mac *from;
	struct hp_fast_key key;
	__u32 slot;
	int behind;

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	fast = fast_of(port);
	if (!fast)
		return 0;
	key = fast_key(fast->bridge, port->pvid, eth->src);
	uplink = uplink_of(port, fast);
	behind = uplink.ifindex && skb->ingress_ifindex == uplink.ifindex;
	fresh.uplink = uplink.ifindex;
	fresh.heard = handover_clock();
	far = bpf_map_lookup_elem(&fast_far, &key);
	if (far && behind && far->uplink == fresh.uplink && far->heard == fresh.heard)
		return 0;
	from = bpf_map_lookup_elem(&fast_macs, &key);
	if (from && from->ifindex != skb->ingress_ifindex) {
		from->lost = 1;
		slot = from->slot;
		fast = bpf_map_lookup_elem(&fast_ports, &slot);
		if (fast)
			fast->by_bridge = fresh.heard - BY_BRIDGE_EVERY;
	}
	if (from || !behind) {
		if (far)
			bpf_map_delete_elem(&fast_far, &key);
	} else if (far) {
		*far = fresh;
	} else {
		bpf_map_update_elem(&fast_far, &key, &fresh, BPF_ANY);
	}
	return 0;
}

#endif
