package agent

import (
	"context"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
)

// settlePorts moves ports, one by one in quiet times, from the hook that is
// quick to attach to the one that others cannot delete by accident.
func (a *Agent) settlePorts(ctx context.Context) error {
	tick := time.NewTicker(settleAfter / 2)
	defer tick.Stop()
	for {
		a.settleRound(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// settleRound asks only for ports that are not known to be settled: one stays so
// until its hooks are repaired, or it is another port.
func (a *Agent) settleRound(ctx context.Context) {
	for _, it := range a.table.unsettled() {
		if ctx.Err() != nil || time.Since(time.Unix(0, a.lastAsked.Load())) < settleAfter {
			return
		}
		rec := it.rec
		err := a.withPort(rec, func(rec attach.Record) error {
			if a.kernel.VerifyPort(&rec) != nil {
				return nil // a hook that was taken away is drift: to be counted, not mended in passing
			}
			if err := a.kernel.dp.SettlePort(rec.HostIfIndex); err != nil {
				return err
			}
			a.table.setSettled(rec.Key, true)
			return nil
		})
		if err != nil {
			a.log.Warn("a port stays on its first hook", "port", rec.HostIfName, "err", err)
		}
	}
}

// repairHooks gives a port its programs back, on the hook that is quick to
// attach; settleRound sees to the rest.
func (a *Agent) repairHooks(it item) error {
	return a.withPort(it.rec, func(now attach.Record) error {
		a.table.setSettled(now.Key, false)
		return a.kernel.RepairPort(&now)
	})
}
