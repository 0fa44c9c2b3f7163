package desired

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestAPIHealth: what the server says of lists and of watches is kept apart, and
// nobody who is let in again stays refused.
func TestAPIHealth(t *testing.T) {
	const trunks, nodes = "/apis/homeport.dev/v1alpha1/vlantrunks", "/api/v1/nodes"
	const watch, streamed = "?watch=true&resourceVersion=7", "?allowWatchBookmarks=true&sendInitialEvents=true&watch=true"
	for _, tt := range []struct {
		name     string
		requests []string // URL and answer
		want     string   // "" is that all is well
		news     int      // how often it became well, or ill
	}{
		{"well", []string{trunks + " 200", trunks + watch + " 200"}, "", 0},
		{"may list, not watch", []string{trunks + " 200", trunks + watch + " 403", trunks + " 200", trunks + watch + " 403", trunks + " 200"},
			"watch " + trunks + ": refuses us (403)", 1},
		{"may watch again", []string{trunks + watch + " 403", trunks + " 200", trunks + watch + " 200"}, "", 2},
		{"away, then streamed without a list", []string{trunks + streamed + " 503", trunks + " 503", trunks + streamed + " 200"}, "", 2},
		{"may neither", []string{trunks + streamed + " 401", trunks + " 401"}, "list " + trunks + ": does not know us any more (401)", 1},
		{"one of two", []string{trunks + watch + " 404", nodes + " 200", nodes + watch + " 200"}, "watch " + trunks + ": does not know the kind (404)", 1},
		{"told in good health", []string{trunks + watch + " 410", trunks + " 429"}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h, news := newAPIHealth(), 0
			h.changed = func() { news++ }
			for _, line := range tt.requests {
				url, code, _ := strings.Cut(line, " ")
				answers := roundTripper(func(*http.Request) (*http.Response, error) {
					return &http.Response{StatusCode: int(code[0]-'0')*100 + int(code[1]-'0')*10 + int(code[2]-'0'), Status: code}, nil
				})
				if _, err := h.wrap(answers).RoundTrip(httptest.NewRequest(http.MethodGet, "https://api"+url, nil)); err != nil {
					t.Fatal(err)
				}
			}
			if err := h.problem(); (err == nil) != (tt.want == "") || err != nil && !strings.HasPrefix(err.Error(), tt.want) {
				t.Errorf("problem %v, want %q", err, tt.want)
			}
			if news != tt.news {
				t.Errorf("told %d times, want %d", news, tt.news)
			}
		})
	}
}
