/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The short way for the packets that are nearly all: TCP without flags that change
 * a connection, and UDP, plain headers, of a flow that this CPU has seen in this
 * very tick under this very policy. Such a packet would change nothing: its
 * flow's time is noted already. It gets the answer of the long way (parse.h,
 * conntrack.h), and everything else goes there.
 */
#ifndef HOMEPORT_KNOWN_H
#define HOMEPORT_KNOWN_H

#include "conntrack.h"
#include "guard.h"

/* What is looked at of both transports. */
struct plain_l4 {
	__be16 sport;
	__be16 dport;
	__be32 sequence; /* UDP: length and checksum */
	__be32 acknowledged;
	__u8 offset;
	__u8 flags;
};

static __always_inline struct known *known_at(const struct hp_new_key *key)
{
	const __u64 *w = (const __u64 *)key;
	__u64 h = (w[0] ^ w[3]) * 0x9e3779b97f4a7c15ULL ^ (w[1] ^ w[5]) * 0xc2b2ae3d27d4eb4fULL ^
		  w[2] * 0xff51afd7ed558ccdULL ^ w[4] * 0xd6e8feb86659fd93ULL;
	__u32 place = (h ^ h >> 32) % KNOWN_FLOWS;

	return bpf_map_lookup_elem(&known_flows, &place);
}

static __always_inline int same_key(const struct hp_new_key *a, const struct hp_new_key *b)
{
	const __u64 *x = (const __u64 *)a, *y = (const __u64 *)b;

	_Static_assert(sizeof(*a) == 6 * sizeof(*x), "words of a key");
	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]) | (x[5] ^ y[5]));
}

/* note_known: the port's table has just seen a packet of the flow. */
static __always_inline void note_known(const struct track *t)
{
	struct known *k = known_at(&t->key);

	/* A guard has a say in each that goes to DHCP's clients, and each is told of that says who has an address. */
	if (!k || is_dhcp(t->key.flow.rport) || is_dhcp(t->key.flow.lport))
		return;
	/* Whoever interrupts (PREEMPT_RT) finds no half of it. */
	*(volatile __u32 *)&k->tick = t->now - 1;
	barrier();
	k->key = t->key;
	k->generation = t->generation;
	k->policy = t->policy;
	barrier();
	*(volatile __u32 *)&k->tick = t->now;
}

/* plain_ports: whether l4, of length bytes, is a transport that may go the short way. */
static __always_inline int plain_ports(const struct plain_l4 *l4, void *end, __u32 proto, __u32 length,
				       union key_tail *tail, __u32 dir)
{
	if ((void *)(&l4->sequence) + UDP_MIN / 2 > end)
		return 0;
	if (proto == PROTO_TCP) {
		__u32 size;

		if ((void *)(l4 + 1) > end || l4->flags & (TCP_SYN | TCP_FIN | TCP_RST))
			return 0;
		size = (l4->offset >> 4) * 4;
		if (size < TCP_MIN || size > length)
			return 0;
	} else if (proto != PROTO_UDP || length < UDP_MIN) {
		return 0;
	}
	tail->lport = dir == HP_OUT ? l4->sport : l4->dport;
	tail->rport = dir == HP_OUT ? l4->dport : l4->sport;
	tail->proto = proto;
	return 1;
}

/* plain_key: the key of a packet with plain headers, all of them linear. 0: another. */
static __always_inline int plain_key(struct __sk_buff *skb, const struct frame *f, struct hp_flow_key *k, __u32 dir)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	union key_tail tail = { .vlan = f->vlan };
	const struct ipv4_header *v4;
	const struct ipv6_header *v6;
	__u64 at = f->at;
	__u32 length;

	asm volatile("%0 &= 0x7fff" : "+r"(at));
	v4 = data + at;
	v6 = data + at;
	if (f->ethertype == ETHERTYPE_IPV4) {
		if ((void *)(v4 + 1) > end || v4->version_words != 0x45 || v4->fragment & bpf_htons(0x3fff))
			return 0;
		length = bpf_ntohs(v4->length);
		if (at + length > skb->len || length < sizeof(*v4) ||
		    !plain_ports((void *)(v4 + 1), end, v4->proto, length - sizeof(*v4), &tail, dir))
			return 0;
		map_ipv4((union addr *)k->local, dir == HP_OUT ? v4->src : v4->dst);
		map_ipv4((union addr *)k->remote, dir == HP_OUT ? v4->dst : v4->src);
	} else if (f->ethertype == ETHERTYPE_IPV6) {
		if ((void *)(v6 + 1) > end || bpf_ntohl(v6->version_flow) >> 28 != 6)
			return 0;
		length = bpf_ntohs(v6->length);
		if (at + sizeof(*v6) + length > skb->len ||
		    !plain_ports((void *)(v6 + 1), end, v6->proto, length, &tail, dir))
			return 0;
		/* It would have the key of an IPv4 flow; the long way drops it. */
		if (is_mapped(&v6->ends.src) || is_mapped(&v6->ends.dst))
			return 0;
		set_ends(k, &v6->ends, dir);
	} else {
		return 0;
	}
	*(__u64 *)&k->lport = tail.word;
	return 1;
}

/* known_flow: HP_ESTABLISHED if the packet goes the short way, else GO_ON. */
static __always_inline __u32 known_flow(struct __sk_buff *skb, const struct frame *f, struct track *t)
{
	struct known *k;

	if (!plain_key(skb, f, &t->key.flow, t->dir))
		return GO_ON;
	k = known_at(&t->key);
	if (!k || k->tick != t->now || k->generation != t->generation || k->policy != t->policy ||
	    !same_key(&k->key, &t->key))
		return GO_ON;
	t->steady = AGAIN;
	return HP_ESTABLISHED;
}

#endif
