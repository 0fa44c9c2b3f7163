package datapath

import (
	_ "embed"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
)

// attacks are frames that Scapy has made: reason, name, hexadecimal bytes.
//
//go:embed testdata/attacks.tsv
var attacks string

// TestAttacks: what another's tool makes is judged as what ours does (reasons_test.go).
func TestAttacks(t *testing.T) {
	b := newBench(t, Config{})
	b.sync(testSets(t)...)
	c := accessPort()
	secured(attach.Security{IPGuard: attach.GuardStrict, ARPGuard: true, NDGuard: true, RAGuard: true, DHCPServerGuard: true, EtherTypes: attach.EtherTypes{0x0800, 0x0806, 0x86dd}})(&c)
	c.Trunk = "net-b" // as of hold
	b.port(c)
	b.hold(held{vm4.String(): mineFirm, vm6.String(): mineFirm, peer4.String(): theirs, peer6.String(): theirs}, 100)
	judged := map[string]int{}
	for line := range strings.Lines(attacks) {
		w := strings.Split(strings.TrimSpace(line), "\t")
		if len(w) != 3 {
			t.Fatalf("%q: want reason, name and bytes", line)
		}
		frame, err := hex.DecodeString(w[2])
		if err != nil {
			t.Fatalf("%s: %v", w[1], err)
		}
		if r := b.reason(FromVM, frame); r.String() != w[0] {
			t.Errorf("%s: %v, want %s", w[1], r, w[0])
		}
		judged[w[0]]++
	}
	for _, r := range []policy.Reason{policy.ReasonDefaultAllow, policy.ReasonARP, policy.ReasonND, policy.ReasonMACSpoof, policy.ReasonGuestTag, policy.ReasonIPGuard,
		policy.ReasonARPGuard, policy.ReasonNDGuard, policy.ReasonRAGuard, policy.ReasonDHCPServerGuard, policy.ReasonBPDUGuard, policy.ReasonEtherTypeGuard} {
		if judged[r.String()] == 0 {
			t.Errorf("there is no frame for %v", r)
		}
	}
}
