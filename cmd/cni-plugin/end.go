package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/cniconf"
	"github.com/homeport-cni/homeport/pkg/store"
)

// del ends a port and has its addresses taken back. It fails only where a repetition would help.
func (p *plugin) del(ctx context.Context, r *request) error {
	return inTurn(cniconf.IPAM(r.stdin),
		func() error { return p.delPort(ctx, r) },
		func() error { return p.takeBack(ctx, r, cniconf.VerbDel) })
}

// ipamByPort is the IPAM plugin that gives a lease back to a server by the port itself, and
// without one leaves the address to nobody until the lease ends.
const ipamByPort = "dhcp"

// inTurn ends a port and only then has an IPAM plugin take its addresses back, for somebody
// else gets them next; one that needs the port for it comes first, and the port ends even so.
func inTurn(ipam string, port, takeBack func() error) error {
	if ipam == ipamByPort {
		err := takeBack()
		return errors.Join(port(), err)
	}
	if err := port(); err != nil {
		return err
	}
	return takeBack()
}

// takeBack has the IPAM plugin do verb, if the config, whatever else is wrong with it,
// names one.
func (p *plugin) takeBack(ctx context.Context, r *request, verb string) error {
	ipam, err := p.findIPAM(r, cniconf.IPAM(r.stdin))
	if err != nil {
		return &tryAgain{fmt.Errorf("the addresses are not taken back: %w", err)}
	}
	if ipam == nil {
		return nil
	}
	return ipam.call(ctx, verb)
}

// delPort needs the key alone: the agent does it; if that cannot, the record tells
// which interface to delete. Whatever is not there is fine.
func (p *plugin) delPort(ctx context.Context, r *request) error {
	err := p.ask(ctx, p.delTimeout, r, wire.Detach, wire.DetachRequest{Key: r.Key}, new(wire.Detached))
	if err == nil {
		return nil
	}
	p.note("%v; the port is ended without the agent", err)
	k, err := p.openKernel()
	if err != nil {
		return &tryAgain{err}
	}
	defer k.Close()
	records := store.At(r.paths.Attachments())
	rec, err := records.Get(r.Key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Without a record there is still the name that ADD gives.
		p.note("%v", err)
	}
	return p.end(k, records, r.Key, rec)
}

// end deletes the host end (and with it the container's) and then the record,
// so that a second try still knows what to do. The agent, once it is back,
// clears what is left of a port whose interface is gone.
func (p *plugin) end(k kernel, records *store.Store, key attach.Key, rec *attach.Record) error {
	// The interface of a main-mode port is found by its name alone; nobody
	// else's has it.
	hosts := []bridge.Ref{{Name: bridge.HostVethName(key.ContainerID, key.IfName)}}
	if rec != nil {
		boot, err := attach.BootID()
		if err != nil {
			return &tryAgain{fmt.Errorf("read the boot id: %w", err)}
		}
		if rec.BootID == boot { // an index means nothing after a reboot
			host, err := p.hostEnd(k, records, rec)
			if err != nil {
				return &tryAgain{err}
			}
			if host.Name != "" && host.Name != hosts[0].Name {
				hosts = append(hosts, host)
			}
		}
	}
	for _, h := range hosts {
		err := k.DeleteVeth(h)
		if errors.Is(err, bridge.ErrRefused) {
			p.note("%v; it is left alone", err)
		} else if err != nil {
			return &tryAgain{err}
		}
	}
	if err := records.Delete(key); err != nil {
		p.note("%v; the agent will forget the record", err)
	}
	return nil
}

// hostEnd finds the interface of a record of this boot. Somebody may have
// renamed it, so its index counts, if what is there must be the record's port:
// the kernel gives no index twice, but an interface that is moved in from
// another namespace brings its own if that is free (net/core/dev.c,
// __dev_change_net_namespace), as the host ends of some plugins do. Under
// another name it must therefore still be in the bridge where the port was put,
// and no other attachment may know it.
func (p *plugin) hostEnd(k kernel, records *store.Store, rec *attach.Record) (bridge.Ref, error) {
	want := bridge.Ref{Index: rec.HostIfIndex, Name: rec.HostIfName}
	if rec.HostIfIndex <= 0 { // no interface has such an index: the name alone
		return want, nil
	}
	l, err := k.LinkInfo(bridge.Ref{Index: rec.HostIfIndex})
	switch {
	case errors.Is(err, bridge.ErrNotFound):
		return want, nil
	case err != nil:
		return want, err
	case l.Name == rec.HostIfName || l.Kind != "veth":
		return want, nil
	}
	br, err := k.LinkInfo(bridge.Ref{Name: rec.Bridge})
	if err != nil && !errors.Is(err, bridge.ErrNotFound) {
		return want, err
	}
	if err != nil || l.Master != br.Index {
		p.note("what was %s is now %s, not in the port's bridge %s; it is left alone", want, l.Name, rec.Bridge)
		return want, nil
	}
	all, _, err := records.List()
	if err != nil {
		return want, err
	}
	for _, other := range all {
		if other.Key != rec.Key && other.BootID == rec.BootID && other.HostIfIndex == l.Index {
			p.note("what was %s is now %s, the port of container %s; it is left alone", want, l.Name, other.ContainerID)
			return want, nil
		}
	}
	return l.Ref(), nil
}

// gc ends all ports of the CNI network that the runtime does not list, and has their
// addresses taken back.
func (p *plugin) gc(ctx context.Context, r *request) error {
	if err := p.gcPorts(ctx, r); err != nil {
		return err
	}
	return p.takeBack(ctx, r, cniconf.VerbGC)
}

func (p *plugin) gcPorts(ctx context.Context, r *request) error {
	conf, err := cniconf.ParseGC(r.stdin)
	if err != nil {
		return err
	}
	err = p.ask(ctx, p.gcTimeout, r, wire.GC, wire.GCRequest{CNINetwork: conf.Name, Valid: conf.Valid}, new(wire.Collected))
	var refusal *attach.Error
	if err == nil || errors.As(err, &refusal) && refusal.Kind != attach.Unavailable && refusal.Field != "version" {
		return err
	}
	p.note("%v; garbage is collected without the agent", err)
	k, err := p.openKernel()
	if err != nil {
		return &tryAgain{err}
	}
	defer k.Close()
	records := store.At(r.paths.Attachments())
	all, aside, err := records.List()
	if err != nil {
		return err
	}
	for _, a := range aside {
		p.note("%v", &a)
	}
	var errs []error
	for _, rec := range all {
		if rec.CNINetwork != conf.Name || slices.Contains(conf.Valid, rec.Key) {
			continue
		}
		if err := p.end(k, records, rec.Key, &rec); err != nil {
			errs = append(errs, fmt.Errorf("container %s, interface %s: %w", rec.ContainerID, rec.IfName, err))
		}
	}
	return errors.Join(errs...)
}
