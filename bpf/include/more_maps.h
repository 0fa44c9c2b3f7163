/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * More maps, as maps.h has them and says: of who has which address and what is heard of that, and of what guards ask for.
 * They are here only because maps.h is as long as a file may be.
 */
#ifndef HOMEPORT_MORE_MAPS_H
#define HOMEPORT_MORE_MAPS_H

#include "maps.h"

/*
 * addresses: who has an address, as far as the agent knows.
 * Key: struct hp_address_key. Value: struct hp_address. Written by the agent; the programs note in it when it
 * was said last, and guards ask it. An entry lives until the agent takes it out. Size: a node's.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, HP_ADDRESSES);
	__type(key, struct hp_address_key);
	__type(value, struct hp_address);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} addresses SEC(".maps");

/*
 * vouched: until when the agent vouches for what addresses has.
 * Key: 0. Value: __u32, in 2^30 ns units of CLOCK_MONOTONIC_COARSE. Written by the agent each time that it has looked
 * through addresses, read by suppress: what nobody looks after keeps no request from anybody. Lives for ever. Size: 1.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} vouched SEC(".maps");

/*
 * port_segments: which trunk a port is on: a policy number does not say, for a network may have several.
 * Key: port slot. Value: __u32, never 0; 0 for ports of earlier versions, of whose addresses nothing is known. Written by the
 * agent, read by the programs for packets that addresses is asked about. Lives for ever. Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_segments SEC(".maps");

static __always_inline __u32 segment_of(__u32 slot)
{
	__u32 *segment = bpf_map_lookup_elem(&port_segments, &slot);

	return segment ? *segment : 0;
}

/*
 * heard: frames that say who has an address, and that addresses does not know. A ring of its own, so that events of
 * connections do not push them out.
 * Records: struct hp_heard and the frame. Written by the programs, read by the agent; what does not fit is lost, and
 * counted. Lives for ever.
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, HP_HEARD_BYTES);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} heard SEC(".maps");

/*
 * heard_quotas: of how many such frames may still be told.
 * Key: port slot, or HP_PORTS_MAX for all. Value: struct hp_quota; its groups are enum hp_dir and HP_HEARD_DHCP, for without what its
 * server answers a VM has no address, however many others say something; of all ports HP_OUT is whatever is no DHCP. Otherwise as
 * event_quotas.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX + 1);
	__type(key, __u32);
	__type(value, struct hp_quota);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} heard_quotas SEC(".maps");

/*
 * port_ethertypes: what leaves ports with HP_PORT_ETHERTYPES.
 * Key: port slot. Value: struct hp_ethertypes. Written by the agent before the flag, read by from_vm. Lives for ever.
 * Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, struct hp_ethertypes);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} port_ethertypes SEC(".maps");

/*
 * unicast_limits: limits of ports with HP_PORT_UNICAST.
 * Key: port slot. Value: __u32, packets a second. Written by the agent before the flag, read by from_vm. Lives for ever.
 * Size: slots a node.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} unicast_limits SEC(".maps");

/*
 * unicast_buckets: what ports may still send of that in this moment. Key: port slot. Otherwise as buckets.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, HP_PORTS_MAX);
	__type(key, __u32);
	__type(value, __u64);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} unicast_buckets SEC(".maps");

/*
 * peers: MACs that something has come from to a port with HP_PORT_UNICAST.
 * Key: struct hp_station_key. Value: __u32, when last, in 2^30 ns units of CLOCK_MONOTONIC_COARSE. Written and read by the
 * programs. The least recently used make room, so nothing frees them; a port that is gone is told apart by its serial. Size: a node's.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, HP_PEERS);
	__type(key, struct hp_station_key);
	__type(value, __u32);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
} peers SEC(".maps");

#endif
