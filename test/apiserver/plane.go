package apiserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	startTimeout = time.Minute // a busy machine; an idle one needs four seconds
	stopTimeout  = time.Second // a server with open watches would take a minute
	script       = "hack/cluster-bins.sh"
)

// findBinaries gives the folder with etcd and kube-apiserver: HOMEPORT_CLUSTER_BIN,
// else where the build script puts them.
func findBinaries() (string, error) {
	dir := os.Getenv("HOMEPORT_CLUSTER_BIN")
	if dir == "" {
		path, err := findScript()
		if err != nil {
			return "", err
		}
		out, err := exec.Command(path, "--dir").Output()
		if err != nil {
			return "", fmt.Errorf("%s --dir: %w; or set HOMEPORT_CLUSTER_BIN", script, err)
		}
		dir = strings.TrimSpace(string(out))
	}
	for _, name := range []string{"etcd", "kube-apiserver"} {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// findScript looks for the build script from the test's folder upwards.
func findScript() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, script)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no %s in a folder above %s; set HOMEPORT_CLUSTER_BIN", script, wd)
		}
	}
}

// plane is one etcd with one kube-apiserver and the folder of both.
type plane struct {
	dir    string
	bin    string // where its programs are
	etcd   *envtest.Etcd
	api    *envtest.APIServer
	admin  *rest.Config
	log    *os.File // the API server's
	reaper *exec.Cmd
	life   io.Closer // the reaper acts when this is closed

	mu      sync.Mutex
	running bool
}

// newPlane starts etcd, and sets up an API server that start starts.
func newPlane(bin string) (*plane, error) {
	dir, err := os.MkdirTemp("", "homeport-apiserver-")
	if err != nil {
		return nil, err
	}
	p := &plane{dir: dir, bin: bin}
	if err := p.init(bin); err != nil {
		return nil, errors.Join(err, p.end())
	}
	return p, nil
}

func (p *plane) init(bin string) error {
	data, certs := filepath.Join(p.dir, "etcd"), filepath.Join(p.dir, "apiserver")
	if err := errors.Join(os.Mkdir(data, 0o700), os.Mkdir(certs, 0o700)); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(p.dir, "kube-apiserver.log"))
	if err != nil {
		return err
	}
	p.log = log
	if err := p.startReaper("--data-dir="+data, "--cert-dir="+certs); err != nil {
		return err
	}
	p.etcd = &envtest.Etcd{Path: filepath.Join(bin, "etcd"), DataDir: data, StartTimeout: startTimeout}
	if err := p.etcd.Start(); err != nil {
		return err
	}
	p.api = &envtest.APIServer{
		Path: filepath.Join(bin, "kube-apiserver"), CertDir: certs, EtcdURL: p.etcd.URL,
		StartTimeout: startTimeout, StopTimeout: stopTimeout, Out: log, Err: log,
	}
	// It would announce itself under the address of another interface, and demand one.
	p.api.Configure().Set("advertise-address", "127.0.0.1").Set("endpoint-reconciler-type", "none")
	return nil
}

// reap kills whatever has one of the marks in its command line, once its input
// ends, and removes the folder. So nothing outlives a test binary, not even one
// that panics, is interrupted or killed: its end of the pipe is closed then.
const reap = `read -r _
for f in $(grep -slFf marks /proc/[0-9]*/cmdline); do f=${f#/proc/}; kill -KILL "${f%/*}"; done
rm -rf "$PWD" || { sleep 1; rm -rf "$PWD"; }`

func (p *plane) startReaper(marks ...string) error {
	if err := os.WriteFile(filepath.Join(p.dir, "marks"), []byte(strings.Join(marks, "\n")), 0o600); err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", reap)
	cmd.Dir = p.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the test alone
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, in.Close())
	}
	p.reaper, p.life = cmd, in
	return nil
}

// end kills both processes and removes what they wrote. Nobody needs their data
// any more, so nobody waits for them to end well.
func (p *plane) end() error {
	if p.reaper == nil {
		return os.RemoveAll(p.dir)
	}
	if err := errors.Join(p.log.Close(), p.life.Close(), p.reaper.Wait()); err != nil {
		return fmt.Errorf("remove %s: %w", p.dir, err)
	}
	return nil
}

// start starts the API server unless it runs.
func (p *plane) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running {
		return nil
	}
	if err := p.api.Start(); err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, p.lastWords())
	}
	p.running = true
	if p.admin != nil {
		return nil // a restart; ports and certificates are the same
	}
	admin, err := p.api.AddUser(envtest.User{Name: "admin", Groups: []string{"system:masters"}}, &rest.Config{QPS: -1})
	if err != nil {
		return err
	}
	admin.Host = p.api.SecureServing.URL("https", "/").String()
	admin.CAData = p.api.CA
	if err := waitDefault(admin); err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, p.lastWords())
	}
	p.admin = admin
	return nil
}

// waitDefault waits for the namespace default, which the server makes some
// moments after it calls itself healthy.
func waitDefault(cfg *rest.Config) error {
	c, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	c.Timeout = time.Second
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(20 * time.Millisecond) {
		resp, err := c.Get(cfg.Host + "api/v1/namespaces/default")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			err = errors.New(resp.Status)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("namespace default: %w", err)
		}
	}
}

// stop stops the API server if it runs.
func (p *plane) stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running {
		return nil
	}
	p.running = false
	// Its error may say that the server had to be killed, which is as good. What
	// counts is that the port is silent.
	stopErr := p.api.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.api.SecureServing.HostPort())
		switch {
		case errors.Is(err, syscall.ECONNREFUSED):
			return nil
		case err != nil:
			return errors.Join(err, stopErr)
		}
		conn.Close()
		select {
		case <-ctx.Done():
			return errors.Join(errors.New("it still accepts connections"), stopErr)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lastWords gives the last lines of the API server's log that are more than information.
func (p *plane) lastWords() string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return err.Error()
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimSpace(string(b)), "\n"), func(line string) bool {
		return strings.HasPrefix(line, "I") // klog's letter for information
	})
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
