// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The firewall at a VM's port: two programs at the host end of its veth, one for
 * each direction, and one that does the work of the second elsewhere, for another's and for one at the uplink.
 * From top to bottom: who is the port, may it carry this frame, do Ethernet
 * rules, what is in it, does it belong to a known connection, what do the rules say.
 * The same programs serve every port; all they know comes from maps.h.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "clock.h"
#include "maps.h"
#include "more_maps.h"
#include "verdict.h"
#include "parse.h"
#include "guard.h"
#include "classify.h"
#include "conntrack.h"
#include "ether.h"
#include "fragment.h"
#include "known.h"
#include "refuse.h"
#include "fastpath.h"
#include "event.h"
#include "holder.h"
#include "hear.h"
#include "suppress.h"

/* as_fragment: a non-first fragment has reasons of its own, so that it can be told. */
static __always_inline __u32 as_fragment(const struct packet *p, __u32 r)
{
	if (!p->fragment)
		return r;
	return is_drop(r) ? HP_FRAGMENT_DROP : HP_FRAGMENT_ALLOW;
}

/*
 * needs_flow: a packet with this verdict of the rules passes only as one of a connection.
 * TCP that is no SYN opens none, whatever a rule says of it; a datagram may, so one
 * that somebody's rule drops is dropped.
 */
static __always_inline int needs_flow(const struct packet *p, __u32 r)
{
	if (!is_drop(r) && p->query.stateless)
		return 0;
	if (p->kind == TCP)
		return (p->tcp_flags & (TCP_SYN | TCP_ACK)) != TCP_SYN;
	return (r == HP_DEFAULT_DROP || (r == HP_RULE_DROP && p->query.implied)) &&
	       (p->kind == UDP || p->kind == ECHO_REPLY);
}

/* by_rules: the packet belongs to no connection, so policy decides, and may open one. */
static __always_inline __u32 by_rules(struct __sk_buff *skb, struct track *t, struct packet *p)
{
	struct query *q = &p->query;
	__u32 r;

	r = judge(q);
	/* No policy is loaded for the network, or what is loaded leads nowhere. */
	if (r == HP_NO_PROGRAM)
		return r;
	if (needs_flow(p, r) && takes_over(skb, p, t) == HP_MIGRATED) {
		t->told |= TOLD_PASS;
		return HP_MIGRATED;
	}
	decided_by(t, q);
	if (!is_drop(r) && !q->stateless) {
		if (p->kind == TCP) {
			__u32 opens = opens_tcp(p);

			/* Allowed, but only a SYN opens a connection, or what a rule takes for the middle of one. */
			if (!opens && !q->loose)
				return HP_TCP_NO_STATE;
			if (opens || !(p->tcp_flags & (TCP_RST | TCP_FIN)))
				remember(t, q->rule_id, t->dir, opens ? 0 : HP_DIRS + t->dir + 1);
		} else if (p->kind == UDP || p->kind == ECHO_REQUEST) {
			remember(t, q->rule_id, t->dir, 0);
		}
	}
	count_rule(skb, q->counter);
	t->refuse = q->refuse;
	t->told |= TOLD_PASS;
	if (q->more) {
		t->monitored = count_more(skb, q);
		if (t->monitored && q->log)
			t->told |= HP_EVENT_MONITORED_LOGGED;
	}
	return as_fragment(p, r);
}

/* by_state: connections, then rules. */
static __always_inline __u32 by_state(struct __sk_buff *skb, struct track *t, struct packet *p)
{
	__u32 known = 1, r;

	if (p->kind != STATELESS) {
		if (p->kind == ICMP_ERROR)
			known = quoted_key(skb, p, t);
		else
			set_key(&t->key.flow, p, t->dir);
		r = known ? established(skb, t, p) : GO_ON;
		/* Not at its first packet in a tick: of many slow flows none comes back in time. */
		if (t->steady == AGAIN && !dry_run)
			note_known(t);
		if (r != GO_ON)
			return r;
	}
	return by_rules(skb, t, p);
}

/* firewall: what passes freely, what belongs to a packet that has passed, and the rest. */
static __always_inline __u32 firewall(struct __sk_buff *skb, const struct hp_port *port, const struct frame *f,
				      struct track *t, __u32 dir)
{
	struct packet p = { .vlan = f->vlan };
	__u32 r;

	r = parse_ip(skb, &p, f->ethertype, f->at);
	if (r != GO_ON) {
		t->rule = t->told = 0; /* no rule's doing, whatever one said of the frame */
		return r;
	}
	if (dir == HP_OUT) {
		r = guard_servers(port, &p);
		if (r != GO_ON)
			return r;
		if (port->flags & (HP_PORT_IP_GUARD | HP_PORT_ND_GUARD)) {
			r = guard_source(skb, port, &p, f->at);
			if (r != GO_ON)
				return r;
		}
	}
	/* By an Ethernet rule that allows it, which is left of what is not IP alone. */
	if (t->rule) {
		t->told |= TOLD_PASS;
		return HP_RULE_ALLOW;
	}
	if (p.kind == NEIGHBOUR)
		return HP_ND;
	if (p.fragment && fragment_of(&p, t, 0))
		return HP_FRAGMENT_ALLOW;
	p.query.generation = t->generation;
	p.query.policy = t->policy;
	p.query.dir = dir;
	r = by_state(skb, t, &p);
	if (p.first && !is_drop(r))
		fragment_of(&p, t, 1);
	if (says_dhcp(&p, dir))
		t->told |= TOLD_DHCP;
	return r;
}

/* decide: every stage in its order; the first that does not say GO_ON decides. */
static __always_inline __u32 decide(struct __sk_buff *skb, const struct hp_port *port, struct track *t)
{
	struct frame f = { .eth = (void *)(long)skb->data };
	__u32 dir = t->dir, state, r;

	state = guard_state(skb, port, dir);
	if (state != GO_ON && state != HP_PORT_RELEASED)
		return state;
	/* Not even an Ethernet header, which the kernel keeps in the linear part. */
	if ((void *)(f.eth + 1) > (void *)(long)skb->data_end)
		return HP_MALFORMED;
	if (dir == HP_IN && port->flags & HP_PORT_MAC_CHANGES) {
		r = by_port(skb, port, dir);
		if (r != GO_ON)
			return r;
		f.eth = (void *)(long)skb->data;
		if ((void *)(f.eth + 1) > (void *)(long)skb->data_end)
			return HP_MALFORMED;
	}
	r = guard_vlan(skb, port, &f);
	if (r != GO_ON)
		return r;
	/* Only the VM's own MAC leaves the port, and enters it, unless others may, too. */
	if (dir == HP_OUT && !(port->flags & HP_PORT_FORGED) && !own_mac(port, f.eth))
		return foreign_mac(skb, f.ethertype, f.at);
	if (dir == HP_IN && !(port->flags & (HP_PORT_PROMISCUOUS | HP_PORT_MAC_CHANGES)) && for_other(port, f.eth))
		return HP_NOT_FOR_PORT;
	if (dir == HP_OUT && port->flags & HP_PORT_BPDU_GUARD && of_links(f.eth))
		return HP_BPDU_GUARD;
	if (dir == HP_OUT && port->flags & (HP_PORT_RATES | HP_PORT_FORGED | HP_PORT_UNICAST)) {
		r = by_port(skb, port, dir);
		if (r != GO_ON)
			return r;
		/* Anew, rather than kept over the call: there is no room on the stack. */
		f.eth = (void *)(long)skb->data;
		if ((void *)(f.eth + 1) > (void *)(long)skb->data_end)
			return HP_MALFORMED;
		guard_vlan(skb, port, &f);
	}
	/* Between nodes alone: no rule has a say, and no guest passes for an agent. */
	if (f.ethertype == HP_HELLO_ETHERTYPE)
		state = guard_hello(skb, f.at, state);
	/* Only now, so that a VM which goes on sending where it left is told from noise. */
	if (state != GO_ON)
		return state;
	/* It announces where a VM is now. */
	if (f.ethertype == ETHERTYPE_RARP)
		return HP_RARP;
	if (dir == HP_OUT && port->flags & HP_PORT_ETHERTYPES) {
		r = guard_type(port, f.ethertype);
		if (r != GO_ON)
			return r;
	}
	t->generation = generation_now();
	if (t->generation & HP_GENERATION_ETHER) {
		r = by_frame(skb, t, f.ethertype);
		if (r != GO_ON)
			return r;
	}
	/* Without it no address would ever be found; it carries no data. */
	if (f.ethertype == ETHERTYPE_ARP) {
		if (dir == HP_OUT && port->flags & HP_PORT_ARP_GUARD) {
			r = guard_arp(skb, port, f.at, f.vlan);
			if (r != GO_ON) {
				t->rule = t->told = 0; /* no rule's doing */
				return r;
			}
		}
		t->told |= t->told & HP_EVENT_LOGGED ? TOLD_PASS : 0;
		return HP_ARP;
	}
	t->now = ticks_now();
	r = known_flow(skb, &f, t);
	if (r != GO_ON)
		return r;
	return firewall(skb, port, &f, t, dir);
}

/* is_flooded: the bridge sends such frames to all ports, whose VMs they are not for. */
static __always_inline int is_flooded(__u32 reason, __u32 dir)
{
	return reason == HP_NOT_FOR_PORT || reason == HP_SUPPRESSED || (reason == HP_HELLO && dir == HP_IN);
}

/* hook judges for a port; jumped: not at its own interface, but where the packet came from. */
static __always_inline int hook(struct __sk_buff *skb, __u32 dir, __u32 ifindex, int jumped)
{
	struct hp_port *port = port_of(ifindex);
	struct track t = {};
	__u32 reason;
	int act;

	if (jumped && (!port || !may_enter(skb, port)))
		return not_entered(skb);
	/* Attached, but nobody has said what for. */
	if (!port)
		return verdict(skb, NO_SLOT, 0, dir, HP_NO_PORT);
	if (!jumped && skb->mark) {
		if (is_refusal(skb)) {
			skb->mark = 0;
			return verdict(skb, port->slot, port->serial, dir, HP_REFUSAL);
		}
		if (dir == HP_OUT && is_reminder(skb)) {
			skb->mark = 0;
			return TC_ACT_UNSPEC;
		}
	}
	t.key.slot = port->slot;
	t.key.serial = port->serial;
	t.policy = port->policy;
	t.dir = dir;
	reason = decide(skb, port, &t);
	if (!jumped && port->flags & HP_PORT_SUPPRESS && (reason == HP_ARP || reason == HP_ND)) {
		reason = suppress(skb, port, dir, reason);
		if (reason == HP_SUPPRESSED)
			t.rule = t.told = 0; /* no rule's doing */
	}
	act = verdict(skb, port->slot, port->serial, dir, reason);
	/* What is flooded has its events where it belongs: here it would use up those of the VM. */
	if (t.told & TOLD_PASS || t.frame & FRAME_LOGGED || (is_drop(reason) && !is_flooded(reason, dir)) || dry_run)
		tell(skb, &t, reason);
	if (dry_run)
		return act;
	if (reason == HP_ARP || reason == HP_ND || reason == HP_TO_HOLDER || (t.told & TOLD_DHCP && !is_drop(reason)))
		hear_claim(skb, port, dir, t.told & TOLD_DHCP);
	if (dir == HP_IN && port->flags & HP_PORT_UNICAST && (!is_drop(reason) || reason == HP_SUPPRESSED))
		note_peer(skb, port);
	/* As the bridge has, which it came by. */
	if (fast_path && dir == HP_IN && !jumped && takes_part(port))
		hear_at_port(skb, port);
	if (act == TC_ACT_SHOT)
		return t.refuse ? refused(skb, port, dir) : act;
	if (jumped) {
		/* Whom it is for the first interface said, which is another. */
		bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect_peer(port->ifindex, 0);
	}
	if (reason == HP_TO_HOLDER)
		return show(skb) ? TC_ACT_SHOT : bpf_redirect(skb->cb[TO_IFINDEX], 0);
	if (fast_path && dir == HP_OUT && takes_part(port) && t.steady) {
		int way = fast_way(skb, port);

		if (way == NOWHERE)
			return TC_ACT_SHOT;
		if (way == TO_UPLINK)
			return to_uplink(skb);
		/* It returns only where there is nobody to jump to. */
		if (way == TO_PORT)
			bpf_tail_call(skb, &fast_jump, 0);
	}
	return act;
}

/* What the VM sends: ingress hook of the host end. */
SEC("tc")
int from_vm(struct __sk_buff *skb)
{
	return hook(skb, HP_OUT, skb->ifindex, 0);
}

/* What the VM gets: egress hook of the host end. */
SEC("tc")
int to_vm(struct __sk_buff *skb)
{
	return hook(skb, HP_IN, skb->ifindex, 0);
}

/* What the VM gets past the bridge: from_vm of another's interface, and inbound, end here. */
SEC("tc")
int into_vm(struct __sk_buff *skb)
{
	return hook(skb, HP_IN, skb->cb[TO_IFINDEX], 1);
}

/* What comes by an uplink, on its way to the bridge: ingress hook of the uplink. */
SEC("tc")
int inbound(struct __sk_buff *skb)
{
	int way;

	if (is_reminder(skb)) {
		skb->mark = 0;
		return TC_ACT_UNSPEC;
	}
	way = from_uplink(skb);
	if (way == BY_BRIDGE)
		return TC_ACT_UNSPEC;
	if (way == NOWHERE || (skb->cb[TAKEN_OFF] && bpf_skb_vlan_pop(skb)))
		return TC_ACT_SHOT; /* no memory */
	bpf_tail_call(skb, &inbound_jump, 0);
	return not_entered(skb);
}

/* Has the debug information hold every type that user space shares; nothing reads it. */
const union {
	enum hp_port_state state;
	enum hp_dir dir;
	enum hp_vlan_mode mode;
	enum hp_reason reason;
	enum hp_svc_group group;
	enum hp_action action;
	enum hp_flow_state flow_state;
	struct hp_header header;
	struct hp_rule rule;
	struct hp_port port;
	struct hp_handover handover;
	struct hp_control control;
	struct hp_policy_name policy_name;
	struct hp_flow_key flow_key;
	struct hp_new_key new_key;
	struct hp_flow flow;
	struct hp_counter counter;
	struct hp_hits hits;
	struct hp_reason_counter reason_counter;
	struct hp_event event;
	struct hp_quota quota;
	struct hp_fast_port fast_port;
	struct hp_uplink uplink;
	struct hp_fast_key fast_key;
	struct hp_fast_mac fast_mac;
	struct hp_fast_far fast_far_mac;
	struct addr_key addr_key;
	struct fragmented fragmented;
	struct page page;
	struct hp_station_key station_key;
	struct hp_rates rates;
	struct hp_bucket bucket;
	struct hp_late_key late_key;
	struct hp_mac_key mac_key;
	struct hp_address_key address_key;
	struct hp_address address;
	struct hp_heard heard_frame;
	struct hp_ethertypes ethertypes;
} *const volatile abi_types = 0;

/* bpf_ktime_get_coarse_ns and bpf_skb_load_bytes need no more than this. */
char _license[] SEC("license") = "Dual BSD/GPL";
