// Package apiserver gives tests a real Kubernetes API: etcd and kube-apiserver as
// hack/cluster-bins.sh builds them, on free ports of the loopback interface.
//
// It is an API and nothing more. No controller manager runs, so a deleted
// namespace stays Terminating, objects of a deleted owner stay, and a namespace
// has no service account. No kubelet runs: a test writes a pod's status itself.
package apiserver

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// Server is a kube-apiserver with its etcd, as one test sees it.
type Server struct {
	tb    testing.TB
	plane *plane
}

// Serve is Start for a program: it gives the administrator's config, and what ends the server.
func Serve(crdDirs ...string) (cfg *rest.Config, end func() error, err error) {
	dir, err := findBinaries()
	if err != nil {
		return nil, nil, fmt.Errorf("no API server: %w; run make cluster-bins", err)
	}
	p, err := newPlane(dir)
	if err != nil {
		return nil, nil, err
	}
	if err = p.start(); err == nil {
		err = install(p.admin, crdDirs)
	}
	if err != nil {
		return nil, nil, errors.Join(err, p.end())
	}
	return p.admin, p.end, nil
}

func install(cfg *rest.Config, crdDirs []string) error {
	_, err := envtest.InstallCRDs(cfg, envtest.CRDInstallOptions{Paths: crdDirs, ErrorIfPathMissing: true})
	return err
}

// Start starts a server of tb's own, which ends with tb, and installs the CRDs
// found in the files and folders crdDirs. It takes some seconds; subtests may
// share it. Without binaries tb is skipped, or fails if HOMEPORT_CLUSTER=1 is set.
func Start(tb testing.TB, crdDirs ...string) *Server {
	tb.Helper()
	p, err := newPlane(binaries(tb))
	if err != nil {
		tb.Fatalf("API server: %v", err)
	}
	tb.Cleanup(func() {
		if err := p.end(); err != nil {
			tb.Errorf("API server: %v", err)
		}
	})
	return serve(tb, p, crdDirs)
}

// shared is the server of Shared; the reaper ends it after the test binary.
var shared = sync.OnceValues(func() (*plane, error) {
	dir, err := findBinaries()
	if err != nil {
		return nil, err
	}
	return newPlane(dir)
})

// Shared is Start for tests that can live beside others: all of a test binary get
// the same server, which runs until the binary ends. What they create stays, so
// they must not use the same names, nor count objects that others create too. One
// that has called Stop finds it running again afterwards.
func Shared(tb testing.TB, crdDirs ...string) *Server {
	tb.Helper()
	binaries(tb)
	p, err := shared()
	if err != nil {
		tb.Fatalf("API server: %v", err)
	}
	s := serve(tb, p, crdDirs)
	tb.Cleanup(func() {
		if err := p.start(); err != nil {
			tb.Errorf("API server: %v", err)
		}
	})
	return s
}

func serve(tb testing.TB, p *plane, crdDirs []string) *Server {
	tb.Helper()
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("the last warnings and errors of kube-apiserver:\n%s", p.lastWords())
		}
	})
	if err := p.start(); err != nil {
		tb.Fatalf("API server: %v", err)
	}
	s := &Server{tb: tb, plane: p}
	if len(crdDirs) > 0 {
		s.Install(crdDirs...)
	}
	return s
}

// Install installs the CRDs found in files and folders.
func (s *Server) Install(crdDirs ...string) {
	s.tb.Helper()
	if err := install(s.Config(), crdDirs); err != nil {
		s.tb.Fatalf("CRDs of %v: %v", crdDirs, err)
	}
}

// Programs is the folder of what hack/cluster-bins.sh has built.
func (s *Server) Programs() string { return s.plane.bin }

// Config is the administrator's (group system:masters), without a rate limit. It
// stays valid when the server is restarted.
func (s *Server) Config() *rest.Config { return rest.CopyConfig(s.plane.admin) }

// User is the config of another user, who may do nothing until RBAC allows it. It
// is the administrator in disguise (impersonation), as a client certificate could
// not carry extra: the claims of a service account's token, such as
// authentication.kubernetes.io/node-name. The server adds system:authenticated to
// groups, and gives a service account without groups its own.
func (s *Server) User(name string, groups []string, extra map[string][]string) *rest.Config {
	cfg := s.Config()
	cfg.Impersonate = rest.ImpersonationConfig{
		UserName: name,
		Groups:   slices.Clone(groups),
		Extra:    maps.Clone(extra),
	}
	return cfg
}

// Stop takes the API server away, and leaves etcd: nobody listens on its port when
// Stop returns. Open watches are given a second to end, then cut.
func (s *Server) Stop() {
	s.tb.Helper()
	if err := s.plane.stop(); err != nil {
		s.tb.Fatalf("API server: stop: %v", err)
	}
}

// Restart brings the API server back, on the same port with the same objects; one
// that runs is stopped first. It returns when the server is healthy.
func (s *Server) Restart() {
	s.tb.Helper()
	s.Stop()
	if err := s.plane.start(); err != nil {
		s.tb.Fatalf("API server: restart: %v", err)
	}
}

// binaries gives the folder with etcd and kube-apiserver, or ends the test.
func binaries(tb testing.TB) string {
	tb.Helper()
	if os.Getenv("HOMEPORT_CLUSTER") == "0" {
		tb.Skip("wants an API server: make test-api runs it")
	}
	dir, err := findBinaries()
	switch {
	case err == nil:
	case os.Getenv("HOMEPORT_CLUSTER") == "1":
		tb.Fatalf("no API server: %v; run make cluster-bins", err)
	default:
		tb.Skip("no API server: make cluster-bins")
	}
	return dir
}
