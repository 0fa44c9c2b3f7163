package desired

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
)

// apiHealth remembers how the last request for each watched resource went. The
// watches retry by themselves, so this is all that is needed to know whether what
// they hold is still the truth: no request is made to find out.
type apiHealth struct {
	changed func()

	mu     sync.Mutex
	failed map[string]error // by path
}

func newAPIHealth() *apiHealth { return &apiHealth{failed: map[string]error{}} }

// wrap makes a transport report to h.
func (h *apiHealth) wrap(inner http.RoundTripper) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		res, err := inner.RoundTrip(r)
		if r.Context().Err() == nil { // else we gave up, not the server
			h.note(r.URL.Path, verdict(res, err))
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
		return errors.New("does not know the kind (404): apply Homeport's CRDs")
	}
	return fmt.Errorf("answers %s", res.Status)
}

func (h *apiHealth) note(path string, err error) {
	h.mu.Lock()
	before := h.failed[path]
	if err == nil {
		delete(h.failed, path)
	} else {
		h.failed[path] = err
	}
	h.mu.Unlock()
	if (before == nil) != (err == nil) {
		h.changed()
	}
}

// problem is what is wrong with the first path that fails; nil is nothing.
func (h *apiHealth) problem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, path := range slices.Sorted(maps.Keys(h.failed)) {
		return fmt.Errorf("%s: %w", path, h.failed[path])
	}
	return nil
}
