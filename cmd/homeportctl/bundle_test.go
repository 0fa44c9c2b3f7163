package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bundle"
)

const plantedToken = "Tr0ub4dor-planted"

// node is a tree of files as a node has them, with a record.
type node struct {
	run, conf, bpffs string
	socket           string
}

func newNode(t *testing.T, socket string) node {
	t.Helper()
	n := node{run: t.TempDir(), conf: t.TempDir(), bpffs: t.TempDir(), socket: socket}
	for name, text := range map[string]string{
		n.run + "/attachments/a.json": `{"version": 1, "containerID": "c0ffee", "hostIfName": "veth8f2c01", "policy": "legacy-100", "rules": "legacy-100/ab12"}`,
		n.run + "/attachments/b.json": `{"version": 1, "containerID": "beef", "hostIfName": "veth00aa11", "policy": "gone"}`,
		n.run + "/state/policy.json": `{"body": {"sets": {"legacy-100": {"Default": "Drop"}, "legacy-100/ab12": {"Default": "Allow", "Rules": [
			{"Key": "web/1001", "Name": "old subnet", "Action": "Drop", "Directions": "In"}]}}}}`,
		n.run + "/state/in-force.json": `{"sha256": "", "body": {"password": "` + plantedToken + `"}}`,
		n.run + "/kubeconfig":          "token: " + plantedToken,
		n.conf + "/20-vlan.conf":       `{"type": "homeport", "network": "vlan100"}`,
		n.conf + "/homeport":           "foo", // the plugin
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func (n node) bundle(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	args = append([]string{"bundle", "--socket", n.socket, "--node", "n1", "--cni-conf", n.conf, "--cni-bin", n.conf, "--bpffs", n.bpffs}, args...)
	code := run(t.Context(), args, surroundings{stdout: &stdout, stderr: &stderr, name: "homeportctl", version: "v0.1.0",
		findPaths: func() (attach.Paths, error) { return attach.Paths{RunDir: n.run}, nil }})
	return result{code, stdout.String(), stderr.String()}
}

// unpack reads a bundle, by name without the top folder.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(archive))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for r := tar.NewReader(gz); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), plantedToken) {
			t.Errorf("%s has a secret:\n%s", h.Name, text)
		}
		_, name, _ := strings.Cut(h.Name, "/")
		out[name] = string(text)
	}
}

// bundleViews adds to a healthy node what only a bundle asks for.
func bundleViews(t *testing.T) map[string]any {
	v := views(t)
	v[wire.ViewLog] = wire.Text{TypeMeta: meta("Log"), Text: "uplink is down\nAuthorization: Bearer " + plantedToken + "\n", Cut: true}
	v[wire.ViewMetrics] = wire.Text{TypeMeta: meta("Metrics"), Text: "homeport_ready 1\n"}
	return v
}

func TestBundle(t *testing.T) {
	n := newNode(t, newAgent(t, bundleViews(t)))
	t.Chdir(t.TempDir())
	r := n.bundle(t)
	file := strings.TrimSuffix(r.Stdout, "\n")
	if r.Code != 0 || !strings.HasPrefix(file, "homeport-bundle-n1-") || !strings.HasSuffix(file, "Z.tar.gz") || !strings.Contains(r.Stderr, bundle.Manifest) {
		t.Fatalf("%+v", r)
	}
	if st, err := os.Stat(file); err != nil || st.Mode() != 0o600 {
		t.Errorf("%v, %v: open to others", st.Mode(), err)
	}
	archive, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, archive)
	for name, part := range map[string]string{
		"agent/status.txt":    "Node is ready",
		"agent/status.json":   `"kind": "NodeStatus"`,
		"agent/ports.txt":     "veth8f2c01",
		"agent/ports.json":    `"kind": "PortList"`,
		"agent/drops.txt":     "MACSpoof",
		"agent/vlans.txt":     "100-110",
		"agent/policies.txt":  "old subnet",
		"agent/addresses.txt": "10.0.0.7  100   legacy-100  shop/db",
		"rules-by-port.txt":   "veth8f2c01 (/) is judged by the rules \"legacy-100/ab12\"\n  web 1001 Drop In old subnet\n  else Allow\nveth00aa11 (/) is judged by the rules \"gone\", which are not in force",
		"agent/log.txt":       "(there was more than this)\nuplink is down\n",
		"agent/metrics.txt":   "homeport_ready 1",
		"attachments/a.json":  "c0ffee",
		"state/in-force.json": "left out",
		"cni/20-vlan.conf":    "vlan100",
		"host.txt":            "== /proc/version",
		"binaries.txt":        "sha256\t2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae", // of "foo"
		bundle.Manifest:       "maps: nothing of ABI version",                                             // no BPF file system here
	} {
		if !strings.Contains(got[name], part) {
			t.Errorf("%s lacks %q:\n%s", name, part, got[name])
		}
	}
	if r := n.bundle(t, "-o", file); r.Code != 1 || !strings.Contains(r.Stderr, "not overwritten; next: ") {
		t.Errorf("a second time: %+v", r)
	}
	if again, err := os.ReadFile(file); err != nil || !bytes.Equal(again, archive) {
		t.Errorf("the first bundle was touched: %v", err)
	}
	if r := n.bundle(t, "-o", "-"); r.Code != 0 || r.Stderr != "" || unpack(t, []byte(r.Stdout))["attachments/a.json"] == "" {
		t.Errorf("to stdout: code %d, %q", r.Code, r.Stderr)
	}
	if r := n.bundle(t, "-o", "absent/file"); r.Code != 1 || !strings.Contains(r.Stderr, "absent/file") {
		t.Errorf("to nowhere: %+v", r)
	}
}

// TestBundleWithoutAgent has what the disk and the kernel say, and one reason.
func TestBundleWithoutAgent(t *testing.T) {
	r := newNode(t, filepath.Join(shortDir(t), "agent.sock")).bundle(t, "-o", "-")
	got := unpack(t, []byte(r.Stdout))
	if r.Code != 0 || !strings.Contains(got["attachments/a.json"], "c0ffee") || got["host.txt"] == "" || got["rules-by-port.txt"] == "" || got["agent/status.txt"] != "" {
		t.Errorf("code %d, %q", r.Code, got)
	}
	for _, part := range []string{"agent/status: the agent of this node cannot be asked", "agent: it is not asked for the rest"} {
		if !strings.Contains(got[bundle.Manifest], part) {
			t.Errorf("the manifest lacks %q:\n%s", part, got[bundle.Manifest])
		}
	}
}

// TestBundleOfOlderAgent: what that does not know is told, and the rest is there.
func TestBundleOfOlderAgent(t *testing.T) {
	r := newNode(t, newAgent(t, views(t))).bundle(t, "-o", "-")
	got := unpack(t, []byte(r.Stdout))
	if r.Code != 0 || got["agent/status.txt"] == "" || !strings.Contains(got[bundle.Manifest], "agent/log: what: unknown view") {
		t.Errorf("code %d, %q", r.Code, got)
	}
}

// TestBundleInterrupted leaves no file that looks like a whole one.
func TestBundleInterrupted(t *testing.T) {
	n := newNode(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	file := filepath.Join(t.TempDir(), "b.tar.gz")
	var out bytes.Buffer
	code := run(ctx, []string{"bundle", "-o", file, "--bpffs", n.bpffs}, surroundings{stdout: &out, stderr: &out, name: "homeportctl",
		findPaths: func() (attach.Paths, error) { return attach.Paths{RunDir: n.run}, nil }})
	if _, err := os.Stat(file); code != exitInterrupted || !os.IsNotExist(err) {
		t.Errorf("code %d, %v: %s", code, err, out.String())
	}
}
