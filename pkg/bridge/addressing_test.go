package bridge

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// hasIPv6 skips where the kernel has none.
func hasIPv6(tb testing.TB) {
	tb.Helper()
	if _, err := os.Stat("/proc/sys/net/ipv6"); err != nil {
		tb.Skip("kernel has no IPv6")
	}
}

func TestConfigure(t *testing.T) {
	hasIPv6(t)
	host, pod := newSpace(t), newSpace(t)
	v := pair(t, host, "veth0", pod, "net1")
	must(t, host.SetUp(v.Host))
	must(t, inNetns(pod.ns, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/net1/disable_ipv6", []byte("1"), 0) }))
	a := Addressing{Addrs: prefixes("10.1.2.3/24", "10.1.4.5/31", "fd00::3/64"), Routes: []Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1"), Priority: 50},
		{Dst: netip.MustParsePrefix("10.9.0.1/16"), Table: 300, MTU: 1300, AdvMSS: 1260, Scope: unix.RT_SCOPE_LINK},
		{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00::1")},
	}}
	must(t, host.Configure(pod.path, "net1", a))
	k := handle(t, pod)
	link, err := k.LinkByName("net1")
	must(t, err)
	as, err := k.AddrList(link, netlink.FAMILY_ALL)
	must(t, err)
	var got []string
	for _, a := range as {
		if a.IP.IsLinkLocalUnicast() {
			continue // the kernel's own, which comes when it comes
		}
		got = append(got, fmt.Sprintf("%s brd %s", a.IPNet, a.Broadcast))
		if a.Flags&unix.IFA_F_TENTATIVE != 0 {
			t.Errorf("%s waits for duplicates", a.IPNet)
		}
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{"10.1.2.3/24 brd 10.1.2.255", "10.1.4.5/31 brd <nil>", "fd00::3/64 brd <nil>"}, got); d != "" {
		t.Errorf("addresses (-want +got):\n%s", d)
	}
	rs, err := k.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	must(t, err)
	got = nil
	for _, r := range rs {
		if r.Gw != nil || r.Table == 300 {
			got = append(got, fmt.Sprintf("%s via %s metric %d table %d mtu %d advmss %d scope %s", r.Dst, r.Gw, r.Priority, r.Table, r.MTU, r.AdvMSS, r.Scope))
		}
	}
	slices.Sort(got)
	if d := cmp.Diff([]string{
		"0.0.0.0/0 via 10.1.2.1 metric 50 table 254 mtu 0 advmss 0 scope universe",
		"10.9.0.0/16 via <nil> metric 0 table 300 mtu 1300 advmss 1260 scope link",
		"::/0 via fd00::1 metric 1024 table 254 mtu 0 advmss 0 scope universe"}, got); d != "" {
		t.Errorf("routes (-want +got):\n%s", d)
	}
}

func TestConfigureRefuses(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	pair(t, host, "veth0", pod, "net1")
	route := func(dst, via string) []Route {
		return []Route{{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)}}
	}
	for name, tt := range map[string]struct {
		ifName string
		a      Addressing
		want   string
	}{
		"no interface":        {"net7", Addressing{}, "the sandbox's net7: no such interface"},
		"address twice":       {"net1", Addressing{Addrs: prefixes("10.1.2.3/24", "10.1.2.3/24")}, "give net1 the address 10.1.2.3/24: file exists"},
		"other version":       {"net1", Addressing{Routes: route("10.0.0.0/8", "fd00::1")}, "its next hop fd00::1 is of the other IP version"},
		"hop is out of reach": {"net1", Addressing{Routes: route("10.0.0.0/8", "192.0.2.1")}, "make the route to 10.0.0.0/8 by net1: "},
	} {
		if err := host.Configure(pod.path, tt.ifName, tt.a); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}
