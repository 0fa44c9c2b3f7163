package vm

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// preload is loaded before the command runs, in modules.dep order. Everything
// else of available comes by the kernel's own request, or by modprobe;
// br_netfilter only by modprobe, as on a real node.
var preload = []string{
	"virtio_pci", "virtio_net", "virtio_console",
	"veth", "bridge", "8021q", "dummy", "tun", "cls_bpf", "sch_ingress",
}

// available is the part of the module tree that the node VM carries: folders,
// or single modules without .ko.
var available = []string{
	"kernel/net/802", "kernel/net/8021q", "kernel/net/bridge", "kernel/net/core", "kernel/net/llc",
	"kernel/net/netfilter", "kernel/net/ipv4/netfilter", "kernel/net/ipv6/netfilter",
	"kernel/net/packet", "kernel/net/netlink", "kernel/net/unix", "kernel/net/sched",
	"kernel/drivers/net/veth", "kernel/drivers/net/dummy", "kernel/drivers/net/tun", "kernel/drivers/net/tap",
	"kernel/drivers/net/bonding", "kernel/drivers/net/ifb", "kernel/drivers/net/macvlan", "kernel/drivers/net/vrf",
	"kernel/drivers/net/virtio_net", "kernel/drivers/char/virtio_console", "kernel/drivers/virtio",
	"kernel/fs/overlayfs",
}

// notCarried are parts of those folders that nothing here needs and that cost boot time.
var notCarried = []string{"ip_set", "ip_vs", "nf_conntrack_h323", "nf_nat_h323", "sch_cake", "sch_fq_pie"}

// programs are taken from the host as they are, with their libraries. Those
// that start other programs (env, timeout, sh...) are real ones because
// busybox's prefer its own applets, and its ip ignores what it does not know.
var programs = []struct {
	names    []string
	required bool
}{
	{[]string{"ip", "bridge", "tc", "ping", "dash"}, true},
	{[]string{"arping", "ndisc6", "rdisc6", "dnsmasq", "dhclient", "keepalived"}, true}, // busybox's arping is another
	{[]string{"ss", "bash", "env", "timeout", "xargs", "find", "nsenter", "unshare", "setsid", "tcpdump", "nft",
		"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore",
		"iptables-nft", "iptables-nft-save", "iptables-nft-restore", "ip6tables-nft", "ip6tables-nft-save", "ip6tables-nft-restore",
		"iptables-legacy", "iptables-legacy-save", "iptables-legacy-restore",
		"ip6tables-legacy", "ip6tables-legacy-save", "ip6tables-legacy-restore"}, false},
}

// nodeImage builds the initramfs content of the node VM.
func nodeImage(k Kernel, s Spec, helpers string, guests []wire.Guest) (*image, error) {
	im := newImage()
	if err := im.file("/init", filepath.Join(helpers, "init")); err != nil {
		return nil, err
	}
	if err := addPrograms(im); err != nil {
		return nil, err
	}
	if err := addBusybox(im); err != nil {
		return nil, err
	}
	addEtc(im)
	load, err := addModules(im, k, append(append([]string{}, preload...), s.Modules...), available)
	if err != nil {
		return nil, err
	}
	if len(guests) > 0 {
		if err := im.file("/bin/guestctl", filepath.Join(helpers, "guestctl")); err != nil {
			return nil, err
		}
	}
	for _, d := range s.Dirs {
		if err := im.tree(d.Guest, d.Host); err != nil {
			return nil, err
		}
	}
	for _, f := range s.Files {
		if err := im.program(f.Guest, f.Host); err != nil {
			return nil, err
		}
	}
	env := append([]string{
		"PATH=/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "TERM=dumb", "LANG=C",
		"HOMEPORT_IN_VM=" + k.Series,
	}, s.Env...)
	return im, addJob(im, wire.Job{Hostname: "node", Modules: load, Argv: s.Argv, Env: env, Guests: guests})
}

func addJob(im *image, job wire.Job) error {
	b, err := json.Marshal(job)
	if err != nil {
		return fmt.Errorf("job: %w", err)
	}
	im.bytes(wire.JobPath, 0o600, b)
	return nil
}

func addPrograms(im *image) error {
	for _, group := range programs {
		for _, name := range group.names {
			host, err := findProgram(name)
			if err != nil {
				if group.required {
					return err
				}
				continue
			}
			if err := im.program(guestFolder(host)+name, host); err != nil {
				return err
			}
		}
	}
	im.symlink("/bin/sh", "dash")
	return addXtables(im)
}

// guestFolder keeps sbin programs in sbin; whatever else goes to bin.
func guestFolder(host string) string {
	if strings.HasSuffix(filepath.Dir(host), "sbin") {
		return "/usr/sbin/"
	}
	return "/usr/bin/"
}

// addXtables adds the extensions that iptables loads at run time.
func addXtables(im *image) error {
	const dir = "/usr/lib/x86_64-linux-gnu/xtables"
	if _, err := os.Stat(dir); err != nil || !im.has("/usr/sbin/iptables") {
		return nil
	}
	return im.tree(dir, dir)
}

// fetched are the programs that hack/deps.sh puts into the cache, and where there.
var fetched = map[string]string{"keepalived": "keepalived/usr/sbin/keepalived"}

// findProgram looks in PATH and in the sbin folders, which users often lack there.
func findProgram(name string) (string, error) {
	if place, ok := fetched[name]; ok {
		cache, err := CacheDir()
		if err != nil {
			return "", err
		}
		if p, err := exec.LookPath(filepath.Join(cache, place)); err == nil {
			return p, nil
		}
		return "", fmt.Errorf("program %s is not in %s; run hack/deps.sh", name, cache)
	}
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, d := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if p, err := exec.LookPath(filepath.Join(d, name)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("program %s is not on this machine; run hack/deps.sh", name)
}

// addBusybox adds busybox and a link for each applet that has no real program.
func addBusybox(im *image) error {
	host, err := findProgram("busybox")
	if err != nil {
		return err
	}
	if libs, err := sharedLibraries(host); err != nil || len(libs) > 0 {
		return errors.Join(err, fmt.Errorf("%s is not static; run hack/deps.sh to get busybox-static", host))
	}
	if err := im.file("/bin/busybox", host); err != nil {
		return err
	}
	list, err := exec.Command(host, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", host, err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if !im.has("/bin/"+applet) && !im.has("/sbin/"+applet) {
			im.symlink("/bin/"+applet, "busybox")
		}
	}
	if !im.has("/sbin/modprobe") { // the kernel calls it by this path
		im.symlink("/sbin/modprobe", "../bin/busybox")
	}
	return nil
}

func addEtc(im *image) {
	for name, text := range map[string]string{
		"passwd":        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
		"group":         "root:x:0:\nnogroup:x:65534:\n",
		"hosts":         "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 node\n",
		"nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
		"resolv.conf":   "",
	} {
		im.bytes("/etc/"+name, 0o644, []byte(text))
	}
}

// addModules adds module files and their tables, and gives the files (paths in
// the VM) to load for the names in load, in order.
func addModules(im *image, k Kernel, load, carry []string) ([]string, error) {
	deps, err := loadModuleDeps(k.Modules)
	if err != nil {
		return nil, err
	}
	first, err := deps.order(load)
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Release, err)
	}
	var names []string
	for _, n := range deps.under(carry) {
		if !startsWithAny(n, notCarried) {
			names = append(names, n)
		}
	}
	all, err := deps.order(append(append([]string{}, load...), names...))
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Release, err)
	}
	base := "/lib/modules/" + k.Release + "/"
	for _, file := range all {
		ko, err := os.ReadFile(filepath.Join(k.Modules, file))
		if err != nil {
			return nil, fmt.Errorf("kernel module: %w; remove %s and run hack/deps.sh", err, filepath.Dir(k.Image))
		}
		im.bytes(base+file, 0o644, stripSignature(ko))
	}
	alias, err := os.ReadFile(filepath.Join(k.Modules, "modules.alias"))
	if err != nil {
		return nil, fmt.Errorf("kernel modules: %w; run hack/deps.sh", err)
	}
	dep, aliases := deps.subset(all, string(alias))
	im.bytes(base+"modules.dep", 0o644, []byte(dep))
	im.bytes(base+"modules.alias", 0o644, []byte(aliases))
	im.bytes(base+"modules.symbols", 0o644, nil)
	for i := range first {
		first[i] = base + first[i]
	}
	return first, nil
}

func startsWithAny(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}
