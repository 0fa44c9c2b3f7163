package scale

import (
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
)

// proxy stands between an agent and the API server, and counts. To the server the
// agent is what its service account's token would make it.
type proxy struct {
	kubeconfig string // that leads an agent here

	mu       sync.Mutex
	requests map[string]int // by "verb resource"
	bytes    int64          // of answers, as they are on the wire
}

func newProxy(tb testing.TB, cfg *rest.Config, l net.Listener) *proxy {
	tb.Helper()
	to, err := rest.TransportFor(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	target, err := url.Parse(cfg.Host)
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{requests: map[string]int{}}
	server := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			p.count(r.In)
		},
		Transport:      to,
		FlushInterval:  -1,
		ModifyResponse: func(res *http.Response) error { res.Body = &countedBody{res.Body, p}; return nil },
	})
	server.Listener.Close()
	server.Listener, server.EnableHTTP2 = l, true
	server.StartTLS()
	tb.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	dir := tb.TempDir()
	p.kubeconfig = filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: none}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server.URL, filepath.Join(dir, "ca.pem"))
	for name, content := range map[string][]byte{"kubeconfig": []byte(text), "ca.pem": ca} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return p
}

// count notes a request as the API server's RBAC would name it.
func (p *proxy) count(r *http.Request) {
	verb := map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update",
		http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	skip := 2 // api/v1
	if parts[0] == "apis" {
		skip = 3
	}
	parts = parts[min(skip, len(parts)):]
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	resource := parts[0]
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	switch {
	case r.URL.Query().Has("watch"):
		verb = "watch"
	case verb == "get" && len(parts) == 1:
		verb = "list"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requests[verb+" "+resource]++
}

// traffic is what a proxy has seen.
type traffic struct {
	Requests map[string]int
	Bytes    int64
}

func (p *proxy) seen() traffic {
	p.mu.Lock()
	defer p.mu.Unlock()
	return traffic{maps.Clone(p.requests), p.bytes}
}

// since is what came after before.
func (t traffic) since(before traffic) traffic {
	out := traffic{map[string]int{}, t.Bytes - before.Bytes}
	for what, n := range t.Requests {
		if n -= before.Requests[what]; n != 0 {
			out.Requests[what] = n
		}
	}
	return out
}

func (t traffic) total() (n int) {
	for _, r := range t.Requests {
		n += r
	}
	return n
}

// countedBody counts what is read of an answer.
type countedBody struct {
	io.ReadCloser
	proxy *proxy
}

func (b *countedBody) Read(into []byte) (int, error) {
	n, err := b.ReadCloser.Read(into)
	b.proxy.mu.Lock()
	b.proxy.bytes += int64(n)
	b.proxy.mu.Unlock()
	return n, err
}
