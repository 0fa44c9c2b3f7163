/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Past the bridge: an established packet whose receiver has a port in the same bridge and VLAN
 * is judged for that port, too, at the hook where it came in, and handed to the port's VM; one whose
 * receiver was heard by the uplink is sent there; and what comes by the uplink for the VM of a port is judged
 * and handed on there. What the bridge knows of MACs it knows still: it sees all that opens or ends a connection
 * from a port, all that is for nobody or for many, and is reminded of each port, and of each MAC behind the uplink, now and then.
 */
#ifndef HOMEPORT_FASTPATH_H
#define HOMEPORT_FASTPATH_H

#include "conntrack.h"
#include "guard.h"
#include "refuse.h"

#define PACKET_HOST 0 /* include/uapi/linux/if_packet.h */

/* How often the bridge is reminded of a port, in 2^30 ns: several times before it forgets. */
#define REMIND_EVERY 28

/* For how long somebody is behind the uplink who is not heard, in the same units: much shorter than to a bridge, which hears more. */
#define FAR_FOR 10

/* And of somebody behind the uplink, as a power of two of them. */
#define REMIND_OF_FAR_SHIFT 4

/* Where from_vm and inbound leave for into_vm what they know, in skb->cb; for the uplink the first and OF_VLAN. */
enum handed_on {
	TO_IFINDEX,
	OF_BRIDGE,
	OF_MTU,
	OF_VLAN,  /* for the uplink: the tag */
	TAKEN_OFF, /* tag control information that has to be put back for the bridge; 0: none */
};

enum way {
	BY_BRIDGE,
	TO_PORT,
	TO_UPLINK,
	NOWHERE, /* there was no memory */
};

static __always_inline int takes_part(const struct hp_port *port)
{
	return port->flags & HP_PORT_FAST && !(port->flags & HP_PORT_FORGED) && port->mode == HP_ACCESS;
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

/* reminder_mark marks what show sends: a number next to that of our answers. 0: none was drawn. */
static __always_inline __u32 reminder_mark(void)
{
	__u32 mark = mark_of();

	return mark ? mark ^ 1 : 0;
}

/* is_reminder: the frame is one, on its way to the bridge. */
static __always_inline int is_reminder(const struct __sk_buff *skb)
{
	return skb->mark && skb->mark == reminder_mark();
}

/*
 * show has the bridge see who has sent a packet, by a copy that is for its sender, and so goes nowhere from
 * there, as long as the bridge learns. The packet itself would be overtaken by those behind it that go past the bridge. Not 0: it is lost.
 */
static __always_inline int show(struct __sk_buff *skb)
{
	__u32 was = skb->mark;
	__u16 macs[6];

	if (bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) || bpf_skb_store_bytes(skb, 0, &macs[3], 6, 0))
		return 0; /* unchanged, and somebody else's turn */
	skb->mark = reminder_mark();
	bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
	skb->mark = was;
	return bpf_skb_store_bytes(skb, 0, macs, 6, 0);
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
	__u32 now, remind, way;

	if (!port || skb->vlan_present || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return BY_BRIDGE;
	fast = fast_of(port);
	if (!fast)
		return BY_BRIDGE;
	now = handover_clock();
	remind = now - fast->reminded >= REMIND_EVERY;
	if (remind)
		fast->reminded = now;
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
		skb->cb[OF_VLAN] = uplink.tag % 4096;
		way = TO_UPLINK;
	} else {
		if (to->lost || to->ifindex == skb->ifindex)
			return BY_BRIDGE;
		skb->cb[TO_IFINDEX] = to->ifindex;
		skb->cb[OF_BRIDGE] = fast->bridge;
		skb->cb[OF_MTU] = fast->mtu;
		skb->cb[OF_VLAN] = port->pvid;
		skb->cb[TAKEN_OFF] = 0;
		way = TO_PORT;
	}
	return remind && show(skb) ? NOWHERE : way;
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

/* not_entered: nobody has jumped, or not to a port that takes the packet; the bridge gets it as it came. */
static __always_inline int not_entered(struct __sk_buff *skb)
{
	__u32 tag = skb->cb[TAKEN_OFF];

	if (tag && bpf_skb_vlan_push(skb, bpf_htons(ETHERTYPE_VLAN), tag))
		return TC_ACT_SHOT; /* no memory */
	return TC_ACT_UNSPEC;
}

enum news {
	NO_NEWS,
	REMIND, /* the bridge has not seen the sender for a while */
	NEWS,   /* the bridge may not know where the sender is */
};

/*
 * hear has packets for a MAC go by the bridge from now on, if this one, of
 * a VLAN that it has a port in, comes from it but not from its port: its VM has moved, and user space
 * will know later than its neighbours. If it has not, the bridge is reminded by the next packet from its port.
 * Who is not of this node, and comes by the uplink, is behind it; once a second that is noted, and else not looked at.
 */
static __always_inline enum news hear(const struct hp_fast_key *key, __u32 ingress, __u32 uplink)
{
	struct hp_fast_far *far, fresh = { .uplink = uplink, .heard = handover_clock() };
	int behind = uplink && ingress == uplink;
	struct hp_fast_port *fast;
	struct hp_fast_mac *from;
	enum news news;
	__u32 slot;

	far = bpf_map_lookup_elem(&fast_far, key);
	if (far && behind && far->uplink == uplink && far->heard == fresh.heard)
		return NO_NEWS;
	from = bpf_map_lookup_elem(&fast_macs, key);
	if (from && from->ifindex != ingress) {
		from->lost = 1;
		slot = from->slot;
		fast = bpf_map_lookup_elem(&fast_ports, &slot);
		if (fast)
			fast->reminded = fresh.heard - REMIND_EVERY;
	}
	if (from || !behind) {
		if (far)
			bpf_map_delete_elem(&fast_far, key);
		return NEWS;
	}
	if (!far) {
		bpf_map_update_elem(&fast_far, key, &fresh, BPF_ANY);
		return NEWS;
	}
	news = far->uplink != uplink ? NEWS : (far->heard ^ fresh.heard) >> REMIND_OF_FAR_SHIFT ? REMIND : NO_NEWS;
	*far = fresh;
	return news;
}

/* hear_at_port is hear for what comes to a port. */
__noinline int hear_at_port(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_fast_uplink uplink;
	struct hp_fast_port *fast;
	struct hp_fast_key key;

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	fast = fast_of(port);
	if (!fast)
		return 0;
	key = fast_key(fast->bridge, port->pvid, eth->src);
	uplink = uplink_of(port, fast);
	return hear(&key, skb->ingress_ifindex, uplink.ifindex);
}

/* is_station: a MAC that a bridge learns. */
static __always_inline int is_station(const __u16 *mac)
{
	return !(mac[0] & bpf_htons(0x0100)) && (mac[0] | mac[1] | mac[2]);
}

/*
 * from_uplink: which way goes what comes by an uplink. That of a flow goes past the bridge from its
 * first packet on, so none can overtake another; but for the first of a sender that the bridge does not know there.
 */
static __always_inline int from_uplink(struct __sk_buff *skb)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	__u32 ifindex = skb->ifindex, vlan = 0, slot, tci = 0, plain;
	union fast_uplink own;
	struct hp_fast_port *fast;
	struct hp_fast_key key;
	struct hp_fast_mac *to;
	struct hp_uplink *up;
	enum news news;

	up = bpf_map_lookup_elem(&fast_uplinks, &ifindex);
	if (!up || (void *)(eth + 1) > (void *)(long)skb->data_end || !is_station(eth->src))
		return BY_BRIDGE;
	plain = !is_tag(bpf_ntohs(eth->type));
	if (skb->vlan_present) {
		tci = skb->vlan_tci;
		if (skb->vlan_proto == bpf_htons(ETHERTYPE_VLAN))
			vlan = tci % 4096;
		plain = plain && vlan; /* with no more than a priority, or a service tag, it is the bridge's */
	}
	if (!vlan)
		vlan = up->native;
	if (!(up->vlans[vlan / 64 % 64] >> vlan % 64 & 1))
		return BY_BRIDGE;
	key = fast_key(up->bridge, vlan, eth->src);
	news = hear(&key, ifindex, ifindex);
	if (news == NEWS || !plain)
		return BY_BRIDGE;
	key = fast_key(up->bridge, vlan, eth->dst);
	to = bpf_map_lookup_elem(&fast_macs, &key);
	if (!to || to->lost)
		return BY_BRIDGE;
	slot = to->slot;
	fast = bpf_map_lookup_elem(&fast_ports, &slot);
	if (!fast)
		return BY_BRIDGE;
	own.word = *(const volatile __u64 *)&fast->uplink;
	/* In a VLAN that has no tag there, one that has is of somebody with another mind. */
	if (own.of.ifindex != ifindex || own.of.vlan != vlan || own.of.tag != (HP_UPLINK_INBOUND | tci % 4096))
		return BY_BRIDGE;
	if (skb->len > fast->mtu + sizeof(*eth) && !skb->gso_size)
		return BY_BRIDGE;
	if (news == REMIND && show(skb))
		return NOWHERE;
	skb->cb[TO_IFINDEX] = to->ifindex;
	skb->cb[OF_BRIDGE] = up->bridge;
	skb->cb[OF_MTU] = fast->mtu;
	skb->cb[OF_VLAN] = vlan;
	skb->cb[TAKEN_OFF] = tci;
	return TO_PORT;
}

#endif
