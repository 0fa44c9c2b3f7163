/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The contract between the port programs and user space: every enum, limit and
 * map value that both sides read. Go types are generated from it by bpf2go;
 * reason names, metrics labels and docs by hack/abigen from the REASONS table.
 * Multi-byte fields are in host order unless the comment says "network order".
 */
#ifndef HOMEPORT_ABI_H
#define HOMEPORT_ABI_H

/* Part of every pin path: a change of any map's layout raises it. */
#define HP_ABI_VERSION 1

/* Where a port stands in its life; see DESIGN "The life of a port". */
enum hp_port_state {
	HP_DARK = 0,        /* nothing passes, both ways */
	HP_QUARANTINED = 1, /* nothing, until the VM has arrived: target of a live migration */
	HP_ACTIVE = 2,      /* what guards and policy allow */
	HP_RELEASED = 3,    /* nothing: the VM has moved away */
};

/* Which hook judged, and the direction words of FirewallPolicy. */
enum hp_dir {
	HP_OUT = 0, /* from the VM: ingress hook of the host veth */
	HP_IN = 1,  /* to the VM: egress hook of the host veth */
	HP_DIRS = 2,
};

enum hp_vlan_mode {
	HP_ACCESS = 0, /* untagged to the VM, one VLAN */
	HP_TRUNK = 1,  /* the VM tags; untagged is refused */
	HP_NATIVE = 2, /* the VM tags, untagged belongs to pvid */
};

/*
 * What became of a packet and why. X(NAME, value, PASS|DROP, "text")
 * Values are stable: never reuse or renumber one.
 */
#define HP_REASONS(X)                                                                                                  \
	X(ESTABLISHED, 0, PASS, "belongs to a connection that a rule allowed")                                             \
	X(RULE_ALLOW, 1, PASS, "a firewall rule allows it")                                                                \
	X(DEFAULT_ALLOW, 2, PASS, "no rule matched and the network's defaultAction is Allow")                              \
	X(RELATED, 3, PASS, "ICMP error about a known connection")                                                         \
	X(ARP, 4, PASS, "ARP passes the firewall")                                                                         \
	X(RARP, 5, PASS, "RARP passes the firewall")                                                                       \
	X(ND, 6, PASS, "IPv6 Neighbor Discovery passes the firewall")                                                      \
	X(FRAGMENT_ALLOW, 7, PASS, "non-first fragment whose first one passed, or allowed by a rule without ports or by defaultAction")            \
	X(MIGRATED, 8, PASS, "belongs to a connection from before the VM came here; a rule allows its opener")               \
	X(REFUSAL, 9, PASS, "TCP reset or ICMP error by which a Reject rule of this port answers")                        \
	X(TO_HOLDER, 10, PASS, "ARP request or neighbour solicitation given to the VM of this node that has the address, and to nobody else")          \
	X(HELLO, 14, DROP, "hello between Homeport's agents, which no VM gets or sends; one that comes in is counted, but told by no event")   \
	X(NOT_FOR_PORT, 15, DROP, "flooded by the bridge: unicast to another MAC than the port's; counted, but told by no event")                  \
	X(NO_PORT, 16, DROP, "the interface has no port record; nothing passes until the agent repairs it")                \
	X(PORT_DARK, 17, DROP, "the port is not complete yet")                                                             \
	X(PORT_QUARANTINED, 18, DROP, "the port waits for a migration's hand-over")                                        \
	X(PORT_RELEASED, 19, DROP, "the VM has moved away from this port")                                                 \
	X(NO_PROGRAM, 20, DROP, "no compiled policy is loaded for the port's network")                                     \
	X(RULE_DROP, 21, DROP, "a firewall rule drops or rejects it")                                                      \
	X(DEFAULT_DROP, 22, DROP, "no rule matched and the network's defaultAction is Drop")                               \
	X(TCP_NO_STATE, 23, DROP, "allowed by policy, but TCP that is no opening SYN and belongs to no known connection")  \
	X(MAC_SPOOF, 24, DROP, "source MAC is not the port's")                                                             \
	X(LAUNCHER_NOISE, 25, DROP, "DAD, MLD, IGMP or router solicitation of the launcher pod itself, not of the VM")      \
	X(GUEST_TAG, 26, DROP, "VLAN tag on an access port; on a trunk port a second tag, or one that is not 802.1Q")       \
	X(VLAN_NOT_ALLOWED, 27, DROP, "VLAN is not in the trunk port's list")                                              \
	X(UNTAGGED, 28, DROP, "untagged frame on a trunk port without a native VLAN")                                      \
	X(MALFORMED, 29, DROP, "headers cut short or contradictory, or IP, ARP or a tag behind LLC/SNAP")                  \
	X(TOO_MANY_HEADERS, 30, DROP, "more IPv6 extension headers than are followed")                                     \
	X(FRAGMENT_DROP, 31, DROP, "non-first fragment whose first one was not seen to pass, not allowed by a rule without ports")    \
	X(BPDU_GUARD, 32, DROP, "frame to a group of links, as spanning tree, LACP or CDP, from a VM whose network guards against it")    \
	X(RA_GUARD, 33, DROP, "router advertisement or redirect of IPv6 from a VM whose network guards against it")                       \
	X(DHCP_SERVER_GUARD, 34, DROP, "answer of a DHCP server, of either family, from a VM whose network guards against it")            \
	X(MAC_LIMIT, 35, DROP, "source MAC is not the port's, which may send from others, but has sent from as many as it may") \
	X(BROADCAST_LIMIT, 36, DROP, "broadcast of a VM that sends more of them than its network's rateLimits")                          \
	X(MULTICAST_LIMIT, 37, DROP, "multicast of a VM that sends more of it than its network's rateLimits") \
	X(IP_GUARD, 38, DROP, "IP packet from an address that its NIC does not hold, or by hearsay alone where its network's ipGuard is Strict")        \
	X(ARP_GUARD, 39, DROP, "ARP in the name of another MAC or of an address that is not its NIC's, or that is none between Ethernet and IPv4")      \
	X(ND_GUARD, 40, DROP, "neighbour discovery in the name of an address that is not its NIC's, or that names another MAC, or is not whole")        \
	X(ETHERTYPE_GUARD, 41, DROP, "EtherType that its network's etherTypes do not list") \
	X(UNICAST_LIMIT, 42, DROP, "unicast to a MAC that nothing has come from lately, of a VM that sends more of it than its network's rateLimits") \
	X(SUPPRESSED, 43, DROP, "ARP request or neighbour solicitation for an address that another NIC surely has; counted, but told by no event")

#define HP_REASON_FIRST_DROP 14 /* lower it for more of them: 11 to 13 were never given out */
#define HP_REASON_MAX 64
#define HP_REASON_COUNTED 32 /* reasons from here on are counted in late_counters */

enum hp_reason {
#define X(name, value, kind, text) HP_##name = value,
	HP_REASONS(X)
#undef X
};

/*
 * Hellos: by these frames agents see which VLANs the fabric carries between nodes. The EtherType
 * is for anybody's local experiments (IEEE 802), so the payload begins with a word of our own.
 */
#define HP_HELLO_ETHERTYPE 0x88b5
#define HP_HELLO_MAGIC 0x48507274 /* "HPrt" */

/*
 * A compiled policy is an immutable inner ARRAY of 512-byte pages, written
 * once and published by one write of an outer slot. Page 0 is hp_header.
 * Tables start at the page numbers that the header names:
 *   classrow  u16[256] a page: address class -> row number; one table each for
 *             sources and destinations, and of those of the VM's side, where rules ask which of
 *             its addresses it is. A class past the table reads row 0.
 *   rows      u64[64] a page, one row behind the other (row 0: rules with Any only);
 *             a row lies within a page, or begins one and fills pages. Bit i (word
 *             i/64, bit i%64) stands for the rule at position i.
 *   svcindex  u16[256] a page: svc_groups groups, each 256 chunk numbers by
 *             the high byte; kept in so many consecutive pages.
 *   sportindex u16[256] a page: for each direction HP_SPORT_GROUPS groups, by the high
 *             byte of the source port: in place of dir_row, the rules that apply in
 *             this direction and do not ask for other source ports.
 *   flagindex u16[256], one page: by the flags of a TCP header, the number of their group; what is
 *             not TCP is of that of no flags, 0.
 *   flagparts struct hp_part in 16 bytes, 32 a page: for each group HP_TIERS_MAX + 1, in
 *             place of dir_row and sportindex, and of each of parts, which mean nothing then.
 *   etherindex u16[256], one page: as a group of svcindex by the EtherType. Its rows have Ethernet
 *             rules alone, and those of svcindex and svc_none_row have none.
 *   svcchunk  u16[256] a page: row number by the low byte, for all indexes.
 *   meta      hp_rule[32] a page, by position.
 * All row numbers point into the same rows table.
 */
#define HP_PAGE_SIZE 512
#define HP_WORDS_MAX 192 /* rules a program: 64 * words; later versions only widen */

/* svcindex groups: (high byte, low byte) of ... */
enum hp_svc_group {
	HP_SVC_TCP = 0,    /* destination port */
	HP_SVC_UDP = 1,    /* destination port */
	HP_SVC_ICMP = 2,   /* type, code */
	HP_SVC_ICMPV6 = 3, /* type, code */
	HP_SVC_SCTP = 4,   /* destination port */
	HP_SVC_IP = 5,     /* 0, IP protocol, where no more is known: other protocols, non-first fragments */
	HP_SVC_GROUPS = 6,
	HP_SVC_ETHER = 7,  /* of a query: a frame by its EtherType; in etherindex, not in svcindex */
};

#define HP_SVC_GROUPS_FIRST 4 /* groups of programs that do not say how many they have */
#define HP_SPORT_GROUPS 3     /* sportindex groups: TCP, UDP, SCTP */

/* Rows of some rules alone, in place of those of all that the header has under these names. */
struct hp_part {
	__u32 dir_row[HP_DIRS];
	__u32 sportindex;
};

#define HP_TIERS_MAX 8 /* tiers of rules, from 0 on: rules stand in the order of their tiers */
#define HP_MONITORED 8 /* the part of monitored rules; before it those of what decides in tiers from 1 on, from 2 on ... */

struct hp_header {
	__u32 earlier_words; /* 0, so that programs of earlier versions, which would look for hosts among the prefixes, refuse the page. On pages of those versions it is what words is now */
	__u32 rules;        /* positions that decide; those of monitored rules are behind */
	__u32 default_action; /* enum hp_action */
	__u32 default_counter; /* index into rule_books */
	__u32 src_classrow; /* first page */
	__u32 dst_classrow; /* first page */
	__u32 classes;      /* entries in each classrow table */
	__u32 rows;         /* first page */
	__u32 svcindex;     /* first page */
	__u32 svcchunk;     /* first page */
	__u32 svc_none_row; /* row for what has no service, as what is not IP */
	__u32 meta;         /* first page */
	__u32 dir_row[HP_DIRS]; /* row of the rules that apply in this direction */
	__u32 svc_groups;   /* svcindex groups; 0: HP_SVC_GROUPS_FIRST. Packets of others have no service */
	__u32 sportindex;   /* first page; 0: no rule asks for source ports */
	__u32 monitored;    /* positions behind those: rules that decide nothing and are counted */
	struct hp_part parts[HP_TIERS_MAX]; /* that of tier n at n - 1, where a rule leads there */
	__u32 local_classrow[HP_DIRS]; /* from here on pages of earlier versions have 0. First page; in place of src_classrow for what goes out, and of dst_classrow for what comes in; 0: that is the same */
	__u32 flagindex;    /* page; 0: no rule asks for TCP flags */
	__u32 flagparts;    /* first page */
	__u32 etherindex;   /* page; 0: no Ethernet rules */
	__u32 words;        /* u64 words a row: a power of two up to 64, or a multiple of 64 up to HP_WORDS_MAX. 0: a page of an earlier version, whose hosts are among the prefixes */
};

enum hp_action {
	HP_DROP = 0,
	HP_ALLOW = 1,
	HP_REJECT = 2, /* drop, and tell the sender; of rules alone */
	HP_PASS = 3,   /* the next tier decides; of rules alone */
};

struct hp_rule {
	__u32 counter; /* index into rule_books */
	__u32 rule_id; /* the number that people know; unique within its policy */
	__u32 action;  /* enum hp_action */
	__u32 flags;   /* HP_RULE_IMPLIED to HP_RULE_FIRM; above these, HP_RULE_LINK_SHIFT up, the link */
};

/* Nobody wrote the rule: it says for some packets what a default says for all. */
#define HP_RULE_IMPLIED 1

/* What the rule allows is no connection: each packet is judged by itself, both ways. */
#define HP_RULE_STATELESS 2

/* TCP that the rule allows is a connection also where its opening SYN was not seen. */
#define HP_RULE_LOOSE 4

/* What it decides, and the end of connections that it allowed, is told by events. */
#define HP_RULE_LOG 8

/* An Allow keeps the connections that it has allowed when rules change; a Drop or Reject ends kept ones, too. */
#define HP_RULE_FIRM 16

/*
 * The link of a monitored rule is how many positions that decide stand before it in the
 * order of rules; that of a Pass rule the tier that is asked next.
 */
#define HP_RULE_LINK_SHIFT 16

/* Of hp_port.flags. */
#define HP_PORT_FAST 1        /* the port takes part in the fast path; an access port */
#define HP_PORT_PROMISCUOUS 2 /* gets unicast to other MACs, where the bridge floods it */
#define HP_PORT_BPDU_GUARD 4  /* guards: the reasons of these names */
#define HP_PORT_RA_GUARD 8
#define HP_PORT_DHCP_GUARD 16
#define HP_PORT_FORGED 32      /* frames from other MACs leave it */
#define HP_PORT_MAC_CHANGES 64 /* it gets unicast to MACs that it has sent from */
#define HP_PORT_RATES 128      /* port_rates has limits for what it sends */
#define HP_PORT_IP_GUARD 256   /* guards: the reasons of these names */
#define HP_PORT_STRICT 512     /* with HP_PORT_IP_GUARD: addresses count that somebody vouches for, and no others; to HP_PORT_ARP_GUARD and HP_PORT_ND_GUARD, too */
#define HP_PORT_ARP_GUARD 1024
#define HP_PORT_ND_GUARD 2048
#define HP_PORT_ETHERTYPES 4096 /* only what port_ethertypes lists leaves it */
#define HP_PORT_UNICAST 8192   /* unicast_limits has a limit for what it sends to MACs that nothing has come from */
#define HP_PORT_SUPPRESS 16384 /* requests for addresses whose holders are known go to nobody else: HP_SUPPRESSED, HP_TO_HOLDER */

/*
 * A port's record. There are two places for each slot, slot * 2 and slot * 2 + 1:
 * a new version is written where no packet looks, and then the port's cell of
 * port_index is stored, so a packet sees one version.
 */
struct hp_port {
	__u32 state;       /* enum hp_port_state */
	__u32 slot;        /* index into conns and port_counters */
	__u32 policy;      /* policy number; its program is in slot policy * 2 + (generation & 1) */
	__u16 mode;        /* enum hp_vlan_mode */
	__u16 pvid;        /* VLAN of untagged frames: access VLAN, native VLAN, or 0 */
	__u8 mac[6];       /* the VM's MAC: the only source MAC let out */
	__u16 flags;       /* HP_PORT_FAST and the others of that name */
	__u32 serial;      /* differs for every port that ever had this slot */
	__u32 ifindex;     /* host end */
	__u64 vlans[64];   /* trunk and native: bit per VLAN that the VM may tag */
};

/* How much a port may send, in packets a second; 0: no limit. */
struct hp_rates {
	__u32 broadcast;
	__u32 multicast;
};

/*
 * A bucket that has what a port may send at once, in thousandths of packets, and fills at its rate, up to what a second has.
 * One aligned 8-byte value.
 */
struct hp_bucket {
	__u32 tokens;
	__u32 at; /* when it was last looked at, in ticks */
};
#define HP_RATE_MAX 1000000
#define HP_PEERS 65536   /* MACs that ports with HP_PORT_UNICAST have heard of lately; the least recently used make room */
#define HP_PEER_FOR 279  /* lately: as long as a bridge keeps a MAC, 300 s, in 2^30 ns */

/* A MAC beside its own that a port with HP_PORT_FORGED has sent from, in a VLAN. */
#define HP_STATIONS_A_PORT 256
#define HP_STATIONS 65536
struct hp_station_key {
	__u32 slot;
	__u32 serial; /* hp_port.serial */
	__u8 mac[6];
	__u16 vlan;
};

/* Counters of a port's reasons from HP_REASON_COUNTED on. */
struct hp_late_key {
	__u32 serial; /* hp_port.serial */
	__u32 reason; /* enum hp_reason */
};

/* EtherTypes, host order; 0 is no more. */
#define HP_ETHERTYPES_MAX 16
struct hp_ethertypes {
	__u16 of[HP_ETHERTYPES_MAX];
};

/* A MAC as a key. */
struct hp_mac_key {
	__u8 mac[6];
	__u16 pad;
};

/* An IP address in a VLAN. */
struct hp_address_key {
	__u32 segment;   /* of whose trunk: port_segments */
	__u16 vlan;      /* that of the port, or the one that its VM tags */
	__u16 pad;
	__u8 addr[16];   /* IPv4 as ::ffff:a.b.c.d */
};

/* Of hp_address.flags. */
#define HP_ADDRESS_FIRM 1    /* somebody vouches for it: declared, leased, approved, set by hand; or a link-local address of IPv6 */
#define HP_ADDRESS_SHARED 2  /* it moves between NICs, as VRRP's does */
#define HP_ADDRESS_WAITS 4   /* the NIC claims it and waits for approval; to guards nobody holds it */
#define HP_ADDRESS_NOBODYS 8 /* no NIC's to have, as a gateway's */
#define HP_ADDRESS_DISPUTED 16 /* another says that he has it, too */

/* Who has an address. */
struct hp_address {
	__u8 mac[6];     /* of the NIC's port, hp_port.mac; 0: of none */
	__u16 flags;     /* HP_ADDRESS_... */
	__u32 seen;      /* when the NIC last said so, in 2^30 ns units of CLOCK_MONOTONIC_COARSE, + 1; 0: never. By the programs */
	__u32 reserved;
};

/* A frame that says who has an address; behind it the frame as the hook had it, with one tag in it or none. */
struct hp_heard {
	__u64 at;        /* ns of CLOCK_MONOTONIC_COARSE */
	__u32 ifindex;   /* host end of the port */
	__u32 length;    /* skb->len, bytes */
	__u16 vlan;      /* as in hp_address_key */
	__u16 size;      /* bytes of the frame that are here */
	__u16 head;      /* bytes of this struct, for readers of another version */
	__u16 dir;       /* enum hp_dir */
};

#define HP_ADDRESSES 131072    /* a node */
#define HP_HEARD_SHORT 128     /* bytes of a frame of ARP or neighbour discovery that are told, at most */
#define HP_HEARD_LONG 1000     /* of DHCP */
#define HP_HEARD_BYTES 1048576 /* of frames that nobody has read yet */
#define HP_HEARD_A_WINDOW 64   /* frames of a port and group that are told in 2^30 ns */
#define HP_HEARD_OF_NODE 8192  /* of all ports */
#define HP_HEARD_DHCP 2        /* beside enum hp_dir the group of DHCP that comes; of all ports, also of what goes */

/*
 * control[0], memory-mapped by user space. Programs read only the generation:
 * one aligned 8-byte value stored by one instruction, so a reader sees one
 * generation. The rest is user space's memory across its restarts.
 */
struct hp_control {
	__u64 generation; /* 0: nothing compiled yet, every policy lookup drops. With HP_GENERATION_ETHER */
	__u64 hashed;     /* the generation whose content hash says */
	__u8 hash[32];    /* SHA-256 of what was compiled, for a Sync that changes nothing */
	__u32 serial;     /* the last hp_port.serial given out */
	__u32 mark;       /* of the programs' own answers, by lot; programs read it, too */
};

/*
 * With this bit in it, generation has a policy with Ethernet rules. It is not of the number, by
 * which generations follow each other.
 */
#define HP_GENERATION_ETHER_BIT 63
#define HP_GENERATION_ETHER (1ULL << HP_GENERATION_ETHER_BIT)

/*
 * The address that stands for a MAC: this, and behind it the MAC. It is of the block that is
 * discarded wherever it is met (RFC 6666); rules about packets never name a MAC's.
 */
#define HP_MAC_BLOCK { 0x01, 0x00 }
#define HP_MAC_AT 10

/* policy_names: key __u32 policy number. Read by user space only. */
#define HP_NAME_MAX 256
struct hp_policy_name {
	__u8 network[HP_NAME_MAX]; /* VLANNetwork's name, ended by a NUL; "" is no network */
};

/* A flow as its port sees it. One key for both directions. */
struct hp_flow_key {
	__u8 local[16];  /* the VM's side; IPv4 as ::ffff:a.b.c.d */
	__u8 remote[16];
	__u16 lport;     /* network order; ICMP echo: the identifier */
	__u16 rport;     /* network order; ICMP echo: enum hp_dir of the request + 1 */
	__u16 vlan;
	__u8 proto;
	__u8 pad;
} __attribute__((aligned(8)));

/* Unconfirmed flows of all ports share one LRU: a flood ages out only its like. */
struct hp_new_key {
	struct hp_flow_key flow;
	__u32 slot; /* the port's slot */
	__u32 serial; /* the port's serial: a reused slot inherits nothing */
};

enum hp_flow_state {
	HP_FLOW_NEW = 0,     /* only its opener was seen */
	HP_FLOW_OPEN = 1,    /* answered */
	HP_FLOW_CLOSING = 2, /* TCP: RST, or FIN from both sides */
};

struct hp_flow {
	__u64 generation; /* policy generation that last judged its opener */
	__u32 seen;       /* last packet, in 2^20 ns units of CLOCK_MONOTONIC_COARSE, wraps */
	__u32 rule_id;    /* of the rule that allowed it; 0 for the default action */
	__u8 opener;      /* enum hp_dir of the first packet; with the key it gives the opener's tuple back */
	__u8 state;       /* enum hp_flow_state */
	__u8 fin[HP_DIRS]; /* TCP: a FIN went this way; bytes of their own, for each hook writes one */
	__u32 policy;     /* policy number of that generation: the port may get another */
	__u32 migrated;   /* enum hp_dir + 1 of the packet by which HP_MIGRATED took it over, so that opener is a guess; + HP_DIRS where a rule had it picked up in its middle; 0: neither */
	__u32 rule;     /* as in hp_event; 0 for flows that an older version made */
	__u32 told;     /* HP_EVENT_LOGGED, if the rule asks for logs */
	__u32 kept;     /* 1: the rule that allowed it is firm; 0 for flows that an older version made */
};

/*
 * handovers[slot]: that the VM of a quarantined port has arrived. One aligned 8-byte
 * value, stored as such, by the program or by user space, whoever sees it first; the
 * port's record keeps its state until user space writes another. It means something
 * only if the serial is the port's.
 */
struct hp_handover {
	__u32 serial; /* hp_port.serial */
	__u32 at;     /* when, in 2^30 ns units of CLOCK_MONOTONIC_COARSE */
};

/* Flags of events. */
#define HP_EVENT_LOGGED 1           /* the rule that decided asks for logs */
#define HP_EVENT_MONITORED_LOGGED 2 /* the monitored one does */
#define HP_EVENT_ENDED 4            /* a connection ends with this packet; addresses, ports and direction are its opener's */
#define HP_EVENT_IP 8               /* src, dst and proto mean something */
#define HP_EVENT_PORTS 16           /* sport and dport do */

/*
 * What became of one packet: of each that is dropped, that rules let pass by itself, or
 * that ends a TCP connection, if somebody wants to know (map watched) or the rule does.
 */
struct hp_event {
	__u64 at;         /* ns of CLOCK_MONOTONIC_COARSE */
	__u8 src[16];     /* IPv4 as ::ffff:a.b.c.d */
	__u8 dst[16];
	__u32 ifindex;    /* host end */
	__u32 rule;       /* index into rule_books + 1 of the rule or default that decided; 0: none was asked */
	__u32 monitored;  /* of the monitored rule that would have, or 0 */
	__u32 length;     /* skb->len, bytes */
	__u8 eth_src[6];
	__u8 eth_dst[6];
	__u16 ethertype;  /* behind an 802.1Q tag */
	__u16 vlan;       /* of that tag; 0: untagged */
	__u16 sport;
	__u16 dport;      /* ICMP: type << 8 | code */
	__u8 proto;       /* behind IPv6 extension headers */
	__u8 tcp_flags;
	__u8 dir;         /* enum hp_dir */
	__u8 reason;      /* enum hp_reason */
	__u16 flags;      /* HP_EVENT_... */
	__u16 size;       /* of this struct, for readers of another version */
};

/* Which events share a quota: those that rules ask for, and those that only who observes does. */
enum hp_event_group {
	HP_LOGGED = 0,
	HP_OBSERVED = 1,
	HP_EVENT_GROUPS = 2,
};

/*
 * event_quotas[slot]: a port tells of so many packets of a group a moment, and no more;
 * event_quotas[HP_PORTS_MAX] is all ports'. So it is with heard_quotas.
 */
struct hp_quota {
	__u32 window; /* which moment, 2^30 ns long */
	__u32 used[3]; /* events have two groups; to earlier versions the third is padding, and 0 */
	__u64 lost;   /* events that nobody will see, since the maps were made */
};

struct hp_counter {
	__u64 packets;
	__u64 bytes;
};

/* What a rule, or a network's default action, has judged. Per CPU. */
struct hp_hits {
	struct hp_counter all;
	__u32 last; /* when it last did, in 2^30 ns units of CLOCK_MONOTONIC_COARSE, + 1; 0: never */
	__u32 pad;
};

/*
 * port_counters[slot][reason] and stray_counters[reason]: per CPU. Packets are
 * those on the wire (segments of a GSO packet), bytes skb->len.
 */
struct hp_reason_counter {
	struct hp_counter dir[HP_DIRS];
};

/*
 * fast_ports[slot]: what two ports have in common that take the fast path to each other, and
 * their way to the uplink. It means something only while the port's record has HP_PORT_FAST, and does not
 * change then.
 */
struct hp_fast_port {
	__u32 bridge;    /* ifindex */
	__u32 mtu;       /* bytes */
	struct hp_fast_uplink {
		__u32 ifindex; /* 0: to it all goes by the bridge */
		__u16 vlan;    /* of the port: of another, the rest means nothing */
		__u16 tag;     /* VLAN ID that the port's frames have there; 0: none. And HP_UPLINK_INBOUND */
	} __attribute__((aligned(8))) uplink; /* loaded and stored by one instruction */
	__u32 reminded;  /* when the bridge was last reminded of its MAC, in 2^30 ns units of CLOCK_MONOTONIC_COARSE */
	__u32 since;     /* when it began to take part, in the same; whom it heard before may have moved since */
};

/*
 * In a tag: what comes by the uplink for the port goes past the bridge, too. Versions that do not know that, and attach
 * nothing there, write tags without it; so a step back ends it.
 */
#define HP_UPLINK_INBOUND 0x8000

/* An uplink by which packets for ports of the fast path come past the bridge. */
struct hp_uplink {
	__u32 bridge; /* ifindex */
	__u16 native; /* VLAN of frames without a tag; 0: they go by the bridge */
	__u16 reserved;
	__u64 vlans[64]; /* bitmap of the VLANs in which such ports are */
};

/* Whose MAC it is, in one VLAN of one bridge. */
struct hp_fast_key {
	__u32 bridge; /* ifindex */
	__u16 vlan;
	__u8 mac[6];
};

struct hp_fast_mac {
	__u32 ifindex; /* host end of its port; 0: of none that takes part, but it is of this node */
	__u32 slot;    /* the port's */
	__u32 lost;    /* 1: it was heard elsewhere, or not here yet, so only the bridge may know where it is; set by the programs, too */
	__u32 reserved;
};

/* A MAC that is heard by the uplink of ports of the fast path. */
struct hp_fast_far {
	__u32 uplink; /* ifindex */
	__u32 heard;  /* when last, in 2^30 ns units of CLOCK_MONOTONIC_COARSE */
};

#define HP_FAST_MACS 16384 /* of this node */
#define HP_FAST_FAR 16384 /* MACs a node; the least recently used make room */
#define HP_UPLINKS 256    /* of a node */

#define HP_PORTS_MAX 1024     /* ports a node, and slots */
#define HP_PORT_CELLS 65536   /* port_index: a port is at its ifindex modulo this, or a bit behind */
#define HP_PORT_PROBES 8      /* how far behind it can be */
#define HP_POLICIES_MAX 1024  /* policy numbers a node; twice as many outer slots */
#define HP_BOOK_COUNTERS 8192 /* counters of rules in one inner map of rule_books */
#define HP_BOOKS_MAX 32        /* such maps a node */
#define HP_CONNS_QUOTA 32768  /* answered flows a port */
#define HP_CONNS_NEW 131072   /* unconfirmed flows a node */
#define HP_FRAGMENTED 8192    /* datagrams in fragments a node */
#define HP_EXT_HEADERS 6
#define HP_EVENT_BYTES 4194304 /* of events that nobody has read yet */
#define HP_EVENTS_A_WINDOW 1000 /* of a port and group */
#define HP_EVENTS_OF_NODE 10000 /* of all ports and a group */

#endif
