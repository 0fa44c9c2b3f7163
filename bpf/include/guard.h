/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a port may carry at all: its state, its VLANs, its MAC. */
#ifndef HOMEPORT_GUARD_H
#define HOMEPORT_GUARD_H

#include "clock.h"
#include "more_maps.h"
#include "parse.h"
#include "verdict.h"

struct frame {
	const struct eth_header *eth;
	__u16 vlan;
	__u32 ethertype; /* of what the frame carries, behind its one tag */
	__u32 at;        /* offset of that */
};

/* port_of: the record of an interface; its own cell nearly always leads there. */
static __always_inline struct hp_port *port_of(__u32 ifindex)
{
	__u32 probe;

	for (probe = 0; probe < HP_PORT_PROBES; probe++) {
		__u32 cell = (ifindex + probe) % HP_PORT_CELLS, place;
		__u32 *found = bpf_map_lookup_elem(&port_index, &cell);
		struct hp_port *port;

		if (!found || !*(volatile __u32 *)found)
			continue;
		place = *(volatile __u32 *)found - 1;
		port = bpf_map_lookup_elem(&port_records, &place);
		if (port && port->ifindex == ifindex)
			return port;
	}
	return NULL;
}

static __always_inline int is_own(const struct hp_port *port, const __u16 *mac)
{
	const __u16 *own = (const __u16 *)port->mac;

	return mac[0] == own[0] && mac[1] == own[1] && mac[2] == own[2];
}

static __always_inline int own_mac(const struct hp_port *port, const struct eth_header *eth)
{
	return is_own(port, eth->src);
}

/* for_other: the bridge did not know where the frame's one receiver is, so it went to all ports. */
static __always_inline int for_other(const struct hp_port *port, const struct eth_header *eth)
{
	return !(eth->dst[0] & bpf_htons(0x0100)) && !is_own(port, eth->dst);
}

/*
 * of_links: a frame to the group addresses that bridges keep to one link (IEEE 802.1Q table 8-1) or
 * to those that Cisco's switches talk by. A switch that hears a BPDU where no switch should be may
 * close the port, which is the node's.
 */
static __always_inline int of_links(const struct eth_header *eth)
{
	return (eth->dst[0] == bpf_htons(0x0180) && eth->dst[1] == bpf_htons(0xc200) &&
		bpf_ntohs(eth->dst[2]) < 0x10) ||
	       (eth->dst[0] == bpf_htons(0x0100) && eth->dst[1] == bpf_htons(0x0ccc) &&
		(eth->dst[2] & bpf_htons(0xfffe)) == bpf_htons(0xcccc));
}

/*
 * guard_servers: what only routers and DHCP servers say. A DHCP answer is known by the port of clients: from
 * which port it comes they do not ask.
 */
static __always_inline __u32 guard_servers(const struct hp_port *port, const struct packet *p)
{
	__u32 type = p->query.service >> 8;

	if (port->flags & HP_PORT_RA_GUARD && p->query.group == HP_SVC_ICMPV6 && (type == 134 || type == 137))
		return HP_RA_GUARD;
	if (port->flags & HP_PORT_DHCP_GUARD && p->query.group == HP_SVC_UDP &&
	    p->dport == (is_mapped(&p->query.ends.src) ? bpf_htons(68) : bpf_htons(546)))
		return HP_DHCP_SERVER_GUARD;
	return GO_ON;
}

/*
 * from_station: a frame with another source MAC leaves a port that may send from others, and what is sent to that
 * MAC is for this port from then on. Not from that of another port of this node, whose bridge would learn it here.
 */
static __always_inline int from_station(const struct hp_station_key *key)
{
	__u32 now = ticks_now(), slot = key->slot, *seen;
	struct hp_mac_key mac = {};
	__u64 *count;

	__builtin_memcpy(mac.mac, key->mac, sizeof(mac.mac));
	/* A group sends nothing, nor does nobody. */
	if (key->mac[0] & 1 || !(key->mac[0] | key->mac[1] | key->mac[2] | key->mac[3] | key->mac[4] | key->mac[5]) ||
	    bpf_map_lookup_elem(&port_macs, &mac))
		return HP_MAC_SPOOF;
	seen = bpf_map_lookup_elem(&stations, key);
	if (seen) {
		if (*seen != now && !dry_run)
			*seen = now;
		return GO_ON;
	}
	count = bpf_map_lookup_elem(&station_counts, &slot);
	/* CPUs that add at once may add some more. */
	if (!count || *(volatile __u64 *)count >= HP_STATIONS_A_PORT)
		return HP_MAC_LIMIT;
	if (dry_run)
		return GO_ON;
	if (bpf_map_update_elem(&stations, key, &now, BPF_NOEXIST) == 0)
		__sync_fetch_and_add(count, 1);
	else if (!bpf_map_lookup_elem(&stations, key))
		return HP_MAC_LIMIT; /* the node's table is full */
	return GO_ON;
}

/* A struct hp_bucket, as it is loaded and stored. */
union bucket {
	struct hp_bucket of;
	__u64 word;
};

/* takes: whether the packet has its place in a bucket that fills at this many a second. */
static __always_inline int takes(struct __sk_buff *skb, __u64 *bucket, __u32 rate)
{
	__u64 most = rate * 1000ULL, have, wants = packets_of(skb) * 1000;
	__u32 since, now = ticks_now();
	union bucket b;

	if (!most || rate > HP_RATE_MAX)
		return 1;
	b.word = *(volatile __u64 *)bucket;
	since = now - b.of.at;
	if (-since < AHEAD) /* another CPU has looked at a later clock */
		since = 0;
	/* A tick is 1.05 ms, and a bucket of 0 one that nobody has looked at yet. */
	have = b.word ? b.of.tokens + since * (most / 1000) * 1049 / 1000 : most;
	if (have > most)
		have = most;
	/* A GSO packet of more segments than a second has goes when nothing else went for that long. */
	if (have < wants && have < most)
		return 0;
	if (dry_run)
		return 1;
	b.of.tokens = have < wants ? 0 : have - wants;
	b.of.at = now;
	*(volatile __u64 *)bucket = b.word;
	return 1;
}

/* by_rate: whether the port may send one more frame to a group. */
static __always_inline int by_rate(struct __sk_buff *skb, const struct eth_header *eth, __u32 slot)
{
	__u32 many = (eth->dst[0] & eth->dst[1] & eth->dst[2]) != 0xffff, place = slot * 2 + many;
	struct hp_rates *rates = bpf_map_lookup_elem(&port_rates, &slot);
	__u64 *bucket = bpf_map_lookup_elem(&buckets, &place);

	if (!rates || !bucket || takes(skb, bucket, many ? rates->multicast : rates->broadcast))
		return GO_ON;
	return many ? HP_MULTICAST_LIMIT : HP_BROADCAST_LIMIT;
}

/*
 * by_peer: whether the port may send one more frame to somebody. It may to whom it has heard of lately: the bridge knows where that
 * is, and sends what is for others everywhere.
 */
static __always_inline int by_peer(struct __sk_buff *skb, const struct hp_station_key *key)
{
	__u32 slot = key->slot, *seen = bpf_map_lookup_elem(&peers, key), *limit = bpf_map_lookup_elem(&unicast_limits, &slot);
	__u64 *bucket = bpf_map_lookup_elem(&unicast_buckets, &slot);

	if (seen && handover_clock() - *seen <= HP_PEER_FOR)
		return GO_ON;
	return !limit || !bucket || takes(skb, bucket, *limit) ? GO_ON : HP_UNICAST_LIMIT;
}

/* vlan_of is as guard_vlan finds it, which has seen it or will. */
static __always_inline __u16 vlan_of(struct __sk_buff *skb, const struct hp_port *port, const struct eth_header *eth)
{
	const struct vlan_header *tag = NULL;
	struct vlan_header copy;

	if (!skb->vlan_present && is_tag(bpf_ntohs(eth->type)))
		tag = HEADER(skb, sizeof(*eth), &copy);
	return skb->vlan_present ? skb->vlan_tci & 0xfff : tag ? bpf_ntohs(tag->tci) & 0xfff : port->pvid;
}

/*
 * by_port: what not all ports ask: how much goes to groups and to who is not known, and whether a frame passes that is from another MAC than the
 * port's, or to one. GO_ON or a reason. A function of its own, for the stacks of the programs.
 */
__noinline int by_port(struct __sk_buff *skb, const struct hp_port *port, __u32 dir)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct hp_station_key key = {};

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return HP_MALFORMED;
	key.vlan = vlan_of(skb, port, eth);
	key.slot = port->slot;
	key.serial = port->serial;
	if (dir == HP_IN) {
		if (port->flags & HP_PORT_PROMISCUOUS || !for_other(port, eth))
			return GO_ON;
		__builtin_memcpy(key.mac, eth->dst, sizeof(key.mac));
		return bpf_map_lookup_elem(&stations, &key) ? GO_ON : HP_NOT_FOR_PORT;
	}
	if (port->flags & HP_PORT_RATES && eth->dst[0] & bpf_htons(0x0100)) {
		__u32 r = by_rate(skb, eth, port->slot);

		if (r != GO_ON)
			return r;
	}
	if (port->flags & HP_PORT_UNICAST && !(eth->dst[0] & bpf_htons(0x0100))) {
		int r;

		__builtin_memcpy(key.mac, eth->dst, sizeof(key.mac));
		r = by_peer(skb, &key);
		if (r != GO_ON)
			return r;
	}
	if (own_mac(port, eth))
		return GO_ON;
	__builtin_memcpy(key.mac, eth->src, sizeof(key.mac));
	return from_station(&key);
}

/* note_peer: something has come to the port. A function of its own, for the stacks of the programs. */
__noinline int note_peer(struct __sk_buff *skb, const struct hp_port *port)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	__u32 now = handover_clock(), *seen;
	struct hp_station_key key = {};

	if (!port || (void *)(eth + 1) > (void *)(long)skb->data_end)
		return 0;
	key.vlan = vlan_of(skb, port, eth);
	key.slot = port->slot;
	key.serial = port->serial;
	__builtin_memcpy(key.mac, eth->src, sizeof(key.mac));
	seen = bpf_map_lookup_elem(&peers, &key);
	if (!seen)
		bpf_map_update_elem(&peers, &key, &now, BPF_ANY);
	else if (*seen != now)
		*seen = now;
	return 0;
}

/* A struct hp_handover, as it is loaded and stored. */
union handover {
	struct hp_handover of;
	__u64 word;
};

/*
 * handed_over: the VM has arrived at the port that has or had the slot under this
 * serial; *at says when.
 */
static __always_inline int handed_over(__u32 slot, __u32 serial, __u32 *at)
{
	__u64 *entry = bpf_map_lookup_elem(&handovers, &slot);
	union handover h;

	if (!entry)
		return 0;
	h.word = *(volatile __u64 *)entry;
	*at = h.of.at;
	return h.of.serial == serial;
}

/*
 * arrives: the frame is the VM's own word that it runs here now. QEMU sends reverse
 * ARP requests when the guest is about to run on the target of its migration, and at
 * no other time; they are never tagged. The launcher pod, whose noise quarantine is
 * there for, does not know how to. The port opens with this frame.
 */
static __always_inline int arrives(struct __sk_buff *skb, const struct hp_port *port, __u32 dir)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	__u32 slot = port->slot;
	union handover h;
	__u64 *entry;

	if (dir != HP_OUT || (void *)(eth + 1) > (void *)(long)skb->data_end ||
	    eth->type != bpf_htons(ETHERTYPE_RARP) || skb->vlan_present || !own_mac(port, eth))
		return 0;
	entry = bpf_map_lookup_elem(&handovers, &slot);
	if (!entry)
		return 0;
	if (dry_run)
		return 1;
	h.of.serial = port->serial;
	h.of.at = handover_clock();
	*(volatile __u64 *)entry = h.word;
	return 1;
}

/* guard_state: only an active port passes anything, or one whose VM has arrived. */
static __always_inline __u32 guard_state(struct __sk_buff *skb, const struct hp_port *port, __u32 dir)
{
	__u32 at;

	switch (port->state) {
	case HP_ACTIVE:
		return GO_ON;
	case HP_QUARANTINED:
		if (handed_over(port->slot, port->serial, &at) || arrives(skb, port, dir))
			return GO_ON;
		return HP_PORT_QUARANTINED;
	case HP_RELEASED: /* the VM lives elsewhere */
		return HP_PORT_RELEASED;
	default: /* dark, or a state that this version does not know */
		return HP_PORT_DARK;
	}
}

/*
 * guard_vlan finds the frame's VLAN and refuses tags that the port may not carry.
 * The outer tag is in metadata at both hooks (vlan_tci is stale unless
 * vlan_present, seen on 6.1); a second one, and every tag under
 * BPF_PROG_TEST_RUN, is in the frame.
 */
static __always_inline __u32 guard_vlan(struct __sk_buff *skb, const struct hp_port *port, struct frame *f)
{
	__u32 outer = 0, vid;
	const struct vlan_header *tag;
	struct vlan_header copy;

	f->ethertype = bpf_ntohs(f->eth->type);
	f->at = sizeof(*f->eth);
	f->vlan = port->pvid;
	if (skb->vlan_present)
		outer = bpf_ntohs(skb->vlan_proto);
	if (!outer && !is_tag(f->ethertype)) {
		/* A guest on a trunk port has to say which VLAN it means. */
		return port->mode == HP_TRUNK ? HP_UNTAGGED : GO_ON;
	}
	/* The guest of an access port has no business with tags, not even tag 0: the
	 * bridge would take the outer one off and let the inner one hop VLANs. To the
	 * VM such a frame can only come from a neighbour that hops. */
	if (port->mode == HP_ACCESS)
		return HP_GUEST_TAG;
	vid = skb->vlan_tci;
	if (!outer) {
		/* The frame ends inside its tag. */
		tag = HEADER(skb, f->at, &copy);
		if (!tag)
			return HP_MALFORMED;
		outer = f->ethertype;
		vid = bpf_ntohs(tag->tci);
		f->ethertype = bpf_ntohs(tag->type);
		f->at += sizeof(*tag);
	}
	/* A service tag is payload to an 802.1Q bridge; a second tag hops. */
	if (outer != ETHERTYPE_VLAN || is_tag(f->ethertype))
		return HP_GUEST_TAG;
	vid &= 0xfff;
	/* Not one of the port's VLANs; tag 0 never is. */
	if (!(port->vlans[vid / 64] >> (vid % 64) & 1))
		return HP_VLAN_NOT_ALLOWED;
	f->vlan = vid;
	return GO_ON;
}

/*
 * guard_hello: HP_HELLO if a hello lies at offset at, behind its EtherType; else what was found so far.
 * A function of its own, for the stacks of the programs.
 */
__noinline int guard_hello(struct __sk_buff *skb, __u32 at, __u32 so_far)
{
	__be32 copy;
	const __be32 *magic = HEADER(skb, at, &copy);

	return magic && *magic == bpf_htonl(HP_HELLO_MAGIC) ? HP_HELLO : so_far;
}

/*
 * foreign_mac says why a frame with another source MAC is dropped. The launcher
 * pod's own bridge and IPv6 stack, for which the VM is no reason, speak up when
 * their interfaces come up: that is noise, not spoofing.
 */
__noinline int foreign_mac(struct __sk_buff *skb, __u32 ethertype, __u32 at)
{
	const struct eth_header *eth = (void *)(long)skb->data;
	struct packet p = {};
	__u32 type;

	if ((void *)(eth + 1) > (void *)(long)skb->data_end ||
	    (eth->dst[0] != bpf_htons(0x3333) && eth->dst[0] != bpf_htons(0x0100)))
		return HP_MAC_SPOOF;
	if (parse_ip(skb, &p, ethertype, at) != GO_ON)
		return HP_MAC_SPOOF;
	/* The bridge looks for multicast routers (RFC 4286), and has no address for it. */
	if (ethertype == ETHERTYPE_IPV4 && p.proto == PROTO_IGMP && !(__u32)bpf_be64_to_cpu(p.query.ends.src.halves[1]))
		return HP_LAUNCHER_NOISE;
	if (p.query.group != HP_SVC_ICMPV6)
		return HP_MAC_SPOOF;
	type = p.query.service >> 8;
	if (type == 133 || type == 131 || type == 132 || type == 143)
		return HP_LAUNCHER_NOISE;
	/* Duplicate address detection has no source address yet. */
	if (type == 135 && !(p.query.ends.src.halves[0] | p.query.ends.src.halves[1]))
		return HP_LAUNCHER_NOISE;
	return HP_MAC_SPOOF;
}

#endif
