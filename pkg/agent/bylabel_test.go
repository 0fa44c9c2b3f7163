package agent

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
)

// sends has the VM behind a port send a datagram, and says by which reason the port
// judged it.
func (l live) sends(rec *attach.Record) string {
	l.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 0, 0, 1}, DstIP: net.IP{10, 0, 0, 2}}
	udp := &layers.UDP{SrcPort: 999, DstPort: layers.UDPPort(1000 + time.Now().UnixNano()%60000)} // a new flow
	l.must(udp.SetNetworkLayerForChecksum(ip))
	return l.judges(rec, &layers.Ethernet{SrcMAC: net.HardwareAddr(rec.MAC), DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 99}, EthernetType: layers.EthernetTypeIPv4}, ip, udp)
}

// judges has the VM send a frame, and says by which reason the port judged it.
func (l live) judges(rec *attach.Record, parts ...gopacket.SerializableLayer) string {
	l.Helper()
	peer, err := netlink.LinkByName(rec.HostIfName + "p")
	l.must(err)
	l.must(netlink.LinkSetUp(peer))
	before := l.outReasons(rec)
	frame := gopacket.NewSerializeBuffer()
	l.must(gopacket.SerializeLayers(frame, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, parts...))
	s, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	l.must(err)
	defer unix.Close(s)
	l.must(unix.Sendto(s, frame.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index}))
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for reason, n := range l.outReasons(rec) {
			if n > before[reason] && reason != "ND" && reason != "LauncherNoise" && reason != "MACSpoof" {
				return reason
			}
		}
	}
	l.Fatalf("the port has not judged it: %v", l.outReasons(rec))
	return ""
}

func (l live) outReasons(rec *attach.Record) map[string]uint64 {
	l.Helper()
	counts, err := l.kernel.ReasonCounts(rec.HostIfIndex)
	l.must(err)
	out := map[string]uint64{}
	for _, c := range counts {
		if c.dir == policy.Out {
			out[c.reason.String()] += c.packets
		}
	}
	return out
}

// follow takes a snapshot and brings the ports to it, as the loop does; trunks are left as they are.
func (l live) follow(s *desired.Snapshot) {
	l.Helper()
	l.take(s)
	l.syncPolicy()
	l.mu.RLock()
	now := l.world.snap
	l.mu.RUnlock()
	l.followPolicies(now)
	l.noteFollowed(now)
}

func selectVMs(t *testing.T, text string) []desired.Selector {
	t.Helper()
	var s desired.Selector
	if err := s.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return []desired.Selector{s}
}

// TestPolicyByLabel: a policy that drops what sick VMs send is in force at a port
// from its first packet on, until its VM is known to be well; then it follows labels
// at once, over restarts and while the pod cannot be asked about any more.
func TestPolicyByLabel(t *testing.T) {
	l := newLive(t)
	const dropped, passed = "RuleDrop", "DefaultAllow"
	snap := func(pods map[string]desired.Pod, rules int) *desired.Snapshot {
		s, _ := snapshot(t)
		s.Pods = pods
		s.Policies = []desired.Policy{{Name: "sick", Rank: 1, VMs: selectVMs(t, "state=sick"), Rules: []policy.Rule{
			{Key: policy.RuleKey{Policy: "sick", ID: 1}, Action: policy.Drop, Directions: policy.InOut}}}}
		many := desired.Policy{Name: "many", Rank: 1, VMs: selectVMs(t, "state=many")}
		for i := range rules {
			many.Rules = append(many.Rules, policy.Rule{Key: policy.RuleKey{Policy: "many", ID: uint32(i + 1)}, Action: policy.Allow, Directions: policy.InOut})
		}
		s.Policies = append(s.Policies, many)
		return s
	}
	known := func(state string) map[string]desired.Pod {
		return map[string]desired.Pod{"x/vm": {UID: "u", Owner: desired.OwnerVM, VM: map[string]string{"state": state}}}
	}
	expect := func(what string, rec *attach.Record, want string) {
		t.Helper()
		if got := l.sends(rec); got != want {
			t.Errorf("%s: judged as %s, want %s", what, got, want)
		}
	}

	l.follow(snap(nil, 1))
	rec := l.veth("veth1", 1)
	rec.Pod = attach.Pod{Namespace: "x", Name: "vm", UID: "u"}
	var ok bool
	if rec.Rules, ok = l.world.rulesAtFirst("web", rec.Pod); !ok || rec.Rules == "" {
		t.Fatalf("a port of an unknown pod begins with %q, %v", rec.Rules, ok)
	}
	l.openAs(rec)
	expect("whose port it is, is not known", rec, dropped)
	l.follow(snap(known("well"), 1))
	expect("a VM that is well", rec, passed)
	l.follow(snap(known("sick"), 1))
	expect("relabelled", rec, dropped)

	l = l.restart()
	l.must(l.adoptRecords())
	expect("after a restart", rec, dropped)
	l.world.stale = true
	l.follow(l.world.snap)
	expect("compiled again after a restart", rec, dropped)
	l.follow(snap(known("well"), 1))
	expect("well again", rec, passed)
	l.follow(snap(nil, 1))
	expect("the API has the pod no more", rec, passed)
	if stored, err := l.store.Get(rec.Key); err != nil || stored.Rules != "" {
		t.Errorf("stored %+v, %v", stored, err)
	}

	// Rules that cannot be compiled take nothing from the port that would get them.
	l.follow(snap(known("many"), compile.RulesMax+1))
	expect("too many rules", rec, passed)
	if l.world.syncErr != "" {
		t.Errorf("and keep all others from being brought up to date: %s", l.world.syncErr)
	}
	status := l.nodeStatus()
	told := ""
	for _, p := range status.Problems {
		told += p.Kind + " " + p.Name + ": " + p.Message + "\n"
	}
	if !strings.Contains(told, "VLANNetwork web: its policy for ports to which policies are applied by label: has 12289 rules") {
		t.Errorf("told %q", told)
	}
	l.follow(snap(known("sick"), 1))
	expect("at last", rec, dropped)
	if len(l.world.refused) != 0 || l.world.lacksSet(l.table.list()) {
		t.Errorf("refused %+v", l.world.refused)
	}
}

// TestVerdict: what is said of a packet is what the port's program does with it.
func TestVerdict(t *testing.T) {
	l := newLive(t)
	s, _ := snapshot(t)
	to := func(id uint32, a policy.Action, ports ...uint16) policy.Rule {
		return policy.Rule{Key: policy.RuleKey{Policy: "udp", ID: id}, Action: a, Directions: policy.OnlyOut,
			Services: []policy.Service{{Protocol: policy.UDP, First: ports[0], Last: ports[1]}}}
	}
	s.Policies = []desired.Policy{{Name: "udp", Rank: 1, Rules: []policy.Rule{to(7, policy.Allow, 1, 500), to(8, policy.Drop, 400, 65535), {
		Key: policy.RuleKey{Policy: "udp", ID: 9}, Action: policy.Drop, Directions: policy.OnlyOut,
		Services: []policy.Service{{Protocol: policy.TCP, First: 900, Last: 900, SourceFirst: 1, SourceLast: 1023}}}}}}
	l.follow(s)
	rec := l.veth("veth1", 1)
	l.openAs(rec)
	key := rec.Key
	ask := func(direction, from, to, service string) (wire.Verdict, error) {
		v, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewVerdict, Port: &key,
			Packet: &wire.Packet{Direction: direction, Source: netip.MustParseAddr(from), Destination: netip.MustParseAddr(to), Service: service}})
		out, _ := v.(wire.Verdict)
		return out, err
	}
	before, err := ask("Out", "10.0.0.1", "10.0.0.2", "udp/1000")
	l.must(err)
	if l.sends(rec) != "RuleDrop" || before.Action != "Drop" || before.Rule == nil || before.Rule.ID != 8 || before.Policy != "udp" || before.State != attach.Active {
		t.Errorf("what is dropped: %+v", before)
	}
	if after, err := ask("Out", "10.0.0.1", "10.0.0.2", "udp/1000"); err != nil || after.Rule.Packets != 1 || before.Rule.Packets != 0 {
		t.Errorf("hits: %+v, %v", after.Rule, err)
	}
	for _, c := range []struct{ direction, to, service, want string }{
		{"Out", "10.0.0.2", "udp/450", "Allow 7"},
		{"Out", "10.0.0.2", "tcp/450", "Allow"},
		{"In", "10.0.0.2", "udp/1000", "Allow"},
		{"Out", "10.0.0.2", "ip/47", "Allow"},
		{"Out", "10.0.0.2", "ip/17", "packet.service"},
		{"Out", "10.0.0.2", "icmpv6/128", "packet.service"},
		{"Out", "10.0.0.2", "icmp/3/4", "Allow"},
		{"Out", "10.0.0.2", "icmp/8", "Allow"},
		{"Sideways", "10.0.0.2", "udp/1", "packet.direction"},
		{"Out", "fd00::2", "udp/1", "packet.destination"},
		{"Out", "10.0.0.2", "udp", "packet.service"},
		{"Out", "10.0.0.2", "udp/1-2", "packet.service"},
		{"Out", "10.0.0.2", "sctp/1", "Allow"},
		{"Out", "10.0.0.2", "tcp/900", "Allow"},
		{"Out", "10.0.0.2", "udp/450 from 9", "packet.service"},
		{"Out", "10.0.0.2", "ip/256", "packet.service"},
	} {
		v, err := ask(c.direction, "10.0.0.1", c.to, c.service)
		got := v.Action
		if v.Rule != nil {
			got += fmt.Sprint(" ", v.Rule.ID)
		}
		var refused *attach.Error
		if errors.As(err, &refused) {
			got = refused.Field
		}
		if got != c.want {
			t.Errorf("%+v: got %s, %v", c, got, err)
		}
	}
	for port, want := range map[uint16]string{1023: "Drop", 1024: "Allow"} {
		v, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewVerdict, Port: &key, Packet: &wire.Packet{Direction: "Out",
			Source: netip.MustParseAddr("10.0.0.1"), SourcePort: port, Destination: netip.MustParseAddr("10.0.0.2"), Service: "tcp/900"}})
		if got, _ := v.(wire.Verdict); err != nil || got.Action != want || !strings.HasSuffix(got.Packet, fmt.Sprintf("tcp/900 from %d", port)) {
			t.Errorf("from port %d: %+v, %v", port, got, err)
		}
	}
	if _, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewVerdict, Port: &key, Packet: &wire.Packet{Direction: "Out",
		Source: netip.MustParseAddr("10.0.0.1"), SourcePort: 9, Destination: netip.MustParseAddr("10.0.0.2"), Service: "icmp/8"}}); err == nil || !strings.Contains(err.Error(), "packet.sourcePort") {
		t.Errorf("a source port of ICMP: %v", err)
	}
	v, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewRules, Port: &key})
	l.must(err)
	var got []string
	rules, _ := v.(wire.PortRules)
	for _, r := range rules.Items {
		got = append(got, fmt.Sprint(r.Policy, "/", r.ID, " ", r.Action, " ", r.Packets))
	}
	if text := fmt.Sprint(got); text != "[udp/7 Allow 0 udp/8 Drop 1 udp/9 Drop 0]" || rules.Default.Action != "Allow" || rules.State != attach.Active || rules.Interface != rec.HostIfName {
		t.Errorf("rules %s of %+v", text, rules)
	}
	key.ContainerID = "gone"
	if _, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewRules, Port: &key}); err == nil || !strings.Contains(err.Error(), "not attached on this node") {
		t.Errorf("rules of a port that is not there: %v", err)
	}
	if _, err := ask("In", "10.0.0.1", "10.0.0.2", "udp/1"); err == nil || !strings.Contains(err.Error(), "not attached on this node") {
		t.Errorf("a port that is not there: %v", err)
	}
	if _, err := l.view(t.Context(), &wire.ViewRequest{What: wire.ViewVerdict}); err == nil {
		t.Error("without a port it answers")
	}
}

// TestOneRefusedPolicy: a policy with more rules than a network can have leaves its
// network as it was, is told by name, and holds up no other network.
func TestOneRefusedPolicy(t *testing.T) {
	l := newLive(t)
	snap := func(revision uint64, rules int) *desired.Snapshot {
		s, _ := snapshot(t)
		s.Revision = revision
		add := func(name, network string, rules int) {
			p := desired.Policy{Name: name, Rank: 1, Networks: []string{network}}
			for i := range rules {
				p.Rules = append(p.Rules, policy.Rule{Key: policy.RuleKey{Policy: name, ID: uint32(i + 1)}, Action: policy.Drop, Directions: policy.InOut})
			}
			s.Policies = append(s.Policies, p)
		}
		add("big", "web", rules)
		add("fine", "small", rules/10000)
		return s
	}
	l.follow(snap(2, 1))
	l.trunksAreUp()
	if s := l.nodeStatus(); !s.Ready {
		t.Fatalf("at first: %q", s.Reasons)
	}
	l.follow(snap(3, compile.RulesMax+1))
	s := l.nodeStatus()
	if s.Active != 3 || s.Desired != 3 || s.Pending != nil {
		t.Errorf("revision %d is active, pending %+v, want 3 and nothing: %q", s.Active, s.Pending, s.Reasons)
	}
	if web, small := l.world.Sets["web"], l.world.Sets["small"]; len(web.Rules) != 1 || len(small.Rules) != 1 {
		t.Errorf("in force: %d rules of web, want the 1 from before; %d of small, want the new 1", len(web.Rules), len(small.Rules))
	}
	if s.Ready || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0], `the policy of network "web" is refused`) || !strings.Contains(s.Reasons[0], `policy "big" 12289`) {
		t.Errorf("status: ready %v, %q", s.Ready, s.Reasons)
	}
	if len(s.Problems) != 1 || s.Problems[0].Name != "web" || !s.Problems[0].Kept {
		t.Errorf("problems: %+v", s.Problems)
	}
	if code, body := l.get("/readyz"); code != http.StatusOK {
		t.Errorf("/readyz: %d %s", code, body)
	}
	l.follow(snap(4, 130))
	if s := l.nodeStatus(); !s.Ready || len(l.world.Sets["web"].Rules) != 130 {
		t.Errorf("with fewer: %q, %d in force", s.Reasons, len(l.world.Sets["web"].Rules))
	}
}
