/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What a Reject rule does beside dropping: the frame becomes its own answer, a TCP
 * reset or an ICMP "administratively prohibited" (RFC 1812 section 5.2.7.1, RFC 4443
 * section 3.1), and goes back where it came from. Never in answer to a reset, an ICMP
 * message other than an echo request, a fragment, a group, or a frame for somebody else.
 */
#ifndef HOMEPORT_REFUSE_H
#define HOMEPORT_REFUSE_H

#include "clock.h"
#include "conntrack.h"
#include "guard.h"
#include "maps.h"
#include "parse.h"

#define ICMP_UNREACHABLE 3
#define ICMP_PROHIBITED 13
#define ICMPV6_UNREACHABLE 1
#define ICMPV6_PROHIBITED 1

struct tcp_header {
	__be16 sport;
	__be16 dport;
	__be32 sequence;
	__be32 acknowledged;
	__u8 offset;
	__u8 flags;
	__be16 window;
	__u16 checksum;
	__be16 urgent;
};

struct unreachable {
	__u8 type;
	__u8 code;
	__u16 checksum;
	__u32 unused;
};

/* What is quoted of a packet behind its IP header: ports, and of SCTP up to the tag of an INIT (RFC 9260 section 10). */
#define QUOTED 8
#define QUOTED_SCTP 20

/* The packets that answer, with the part of the refused one that is quoted. */
struct refusal4 {
	struct ipv4_header ip;
	union {
		struct tcp_header tcp;
		struct {
			struct unreachable icmp;
			__u8 quoted[sizeof(struct ipv4_header) + QUOTED_SCTP];
		};
	};
};

struct refusal6 {
	struct ipv6_header ip;
	union {
		struct tcp_header tcp;
		struct {
			struct unreachable icmp;
			__u8 quoted[sizeof(struct ipv6_header) + QUOTED_SCTP];
		};
	};
};

/* What a transport's checksum covers beside it. */
struct pseudo4 {
	__u32 src;
	__u32 dst;
	__be32 length_proto; /* their sum is the same whatever their places */
};

struct pseudo6 {
	struct ends ends;
	__be32 length;
	__be32 proto;
};

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/*
 * completed_later: the checksum at offset at is not there yet, and is written there on
 * the frame's way (CHECKSUM_PARTIAL), whatever the frame has become until then. No
 * helper says so, but one leaves such a checksum alone. What was there is gone.
 */
static __always_inline int completed_later(struct __sk_buff *skb, __u32 at)
{
	__u16 seen = 0;

	if (bpf_skb_store_bytes(skb, at, &seen, sizeof(seen), BPF_F_RECOMPUTE_CSUM) ||
	    bpf_l4_csum_replace(skb, at, 0, 1, 4) || bpf_skb_load_bytes(skb, at, &seen, sizeof(seen)))
		return 0;
	if (!seen)
		return 1;
	/* Undone, for the kernel keeps a sum of the whole frame, which the helper does not tell. */
	bpf_l4_csum_replace(skb, at, 1, 0, 4);
	return 0;
}

/* resets: the segment to that refuses of, which has so many bytes of data (RFC 9293 section 3.10.7.1). */
static __always_inline void resets(struct tcp_header *to, const struct tcp_header *of, __u32 data)
{
	to->sport = of->dport;
	to->dport = of->sport;
	to->offset = sizeof(*to) / 4 << 4;
	if (of->flags & TCP_ACK) {
		to->sequence = of->acknowledged;
		to->flags = TCP_RST;
		return;
	}
	to->acknowledged = bpf_htonl(bpf_ntohl(of->sequence) + data + !!(of->flags & TCP_SYN) + !!(of->flags & TCP_FIN));
	to->flags = TCP_RST | TCP_ACK;
}

/* may_refuse: a port answers so often, and no more. */
static __always_inline int may_refuse(__u32 slot)
{
	struct refusals *r = bpf_map_lookup_elem(&refusals, &slot);
	__u32 window = ticks_now() >> REFUSAL_WINDOW_SHIFT;

	if (!r)
		return 0;
	if (r->window != window) {
		r->window = window;
		r->sent = 0;
	}
	if (r->sent >= REFUSALS_A_WINDOW)
		return 0;
	r->sent++;
	return 1;
}

/* The frame ends at the end of the answer, with both MACs exchanged. 0: it cannot be. */
static __always_inline int turned_round(struct __sk_buff *skb, __u32 size)
{
	struct eth_header eth, back;

	if (bpf_skb_change_tail(skb, sizeof(eth) + size, 0) || bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)))
		return 0;
	__builtin_memcpy(back.dst, eth.src, sizeof(back.dst));
	__builtin_memcpy(back.src, eth.dst, sizeof(back.src));
	back.type = eth.type;
	return !bpf_skb_store_bytes(skb, 0, &back, sizeof(back), 0);
}

/* for_group: IPv4 addresses that no single host has, or that nobody answers. */
static __always_inline int for_group(__be32 ip)
{
	__u32 first = bpf_ntohl(ip) >> 24;

	return first >= 224 || first == 0 || first == 127;
}

/* refuse4: 1 if the frame has become its answer. */
__noinline int refuse4(struct __sk_buff *skb, __u32 slot)
{
	const __u32 l4 = sizeof(struct eth_header) + sizeof(struct ipv4_header);
	struct refusal4 out = {};
	struct pseudo4 pseudo = {};
	struct tcp_header tcp;
	struct ipv4_header ip;
	__u32 size = sizeof(out.ip) + sizeof(out.tcp), quoted, later, sum;

	if (bpf_skb_load_bytes(skb, sizeof(struct eth_header), &ip, sizeof(ip)) || ip.version_words != 0x45 ||
	    ip.fragment & bpf_htons(0x3fff) || for_group(ip.src) || for_group(ip.dst))
		return 0;
	quoted = ip.proto == PROTO_SCTP ? QUOTED_SCTP : QUOTED;
	if (ip.proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, l4, &tcp, sizeof(tcp)) || tcp.flags & TCP_RST)
			return 0;
		resets(&out.tcp, &tcp, bpf_ntohs(ip.length) - sizeof(ip) - (tcp.offset >> 4) * 4);
	} else {
		if (bpf_skb_load_bytes(skb, sizeof(struct eth_header), out.quoted, sizeof(ip) + quoted) ||
		    (ip.proto == PROTO_ICMP && out.quoted[sizeof(ip)] != 8))
			return 0;
		size = sizeof(out.ip) + sizeof(out.icmp) + sizeof(ip) + quoted;
		out.icmp.type = ICMP_UNREACHABLE;
		out.icmp.code = ICMP_PROHIBITED;
	}
	if (!may_refuse(slot))
		return 0;
	later = completed_later(skb, ip.proto == PROTO_TCP ? l4 + 16 : l4 + 6);
	/* Where that writes in other transports is not known. */
	if (later && ip.proto != PROTO_TCP && ip.proto != PROTO_UDP)
		return 0;
	out.ip.version_words = 0x45;
	out.ip.length = bpf_htons(size);
	out.ip.fragment = bpf_htons(0x4000); /* do not fragment */
	out.ip.ttl = 64;
	out.ip.proto = ip.proto == PROTO_TCP ? PROTO_TCP : PROTO_ICMP;
	out.ip.src = ip.dst;
	out.ip.dst = ip.src;
	out.ip.checksum = ~folded(bpf_csum_diff(0, 0, (void *)&out.ip, sizeof(out.ip), 0));
	if (ip.proto == PROTO_TCP) {
		pseudo.src = ip.dst;
		pseudo.dst = ip.src;
		pseudo.length_proto = bpf_htonl(sizeof(out.tcp) + PROTO_TCP);
		sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
		out.tcp.checksum = later ? folded(sum) : ~folded(bpf_csum_diff(0, 0, (void *)&out.tcp, sizeof(out.tcp), sum));
	} else if (!later) {
		/* Else it is written into the unused word, where UDP has its own: a sum is one wherever it stands. */
		out.icmp.checksum = ~folded(bpf_csum_diff(0, 0, (void *)&out.icmp, sizeof(out.icmp) + sizeof(ip) + quoted, 0));
	}
	if (!turned_round(skb, size))
		return 0;
	return !bpf_skb_store_bytes(skb, sizeof(struct eth_header), &out, size, BPF_F_RECOMPUTE_CSUM);
}

/* refuse6: the same for IPv6. */
__noinline int refuse6(struct __sk_buff *skb, __u32 slot)
{
	const __u32 l4 = sizeof(struct eth_header) + sizeof(struct ipv6_header);
	struct refusal6 out = {};
	struct pseudo6 pseudo = {};
	struct tcp_header tcp;
	struct ipv6_header ip;
	__u32 size = sizeof(out.ip) + sizeof(out.tcp), quoted, later, sum;

	if (bpf_skb_load_bytes(skb, sizeof(struct eth_header), &ip, sizeof(ip)) || is_extension(ip.proto) ||
	    ip.ends.src.bytes[0] == 0xff || ip.ends.dst.bytes[0] == 0xff || !(ip.ends.src.halves[0] | ip.ends.src.halves[1]))
		return 0;
	quoted = ip.proto == PROTO_SCTP ? QUOTED_SCTP : QUOTED;
	if (ip.proto == PROTO_TCP) {
		if (bpf_skb_load_bytes(skb, l4, &tcp, sizeof(tcp)) || tcp.flags & TCP_RST)
			return 0;
		resets(&out.tcp, &tcp, bpf_ntohs(ip.length) - (tcp.offset >> 4) * 4);
	} else {
		if (bpf_skb_load_bytes(skb, sizeof(struct eth_header), out.quoted, sizeof(ip) + quoted) ||
		    (ip.proto == PROTO_ICMPV6 && out.quoted[sizeof(ip)] != 128))
			return 0;
		size = sizeof(out.ip) + sizeof(out.icmp) + sizeof(ip) + quoted;
		out.icmp.type = ICMPV6_UNREACHABLE;
		out.icmp.code = ICMPV6_PROHIBITED;
	}
	if (!may_refuse(slot))
		return 0;
	later = completed_later(skb, ip.proto == PROTO_TCP ? l4 + 16 : l4 + 6);
	if (later && ip.proto != PROTO_TCP && ip.proto != PROTO_UDP)
		return 0;
	out.ip.version_flow = bpf_htonl(6U << 28);
	out.ip.length = bpf_htons(size - sizeof(out.ip));
	out.ip.proto = ip.proto == PROTO_TCP ? PROTO_TCP : PROTO_ICMPV6;
	out.ip.hops = 64;
	out.ip.ends.src = ip.ends.dst;
	out.ip.ends.dst = ip.ends.src;
	pseudo.ends = out.ip.ends;
	pseudo.length = bpf_htonl(size - sizeof(out.ip));
	pseudo.proto = bpf_htonl(out.ip.proto);
	sum = bpf_csum_diff(0, 0, (void *)&pseudo, sizeof(pseudo), 0);
	if (ip.proto == PROTO_TCP) {
		out.tcp.checksum = later ? folded(sum) : ~folded(bpf_csum_diff(0, 0, (void *)&out.tcp, sizeof(out.tcp), sum));
	} else if (later) {
		((__u16 *)&out.icmp)[3] = folded(sum); /* the second half of the unused word, as for IPv4 */
	} else {
		out.icmp.checksum = ~folded(bpf_csum_diff(0, 0, (void *)&out.icmp, sizeof(out.icmp) + sizeof(ip) + quoted, sum));
	}
	if (!turned_round(skb, size))
		return 0;
	return !bpf_skb_store_bytes(skb, sizeof(struct eth_header), &out, size, BPF_F_RECOMPUTE_CSUM);
}

/*
 * mark_of: what our answers are marked with between our two hooks, which both see them.
 * A number that user space has drawn by lot, so that nobody else passes for us; marks do
 * not leave a VM. 0: none was drawn.
 */
static __always_inline __u32 mark_of(void)
{
	__u32 zero = 0;
	struct hp_control *c = bpf_map_lookup_elem(&control, &zero);

	return c ? *(volatile __u32 *)&c->mark : 0;
}

/* is_refusal: the frame is an answer of ours on its way through the other hook. */
static __always_inline int is_refusal(const struct __sk_buff *skb)
{
	return skb->mark && skb->mark == mark_of();
}

/*
 * refused answers a frame that a Reject rule has dropped, or drops it silently. Its
 * answer leaves by the other hook of the port's interface.
 */
static __always_inline int refused(struct __sk_buff *skb, const struct hp_port *port, __u32 dir)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	__u32 mark = mark_of();
	int done;

	if (!mark || skb->gso_size || (void *)(eth + 1) > (void *)(long)skb->data_end || *(__u8 *)eth->dst & 1)
		return TC_ACT_SHOT;
	/* A frame that a promiscuous port has looked at is for somebody else to answer. */
	if (dir == HP_IN && port->flags & HP_PORT_PROMISCUOUS && for_other(port, eth))
		return TC_ACT_SHOT;
	if (eth->type == bpf_htons(ETHERTYPE_IPV4))
		done = refuse4(skb, port->slot);
	else
		done = eth->type == bpf_htons(ETHERTYPE_IPV6) && refuse6(skb, port->slot);
	if (!done)
		return TC_ACT_SHOT;
	skb->mark = mark;
	return bpf_redirect(port->ifindex, dir == HP_IN ? BPF_F_INGRESS : 0);
}

#endif
