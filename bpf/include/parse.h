/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From frame to packet: addresses of 16 bytes whatever the family, and what
 * rules and connections need of the layers below and above them. Lengths are
 * judged by what headers claim, never by MTU or checksum: a GSO packet is longer
 * than any frame, and its checksum is not there yet.
 */
#ifndef HOMEPORT_PARSE_H
#define HOMEPORT_PARSE_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"
#include "verdict.h"

/* EtherTypes, host order. */
#define ETHERTYPE_IPV4 0x0800
#define ETHERTYPE_ARP 0x0806
#define ETHERTYPE_VLAN 0x8100
#define ETHERTYPE_RARP 0x8035
#define ETHERTYPE_IPV6 0x86dd
#define ETHERTYPE_SVLAN 0x88a8
#define ETHERTYPE_QINQ1 0x9100
#define ETHERTYPE_QINQ2 0x9200
#define ETHERTYPE_MIN 0x0600 /* below it is a length, with LLC behind it */

/* IP protocols and IPv6 extension headers. */
#define PROTO_HOPOPTS 0
#define PROTO_ICMP 1
#define PROTO_IGMP 2
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ROUTING 43
#define PROTO_FRAGMENT 44
#define PROTO_AH 51
#define PROTO_ICMPV6 58
#define PROTO_DSTOPTS 60
#define PROTO_SCTP 132

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* What must be there of a whole packet or a first fragment. */
#define TCP_MIN 20
#define UDP_MIN 8
#define SCTP_MIN 12
#define ICMP_MIN 8 /* every message of both families has that much */

union addr {
	__u64 halves[2];
	__u8 bytes[16];
};

/* As they lie in an IPv6 header. */
struct ends {
	union addr src;
	union addr dst;
};

struct eth_header {
	__u16 dst[3];
	__u16 src[3];
	__be16 type;
};

struct vlan_header {
	__be16 tci;
	__be16 type;
};

struct snap_header {
	__u8 llc[3];
	__u8 organization[3];
	__be16 type;
};

struct ipv4_header {
	__u8 version_words; /* version, header length in 32-bit words */
	__u8 tos;
	__be16 length;
	__be16 id;
	__be16 fragment;
	__u8 ttl;
	__u8 proto;
	__be16 checksum;
	__u32 src;
	__u32 dst;
};

struct ipv6_header {
	__be32 version_flow;
	__be16 length;
	__u8 proto;
	__u8 hops;
	struct ends ends;
};

/* Enough of any extension header: the fragment header, which is the longest. */
struct ext_header {
	__u8 proto;
	__u8 length;
	__be16 fragment;
	__be32 id;
};

/* The first 8 bytes of every transport that is looked into. */
union l4_header {
	struct {
		__be16 sport;
		__be16 dport;
		__u32 rest;
	} ports;
	struct {
		__u8 type;
		__u8 code;
		__be16 checksum;
		__be16 id;
		__be16 sequence;
	} icmp;
};

/* What rules see, and where judge() puts what it found. */
struct query {
	struct ends ends;
	__u64 generation;
	__u32 policy;
	__u16 service; /* destination port, type << 8 | code, or IP protocol */
	__u8 group;    /* enum hp_svc_group; HP_SVC_GROUPS: the packet is not IP */
	__u8 dir;
	__u8 ip : 1;   /* addresses mean something */
	/* Out: */
	__u8 implied : 1;   /* by an implied rule */
	__u8 refuse : 1;    /* by a Reject rule */
	__u8 stateless : 1; /* by a rule that makes no connections */
	__u8 loose : 1;     /* by a rule that picks up TCP in its middle */
	__u8 more : 1;      /* Pass rules or monitored ones may have a say, too */
	__u8 log : 1;       /* the rule asks for logs */
	__u8 firm : 1;      /* as HP_RULE_FIRM */
	__u8 tcp_flags; /* with HP_SVC_TCP */
	__u16 sport;    /* source port */
	__u16 position; /* out: of the rule, or behind all that decide */
	__u16 tier;     /* of search(): the first tier that is asked, or HP_MONITORED */
	__u32 counter; /* out: index into rule_books */
	__u32 rule_id; /* out: 0 is the default action */
};

enum packet_kind {
	STATELESS = 0, /* judged one by one: not IP, other protocols, fragments, most of ICMP */
	TCP,
	UDP, /* and SCTP: flows by their ports alone */
	ECHO_REQUEST,
	ECHO_REPLY,
	ICMP_ERROR,
	NEIGHBOUR, /* ND as RFC 4861 sends it */
};

struct packet {
	struct query query;
	__be16 sport; /* echo: the identifier */
	__be16 dport;
	__u16 vlan;
	__u8 proto; /* after extension headers */
	__u8 kind;  /* enum packet_kind */
	__u8 tcp_flags;
	__u8 fragment; /* a non-first fragment */
	__u8 first;    /* a first fragment: more follow */
	__u8 opens;    /* SCTP: an INIT */
	__u32 inner; /* ICMP error: where the packet begins that it is about */
	__u32 id;    /* of a fragment's datagram, as it lies in the header */
};

/* Where a stage stands in the frame. */
struct span {
	__u32 at;  /* offset of the next header */
	__u32 end; /* offset behind the IP packet, by its own length */
	__u32 v6;
};

#define MAX_OFFSET 0x7fff /* of any header that is looked at */

/*
 * HEADER points at the header at offset at: in the frame if that part is linear,
 * else in *copy; NULL: the frame ends before. The linear part of a GSO packet can
 * be as short as its headers, and is never extended for this. The bound is for
 * verifiers, which forget it when clang keeps at on the stack.
 */
#define HEADER(skb, at, copy)                                                                                          \
	({                                                                                                             \
		__u64 __at = (at);                                                                                     \
		const typeof(*(copy)) *__header;                                                                       \
		asm volatile("%0 &= 0x7fff" : "+r"(__at));                                                             \
		__header = (void *)(long)(skb)->data + __at;                                                           \
		if ((void *)(__header + 1) > (void *)(long)(skb)->data_end)                                            \
			__header = bpf_skb_load_bytes(skb, __at, copy, sizeof(*(copy))) ? NULL : (copy);               \
		__header;                                                                                              \
	})

/* ext_headers() gives back a proto, an offset and these, or -reason. */
#define EXT_OFFSET_SHIFT 8
#define EXT_FRAGMENT (1 << 24) /* a non-first fragment: nothing behind it is known */
#define EXT_FIRST (1 << 25)    /* a first fragment */
#define EXT_OVERLAP (1 << 26)  /* a fragment at offset 1: it would overwrite a transport header */

static __always_inline int is_extension(__u32 proto)
{
	return proto == PROTO_HOPOPTS || proto == PROTO_ROUTING || proto == PROTO_DSTOPTS || proto == PROTO_FRAGMENT ||
	       proto == PROTO_AH;
}

/*
 * ext_headers walks IPv6 extension headers from offset at on; id gets that of a fragment
 * header. A global function: verified once, by itself, however many paths lead to it.
 */
__noinline int ext_headers(struct __sk_buff *skb, __u32 proto, __u32 at, __u32 end, __u32 *id)
{
	struct ext_header ext;
	int flags = 0;
	int i;

	for (i = 0; i < HP_EXT_HEADERS; i++) {
		__u32 size;

		if (!is_extension(proto))
			break;
		/* The packet ends inside its headers. */
		if (at > MAX_OFFSET || at + sizeof(ext) > end || bpf_skb_load_bytes(skb, at, &ext, sizeof(ext)))
			return -HP_MALFORMED;
		size = (ext.length + 1) * 8;
		if (proto == PROTO_AH)
			size = (ext.length + 2) * 4;
		if (proto == PROTO_FRAGMENT) {
			__u32 fragment = bpf_ntohs(ext.fragment);

			if (id)
				*id = ext.id;
			size = sizeof(ext);
			if (fragment & 0xfff8) {
				flags |= EXT_FRAGMENT | (fragment >> 3 == 1 ? EXT_OVERLAP : 0);
				proto = ext.proto;
				at += size;
				break;
			}
			flags |= fragment & 1 ? EXT_FIRST : 0;
		}
		proto = ext.proto;
		at += size;
	}
	/* More than are followed: nobody sends so many but to hide what is behind them. */
	if (!(flags & EXT_FRAGMENT) && is_extension(proto))
		return -HP_TOO_MANY_HEADERS;
	/* The last header claims to reach beyond the packet. */
	if (at > end || at > MAX_OFFSET)
		return -HP_MALFORMED;
	return (proto & 0xff) | at << EXT_OFFSET_SHIFT | flags;
}

/* map_ipv4: ::ffff:a.b.c.d. In halves, as it is read again: a CPU waits for parts. */
static __always_inline void map_ipv4(union addr *to, __u32 ip)
{
	to->halves[0] = 0;
	to->halves[1] = bpf_cpu_to_be64(0xffffULL << 32 | bpf_ntohl(ip));
}

/*
 * bounds finds the end of the IP packet. A length of 0 is a GSO packet too long
 * for the field (BIG TCP).
 */
static __always_inline int bounds(struct __sk_buff *skb, __u32 from, __u32 length, struct span *s)
{
	if (!length && skb->gso_size) {
		s->end = skb->len;
		return 0;
	}
	s->end = from + length;
	return s->end > skb->len;
}

/* parse_ipv4: IPv4 header and options. Returns GO_ON or a reason. */
static __always_inline __u32 parse_ipv4(struct __sk_buff *skb, struct span *s, struct packet *p)
{
	struct ipv4_header copy;
	const struct ipv4_header *ip = HEADER(skb, s->at, &copy);
	__u32 size, fragment;

	/* The frame ends inside the IPv4 header. */
	if (!ip)
		return HP_MALFORMED;
	size = (ip->version_words & 15) * 4;
	/* Another version, a header shorter than the least, or a frame shorter than the packet. */
	if (ip->version_words >> 4 != 4 || size < sizeof(*ip) || bounds(skb, s->at, bpf_ntohs(ip->length), s) ||
	    s->at + size > s->end)
		return HP_MALFORMED;
	map_ipv4(&p->query.ends.src, ip->src);
	map_ipv4(&p->query.ends.dst, ip->dst);
	p->proto = ip->proto;
	s->at += size;
	fragment = bpf_ntohs(ip->fragment) & 0x3fff;
	if (!fragment)
		return GO_ON;
	p->id = ip->id;
	p->fragment = (fragment & 0x1fff) != 0;
	p->first = !p->fragment;
	/* RFC 3128: a fragment at offset 1 would overwrite TCP's flags. */
	if ((fragment & 0x1fff) == 1 && p->proto == PROTO_TCP)
		return HP_MALFORMED;
	return GO_ON;
}

static __always_inline int is_mapped(const union addr *a)
{
	return !a->halves[0] && bpf_be64_to_cpu(a->halves[1]) >> 32 == 0xffff;
}

/* parse_ipv6: IPv6 header and extension headers. Returns GO_ON or a reason. */
static __always_inline __u32 parse_ipv6(struct __sk_buff *skb, struct span *s, struct packet *p, __u8 *hops)
{
	struct ipv6_header copy;
	const struct ipv6_header *ip = HEADER(skb, s->at, &copy);
	int walk;

	/* The frame ends inside the IPv6 header, is of another version, or shorter than the packet. */
	if (!ip || bpf_ntohl(ip->version_flow) >> 28 != 6 || bounds(skb, s->at + sizeof(*ip), bpf_ntohs(ip->length), s))
		return HP_MALFORMED;
	p->query.ends = ip->ends;
	/* RFC 4942 section 2.2: ::ffff:a.b.c.d is no address on a wire. Here it would pass for IPv4. */
	if (is_mapped(&p->query.ends.src) || is_mapped(&p->query.ends.dst))
		return HP_MALFORMED;
	*hops = ip->hops;
	p->proto = ip->proto;
	s->at += sizeof(*ip);
	s->v6 = 1;
	if (!is_extension(p->proto))
		return GO_ON;
	walk = ext_headers(skb, p->proto, s->at, s->end, &p->id);
	if (walk < 0)
		return -walk;
	p->proto = walk & 0xff;
	p->fragment = (walk & EXT_FRAGMENT) != 0;
	p->first = (walk & EXT_FIRST) != 0;
	s->at = walk >> EXT_OFFSET_SHIFT & MAX_OFFSET;
	/* As for IPv4; what a fragment says that it is of means nothing. */
	if (walk & EXT_OVERLAP)
		return HP_MALFORMED;
	return GO_ON;
}

/* icmp_kind says what an ICMP message of either family means to connections. */
static __always_inline __u8 icmp_kind(const union l4_header *l4, __u32 v6)
{
	__u32 type = l4->icmp.type;

	if (type == (v6 ? 128 : 8))
		return l4->icmp.code ? STATELESS : ECHO_REQUEST;
	if (type == (v6 ? 129 : 0))
		return l4->icmp.code ? STATELESS : ECHO_REPLY;
	if (v6 ? type >= 1 && type <= 4 : type == 3 || type == 11 || type == 12)
		return ICMP_ERROR;
	return STATELESS;
}

static __always_inline void set_ports(struct packet *p, const union l4_header *l4, __u8 kind, __u8 group)
{
	p->kind = kind;
	p->sport = l4->ports.sport;
	p->dport = l4->ports.dport;
	p->query.group = group;
	p->query.service = bpf_ntohs(l4->ports.dport);
	p->query.sport = bpf_ntohs(l4->ports.sport);
}

static __always_inline void set_icmp(struct packet *p, const union l4_header *l4, __u32 v6)
{
	p->kind = icmp_kind(l4, v6);
	p->sport = l4->icmp.id;
	p->query.group = v6 ? HP_SVC_ICMPV6 : HP_SVC_ICMP;
	p->query.service = l4->icmp.type << 8 | l4->icmp.code;
}

/* What parse_tcp looks at, 12 bytes into the header. */
struct tcp_middle {
	__u8 offset; /* header length in words, in the upper half */
	__u8 flags;
};

/* parse_tcp: the rest of a TCP header. Returns GO_ON or a reason. */
static __always_inline __u32 parse_tcp(struct __sk_buff *skb, struct span *s, struct packet *p)
{
	struct tcp_middle copy;
	const struct tcp_middle *tcp = HEADER(skb, s->at + 12, &copy);
	__u32 size;

	/* The segment ends inside its header, also as a tiny first fragment (RFC 1858). */
	if (!tcp || s->at + TCP_MIN > s->end)
		return HP_MALFORMED;
	size = (tcp->offset >> 4) * 4;
	/* A header shorter than the least, or longer than the segment. */
	if (size < TCP_MIN || (!p->first && s->at + size > s->end))
		return HP_MALFORMED;
	p->tcp_flags = tcp->flags;
	p->query.tcp_flags = tcp->flags;
	return GO_ON;
}

/* parse_l4: the transport of a whole packet or first fragment. Returns GO_ON or a reason. */
static __always_inline __u32 parse_l4(struct __sk_buff *skb, struct span *s, struct packet *p, __u8 hops)
{
	union l4_header copy;
	const union l4_header *l4;
	__u32 icmp = s->v6 ? PROTO_ICMPV6 : PROTO_ICMP;

	if (p->proto != PROTO_TCP && p->proto != PROTO_UDP && p->proto != PROTO_SCTP && p->proto != icmp)
		return GO_ON;
	/* A message shorter than UDP_MIN or ICMP_MIN, also as a tiny first fragment. */
	if (s->at > MAX_OFFSET || s->at + sizeof(*l4) > s->end)
		return HP_MALFORMED;
	l4 = HEADER(skb, s->at, &copy);
	if (!l4)
		return HP_MALFORMED;
	if (p->proto == PROTO_TCP) {
		set_ports(p, l4, TCP, HP_SVC_TCP);
		return parse_tcp(skb, s, p);
	}
	if (p->proto == PROTO_UDP) {
		set_ports(p, l4, UDP, HP_SVC_UDP);
		return GO_ON;
	}
	if (p->proto == PROTO_SCTP) {
		/* The packet ends inside its header. */
		if (s->at + SCTP_MIN > s->end)
			return HP_MALFORMED;
		set_ports(p, l4, UDP, HP_SVC_SCTP);
		/* RFC 9260 section 8.5.1: only an INIT has no verification tag. */
		p->opens = !l4->ports.rest;
		return GO_ON;
	}
	set_icmp(p, l4, s->v6);
	p->inner = s->at + sizeof(*l4);
	/* RFC 6980: ND is never fragmented. */
	if (s->v6 && hops == 255 && !p->first && l4->icmp.type >= 133 && l4->icmp.type <= 137)
		p->kind = NEIGHBOUR;
	return GO_ON;
}

/* is_dhcp: a UDP port of DHCP's clients or servers, of IPv4 or IPv6; in network order. */
static __always_inline int is_dhcp(__be16 port)
{
	return port == bpf_htons(67) || port == bpf_htons(68) || port == bpf_htons(546) || port == bpf_htons(547);
}

static __always_inline int is_tag(__u32 ethertype)
{
	return ethertype == ETHERTYPE_VLAN || ethertype == ETHERTYPE_SVLAN || ethertype == ETHERTYPE_QINQ1 ||
	       ethertype == ETHERTYPE_QINQ2;
}

/*
 * hides_type: LLC/SNAP in place of an EtherType, by RFC 1042 or 802.1H. Some
 * receivers (Windows) take what it names for the same as without (VU#855201).
 */
static __always_inline int hides_type(struct __sk_buff *skb, __u32 at)
{
	struct snap_header copy;
	const struct snap_header *snap = HEADER(skb, at, &copy);
	__u32 type;

	if (!snap || snap->llc[0] != 0xaa || snap->llc[1] != 0xaa || snap->llc[2] != 3 || snap->organization[0] ||
	    snap->organization[1] || (snap->organization[2] && snap->organization[2] != 0xf8))
		return 0;
	type = bpf_ntohs(snap->type);
	return type == ETHERTYPE_IPV4 || type == ETHERTYPE_IPV6 || type == ETHERTYPE_ARP || type == ETHERTYPE_RARP ||
	       is_tag(type);
}

/*
 * parse_ip fills p from the IP packet at offset at. Returns GO_ON or a reason. A
 * global function: what comes before and behind it is verified once, not once
 * for every shape of packet.
 */
__noinline int parse_ip(struct __sk_buff *skb, struct packet *p, __u32 ethertype, __u32 at)
{
	struct span s = { .at = at };
	__u8 hops = 0;
	__u32 r;

	if (!p)
		return HP_MALFORMED;
	p->query.group = HP_SVC_GROUPS;
	if (ethertype == ETHERTYPE_IPV4)
		r = parse_ipv4(skb, &s, p);
	else if (ethertype == ETHERTYPE_IPV6)
		r = parse_ipv6(skb, &s, p, &hops);
	else
		return ethertype < ETHERTYPE_MIN && hides_type(skb, at) ? HP_MALFORMED : GO_ON;
	if (r != GO_ON)
		return r;
	p->query.ip = 1;
	p->query.group = HP_SVC_IP;
	p->query.service = p->proto;
	if (p->fragment)
		return GO_ON;
	return parse_l4(skb, &s, p, hops);
}

#endif
