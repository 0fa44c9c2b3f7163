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

static __always_inline struct frame_kind kind_of(const struct eth_header *eth, __u32 ethertype, __u32 dir)
{
	struct frame_kind k = { {
		eth->dst[0] | (__u64)eth->dst[1] << 16 | (__u64)eth->dst[2] << 32 | (__u64)eth->src[0] << 48,
		eth->src[1] | (__u64)eth->src[2] << 16 | (__u64)(__u16)ethertype << 32 | (__u64)dir << 48,
	} };

	return k;
}

static __always_inline struct judged_frame *judged_at(const struct frame_kind *k, __u32 policy)
{
	__u64 h = k->words[0] * 0x9e3779b97f4a7c15ULL ^ (k->words[1] ^ policy) * 0xc2b2ae3d27d4eb4fULL;
	__u32 place = (h >> 32 ^ h >> 56) % JUDGED_FRAMES; /* high bits, which depend on all */

	return bpf_map_lookup_elem(&judged_frames, &place);
}

/* note_judged: frames of the kind go on, by the rule of counter - 1, or by none. */
static __always_inline void note_judged(struct judged_frame *j, const struct frame_kind *k, const struct track *t, __u32 counter)
{
	if (dry_run)
		return;
	/* As in note_known(). */
	*(volatile __u64 *)&j->generation = 0;
	barrier();
	j->kind = *k;
	j->policy = t->policy;
	j->counter = counter;
	j->monitored = t->frame;
	barrier();
	*(volatile __u64 *)&j->generation = t->generation;
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
	struct judged_frame *j;
	struct frame_kind kind;
	void *program;
	__u32 r, ip, counter;

	if (!t || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return HP_MALFORMED;
	kind = kind_of(eth, ethertype, t->dir);
	j = judged_at(&kind, t->policy);
	if (!j)
		return HP_NO_PROGRAM;
	if (j->generation == t->generation && j->policy == t->policy && j->kind.words[0] == kind.words[0] &&
	    j->kind.words[1] == kind.words[1]) {
		t->frame = j->monitored;
		if (j->counter)
			count_rule(skb, j->counter - 1);
		if (t->frame)
			count_rule(skb, t->frame - 1);
		return GO_ON;
	}
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
	ip = ethertype == ETHERTYPE_IPV4 || ethertype == ETHERTYPE_IPV6;
	counter = r == HP_RULE_ALLOW || r == HP_RULE_DROP ? q.counter + 1 : 0;
	if (counter)
		count_rule(skb, q.counter);
	if (r == HP_RULE_DROP || (counter && !ip))
		decided_by(t, &q);
	if (q.more) {
		t->frame = count_more(skb, &q);
		/* It would have had the last word. */
		if (t->frame && q.log && (q.refuse || !ip))
			t->frame |= FRAME_LOGGED;
	}
	if (ip && r != HP_RULE_DROP && !(t->frame & FRAME_LOGGED))
		note_judged(j, &kind, t, counter);
	return r == HP_RULE_DROP ? HP_RULE_DROP : GO_ON;
}

#endif
