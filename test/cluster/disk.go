package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/homeport-cni/homeport/test/cluster/node"
	"github.com/homeport-cni/homeport/test/vm"
)

// containerd 1.6 as Debian has it.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "` + pauseImage + `"
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/opt/cni/bin"
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "/usr/sbin/runc"
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failSwapOn: false
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
volumeStatsAggPeriod: -1s
resolvConf: ""
clusterDNS: [10.96.0.10]
serializeImagePulls: false
`

// multusConfig makes Multus thin the node's plugin, with the reference bridge as the
// cluster network.
func multusConfig(i int) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0", "name": "multus-cni-network", "type": "multus",
  "kubeconfig": "%s/multus.kubeconfig", "cniDir": "/var/lib/cni/multus", "binDir": "/opt/cni/bin", "confDir": "/etc/cni/net.d",
  "delegates": [{"cniVersion": "1.0.0", "name": "pods", "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.20.%d.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}]
}
`, node.Dir, i)
}

// makeDisk makes what survives a node's reboot: an ext4 disk with its configuration
// and the images.
func (c *Cluster) makeDisk(n *Node) error {
	conf := node.Conf{
		Name: n.Name, Address: n.address() + "/24", Gateway: n.gateway(),
		API: fmt.Sprintf("%s:%d", n.gateway(), c.plane.apiPort), Service: serviceIP,
		EthMAC: n.mac(0), TrunkMAC: n.mac(1), NoBPFFS: n.Kernel.Series == "6.1", Agents: map[string]string{},
	}
	for _, o := range c.Nodes {
		if o != n {
			conf.Agents[fmt.Sprintf("%s:%d", o.address(), node.AgentPort)] = fmt.Sprintf("%s:%d", n.gateway(), o.agentPort)
		}
	}
	b, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(c.plane.path("ca.crt"))
	if err != nil {
		return err
	}
	root := filepath.Join(c.dir, n.Name+".root")
	defer os.RemoveAll(root)
	for name, text := range map[string]string{
		"node.json":                string(b),
		"ca.crt":                   string(ca),
		"containerd.toml":          containerdConfig,
		"kubelet.yaml":             kubeletConfig,
		"kubelet.kubeconfig":       kubeconfig("https://"+conf.API, node.Dir+"/ca.crt", c.plane.token["system:node:"+n.Name]),
		"multus.kubeconfig":        kubeconfig("http://"+node.APIProxy, "", ""),
		"multus.token":             c.plane.token["multus"],
		"cni/net.d/00-multus.conf": multusConfig(n.index),
	} {
		file := filepath.Join(root, "node", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	for _, name := range []string{"multus", "bridge", "loopback", "host-local", "static"} {
		if err := copyFile(filepath.Join(root, "node/cni-bin", name), filepath.Join(c.Bin, name)); err != nil {
			return err
		}
	}
	return c.asRoot(`mkdir "$1/lib" && cp -al "$2/root" "$1/lib/containerd" && mke2fs -q -t ext4 -d "$1" "$3" 3G`, root, c.store(), n.disk())
}

// store is the folder in which images are unpacked.
func (c *Cluster) store() string { return filepath.Join(c.dir, "store") }

// unpackImages has containerd unpack the images here, as a node does in half a
// minute, being emulated. $1 is the store, $2 the archive.
func (c *Cluster) unpackImages(archive string) error {
	cache, err := vm.CacheDir()
	if err != nil {
		return err
	}
	const script = `
mkdir -p "$1/root" "$1/state"
containerd --config "$1/config.toml" >"$1/log" 2>&1 &
for i in $(seq 300); do ctr -a "$1/sock" version >/dev/null 2>&1 && break; sleep 0.1; done
ctr -a "$1/sock" -n k8s.io images import "$2" || { cat "$1/log"; kill $!; exit 1; }
kill $!; wait $! || true`
	config := fmt.Sprintf(`version = 2
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "%[1]s/sock"
`, c.store())
	if err := errors.Join(os.MkdirAll(c.store(), 0o755), os.WriteFile(filepath.Join(c.store(), "config.toml"), []byte(config), 0o644)); err != nil {
		return err
	}
	return c.asRoot("PATH="+cache+"/containerd/usr/bin:$PATH"+script, c.store(), archive)
}

// asRoot runs a script as root of namespaces of its own, which any user can be.
func (c *Cluster) asRoot(script string, args ...string) error {
	cmd := exec.Command("unshare", append([]string{"--map-root-user", "--mount", "sh", "-euc", "PATH=$PATH:/usr/sbin:/sbin; " + script, "sh"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("in namespaces of its own: %w\n%s", err, out)
	}
	return nil
}

// findProgram looks in PATH and in the sbin folders, which users often lack there.
func findProgram(name string) (string, error) {
	for _, p := range []string{name, "/usr/sbin/" + name, "/sbin/" + name} {
		if found, err := exec.LookPath(p); err == nil {
			return found, nil
		}
	}
	return "", fmt.Errorf("%s is not on this machine; run hack/deps.sh", strings.TrimSpace(name))
}
