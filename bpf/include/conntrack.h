/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Connections, each as its own port sees it. An unanswered flow lives in
 * conns_new, where floods push out floods; its first answer moves it to the
 * port's own table. Both hooks find it by one key, since a hook knows which end
 * of the packet is the VM.
 */
#ifndef HOMEPORT_CONNTRACK_H
#define HOMEPORT_CONNTRACK_H

#include "classify.h"
#include "clock.h"
#include "guard.h"
#include "maps.h"
#include "parse.h"

/* Beside flags of events: */
#define TOLD_PASS 0x10000   /* to be told of although it passes */
#define FRAME_LOGGED 0x80000000U /* beside a rule's counter, of track.frame */
#define TOLD_DHCP 0x40000   /* a client of DHCP asks, or is answered: not of events, but of what says who has an address */
#define TOLD_FIRM 0x80000   /* not of events: the rule that decided is firm */
#define TOLD_ANSWER 0x20000 /* with HP_EVENT_ENDED: the packet goes against the connection's opener */

/*
 * What is asked of the tables: memory that goes to global functions, which are
 * verified once and by themselves, and so find maps and flows again. They serve
 * what is rare: the second packet of a flow, the first after a policy change.
 * They begin with a copy, since Linux 6.1 takes keys from their own stack only.
 */
#define STEADY 1
#define AGAIN 2 /* and the flow was seen before in this tick */

struct track {
	struct hp_new_key key;
	__u64 generation;
	__u32 policy;
	__u32 now;
	__u32 dir;
	__u32 settled; /* the flow is in the port's table, else in conns_new */
	__u32 steady;  /* out: the flow is settled and open, and the packet changes nothing of it; STEADY or AGAIN */
	__u32 refuse;  /* out: dropped by a Reject rule */
	/* Out, for events, as in hp_event: */
	__u32 rule;
	__u32 monitored;
	__u32 told;
	/* Out, of by_frame(): the monitored Ethernet rule, as monitored, with FRAME_LOGGED if it asks for logs. */
	__u32 frame;
};

static __always_inline void set_ends(struct hp_flow_key *k, const struct ends *ends, __u32 dir)
{
	const union addr *local = dir == HP_OUT ? &ends->src : &ends->dst;
	const union addr *remote = dir == HP_OUT ? &ends->dst : &ends->src;

	__builtin_memcpy(k->local, local, sizeof(k->local));
	__builtin_memcpy(k->remote, remote, sizeof(k->remote));
}

/* The end of a key as one word: hashing reads words, and would wait for its bytes. */
union key_tail {
	struct {
		__be16 lport;
		__be16 rport;
		__u16 vlan;
		__u8 proto;
		__u8 pad;
	};
	__u64 word;
};

/*
 * set_key: the flow of p, which goes in direction dir. An echo is known by its
 * identifier and the direction of the request: a request against the direction
 * of a known one is a flow of its own.
 */
static __always_inline void set_key(struct hp_flow_key *k, const struct packet *p, __u32 dir)
{
	union key_tail tail = { .vlan = p->vlan, .proto = p->proto };

	_Static_assert(sizeof(*k) - __builtin_offsetof(struct hp_flow_key, lport) == sizeof(tail), "tail of the key");
	if (p->kind == ECHO_REQUEST || p->kind == ECHO_REPLY) {
		tail.lport = p->sport;
		tail.rport = bpf_htons((p->kind == ECHO_REQUEST ? dir : !dir) + 1);
	} else {
		tail.lport = dir == HP_OUT ? p->sport : p->dport;
		tail.rport = dir == HP_OUT ? p->dport : p->sport;
	}
	set_ends(k, &p->query.ends, dir);
	*(__u64 *)&k->lport = tail.word;
}

/* generation_now: read once for each verdict. 0: no policy is loaded. */
static __always_inline __u64 generation_now(void)
{
	__u32 zero = 0;
	struct hp_control *c = bpf_map_lookup_elem(&control, &zero);

	return c ? *(volatile __u64 *)&c->generation : 0;
}

/* number_of: generations are in the order of these. */
static __always_inline __u64 number_of(__u64 generation)
{
	return generation & ~HP_GENERATION_ETHER;
}

static __always_inline __u32 lifetime(const struct hp_flow *flow, __u32 proto)
{
	if (proto == PROTO_TCP) {
		if (flow->state == HP_FLOW_OPEN)
			return tcp_open_ticks;
		return flow->state == HP_FLOW_NEW ? tcp_new_ticks : tcp_closing_ticks;
	}
	if (proto == PROTO_UDP || proto == PROTO_SCTP)
		return flow->state == HP_FLOW_NEW ? udp_new_ticks : udp_open_ticks;
	return icmp_ticks;
}

/* expired: what was seen AHEAD of now is not of long ago, though ticks wrap. */
static __always_inline int expired(const struct hp_flow *flow, __u32 proto, __u32 now)
{
	return now + AHEAD - flow->seen > lifetime(flow, proto) + AHEAD;
}

static __always_inline void *table_of(const struct hp_new_key *key)
{
	__u32 slot = key->slot;

	return bpf_map_lookup_elem(&conns, &slot);
}

/* lookup finds the flow in the port's table, or else among the unanswered, expired or not. */
static __always_inline struct hp_flow *lookup(const struct hp_new_key *key, __u32 settled)
{
	void *table;

	if (!settled)
		return bpf_map_lookup_elem(&conns_new, key);
	table = table_of(key);
	return table ? bpf_map_lookup_elem(table, &key->flow) : NULL;
}

static __always_inline void forget(const struct hp_new_key *key, __u32 settled)
{
	void *table;

	if (!settled) {
		bpf_map_delete_elem(&conns_new, key);
		return;
	}
	table = table_of(key);
	if (table)
		bpf_map_delete_elem(table, &key->flow);
}

/*
 * find looks in the port's table first, where nearly all packets belong, then
 * among the unanswered. An expired flow is none; it stays where it is, for another
 * CPU may have put its successor there by now. A slot that is not published
 * has no table: all its flows stay among the unanswered.
 */
static __always_inline struct hp_flow *find(struct track *t)
{
	struct hp_flow *flow;
	void *table = table_of(&t->key);

	t->settled = 1;
	if (table) {
		flow = bpf_map_lookup_elem(table, &t->key.flow);
		if (flow && !expired(flow, t->key.flow.proto, t->now))
			return flow;
	}
	t->settled = 0;
	flow = bpf_map_lookup_elem(&conns_new, &t->key);
	if (flow && expired(flow, t->key.flow.proto, t->now))
		return NULL;
	return flow;
}

/*
 * settle moves an answered flow to the port's table. If that is full the flow
 * stays where it is, in its new state, and the next tick tries again.
 */
__noinline int settle(struct track *asked)
{
	struct hp_flow *flow, copy;
	struct track t;
	void *table;

	if (!asked)
		return 0;
	t = *asked;
	flow = bpf_map_lookup_elem(&conns_new, &t.key);
	if (!flow)
		return 0;
	copy = *flow;
	copy.state = HP_FLOW_OPEN;
	copy.seen = t.now;
	table = table_of(&t.key);
	if (table && !bpf_map_update_elem(table, &t.key.flow, &copy, BPF_ANY)) {
		bpf_map_delete_elem(&conns_new, &t.key);
		return 0;
	}
	flow->state = HP_FLOW_OPEN;
	flow->seen = t.now;
	return 0;
}

/*
 * answers: the packet comes from the end that has not spoken yet. Who opened a flow
 * that was taken over, or picked up, is not known, but who spoke first here.
 */
static __always_inline int answers(const struct hp_flow *flow, __u32 dir)
{
	return flow->migrated ? (flow->migrated - 1) % HP_DIRS != dir : flow->opener != dir;
}

/* ended are the flags of the event that the flow ends with a packet in direction dir. */
static __always_inline __u32 ended(const struct hp_flow *flow, __u32 dir)
{
	return HP_EVENT_ENDED | (flow->opener != dir ? TOLD_ANSWER : 0);
}

/* tcp_state: what the flow is after this segment. */
static __always_inline __u8 tcp_state(struct hp_flow *flow, __u32 flags, __u32 dir)
{
	if (flags & TCP_RST)
		return HP_FLOW_CLOSING;
	if (flow->state == HP_FLOW_NEW && flow->migrated)
		return answers(flow, dir) ? HP_FLOW_OPEN : HP_FLOW_NEW;
	if (flow->state == HP_FLOW_NEW) {
		/* Only SYN+ACK answers a SYN: a lone ACK may be the challenge of an older connection. */
		return flow->opener != dir && (flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) ? HP_FLOW_OPEN :
												      HP_FLOW_NEW;
	}
	if (flags & TCP_FIN && !flow->fin[dir & 1])
		flow->fin[dir & 1] = 1;
	return flow->fin[HP_OUT] && flow->fin[HP_IN] ? HP_FLOW_CLOSING : flow->state;
}

/* advance notes a packet that belongs to the flow; it writes only what changes. */
static __always_inline void advance(struct track *t, struct hp_flow *flow, const struct packet *p)
{
	__u8 state = flow->state;

	if (dry_run) {
		if (!t->rule) /* else it was judged again */
			t->rule = flow->rule;
		return;
	}
	if (p->kind == TCP)
		state = tcp_state(flow, p->tcp_flags, t->dir);
	else if (answers(flow, t->dir))
		state = HP_FLOW_OPEN;
	if (!t->settled && state == HP_FLOW_OPEN && (flow->state != HP_FLOW_OPEN || flow->seen != t->now)) {
		settle(t);
		return;
	}
	if (state == HP_FLOW_CLOSING && flow->state != state) {
		t->rule = flow->rule;
		t->told = flow->told | ended(flow, t->dir) | TOLD_PASS;
	}
	if (flow->state != state)
		flow->state = state;
	if (flow->seen != t->now)
		flow->seen = t->now;
}

/* opener_query: what rules saw of the flow's first packet, if it came from opener. */
static __always_inline void opener_query(const struct track *t, const struct hp_flow_key *k, __u32 opener, struct query *q)
{
	__u32 out = opener == HP_OUT;

	__builtin_memcpy(q->ends.src.bytes, out ? k->local : k->remote, sizeof(q->ends.src));
	__builtin_memcpy(q->ends.dst.bytes, out ? k->remote : k->local, sizeof(q->ends.dst));
	q->generation = t->generation;
	q->policy = t->policy;
	q->dir = opener;
	q->ip = 1;
	q->service = bpf_ntohs(out ? k->rport : k->lport);
	q->sport = bpf_ntohs(out ? k->lport : k->rport);
	q->group = HP_SVC_TCP;
	q->tcp_flags = TCP_SYN;
	if (k->proto == PROTO_UDP)
		q->group = HP_SVC_UDP;
	if (k->proto == PROTO_SCTP)
		q->group = HP_SVC_SCTP;
	if (k->proto == PROTO_ICMP) {
		q->group = HP_SVC_ICMP;
		q->service = 8 << 8;
	}
	if (k->proto == PROTO_ICMPV6) {
		q->group = HP_SVC_ICMPV6;
		q->service = 128 << 8;
	}
}

/* decided_by: events name the rule that q was judged by. */
static __always_inline void decided_by(struct track *t, const struct query *q)
{
	t->rule = q->counter + 1;
	t->told = (q->log ? HP_EVENT_LOGGED : 0) | (q->firm ? TOLD_FIRM : 0);
}

/* The flow is none, or none any more. */
#define FORGOTTEN (GO_ON + 1)

/* Beside the reason: by a Reject rule. */
#define REFUSE 0x100

static __always_inline int judged(const struct hp_flow *flow, const struct track *t)
{
	return flow->generation == t->generation && flow->policy == t->policy;
}

/*
 * revalidate judges the opener again after the policy has changed: GO_ON if the
 * flow may stay, FORGOTTEN if there is none any more. A flow that a later
 * generation has judged is left to it: this packet only began earlier. Without a
 * program nothing is judged, and the flow stays for when there is one.
 */
__noinline int revalidate(struct __sk_buff *skb, struct track *t)
{
	struct query q = {};
	struct hp_flow *flow;
	struct hp_new_key key;
	int mine, r;

	if (!t)
		return HP_NO_PROGRAM;
	key = t->key;
	flow = lookup(&key, t->settled);
	if (!flow) {
		/* Another CPU may have settled it just now. */
		t->settled = !t->settled;
		flow = lookup(&key, t->settled);
	}
	if (!flow)
		return FORGOTTEN;
	t->told = flow->told | ended(flow, t->dir); /* for its event, should it end here */
	opener_query(t, &key.flow, flow->opener, &q);
	if (flow->migrated > HP_DIRS) /* a rule took a segment like any for its opener */
		q.tcp_flags = TCP_ACK;
	r = judge(&q);
	mine = number_of(flow->generation) <= number_of(t->generation);
	if (!mine)
		t->told = 0;
	if (dry_run)
		mine = 0;
	if (!is_drop(r) && q.stateless) {
		/* It is none any more: its packets are judged by themselves. */
		if (mine)
			forget(&key, t->settled);
		return FORGOTTEN;
	}
	/* It is kept, and no rule ends those, too. */
	if (flow->kept && is_drop(r) && r != HP_NO_PROGRAM && !q.firm) {
		if (mine) {
			flow->policy = t->policy;
			flow->generation = t->generation;
		}
		t->rule = flow->rule;
		t->told = 0;
		return GO_ON;
	}
	if (!is_drop(r)) {
		if (mine) {
			flow->kept = q.firm;
			flow->rule_id = q.rule_id;
			flow->rule = q.counter + 1;
			flow->told = q.log ? HP_EVENT_LOGGED : 0;
			flow->policy = t->policy;
			flow->generation = t->generation;
		}
		t->rule = q.counter + 1;
		t->told = 0;
		return GO_ON;
	}
	if (r == HP_NO_PROGRAM)
		return r;
	/* The policy does not allow the flow any more. */
	count_rule(skb, q.counter);
	t->rule = q.counter + 1;
	t->told |= q.log ? HP_EVENT_LOGGED : 0;
	if (mine)
		forget(&key, t->settled);
	return q.refuse ? r | REFUSE : r;
}

/*
 * quoted_key: the flow that an ICMP error is about, by the packet it quotes, which
 * went the other way and came from where the error goes. 0: none that is known.
 */
__noinline int quoted_key(struct __sk_buff *skb, const struct packet *p, struct track *t)
{
	struct packet quoted = {};
	struct ipv4_header v4;
	struct ipv6_header v6;
	union l4_header l4;
	__u32 at;

	if (!p || !t || p->inner > MAX_OFFSET)
		return 0;
	at = p->inner;
	if (p->proto == PROTO_ICMP) {
		if (bpf_skb_load_bytes(skb, at, &v4, sizeof(v4)) || v4.version_words >> 4 != 4 ||
		    v4.fragment & bpf_htons(0x1fff))
			return 0;
		map_ipv4(&quoted.query.ends.src, v4.src);
		map_ipv4(&quoted.query.ends.dst, v4.dst);
		quoted.proto = v4.proto;
		at += (v4.version_words & 15) * 4;
	} else {
		if (bpf_skb_load_bytes(skb, at, &v6, sizeof(v6)) || bpf_ntohl(v6.version_flow) >> 28 != 6)
			return 0;
		quoted.query.ends = v6.ends;
		quoted.proto = v6.proto;
		at += sizeof(v6);
		if (is_extension(v6.proto)) {
			int walk = ext_headers(skb, v6.proto, at, skb->len, &quoted.id);

			if (walk < 0 || walk & EXT_FRAGMENT)
				return 0;
			quoted.proto = walk & 0xff;
			at = walk >> EXT_OFFSET_SHIFT & MAX_OFFSET;
		}
	}
	if (quoted.query.ends.src.halves[0] != p->query.ends.dst.halves[0] ||
	    quoted.query.ends.src.halves[1] != p->query.ends.dst.halves[1] || bpf_skb_load_bytes(skb, at, &l4, sizeof(l4)))
		return 0;
	quoted.sport = l4.ports.sport;
	quoted.dport = l4.ports.dport;
	if (quoted.proto == p->proto) {
		quoted.kind = icmp_kind(&l4, p->proto == PROTO_ICMPV6);
		quoted.sport = l4.icmp.id;
		if (quoted.kind != ECHO_REQUEST && quoted.kind != ECHO_REPLY)
			return 0;
	} else if (quoted.proto != PROTO_TCP && quoted.proto != PROTO_UDP && quoted.proto != PROTO_SCTP) {
		return 0;
	}
	quoted.vlan = p->vlan;
	set_key(&t->key.flow, &quoted, !t->dir);
	return 1;
}

static __always_inline int opens_tcp(const struct packet *p)
{
	return (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST)) == TCP_SYN;
}

/*
 * reopens: the packet opens a connection where the table has another, or makes as if
 * (SYN with FIN or RST, which some take for a SYN). Its old one is over, or it comes
 * from the other end: who answers a connection may not open one by the same right.
 */
static __always_inline int reopens(const struct track *t, const struct hp_flow *flow, const struct packet *p)
{
	return p->kind == TCP && (p->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN &&
	       (flow->state == HP_FLOW_CLOSING || flow->opener != t->dir);
}

/* in_grace: the VM has come from another node so shortly that its connections may have, too. */
static __always_inline int in_grace(const struct track *t)
{
	__u32 at;

	return handed_over(t->key.slot, t->key.serial, &at) && handover_clock() - at < grace_period;
}

/* unheard: a flow that was taken over, and that nobody has answered while that was allowed. */
static __always_inline int unheard(const struct track *t, const struct hp_flow *flow)
{
	return flow->migrated && flow->migrated <= HP_DIRS && flow->state == HP_FLOW_NEW && !in_grace(t);
}

/* is_plain: the packet is nearly all that a flow consists of. */
static __always_inline int is_plain(const struct packet *p)
{
	return !p->first && (p->proto == PROTO_UDP || (p->proto == PROTO_TCP && !(p->tcp_flags & (TCP_SYN | TCP_FIN | TCP_RST))));
}

/*
 * established: HP_ESTABLISHED for a packet of a known flow, HP_RELATED for an
 * error about one; a reason to drop it if the policy has turned against the
 * flow; GO_ON if the packet is to be judged by itself.
 */
static __always_inline __u32 established(struct __sk_buff *skb, struct track *t, const struct packet *p)
{
	struct hp_flow *flow = find(t);
	__u32 r, again;

	if (!flow || reopens(t, flow, p) || unheard(t, flow))
		return GO_ON;
	if (!judged(flow, t)) {
		__u32 settled = t->settled;

		r = revalidate(skb, t);
		if (r == FORGOTTEN)
			return GO_ON;
		if (t->settled != settled) {
			/* It has moved, and what was found is somebody else's by now. */
			flow = lookup(&t->key, t->settled);
			if (!flow)
				return GO_ON;
		}
		if (r != GO_ON) {
			t->refuse = r & REFUSE;
			return r & ~REFUSE;
		}
	}
	if (p->kind == ICMP_ERROR)
		return HP_RELATED;
	again = flow->seen == t->now;
	advance(t, flow, p);
	if (t->settled && flow->state == HP_FLOW_OPEN && is_plain(p))
		t->steady = again ? AGAIN : STEADY;
	return HP_ESTABLISHED;
}

/*
 * remember keeps the state that an allowed packet of the opener makes. An open connection is
 * not undone by a SYN against its direction, which its peer refuses by itself.
 * Without memory for it the packet passes, and its answer is judged by itself.
 */
__noinline int remember(struct track *asked, __u32 rule_id, __u32 opener, __u32 migrated)
{
	struct hp_flow fresh = { .rule_id = rule_id, .opener = opener, .migrated = migrated };
	struct hp_flow *flow;
	struct track t;

	if (!asked || dry_run)
		return 0;
	t = *asked;
	flow = find(&t);
	if (flow && flow->state == HP_FLOW_OPEN)
		return 0;
	if (flow && t.settled)
		forget(&t.key, 1);
	fresh.generation = t.generation;
	fresh.policy = t.policy;
	fresh.seen = t.now;
	fresh.rule = t.rule;
	fresh.told = t.told & HP_EVENT_LOGGED;
	fresh.kept = !!(t.told & TOLD_FIRM);
	bpf_map_update_elem(&conns_new, &t.key, &fresh, BPF_ANY);
	return 0;
}

#define NTP 123
#define IKE 500

/*
 * may_open: whether the end of dir can have opened the packet's flow, going by the
 * packet alone. What answers a SYN did not, nor who gets an INIT. Of UDP, which does not say, a well-known
 * port opens no flows, but for two protocols that talk to their like: else whoever the
 * rules keep from a service would pass for one of its VM's own.
 */
static __always_inline int may_open(const struct packet *p, __u32 dir, __u32 opener)
{
	if (p->kind == TCP)
		return opener != dir || (p->tcp_flags & (TCP_SYN | TCP_ACK)) != (TCP_SYN | TCP_ACK);
	if (opener == dir) /* judged already */
		return 0;
	if (p->proto == PROTO_SCTP)
		return !p->opens;
	return p->kind == ECHO_REPLY || bpf_ntohs(p->dport) >= 1024 ||
	       (p->dport == p->sport && (p->dport == bpf_htons(NTP) || p->dport == bpf_htons(IKE)));
}

/*
 * takes_over: HP_MIGRATED if the packet may belong to a connection that the port of
 * the VM's last node knew: it opens none by itself, the VM has just come, and the
 * rules allow one end to have opened it. Of two such the one with the higher port is
 * taken for the opener. Else GO_ON.
 */
__noinline int takes_over(struct __sk_buff *skb, const struct packet *p, struct track *t)
{
	struct query q = {};
	__u32 i, dir, opener;

	if (!p || !t || !in_grace(t))
		return GO_ON;
	dir = t->dir & 1;
	opener = bpf_ntohs(p->sport) > bpf_ntohs(p->dport) ? dir : !dir;
	for (i = 0; i < 2; i++, opener = !opener) {
		if (!may_open(p, dir, opener))
			continue;
		opener_query(t, &t->key.flow, opener, &q);
		if (is_drop(judge(&q)) || q.stateless)
			continue;
		count_rule(skb, q.counter);
		decided_by(t, &q);
		/* An end of it leaves nothing: whatever follows is judged like it. */
		if (p->kind != ECHO_REPLY && !(p->kind == TCP && p->tcp_flags & (TCP_RST | TCP_FIN)))
			remember(t, q.rule_id, opener, dir + 1);
		return HP_MIGRATED;
	}
	return GO_ON;
}

#endif
