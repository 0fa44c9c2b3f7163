package probe

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"unicode"
)

// FuzzRead: whatever comes, what it says makes sense, and nothing is kept of the frame itself.
func FuzzRead(f *testing.F) {
	for _, s := range spokens(f) {
		f.Add(s.data)
		f.Add(s.data[:s.least-1])
	}
	for _, ask := range []func() ([]byte, error){
		func() ([]byte, error) { return arpProbe(myMAC, netip.MustParseAddr("192.0.2.1")) },
		func() ([]byte, error) { return solicitation(myMAC, netip.MustParseAddr("fe80::1")) },
		func() ([]byte, error) { return routerSolicitation(myMAC) },
		func() ([]byte, error) { return discover(myMAC, 1) },
	} {
		b, err := ask()
		must(f, err)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		w := read(slices.Clip(data), myMAC)
		said := 0
		if w.claim != nil {
			said++
			if !w.claim.address.IsValid() || len(data) < etherHead+28 {
				t.Errorf("claim of %v in %d bytes", w.claim.address, len(data))
			}
		}
		if w.offer != nil {
			said++
			if !w.offer.Server.Is4() || !w.offer.Address.Is4() || len(data) < etherHead+28+240 {
				t.Errorf("offer %v in %d bytes", w.offer, len(data))
			}
		}
		if w.ra != nil {
			said++
			if !w.ra.Address.IsValid() || slices.ContainsFunc(w.ra.Prefixes, func(p netip.Prefix) bool { return !p.IsValid() || p != p.Masked() }) {
				t.Errorf("router %v", w.ra)
			}
		}
		if said > 1 {
			t.Errorf("says more than one thing: %+v", w)
		}
	})
}

// FuzzAddressed: whatever comes, whoever asks or has answered is an address, of one family with what it asks for.
func FuzzAddressed(f *testing.F) {
	for _, ask := range []func() ([]byte, error){
		func() ([]byte, error) { return arpProbe(myMAC, router) },
		func() ([]byte, error) { return solicitation(myMAC, router6) },
		func() ([]byte, error) {
			return echoRequest(myMAC, Ask{Kind: Echo, Target: router, Source: mySource, To: otherMAC, Size: 128}, testRun)
		},
		func() ([]byte, error) {
			return echoRequest(myMAC, Ask{Kind: Echo, Target: router6, Source: mySource6, To: otherMAC, Size: 128}, testRun)
		},
	} {
		b, err := ask()
		must(f, err)
		f.Add(b, len(b))
		f.Add(b[:len(b)-20], len(b))
	}
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		if len(data) < etherHead { // as listen has it
			return
		}
		data = slices.Clip(data)
		if q, ok := readQuestion(data); ok && (!q.target.IsValid() || !q.from.IsValid() || q.target.Is4() != q.from.Is4()) {
			t.Errorf("%+v", q)
		}
		if from, size, ok := readEcho(Frame{Data: data, Length: length}, testRun); ok && (!from.IsValid() || size > length) {
			t.Errorf("%v has answered %d bytes of %d", from, size, length)
		}
	})
}

// FuzzHello: what is believed is what this version makes.
func FuzzHello(f *testing.F) {
	for _, k := range helloKinds[1:] {
		g := newGreeting()
		g.Kind = k
		f.Add(newHello(f, g, peerMAC, broadcast), 78)
	}
	f.Add(signed(f, newGreeting(), func(p []byte) { p[5] = 0 }), 78)
	f.Add(newHello(f, newGreeting(), peerMAC, broadcast)[:60], 1500)
	f.Fuzz(func(t *testing.T, data []byte, length int) {
		g, ok, err := readHello(keys, Frame{Data: slices.Clip(data), Length: length})
		if !ok || err != nil {
			return
		}
		again, err := g.frame(keys, MAC(data[6:12]), MAC(data[:6]))
		must(t, err)
		if n := g.head(); len(data) < n || !bytes.Equal(again[:n], data[:n]) {
			t.Errorf("%+v is made as\n% x\nand came as\n% x", g, again, data)
		}
	})
}

// FuzzLLDP: no frame breaks it, and its words can be printed.
func FuzzLLDP(f *testing.F) {
	good := bytesOf(f, lldpOfSwitch)
	f.Add(good)
	f.Add(good[:40])
	f.Add(bytesOf(f, lldpChassis+lldpPort+`0602 0000`+lldpEnd))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := ReadLLDP(slices.Clip(data))
		if (n == nil) == (err == nil) {
			t.Fatalf("%+v, %v", n, err)
		}
		if err != nil {
			return
		}
		if n.Chassis == "" || n.Port == "" || n.Native > 4094 {
			t.Errorf("%+v", n)
		}
		for _, s := range []string{n.Chassis, n.Port, n.Name, n.PortIs} {
			for _, r := range s {
				if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
					t.Errorf("%q has %U", s, r)
				}
			}
		}
	})
}
