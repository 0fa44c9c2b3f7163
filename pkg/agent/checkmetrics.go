package agent

import (
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// checkCollector tells what ReachabilityChecks have found on this node. A cell that was not tested has no value.
type checkCollector struct {
	agent                                           *Agent
	cell, cells, findings, last, every, ok, offered *prometheus.Desc
}

func newCheckCollector(a *Agent) *checkCollector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("homeport_reachability_"+name, help, labels, nil)
	}
	return &checkCollector{agent: a,
		cell:     d("cell_passed", "1 when the last run of the check found this cell of the node well, 0 when not", "check", "trunk", "vlan", "test", "target"),
		cells:    d("cells", "cells of the node in the last run, by result", "check", "result"),
		findings: d("findings", "findings of the last run that concern the node", "check", "code", "severity"),
		last:     d("last_run_timestamp_seconds", "when the node was last told of a run, Unix time", "check"),
		every:    d("every_seconds", "spec.every of the check; 0 is when asked alone", "check"),
		ok:       d("last_run_error", "1 when the last run could not be done, or this node was not told what it found", "check"),
		offered:  d("network_offered", "1 when the node lets new VMs come on a network with reachability.required, as far as checks decide", "network"),
	}
}

// Describe implements prometheus.Collector.
func (c *checkCollector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *checkCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	snap := c.agent.inForceNow()
	if snap == nil {
		return
	}
	offers, _ := c.agent.offers(snap)
	for _, r := range requiredBy(snap, nil) {
		gauge(c.offered, oneIf(slices.Contains(offers[r.trunk], r.name)), r.name)
	}
	for _, name := range slices.Sorted(maps.Keys(snap.Checks)) {
		gauge(c.every, snap.Checks[name].Every.Seconds(), name)
		last, at := c.agent.knownRun(snap.Checks[name])
		if at.IsZero() {
			continue
		}
		gauge(c.last, float64(at.UnixMilli())/1000, name)
		gauge(c.ok, oneIf(last.Report == nil), name)
		if last.Report != nil {
			c.collect(gauge, name, last.Report)
		}
	}
}

func (c *checkCollector) collect(gauge func(*prometheus.Desc, float64, ...string), check string, r *reach.Report) {
	n := map[reach.Result]int{reach.Pass: 0, reach.Fail: 0, reach.Untested: 0}
	seen := map[reach.Cell]bool{} // two of one name would spoil all metrics
	for i := range r.Cells {
		cell := &r.Cells[i]
		name := reach.Cell{Trunk: cell.Trunk, VLAN: cell.VLAN, Test: cell.Test, Target: cell.Target}
		if seen[name] {
			continue
		}
		seen[name] = true
		if n[cell.Result]++; cell.Result != reach.Untested {
			gauge(c.cell, oneIf(cell.Result == reach.Pass), check, cell.Trunk, strconv.Itoa(int(cell.VLAN)), string(cell.Test), cell.Target)
		}
	}
	for result, count := range n {
		gauge(c.cells, float64(count), check, string(result))
	}
	type kind struct{ code, severity string }
	found := map[kind]int{}
	for i := range r.Findings {
		found[kind{string(r.Findings[i].Code), string(r.Findings[i].Severity)}]++
	}
	for k, count := range found {
		gauge(c.findings, float64(count), check, k.code, k.severity)
	}
}

// knownRun is the last run of a check that this node knows of, with its part of the report, and when it was told.
func (a *Agent) knownRun(check desired.Check) (reach.Ran, time.Time) {
	a.book.mu.Lock()
	defer a.book.mu.Unlock()
	k := a.keepCheck(&check)
	return k.Last, k.At
}
