/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The classifier: an address has a class, a class has in each policy a row of
 * bits, one a rule. The AND of the rows of source, destination, service and
 * direction (with source port) has the winning rule as its first bit. Layout: abi.h.
 */
#ifndef HOMEPORT_CLASSIFY_H
#define HOMEPORT_CLASSIFY_H

#include "maps.h"
#include "parse.h"
#include "verdict.h"

#define PAGE_WORDS (HP_PAGE_SIZE / 8)
#define PAGE_ROWS (HP_PAGE_SIZE / 2)
#define PAGE_RULES (HP_PAGE_SIZE / sizeof(struct hp_rule))
#define PAGE_PARTS (HP_PAGE_SIZE / 16)

static __always_inline struct page *page_at(void *program, __u32 number)
{
	return bpf_map_lookup_elem(program, &number);
}

#define BROKEN (~0U)
#define NOBODY (~1U)

/*
 * class_of: a host's own class, which is of all lists around it, too; of other addresses that
 * of the longest prefix around them, or 0. On pages of earlier versions hosts are prefixes. BROKEN:
 * a table is missing.
 */
static __always_inline __u32 class_of(const struct hp_header *h, __u32 side, const union addr *a)
{
	struct addr_key key = { .prefixlen = 128 };
	void *table;
	__u32 *class;

	__builtin_memcpy(key.addr, a->bytes, sizeof(key.addr));
	if (h->words) {
		table = bpf_map_lookup_elem(&hosts, &side);
		if (!table)
			return BROKEN;
		class = bpf_map_lookup_elem(table, key.addr);
		if (class)
			return *class;
	}
	table = bpf_map_lookup_elem(&addrs, &side);
	if (!table)
		return BROKEN;
	class = bpf_map_lookup_elem(table, &key);
	return class ? *class : 0;
}

/* words_of: the width of rows, wherever the page's version has it. */
static __always_inline __u32 words_of(const struct hp_header *h)
{
	return h->words ? h->words : h->earlier_words;
}

/* Position of the lowest bit set, without a branch: branches multiply states. */
static __always_inline __u32 lowest_bit(__u64 x)
{
	x = (x & -x) - 1;
	x -= x >> 1 & 0x5555555555555555ULL;
	x = (x & 0x3333333333333333ULL) + (x >> 2 & 0x3333333333333333ULL);
	x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
	return (x * 0x0101010101010101ULL) >> 56;
}

/* class_row: a class that the policy does not know reads row 0. -1: broken. */
static __always_inline int class_row(void *program, const struct hp_header *h, __u32 table, __u32 class)
{
	struct page *p;

	if (class == BROKEN)
		return -1;
	if (class >= h->classes)
		return 0;
	p = page_at(program, table + class / PAGE_ROWS);
	return p ? p->rows[class % PAGE_ROWS] : -1;
}

/* indexed_row: the row of a port, or the like, by an index's page. -1: broken. */
static __always_inline int indexed_row(void *program, const struct hp_header *h, __u32 index, __u16 at)
{
	struct page *p = page_at(program, index);

	if (!p)
		return -1;
	p = page_at(program, h->svcchunk + p->rows[at >> 8]);
	return p ? p->rows[at & 255] : -1;
}

static __always_inline int service_row(void *program, const struct hp_header *h, const struct query *q)
{
	__u32 groups = h->svc_groups;

	if (q->group == HP_SVC_ETHER)
		return indexed_row(program, h, h->etherindex, q->service);
	if (q->group >= (groups ? groups : HP_SVC_GROUPS_FIRST))
		return h->svc_none_row;
	return indexed_row(program, h, h->svcindex + q->group, q->service);
}

/*
 * applying_row: the rules of the direction, and of the tiers that are asked, but those
 * that want other source ports or TCP flags.
 */
static __always_inline int applying_row(void *program, const struct hp_header *h, const struct query *q)
{
	__u32 dir = q->dir & 1, group = q->group == HP_SVC_SCTP ? 2 : q->group;
	__u32 row = h->dir_row[dir], index = h->sportindex, tier = (q->tier - 1U) % HP_TIERS_MAX, flags = 0;
	struct page *p;

	if (h->flagindex) {
		if (q->group == HP_SVC_TCP) {
			p = page_at(program, h->flagindex);
			if (!p)
				return -1;
			flags = p->rows[q->tcp_flags];
		}
		flags = flags * (HP_TIERS_MAX + 1) + (q->tier ? tier + 1 : 0);
		p = page_at(program, h->flagparts + flags / PAGE_PARTS);
		if (!p)
			return -1;
		row = p->parts[flags % PAGE_PARTS].of.dir_row[dir];
		index = p->parts[flags % PAGE_PARTS].of.sportindex;
	} else if (q->tier) {
		row = h->parts[tier].dir_row[dir];
		index = h->parts[tier].sportindex;
	}
	if (!index || (group > HP_SVC_UDP && q->group != HP_SVC_SCTP))
		return row;
	return indexed_row(program, h, index + dir * HP_SPORT_GROUPS + group, q->sport);
}

/* Where the rows of source, destination, service and direction are. */
struct rows {
	__u32 word[4];        /* the first of each in the table of rows */
	struct page *page[4]; /* with the words at hand */
};

static __always_inline int find_rows(void *program, const struct hp_header *h, const struct query *q, struct rows *r)
{
	int src = 0, dst = 0, service, applying;
	__u32 side = q->generation & 1, words = words_of(h), local = h->local_classrow[q->dir & 1];
	__u32 src_rows = local && q->dir == HP_OUT ? local : h->src_classrow;
	__u32 dst_rows = local && q->dir == HP_IN ? local : h->dst_classrow;

	if (q->ip) {
		src = class_row(program, h, src_rows, class_of(h, side, &q->ends.src));
		dst = class_row(program, h, dst_rows, class_of(h, side, &q->ends.dst));
	}
	service = service_row(program, h, q);
	applying = applying_row(program, h, q);
	if (src < 0 || dst < 0 || service < 0 || applying < 0)
		return 0;
	r->word[0] = src * words;
	r->word[1] = dst * words;
	r->word[2] = service * words;
	r->word[3] = applying * words;
	return 1;
}

/* turn_pages: to the words of all rows from a multiple of PAGE_WORDS on. 0: broken. */
static __always_inline int turn_pages(void *program, const struct hp_header *h, __u32 from, struct rows *r)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		r->page[i] = page_at(program, h->rows + (r->word[i] + from) / PAGE_WORDS);
		if (!r->page[i])
			return 0;
	}
	return 1;
}

/* winner: position of the first rule that all rows name, or NOBODY, or BROKEN. */
static __always_inline __u32 winner(void *program, const struct hp_header *h, struct rows *r)
{
	__u32 words = words_of(h), from, i;

	for (from = 0; from < HP_WORDS_MAX; from += PAGE_WORDS) {
		if (from >= words)
			break;
		if (!turn_pages(program, h, from, r))
			return BROKEN;
		for (i = 0; i < PAGE_WORDS; i++) {
			__u64 word;

			if (from + i >= words)
				break;
			word = r->page[0]->words[(r->word[0] + i) % PAGE_WORDS] &
			       r->page[1]->words[(r->word[1] + i) % PAGE_WORDS] &
			       r->page[2]->words[(r->word[2] + i) % PAGE_WORDS] &
			       r->page[3]->words[(r->word[3] + i) % PAGE_WORDS];
			if (word)
				return (from + i) * 64 + lowest_bit(word);
		}
	}
	return NOBODY;
}

static __always_inline void *program_of(const struct query *q)
{
	__u32 slot = q->policy * 2 + (q->generation & 1);

	return q->generation ? bpf_map_lookup_elem(&programs, &slot) : NULL;
}

/* header_of: NULL if rows are of a width that no program reads. */
static __always_inline const struct hp_header *header_of(void *program)
{
	struct page *p = page_at(program, 0);
	__u32 words;

	if (!p)
		return NULL;
	words = words_of(&p->header);
	return words && words <= HP_WORDS_MAX ? &p->header : NULL;
}

static __always_inline const struct hp_rule *rule_at(void *program, const struct hp_header *h, __u32 position)
{
	struct page *p = page_at(program, h->meta + position / PAGE_RULES);

	return p ? &p->rules[position % PAGE_RULES] : NULL;
}

/* Not a reason: a Pass rule has the packet go on at the tier that q names now. */
#define PASSES (GO_ON + 2)

/*
 * search is judge() from q's tier on; it may also say PASSES. Of monitored rules it
 * leaves only the counter, the wish for logs, as position the place, and as refuse that it does not
 * allow. A global function: verified once, by itself.
 */
__noinline int search(struct query *q)
{
	const struct hp_header *h;
	const struct hp_rule *rule;
	struct rows rows;
	void *program;
	__u32 position;

	if (!q)
		return HP_NO_PROGRAM;
	program = program_of(q);
	if (!program)
		return HP_NO_PROGRAM;
	h = header_of(program);
	if (!h || !find_rows(program, h, q, &rows))
		return HP_NO_PROGRAM;
	position = winner(program, h, &rows);
	if (position == BROKEN)
		return HP_NO_PROGRAM;
	if (h->monitored)
		q->more = 1;
	if (position == NOBODY || (position >= h->rules) != (q->tier == HP_MONITORED)) {
		q->position = h->rules;
		q->counter = h->default_counter;
		q->rule_id = 0;
		q->stateless = 0;
		q->loose = 0;
		q->firm = 0;
		q->log = 0;
		return h->default_action == HP_ALLOW ? HP_DEFAULT_ALLOW : HP_DEFAULT_DROP;
	}
	rule = rule_at(program, h, position);
	if (!rule)
		return HP_NO_PROGRAM;
	q->counter = rule->counter;
	q->log = !!(rule->flags & HP_RULE_LOG);
	if (q->tier == HP_MONITORED) {
		q->position = rule->flags >> HP_RULE_LINK_SHIFT;
		q->refuse = rule->action != HP_ALLOW;
		return HP_RULE_ALLOW;
	}
	q->position = position;
	q->rule_id = rule->rule_id;
	q->implied = !!(rule->flags & HP_RULE_IMPLIED);
	q->refuse = rule->action == HP_REJECT;
	q->stateless = !!(rule->flags & HP_RULE_STATELESS);
	q->loose = !!(rule->flags & HP_RULE_LOOSE);
	q->firm = !!(rule->flags & HP_RULE_FIRM);
	if (rule->action == HP_PASS) {
		q->tier = rule->flags >> HP_RULE_LINK_SHIFT;
		q->more = 1;
		return PASSES;
	}
	return rule->action == HP_ALLOW ? HP_RULE_ALLOW : HP_RULE_DROP;
}

/*
 * judge asks the policy: HP_RULE_ALLOW, HP_DEFAULT_ALLOW, HP_RULE_DROP,
 * HP_DEFAULT_DROP; or HP_NO_PROGRAM if there is none or it leads nowhere, which
 * drops.
 */
__noinline int judge(struct query *q)
{
	__u32 tier;

	if (!q)
		return HP_NO_PROGRAM;
	q->tier = 0;
	q->more = 0;
	for (tier = 0; tier < HP_TIERS_MAX; tier++) {
		int r = search(q);

		if (r != PASSES)
			return r;
	}
	return HP_NO_PROGRAM;
}

/*
 * count_more counts, of what judge() has judged, the Pass rules on the way, and the
 * monitored rule that would have decided, if there is one: the first that stands before
 * the rule that did. Of that the counter + 1 is given back, else 0; and q.log is its wish, q.refuse that it
 * does not allow.
 */
__noinline int count_more(struct __sk_buff *skb, struct query *q)
{
	__u32 tier, decided;

	if (!q)
		return 0;
	q->tier = 0;
	for (tier = 0; tier < HP_TIERS_MAX; tier++) {
		if (search(q) != PASSES)
			break;
		count_rule(skb, q->counter);
	}
	decided = q->position;
	q->tier = HP_MONITORED;
	if (search(q) != HP_RULE_ALLOW || q->position > decided)
		return 0;
	count_rule(skb, q->counter);
	return q->counter + 1;
}

#endif
