package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/cniconf"
	"github.com/homeport-cni/homeport/pkg/store"
)

// check says whether the port is as ADD made it: the agent looks at the kernel,
// and the result that ADD gave must be about that port. The sandbox is not
// looked at, since KubeVirt renames the interface there and changes its MAC.
func (p *plugin) check(ctx context.Context, r *request) error {
	conf, err := cniconf.ParseCheck(r.stdin, r.Args)
	if err != nil {
		return err
	}
	if conf.PrevResult == nil {
		return attach.Invalid("prevResult", "missing", "CHECK must be given the result of ADD")
	}
	prev, err := parsePrev(conf.PrevResult, r)
	if err != nil {
		return err
	}
	ipam, err := p.findIPAM(r, conf.IPAM)
	if err != nil {
		return err
	}
	var checked wire.Checked
	if err := p.ask(ctx, p.queryTimeout, r, wire.Check, r.Key, &checked); err != nil {
		return err
	}
	problems := checked.Problems
	rec, err := store.At(r.paths.Attachments()).Get(r.Key)
	switch {
	case err == nil:
		problems = append(problems, prev.differences(rec)...)
	case errors.Is(err, fs.ErrNotExist):
		problems = append(problems, "the node has no record of it")
	default:
		return err
	}
	if ipam != nil {
		if err := ipam.call(ctx, cniconf.VerbCheck); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if len(problems) > 0 {
		return &checkError{problems}
	}
	return nil
}

// differences compares the result that ADD gave with what the node remembers.
func (p *prevResult) differences(rec *attach.Record) []string {
	var list []string
	for _, want := range []struct{ what, name string }{{"host end", rec.HostIfName}, {"bridge", rec.Bridge}} {
		if p.node(want.name) == nil {
			list = append(list, fmt.Sprintf("prevResult does not name %s, the port's %s", want.name, want.what))
		}
	}
	return list
}

// status says whether an ADD could succeed now.
func (p *plugin) status(ctx context.Context, r *request) error {
	conf, err := cniconf.Parse(r.stdin, "")
	if err != nil {
		return err
	}
	ipam, err := p.findIPAM(r, conf.IPAM)
	if err != nil {
		return err
	}
	if err := p.ask(ctx, p.queryTimeout, r, wire.Status, nil, nil); err != nil || ipam == nil {
		return err
	}
	return ipam.call(ctx, cniconf.VerbStatus)
}
