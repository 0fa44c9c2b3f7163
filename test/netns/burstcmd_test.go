package netns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// cmdBurst: burst add|del NODE PREFIX N CONFIG: so many calls at once, each for a
// pod and with a MAC of its own. An ADD that is told to try again later (an
// emulated machine does not do 200 in the plugin's 10 s) is ended by DEL and made
// again with fewer beside it, as kubelet's back-off brings about.
func cmdBurst(s *session, out io.Writer, args []string) error {
	const usage = "burst add|del NODE PREFIX N CONFIG"
	if err := want(args, 5, 5, usage); err != nil {
		return err
	}
	n, err := s.lab.FindNode(args[1])
	if err != nil {
		return err
	}
	count, err := strconv.Atoi(args[3])
	if err != nil {
		return &usageError{usage}
	}
	calls := make([]Call, count)
	conf := []byte(s.ts.ReadFile(args[4]))
	for i := range calls {
		name := args[2] + strconv.Itoa(i)
		p, err := s.lab.FindPod(name)
		if err != nil {
			if p, err = s.lab.Pod(name); err != nil {
				return err
			}
		}
		calls[i] = Call{Verb: strings.ToUpper(args[0]), ContainerID: p.ContainerID, Netns: p.Path, IfName: PodIfName(defaultNetwork),
			MAC: fmt.Sprintf("00:50:56:b0:%02x:%02x", i>>8, i&255), Config: conf}
	}
	begun := time.Now()
	again, errs := n.burst(s.ctx, calls)
	fmt.Fprintf(out, "%d %s, %d failed, %d told to try again, %v\n", count, args[0], len(errs), again, time.Since(begun).Round(time.Millisecond))
	return errors.Join(errs...)
}

// outcome of one call of a burst.
type outcome struct {
	again int // how often it was told to try again
	err   error
}

// burst makes all calls at once and waits for all.
func (n *Node) burst(ctx context.Context, calls []Call) (again int, errs []error) {
	results := make(chan outcome, len(calls))
	places := make(chan struct{}, 8)
	for _, c := range calls {
		go func() { results <- n.persist(ctx, c, places) }()
	}
	for range calls {
		r := <-results
		again += r.again
		if r.err != nil {
			errs = append(errs, r.err)
		}
	}
	return again, errs
}

// persist makes a call until it is not told to try again any more; after the
// first try it needs a place.
func (n *Node) persist(ctx context.Context, c Call, places chan struct{}) outcome {
	const tries, tryAgain = 5, 11
	var o outcome
	for {
		if o.again == 1 {
			places <- struct{}{}
			defer func() { <-places }()
		}
		if o.again > 0 {
			undo := c
			undo.Verb = "DEL"
			if _, err := n.CNI(ctx, undo); err != nil {
				o.err = errors.Join(o.err, err)
				return o
			}
		}
		_, o.err = n.CNI(ctx, c)
		var refused *CNIError
		if !errors.As(o.err, &refused) || refused.Code != tryAgain || o.again == tries {
			return o
		}
		o.again++
	}
}
