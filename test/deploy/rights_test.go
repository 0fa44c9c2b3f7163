package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// TestRights plays the agent's pod on a node of its own, a VM, with just the
// capabilities that the manifests grant: it takes up its trunk, attaches a port,
// restarts, and is uninstalled.
func TestRights(t *testing.T) {
	if os.Getenv("HOMEPORT_VM") != "1" {
		t.Skip("boots a virtual machine; set HOMEPORT_VM=1")
	}
	dir := t.TempDir()
	for name, pkg := range map[string]string{"": "/cmd/bridge-agent /cmd/cni-plugin /cmd/homeportctl", "vmrun": "/test/vm/cmd/vmrun"} {
		args := []string{"build", "-o", dir + "/" + name}
		for p := range strings.FieldsSeq(pkg) {
			args = append(args, root+p)
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	p := pod(t, find(t, objects(t, read(t, "deploy", "daemonset.yaml")), "DaemonSet", "homeport-agent"))
	u := pod(t, find(t, objects(t, read(t, "deploy", "uninstall.yaml")), "DaemonSet", "homeport-uninstall"))
	args := []string{"-kernel", "6.12", "-mem", "1024", "-timeout", "5m", "-out", filepath.Join(dir, "vm")}
	for _, name := range []string{"bridge-agent", "cni-plugin", "homeportctl"} {
		args = append(args, "-file", filepath.Join(dir, name)+":/hp/"+name)
	}
	for _, name := range []string{"setpriv", "unshare"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("%v: it is in Debian's util-linux", err)
		}
		args = append(args, "-file", path+":/bin/"+name)
	}
	args = append(args, "-file", "testdata/node.sh:/hp/node.sh", "--", "/bin/sh", "/hp/node.sh",
		added(p.Containers[0]), added(u.InitContainers[0]), mountCommand(t, p))
	b, err := exec.Command(filepath.Join(dir, "vmrun"), args...).CombinedOutput()
	out := strings.ReplaceAll(string(b), "\r", "")
	t.Log(out)
	if err != nil {
		t.Fatal(err)
	}
	rest := out
	for _, want := range []string{
		"bpffs mounted: 1\n", "installed /hp/bin/homeport\n",
		"CapEff:\t000000c000003000\n", // NET_ADMIN 12, NET_RAW 13, PERFMON 38, BPF 39 (include/uapi/linux/capability.h)
		"nft: bypassed\n", "legacy: bypassed\n",
		"Active  vlan100  access 100", "again: Ports   1 Active\n", "traced: Stage    rules\n", "observed: 0\n",
		"bridge-agent: 1 ports live on this node: veth", "(pod vms/a, interface net1)", "deleted\n",
		"removed bridge br-trunk0 of trunk trunk0\n", "removed chain HOMEPORT-FORWARD of iptables-nft\n",
		"removed chain HOMEPORT-FORWARD of iptables-legacy\n", "removed programs and maps below /sys/fs/bpf/homeport\n",
		"removed /run/homeport\n", "removed /hp/bin/homeport\n", "left:  \n", "chains left: 0\n",
	} {
		_, after, ok := strings.Cut(rest, want)
		if !ok {
			t.Fatalf("no %q, in this order", want)
		}
		rest = after
	}
}

// added are a container's capabilities as setpriv takes them.
func added(c corev1.Container) string {
	var b strings.Builder
	for _, name := range c.SecurityContext.Capabilities.Add {
		b.WriteString(",+" + strings.ToLower(string(name)))
	}
	return b.String()
}

// mountCommand is what the init container mount-bpffs runs.
func mountCommand(t *testing.T, p corev1.PodSpec) string {
	t.Helper()
	i := slices.IndexFunc(p.InitContainers, func(c corev1.Container) bool { return c.Name == "mount-bpffs" })
	if i < 0 || len(p.InitContainers[i].Command) != 3 {
		t.Fatalf("init container mount-bpffs: %+v", p.InitContainers)
	}
	return p.InitContainers[i].Command[2]
}
