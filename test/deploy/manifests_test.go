package deploy

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/homeport-cni/homeport/pkg/kube/controller"
)

const (
	root      = "../.."
	namespace = "homeport-system"
)

// tool runs a program of the module tools, with paths as from this folder.
func tool(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "-C", "tools"}, args...)...)
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly -trimpath")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, stderr.String())
	}
	return out
}

func deployPath(t *testing.T, elem ...string) string {
	t.Helper()
	p, err := filepath.Abs(filepath.Join(append([]string{root, "deploy"}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// build is what kubectl apply -k would send.
func build(t *testing.T, elem ...string) []byte {
	t.Helper()
	return tool(t, "sigs.k8s.io/kustomize/kustomize/v5", "build", deployPath(t, elem...))
}

// chart is what helm install would send.
func chart(t *testing.T, namespace string, set ...string) []byte {
	t.Helper()
	return tool(t, append([]string{"./helmtemplate", deployPath(t, "charts", "homeport"), namespace}, set...)...)
}

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// objects are those of a stream of YAML documents, in their order.
func objects(t *testing.T, b []byte) []*unstructured.Unstructured {
	t.Helper()
	var all []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(b), 4096); ; {
		u := &unstructured.Unstructured{}
		err := d.Decode(&u.Object)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(u.Object) > 0 {
			all = append(all, u)
		}
	}
}

// find is the one object of a kind and name.
func find(t *testing.T, all []*unstructured.Unstructured, kind, name string) *unstructured.Unstructured {
	t.Helper()
	i := slices.IndexFunc(all, func(u *unstructured.Unstructured) bool { return u.GetKind() == kind && u.GetName() == name })
	if i < 0 {
		t.Fatalf("there is no %s %s", kind, name)
	}
	return all[i]
}

// pod is the template of a DaemonSet or Deployment; a field that it does not know
// is a fault.
func pod(t *testing.T, u *unstructured.Unstructured) corev1.PodSpec {
	t.Helper()
	var ds appsv1.DaemonSet
	var dep appsv1.Deployment
	into, spec := any(&ds), &ds.Spec.Template.Spec
	if u.GetKind() == "Deployment" {
		into, spec = &dep, &dep.Spec.Template.Spec
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, into, true); err != nil {
		t.Fatalf("%s %s: %v", u.GetKind(), u.GetName(), err)
	}
	return *spec
}

// TestGenerated: what is made from the base is made from the base of now.
func TestGenerated(t *testing.T) {
	want, got := objects(t, build(t, "base")), objects(t, read(t, "deploy", "daemonset.yaml"))
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("deploy/daemonset.yaml is not current: make deploy (-base +file)\n%s", d)
	}
	if len(got) < 15 {
		t.Errorf("only %d objects", len(got))
	}
}

// unlabelled takes off what only kustomize puts on.
func unlabelled(all []*unstructured.Unstructured) map[string]any {
	out := map[string]any{}
	for _, u := range all {
		if u.GetKind() == "Namespace" {
			continue // Helm is told of one
		}
		c := u.DeepCopy()
		labels := c.GetLabels()
		delete(labels, "app.kubernetes.io/name")
		delete(labels, "app.kubernetes.io/part-of")
		if len(labels) == 0 {
			labels = nil
		}
		c.SetLabels(labels)
		out[c.GetKind()+" "+c.GetName()] = c.Object
	}
	return out
}

// TestChart: the chart comes to the same as the base, and its values do what they
// are named for.
func TestChart(t *testing.T) {
	if d := cmp.Diff(unlabelled(objects(t, build(t, "base"))), unlabelled(objects(t, chart(t, namespace)))); d != "" {
		t.Errorf("the chart's templates are not current: make deploy (-base +chart)\n%s", d)
	}
	text := chart(t, "elsewhere", "cniBinDir=/cni", "image.repository=example.org/hp", "image.tag=t", "maxUnavailable=10%",
		"openshift=true", "agent.requests.cpu=7m", "controller.requests.cpu=9m")
	all := objects(t, text)
	ds := find(t, all, "DaemonSet", "homeport-agent")
	agent := pod(t, ds)
	if dir := hostPaths(agent)["cni-bin"]; dir != "/cni" {
		t.Errorf("cniBinDir: %s", dir)
	}
	for _, c := range slices.Concat(agent.InitContainers, agent.Containers, pod(t, find(t, all, "Deployment", "homeport-controller")).Containers) {
		if c.Image != "example.org/hp:t" {
			t.Errorf("container %s: image %s", c.Name, c.Image)
		}
	}
	if max, _, _ := unstructured.NestedString(ds.Object, "spec", "updateStrategy", "rollingUpdate", "maxUnavailable"); max != "10%" {
		t.Errorf("maxUnavailable: %q", max)
	}
	if cpu := agent.Containers[0].Resources.Requests.Cpu().String(); cpu != "7m" {
		t.Errorf("agent.requests.cpu: %s", cpu)
	}
	if cpu := pod(t, find(t, all, "Deployment", "homeport-controller")).Containers[0].Resources.Requests.Cpu().String(); cpu != "9m" {
		t.Errorf("controller.requests.cpu: %s", cpu)
	}
	users, _, _ := unstructured.NestedStringSlice(find(t, all, "SecurityContextConstraints", "homeport-agent").Object, "users")
	if !slices.Equal(users, []string{"system:serviceaccount:elsewhere:homeport-agent"}) {
		t.Errorf("openshift: users %q", users)
	}
	if strings.Contains(string(text), namespace) {
		t.Errorf("in another namespace, %s is still named", namespace)
	}
}

func hostPaths(p corev1.PodSpec) map[string]string {
	out := map[string]string{}
	for _, v := range p.Volumes {
		if v.HostPath != nil {
			out[v.Name] = v.HostPath.Path
		}
	}
	return out
}

// TestOverlays: what each platform has its own.
func TestOverlays(t *testing.T) {
	for name, dir := range map[string]string{
		"k3s": "/var/lib/rancher/k3s/data/cni", "openshift": "/var/lib/cni/bin", "talos": "/opt/cni/bin",
	} {
		t.Run(name, func(t *testing.T) {
			all := objects(t, build(t, "overlays", name))
			p := pod(t, find(t, all, "DaemonSet", "homeport-agent"))
			if got := hostPaths(p)["cni-bin"]; got != dir {
				t.Errorf("plugins go to %s, want %s", got, dir)
			}
			want := map[string]int{"openshift": 1}[name] // the SecurityContextConstraints
			if more := len(all) - len(objects(t, read(t, "deploy", "daemonset.yaml"))); more != want {
				t.Errorf("%d objects more than the base has, want %d", more, want)
			}
			privileged := slices.ContainsFunc(p.InitContainers, func(c corev1.Container) bool { return c.Name == "mount-bpffs" })
			if privileged == (name == "talos") {
				t.Errorf("init container mount-bpffs: %v", privileged)
			}
		})
	}
}

// TestAgentPod: what an administrator is promised of the agent's rights.
func TestAgentPod(t *testing.T) {
	p := pod(t, find(t, objects(t, read(t, "deploy", "daemonset.yaml")), "DaemonSet", "homeport-agent"))
	for _, c := range slices.Concat(p.InitContainers, p.Containers) {
		s := c.SecurityContext
		if privileged := s.Privileged != nil && *s.Privileged; privileged != (c.Name == "mount-bpffs") {
			t.Errorf("container %s: privileged %v", c.Name, privileged)
		}
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			t.Errorf("container %s can write to its image", c.Name)
		}
		if c.Name == "mount-bpffs" {
			continue
		}
		var want []corev1.Capability
		if c.Name == "agent" {
			want = []corev1.Capability{"NET_ADMIN", "NET_RAW", "BPF", "PERFMON"}
		}
		if !slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, want) {
			t.Errorf("container %s: capabilities %+v", c.Name, s.Capabilities)
		}
	}
	want := map[string]string{"run": "/run/homeport", "cni-bin": "/opt/cni/bin", "bpffs": "/sys/fs/bpf", "xtables-lock": "/run/xtables.lock", "log": "/var/log/homeport"}
	if d := cmp.Diff(want, hostPaths(p)); d != "" {
		t.Errorf("paths of the node (-want +got):\n%s", d)
	}
	agent := p.Containers[0]
	for _, probe := range []struct {
		*corev1.Probe
		path string
	}{{agent.StartupProbe, "/healthz"}, {agent.LivenessProbe, "/healthz"}, {agent.ReadinessProbe, "/readyz"}} {
		at := probe.HTTPGet
		if addr := "--metrics-addr=" + at.Host + ":" + at.Port.String(); at.Path != probe.path || !slices.Contains(agent.Args, addr) {
			t.Errorf("probe %s at %s, agent's flags %q", at.Path, addr, agent.Args)
		}
	}
	if p.PriorityClassName != "system-node-critical" || !p.HostNetwork || p.HostPID || !slices.Contains(p.Tolerations, corev1.Toleration{Operator: corev1.TolerationOpExists}) {
		t.Errorf("priority %s, host network %v, host PIDs %v, tolerations %v", p.PriorityClassName, p.HostNetwork, p.HostPID, p.Tolerations)
	}
}

// TestAgentsFindEachOther: each agent listens at its node's own address, of either family, for
// others; and has the key that the controller makes, as soon as there is one.
func TestAgentsFindEachOther(t *testing.T) {
	for _, all := range [][]*unstructured.Unstructured{objects(t, read(t, "deploy", "daemonset.yaml")), objects(t, build(t, "overlays", "openshift"))} {
		p := pod(t, find(t, all, "DaemonSet", "homeport-agent"))
		agent := p.Containers[0]
		i := slices.IndexFunc(agent.Env, func(e corev1.EnvVar) bool { return e.Name == "HOST_IP" })
		if i < 0 || agent.Env[i].ValueFrom.FieldRef.FieldPath != "status.hostIP" || !slices.Contains(agent.Args, "--agents-addr=[$(HOST_IP)]:9748") {
			t.Errorf("environment %+v, args %q", agent.Env, agent.Args)
		}
		i = slices.IndexFunc(p.Volumes, func(v corev1.Volume) bool { return v.Secret != nil })
		if i < 0 {
			t.Fatal("no Secret is mounted")
		}
		v := p.Volumes[i]
		if v.Secret.SecretName != controller.FabricKeySecret || v.Secret.Optional == nil || !*v.Secret.Optional || *v.Secret.DefaultMode != 0o400 {
			t.Errorf("volume %+v", v.Secret)
		}
		i = slices.IndexFunc(agent.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		// A subPath would not be followed when the Secret changes.
		if i < 0 || !agent.VolumeMounts[i].ReadOnly || agent.VolumeMounts[i].SubPath != "" ||
			!slices.Contains(agent.Args, "--fabric-key="+agent.VolumeMounts[i].MountPath+"/"+controller.FabricKeyField) {
			t.Errorf("mounts %+v, args %q", agent.VolumeMounts, agent.Args)
		}
		for _, c := range p.InitContainers {
			if slices.ContainsFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name }) {
				t.Errorf("container %s has the key", c.Name)
			}
		}
	}
	scc := find(t, objects(t, build(t, "overlays", "openshift")), "SecurityContextConstraints", "homeport-agent")
	volumes, _, _ := unstructured.NestedStringSlice(scc.Object, "volumes")
	network, _, _ := unstructured.NestedBool(scc.Object, "allowHostNetwork")
	if !slices.Contains(volumes, "secret") || !network {
		t.Errorf("SecurityContextConstraints: volumes %q, host network %v", volumes, network)
	}
}

// TestReasons: every right and path of the base has its reason beside it.
func TestReasons(t *testing.T) {
	text := string(read(t, "deploy", "base", "daemonset.yaml"))
	for _, name := range []string{"NET_ADMIN", "NET_RAW", "BPF", "PERFMON"} {
		if !regexp.MustCompile(`(?m)^ +- ` + name + ` +# \w`).MatchString(text) {
			t.Errorf("capability %s: no comment says what it is for", name)
		}
	}
	for _, name := range []string{"run", "cni-bin", "bpffs", "xtables-lock", "log"} {
		if !regexp.MustCompile(`(?m)^ +# .*\n +- name: ` + name + `\n +hostPath:`).MatchString(text) {
			t.Errorf("volume %s: no comment says what it is for", name)
		}
	}
	if !regexp.MustCompile(`(?m)^ +# .*\n +- name: fabric-key\n +secret:`).MatchString(text) {
		t.Error("volume fabric-key: no comment says what it is for")
	}
	rules := regexp.MustCompile(`(?m)^(.*)\n- apiGroups:`).FindAllStringSubmatch(string(read(t, "deploy", "base", "rbac.yaml")), -1)
	for _, m := range rules {
		if !strings.HasPrefix(m[1], "# ") && m[1] != "rules:" { // the Role says it above
			t.Errorf("rule after %q: no comment says what it is for", m[1])
		}
	}
	if len(rules) < 15 {
		t.Errorf("%d rules found", len(rules))
	}
}

// TestCommands: the programs know the commands and flags that pods start them with.
func TestCommands(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "bridge-agent")
	if out, err := exec.Command("go", "build", "-o", bin, root+"/cmd/bridge-agent").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	n := 0
	for _, file := range []string{"daemonset.yaml", "uninstall.yaml"} {
		for _, u := range objects(t, read(t, "deploy", file)) {
			if u.GetKind() != "DaemonSet" && u.GetKind() != "Deployment" {
				continue
			}
			p := pod(t, u)
			for _, c := range slices.Concat(p.InitContainers, p.Containers) {
				args := slices.Concat(c.Command, c.Args)
				if args[0] != "bridge-agent" {
					continue
				}
				n++
				out, err := exec.Command(bin, append(args[1:], "--help")...).CombinedOutput()
				if use := "bridge-agent " + args[1]; err != nil || !strings.Contains(string(out), use) {
					t.Errorf("%s, container %s: %q: %v\n%s", u.GetName(), c.Name, args, err, out)
				}
			}
		}
	}
	if n != 4 {
		t.Errorf("%d containers run bridge-agent, want 4: install, run, controller, uninstall", n)
	}
}

// TestUninstallOrder: both places that have the order have the same one. Nodes give
// up a trunk's resource while there still is the trunk: an agent takes a source that
// is emptied all at once for an accident.
func TestUninstallOrder(t *testing.T) {
	for _, path := range [][]string{{"docs", "install.md"}, {"deploy", "uninstall.yaml"}} {
		rest := string(read(t, path...))
		for _, step := range []string{
			"kubectl delete reachabilitychecks --all",
			`kubectl get vlantrunks -o name | xargs -rn1 kubectl patch --type=merge -p '{"spec":{"advertiseResource":false}}'`,
			"kubectl delete vlannetworks,vlantrunks,firewallpolicies,addresssets,servicesets --all",
			"kubectl -n homeport-system delete daemonset homeport-agent",
			"rollout status daemonset homeport-uninstall",
		} {
			_, after, ok := strings.Cut(rest, step)
			if !ok {
				t.Errorf("%v: no %q, in this order", path, step)
			}
			rest = after
		}
	}
}

// TestControllerPatience: a controller that starts slowly, or misses some probes, is
// not killed for that.
func TestControllerPatience(t *testing.T) {
	p := pod(t, find(t, objects(t, read(t, "deploy", "daemonset.yaml")), "Deployment", "homeport-controller"))
	start, live := p.Containers[0].StartupProbe, p.Containers[0].LivenessProbe
	if start == nil || start.FailureThreshold*start.PeriodSeconds < 120 {
		t.Errorf("startup probe %+v, want two minutes at least", start)
	}
	if live == nil || live.FailureThreshold < 6 {
		t.Errorf("liveness probe %+v, want six failures at least", live)
	}
}
