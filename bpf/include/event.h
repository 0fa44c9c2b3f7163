/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Events: what became of a packet, for people who watch and for rules that ask for
 * logs. Nothing waits for whoever reads them, and nobody reads them for long after a
 * flood: a port has a quota.
 */
#ifndef HOMEPORT_EVENT_H
#define HOMEPORT_EVENT_H

#include "conntrack.h"

/* may_tell: whether there is something left of a quota; what there is not is counted. */
static __always_inline int may_tell(void *quotas, __u32 of, __u32 group, __u32 most)
{
	struct hp_quota *quota = bpf_map_lookup_elem(quotas, &of);
	__u32 window = handover_clock();

	if (!quota)
		return 0;
	if (quota->window != window) {
		quota->window = window;
		quota->used[0] = quota->used[1] = quota->used[2] = 0;
	}
	if (quota->used[group] >= most) {
		__sync_fetch_and_add(&quota->lost, 1);
		return 0;
	}
	quota->used[group]++;
	return 1;
}

/* describe_l4: ports, type, flags, as far as they are there. */
static __always_inline void describe_l4(struct __sk_buff *skb, struct hp_event *e, __u32 at)
{
	struct tcp_header tcp;

	/* UDP and ICMP need not be as long as TCP. */
	if (e->proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, at, &tcp, sizeof(tcp)))
			return;
		e->tcp_flags = tcp.flags;
	} else if (bpf_skb_load_bytes(skb, at, &tcp, 4)) {
		return;
	}
	if (e->proto == PROTO_ICMP || e->proto == PROTO_ICMPV6) {
		e->dport = bpf_ntohs(tcp.sport); /* where type and code are */
	} else if (e->proto == PROTO_TCP || e->proto == PROTO_UDP || e->proto == PROTO_SCTP) {
		e->sport = bpf_ntohs(tcp.sport);
		e->dport = bpf_ntohs(tcp.dport);
	} else {
		return;
	}
	e->flags |= HP_EVENT_PORTS;
}

/* describe_ip: addresses and protocol, as far as the frame has them. */
static __always_inline void describe_ip(struct __sk_buff *skb, struct hp_event *e, __u32 at)
{
	struct ipv4_header v4;
	struct ipv6_header v6;
	int walk;

	if (e->ethertype == ETHERTYPE_IPV4) {
		if (bpf_skb_load_bytes(skb, at, &v4, sizeof(v4)))
			return;
		map_ipv4((union addr *)e->src, v4.src);
		map_ipv4((union addr *)e->dst, v4.dst);
		e->proto = v4.proto;
		e->flags |= HP_EVENT_IP;
		if (!(v4.fragment & bpf_htons(0x1fff)))
			describe_l4(skb, e, at + (v4.version_words & 15) * 4);
		return;
	}
	if (e->ethertype != ETHERTYPE_IPV6 || bpf_skb_load_bytes(skb, at, &v6, sizeof(v6)))
		return;
	__builtin_memcpy(e->src, &v6.ends.src, sizeof(e->src));
	__builtin_memcpy(e->dst, &v6.ends.dst, sizeof(e->dst));
	e->proto = v6.proto;
	e->flags |= HP_EVENT_IP;
	walk = ext_headers(skb, v6.proto, at + sizeof(v6), skb->len, NULL);
	if (walk < 0)
		return;
	e->proto = walk & 0xff;
	if (!(walk & EXT_FRAGMENT))
		describe_l4(skb, e, walk >> EXT_OFFSET_SHIFT & MAX_OFFSET);
}

/* describe_end: a connection that ends is described by itself, whatever packet it ends with. */
static __always_inline void describe_end(const struct track *t, struct hp_event *e)
{
	__u32 opener = t->told & TOLD_ANSWER ? !t->dir : t->dir, out = opener == HP_OUT;
	const struct hp_flow_key *k = &t->key.flow;
	__u8 mac[6];

	if (t->told & TOLD_ANSWER) {
		__builtin_memcpy(mac, e->eth_src, sizeof(mac));
		__builtin_memcpy(e->eth_src, e->eth_dst, sizeof(mac));
		__builtin_memcpy(e->eth_dst, mac, sizeof(mac));
	}
	__builtin_memcpy(e->src, out ? k->local : k->remote, sizeof(e->src));
	__builtin_memcpy(e->dst, out ? k->remote : k->local, sizeof(e->dst));
	e->sport = bpf_ntohs(out ? k->lport : k->rport);
	e->dport = bpf_ntohs(out ? k->rport : k->lport);
	if (k->proto == PROTO_ICMP || k->proto == PROTO_ICMPV6) {
		e->sport = 0;
		e->dport = k->proto == PROTO_ICMP ? 8 << 8 : 128 << 8;
	}
	e->proto = k->proto;
	e->dir = opener;
	e->flags |= HP_EVENT_IP | HP_EVENT_PORTS;
}

/* interface_of: the judging port's; not always that at which the packet is. */
static __always_inline __u32 interface_of(const struct track *t)
{
	__u32 place = t->key.slot * 2;
	struct hp_port *port = bpf_map_lookup_elem(&port_records, &place);

	if (port && port->serial != t->key.serial) {
		place++;
		port = bpf_map_lookup_elem(&port_records, &place);
	}
	return port ? port->ifindex : 0;
}

/* describe makes *e the event of a packet as it came. */
static __always_inline void describe(struct __sk_buff *skb, const struct track *t, __u32 reason, struct hp_event *e)
{
	__u32 at = sizeof(struct eth_header);
	struct eth_header eth = {};
	struct vlan_header tag;

	__builtin_memset(e, 0, sizeof(*e));
	e->at = bpf_ktime_get_coarse_ns();
	e->ifindex = interface_of(t);
	e->rule = t->rule;
	e->monitored = t->monitored;
	e->length = skb->len;
	e->dir = t->dir;
	e->reason = reason;
	e->size = sizeof(*e);
	e->flags = t->told & (HP_EVENT_LOGGED | HP_EVENT_MONITORED_LOGGED | HP_EVENT_ENDED);
	if (reason == HP_NO_PROGRAM) /* nobody has judged, and a flow stays */
		e->flags = 0;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return;
	__builtin_memcpy(e->eth_src, eth.src, sizeof(e->eth_src));
	__builtin_memcpy(e->eth_dst, eth.dst, sizeof(e->eth_dst));
	e->ethertype = bpf_ntohs(eth.type);
	if (skb->vlan_present) {
		e->vlan = skb->vlan_tci & 0xfff;
	} else if (e->ethertype == ETHERTYPE_VLAN && !bpf_skb_load_bytes(skb, at, &tag, sizeof(tag))) {
		e->vlan = bpf_ntohs(tag.tci) & 0xfff;
		e->ethertype = bpf_ntohs(tag.type);
		at += sizeof(tag);
	}
	describe_ip(skb, e, at);
	if (e->flags & HP_EVENT_ENDED)
		describe_end(t, e);
}

/* with_frame has the event of a packet name the monitored Ethernet rule, if there is one. */
static __always_inline void with_frame(struct track *t)
{
	if (!t->frame)
		return;
	if (t->frame & FRAME_LOGGED)
		t->told |= HP_EVENT_MONITORED_LOGGED;
	else if (t->monitored)
		return;
	t->monitored = t->frame & ~FRAME_LOGGED;
}

/* tell makes an event of a packet, if somebody asks for one. */
__noinline int tell(struct __sk_buff *skb, struct track *t, __u32 reason)
{
	__u32 zero = 0, node = HP_PORTS_MAX, group = HP_LOGGED, *all;
	struct hp_event *e;

	if (!t)
		return 0;
	with_frame(t);
	if (dry_run) {
		e = bpf_map_lookup_elem(&traced, &zero);
		if (e)
			describe(skb, t, reason, e);
		return 0;
	}
	if (!(t->told & (HP_EVENT_LOGGED | HP_EVENT_MONITORED_LOGGED))) {
		all = bpf_map_lookup_elem(&watched, &zero);
		if (!all || !*all)
			return 0;
		group = HP_OBSERVED;
	}
	if (!may_tell(&event_quotas, t->key.slot, group, HP_EVENTS_A_WINDOW) ||
	    !may_tell(&event_quotas, node, group, HP_EVENTS_OF_NODE))
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		struct hp_quota *quota = bpf_map_lookup_elem(&event_quotas, &node);

		if (quota)
			__sync_fetch_and_add(&quota->lost, 1);
		return 0;
	}
	describe(skb, t, reason, e);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

#endif
