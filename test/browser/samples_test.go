package browser

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/homeport-cni/homeport/pkg/reach"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// evil is what a switch or a node may say of itself.
const evil = `<script>document.title="owned"</script><img src=x onerror=alert(1)>"'&{{.}}` + "\u202e"

// builder makes reports.
type builder struct{ r *reach.Report }

func newBuilder() *builder {
	return &builder{&reach.Report{APIVersion: "homeport.dev/v1alpha1", Kind: reach.ReportKind, Run: "0123456789abcdef",
		Started: time.Date(2026, 11, 30, 9, 41, 7, 0, time.UTC), Took: 7312 * time.Millisecond}}
}

func (b *builder) node(n reach.Node, vlans ...vlan.ID) {
	for _, id := range vlans {
		_ = n.VLANs.Add(id) // they are valid
	}
	n.Version = "v0.9.0"
	b.r.Nodes = append(b.r.Nodes, n)
	for _, id := range vlans {
		for _, t := range []reach.Test{reach.TestTrunk, reach.TestMAC, reach.TestMTU, reach.TestGateway, reach.TestLLDP} {
			c := reach.Cell{Node: n.Node, Trunk: n.Trunk, VLAN: id, Test: t, Result: reach.Pass}
			if t == reach.TestGateway {
				c.Target = fmt.Sprintf("10.%d.%d.1", id/256, id%256)
			}
			b.r.Cells = append(b.r.Cells, c)
		}
	}
}

// finds adds a finding, and has cells of the test fail for it, those after it untested.
func (b *builder) finds(code reach.Code, test reach.Test, f reach.Finding) {
	text, _ := code.Text()
	f.Code, f.Severity, f.Message, f.Next = code, text.Severity, text.Meaning, text.Next
	for _, n := range b.r.Nodes {
		if slices.Contains(f.Nodes, n.Node) && n.Switch != "" && n.Trunk == f.Trunk {
			f.Ports = append(f.Ports, fmt.Sprintf("%s %s: %s %s", n.Node, n.Uplink, n.Switch, n.Port))
		}
	}
	b.r.Findings = append(b.r.Findings, f)
	for i := range b.r.Cells {
		c := &b.r.Cells[i]
		switch {
		case test == "" || !f.Concerns(c) || c.Result != reach.Pass:
		case c.Test == test:
			c.Result, c.Why = reach.Fail, string(code)
		case test == reach.TestTrunk:
			c.Result, c.Why = reach.Untested, string(code)
		}
	}
}

func (b *builder) report() *reach.Report {
	r := b.r
	slices.SortStableFunc(r.Findings, func(x, y reach.Finding) int { return y.Severity.Rank() - x.Severity.Rank() })
	r.Summary = reach.Summary{Cells: len(r.Cells)}
	for _, c := range r.Cells {
		switch c.Result {
		case reach.Pass:
			r.Summary.Passed++
		case reach.Fail:
			r.Summary.Failed++
		default:
			r.Summary.Untested++
		}
	}
	for _, f := range r.Findings {
		switch f.Severity {
		case reach.Error:
			r.Summary.Errors++
		case reach.Warning:
			r.Summary.Warnings++
		default:
			r.Summary.Infos++
		}
	}
	return r
}

func ids(first, last vlan.ID) (all []vlan.ID) {
	for id := first; id <= last; id++ {
		all = append(all, id)
	}
	return all
}

func set(all ...vlan.ID) (s vlan.Set) {
	for _, id := range all {
		_ = s.Add(id) // they are valid
	}
	return s
}

// rich has two trunks, switches of one name, nodes at none and one that took no part, findings of all
// severities, and names that mean harm.
func rich() *reach.Report {
	b := newBuilder()
	for i := range 12 {
		n := reach.Node{Node: fmt.Sprintf("worker-%d", i+1), Trunk: "physnet1", Uplink: "bond0", Switch: fmt.Sprintf("leaf-%c", 'a'+i/5), Port: fmt.Sprintf("Ethernet1/%d", 3*i+1)}
		switch i {
		case 6, 7:
			n.Switch, n.Chassis = "leaf-a", "02:00:00:00:00:b7"
		case 9:
			n.Node, n.Switch, n.Port = "worker-10.rack-07.west.dc.example.com", "leaf-c.rack-07.west.dc.example.com", "GigabitEthernet1/0/24"
		case 10:
			n.Switch, n.Port = "", ""
		case 11:
			n.Node, n.Switch, n.Port, n.Uplink = evil, evil, evil, evil
		}
		b.node(n, ids(100, 119)...)
		if i < 3 {
			b.node(reach.Node{Node: n.Node, Trunk: "storage", Uplink: "ens5f1", Switch: "san-1", Port: fmt.Sprint(i + 1)}, 300, 301)
		}
	}
	b.r.Nodes = append(b.r.Nodes, reach.Node{Node: "worker-99", Absent: "dial tcp 10.0.0.99:9748: connect: no route to host"})
	b.finds(reach.NotTrunked, reach.TestTrunk, reach.Finding{Trunk: "physnet1", Nodes: []string{"worker-2"}, VLANs: set(105), Networks: []string{"erp-105"},
		Evidence: []string{"worker-1 hears worker-3, worker-4 and 9 more", "leaf-a Ethernet1/4 says that it carries 100-104,106-119"}})
	b.finds(reach.MTUBelowIntent, reach.TestMTU, reach.Finding{Trunk: "physnet1", Nodes: []string{"worker-4"}, VLANs: set(ids(100, 119)...), Targets: []string{"MTU 9000"}, LargestMTU: 1500,
		Evidence: []string{"small frames pass between worker-4 and its peers; of 9000 bytes none do, of 1500 they do"}})
	b.finds(reach.GatewaySilent, reach.TestGateway, reach.Finding{Trunk: "physnet1", VLANs: set(112), Targets: []string{"10.0.112.1"}, Evidence: []string{"asked on worker-1, worker-3 and 10 more"}})
	b.finds(reach.LLDPVLANMissing, reach.TestLLDP, reach.Finding{Trunk: "physnet1", Nodes: []string{"worker-8"}, VLANs: set(118, 119), Evidence: []string{evil}})
	b.finds(reach.NotTrunked, reach.TestTrunk, reach.Finding{Trunk: "physnet1", Nodes: []string{evil}, VLANs: set(101), Evidence: []string{evil}})
	b.finds(reach.AgentAbsent, "", reach.Finding{Nodes: []string{"worker-99"}, Evidence: []string{"worker-99: no route to host"}})
	b.finds(reach.LLDPAbsent, "", reach.Finding{Trunk: "physnet1", Nodes: []string{"worker-11"}})
	return b.report()
}

// large has nodes with so many VLANs each, of which no two neighbours fare alike; every second node is
// at a switch with others, every ninth at none that is known, and some names are long.
func large(nodes, vlans int) *reach.Report {
	b := newBuilder()
	for i := range nodes {
		n := reach.Node{Node: fmt.Sprintf("node-%02d", i+1), Trunk: "physnet1", Uplink: "enp129s0f1np1", Switch: fmt.Sprintf("tor-%d", i/12+1), Port: fmt.Sprintf("xe-0/0/%d", i%12)}
		switch {
		case i%9 == 8:
			n.Switch, n.Port = "", ""
		case i%7 == 3:
			n.Node += strings.Repeat(".a-long-name", 4)
			n.Port = "HundredGigabitEthernet1/0/" + fmt.Sprint(i)
		case i%11 == 5:
			n.Node, n.Switch = "節点"+strings.Repeat("網", 12)+fmt.Sprint(i), "WWWWWWWWWWWWWWWWWWWWWWWWWW"
		}
		b.node(n, ids(100, 99+vlan.ID(vlans))...)
	}
	for i := range vlans {
		n := b.r.Nodes[i*7%nodes].Node
		b.finds([]reach.Code{reach.NotTrunked, reach.MACFiltered}[i%2], []reach.Test{reach.TestTrunk, reach.TestMAC}[i%2],
			reach.Finding{Trunk: "physnet1", Nodes: []string{n}, VLANs: set(100 + vlan.ID(i)), Evidence: []string{"no peer hears " + n}})
	}
	return b.report()
}
