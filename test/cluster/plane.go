package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	certutil "k8s.io/client-go/util/cert"
)

const serviceIP = "10.96.0.1" // of the service "kubernetes"

// plane is the control plane.
type plane struct {
	bin, dir string
	apiPort  int
	etcdPort int
	peerPort int
	token    map[string]string // by user
	etcd     *process
	api      *process
	others   []*process
}

// process is a program that ends with this one at the latest.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

func start(log, program string, args ...string) (*process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p := &process{cmd: exec.Command(program, args...), done: make(chan struct{}), log: log}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) stop() {
	if p == nil {
		return
	}
	_ = p.cmd.Process.Kill()
	<-p.done
}

// freePorts gives ports of loopback that nobody listens on now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// newPlane prepares a control plane; gateways are the addresses by which nodes reach
// it, users those that have a token beside admin.
func newPlane(bin, dir, egress string, gateways []net.IP, users map[string]string) (*plane, error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, err
	}
	p := &plane{bin: bin, dir: dir, apiPort: ports[0], etcdPort: ports[1], peerPort: ports[2], token: map[string]string{}}
	return p, errors.Join(p.writeKeys(gateways), p.writeUsers(users),
		os.WriteFile(p.path("egress.yaml"), []byte(egressConfig(egress)), 0o600))
}

// start starts it, and returns when the API server is ready.
func (p *plane) start(ctx context.Context) (err error) {
	url := "http://127.0.0.1:" + strconv.Itoa(p.etcdPort)
	p.etcd, err = start(p.path("etcd.log"), filepath.Join(p.bin, "etcd"), "--data-dir="+p.path("etcd"), "--unsafe-no-fsync",
		"--listen-client-urls="+url, "--advertise-client-urls="+url, "--listen-peer-urls=http://127.0.0.1:"+strconv.Itoa(p.peerPort))
	if err != nil {
		return err
	}
	if err := p.startAPI(ctx); err != nil {
		return err
	}
	return p.startOthers()
}

func (p *plane) path(name string) string { return filepath.Join(p.dir, name) }

// writeKeys makes the server's certificate and the key of service accounts; ca.crt
// is what clients trust.
func (p *plane) writeKeys(gateways []net.IP) error {
	ips := append([]net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(serviceIP)}, gateways...)
	cert, key, err := certutil.GenerateSelfSignedCertKey("kubernetes", ips, []string{"kubernetes.default.svc", "localhost"})
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(p.path("ca.crt"), cert, 0o600), os.WriteFile(p.path("api.key"), key, 0o600))
}

// writeUsers writes the table of tokens, and a kubeconfig for the administrator.
func (p *plane) writeUsers(users map[string]string) error {
	var table strings.Builder
	for user, group := range users {
		p.token[user] = "token-of-" + strings.NewReplacer(":", "-").Replace(user)
		fmt.Fprintf(&table, "%s,%s,%s,%s\n", p.token[user], user, user, group)
	}
	p.token["admin"] = "token-of-admin"
	fmt.Fprintf(&table, "%s,admin,admin,system:masters\n", p.token["admin"])
	return errors.Join(os.WriteFile(p.path("tokens.csv"), []byte(table.String()), 0o600),
		os.WriteFile(p.kubeconfig(), []byte(kubeconfig(fmt.Sprintf("https://127.0.0.1:%d", p.apiPort), p.path("ca.crt"), p.token["admin"])), 0o600))
}

func (p *plane) kubeconfig() string { return p.path("admin.kubeconfig") }

// kubeconfig leads to a server; ca and token may be empty.
func kubeconfig(server, ca, token string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Config
current-context: default
contexts: [{name: default, context: {cluster: default, user: default}}]
clusters: [{name: default, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: default, user: {token: %q}}]
`, server, ca, token)
}

func (p *plane) startAPI(ctx context.Context) error {
	var err error
	p.api, err = start(p.path("kube-apiserver.log"), filepath.Join(p.bin, "kube-apiserver"),
		"--etcd-servers=http://127.0.0.1:"+strconv.Itoa(p.etcdPort), "--secure-port="+strconv.Itoa(p.apiPort),
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file="+p.path("ca.crt"), "--tls-private-key-file="+p.path("api.key"),
		"--service-cluster-ip-range=10.96.0.0/24", "--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file="+p.path("api.key"), "--service-account-key-file="+p.path("api.key"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--token-auth-file="+p.path("tokens.csv"),
		"--allow-privileged=true", "--kubelet-preferred-address-types=Hostname",
		"--egress-selector-config-file="+p.path("egress.yaml"), "--profiling=false")
	if err != nil {
		return err
	}
	return p.waitReady(ctx)
}

// waitReady waits until the API server says so.
func (p *plane) waitReady(ctx context.Context) error {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true, //nolint:gosec // our own, on loopback
	}}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	state := "nothing"
	for {
		resp, err := client.Get(fmt.Sprintf("https://127.0.0.1:%d/readyz", p.apiPort))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
			state = resp.Status
		} else {
			state = err.Error()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kube-apiserver is not ready: %s; see %s", state, p.api.log)
		case <-p.api.done:
			return fmt.Errorf("kube-apiserver ended; see %s", p.api.log)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *plane) startOthers() error {
	ports, err := freePorts(2)
	if err != nil {
		return err
	}
	for i, args := range [][]string{
		{"kube-controller-manager", "--service-account-private-key-file=" + p.path("api.key"), "--root-ca-file=" + p.path("ca.crt")},
		{"kube-scheduler"},
	} {
		args = append(args, "--kubeconfig="+p.kubeconfig(), "--authentication-kubeconfig="+p.kubeconfig(),
			"--authorization-kubeconfig="+p.kubeconfig(), "--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(ports[i]),
			"--cert-dir="+p.path("certs"), "--leader-elect=false")
		o, err := start(p.path(args[0]+".log"), filepath.Join(p.bin, args[0]), args[1:]...)
		if err != nil {
			return err
		}
		p.others = append(p.others, o)
	}
	return nil
}

func (p *plane) stop() {
	if p == nil {
		return
	}
	for _, o := range append(p.others, p.api, p.etcd) {
		o.stop()
	}
}
