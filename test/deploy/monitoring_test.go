package deploy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// podMonitor is what we use of a PodMonitor, and nothing else.
type podMonitor struct {
	APIVersion, Kind string
	Metadata         map[string]any
	Spec             struct {
		Selector            struct{ MatchLabels map[string]string }
		PodMetricsEndpoints []struct {
			Port, Interval string
			HonorLabels    bool
			Relabelings    []struct {
				Action, Regex, TargetLabel, Replacement string
				SourceLabels                            []string
			}
		}
	}
}

// withMonitoring is Homeport, as a base or overlay has it, with deploy/monitoring as a component.
func withMonitoring(t *testing.T, elem ...string) []*unstructured.Unstructured {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	rel := func(path string) string {
		path, err := filepath.EvalSymlinks(path)
		if err == nil {
			path, err = filepath.Rel(dir, path)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	text := "resources: [" + rel(deployPath(t, elem...)) + "]\ncomponents: [" + rel(deployPath(t, "monitoring")) + "]\n"
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return objects(t, tool(t, "sigs.k8s.io/kustomize/kustomize/v5", "build", dir))
}

// TestMonitoring: with the component, agents listen where their PodMonitor looks for them, and still where
// probes are; each PodMonitor selects the pods that it is named after.
func TestMonitoring(t *testing.T) {
	for _, elem := range [][]string{{"base"}, {"overlays", "openshift"}, {"overlays", "talos"}} {
		all := withMonitoring(t, elem...)
		checkMonitor(t, all, "DaemonSet", "homeport-agent", 9747)
		checkMonitor(t, all, "Deployment", "homeport-controller", 8080)
		agent := pod(t, find(t, all, "DaemonSet", "homeport-agent")).Containers[0]
		if at := agent.LivenessProbe.HTTPGet; at.Host != "127.0.0.1" || at.Port.String() != "9747" {
			t.Errorf("probes ask %s:%s", at.Host, at.Port.String())
		}
		data, _, _ := unstructured.NestedStringMap(find(t, all, "ConfigMap", "homeport-grafana-dashboard").Object, "data")
		if len(data["grafana-dashboard.json"]) < 1000 {
			t.Error("the ConfigMap has no dashboard")
		}
		find(t, all, "PrometheusRule", "homeport")
	}
}

// checkMonitor holds the PodMonitor of a workload against its pods.
func checkMonitor(t *testing.T, all []*unstructured.Unstructured, kind, name string, port int32) {
	t.Helper()
	text, err := yaml.Marshal(find(t, all, "PodMonitor", name).Object)
	var m podMonitor
	if err == nil {
		err = yaml.UnmarshalStrict(text, &m)
	}
	if err != nil || len(m.Spec.PodMetricsEndpoints) != 1 || m.APIVersion != "monitoring.coreos.com/v1" {
		t.Fatalf("%s: %v, %+v", name, err, m)
	}
	e := m.Spec.PodMetricsEndpoints[0]
	u := find(t, all, kind, name)
	c := pod(t, u).Containers[0]
	if !slices.ContainsFunc(c.Ports, func(p corev1.ContainerPort) bool { return p.Name == e.Port && p.ContainerPort == port }) {
		t.Errorf("%s: no port %s %d in %+v", name, e.Port, port, c.Ports)
	}
	if at := fmt.Sprintf("--metrics-addr=:%d", port); !slices.Contains(c.Args, at) {
		t.Errorf("%s: args %q, want %s", name, c.Args, at)
	}
	labels := podLabels(t, u)
	for k, v := range m.Spec.Selector.MatchLabels {
		if labels[k] != v {
			t.Errorf("%s: selects %s=%s, the pods have %q", name, k, v, labels[k])
		}
	}
	if len(m.Spec.Selector.MatchLabels) != 2 {
		t.Errorf("%s: selects by %v", name, m.Spec.Selector.MatchLabels)
	}
	set := map[string]string{}
	for _, r := range e.Relabelings {
		set[r.TargetLabel] = r.Replacement + strings.Join(r.SourceLabels, ",")
	}
	if set["job"] != name || kind == "DaemonSet" && (set["node"] != "__meta_kubernetes_pod_node_name" || !e.HonorLabels) {
		t.Errorf("%s: labels %v, honorLabels %v", name, set, e.HonorLabels)
	}
}

func podLabels(t *testing.T, u *unstructured.Unstructured) map[string]string {
	t.Helper()
	var ds appsv1.DaemonSet // of a Deployment it has what is wanted here
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &ds); err != nil {
		t.Fatal(err)
	}
	return ds.Spec.Template.Labels
}
