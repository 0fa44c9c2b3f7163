/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Suppression: who asks for an address whose NIC is known disturbs nobody else. A request goes to all because nobody
 * knows whom it is for; the programs do. It is answered by the VM that has the address, and by nobody in its place.
 */
#ifndef HOMEPORT_SUPPRESS_H
#define HOMEPORT_SUPPRESS_H

#include "fastpath.h"
#include "hear.h"
#include "holder.h"
#include "more_maps.h"

/* Who asks, and for what. */
struct request {
	union addr from;
	union addr about;
};

/*
 * request_in: whether a request is at offset at that another host has to answer. Not what says or finds out something of its sender: probes, and
 * duplicate detection, are from no address, announcements about their own.
 */
static __always_inline int request_in(struct __sk_buff *skb, __u32 ethertype, __u32 at, struct request *r)
{
	if (ethertype == ETHERTYPE_ARP) {
		struct arp_header arp;
		__u32 ip;

		if (!read_arp(skb, at, &arp) || arp.operation != bpf_htons(1) || !sender_of(&arp))
			return 0;
		__builtin_memcpy(&ip, arp.target_ip, sizeof(ip));
		map_ipv4(&r->from, sender_of(&arp));
		map_ipv4(&r->about, ip);
	} else {
		struct nd_header nd;

		at = nd_at(skb, at, &r->from);
		if (!at || bpf_skb_load_bytes(skb, at, &nd, sizeof(nd)) || nd.type != 135)
			return 0;
		r->about = nd.target;
	}
	return (r->from.halves[0] != r->about.halves[0] || r->from.halves[1] != r->about.halves[1]) && (r->from.halves[0] | r->from.halves[1]);
}

/* entry_of: what is known of an address. */
static __always_inline struct hp_address *entry_of(struct hp_address_key *key, const union addr *addr)
{
	__builtin_memcpy(key->addr, addr, sizeof(key->addr));
	return bpf_map_lookup_elem(&addresses, key);
}

#define UNSURE (HP_ADDRESS_SHARED | HP_ADDRESS_WAITS | HP_ADDRESS_NOBODYS | HP_ADDRESS_DISPUTED)

static __always_inline int vouched_now(void)
{
	__u32 zero = 0;
	__u32 *until = bpf_map_lookup_elem(&vouched, &zero);

	return until && handover_clock() < *until;
}

/* holder_here: the interface of the port that has a MAC, if what port sends to it may go past the bridge; else 0. */
static __always_inline __u32 holder_here(const struct hp_port *port, const __u16 *mac)
{
	struct hp_fast_port *fast = fast_of(port);
	struct hp_fast_key key;
	struct hp_fast_mac *to;
	struct hp_port *holder;

	if (!takes_part(port) || !fast)
		return 0;
	key = fast_key(fast->bridge, port->pvid, mac);
	to = bpf_map_lookup_elem(&fast_macs, &key);
	if (!to || to->lost || !to->ifindex || to->ifindex == port->ifindex)
		return 0;
	holder = port_of(to->ifindex);
	return holder && holder->state == HP_ACTIVE && takes_part(holder) ? to->ifindex : 0;
}

/*
 * suppress: what becomes of a frame that is for all and has passed under reason. HP_SUPPRESSED: it asks for what another port's NIC surely has, so
 * this port's VM need not get it. HP_TO_HOLDER, with the interface in skb->cb: the VM that has it has a port of this node, so it need not go further;
 * but only for a sender whose own address everybody knows already. A function of its own, for the stacks of the programs.
 */
__noinline int suppress(struct __sk_buff *skb, const struct hp_port *port, __u32 dir, __u32 reason)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_address_key key = {};
	struct hp_address *a;
	struct request r = {};
	__u32 ethertype, at;
	int own;

	/* Whether one is still there it is asked alone (RFC 4861 7.3). */
	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end || !(eth->dst[0] & bpf_htons(0x0100)))
		return reason;
	own = own_mac(port, eth);
	at = behind_tag(skb, port, &key.vlan, &ethertype);
	if (!at || !request_in(skb, ethertype, at, &r) || !vouched_now())
		return reason;
	key.segment = segment_of(port->slot);
	a = entry_of(&key, &r.from);
	/* Who hears of another that has its address has to know. */
	if (dir == HP_IN && a && is_own(port, (const __u16 *)a->mac))
		return reason;
	if (dir == HP_OUT && (!own || !a || a->flags & UNSURE || !is_own(port, (const __u16 *)a->mac)))
		return reason;
	a = entry_of(&key, &r.about);
	if (!a || (a->flags & (UNSURE | HP_ADDRESS_FIRM)) != HP_ADDRESS_FIRM || is_own(port, (const __u16 *)a->mac))
		return reason;
	if (dir == HP_IN)
		return port->flags & HP_PORT_PROMISCUOUS ? reason : HP_SUPPRESSED;
	at = holder_here(port, (const __u16 *)a->mac);
	if (!at)
		return reason;
	skb->cb[TO_IFINDEX] = at;
	return HP_TO_HOLDER;
}

#endif
