package bridge

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHostVethName(t *testing.T) {
	got := HostVethName("0123456789abcdef", "net1")
	if len(got) != 15 || !strings.HasPrefix(got, "veth") {
		t.Errorf("HostVethName gives %q: want veth and 11 hex digits", got)
	}
	if got != HostVethName("0123456789abcdef", "net1") {
		t.Error("the name is not stable")
	}
	if HostVethName("a", "bc") == HostVethName("ab", "c") {
		t.Error("two keys give one name")
	}
}

func TestCreateVethRefuses(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	plain := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(plain, nil, 0o600))
	good := VethSpec{HostName: "veth0", PeerName: "net1", PeerNetns: pod.path}
	for name, tt := range map[string]struct {
		change func(*VethSpec)
		err    string
	}{
		"netns gone":     {func(s *VethSpec) { s.PeerNetns = "/run/netns/none-such" }, "gone"},
		"netns a file":   {func(s *VethSpec) { s.PeerNetns = plain }, "not a network namespace"},
		"multicast MAC":  {func(s *VethSpec) { s.PeerMAC = net.HardwareAddr{1, 0, 0, 0, 0, 1} }, "unicast"},
		"zero MAC":       {func(s *VethSpec) { s.PeerMAC = make(net.HardwareAddr, 6) }, "not all zero"},
		"short MAC":      {func(s *VethSpec) { s.PeerMAC = net.HardwareAddr{2, 0} }, "6 bytes"},
		"MTU -1":         {func(s *VethSpec) { s.MTU = -1 }, "want 68-65535"},
		"MTU 65536":      {func(s *VethSpec) { s.MTU = 65536 }, "want 68-65535"},
		"MTU 67":         {func(s *VethSpec) { s.MTU = 67 }, "want 68-65535"},
		"long name":      {func(s *VethSpec) { s.HostName = "veth0123456789ab" }, "at most 15"},
		"no name":        {func(s *VethSpec) { s.PeerName = "" }, "is empty"},
		"name of a path": {func(s *VethSpec) { s.PeerName = "../x" }, "not one that Linux takes"},
		"host name used": {func(s *VethSpec) { s.HostName = "lo" }, "the node already has an interface lo"},
		"peer name used": {func(s *VethSpec) { s.PeerName = "lo" }, "the sandbox already has an interface named lo"},
	} {
		t.Run(name, func(t *testing.T) {
			spec := good
			tt.change(&spec)
			_, err := host.CreateVeth(spec)
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("error %v, want one with %q", err, tt.err)
			}
		})
	}
	for _, s := range []space{host, pod} {
		ls, err := s.links(0)
		must(t, err)
		if len(ls) != 1 {
			t.Errorf("refused pairs left %v", ls)
		}
	}
}

func TestCreateVeth(t *testing.T) {
	host, pod := newSpace(t), newSpace(t)
	mac, _ := net.ParseMAC("00:50:56:01:02:03")
	spec := VethSpec{HostName: "veth0", PeerName: "net1", PeerNetns: pod.path, PeerMAC: mac, MTU: 9000, PeerUp: true}
	v, err := host.CreateVeth(spec)
	must(t, err)
	peer, err := pod.LinkInfo(Ref{Name: "net1"})
	must(t, err)
	if peer.MAC.String() != mac.String() || peer.MTU != 9000 || !peer.Up || peer.Running || peer.Lower != v.Host.Index ||
		peer.Index != v.PeerIndex || peer.Kind != "veth" || peer.LowerNetnsID < 0 {
		t.Errorf("peer is %+v, for %+v", peer, v)
	}
	l, err := host.LinkInfo(v.Host)
	must(t, err)
	if l.Up || l.MTU != 9000 || l.MAC[0] != 0xfe || l.MAC.String() != v.HostMAC.String() || v.MTU != 9000 {
		t.Errorf("host end is %+v, for %+v", l, v)
	}
	must(t, host.SetUp(v.Host))
	for _, at := range []struct {
		s    space
		name string
	}{{host, "veth0"}, {pod, "net1"}} {
		running(t, at.s, at.name)
		as, err := at.s.addresses(0)
		must(t, err)
		for _, a := range as {
			if a.linkLocal() {
				t.Errorf("%s made itself the address %s", at.name, a)
			}
		}
	}
}

// Both ends are known by an ifindex that means another interface elsewhere, so
// what only looks like the other end must not be taken for it.
func TestFindVeth(t *testing.T) {
	host, pod, third := newSpace(t), newSpace(t), newSpace(t)
	v := pair(t, host, "veth0", pod, "net1")
	peer, end, err := host.FindVeth(pod.path, "net1")
	must(t, err)
	if end.Ref() != v.Host || peer.Index != v.PeerIndex || peer.Name != "net1" {
		t.Errorf("found %s and %s for %+v", peer.Ref(), end.Ref(), v)
	}

	// The first interface of each namespace after lo has the same index, so the
	// pair between pod and third mirrors one between host and elsewhere.
	other := newSpace(t)
	decoy := pair(t, other, "veth1", third, "net1")
	if l, err := host.LinkInfo(Ref{Index: decoy.Host.Index}); err != nil || l.Lower != decoy.PeerIndex {
		t.Fatalf("the decoy has no double: %+v, %v", l, err)
	}
	inside := pair(t, host, "veth2", host, "veth3")
	if _, end, err := host.FindVeth(host.path, "veth3"); err != nil || end.Ref() != inside.Host {
		t.Errorf("a pair inside one namespace: %+v, %v", end, err)
	}
	for name, tt := range map[string]struct{ path, ifName, want string }{
		"of other namespaces": {third.path, "net1", "its other end is not in the node's network namespace"},
		"no such interface":   {pod.path, "net7", "it cannot be read in the sandbox: net7: no such interface"},
		"no veth":             {pod.path, "lo", "it is no veth but hardware"},
		"no namespace":        {"/run/netns/none-such", "net1", "is gone or unreadable"},
	} {
		if _, _, err := host.FindVeth(tt.path, tt.ifName); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

func TestDeleteVeth(t *testing.T) {
	for name, del := range map[string]func(*Net, Ref) error{"slow": (*Net).DeleteVeth, "fast": (*Net).DeleteVethFast} {
		t.Run(name, func(t *testing.T) {
			host, pod := newSpace(t), newSpace(t)
			v := pair(t, host, "veth0", pod, "net1")
			must(t, del(host.Net, Ref{Index: v.Host.Index, Name: "vethother"})) // re-used index: not ours
			if err := del(host.Net, Ref{Name: "lo"}); !errors.Is(err, ErrRefused) {
				t.Errorf("deleting lo: %v, want a refusal", err)
			}
			if _, err := host.LinkInfo(v.Host); err != nil {
				t.Fatalf("a link of another name was deleted: %v", err)
			}
			must(t, del(host.Net, v.Host))
			if _, err := host.LinkInfo(v.Host); !errors.Is(err, ErrNotFound) {
				t.Errorf("host end after delete: %v", err)
			}
			if _, err := pod.LinkInfo(Ref{Name: "net1"}); !errors.Is(err, ErrNotFound) {
				t.Errorf("sandbox end after delete: %v", err)
			}
			must(t, del(host.Net, v.Host))
			must(t, del(host.Net, Ref{Name: "veth0"}))
			pair(t, host, "veth0", pod, "net1") // both names are free
		})
	}
}

// BenchmarkVeth prints what ADD and DEL wait for.
func BenchmarkVeth(b *testing.B) {
	host, pod := newSpace(b), newSpace(b)
	for _, bb := range []struct {
		name string
		del  func(Ref) error
	}{{"DeleteVeth", host.DeleteVeth}, {"DeleteVethFast", host.DeleteVethFast}} {
		b.Run(bb.name, func(b *testing.B) {
			var create, del time.Duration
			for b.Loop() {
				t0 := time.Now()
				v, err := host.CreateVeth(VethSpec{HostName: "veth0", PeerName: "net1", PeerNetns: pod.path, MTU: 1500, PeerUp: true})
				must(b, err)
				t1 := time.Now()
				must(b, bb.del(v.Host))
				create += t1.Sub(t0)
				del += time.Since(t1)
			}
			b.ReportMetric(float64(create.Microseconds())/float64(b.N), "create-µs")
			b.ReportMetric(float64(del.Microseconds())/float64(b.N), "delete-µs")
		})
	}
}
