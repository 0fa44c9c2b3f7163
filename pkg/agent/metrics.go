package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// serveMetrics answers /metrics, /healthz (the agent works) and /readyz (it does its
// work: every port is attached and judged by what is desired; a dead data plane is
// red).
func (a *Agent) serveMetrics(ctx context.Context) error {
	if a.cfg.MetricsAddr == "" {
		<-ctx.Done()
		return nil
	}
	handler, err := a.metricsHandler()
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	l, err := net.Listen("tcp", a.cfg.MetricsAddr)
	if err != nil {
		return fmt.Errorf("--metrics-addr: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (a *Agent) metricsHandler() (http.Handler, error) {
	reg := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{newCollector(a), newCheckCollector(a)} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		var wrong []string
		if silent := a.silence(); silent > roundsHang {
			wrong = append(wrong, fmt.Sprintf("the agent hangs: it has not looked at its ports for %v", silent.Round(time.Second)))
		}
		answer(w, wrong)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		_, broken := a.judgeNode()
		answer(w, broken)
	})
	return mux, nil
}

// answer is ok, or what is wrong, one a line.
func answer(w http.ResponseWriter, wrong []string) {
	if len(wrong) > 0 {
		http.Error(w, strings.Join(wrong, "\n"), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ok")
}

// collector reads the node's counters at each scrape; it keeps none itself.
type collector struct {
	agent *Agent
	ready, generation, trunkReady, ports, packets,
	bytes, ruleHits, drift, repaired, problems, stale, installs, announced, filtered, lost, fast, addresses, conflicts, heardLost *prometheus.Desc
}

func newCollector(a *Agent) *collector {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("homeport_"+name, help, labels, nil)
	}
	port := []string{"namespace", "pod", "interface", "port", "direction", "reason"}
	return &collector{agent: a,
		ready:      d("ready", "1 when the active policy is the desired one and nothing of it refused, every trunk is whole and every port attached"),
		generation: d("policy_generation", "number of the policy that packets are judged by"),
		trunkReady: d("trunk_ready", "1 when the trunk is as desired", "trunk", "bridge", "uplink"),
		filtered:   d("trunk_host_filtered", "1 when the host's own packet filter has a hand in frames of the trunk's VMs: its condition HostFiltered is True", "trunk"),
		ports:      d("ports", "ports by state", "state"),
		fast:       d("fast_path_ports", "ports of the fast path: packets of established connections between them, and from them to the uplink, go past the bridge"),
		packets:    d("port_packets_total", "packets by what became of them", port...),
		bytes:      d("port_bytes_total", "bytes by what became of them", port...),
		ruleHits:   d("rule_packets_total", "packets that a firewall rule judged", "policy", "rule", "action"),
		lost:       d("events_lost_total", "events of packets that neither the rule log nor homeportctl observe can show"),
		drift:      d("drift_seen_total", "times that somebody else changed something of ours", "kind", "subject"),
		repaired:   d("drift_repaired_total", "times that it was put right", "kind", "subject"),
		problems:   d("manifest_problems", "problems of manifests now, as status lists them; kept: the object stays in force as it was", "kept"),
		stale:      d("desired_state_stale", "1 while the source of desired state cannot be read or has lost everything"),
		installs:   d("plugin_installed_total", "times that the agent put the CNI plugin in place because it was missing or another; only with --cni-bin"),
		addresses:  d("addresses", "addresses of VMs and pods of this node by state: Held, Aside (another NIC holds it), Waiting (for approval)", "network", "state"),
		conflicts:  d("address_conflicts", "addresses, IP and MAC, that a NIC of this node claims and somebody else, too, inside or outside the cluster"),
		heardLost:  d("address_frames_lost_total", "frames that say who has an address and that were not learnt from: more than a port or the node may tell of"),
		announced:  d("announcements_total", "VMs whose place was announced to the network, by why", "cause"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	s := c.agent.nodeStatus()
	gauge(c.ready, oneIf(s.Ready))
	gauge(c.generation, float64(s.Generation))
	for _, t := range s.Trunks {
		gauge(c.trunkReady, oneIf(t.Ready), t.Name, t.Bridge, t.Uplink)
		for _, cond := range t.Conditions {
			if cond.Type == v1alpha1.ConditionHostFiltered {
				gauge(c.filtered, oneIf(cond.Status == "True"), t.Name)
			}
		}
	}
	for state, n := range s.Ports {
		gauge(c.ports, float64(n), state)
	}
	gauge(c.fast, float64(c.agent.fast.count()))
	for _, d := range s.Drift {
		count(c.drift, float64(d.Seen), d.Kind, d.Subject)
		count(c.repaired, float64(d.Repaired), d.Kind, d.Subject)
	}
	kept, other := countProblems(s.Problems)
	gauge(c.problems, float64(kept), "true")
	gauge(c.problems, float64(other), "false")
	gauge(c.stale, oneIf(slices.ContainsFunc(s.Conditions, func(c wire.Condition) bool { return c.Type == wire.DesiredStateStale })))
	if c.agent.cfg.CNIBin != "" {
		count(c.installs, float64(c.agent.plugin.installs()))
	}
	for cause, n := range c.agent.announcer.counts() {
		count(c.announced, n, cause)
	}
	byNetwork, conflicts := c.agent.addresses.Count()
	for network, states := range byNetwork {
		for state, n := range states {
			gauge(c.addresses, float64(n), network, state)
		}
	}
	gauge(c.conflicts, float64(conflicts))
	if lost, err := c.agent.kernel.dp.HeardLost(); err == nil {
		count(c.heardLost, float64(lost+c.agent.addresses.lost.Load()))
	}
	c.collectPorts(count)
	if n, err := c.agent.eventsLost(); err == nil {
		count(c.lost, float64(n))
	}
	if list, err := c.agent.policyList(""); err == nil {
		for _, p := range list.Items {
			for _, r := range p.Rules {
				count(c.ruleHits, float64(r.Packets), p.Name, strconv.FormatUint(uint64(r.ID), 10), r.Action)
			}
		}
		for _, d := range list.Defaults {
			count(c.ruleHits, float64(d.Packets), "default/"+d.Network, "0", d.Action)
		}
	}
}

// countProblems counts what status lists: where something stays in force as it
// was, and where nothing does.
func countProblems(list []wire.Problem) (kept, other int) {
	for _, p := range list {
		if p.Kept {
			kept++
		}
	}
	return kept, len(list) - kept
}

func (c *collector) collectPorts(count func(*prometheus.Desc, float64, ...string)) {
	for _, it := range c.agent.table.list() {
		counts, err := c.agent.kernel.ReasonCounts(it.rec.HostIfIndex)
		if err != nil {
			continue // a port that ended meanwhile
		}
		for _, n := range counts {
			if n.packets == 0 {
				continue
			}
			labels := []string{it.rec.Pod.Namespace, it.rec.Pod.Name, it.rec.IfName, it.rec.HostIfName, n.dir.String(), n.reason.Label()}
			count(c.packets, float64(n.packets), labels...)
			count(c.bytes, float64(n.bytes), labels...)
		}
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
