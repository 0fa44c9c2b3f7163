package datapath

import (
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// BenchmarkProgram is the cost of one program on one frame, by the kernel's own
// repetition: ns/op is a hook's share, without the way there.
func BenchmarkProgram(b *testing.B) {
	bench := newBench(b, Config{})
	bench.sync(testSets(b)...)
	none, guarded := attach.Security{}, attach.Security{IPGuard: attach.GuardStrict, ARPGuard: true, NDGuard: true}
	if err := bench.PutAddress(AddressKey{"net-a", 100, vm4}, mineFirm); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		first []step
		hook  Hook
		frame []byte
		want  policy.Reason
		watch bool
		kept  attach.Security
	}{
		{"established4/from", tcpScenarios()[0].steps[:3], FromVM, tcp(vm4, peer4, 1000, 80, "A").bytes(), policy.ReasonEstablished, false, none},
		{"established4/to", tcpScenarios()[0].steps[:3], ToVM, facing(ToVM, tcp(peer4, vm4, 80, 1000, "A").bytes()), policy.ReasonEstablished, false, none},
		{"established6/from", tcpScenarios()[1].steps[:2], FromVM, tcp(vm6, peer6, 1000, 80, "A").bytes(), policy.ReasonEstablished, false, none},
		{"udp/from", []step{out(udp(vm4, peer4, 5, 53), 0), in(udp(peer4, vm4, 53, 5), 0)}, FromVM, udp(vm4, peer4, 5, 53).bytes(), policy.ReasonEstablished, false, none},
		{"unanswered/from", nil, FromVM, udp(vm4, peer4, 5, 53).bytes(), policy.ReasonEstablished, false, none},
		{"rule drop/from", nil, FromVM, tcp(vm4, bad4, 5, 53, "S").bytes(), policy.ReasonRuleDrop, false, none},
		{"rule drop, observed/from", nil, FromVM, tcp(vm4, bad4, 5, 53, "S").bytes(), policy.ReasonRuleDrop, true, none},
		{"arp/from", nil, FromVM, pkt{ether: 0x0806, l4: make([]byte, 46)}.bytes(), policy.ReasonARP, false, none},
		{"arp, known/from", nil, FromVM, arpBy(1, testMAC, vm4, peer4).bytes(), policy.ReasonARP, false, none},
		{"arp, guarded/from", nil, FromVM, arpBy(1, testMAC, vm4, peer4).bytes(), policy.ReasonARP, false, guarded},
		{"established4, guarded/from", tcpScenarios()[0].steps[:3], FromVM, tcp(vm4, peer4, 1000, 80, "A").bytes(), policy.ReasonEstablished, false, guarded},
		{"unanswered, guarded/from", nil, FromVM, udp(vm4, peer4, 5, 53).bytes(), policy.ReasonEstablished, false, guarded},
	} {
		b.Run(c.name, func(b *testing.B) {
			bench.TB = b
			port := accessPort()
			port.Security = c.kept
			bench.port(port)
			if err := bench.Watch(c.watch); err != nil {
				b.Fatal(err)
			}
			for _, s := range c.first {
				bench.run(s.hook, s.frame)
			}
			bench.run(c.hook, c.frame)
			if r := bench.reason(c.hook, c.frame); r != c.want {
				b.Fatalf("%v, want %v", r, c.want)
			}
			_, d, err := bench.progs[c.hook].Benchmark(c.frame, b.N, func() {})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(d.Nanoseconds()), "ns/hook")
		})
	}
	p, err := passProgram()
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	b.Run("nothing", func(b *testing.B) {
		_, d, err := p.Benchmark(tcp(vm4, peer4, 1000, 80, "A").bytes(), b.N, func() {})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(d.Nanoseconds()), "ns/hook")
	})
}
