package netns

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// knocks asks for new TCP connections all the time, to a port that policy drops: what
// passes in a moment of carelessness is seen by nothing else.
type knocks struct {
	stop chan struct{}
	all  sync.WaitGroup

	mu     sync.Mutex
	asked  int
	passed int // connected, or refused by the other end, which has then seen the SYN
}

const (
	knockEvery = 50 * time.Millisecond
	knockLimit = 900 * time.Millisecond // before the kernel repeats the SYN
)

func startKnocks(from *Space, addr string) *knocks {
	k := &knocks{stop: make(chan struct{})}
	k.all.Go(func() {
		tick := time.NewTicker(knockEvery)
		defer tick.Stop()
		for {
			select {
			case <-k.stop:
				return
			case <-tick.C:
				k.all.Go(func() { k.knock(from, addr) })
			}
		}
	})
	return k
}

func (k *knocks) knock(from *Space, addr string) {
	var c net.Conn
	err := from.Do(func() (err error) {
		c, err = net.DialTimeout("tcp", addr, knockLimit)
		return err
	})
	if err == nil {
		_ = c.Close() // it should not be there
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.asked++
	if err == nil || errors.Is(err, syscall.ECONNREFUSED) {
		k.passed++
	}
}

// close ends the asking.
func (k *knocks) close() {
	close(k.stop)
	k.all.Wait()
}

// cmdKnock: knock start ID FROM ADDR PORT; knock check ID N waits for N more attempts
// and wants none of all to have passed; knock stop ID wants so too.
func cmdKnock(s *session, out io.Writer, args []string) error {
	const usage = "knock start ID FROM ADDR PORT | knock check ID N | knock stop ID"
	if len(args) < 2 {
		return &usageError{usage}
	}
	k := s.knocks[args[1]]
	switch {
	case args[0] == "start" && len(args) == 5 && k == nil:
		space, err := s.lab.Space(args[2])
		if err != nil {
			return err
		}
		to, err := addrPort(args[3], args[4])
		if err != nil {
			return err
		}
		s.knocks[args[1]] = startKnocks(space, to.String())
		return nil
	case args[0] == "check" && len(args) == 3 && k != nil:
		var more int
		if _, err := fmt.Sscan(args[2], &more); err != nil {
			return &usageError{usage}
		}
		before, _ := k.count()
		err := until(s.ctx, patience, func() error {
			if asked, _ := k.count(); asked < before+more {
				return fmt.Errorf("%d of %d more attempts", asked-before, more)
			}
			return nil
		})
		return errors.Join(err, k.verdict(out))
	case args[0] == "stop" && k != nil:
		k.close()
		delete(s.knocks, args[1])
		return k.verdict(out)
	}
	return &usageError{usage}
}

func (k *knocks) count() (asked, passed int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked, k.passed
}

func (k *knocks) verdict(out io.Writer) error {
	asked, passed := k.count()
	fmt.Fprintf(out, "%d attempts, %d passed\n", asked, passed)
	if passed > 0 {
		return fmt.Errorf("%d of %d attempts passed", passed, asked)
	}
	return nil
}
