// Package identity measures how long a rule takes that names VMs or pods by label to know an address that one of them
// has just said by ARP on another node: two nodes with the agent of production, and a Kubernetes API server.
package identity

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/kube/live"
	"github.com/homeport-cni/homeport/test/apiserver"
	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Aim is by when the rule goes by the address.
var Aim = ratio.Aim{Ours: 1}

// Most is how many rounds there can be.
const Most = 60

const namespace, network = "default", "bench106"

// target is the pod whose port judges.
var target = netip.MustParseAddr("10.106.0.2")

// objects are the network, and two rules for pod db: it lets in who has the label, and, which is the baseline, what is in an AddressSet.
const objects = `
apiVersion: v1
kind: Node
metadata: {name: n1}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: bench}
spec:
  bridge: {name: br-homeport, managed: true}
  uplink: {interface: up0, allowedVLANs: "106"}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: bench106}
spec:
  trunk: bench
  vlan: {id: 106}
  defaultAction: Allow
  namespaces: {}
---
apiVersion: k8s.cni.cncf.io/v1
kind: NetworkAttachmentDefinition
metadata: {name: bench106, namespace: default}
spec: {config: '{"cniVersion": "1.0.0", "name": "bench106", "type": "homeport", "network": "bench106"}'}
---
apiVersion: k8s.cni.cncf.io/v1beta1
kind: MultiNetworkPolicy
metadata: {name: db, namespace: default, annotations: {k8s.v1.cni.cncf.io/policy-for: bench106}}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
---
apiVersion: homeport.dev/v1alpha1
kind: AddressSet
metadata: {name: written}
spec: {addresses: ["10.106.255.1"]}
---
apiVersion: homeport.dev/v1alpha1
kind: FirewallPolicy
metadata: {name: written}
spec:
  category: Environment
  order: 1
  appliedTo: [{network: bench106}]
  rules: [{id: 1, action: Allow, direction: In, sources: [{addressSet: written}]}]
`

func podOf(name, app, node string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: %s, labels: {app: %s}, annotations: {k8s.v1.cni.cncf.io/networks: '[{"name": %q, "interface": %q}]'}}
spec: {nodeName: %s, containers: [{name: box, image: box}]}
`, name, namespace, app, network, ifName, node)
}

// Row measures so many rounds, each with a pod that nobody has heard of. plugin is ours; the checkout in which the
// benchmark runs has the CRDs. It must run inside the box.
func Row(ctx context.Context, name, plugin string, rounds int) (row ratio.Row, err error) {
	live.Log(slog.New(slog.DiscardHandler))
	api, end, err := apiserver.Serve("deploy/base/crds", "test/crds")
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, end()) }()
	c, err := client.New(api, client.Options{})
	if err != nil {
		return row, err
	}
	dir, err := os.MkdirTemp("", "homeport-identity-")
	if err != nil {
		return row, err
	}
	defer os.RemoveAll(dir)
	door := filepath.Join(dir, "api")
	closeDoor, err := forward(door, strings.TrimSuffix(strings.TrimPrefix(api.Host, "https://"), "/"))
	if err != nil {
		return row, err
	}
	defer closeDoor()
	text := objects + "---" + podOf("db", "db", "n2")
	for i := range rounds {
		text += "---" + podOf("web"+strconv.Itoa(i), "web", "n1")
	}
	uids, err := create(ctx, c, text)
	if err != nil {
		return row, err
	}
	nodes := map[string]*process{}
	for _, n := range []string{"n1", "n2"} {
		p, err := start(ctx, dir, Node{Name: n, API: door, Server: api.Host, TLS: api.TLSClientConfig, Plugin: plugin})
		if err != nil {
			return row, err
		}
		defer func() { err = errors.Join(err, p.end()) }()
		nodes[n] = p
	}
	if _, err := nodes["n2"].ask("add db " + uids["db"]); err != nil {
		return row, err
	}
	if _, err := nodes["n2"].ask("say db " + target.String()); err != nil { // so that its bridge knows where it is
		return row, err
	}
	var pairs []ratio.Pair
	for i := range rounds {
		pod := "web" + strconv.Itoa(i)
		if _, err := nodes["n1"].ask("add " + pod + " " + uids[pod]); err != nil {
			return row, err
		}
		ours, err := nodes["n2"].until(address(1, i), func() (time.Time, error) {
			answer, err := nodes["n1"].ask("say " + pod + " " + address(1, i))
			if err != nil {
				return time.Time{}, err
			}
			ns, err := strconv.ParseInt(answer, 10, 64)
			return time.Unix(0, ns), err
		})
		if err != nil {
			return row, fmt.Errorf("round %d, learned: %w", i, err)
		}
		written, err := nodes["n2"].until(address(2, i), func() (time.Time, error) { return time.Now(), write(ctx, c, address(2, i)) })
		if err != nil {
			return row, fmt.Errorf("round %d, written: %w", i, err)
		}
		pairs = append(pairs, ratio.Pair{Ours: ours.Seconds(), Baseline: written.Seconds()})
	}
	return ratio.Compare(name, "an address that is written into an AddressSet", ratio.Seconds, Aim, pairs)
}

func address(kind, i int) string { return fmt.Sprintf("10.106.%d.%d", kind, i+1) }

// create makes objects, and gives the UIDs of pods.
func create(ctx context.Context, c client.Client, text string) (map[string]string, error) {
	uids := map[string]string{}
	for doc := range strings.SplitSeq(text, "---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			return nil, fmt.Errorf("%w:\n%s", err, doc)
		}
		if err := c.Create(ctx, u); err != nil {
			return nil, err
		}
		if u.GetKind() == "Pod" {
			uids[u.GetName()] = string(u.GetUID())
		}
	}
	return uids, nil
}

// write adds an address to the AddressSet, as a person does.
func write(ctx context.Context, c client.Client, addr string) error {
	u := &unstructured.Unstructured{}
	u.SetAPIVersion("homeport.dev/v1alpha1")
	u.SetKind("AddressSet")
	u.SetName("written")
	patch := fmt.Sprintf(`{"spec":{"addresses":[%q]}}`, addr)
	return c.Patch(ctx, u, client.RawPatch("application/merge-patch+json", []byte(patch)))
}

// forward has a socket of the file system lead to an address of this network namespace: nodes have others.
func forward(path, to string) (end func() error, err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", to)
				if err != nil {
					return
				}
				defer out.Close()
				var both sync.WaitGroup
				both.Go(func() { _, _ = io.Copy(out, in); _ = out.(*net.TCPConn).CloseWrite() })
				both.Go(func() { _, _ = io.Copy(in, out); _ = in.(*net.UnixConn).CloseWrite() })
				both.Wait()
			}()
		}
	}()
	return l.Close, nil
}

// process is a node that runs.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	log string // file
}

func start(ctx context.Context, dir string, n Node) (*process, error) {
	text, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, n.Name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(ctx, exe, Command, file), log: filepath.Join(dir, n.Name+".log")}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET}
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewScanner(out)
	return p, p.cmd.Start()
}

// ask gives a command, and the next line that the node says.
func (p *process) ask(command string) (string, error) {
	if _, err := fmt.Fprintln(p.in, command); err != nil {
		return "", p.failed(err)
	}
	return p.next()
}

func (p *process) next() (string, error) {
	if !p.out.Scan() {
		return "", p.failed(errors.Join(errors.New("it has ended"), p.out.Err()))
	}
	if why, ok := strings.CutPrefix(p.out.Text(), "error "); ok {
		return "", p.failed(errors.New(why))
	}
	return p.out.Text(), nil
}

// failed is an error with what the node last logged.
func (p *process) failed(err error) error {
	b, _ := os.ReadFile(p.log)
	return fmt.Errorf("%w\nthe agent's log ends with:\n%s", err, b[max(0, len(b)-4000):])
}

// until gives the time from when fn says that it has begun until pod db gets a packet from the address.
func (p *process) until(addr string, fn func() (time.Time, error)) (time.Duration, error) {
	if answer, err := p.ask("await db " + addr); err != nil || answer != "closed" {
		return 0, errors.Join(fmt.Errorf("answer %q", answer), err)
	}
	began, err := fn()
	if err != nil {
		return 0, err
	}
	answer, err := p.next()
	if err != nil {
		return 0, err
	}
	when, err := strconv.ParseInt(answer, 10, 64)
	return time.Unix(0, when).Sub(began), err
}

func (p *process) end() error {
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		return p.failed(err)
	}
	return nil
}
