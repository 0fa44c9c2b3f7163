/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Ethernet rules: they judge frame by frame, before connections and the rules about packets.
 * MACs are classified as the addresses that stand for them (abi.h).
 */
#ifndef HOMEPORT_ETHER_H
#define HOMEPORT_ETHER_H

#include "classify.h"
#include "conntrack.h"

static __always_inline void mac_addr(union addr *a, const __u16 *mac)
{
	static const __u8 block[] = HP_MAC_BLOCK;

	a->halves[0] = a->halves[1] = 0;
	__builtin_memcpy(a->bytes, block, sizeof(block));
	__builtin_memcpy(a->bytes + HP_MAC_AT, mac, 6);
}

/*
 * by_frame: HP_RULE_DROP, or GO_ON, where the others decide. A rule that allows has the last word
 * on what is not IP, once that is known to be whole: it is left in t->rule. HP_NO_PROGRAM: the policy
 * leads nowhere. Without a policy there are no Ethernet rules.
 */
__noinline int by_frame(struct __sk_buff *skb, struct track *t, __u32 ethertype)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct query q = {};
	const struct hp_header *h;
	void *program;
	__u32 r;

	if (!t || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return HP_MALFORMED;
	q.generation = t->generation;
	q.policy = t->policy;
	program = program_of(&q);
	if (!program)
		return GO_ON;
	h = header_of(program);
	if (!h)
		return HP_NO_PROGRAM;
	if (!h->etherindex)
		return GO_ON;
	mac_addr(&q.ends.src, eth->src);
	mac_addr(&q.ends.dst, eth->dst);
	q.ip = 1;
	q.group = HP_SVC_ETHER;
	q.service = ethertype;
	q.dir = t->dir;
	r = judge(&q);
	if (r == HP_NO_PROGRAM)
		return r;
	if (r == HP_RULE_ALLOW || r == HP_RULE_DROP)
		count_rule(skb, q.counter);
	if (r == HP_RULE_DROP || (r == HP_RULE_ALLOW && ethertype != ETHERTYPE_IPV4 && ethertype != ETHERTYPE_IPV6))
		decided_by(t, &q);
	if (q.more) {
		t->frame = count_more(skb, &q);
		if (t->frame && q.log)
			t->frame |= FRAME_LOGGED;
	}
	return r == HP_RULE_DROP ? HP_RULE_DROP : GO_ON;
}

#endif
