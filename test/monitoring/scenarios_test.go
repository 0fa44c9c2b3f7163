package monitoring

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/reach"
)

// change gives series other values; "" takes them away.
type change struct{ of, values string }

// fires are the alerts that fire at a time, each with its labels: `Name a="b"`.
type fires struct {
	at     string
	alerts []string
}

const (
	fail  = "0x600"
	cells = `^homeport_reachability_cell_passed.*`
)

// wellNodes are four nodes with VLANs 100 to 105, and a controller, all well.
func wellNodes(t *testing.T) []series {
	all := []series{
		{`leader_election_master_status{name="homeport-controller",job="homeport-controller",pod="c1"}`, "1x600"},
		{`leader_election_master_status{name="homeport-controller",job="homeport-controller",pod="c2"}`, "0x600"},
	}
	for _, n := range []string{"n1", "n2", "n3", "n4"} {
		of := node(t, n, "well", 0)
		for _, s := range slices.Clone(of) {
			for vlan := 102; vlan <= 105 && strings.Contains(s.Series, `vlan="100"`); vlan++ {
				of = append(of, series{strings.Replace(s.Series, `vlan="100"`, fmt.Sprintf("vlan=%q", fmt.Sprint(vlan)), 1), s.Values})
			}
		}
		all = append(all, of...)
	}
	return all
}

func changed(t *testing.T, all []series, changes []change) []series {
	t.Helper()
	for _, c := range changes {
		of, hit := regexp.MustCompile(c.of), false
		var kept []series
		for _, s := range all {
			if of.MatchString(s.Series) {
				hit, s.Values = true, c.values
			}
			if s.Values != "" {
				kept = append(kept, s)
			}
		}
		if !hit {
			t.Errorf("no series is like %s", c.of)
		}
		all = kept
	}
	return all
}

// withFindings adds to cells that fail what they fail by: while they do, the first code of their test.
func withFindings(all []series) []series {
	cell := regexp.MustCompile(cells)
	label := func(s, name string) string {
		return regexp.MustCompile(`\b` + name + `="([^"]*)"`).FindStringSubmatch(s)[1]
	}
	found := map[string]bool{}
	for _, s := range all {
		found[s.Series] = true
	}
	for _, s := range slices.Clone(all) {
		if !cell.MatchString(s.Series) || !strings.HasPrefix(s.Values, "0x") {
			continue
		}
		code, _ := reach.Test(label(s.Series, "test")).Codes()[0].Text()
		name := fmt.Sprintf(`homeport_reachability_findings{node=%q,check=%q,code=%q,severity=%q}`, label(s.Series, "node"), label(s.Series, "check"), code.Code, code.Severity)
		if !found[name] {
			found[name] = true
			all = append(all, series{name, strings.NewReplacer("0x", "1x", "1x600", "stale").Replace(s.Values)})
		}
	}
	return all
}

// told are a node's findings of all codes that fail cells which alerts count, for ten hours, and the cells.
func told(node string) (findings, failing []series) {
	for _, test := range []reach.Test{reach.TestTrunk, reach.TestMAC, reach.TestMTU, reach.TestGateway} {
		failing = append(failing, series{fmt.Sprintf(`homeport_reachability_cell_passed{node=%q,check="daily",trunk="t",vlan="100",test=%q,target=""}`, node, test), fail})
		for _, c := range test.Codes() {
			findings = append(findings, series{fmt.Sprintf(`homeport_reachability_findings{node=%q,check="daily",code=%q,severity="error"}`, node, c), "1x600"})
		}
	}
	return findings, failing
}

// findingsOf are the alerts of what a check found.
func findingsOf(found []series) (alerts []string) {
	for _, s := range found {
		alerts = append(alerts, "HomeportFinding "+regexp.MustCompile(`check="\w+",code="\w+"`).FindString(s.Series))
	}
	return alerts
}

type scenario struct {
	changes []change
	more    []series
	want    []fires
}

func none(at ...string) []fires {
	var out []fires
	for _, a := range at {
		out = append(out, fires{at: a})
	}
	return out
}

// lasting are alerts of cells that fail from the beginning.
func lasting(alerts ...string) []fires {
	return []fires{{"4m", nil}, {"6m", alerts}, {"11m", alerts}, {"1h", alerts}}
}

func reachability() map[string]scenario {
	found, failing := told("n1")
	_, elsewhere := told("n2")
	return map[string]scenario{
		"all is well": {want: none("0m", "30m", "10h")},
		"a VLAN is dead on all nodes": {changes: []change{{cells + `vlan="101"`, fail}},
			want: lasting(`HomeportVLANUnreachable trunk="t",vlan="101"`)},
		"a VLAN is dead on half of the nodes": {changes: []change{{cells + `node="n[12]".*vlan="101"`, fail}},
			want: lasting(`HomeportVLANUnreachable trunk="t",vlan="101"`)},
		"two VLANs of one node": {changes: []change{{cells + `node="n2".*vlan="10[01]"`, fail}},
			want: lasting(`HomeportNodeUnreachable node="n2",trunk="t"`)},
		"a node is cut off": {changes: []change{{cells + `node="n2"`, fail}},
			want: lasting(`HomeportNodeUnreachable node="n2",trunk="t"`)},
		"a VLAN on all nodes, another on one": {changes: []change{{cells + `vlan="101"`, fail}, {cells + `node="n2".*vlan="100"`, fail}},
			want: lasting(`HomeportNodeUnreachable node="n2",trunk="t"`, `HomeportVLANUnreachable trunk="t",vlan="101"`)},
		"the trunk is cut": {changes: []change{{cells, fail}},
			want: lasting(`HomeportTrunkUnreachable trunk="t"`)},
		"one test of many fails, also of another check": {
			more: []series{{`homeport_reachability_cell_passed{node="n1",check="daily",trunk="t",vlan="100",test="mtu",target=""}`, fail}},
			want: lasting(`HomeportNodeUnreachable node="n1",trunk="t"`)},
		"no DHCP": {more: []series{{`homeport_reachability_cell_passed{node="n1",check="hourly",trunk="t",vlan="100",test="dhcp",target=""}`, fail}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportFinding check="hourly",code="DHCP_SILENT"`}}}},
		"one lost frame": {changes: []change{{cells + `vlan="101"`, "0x2 1x600"}}, want: none("6m", "11m", "13m", "30m")},
		"it is mended": {changes: []change{{cells + `vlan="101"`, "0x20 1x600"}},
			want: append([]fires{{"20m", []string{`HomeportVLANUnreachable trunk="t",vlan="101"`}}}, none("21m", "29m", "30m", "31m", "32m")...)},
		"an agent restarts meanwhile": {changes: []change{{cells + `node="n1".*vlan="101"`, "0x10 stale _x5 0x600"}, {`^up.*"n1"`, "1x10 0x5 1x600"}},
			want: []fires{{"10m", []string{`HomeportNodeUnreachable node="n1",trunk="t"`}}, {"13m", []string{`HomeportNodeUnreachable node="n1",trunk="t"`}}, {"20m", []string{`HomeportNodeUnreachable node="n1",trunk="t"`}}}},
		"all agents restart": {
			changes: []change{{`_network_offered`, "0x12 stale _x5 0x600"}, {`_last_run_error`, "1x12 stale _x5 1x600"}, {`_every_seconds`, "3600x12 stale _x5 3600x600"},
				{`_last_run_timestamp_seconds`, "_"}, {`_desired_state_stale.*"n1"`, "1x12 stale _x5 1x600"}},
			more: []series{{`homeport_reachability_findings{node="n1",check="hourly",code="AGENT_ABSENT",severity="warning"}`, "1x12 stale _x5 1x600"}},
			want: []fires{{"16m", []string{`HomeportFinding check="hourly",code="AGENT_ABSENT"`, `HomeportCheckFailed check="hourly"`, `HomeportCheckNotRun check="hourly"`,
				`HomeportNetworkNotOffered network="lan"`, `HomeportDesiredStateStale `}}}},
		"a node leaves": {changes: []change{{`"n1"`, "0x10 stale"}}, want: none("40m")},

		"a finding on two nodes": {more: []series{
			{`homeport_reachability_findings{node="n1",check="hourly",code="RA_UNEXPECTED",severity="warning"}`, "1x600"},
			{`homeport_reachability_findings{node="n2",check="hourly",code="RA_UNEXPECTED",severity="warning"}`, "2x600"},
			{`homeport_reachability_findings{node="n2",check="hourly",code="NO_PEER",severity="info"}`, "2x600"}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportFinding check="hourly",code="RA_UNEXPECTED"`}}}},
		"all that cells tell":          {more: slices.Concat(found, failing), want: lasting(`HomeportNodeUnreachable node="n1",trunk="t"`)},
		"the same where no cell fails": {more: found, want: []fires{{"9m", nil}, {"11m", findingsOf(found)}}},
		"the same where cells of another node fail": {more: slices.Concat(found, elsewhere),
			want: []fires{{"11m", append(findingsOf(found), `HomeportNodeUnreachable node="n2",trunk="t"`)}}},
		"a check that tests DHCP alone, and a link is down": {changes: []change{{cells + `node="n1"`, ""}},
			more: []series{{`homeport_reachability_findings{node="n1",check="hourly",code="LINK_DOWN",severity="error"}`, "1x600"}},
			want: []fires{{"11m", []string{`HomeportFinding check="hourly",code="LINK_DOWN"`}}}},
		"such a check, and one that tests all": {changes: []change{{cells + `node="n1"`, fail}},
			more: []series{{`homeport_reachability_findings{node="n1",check="daily",code="LINK_DOWN",severity="error"}`, "1x600"}},
			want: lasting(`HomeportNodeUnreachable node="n1",trunk="t"`)},
		"a cell fails, and a source's address is double": {changes: []change{{cells + `node="n1".*vlan="101"`, fail}},
			more: []series{{`homeport_reachability_findings{node="n1",check="hourly",code="DUPLICATE_ADDRESS",severity="error"}`, "1x600"}},
			want: []fires{{"11m", []string{`HomeportNodeUnreachable node="n1",trunk="t"`, `HomeportFinding check="hourly",code="DUPLICATE_ADDRESS"`}}}},
		"no run any more": {changes: []change{{`_last_run_timestamp_seconds`, "0x600"}},
			want: []fires{{"3h10m", nil}, {"3h17m", []string{`HomeportCheckNotRun check="hourly"`}}}},
		"one node is told of none": {changes: []change{{`_last_run_timestamp_seconds.*"n1"`, "0x600"}}, want: none("5h")},
		"when asked alone":         {changes: []change{{`_last_run_timestamp_seconds`, "0x600"}, {`_every_seconds`, "0x600"}}, want: none("9h")},
		"never asked":              {changes: []change{{`_last_run_timestamp_seconds`, ""}, {`_every_seconds`, "0x600"}}, want: none("9h")},
		"never ran": {changes: []change{{`_last_run_timestamp_seconds`, ""}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportCheckNotRun check="hourly"`}}}},
		"the run fails":                    {changes: []change{{`_last_run_error`, "1x600"}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportCheckFailed check="hourly"`}}}},
		"one node remembers one that did":  {changes: []change{{`_last_run_error.*"n1"`, "1x600"}}, want: none("30m")},
		"a network is offered nowhere":     {changes: []change{{`_network_offered`, fail}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportNetworkNotOffered network="lan"`}}}},
		"a network is offered by one node": {changes: []change{{`_network_offered.*n[123]"`, fail}}, want: none("30m")},
	}
}

func nodes() map[string]scenario {
	return map[string]scenario{
		"not ready": {changes: []change{{`^homeport_ready.*n[12]"`, fail}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportNodeNotReady node="n1"`, `HomeportNodeNotReady node="n2"`}}}},
		"most are not ready": {changes: []change{{`^homeport_ready.*n[123]"`, fail}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportNodesNotReady `}}}},
		"a short while":      {changes: []change{{`^homeport_ready`, "0x6 1x600"}}, want: none("11m", "30m")},
		"not ready, and its agent restarts": {changes: []change{{`^homeport_ready.*"n1"`, "0x10 stale _x5 0x600"}},
			want: []fires{{"13m", []string{`HomeportNodeNotReady node="n1"`}}}},
		"the API is away": {changes: []change{{`^homeport_desired_state_stale.*n[123]"`, "1x600"}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportDesiredStateStale `}}}},
		"a drift is not repaired": {changes: []change{{`^homeport_drift_seen_total.*"n1"`, "2x600"}, {`^homeport_ready.*"n1"`, fail}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportDriftNotRepaired kind="PortUnslaved",node="n1"`, `HomeportNodeNotReady node="n1"`}}}},
		"two have an address":   {changes: []change{{`^homeport_address_conflicts.*"n2"`, "1x600"}}, want: []fires{{"14m", nil}, {"16m", []string{`HomeportAddressConflict node="n2"`}}}},
		"somebody outside once": {changes: []change{{`^homeport_address_conflicts.*"n2"`, "0x10 1x10 0x600"}}, want: none("22m", "30m")},
		"a conflict ends":       {changes: []change{{`^homeport_address_conflicts.*"n2"`, "1x20 0x600"}}, want: []fires{{"19m", []string{`HomeportAddressConflict node="n2"`}}, {"23m", nil}}},
		"a drift went away":     {changes: []change{{`^homeport_drift_seen_total.*"n1"`, "2x600"}}, want: none("30m")},
		"a drift returns": {changes: []change{{`^homeport_drift_\w+_total.*"n1"`, "1+1x600"}},
			want: []fires{{"5m", nil}, {"1h", []string{`HomeportDriftReturns kind="PortUnslaved",node="n1"`}}}},
		"counters begin anew": {changes: []change{{`^homeport_drift_\w+_total.*"n1"`, "9x30 stale _x3 1x600"}}, want: none("35m", "1h")},
		"an agent is down": {changes: []change{{`"n1"`, "stale"}, {`^up.*"n1"`, fail}},
			want: []fires{{"9m", nil}, {"11m", []string{`HomeportAgentDown node="n1"`}}}},
		"an agent restarts":        {changes: []change{{`^up.*"n1"`, "1x10 0x4 1x600"}}, want: none("14m", "30m")},
		"no agent at all":          {changes: []change{{`"n[1234]"`, ""}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportAgentsAbsent `}}}},
		"nobody leads":             {changes: []change{{`^leader`, fail}}, want: []fires{{"9m", nil}, {"11m", []string{`HomeportNoLeader `}}}},
		"no controller":            {changes: []change{{`^leader`, ""}}, want: []fires{{"11m", []string{`HomeportNoLeader `}}}},
		"another controller leads": {changes: []change{{`^leader.*c1`, "1x10 stale"}, {`^leader.*c2`, "0x12 1x600"}}, want: none("11m", "30m")},
	}
}

// TestAlerts: each alert fires when it should, once for each cause, and none else does.
func TestAlerts(t *testing.T) {
	rules, file := alertRules(t)
	seen := map[string]bool{}
	for of, scenarios := range map[string]map[string]scenario{"reachability": reachability(), "nodes": nodes()} {
		for name, s := range scenarios {
			t.Run(of+"/"+name, func(t *testing.T) {
				g := testGroup{Series: withFindings(append(changed(t, wellNodes(t), s.changes), s.more...))}
				for _, f := range s.want {
					e := exprTest{Expr: `count by (alertname, trunk, vlan, node, check, code, network, kind) (ALERTS{alertstate="firing"})`, At: f.at}
					for _, a := range f.alerts {
						name, labels, _ := strings.Cut(a, " ")
						seen[name] = true
						e.Samples = append(e.Samples, sample{fmt.Sprintf(`{alertname=%q,%s}`, name, labels), 1})
					}
					g.Exprs = append(g.Exprs, e)
				}
				evaluate(t, file, g)
			})
		}
	}
	for _, r := range rules {
		if r.Alert != "" && !seen[r.Alert] {
			t.Errorf("%s: no scenario has it fire", r.Alert)
		}
	}
}

// TestAlertTexts: texts that ask for more name the nodes and VLANs.
func TestAlertTexts(t *testing.T) {
	rules, file := alertRules(t)
	g := testGroup{Series: changed(t, wellNodes(t), []change{{cells + `vlan="101"`, fail}, {cells + `node="n2".*vlan="10[02]"`, fail}, {`^homeport_desired_state_stale.*n[24]"`, "1x600"}})}
	for name, want := range map[string]struct {
		labels  map[string]string
		summary string
		lists   string // the beginning or end of a sentence of the description
	}{
		"HomeportVLANUnreachable":   {map[string]string{"trunk": "t", "vlan": "101"}, "VLAN 101 of trunk t fails on 4 nodes", "among them: n1 n2 n3 n4."},
		"HomeportNodeUnreachable":   {map[string]string{"trunk": "t", "node": "n2"}, "2 VLANs of trunk t fail on node n2, and work elsewhere", "Among them: 100 101 102."},
		"HomeportDesiredStateStale": {map[string]string{}, "2 nodes cannot read what is desired", "Nodes: n2 n4."},
	} {
		i := slices.IndexFunc(rules, func(r rule) bool { return r.Alert == name })
		r := rules[i]
		asks := regexp.MustCompile(`\w+( \w+)?:\{\{ range .*\{\{ end \}\}\.`)
		if !asks.MatchString(r.Annotations["description"]) {
			t.Fatalf("%s: %q asks for nothing", name, r.Annotations["description"])
		}
		want.labels["severity"] = r.Labels["severity"]
		description := asks.ReplaceAllLiteralString(r.Annotations["description"], want.lists)
		g.Alerts = append(g.Alerts, alertTest{"30m", name, []expAlert{{want.labels, map[string]string{
			"summary": want.summary, "runbook_url": r.Annotations["runbook_url"], "description": description}}}})
	}
	evaluate(t, file, g)
}
