package netns

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// cmdFlood: flood start ID FROM TO ADDR allowed=PORT denied=PORT count=N;
// flood reached ID N (so many were sent); flood wait ID (and nothing is wrong).
func cmdFlood(s *session, out io.Writer, args []string) error {
	const usage = "flood start ID FROM TO ADDR [allowed=PORT] [denied=PORT] [count=N] [flows=N] | flood reached ID N | flood wait ID"
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
	case args[0] == "reached" && len(args) == 3:
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return &usageError{usage}
		}
		return until(s.ctx, 2*patience, func() error {
			if f.Sent() < n {
				return fmt.Errorf("flood %s: %d of %d sent", args[1], f.Sent(), n)
			}
			return nil
		})
	case args[0] == "wait":
		r, err := f.Wait()
		fmt.Fprintln(out, r)
		if err == nil && !r.Whole() {
			err = fmt.Errorf("flood %s: %v", args[1], r)
		}
		return err
	}
	return &usageError{usage}
}

func (s *session) floodSpec(args []string) (FloodSpec, error) {
	spec := FloodSpec{Allowed: 7001, Count: 100000, Flows: 16}
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
		case "count":
			spec.Count = n
		case "flows":
			spec.Flows = n
		default:
			return spec, &usageError{a}
		}
	}
	return spec, nil
}
