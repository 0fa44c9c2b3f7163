package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
)

// patience is how long the agent may take to answer. The first trace loads programs, which
// takes seconds on a machine that is slow or busy.
const (
	patience      = 10 * time.Second
	tracePatience = time.Minute
)

// ask gets one view of the agent.
func (o *options) ask(ctx context.Context, req wire.ViewRequest) (json.RawMessage, error) {
	return o.call(ctx, wire.View, req)
}

// call gets the agent's answer as the JSON that it sent, so that what a newer agent
// adds reaches -o json.
func (o *options) call(ctx context.Context, verb wire.Verb, req any) (json.RawMessage, error) {
	socket := o.socket
	if socket == "" {
		paths, err := o.findPaths()
		if err != nil {
			return nil, &failure{exitInconclusive, fmt.Errorf("where the agent's socket is: %w; next: correct that file", err)}
		}
		socket = paths.Socket()
	}
	wait := patience
	if v, ok := req.(wire.ViewRequest); ok && v.What == wire.ViewTrace {
		wait = tracePatience
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	client, err := wire.Dial(ctx, socket)
	if err != nil {
		return nil, inconclusive(err)
	}
	defer client.Close()
	var raw json.RawMessage
	if err := client.Call(ctx, verb, req, &raw); err != nil {
		return nil, inconclusive(err)
	}
	return raw, nil
}

func inconclusive(err error) *failure {
	return &failure{exitInconclusive, fmt.Errorf("%w; next: bridge-agent doctor", err)}
}

// view asks for one view and decodes it too.
func view[T any](ctx context.Context, o *options, req wire.ViewRequest) (T, json.RawMessage, error) {
	var v T
	raw, err := o.ask(ctx, req)
	if err != nil {
		return v, nil, err
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return v, nil, inconclusive(fmt.Errorf("the agent's view %q is not understood: %w; "+
			"install homeportctl and agent of one release", req.What, err))
	}
	return v, raw, nil
}

// show prints v for people, or what the agent sent for programs.
func show[T any](o *options, v T, raw json.RawMessage, text func(T) error) error {
	var err error
	if o.format.IsText() {
		err = text(v)
	} else {
		err = o.printer().Document(raw)
	}
	if err != nil {
		return &failure{exitInconclusive, err}
	}
	return nil
}

// tell is show of what no agent was asked for.
func tell[T any](o *options, v T, text func(T) error) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return inconclusive(err)
	}
	return show(o, v, raw, text)
}

// isRefusal says that the agent answered, and refused the request itself.
func isRefusal(err error) bool {
	var e *attach.Error
	return errors.As(err, &e) && e.Kind == attach.InvalidConfig && e.Field != "verb"
}
