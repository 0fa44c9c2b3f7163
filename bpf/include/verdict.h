/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The one way out of both programs: count the reason, pass or drop. */
#ifndef HOMEPORT_VERDICT_H
#define HOMEPORT_VERDICT_H

#include <linux/pkt_cls.h>
#include "clock.h"
#include "maps.h"

/* Not a verdict: the stage has no objection, the next one decides. */
#define GO_ON HP_REASON_MAX

/* No port has this slot. */
#define NO_SLOT 0xffffffffU

/* Packets on the wire: a GSO packet leaves as many. */
static __always_inline __u64 packets_of(struct __sk_buff *skb)
{
	__u32 segments = skb->gso_segs;

	return segments ? segments : 1;
}

static const struct hp_reason_counter no_packets;

/*
 * count_late counts for a reason that port_counters does not have. A function of its own, for the
 * stacks of those that call it.
 */
__noinline int count_late(struct __sk_buff *skb, __u32 serial, __u32 dir, __u32 reason)
{
	struct hp_late_key key = { .serial = serial, .reason = reason };
	struct hp_reason_counter *counter = bpf_map_lookup_elem(&late_counters, &key);

	if (!counter) {
		bpf_map_update_elem(&late_counters, &key, &no_packets, BPF_NOEXIST);
		counter = bpf_map_lookup_elem(&late_counters, &key);
	}
	if (!counter || dir >= HP_DIRS)
		return 0;
	counter->dir[dir].packets += packets_of(skb);
	counter->dir[dir].bytes += skb->len;
	return 0;
}

static __always_inline void count_reason(struct __sk_buff *skb, __u32 slot, __u32 serial, __u32 dir, __u32 reason)
{
	struct hp_reason_counter *counter;
	void *table;

	if (dry_run)
		return;
	if (reason >= HP_REASON_COUNTED && reason < HP_REASON_MAX) { /* of ports alone */
		count_late(skb, serial, dir, reason);
		return;
	}
	table = slot == NO_SLOT ? (void *)&stray_counters : bpf_map_lookup_elem(&port_counters, &slot);
	if (!table)
		return;
	counter = bpf_map_lookup_elem(table, &reason);
	if (!counter)
		return;
	counter->dir[dir].packets += packets_of(skb);
	counter->dir[dir].bytes += skb->len;
}

/*
 * Rule counters count judgements; see ADR 1 item 8 for which. A function of its own, for
 * the stacks of those that call it.
 */
__noinline int count_rule(struct __sk_buff *skb, __u32 index)
{
	__u32 number = index / HP_BOOK_COUNTERS, at = index % HP_BOOK_COUNTERS;
	void *book = bpf_map_lookup_elem(&rule_books, &number);
	struct hp_hits *hits;

	if (!book || dry_run)
		return 0;
	hits = bpf_map_lookup_elem(book, &at);
	if (!hits)
		return 0;
	hits->all.packets += packets_of(skb);
	hits->all.bytes += skb->len;
	hits->last = handover_clock() + 1;
	return 0;
}

static __always_inline int is_drop(__u32 reason)
{
	return reason >= HP_REASON_FIRST_DROP;
}

/*
 * Pass means "not our objection": other programs at the hook go on. A reason
 * that no stage gave is a bug and drops.
 */
static __always_inline int verdict(struct __sk_buff *skb, __u32 slot, __u32 serial, __u32 dir, __u32 reason)
{
	count_reason(skb, slot, serial, dir, reason);
	return is_drop(reason) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

#endif
