// Package flatagent is a node agent for measurements on kernels whose bridges
// cannot filter VLANs, which the real agent rightly refuses. It answers the CNI
// plugin with the real plans, bridge steps, port programs and records, on a
// bridge without VLANs; it has no desired state and repairs nothing.
package flatagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
	"github.com/homeport-cni/homeport/pkg/store"
)

// Command is the first argument that makes the benchmark be this agent.
const Command = "flat-agent"

// Bridge is the one that ports are attached to.
const Bridge = "br-homeport"

const (
	mtu  = 1500
	pool = 64 // port slots kept ready, as the agent's
)

// Run serves until ctx ends.
func Run(ctx context.Context) (err error) {
	paths, err := attach.FindPaths()
	if err != nil {
		return err
	}
	k, err := open(paths)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	l, err := wire.Listen(paths.Socket())
	if err != nil {
		return err
	}
	defer l.Close()
	a := &agent{kernel: k, node: attach.Node{Bridge: k, Datapath: k.dp, Records: k.store}, ports: map[attach.Key]*attach.Record{}, used: make(chan struct{}, 1)}
	if a.boot, err = attach.BootID(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.keepPool(ctx) })
	s := &wire.Server{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Handlers: map[wire.Verb]wire.Handler{
		wire.Prepare: handle(a.prepare), wire.Attach: handle(a.attach), wire.Detach: handle(a.detach),
		wire.Status: func(context.Context, json.RawMessage) (any, error) { return nil, nil },
	}}
	return s.Serve(ctx, l)
}

// kernel is pkg/bridge on a flat bridge, in the words of a plan.
type kernel struct {
	net   *bridge.Net
	dp    *datapath.Datapath
	store *store.Store
}

func open(paths attach.Paths) (k *kernel, err error) {
	k = &kernel{}
	defer func() {
		if err != nil {
			err = errors.Join(err, k.close())
		}
	}()
	if k.net, err = bridge.Open(); err != nil {
		return k, err
	}
	if _, err := k.net.EnsureTrunk(bridge.TrunkSpec{Bridge: Bridge, Managed: true, MTU: mtu, Flat: true}); err != nil {
		return k, err
	}
	if k.dp, err = datapath.Open(datapath.Config{BPFFS: "/sys/fs/bpf"}); err != nil {
		return k, err
	}
	if k.store, err = store.Open(paths.Attachments()); err != nil {
		return k, err
	}
	return k, k.dp.FillPool(pool)
}

func (k *kernel) close() error {
	var errs []error
	if k.net != nil {
		errs = append(errs, k.net.Close())
	}
	if k.dp != nil {
		errs = append(errs, k.dp.Close())
	}
	return errors.Join(errs...)
}

func ref(i attach.Interface) bridge.Ref { return bridge.Ref{Index: i.Index, Name: i.Name} }

// TakeOut implements attach.Bridge.
func (k *kernel) TakeOut(i attach.Interface) error { return k.net.TakeOut(ref(i)) }

// SetMTU implements attach.Bridge.
func (k *kernel) SetMTU(i attach.Interface, mtu int) error { return k.net.SetMTU(ref(i), mtu) }

// Join implements attach.Bridge.
func (k *kernel) Join(i attach.Interface, name string) error {
	return k.net.Join(ref(i), bridge.Ref{Name: name})
}

// SetVLANs implements attach.Bridge: the port's flags alone.
func (k *kernel) SetVLANs(i attach.Interface, v attach.VLANs) error {
	flat := bridge.VLANs{PVID: v.PVID, Flat: true}
	if err := k.net.SetVLANs(ref(i), flat); err != nil {
		return err
	}
	if err := k.net.SetPortFlags(ref(i), bridge.GuestFlags()); err != nil {
		return err
	}
	return k.net.VerifyVLANs(ref(i), flat)
}

// SetUp implements attach.Bridge.
func (k *kernel) SetUp(i attach.Interface) error { return k.net.SetUp(ref(i)) }

// Delete implements attach.Bridge.
func (k *kernel) Delete(i attach.Interface) error { return k.net.DeleteVethFast(ref(i)) }

// agent answers the plugin.
type agent struct {
	kernel *kernel
	node   attach.Node
	boot   string
	mu     sync.Mutex
	ports  map[attach.Key]*attach.Record
	used   chan struct{}
}

func handle[T any](h func(context.Context, *T) (any, error)) wire.Handler {
	return func(ctx context.Context, body json.RawMessage) (any, error) {
		v := new(T)
		if err := json.Unmarshal(body, v); err != nil {
			return nil, fmt.Errorf("body: %w", err)
		}
		return h(ctx, v)
	}
}

func (a *agent) prepare(_ context.Context, r *attach.Request) (any, error) {
	if r.Inline == nil || r.Inline.Bridge != Bridge {
		return nil, &attach.Error{Kind: attach.InvalidConfig, Field: "bridge", Message: "this agent has bridge " + Bridge + " alone"}
	}
	return wire.Prepared{Bridge: Bridge, MTU: mtu, VLANs: r.Inline.VLANs}, nil
}

func (a *agent) attach(ctx context.Context, r *attach.Request) (any, error) {
	if _, err := a.prepare(ctx, r); err != nil {
		return nil, err
	}
	rec := &attach.Record{Version: attach.RecordVersion, Request: *r, Bridge: Bridge, VLANs: r.Inline.VLANs,
		EffectiveMTU: mtu, BootID: a.boot, CreatedAt: time.Now().UTC()}
	err := a.node.AttachPlan(rec).Run(ctx)
	a.wake()
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.ports[r.Key] = rec
	a.mu.Unlock()
	return rec, nil
}

func (a *agent) detach(ctx context.Context, r *wire.DetachRequest) (any, error) {
	a.mu.Lock()
	rec := a.ports[r.Key]
	delete(a.ports, r.Key)
	a.mu.Unlock()
	if rec == nil {
		return wire.Detached{}, nil
	}
	return wire.Detached{Found: true}, a.node.DetachPlan(rec).Run(context.WithoutCancel(ctx))
}

func (a *agent) wake() {
	select {
	case a.used <- struct{}{}:
	default:
	}
}

// keepPool makes port slots ahead, as the agent does.
func (a *agent) keepPool(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.used:
		}
		if err := errors.Join(a.kernel.dp.Reap(), a.kernel.dp.FillPool(pool)); err != nil {
			fmt.Fprintln(os.Stderr, "fill the pool:", err)
		}
	}
}
