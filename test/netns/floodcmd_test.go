package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// cmdFlood: flood start ID FROM TO ADDR allowed=PORT denied=PORT; flood reached ID
// N (so many were sent); flood running ID N (it goes on: so many more are sent from
// now); flood stop ID (and nothing was wrong).
func cmdFlood(s *session, out io.Writer, args []string) error {
	const usage = "flood start ID FROM TO ADDR [allowed=PORT] [denied=PORT] [flows=N] | flood reached|running ID N | flood stop ID"
	if len(args) < 2 {
		return &usageError{usage}
	}
	f := s.floods[args[1]]
	switch {
	case args[0] == "start" && len(args) >= 5:
		spec, err := s.floodSpec(args[2:])
		if err != nil {
			return err
		}
		f, err := StartFlood(spec)
		if err != nil {
			return err
		}
		s.floods[args[1]] = f
		return nil
	case f == nil:
		return &usageError{usage}
	case (args[0] == "reached" || args[0] == "running") && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return &usageError{usage}
		}
		if args[0] == "running" {
			n += f.Sent()
		}
		return floodReaches(s.ctx, f, n)
	case args[0] == "stop" && len(args) == 2:
		r, err := f.Stop()
		fmt.Fprintln(out, r)
		if err == nil && !r.Whole() {
			err = fmt.Errorf("flood %s: %v", args[1], r)
		}
		return err
	}
	return &usageError{usage}
}

// floodReaches waits until n were sent, unless the flood ends before.
func floodReaches(ctx context.Context, f *Flood, n int) error {
	var ended error
	err := until(ctx, 2*patience, func() error {
		runs := f.Running()
		switch {
		case f.Sent() >= n:
			return nil
		case !runs:
			_, err := f.Stop()
			ended = errors.Join(fmt.Errorf("the flood has ended with %d of %d sent", f.Sent(), n), err)
			return nil
		}
		return fmt.Errorf("%d of %d sent", f.Sent(), n)
	})
	return errors.Join(err, ended)
}

func (s *session) floodSpec(args []string) (FloodSpec, error) {
	spec := FloodSpec{Allowed: 7001, Flows: 16}
	var err error
	if spec.From, err = s.lab.Space(args[0]); err != nil {
		return spec, err
	}
	if spec.To, err = s.lab.Space(args[1]); err != nil {
		return spec, err
	}
	if spec.Addr, err = netip.ParseAddr(args[2]); err != nil {
		return spec, &usageError{err.Error()}
	}
	for _, a := range args[3:] {
		key, v, _ := strings.Cut(a, "=")
		n, err := strconv.Atoi(v)
		if err != nil {
			return spec, &usageError{a + ": " + err.Error()}
		}
		switch key {
		case "allowed":
			spec.Allowed = uint16(n)
		case "denied":
			spec.Denied = uint16(n)
		case "flows":
			spec.Flows = n
		default:
			return spec, &usageError{a}
		}
	}
	return spec, nil
}
