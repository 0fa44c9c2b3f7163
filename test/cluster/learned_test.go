package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aimMs is by when a rule by label should let a VM's new address through on another node, in milliseconds from
// the first ARP; it is told, not asserted: machines are emulated.
const aimMs = 1000

// testLearned: a VM that nobody knows the address of, for it has no guest agent, says by ARP what it has. A rule by label
// on another node goes by that, for each address that it takes, and people on any node are told. How
// long it takes is told beside a connection that waits for no rule, from the same address at the same time.
func testLearned(s *scenario) {
	s.network("learned106", 106, "Drop")
	s.apply(`
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: learned}
spec:
  category: Application
  order: 21
  appliedTo: [{network: learned106}]
  rules:
  - {id: 1, action: Allow, direction: Out}
  - {id: 2, action: Allow, direction: In, sources: [{vm: {matchLabels: {role: web, kubernetes.io/metadata.name: learned}}}], services: [{protocol: TCP, ports: "80"}]}
  - {id: 3, action: Allow, direction: In, services: [{protocol: TCP, ports: "22"}]}
`)
	web := &pod{name: "web", node: "node1", network: "learned106", addr: "10.100.6.1/24", mac: "00:50:56:aa:06:01"}
	db := &pod{name: "db", node: "node2", network: "learned106", addr: "10.100.6.2/24", mac: "00:50:56:aa:06:02"}
	other := &pod{name: "other", node: "node1", network: "learned106", addr: "10.100.6.3/24", mac: "00:50:56:aa:06:03"}
	pods := []*pod{web, db, other}
	vms := []*VM{s.vm(web, "role: web"), s.vm(db, "role: db"), s.vm(other, "role: none")}
	for i, v := range vms {
		v.Silent = true
		s.ready(pods[i])
		if err := s.c.RunVM(s.Context(), v); err != nil {
			s.Fatal(err)
		}
	}
	s.reaches(web, db, 80)
	s.reaches(other, db, 22)
	s.refused(other, db, 80)

	var ours, open []int64
	for i := range 4 { // as many as are told at once
		addr := fmt.Sprintf("10.100.6.%d", 50+i)
		var took map[string]int64
		if err := s.ask(web, "/first?addr="+addr+"/24&to=10.100.6.2&port=22&port=80", &took); err != nil {
			s.Fatal(err)
		}
		if took["22"] == 0 || took["80"] == 0 {
			s.Fatalf("from %s, web connects to ports after so many ms: %v; want 22 and 80", addr, took)
		}
		open, ours = append(open, took["22"]), append(ours, took["80"])
		s.eventually("node2 says whose "+addr+" is", func() error {
			out := s.on("node2", "homeportctl addresses "+addr)
			if !slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
				f := strings.Fields(line)
				return len(f) > 6 && f[0] == addr && f[3] == "learned/web" && f[4] == "node1" && f[5] == web.mac && f[6] == "ARP"
			}) {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
	}
	text := fmt.Sprintf("a rule by label lets a VM's new address through on another node: %v ms after its first ARP, without such a rule %v ms; medians %d and %d, ratio %.1f; aim %d ms",
		ours, open, middle(ours), middle(open), float64(middle(ours))/float64(middle(open)), aimMs)
	s.Log(text)
	if err := os.WriteFile(filepath.Join(s.c.dir, "figures.txt"), []byte(text+"\n"), 0o644); err != nil {
		s.Error(err)
	}
}

func middle(of []int64) int64 { return slices.Sorted(slices.Values(of))[len(of)/2] }
