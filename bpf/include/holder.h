/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Guards by who holds an address: nobody speaks from it, or in its name, but its NIC. And by what a frame carries.
 */
#ifndef HOMEPORT_HOLDER_H
#define HOMEPORT_HOLDER_H

#include "guard.h"
#include "more_maps.h"
#include "parse.h"

/* ARP between Ethernet and IPv4. */
struct arp_header {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u16 sender[3];
	__u16 sender_ip[2];
	__u16 target[3];
	__u16 target_ip[2];
};

/* Neighbour solicitations and advertisements; of others the first 8 bytes. */
struct nd_header {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 flags;
	union addr target;
};

/* read_arp: whether ARP between Ethernet and IPv4 is at offset at. */
static __always_inline int read_arp(struct __sk_buff *skb, __u32 at, struct arp_header *arp)
{
	return !bpf_skb_load_bytes(skb, at, arp, sizeof(*arp)) && arp->hardware == bpf_htons(1) &&
	       arp->protocol == bpf_htons(ETHERTYPE_IPV4) && arp->hardware_length == 6 && arp->protocol_length == 4;
}

/* sender_of: its IP address, as it lies there. */
static __always_inline __u32 sender_of(const struct arp_header *arp)
{
	__u32 ip;

	__builtin_memcpy(&ip, arp->sender_ip, sizeof(ip));
	return ip;
}

/* Whose an address is, as seen from a port. */
enum holder {
	UNHELD,   /* it may be anybody's */
	OWN,      /* by hearsay */
	VOUCHED,  /* its own, or every port's */
	ANOTHERS, /* or no NIC's to have */
};

static __always_inline enum holder holder_of(const struct hp_port *port, __u16 vlan, const union addr *addr)
{
	struct hp_address_key key = { .segment = segment_of(port->slot), .vlan = vlan };
	struct hp_address *a;

	__builtin_memcpy(key.addr, addr, sizeof(key.addr));
	a = bpf_map_lookup_elem(&addresses, &key);
	if (!a)
		return UNHELD;
	if (a->flags & HP_ADDRESS_SHARED)
		return VOUCHED;
	if (a->flags & HP_ADDRESS_NOBODYS)
		return ANOTHERS;
	if (a->flags & HP_ADDRESS_WAITS)
		return UNHELD;
	if (!is_own(port, (const __u16 *)a->mac))
		return ANOTHERS;
	return a->flags & HP_ADDRESS_FIRM ? VOUCHED : OWN;
}

static __always_inline int is_link_local(const union addr *a)
{
	return a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

/* may_use: whether the port speaks from an address, or in its name; free: also from one that nobody holds. */
static __always_inline int may_use(const struct hp_port *port, __u16 vlan, const union addr *addr, int free)
{
	enum holder holder = holder_of(port, vlan, addr);
	/* A VM gives itself those, and no one vouches before it first speaks from one. */
	int strict = port->flags & HP_PORT_STRICT && !is_link_local(addr);

	if (holder == UNHELD)
		return (free && !strict) || is_link_local(addr);
	return holder == VOUCHED || (holder == OWN && !strict);
}

/* guard_arp: GO_ON, or HP_ARP_GUARD. A probe (RFC 5227) names no address of its sender. */
__noinline int guard_arp(struct __sk_buff *skb, const struct hp_port *port, __u32 at, __u32 vlan)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct arp_header arp;
	union addr addr;

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end || !read_arp(skb, at, &arp) ||
	    arp.sender[0] != eth->src[0] || arp.sender[1] != eth->src[1] || arp.sender[2] != eth->src[2])
		return HP_ARP_GUARD;
	map_ipv4(&addr, sender_of(&arp));
	return !sender_of(&arp) || may_use(port, vlan, &addr, 1) ? GO_ON : HP_ARP_GUARD;
}

/* An option of neighbour discovery that has a MAC. */
struct nd_option {
	__u8 type;
	__u8 length; /* in 8 bytes */
	__u16 mac[3];
};

#define ND_OPTIONS 10 /* of a message that a host sends; SEND (RFC 3971) has five */

/* names_mac: whether all options of the type, of those from at to end, name the MAC, and there are only whole ones. */
static __always_inline int names_mac(struct __sk_buff *skb, __u32 at, __u32 end, __u8 type, const __u16 *mac)
{
	struct nd_option o;
	int i;

	for (i = 0; i < ND_OPTIONS && at < end; i++) {
		if (at > MAX_OFFSET || bpf_skb_load_bytes(skb, at, &o, sizeof(o)) || !o.length)
			return 0;
		if (o.type == type && (o.length != 1 || o.mac[0] != mac[0] || o.mac[1] != mac[1] || o.mac[2] != mac[2]))
			return 0;
		at += o.length * 8;
	}
	return at == end;
}

/*
 * guard_nd: GO_ON, or HP_ND_GUARD, for neighbour discovery whose packet begins at at: a solicitation from what is not the port's, an
 * advertisement of that, or either with another MAC. Without a source address it asks whether somebody has one (RFC 4862).
 */
__noinline int guard_nd(struct __sk_buff *skb, const struct hp_port *port, const struct packet *p, __u32 at)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	__u32 message, end = skb->len, type, options;
	union addr addr;
	__be16 length;
	__u16 mac[3];

	if (!port || !p || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return HP_ND_GUARD;
	__builtin_memcpy(mac, eth->src, sizeof(mac));
	message = p->inner - sizeof(union l4_header);
	if (message > MAX_OFFSET || at > MAX_OFFSET || bpf_skb_load_bytes(skb, at + 4, &length, sizeof(length)))
		return HP_ND_GUARD;
	if (length)
		end = at + sizeof(struct ipv6_header) + bpf_ntohs(length);
	addr = p->query.ends.src;
	type = p->query.service >> 8;
	options = message + (type == 133 ? 8 : sizeof(struct nd_header));
	if (type == 136 && bpf_skb_load_bytes(skb, message + 8, &addr, sizeof(addr)))
		return HP_ND_GUARD;
	if ((type == 136 || addr.halves[0] | addr.halves[1]) && !may_use(port, p->vlan, &addr, 1))
		return HP_ND_GUARD;
	/* What routers say has a guard of its own. */
	if (type == 134 || type == 137)
		return GO_ON;
	return names_mac(skb, options, end, type == 136 ? 2 : 1, mac) ? GO_ON : HP_ND_GUARD;
}

/* has_none: a packet that a host sends before it has an address: for DHCP, or to say which groups it listens to. */
static __always_inline int has_none(const struct packet *p)
{
	const union addr *src = &p->query.ends.src;
	__u32 type = p->query.service >> 8;

	if (is_mapped(src))
		return !(__u32)bpf_be64_to_cpu(src->halves[1]) &&
		       (p->proto == PROTO_IGMP || (p->query.group == HP_SVC_UDP && p->dport == bpf_htons(67)));
	return !(src->halves[0] | src->halves[1]) && p->query.group == HP_SVC_ICMPV6 &&
	       ((type >= 130 && type <= 132) || type == 143);
}

/*
 * guard_source: a packet leaves only from an address of its NIC. GO_ON or a reason. It begins at at. A function of its own, for the
 * stacks of the programs.
 */
__noinline int guard_source(struct __sk_buff *skb, const struct hp_port *port, const struct packet *p, __u32 at)
{
	__u32 type;

	if (!port || !p)
		return HP_MALFORMED;
	if (!p->query.ip)
		return GO_ON;
	type = p->query.service >> 8;
	if (port->flags & HP_PORT_ND_GUARD) {
		if (p->kind == NEIGHBOUR)
			return guard_nd(skb, port, p, at);
		/* RFC 6980: it is never fragmented, but not all receivers know. */
		if (p->first && p->query.group == HP_SVC_ICMPV6 && type >= 133 && type <= 137)
			return HP_ND_GUARD;
	}
	if (!(port->flags & HP_PORT_IP_GUARD) || p->kind == NEIGHBOUR || has_none(p))
		return GO_ON;
	return may_use(port, p->vlan, &p->query.ends.src, 0) ? GO_ON : HP_IP_GUARD;
}

/* guard_type: whether what a frame carries is among what may leave the port. GO_ON or a reason. */
__noinline int guard_type(const struct hp_port *port, __u32 ethertype)
{
	struct hp_ethertypes *types;
	__u32 slot, i;

	if (!port)
		return HP_MALFORMED;
	slot = port->slot;
	types = bpf_map_lookup_elem(&port_ethertypes, &slot);
	if (types && ethertype)
		for (i = 0; i < HP_ETHERTYPES_MAX; i++)
			if (types->of[i] == ethertype)
				return GO_ON;
	return HP_ETHERTYPE_GUARD;
}

#endif
