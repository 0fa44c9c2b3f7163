/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every map. All are pinned below the ABI's version and outlive the agent, inner
 * maps by their outer one. Those of a port have pins of their own, too, by which the
 * agent opens them: reading a map of maps waits for a grace period on Linux 6.1.
 * "Agent" is pkg/datapath. Templates of inner maps give sizes, not types: clang 14
 * emits no type that only they name.
 */
#ifndef HOMEPORT_MAPS_H
#define HOMEPORT_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "abi.h"

#ifndef BPF_F_INNER_MAP
#define BPF_F_INNER_MAP (1U << 12)
#endif

/* One page of a compiled policy, as words and as row numbers. */
struct page {
	union {
		__u64 words[HP_PAGE_SIZE / 8];
		__u16 rows[HP_PAGE_SIZE / 2];
		struct hp_rule rules[HP_PAGE_SIZE / sizeof(struct hp_rule)];
		struct hp_header header;
		struct {
			struct hp_part of;
			__u32 pad;
		} parts[HP_PAGE_SIZE / 16];
	};
};

/* Longest-prefix key; IPv4 lies below ::ffff:0:0/96. */
struct addr_key {
	__u32 prefixlen;
	__u8 addr[16];
};

/*
 * port_index: where an interface's record is. An array, for every packet begins
 * here: a hash costs 15 ns more, and its elements are used again at once.
 * Key: cell, host ifindex % HP_PORT_CELLS or one of the HP_PORT_PROBES - 1 behind.
 * Value: __u32 place in port_records + 1, or 0; another port's if its record says so.
 * Written by the agent through a memory mapping, by single stores; read by both
 * programs once a packet. An entry lives as long as the port.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HP_PORT_CELLS);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_index SEC(".maps");

/*
 * port_records: who an interface is.
 * Key: slot * 2 + version. Value: struct hp_port. Written by the agent through a
 * memory mapping, before port_index leads to it; read by both programs. Means
 * something only while port_index leads to it. Size: two versions a port.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HP_PORTS_MAX * 2);
	__type(key, __u32);
	__type(value, struct hp_port);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_records SEC(".maps");

/*
 * handovers: which quarantined ports' VMs have arrived, and when.
 * Key: port slot. Value: struct hp_handover. Written by from_vm at the VM's own
 * announcement, and by the agent through a memory mapping where it learns of the
 * arrival first; read at quarantined ports, and for packets that belong to no known
 * connection. An entry lives as long as its port. Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, struct hp_handover);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} handovers SEC(".maps");

/*
 * control: which generation is in force.
 * Key: 0. Value: struct hp_control. Written by the agent through a memory
 * mapping; read by both programs once a packet. Lives for ever. Size: 1.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hp_control);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} control SEC(".maps");

/*
 * policy_names: which network a policy number stands for.
 * Key: __u32 policy number. Value: struct hp_policy_name. Written and read by
 * the agent only, which so finds its numbers again after a restart. An entry
 * lives as long as the network is compiled or a port uses it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_POLICIES_MAX);
	__type(key, __u32);
	__type(value, struct hp_policy_name);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} policy_names SEC(".maps");

/*
 * hosts: single address -> class. Most lists are of these, and a hash has them at hand where
 * a trie is gone through from its root.
 * Key: side, generation & 1. Value: HASH of 16 bytes of address -> __u32 class, changed only
 * while the other side is in force and nobody reads this one. Written by Sync; read by judge()
 * for pages that say that their hosts are here. Size: two sides.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/*
	 * Template of the tables of hosts; max_entries of a real one is what it can hold. Its elements
	 * are made with it: they are smaller so, and to fill it takes no memory that could be lacking.
	 */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 1);
		__uint(key_size, 16);
		__uint(value_size, sizeof(__u32));
	});
} hosts SEC(".maps");

/*
 * addrs: prefix -> class, of addresses that hosts does not have; on pages of earlier versions
 * of all.
 * Key: side, generation & 1. Value: LPM trie of struct addr_key -> __u32 class,
 * changed only while the other side is in force and nobody reads this one.
 * Written by Sync; read by judge(). Size: two sides.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/* Template of the tables of prefixes; max_entries of a real one is what it can hold. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(struct addr_key));
		__uint(value_size, sizeof(__u32));
	});
} addrs SEC(".maps");

/*
 * programs: the compiled policies.
 * Key: policy number * 2 + side. Value: ARRAY of pages (see abi.h), filled
 * before it is published and never changed after; equal policies share one.
 * Written by Sync; read by judge(). Lives until its side is written again.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HP_POLICIES_MAX * 2);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/* Template of a compiled policy; BPF_F_INNER_MAP lets sizes differ. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct page));
	});
} programs SEC(".maps");

/*
 * conns: answered flows of each port.
 * Key: port slot. Value: HASH of struct hp_flow_key -> struct hp_flow, published
 * by the agent before the slot is given to a port, dropped after the port is
 * gone. Entries are written by the programs; the agent only deletes expired
 * ones. Size: slots a node; the inner map's size is the port's quota.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/* Template of a port's connections: allocated as used, up to the quota. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(map_flags, BPF_F_NO_PREALLOC);
		__uint(max_entries, HP_CONNS_QUOTA);
		__uint(key_size, sizeof(struct hp_flow_key));
		__uint(value_size, sizeof(struct hp_flow));
	});
} conns SEC(".maps");

/*
 * conns_new: flows that nobody has answered, and answered ones of a port whose
 * own table is full. Key: struct hp_new_key. Value: struct hp_flow. Written and
 * read by the programs. The least recently used make room, so nothing frees
 * them; a port that is gone is told apart by its serial. Size: a node's.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HP_CONNS_NEW);
	__type(key, struct hp_new_key);
	__type(value, struct hp_flow);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} conns_new SEC(".maps");

/* A flow that was found this tick. Key and slot as in conns_new. */
struct known {
	struct hp_new_key key;
	__u64 generation; /* that had judged its opener */
	__u32 tick;       /* of the last packet that its port's table saw */
	__u32 policy;     /* with generation */
};

#define KNOWN_FLOWS 256 /* a power of two; 16 KiB a CPU */

/*
 * known_flows: what conns would say again, a cache line near. Nothing depends on
 * it: another policy or another tick is a miss.
 * Key: hash of the flow's key. Value: struct known, of the last flow that had the
 * hash. Written and read by the programs, each CPU its own. Lives as long as the
 * programs; not pinned. Size: what the nearest cache can spare; it is for the few
 * flows that carry most packets.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KNOWN_FLOWS);
	__type(key, __u32);
	__type(value, struct known);
} known_flows SEC(".maps");

/* The MACs, EtherType and direction of frames. */
struct frame_kind {
	__u64 words[2];
};

/* What Ethernet rules said of frames of a kind, which went on and are IP. */
struct judged_frame {
	struct frame_kind kind;
	__u64 generation; /* that judged it; 0: none */
	__u32 policy;
	__u32 counter; /* index into rule_books + 1 of the rule that allowed it; 0: no rule matched */
	__u32 monitored; /* the same of the one that would have decided instead */
	__u32 reserved;
};

#define JUDGED_FRAMES 256 /* a power of two; 10 KiB a CPU */

/*
 * judged_frames: what the policy's Ethernet rules would say again. Nothing depends on it:
 * another generation is a miss.
 * Key: hash of kind and policy. Value: struct judged_frame, of the last frame that had the
 * hash. Written and read by the programs, each CPU its own. Lives as long as the
 * programs; not pinned. Size: as of known_flows.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, JUDGED_FRAMES);
	__type(key, __u32);
	__type(value, struct judged_frame);
} judged_frames SEC(".maps");

/*
 * fast_ports: which ports send and get packets past the bridge, and what has to be the same at both.
 * Key: port slot. Value: struct hp_fast_port. Written by the agent through a memory mapping, but for the time
 * of the last reminder; read for packets of established flows. Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, struct hp_fast_port);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fast_ports SEC(".maps");

/*
 * fast_macs: where the VM with a MAC is.
 * Key: struct hp_fast_key. Value: struct hp_fast_mac. Written by the agent; the programs note in it that
 * a MAC is lost. Who is of this node and has no port that takes part is here, too, always lost. A hint: whether the packet may go there says the port's own record.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_FAST_MACS);
	__type(key, struct hp_fast_key);
	__type(value, struct hp_fast_mac);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fast_macs SEC(".maps");

/*
 * fast_uplinks: which VLANs of an uplink inbound looks after. An entry is there as long as
 * inbound is attached.
 * Key: __u32 ifindex. Value: struct hp_uplink. Written by the agent, read by inbound. Size: uplinks a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_UPLINKS);
	__type(key, __u32);
	__type(value, struct hp_uplink);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fast_uplinks SEC(".maps");

/*
 * fast_far: who is behind the uplink.
 * Key: struct hp_fast_key. Value: struct hp_fast_far. Written by the programs from what comes by the
 * uplink and to ports of the fast path, and read by them. Lives for ever; an entry means something for FAR_FOR.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HP_FAST_FAR);
	__type(key, struct hp_fast_key);
	__type(value, struct hp_fast_far);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fast_far SEC(".maps");

/*
 * fast_jump: the program into_vm.
 * Key: 0. Value: program. Written by the agent with the programs. Pinned, since the kernel empties it when
 * user space holds it no more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fast_jump SEC(".maps");

/*
 * inbound_jump: the program into_vm, for inbound. Of its own, for the versions that know fast_jump alone
 * have an into_vm that cannot put back a tag.
 * Key: 0. Value: program. Written by the agent with the programs. Pinned, as fast_jump is.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} inbound_jump SEC(".maps");

/* A datagram in fragments, as its port sees it. */
struct fragment_key {
	__u8 src[16];
	__u8 dst[16];
	__u32 id;
	__u32 slot;
	__u32 serial;
	__u16 vlan;
	__u8 proto; /* IPv4; of IPv6 only the first fragment says what the datagram is (RFC 8200 section 4.5) */
	__u8 dir;
};

/* Its first fragment, which has passed. */
struct fragmented {
	__u64 generation; /* by which */
	__u32 policy;
	__u32 seen; /* when, in ticks */
};

/*
 * fragments: datagrams whose first fragment, which alone has ports, has passed.
 * Key: struct fragment_key. Value: struct fragmented. Written and read by the programs.
 * An entry means something for FRAGMENT_TICKS, under the same rules; those of all ports
 * push out each other. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HP_FRAGMENTED);
	__type(key, struct fragment_key);
	__type(value, struct fragmented);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} fragments SEC(".maps");

#define REFUSALS_A_WINDOW 100
#define REFUSAL_WINDOW_SHIFT 10 /* in ticks: about a second */

struct refusals {
	__u32 window;
	__u32 sent;
};

/*
 * refusals: how often a port has answered for Reject rules in this moment.
 * Key: port slot. Value: struct refusals. Written and read by the programs; CPUs that
 * count at once may count once. Lives as long as the programs; not pinned. Size: slots a
 * node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, struct refusals);
} refusals SEC(".maps");

/*
 * port_counters: what became of each port's packets.
 * Key: port slot. Value: PERCPU_ARRAY of enum hp_reason -> struct
 * hp_reason_counter. Written by the programs, read by the agent; published and
 * dropped with conns.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/* Template of a port's counters. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
		__uint(max_entries, HP_REASON_COUNTED);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct hp_reason_counter));
	});
} port_counters SEC(".maps");

/*
 * port_rates: limits of ports with HP_PORT_RATES.
 * Key: port slot. Value: struct hp_rates. Written by the agent before the flag, read by the programs. Lives for ever.
 * Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, struct hp_rates);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_rates SEC(".maps");

/*
 * buckets: what ports may still send in this moment.
 * Key: port slot * 2, + 1 for multicast. Value: struct hp_bucket. Written and read by the programs, where CPUs that take at
 * once may take one, and filled by the agent when a slot gets a new port. Lives for ever. Size: two for each slot of a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX * 2);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} buckets SEC(".maps");

/*
 * stations: MACs that ports send from beside their own.
 * Key: struct hp_station_key. Value: __u32, when last, in ticks. Written and read by the programs; the agent
 * takes out what was not heard for some minutes, and what is of no port any more. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_STATIONS);
	__type(key, struct hp_station_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} stations SEC(".maps");

/*
 * station_counts: how many of those a port has.
 * Key: port slot. Value: __u64. Counted up by the programs; memory-mapped by the agent, which counts down what it
 * takes out. Lives for ever. Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} station_counts SEC(".maps");

/*
 * port_macs: the MACs of this node's ports, which are no other port's to send from.
 * Key: struct hp_mac_key. Value: __u32, means nothing. Written by the agent, read by the programs. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_PORTS_MAX * 2);
	__type(key, struct hp_mac_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_macs SEC(".maps");

/*
 * late_counters: what port_counters has no place for: reasons that were not there when it was made.
 * Key: struct hp_late_key. Value: struct hp_reason_counter. Written by the programs, with a port's first packet of the
 * reason, read by the agent, which takes out those of ports that are gone. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_PORTS_MAX * HP_REASON_COUNTED);
	__type(key, struct hp_late_key);
	__type(value, struct hp_reason_counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} late_counters SEC(".maps");

/*
 * stray_counters: packets of interfaces that have no port record.
 * Key: enum hp_reason. Value: struct hp_reason_counter. Written by the programs,
 * read by the agent. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, HP_REASON_COUNTED);
	__type(key, __u32);
	__type(value, struct hp_reason_counter);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} stray_counters SEC(".maps");

/*
 * rule_books: judgements by each rule and each network's default action.
 * Key: counter index / HP_BOOK_COUNTERS; the index is given by the agent and kept across
 * generations. Value: PERCPU_ARRAY of index % HP_BOOK_COUNTERS -> struct hp_hits, published
 * before any program has a counter of it, for a node with few rules needs few of them.
 * Written by the programs, read by the agent. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, HP_BOOKS_MAX);
	__type(key, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	/* Template of some rules' counters. */
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
		__uint(max_entries, HP_BOOK_COUNTERS);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct hp_hits));
	});
} rule_books SEC(".maps");

/*
 * watched: whether somebody wants all events, or those alone that rules ask for.
 * Key: 0. Value: __u32, 0 or 1. Written by the agent, read by the programs. Lives for ever.
 * At key 1 the agent keeps how many lost events it has told of.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} watched SEC(".maps");

/*
 * event_quotas: how many events a port may still tell of.
 * Key: port slot, or HP_PORTS_MAX for all. Value: struct hp_quota. Written by the programs, and read by the agent
 * for what was lost; CPUs that count at once may count once. Lives for ever. Size: slots a
 * node, and one.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX + 1);
	__type(key, __u32);
	__type(value, struct hp_quota);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} event_quotas SEC(".maps");

/*
 * events: what became of packets that somebody asks about.
 * Records: struct hp_event. Written by the programs, read by the agent; what does not
 * fit is lost, and counted. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HP_EVENT_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} events SEC(".maps");

/*
 * traced: what became of the last packet of a dry run.
 * Key: 0. Value: struct hp_event. Written by the programs of a dry run, read by the
 * agent after each. Lives as long as the programs; not pinned. Size: 1.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct hp_event);
} traced SEC(".maps");

#endif
