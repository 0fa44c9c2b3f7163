/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Fragments: the first one of a datagram has ports and is judged; the others pass where
 * it has passed, by the rules that are still in force. One that comes before it is judged
 * by rules that ask for no ports.
 */
#ifndef HOMEPORT_FRAGMENT_H
#define HOMEPORT_FRAGMENT_H

#include "clock.h"
#include "conntrack.h"
#include "maps.h"

#define FRAGMENT_TICKS SECONDS(30) /* as long as Linux waits for the rest */

/* fragment_of: whether the first fragment of p's datagram has passed; with passed set, that it has. */
__noinline int fragment_of(const struct packet *p, const struct track *t, __u32 passed)
{
	struct fragment_key key = {};
	struct fragmented first = {}, *seen;

	if (!p || !t)
		return 0;
	first.generation = t->generation;
	first.policy = t->policy;
	first.seen = t->now;
	__builtin_memcpy(key.src, p->query.ends.src.bytes, sizeof(key.src));
	__builtin_memcpy(key.dst, p->query.ends.dst.bytes, sizeof(key.dst));
	key.id = p->id;
	key.slot = t->key.slot;
	key.serial = t->key.serial;
	key.vlan = p->vlan;
	key.proto = is_mapped(&p->query.ends.src) ? p->proto : 0;
	key.dir = t->dir;
	if (passed && dry_run)
		return 1;
	if (passed) {
		bpf_map_update_elem(&fragments, &key, &first, BPF_ANY);
		return 1;
	}
	seen = bpf_map_lookup_elem(&fragments, &key);
	return seen && seen->generation == first.generation && seen->policy == first.policy &&
	       first.seen + AHEAD - seen->seen <= FRAGMENT_TICKS + AHEAD;
}

#endif
