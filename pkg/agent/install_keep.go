package agent

import (
	"cmp"
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// Packages that own the directory of CNI plugins wipe it when they are upgraded
// (kubernetes/kubernetes#115629), and without its plugin a node starts no VM. So
// the agent looks again while it runs.

const (
	// pluginEvery is how often the plugin is looked at anyway, under inotify.
	pluginEvery = time.Minute
	// pluginRetry is how soon after a failure.
	pluginRetry = 10 * time.Second
	// pluginGap keeps two programs that disagree from fighting at speed.
	pluginGap = time.Second
)

// pluginNotInPlace is the condition that the CNI plugin on this node is missing or
// another, and cannot be put back: no VM can be attached.
const pluginNotInPlace = "PluginNotInPlace"

// pluginState is how keeping the plugin in place goes.
type pluginState struct {
	from string        // the binary; "" is the one beside this program
	gap  time.Duration // 0 is pluginGap

	mu        sync.Mutex
	installed int // times that it was written
	problem   string
	since     time.Time // of the problem
}

// keepPlugin keeps the CNI plugin in place, if a directory was named for it. What
// goes wrong is logged, shown and tried again; it ends nothing.
func (a *Agent) keepPlugin(ctx context.Context) error {
	if a.cfg.CNIBin == "" {
		<-ctx.Done()
		return nil
	}
	var events chan fsnotify.Event
	var lost chan error
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		a.log.Warn("the directory of CNI plugins is looked at only now and then: no inotify instance (see fs.inotify.max_user_instances)", "every", pluginEvery, "err", err)
	} else {
		defer watcher.Close()
		events, lost = watcher.Events, watcher.Errors
	}
	for {
		if watcher != nil { // the directory may be another one than before; a missing one is found by the clock
			_ = watcher.Remove(a.cfg.CNIBin)
			_ = watcher.Add(a.cfg.CNIBin)
		}
		next := time.NewTimer(a.checkPlugin())
		if !waitForPlugin(ctx, filepath.Clean(a.cfg.CNIBin), next.C, events, lost) {
			return nil
		}
		next.Stop()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(cmp.Or(a.plugin.gap, pluginGap)):
		}
	}
}

// waitForPlugin returns when it is time to look again, or false when ctx ends.
func waitForPlugin(ctx context.Context, dir string, next <-chan time.Time, events <-chan fsnotify.Event, lost <-chan error) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case e := <-events:
			if filepath.Base(e.Name) == PluginName || filepath.Clean(e.Name) == dir {
				return true
			}
		case <-lost:
			return true
		case <-next:
			return true
		}
	}
}

// checkPlugin puts the plugin in place unless it is there, and says when to look
// again.
func (a *Agent) checkPlugin() time.Duration {
	changed, err := install(a.plugin.from, a.cfg.CNIBin)
	a.plugin.mu.Lock()
	before := a.plugin.problem
	a.plugin.problem = ""
	if err != nil {
		a.plugin.problem = err.Error()
	}
	if before == "" {
		a.plugin.since = time.Now().UTC()
	}
	if changed {
		a.plugin.installed++
	}
	now := a.plugin.problem
	a.plugin.mu.Unlock()
	if changed {
		a.log.Warn("the CNI plugin was missing or another; it is in place again", "file", filepath.Join(a.cfg.CNIBin, PluginName))
	}
	if now != before {
		a.tell()
	}
	switch {
	case changed: // the directory may be new, and not watched yet
		return cmp.Or(a.plugin.gap, pluginGap)
	case err == nil:
		return pluginEvery
	}
	if now != before {
		a.log.Error("the CNI plugin cannot be put in place: no VM can be attached if it is missing", "directory", a.cfg.CNIBin, "err", err)
	}
	return pluginRetry
}

// conditions are what is wrong with the plugin.
func (p *pluginState) conditions() []wire.Condition {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem == "" {
		return nil
	}
	return []wire.Condition{{Type: pluginNotInPlace, Status: "True", Reason: "InstallFailed", LastTransitionTime: p.since, Message: p.problem}}
}

// installs is how often the plugin was written.
func (p *pluginState) installs() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.installed
}
