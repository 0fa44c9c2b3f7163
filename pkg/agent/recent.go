package agent

import (
	"bytes"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// RecentLog keeps the last lines that were logged, so that a support bundle has
// them wherever the agent's stderr went. The zero value is ready; writing never
// fails.
type RecentLog struct {
	mu   sync.Mutex
	kept []byte // up to twice recentMax, which spares moving it at each line
	cut  bool
}

// recentMax is how much is kept, in bytes.
const recentMax = 512 << 10

// Write implements io.Writer; p is one line or several.
func (l *RecentLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, p...)
	if len(l.kept) > 2*recentMax {
		l.kept, l.cut = bytes.Clone(lastLines(l.kept, recentMax)), true
	}
	return len(p), nil
}

// Lines are the last ones, whole, and whether there were others before.
func (l *RecentLog) Lines() (text string, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	tail := lastLines(l.kept, recentMax)
	return string(tail), l.cut || len(tail) < len(l.kept)
}

// lastLines are as many whole lines as fit.
func lastLines(b []byte, limit int) []byte {
	if len(b) <= limit {
		return b
	}
	b = b[len(b)-limit-1:] // with the byte before, which may end a line
	return b[bytes.IndexByte(b, '\n')+1:]
}

func (a *Agent) recentLog() wire.Text {
	t := wire.Text{TypeMeta: kind("Log")}
	if a.cfg.RecentLog != nil {
		t.Text, t.Cut = a.cfg.RecentLog.Lines()
	}
	return t
}

// metricsMax bounds the answer: a message has 4 MiB, and quotes are escaped in it.
const metricsMax = 3 << 20

// metricsText is what /metrics says, also when it is not served.
func (a *Agent) metricsText() (wire.Text, error) {
	t := wire.Text{TypeMeta: kind("Metrics")}
	reg := prometheus.NewRegistry()
	if err := reg.Register(newCollector(a)); err != nil {
		return t, err
	}
	families, err := reg.Gather()
	if err != nil {
		return t, err
	}
	var b bytes.Buffer
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(&b, f); err != nil {
			return t, err
		}
	}
	if t.Cut = b.Len() > metricsMax; t.Cut {
		b.Truncate(metricsMax)
	}
	t.Text = b.String()
	return t, nil
}
