/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What frames say of addresses. A frame that says what the agent knows already only has that noted; others are told,
 * as they are. From the VM: whose it says its addresses are. To the VM: what a DHCP server gives it, and who claims what
 * its NIC has.
 */
#ifndef HOMEPORT_HEAR_H
#define HOMEPORT_HEAR_H

#include "conntrack.h"
#include "event.h"
#include "guard.h"
#include "holder.h"
#include "more_maps.h"
#include "parse.h"

/* says_dhcp: a client asks servers, or it is answered, in direction dir. */
static __always_inline int says_dhcp(const struct packet *p, __u32 dir)
{
	__u32 v4 = is_mapped(&p->query.ends.src);

	if (p->query.group != HP_SVC_UDP)
		return 0;
	if (dir == HP_OUT)
		return p->dport == (v4 ? bpf_htons(67) : bpf_htons(547));
	return p->dport == (v4 ? bpf_htons(68) : bpf_htons(546));
}

/*
 * for_client: whether the DHCP that comes in the IPv4 packet at offset at is about the port's NIC: all ports get what a server says to all.
 * Where a VM may send from other MACs, one inside it may be a client, too.
 */
static __always_inline int for_client(struct __sk_buff *skb, const struct hp_port *port, __u32 at)
{
	__u8 version_words;
	__u16 client[3];

	if (port->flags & HP_PORT_FORGED)
		return 1;
	if (bpf_skb_load_bytes(skb, at, &version_words, sizeof(version_words)))
		return 0;
	at += (version_words & 15) * 4 + UDP_MIN + 28; /* chaddr (RFC 2131, 2) */
	return !bpf_skb_load_bytes(skb, at, client, sizeof(client)) && is_own(port, client);
}

/* claimed_by_arp: the sender's address. 0: it says none. */
static __always_inline int claimed_by_arp(struct __sk_buff *skb, __u32 at, union addr *a)
{
	struct arp_header arp;

	if (!read_arp(skb, at, &arp) || !sender_of(&arp))
		return 0;
	map_ipv4(a, sender_of(&arp));
	return 1;
}

/* nd_at: where the message of neighbour discovery begins whose packet is at offset at, and its source. 0: it is cut short. */
static __always_inline __u32 nd_at(struct __sk_buff *skb, __u32 at, union addr *src)
{
	struct ipv6_header ip;
	int walk;

	if (bpf_skb_load_bytes(skb, at, &ip, sizeof(ip)))
		return 0;
	*src = ip.ends.src;
	walk = ext_headers(skb, ip.proto, at + sizeof(ip), skb->len, NULL);
	return walk < 0 ? 0 : walk >> EXT_OFFSET_SHIFT & MAX_OFFSET;
}

/*
 * claimed_by_nd: the source of a solicitation, the target of an advertisement, or, of the VM, what it asks for by duplicate address
 * detection: whether it gets that is for the agent. The message's type, or 0: it says none.
 */
static __always_inline int claimed_by_nd(struct __sk_buff *skb, __u32 at, __u32 dir, union addr *a)
{
	struct nd_header nd;

	at = nd_at(skb, at, a);
	if (!at || bpf_skb_load_bytes(skb, at, &nd, 8))
		return 0;
	if ((nd.type == 133 || nd.type == 135) && (a->halves[0] | a->halves[1]))
		return nd.type;
	if (nd.type != 136 && (nd.type != 135 || dir != HP_OUT))
		return 0;
	return bpf_skb_load_bytes(skb, at + 8, a, sizeof(*a)) ? 0 : nd.type;
}

/* may_answer: whether it is an advertisement to all, in the moment in which the port has told of what its VM says, or the next. */
static __always_inline int may_answer(const struct hp_port *port, const struct eth_header *eth, int said)
{
	__u32 slot = port->slot;
	struct hp_quota *quota;

	if (said != 136 || !(eth->dst[0] & bpf_htons(0x0100)))
		return 0;
	quota = bpf_map_lookup_elem(&heard_quotas, &slot);
	return quota && quota->used[HP_OUT] && handover_clock() - quota->window <= 1;
}

/* told_of puts the frame, of which there are most bytes at most, into heard. */
static __always_inline int told_of(struct __sk_buff *skb, const struct hp_port *port, __u16 vlan, __u32 dir, const __u32 most)
{
	__u32 node = HP_PORTS_MAX;
	__u64 size = skb->len;
	struct hp_heard *h;

	h = bpf_ringbuf_reserve(&heard, sizeof(*h) + most, 0);
	if (!h) {
		struct hp_quota *quota = bpf_map_lookup_elem(&heard_quotas, &node);

		if (quota)
			__sync_fetch_and_add(&quota->lost, 1);
		return 0;
	}
	if (size > most)
		size = most;
	/* Linux 6.1's verifier has to see each bound at the value that is used. */
	asm volatile("" : "+r"(size));
	if (size < sizeof(struct eth_header))
		goto discard;
	asm volatile("" : "+r"(size));
	if (size > most || bpf_skb_load_bytes(skb, 0, h + 1, size))
		goto discard;
	h->at = bpf_ktime_get_coarse_ns();
	h->ifindex = port->ifindex;
	h->length = skb->len;
	h->vlan = vlan;
	h->size = size;
	h->head = sizeof(*h);
	h->dir = dir;
	bpf_ringbuf_submit(h, 0);
	return 0;
discard:
	bpf_ringbuf_discard(h, 0);
	return 0;
}

/* behind_tag: where begins what a frame carries, and its VLAN and EtherType, as guard_vlan has found them. 0: it is cut short. */
static __always_inline __u32 behind_tag(struct __sk_buff *skb, const struct hp_port *port, __u16 *vlan, __u32 *ethertype)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	const struct vlan_header *tag;
	struct vlan_header copy;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	*ethertype = bpf_ntohs(eth->type);
	*vlan = port->pvid;
	if (skb->vlan_present) {
		*vlan = skb->vlan_tci & 0xfff;
	} else if (is_tag(*ethertype)) {
		tag = HEADER(skb, sizeof(*eth), &copy);
		if (!tag)
			return 0;
		*vlan = bpf_ntohs(tag->tci) & 0xfff;
		*ethertype = bpf_ntohs(tag->type);
		return sizeof(*eth) + sizeof(*tag);
	}
	return sizeof(*eth);
}

/*
 * hear_claim: a frame has passed that may say who has an address: ARP, neighbour discovery, or, with dhcp set, DHCP.
 * A function of its own, for the stacks of the programs.
 */
__noinline int hear_claim(struct __sk_buff *skb, const struct hp_port *port, __u32 dir, __u32 dhcp)
{
	__u32 node = HP_PORTS_MAX, group = dir, ethertype, at;
	const struct eth_header *eth;
	struct hp_address_key key = {};
	struct hp_address *a;
	union addr addr = {};

	if (!port || dir >= HP_DIRS)
		return 0;
	at = behind_tag(skb, port, &key.vlan, &ethertype);
	if (!at)
		return 0;
	if (!dhcp) {
		int said = ethertype == ETHERTYPE_ARP ? claimed_by_arp(skb, at, &addr) : claimed_by_nd(skb, at, dir, &addr), mine;

		if (!said)
			return 0;
		key.segment = segment_of(port->slot);
		__builtin_memcpy(key.addr, &addr, sizeof(key.addr));
		a = bpf_map_lookup_elem(&addresses, &key);
		mine = a && !(a->flags & HP_ADDRESS_SHARED) && is_own(port, (const __u16 *)a->mac);
		if (dir == HP_OUT && mine) {
			__u32 now = handover_clock() + 1;

			if (a->seen != now)
				a->seen = now;
			return 0;
		}
		/*
		 * What comes in is news if another says that he has what this port's NIC has, or has its MAC; or that he has what nobody is known to have,
		 * and says it to all when the VM has just spoken: so duplicate address detection is answered (RFC 4861 7.2.4), before the agent has read
		 * the question.
		 */
		eth = (void *)(long)skb->data;
		if ((void *)(eth + 1) > (void *)(long)skb->data_end)
			return 0;
		if (dir == HP_IN && !own_mac(port, eth) && (a ? !mine || a->flags & HP_ADDRESS_WAITS : !may_answer(port, eth, said)))
			return 0;
	}
	if (dhcp && dir == HP_IN) {
		if (ethertype == ETHERTYPE_IPV4 && !for_client(skb, port, at))
			return 0;
		group = HP_HEARD_DHCP;
	}
	if (!may_tell(&heard_quotas, port->slot, group, HP_HEARD_A_WINDOW) ||
	    !may_tell(&heard_quotas, node, dhcp ? HP_HEARD_DHCP : HP_OUT, HP_HEARD_OF_NODE))
		return 0;
	return dhcp ? told_of(skb, port, key.vlan, dir, HP_HEARD_LONG) : told_of(skb, port, key.vlan, dir, HP_HEARD_SHORT);
}

#endif
