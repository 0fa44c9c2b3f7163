/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Time: ticks of 2^20 ns, and how long a flow may be silent. */
#ifndef HOMEPORT_CLOCK_H
#define HOMEPORT_CLOCK_H

#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define TICK_SHIFT 20
#define HANDOVER_SHIFT 30 /* of hp_handover.at, which so does not wrap */
#define SECONDS(s) ((__u32)(((s) * 1000000000ULL) >> TICK_SHIFT))

/*
 * How far a flow's time can be ahead of a packet's: the packet read the clock, then
 * another CPU noted a later time. Longer than anything holds up a CPU.
 */
#define AHEAD SECONDS(60)

/*
 * Knobs, in ticks; set before loading, constants to the verifier. A flow is gone
 * when it was silent for longer. user space frees its memory by the same values.
 */
const volatile __u32 tcp_new_ticks = SECONDS(20);
const volatile __u32 tcp_open_ticks = SECONDS(12 * 3600);
const volatile __u32 tcp_closing_ticks = SECONDS(30);
const volatile __u32 udp_new_ticks = SECONDS(30);
const volatile __u32 udp_open_ticks = SECONDS(180);
const volatile __u32 icmp_ticks = SECONDS(10);

/*
 * 1: the programs change nothing but the map traced, where they leave their answer. A
 * copy of them for people's questions, which no hook runs.
 */
const volatile __u32 dry_run = 0;

/* 0: no packet goes past the bridge, also not where it could. */
const volatile __u32 fast_path = 1;

/* How long after its VM has arrived a port takes over connections, in 2^30 ns; both ends are rounded down. */
const volatile __u32 grace_period = (60 * 1000000000ULL >> HANDOVER_SHIFT) + 2;

/* The coarse clock: 4 ns a call against 30, and a tick is coarser than it. */
static __always_inline __u32 ticks_now(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() >> TICK_SHIFT);
}

static __always_inline __u32 handover_clock(void)
{
	return (__u32)(bpf_ktime_get_coarse_ns() >> HANDOVER_SHIFT);
}

#endif
