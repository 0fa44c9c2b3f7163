package snoop

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

var (
	leasedA4   = []string{"Claims 10.100.0.10 by DHCP of vm for 1h0m0s"}
	withdrawA4 = []string{"Withdraws 10.100.0.10 by DHCP of vm"}
	serverID4  = opt(54, 10, 100, 0, 2)
)

// requests is how the VM asks for a4, ack the answer.
func requests() []byte { return asks(nil, kind4(3), serverID4, wanted(a4)) }
func ack(change func(*dhcp4)) []byte {
	return answers(a4, change, kind4(5), serverID4, lease(3600), opt(1, 255, 255, 255, 0))
}
func nak(change func(*dhcp4)) []byte { return answers("0.0.0.0", change, kind4(6), serverID4) }

// renews is how one who has a4 asks again.
func renews() []byte {
	return asks(func(d *dhcp4) { d.to, d.src, d.dst, d.client = server, a4, "10.100.0.2", a4 }, kind4(3))
}

// dhcpv4Talks are questions with their answers; each frame that says something is good.
func dhcpv4Talks() map[string][]step {
	question := step{name: "request", out: true, data: requests()}
	full := func(n int, options ...[]byte) []byte { // a field of n bytes with options
		o := append(cat(options...), 255)
		return append(o, bytes.Repeat([]byte{0}, n-len(o))...)
	}
	answer := func(name string, want []string, data []byte) []step {
		return []step{question, {name: name, data: data, want: want}}
	}
	return map[string][]step{
		"a lease": {
			{name: "discover", out: true, data: asks(nil, kind4(1), wanted(a4))},
			{name: "offer", data: answers(a4, nil, kind4(2), serverID4, lease(3600))},
			{name: "request", after: time.Second, out: true, data: requests()},
			{name: "ack", data: ack(nil), want: leasedA4},
			{name: "renewal", after: 30 * time.Minute, out: true, data: renews()},
			{name: "ack", data: ack(func(d *dhcp4) { d.client, d.dst = a4, a4 }), want: leasedA4},
			{name: "ack, again", data: ack(nil), want: leasedA4},
			{name: "release", after: time.Minute, out: true, data: asks(func(d *dhcp4) { d.client = a4 }, kind4(7), serverID4), want: withdrawA4},
		},
		"declined": append(answer("ack", leasedA4, ack(nil)),
			step{name: "decline", out: true, data: asks(nil, kind4(4), serverID4, wanted(a4)), want: withdrawA4}),
		"at once": {
			{name: "discover", out: true, data: asks(nil, kind4(1), opt(80))},
			{name: "ack", data: answers(a4, nil, kind4(5), opt(80), lease(60)), want: []string{"Claims 10.100.0.10 by DHCP of vm for 1m0s"}},
		},
		"refused after a move":  answer("nak", withdrawA4, nak(nil)),
		"refused at renewal":    {{name: "renewal", out: true, data: renews()}, {name: "nak", data: nak(nil), want: withdrawA4}, {name: "nak, again", data: nak(nil)}},
		"refused after the ack": append(answer("ack", leasedA4, ack(nil)), step{name: "nak", data: nak(nil)}, question, step{name: "nak", data: nak(nil), want: withdrawA4}),
		"refused, then given":   append(answer("nak", withdrawA4, nak(nil)), step{name: "ack", data: ack(nil), want: leasedA4}),
		"requested before ciaddr": {
			{name: "renewal", out: true, data: asks(func(d *dhcp4) { d.client = b4 }, kind4(3), wanted(a4))}, {name: "nak", data: nak(nil), want: withdrawA4}},
		"for ever":                  answer("ack", []string{"Claims 10.100.0.10 by DHCP of vm"}, answers(a4, nil, kind4(5), lease(0xffffffff))),
		"broadcast":                 answer("ack", leasedA4, ack(func(d *dhcp4) { d.to = all })),
		"by a relay":                answer("ack", leasedA4, ack(func(d *dhcp4) { d.from, d.src, d.dst, d.relay = router, b4, a4, b4 })),
		"from another port than 67": answer("ack", leasedA4, ack(func(d *dhcp4) { d.sport = 1067 })),
		"with tags":                 {{out: true, data: tagged(requests(), 100)}, {name: "ack", data: tagged(ack(nil), 100), want: leasedA4}},
		"no end":                    answer("ack", leasedA4, ack(func(d *dhcp4) { d.noEnd = true })),
		"pads between":              answer("ack", leasedA4, answers(a4, nil, []byte{0, 0}, kind4(5), []byte{0}, lease(3600))),
		"the first counts":          answer("ack", leasedA4, answers(a4, nil, kind4(5), lease(3600), lease(60), kind4(6))),
		"lease in file":             answer("ack", leasedA4, answers(a4, func(d *dhcp4) { d.file = full(128, lease(3600)) }, kind4(5), opt(52, 1))),
		"lease in sname":            answer("ack", leasedA4, answers(a4, func(d *dhcp4) { d.sname = full(64, lease(3600)) }, kind4(5), opt(52, 2))),
		"type in file, lease in sname": answer("ack", leasedA4, answers(a4, func(d *dhcp4) {
			d.file, d.sname = full(128, kind4(5)), full(64, lease(3600))
		}, opt(52, 3))),
		"the first overload counts": answer("ack", leasedA4, answers(a4, func(d *dhcp4) {
			d.file, d.sname = full(128, lease(3600)), full(64, kind4(6))
		}, opt(52, 1), opt(52, 2), kind4(5))),
		"the first requested counts": {{name: "decline", out: true, data: asks(nil, kind4(4), wanted(a4), wanted(b4)), want: withdrawA4}},
		"file before sname": answer("ack", leasedA4, answers(a4, func(d *dhcp4) {
			d.file, d.sname = full(128, lease(3600)), full(64, lease(60))
		}, kind4(5), opt(52, 3))),
		"a name in file": answer("ack", leasedA4, answers(a4, func(d *dhcp4) {
			d.file, d.sname = []byte("\x33\x04\x00\x00\x00\x3cpxelinux.0"), []byte("\x35\x01\x06") // as options they would be a lease of a minute, and a refusal
		}, kind4(5), lease(3600))),
		"a VM's in the VM": {
			{name: "request", out: true, data: asks(func(d *dhcp4) { d.from, d.mac = inner, inner }, kind4(3), wanted(a4))},
			{name: "ack", data: ack(func(d *dhcp4) { d.to, d.mac = inner, inner }), want: []string{"Claims 10.100.0.10 by DHCP of inner for 1h0m0s"}},
		},
	}
}

// TestDHCPv4: what servers give and take.
func TestDHCPv4(t *testing.T) {
	for name, steps := range dhcpv4Talks() {
		t.Run(name, func(t *testing.T) { play(t, steps) })
	}
}

// TestDHCPv4Silent: after a request, what is no answer to it, or none that counts.
func TestDHCPv4Silent(t *testing.T) {
	whole := ack(nil)
	const ip, udp, msg = 14, 34, 42 // where they begin
	for name, data := range map[string][]byte{
		"another question's":          ack(func(d *dhcp4) { d.xid++ }),
		"another client's":            ack(func(d *dhcp4) { d.mac = inner }),
		"an offer":                    answers(a4, nil, kind4(2), lease(3600)),
		"no type (BOOTP)":             answers(a4, nil, lease(3600)),
		"a type of two bytes":         answers(a4, nil, opt(53, 5, 5), lease(3600)),
		"no lease":                    answers(a4, nil, kind4(5)),
		"a lease of no time":          answers(a4, nil, kind4(5), lease(0)),
		"a lease of two bytes":        answers(a4, nil, kind4(5), opt(51, 1, 1)),
		"an answer to INFORM":         answers("0.0.0.0", func(d *dhcp4) { d.client = a4 }, kind4(5), lease(3600)),
		"a group":                     answers("224.0.0.9", nil, kind4(5), lease(3600)),
		"all":                         answers("255.255.255.255", nil, kind4(5), lease(3600)),
		"a question":                  ack(func(d *dhcp4) { d.op = 1 }),
		"operation 3":                 ack(func(d *dhcp4) { d.op = 3 }),
		"hardware addresses of 8":     ack(func(d *dhcp4) { d.hlen = 8 }),
		"not of Ethernet":             changed(whole, msg+1, 32),
		"no cookie":                   ack(func(d *dhcp4) { d.noCookie = true }),
		"to the server's port":        ack(func(d *dhcp4) { d.dport = 67 }),
		"to any port":                 ack(func(d *dhcp4) { d.dport = 5353 }),
		"a first fragment":            ack(func(d *dhcp4) { d.fragment = true }),
		"a last fragment":             changed(whole, ip+6, 0, 1),
		"TCP":                         changed(whole, ip+9, 6),
		"version 6":                   changed(whole, ip, 0x65),
		"a head too short":            changed(whole, ip, 0x44),
		"a head of options":           changed(whole, ip, 0x4f),
		"a packet too short":          changed(whole, ip+2, 0, 19),
		"a datagram longer than it":   changed(whole, udp+4, 0xff),
		"a datagram too short":        changed(whole, udp+4, 0, 7),
		"a message too short":         changed(whole, udp+4, 0, 8+239),
		"behind the end":              answers(a4, nil, []byte{255}, kind4(5), lease(3600)),
		"behind one too long":         answers(a4, nil, opt(12), kind4(5), []byte{43, 250}, lease(3600)),
		"file has none, sname has":    answers(a4, func(d *dhcp4) { d.sname = lease(3600) }, kind4(5), opt(52, 1)),
		"sname has none, file has":    answers(a4, func(d *dhcp4) { d.file = lease(3600) }, kind4(5), opt(52, 2)),
		"overload in file only":       answers(a4, func(d *dhcp4) { d.file, d.sname = opt(52, 2), lease(3600) }, kind4(5), opt(52, 1)),
		"overload of two bytes":       answers(a4, func(d *dhcp4) { d.file = lease(3600) }, kind4(5), opt(52, 1, 1)),
		"my own, come back":           ack(func(d *dhcp4) { d.from = vm }),
		"refused, another question's": nak(func(d *dhcp4) { d.xid++ }),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, []step{{name: "request", out: true, data: requests()}, {name: name, data: data}, {name: "still asked", data: ack(nil), want: leasedA4}})
		})
	}
}

// TestDHCPv4Unasked: what the VM sends that makes no question, and says nothing.
func TestDHCPv4Unasked(t *testing.T) {
	for name, data := range map[string][]byte{
		"nothing":               nil,
		"inform":                asks(func(d *dhcp4) { d.client, d.src = a4, a4 }, kind4(8)),
		"no type":               asks(nil, wanted(a4)),
		"forged":                asks(func(d *dhcp4) { d.from = inner }, kind4(3), wanted(a4)),
		"forged release":        asks(func(d *dhcp4) { d.from, d.client = inner, a4 }, kind4(7)),
		"operation 3":           asks(func(d *dhcp4) { d.op = 3 }, kind4(3), wanted(a4)),
		"as a relay":            asks(func(d *dhcp4) { d.relay = b4 }, kind4(3), wanted(a4)),
		"to another port":       asks(func(d *dhcp4) { d.dport = 68 }, kind4(3), wanted(a4)),
		"an answer":             asks(func(d *dhcp4) { d.op = 2 }, kind4(3), wanted(a4)),
		"a server's":            asks(func(d *dhcp4) { d.op, d.sport, d.dport, d.yours = 2, 67, 68, a4 }, kind4(5), lease(3600)),
		"a fragment":            asks(func(d *dhcp4) { d.fragment = true }, kind4(3), wanted(a4)),
		"release of nothing":    asks(nil, kind4(7), wanted(a4)),
		"decline of nothing":    asks(func(d *dhcp4) { d.client = a4 }, kind4(4)),
		"decline of all":        asks(nil, kind4(4), wanted("255.255.255.255")),
		"requested of 3 bytes":  asks(nil, kind4(4), opt(50, 10, 100, 0)),
		"released by an answer": asks(func(d *dhcp4) { d.op, d.client = 2, a4 }, kind4(7)),
	} {
		t.Run(name, func(t *testing.T) {
			play(t, []step{{name: name, out: true, data: data}, {name: "ack", data: ack(nil)}, {name: "nak", data: nak(nil)}})
		})
	}
	play(t, []step{ // a refusal needs a request
		{name: "discover", out: true, data: asks(nil, kind4(1), wanted(a4))}, {name: "nak", data: nak(nil)},
		{name: "request", out: true, data: requests()}, {name: "discover", out: true, data: asks(nil, kind4(1), wanted(a4))}, {name: "nak", data: nak(nil)},
		{name: "request of nothing", out: true, data: asks(nil, kind4(3))}, {name: "nak", data: nak(nil)},
		{name: "an answer that the VM sends", out: true, data: ack(nil)},
		{name: "a release that comes", data: answers(a4, func(d *dhcp4) { d.client = a4 }, kind4(7))},
	})
}

// TestAsked: a question counts where and when it was asked.
func TestAsked(t *testing.T) {
	question := func() step { return step{name: "request", out: true, data: requests()} }
	play(t, []step{
		question(),
		{name: "another VLAN", vlan: 101, data: ack(nil)},
		{name: "another port", port: "shop/web-2", data: ack(nil)},
		{name: "here, at the last moment", after: 2 * time.Minute, data: ack(nil), want: leasedA4},
		{name: "too late", after: 1, data: ack(nil)},
		question(),
		{name: "asked again", after: 119 * time.Second, out: true, data: requests()},
		{name: "counts from then", after: 119 * time.Second, data: ack(nil), want: leasedA4},
		{name: "in another VLAN", vlan: 101, out: true, data: requests()},
		{name: "there", vlan: 101, data: ack(nil), want: leasedA4},
	})
	r := New()
	read := func(s step) []string { return words(start, r.Read(s.frame(start))) }
	read(question())
	other := question()
	other.port = "shop/web-2"
	read(other)
	r.Forget("shop/web-1")
	r.Forget("shop/web-1")
	if got := read(step{data: ack(nil)}); got != nil {
		t.Errorf("a port that was forgotten says %v", got)
	}
	if got := read(step{port: "shop/web-2", data: ack(nil)}); !slices.Equal(got, leasedA4) {
		t.Errorf("a port beside one that was forgotten says %v", got)
	}
}

// TestBounds: the latest eight count.
func TestBounds(t *testing.T) {
	r := New()
	ask := func(xid uint32) {
		s := step{out: true, data: asks(func(d *dhcp4) { d.xid = xid }, kind4(3), wanted(a4))}
		r.Read(s.frame(start))
	}
	knows := func(xid uint32) bool {
		s := step{data: ack(func(d *dhcp4) { d.xid = xid })}
		return r.Read(s.frame(start)) != nil
	}
	for xid := range uint32(1000) {
		ask(xid)
		if n := len(r.asks[port.ID]); n > 8 {
			t.Fatalf("%d questions are kept", n)
		}
	}
	ask(992) // is the latest now
	ask(1000)
	for xid, want := range map[uint32]bool{0: false, 991: false, 992: true, 993: false, 994: true, 999: true, 1000: true} {
		if got := knows(xid); got != want {
			t.Errorf("question %d is kept: %v, want %v", xid, got, want)
		}
	}
	if n := cap(r.asks[port.ID]); n > 16 {
		t.Errorf("there is room for %d questions", n)
	}
	late := step{out: true, data: requests()}
	r.Read(late.frame(start.Add(3 * time.Minute)))
	if n := len(r.asks[port.ID]); n != 1 {
		t.Errorf("%d questions are kept, want the one that is not too old", n)
	}
}
