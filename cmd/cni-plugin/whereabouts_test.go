package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/test/apiserver"
)

// TestWhereabouts: the real plugin with a real API server. Containers of several nodes have
// addresses of one range, each its own, and what one has had another gets.
func TestWhereabouts(t *testing.T) {
	s := apiserver.Start(t)
	const module = "github.com/k8snetworkplumbingwg/whereabouts"
	cmd := exec.Command("go", "mod", "download", "-C", "../../test/cluster/tools", "-json", module)
	out, err := cmd.Output()
	var at struct{ Dir string }
	if err == nil {
		err = json.Unmarshal(out, &at)
	}
	if err != nil || at.Dir == "" {
		t.Fatalf("%v: %v, %s", cmd, err, out)
	}
	crds := filepath.Join(at.Dir, "doc/crds/whereabouts.cni.cncf.io_")
	s.Install(crds+"ippools.yaml", crds+"overlappingrangeipreservations.yaml")
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	c := s.Config()
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"lab": {Server: c.Host, CertificateAuthorityData: c.CAData}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"lab": {ClientCertificateData: c.CertData, ClientKeyData: c.KeyData}},
		Contexts:       map[string]*clientcmdapi.Context{"lab": {Cluster: "lab", AuthInfo: "lab"}},
		CurrentContext: "lab",
	}, kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "whereabouts.conf") // as its DaemonSet puts on each node
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"datastore":"kubernetes","kubernetes":{"kubeconfig":%q}}`, kubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := config("1.0.0", fmt.Sprintf(`"network":"n","ipam":{"type":"whereabouts","range":"10.100.0.64/29","gateway":"10.100.0.1","configuration_path":%q}`, file))
	nodes := map[string]*ipamBench{"n1": newIPAMBench(t), "n2": newIPAMBench(t), "n3": newIPAMBench(t)}
	do := func(node, pod, verb string) string {
		t.Helper()
		b := nodes[node]
		b.p.ipamTimeout = time.Minute
		b.env["CNI_PATH"], b.env["CNI_CONTAINERID"] = s.Programs(), pod
		b.env["CNI_ARGS"] = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=" + pod
		t.Setenv("NODENAME", node)
		out, e := b.run(t, verb, conf)
		if e != nil {
			t.Fatalf("%s of %s on %s: %+v", verb, pod, node, e)
		}
		var r struct {
			IPs []struct{ Address, Gateway string }
		}
		if verb != "ADD" {
			return ""
		}
		if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.IPs) != 1 || r.IPs[0].Gateway != "10.100.0.1" {
			t.Fatalf("result of %s: %s, %v", pod, out, err)
		}
		var said wire.DeclareRequest
		b.agent.body(t, wire.Declare, &said)
		if len(said.Addresses) != 1 || said.Addresses[0].String()+"/29" != r.IPs[0].Address {
			t.Errorf("declared for %s: %v, not %v", pod, said.Addresses, r.IPs)
		}
		return r.IPs[0].Address
	}
	holders := func() (all []string) {
		t.Helper()
		client, err := dynamic.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		list, err := client.Resource(schema.GroupVersionResource{Group: "whereabouts.cni.cncf.io", Version: "v1alpha1", Resource: "overlappingrangeipreservations"}).
			List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list.Items {
			spec, _ := o.Object["spec"].(map[string]any)
			all = append(all, fmt.Sprintf("%s %v", o.GetName(), spec["podref"]))
		}
		slices.Sort(all)
		return all
	}
	if got := do("n1", "a", "ADD"); got != "10.100.0.65/29" {
		t.Errorf("a has %s", got)
	}
	if got := do("n2", "b", "ADD"); got != "10.100.0.66/29" {
		t.Errorf("b has %s", got)
	}
	if got := holders(); !slices.Equal(got, []string{"10.100.0.65 default/a", "10.100.0.66 default/b"}) {
		t.Errorf("reserved: %q", got)
	}
	do("n1", "a", "DEL")
	if got := do("n3", "c", "ADD"); got != "10.100.0.65/29" {
		t.Errorf("c has %s", got)
	}
	if got := nodes["n1"].trail(); got != "Prepare Attach Declare configure Detach" {
		t.Errorf("order: %s", got)
	}
	do("n2", "b", "DEL")
	do("n3", "c", "DEL")
	if got := holders(); len(got) > 0 {
		t.Errorf("reserved in the end: %q", got)
	}
}
