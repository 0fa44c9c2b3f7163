package hostfw

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/hostfw/hostfwtest"
	"github.com/homeport-cni/homeport/pkg/report"
)

const sysctls = "proc/sys/net/bridge/bridge-nf-"

// files is a root made of file contents by path.
func files(content map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	for name, text := range content {
		root[name] = &fstest.MapFile{Data: []byte(text), Mode: 0o644}
	}
	return root
}

// healthy are the files of a node on which all is well; over changes some, and
// "" takes one away.
func healthy(over map[string]string) map[string]string {
	all := map[string]string{
		"proc/sys/kernel/osrelease": "6.12.41+deb13-amd64\n",
		"proc/self/mountinfo":       "30 24 0:27 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700\n",
		"proc/1/comm":               "systemd\n",
		"proc/2/comm":               "kthreadd\n",
		"sys/class/net/br-phys/bridge/vlan_filtering":     "1\n",
		"sys/class/net/br-phys/bridge/nf_call_iptables":   "0\n",
		"sys/class/net/br-phys/bridge/multicast_snooping": "0\n",
	}
	for name, text := range over {
		all[name] = text
		if text == "" {
			delete(all, name)
		}
	}
	return all
}

func loaded(over map[string]string) map[string]string {
	all := healthy(map[string]string{
		sysctls + "call-iptables": "0\n", sysctls + "call-ip6tables": "0\n", sysctls + "call-arptables": "0\n",
		sysctls + "filter-vlan-tagged": "0\n",
	})
	for name, text := range over {
		all[name] = text
	}
	return all
}

// newHost has these files and, in both families, iptables-nft with these lines in
// FORWARD, or whatever it says then.
func newHost(tb testing.TB, content map[string]string, c chains) Host {
	tool := hostfwtest.Forwarding(c.lines...)
	tool.Err = c.err
	return Host{Root: files(content), BPFFS: DefaultBPFFS, NFT: emptyNFT, Tool: tools{"iptables-nft": tool, "ip6tables-nft": tool}.open}
}

// chains are lines of FORWARD, or the error in their place.
type chains struct {
	lines []string
	err   error
}

func find(tb testing.TB, checks []report.Check, name string) report.Check {
	tb.Helper()
	for _, c := range checks {
		if strings.Contains(c.Name, name) {
			return c
		}
	}
	tb.Fatalf("no check is named like %q", name)
	return report.Check{}
}

// The names by which the tests find the checks.
const (
	kernel, bpffs         = "kernel", "BPF"
	netfilter, forward    = "stay out", "FORWARD"
	querier, nm, networkd = "querier", "NetworkManager", "networkd"
)

func TestAllIsWell(t *testing.T) {
	h := newHost(t, healthy(nil), chains{err: errors.New("iptables was run though no frame reaches it")})
	for _, bridges := range [][]string{nil, {"br-phys"}, {"not-yet"}} {
		for _, c := range h.Checks(bridges) {
			if c.Answer != report.Yes || c.Detail == "" {
				t.Errorf("%v: %+v", bridges, c)
			}
		}
	}
}

func TestChecks(t *testing.T) {
	on := map[string]string{sysctls + "call-iptables": "1\n"}
	drop := chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -j DOCKER-USER"}}
	for name, tt := range map[string]struct {
		files  map[string]string
		chains chains
		check  string
		want   report.Answer
		detail string
		remedy string
	}{
		"kernel too old":        {healthy(map[string]string{"proc/sys/kernel/osrelease": "5.4.0-1"}), chains{}, kernel, report.No, "5.4.0", "newer kernel"},
		"kernel minor too old":  {healthy(map[string]string{"proc/sys/kernel/osrelease": "5.13.19"}), chains{}, kernel, report.No, "5.13", ""},
		"kernel just right":     {healthy(map[string]string{"proc/sys/kernel/osrelease": "5.14.0-284"}), chains{}, kernel, report.Yes, "5.14", ""},
		"kernel unreadable":     {healthy(map[string]string{"proc/sys/kernel/osrelease": ""}), chains{}, kernel, report.Unknown, "not exist", ""},
		"kernel not understood": {healthy(map[string]string{"proc/sys/kernel/osrelease": "Hurd"}), chains{}, kernel, report.Unknown, "Hurd", ""},

		"bpffs not mounted":   {healthy(map[string]string{"proc/self/mountinfo": "30 24 0:27 / /sys rw - sysfs sysfs rw\n"}), chains{}, bpffs, report.No, "nothing is mounted", "mount -t bpf"},
		"bpffs mounted over":  {healthy(map[string]string{"proc/self/mountinfo": "1 2 0:3 / /sys/fs/bpf rw - bpf bpf rw\n4 1 0:5 / /sys/fs/bpf rw - tmpfs tmpfs rw\n"}), chains{}, bpffs, report.No, "tmpfs", ""},
		"mountinfo is broken": {healthy(map[string]string{"proc/self/mountinfo": "1 2\n"}), chains{}, bpffs, report.No, "", ""},
		"no mountinfo":        {healthy(map[string]string{"proc/self/mountinfo": ""}), chains{}, bpffs, report.Unknown, "not exist", ""},

		"switches off":         {loaded(nil), chains{}, netfilter, report.Yes, "switches are off", ""},
		"global on":            {loaded(on), drop, netfilter, report.No, "bridge-nf-call-iptables=1", "kubelet"},
		"untagged only":        {loaded(on), drop, netfilter, report.No, "frames without a VLAN tag", "--physdev-is-bridged"},
		"tagged too":           {loaded(map[string]string{sysctls + "call-iptables": "1", sysctls + "filter-vlan-tagged": "1"}), drop, netfilter, report.No, "tagged frames too", ""},
		"one bridge on":        {loaded(map[string]string{"sys/class/net/br-phys/bridge/nf_call_ip6tables": "1"}), drop, netfilter, report.No, "nf_call_ip6tables 1 of bridge br-phys", "ip link set br-phys type bridge nf_call_ip6tables 0"},
		"not what a switch is": {loaded(map[string]string{sysctls + "call-arptables": "maybe"}), chains{}, netfilter, report.Unknown, `"maybe", want 0 or 1`, "as root"},
		"sysctls hidden":       {healthy(map[string]string{"sys/module/br_netfilter/refcnt": "0"}), chains{}, netfilter, report.Unknown, "cannot be seen", ""},
		"hidden, so FORWARD":   {healthy(map[string]string{"sys/module/br_netfilter/refcnt": "0"}), chains{}, forward, report.Unknown, "not known", ""},

		"FORWARD not reached": {loaded(nil), drop, forward, report.Yes, "do not reach", ""},
		"only ARP reaches it": {loaded(map[string]string{sysctls + "call-arptables": "1"}), drop, forward, report.Yes, "do not reach", ""},
		"FORWARD drops":       {loaded(on), drop, forward, report.No, "iptables-nft: policy of FORWARD is DROP", "iptables-nft -I FORWARD -i br-phys -m physdev --physdev-is-bridged -j ACCEPT"},
		"FORWARD accepts":     {loaded(on), chains{lines: []string{"-P FORWARD ACCEPT"}}, forward, report.Yes, "iptables-nft: ACCEPT", ""},
		"FORWARD has rules":   {loaded(on), chains{lines: []string{"-P FORWARD ACCEPT", "-A FORWARD -j DROP"}}, forward, report.Yes, "(1) come first", ""},
		"bridge accepted":     {loaded(on), chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -i br-phys -m physdev --physdev-is-bridged -j ACCEPT"}}, forward, report.Yes, "a rule accepts", ""},
		"all accepted":        {loaded(on), chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -m physdev --physdev-is-bridged -j ACCEPT"}}, forward, report.Yes, "a rule accepts", ""},
		"other accepted":      {loaded(on), chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -i br0 -m physdev --physdev-is-bridged -j ACCEPT"}}, forward, report.No, "DROP", ""},
		"some accepted":       {loaded(on), chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -i br-phys -p tcp -m physdev --physdev-is-bridged -j ACCEPT"}}, forward, report.No, "DROP", ""},
		"iptables fails":      {loaded(on), chains{err: errors.New("exit status 4")}, forward, report.Unknown, "list the rules of iptables-nft: exit status 4", "nft list ruleset"},
		"ours accepts":        {loaded(on), chains{lines: []string{"-P FORWARD DROP", "-A FORWARD -j HOMEPORT-FORWARD"}}, forward, report.Unknown, "list HOMEPORT-FORWARD of iptables-nft", ""},
		"no policy line":      {loaded(on), chains{}, forward, report.Unknown, "no policy line", ""},

		"snooping":          {healthy(map[string]string{"sys/class/net/br-phys/bridge/multicast_snooping": "1"}), chains{}, querier, report.Unknown, "four minutes", "mcast_snooping 0"},
		"snooping, querier": {healthy(map[string]string{"sys/class/net/br-phys/bridge/multicast_snooping": "1", "sys/class/net/br-phys/bridge/multicast_querier": "1"}), chains{}, querier, report.Yes, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := find(t, newHost(t, tt.files, tt.chains).Checks([]string{"br-phys"}), tt.check)
			if c.Answer != tt.want || !strings.Contains(c.Detail, tt.detail) || !strings.Contains(c.Remedy, tt.remedy) {
				t.Errorf("%+v\nwant %s, detail with %q, remedy with %q", c, tt.want, tt.detail, tt.remedy)
			}
		})
	}
}

func TestNetfilterWays(t *testing.T) {
	h := newHost(t, loaded(map[string]string{
		sysctls + "call-iptables":                        "1",
		"sys/class/net/br-phys/bridge/nf_call_iptables":  "1",
		"sys/class/net/br-phys/bridge/nf_call_arptables": "1",
	}), chains{})
	got, err := h.Netfilter([]string{"br-phys", "not-yet"})
	if err != nil {
		t.Fatal(err)
	}
	want := Netfilter{Loaded: true, Ways: []Way{{IPv4, ""}, {IPv4, "br-phys"}, {ARP, "br-phys"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	if !got.Reaches(IPv4) || got.Reaches(IPv6) || !got.Reaches(ARP) {
		t.Errorf("Reaches: %v %v %v", got.Reaches(IPv4), got.Reaches(IPv6), got.Reaches(ARP))
	}
}

func TestNoIptablesIsUnknown(t *testing.T) {
	h := newHost(t, loaded(map[string]string{sysctls + "call-iptables": "1"}), chains{})
	h.Tool = tools{}.open
	c := find(t, h.Checks(nil), forward)
	if c.Answer != report.Unknown || !strings.Contains(c.Detail, "find iptables-nft: executable file not found") || !strings.Contains(c.Remedy, "install iptables") {
		t.Errorf("%+v", c)
	}
}

// One family that drops is not made Unknown by another that cannot be read.
func TestDropBeatsUnknown(t *testing.T) {
	for _, broken := range []Family{IPv4, IPv6} {
		h := newHost(t, loaded(map[string]string{sysctls + "call-iptables": "1", sysctls + "call-ip6tables": "1"}), chains{lines: []string{"-P FORWARD DROP"}})
		all := h.Tool
		h.Tool = func(f Family, v Variant) (Tool, error) {
			if f == broken {
				return nil, exec.ErrNotFound
			}
			return all(f, v)
		}
		if c := find(t, h.Checks(nil), forward); c.Answer != report.No || strings.Contains(c.Remedy, "apt-get") {
			t.Errorf("%s broken: %+v", broken, c)
		}
	}
}

// FORWARD is judged in each variant that the host's rules are in, with what our own
// chain accepts.
func TestForwardByVariant(t *testing.T) {
	root := loaded(map[string]string{sysctls + "call-iptables": "1", "proc/thread-self/net/ip_tables_names": "filter\n"})
	ours := hostfwtest.Forwarding("-P FORWARD DROP", "-A FORWARD -j HOMEPORT-FORWARD")
	ours.Chains["filter/HOMEPORT-FORWARD"] = []string{"-i br-phys -m physdev --physdev-is-bridged -j ACCEPT"}
	h := newHost(t, root, chains{})
	h.Tool = tools{"iptables-nft": ours, "iptables-legacy": hostfwtest.Forwarding("-P FORWARD DROP")}.open
	c := find(t, h.Checks([]string{"br-phys"}), forward)
	if want := "iptables-nft: DROP, and a rule accepts bridged frames; iptables-legacy: policy of FORWARD is DROP"; c.Answer != report.No || c.Detail != want {
		t.Errorf("%+v\nwant %s", c, want)
	}
}

func TestManagers(t *testing.T) {
	runNM := map[string]string{"proc/700/comm": "NetworkManager\n"}
	runNetworkd := map[string]string{"proc/701/comm": "systemd-network\n"}
	with := func(base map[string]string, more ...string) map[string]string {
		out := healthy(base)
		for i := 0; i+1 < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	const net = "/systemd/network/"
	for name, tt := range map[string]struct {
		files  map[string]string
		check  string
		want   report.Answer
		detail string
	}{
		"NM with its rule":       {with(runNM, "usr/lib/udev/rules.d/85-nm-unmanaged.rules", `ENV{ID_NET_DRIVER}=="veth", ENV{NM_UNMANAGED}="1"`), nm, report.Yes, "by /usr/lib/udev"},
		"NM, rule hidden by etc": {with(runNM, "usr/lib/udev/rules.d/85-nm-unmanaged.rules", "veth", "etc/udev/rules.d/85-nm-unmanaged.rules", "# nothing"), nm, report.Unknown, ""},
		"NM told by conf.d":      {with(runNM, "etc/NetworkManager/conf.d/9.conf", "[keyfile]\nunmanaged-devices+=mac:00:11:22:33:44:55;interface-name:veth*\n"), nm, report.Yes, "by /etc/NetworkManager/conf.d/9.conf"},
		"NM without both":        {with(runNM), nm, report.Unknown, "neither"},
		"NM has taken one":       {with(runNM, "sys/class/net/veth7/ifindex", "42", "run/NetworkManager/devices/42", "[device]\nmanaged=true\n", "usr/lib/udev/rules.d/85-nm-unmanaged.rules", "veth"), nm, report.No, "veth7"},
		"NM left one":            {with(runNM, "sys/class/net/veth7/ifindex", "42", "run/NetworkManager/devices/42", "[device]\nmanaged=false\n", "usr/lib/udev/rules.d/85-nm-unmanaged.rules", "veth"), nm, report.Yes, ""},
		"NM's trace, stopped":    {with(nil, "run/NetworkManager/devices/1", ""), nm, report.Yes, "not running"},
		"NM's trace, in a pod":   {with(map[string]string{"proc/2/comm": ""}, "run/NetworkManager/devices/1", ""), nm, report.Unknown, "it runs"},

		"networkd without files":   {with(runNetworkd), networkd, report.Yes, "no .network file"},
		"networkd, others":         {with(runNetworkd, "usr/lib"+net+"80-container-ve.network", "[Match]\nKind=veth\nName=ve-*\n[Network]\n"), networkd, report.Yes, "no .network file"},
		"networkd takes all":       {with(runNetworkd, "etc"+net+"50-all.network", "[Match]\nName=*\n[Network]\nDHCP=yes\n"), networkd, report.No, "/etc/systemd/network/50-all.network"},
		"networkd takes ether":     {with(runNetworkd, "run"+net+"50.network", "[Match]\nType=ether\n"), networkd, report.No, "/run/systemd/network/50.network"},
		"networkd, excluded":       {with(runNetworkd, "etc"+net+"50.network", "[Match]\nName=!veth* docker*\n"), networkd, report.Yes, "no .network"},
		"networkd, maybe":          {with(runNetworkd, "etc"+net+"50.network", "[Match]\nMACAddress=02:00:00:00:00:01\n"), networkd, report.Unknown, "may match"},
		"networkd, maybe not":      {with(runNetworkd, "etc"+net+"50.network", "[Match]\nHost=a\nName=eth*\n"), networkd, report.Yes, ""},
		"networkd, empty match":    {with(runNetworkd, "etc"+net+"50.network", "[Network]\nDHCP=yes\n"), networkd, report.No, ""},
		"networkd told first":      {with(runNetworkd, "etc"+net+"00.network", "[Match]\nName=veth*\n[Link]\nUnmanaged=yes\n", "etc"+net+"50.network", "[Match]\nName=*\n"), networkd, report.Yes, "by /etc/systemd/network/00.network"},
		"networkd told too late":   {with(runNetworkd, "etc"+net+"99.network", "[Match]\nName=veth*\n[Link]\nUnmanaged=yes\n", "usr/lib"+net+"50.network", "[Match]\nName=*\n"), networkd, report.No, "50.network"},
		"networkd, hidden by etc":  {with(runNetworkd, "etc"+net+"50.network", "[Match]\nName=eth0\n", "usr/lib"+net+"50.network", "[Match]\nName=*\n"), networkd, report.Yes, ""},
		"networkd, only commented": {with(runNetworkd, "etc"+net+"50.network", "[Match]\n#Name=eth0\n;x\nName=veth?a*\n"), networkd, report.No, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c := find(t, newHost(t, tt.files, chains{}).Checks(nil), tt.check)
			if c.Answer != tt.want || !strings.Contains(c.Detail, tt.detail) {
				t.Errorf("%+v\nwant %s, detail with %q", c, tt.want, tt.detail)
			}
			if (c.Answer == report.Yes) != (c.Remedy == "") {
				t.Errorf("answer %s with remedy %q", c.Answer, c.Remedy)
			}
		})
	}
}

// The checks give an answer on whatever host the tests run on.
func TestThisHost(t *testing.T) {
	for _, c := range HostChecks(nil) {
		if c.Answer == "" || c.Answer != report.Yes && c.Detail == "" {
			t.Errorf("%+v", c)
		}
		t.Logf("%s: %s: %s", c.Name, c.Answer, c.Detail)
	}
}

// The real opener names the command that is missing.
func TestIptablesMissing(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, f := range []Family{IPv4, IPv6} {
		for _, v := range variants() {
			_, err := openTool(f, v)
			if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(err.Error(), "find "+f.name(v)) {
				t.Errorf("%s %s: %v", f, v, err)
			}
		}
	}
}
