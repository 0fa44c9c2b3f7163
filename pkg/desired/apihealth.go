package desired

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// apiHealth remembers how the last list and the last watch of each resource went:
// one that may be listed and not watched is listed again and again, and no such
// list says that all is well. The watches retry by themselves, so this is all that
// is needed to know whether what they hold is still the truth: no request is made
// to find out.
type apiHealth struct {
	changed func()

	mu     sync.Mutex
	failed map[asked]error
}

// asked is what a request was for.
type asked struct{ path, verb string }

const (
	verbList  = "list"
	verbWatch = "watch"
)

func newAPIHealth() *apiHealth { return &apiHealth{failed: map[asked]error{}} }

// wrap makes a transport report to h.
func (h *apiHealth) wrap(inner http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		res, err := inner.RoundTrip(r)
		if r.Context().Err() == nil { // else we gave up, not the server
			verb := verbList
			if r.URL.Query().Has(verbWatch) {
				verb = verbWatch
			}
			h.note(asked{r.URL.Path, verb}, verdict(res, err))
		}
		return res, err
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// verdict says what an answer tells of the server; nil is that all is well. Too
// many requests and a history that is gone are told by a server in good health.
func verdict(res *http.Response, err error) error {
	switch {
	case err != nil:
		return fmt.Errorf("cannot be reached: %w", err)
	case res.StatusCode < 400 || res.StatusCode == http.StatusGone || res.StatusCode == http.StatusTooManyRequests:
		return nil
	case res.StatusCode == http.StatusUnauthorized:
		return errors.New("does not know us any more (401): the token has expired or was revoked; restart the pod if it does not renew it")
	case res.StatusCode == http.StatusForbidden:
		return errors.New("refuses us (403): apply the agent's ClusterRole and binding again")
	case res.StatusCode == http.StatusNotFound:
		return errors.New("does not know the kind (404): apply its CRD")
	}
	return fmt.Errorf("answers %s", res.Status)
}

// note takes a verdict. A watch begins from a list, or brings it along
// (sendInitialEvents): one that is let through is a good word on both.
func (h *apiHealth) note(what asked, err error) {
	h.mu.Lock()
	well := len(h.failed) == 0
	switch {
	case err != nil:
		h.failed[what] = err
	case what.verb == verbWatch:
		delete(h.failed, asked{what.path, verbList})
		fallthrough
	default:
		delete(h.failed, what)
	}
	news := well != (len(h.failed) == 0)
	h.mu.Unlock()
	if news {
		h.changed()
	}
}

// problem is what is wrong with the first request that fails; nil is nothing.
func (h *apiHealth) problem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	byPath := func(a, b asked) int { return cmp.Or(cmp.Compare(a.path, b.path), cmp.Compare(a.verb, b.verb)) }
	for _, what := range slices.SortedFunc(maps.Keys(h.failed), byPath) {
		return fmt.Errorf("%s %s: %w", what.verb, what.path, h.failed[what])
	}
	return nil
}
