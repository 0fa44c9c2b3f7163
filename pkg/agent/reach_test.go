package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/peer"
	"github.com/homeport-cni/homeport/pkg/probe"
	"github.com/homeport-cni/homeport/pkg/reach"
)

func TestParsePeers(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"n2", `"n2": want NODE=HOST:PORT`},
		{"n2=10.0.0.2", `"n2=10.0.0.2": want NODE=HOST:PORT`},
		{"=10.0.0.2:1", `want NODE=HOST:PORT`},
		{"n2=10.0.0.2:1,", `"": want NODE=HOST:PORT`},
		{"n2=10.0.0.2:1,n2=10.0.0.3:1", `node "n2" is named twice`},
	} {
		if _, err := ParsePeers(tt.text); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
	got, err := ParsePeers("n2=10.0.0.2:9748, n3=[fd00::3]:9748")
	want := []peer.Peer{{Node: "n2", Address: "10.0.0.2:9748"}, {Node: "n3", Address: "[fd00::3]:9748"}}
	if d := gocmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v %s", err, d)
	}
	if got, err := ParsePeers(""); got != nil || err != nil {
		t.Errorf("%v %v", got, err)
	}
}

// TestPace: all checks at an uplink together are no faster than the pace that they were given.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProber(nil, "n1", nil)
		const each, pps = 500, 1000
		begun := time.Now()
		done := make(chan bool)
		for range 2 {
			pace := p.pace("eth1", pps)
			go func() {
				for range each {
					if err := pace.Wait(t.Context(), probe.ClassHello); err != nil {
						t.Error(err)
					}
				}
				done <- true
			}()
		}
		<-done
		<-done
		if took := time.Since(begun); took < 2*each*time.Second/pps*9/10 || took > 2*each*time.Second/pps*11/10 {
			t.Errorf("%d frames at %d a second took %v", 2*each, pps, took)
		}
		// Another uplink has a pace of its own.
		begun = time.Now()
		if err := p.pace("eth2", 1).Wait(t.Context(), probe.ClassHello); err != nil || time.Since(begun) > 0 {
			t.Errorf("%v %v", err, time.Since(begun))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow := p.pace("eth3", 1)
		var err error
		for range 3 {
			err = slow.Wait(ctx, probe.ClassHello)
		}
		if err == nil {
			t.Error("ctx has ended, and the pace does not")
		}
	})
}

// TestPaceOfClasses: in no second more ARP, ND, DHCP or echo requests go out of an uplink than switches stand,
// whatever checks want and how many, while hellos do not wait for them; and all together are within the pace of all.
func TestPaceOfClasses(t *testing.T) {
	const inspected = 15 // ARP packets in a second after which Cisco's inspection shuts the port
	for _, pps := range []int{5, 1000} {
		synctest.Test(t, func(t *testing.T) {
			p := newProber(nil, "n1", nil)
			var mu sync.Mutex
			var all sync.WaitGroup
			at := map[probe.Class][]time.Duration{}
			begun := time.Now()
			for range 2 { // checks
				pace := p.pace("eth1", pps)
				for _, c := range []probe.Class{probe.ClassHello, probe.ClassARP, probe.ClassND, probe.ClassDHCP, probe.ClassEcho} {
					all.Go(func() {
						for range 100 {
							if err := pace.Wait(t.Context(), c); err != nil {
								t.Error(err)
							}
							mu.Lock()
							at[c] = append(at[c], time.Since(begun))
							at[""] = append(at[""], time.Since(begun))
							mu.Unlock()
						}
					})
				}
			}
			all.Wait()
			for c, list := range at {
				limit := cmp.Or(reach.PPS(c), pps)
				most := 0
				for i := range list {
					n := 0
					for _, x := range list[i:] {
						if x-list[i] < time.Second {
							n++
						}
					}
					most = max(most, n)
				}
				t.Logf("%d a second, %q: at most %d in a second, %d in %v", pps, c, most, len(list), list[len(list)-1])
				if most > limit*3/2+1 || (c == probe.ClassARP || c == probe.ClassDHCP) && most >= inspected {
					t.Errorf("at %d a second there are %d %q in a second", pps, most, c)
				}
			}
			if last := at[probe.ClassHello][199]; pps == 1000 && last > 2*time.Second {
				t.Errorf("hellos wait for others: %v", last)
			}
		})
	}
}

func lldpFrame(ttl byte, system string) []byte {
	b := []byte{2, 7, 4, 2, 0, 0, 0, 0, 9, 4, 4, 5, 'e', 't', 'h', 6, 2, 0, ttl, 10, byte(len(system))}
	return append(append(b, system...), 0, 0)
}

func TestLLDPBook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newLLDPBook()
		quiet := func(string, ...any) {}
		up, bond := bridge.Link{Index: 7}, bridge.Link{Index: 20, ActiveMember: 22}
		b.take(7, lldpFrame(120, "early"), quiet)
		if n, listened, _ := b.at(up); n != nil || listened != 0 {
			t.Errorf("%v, though nobody listens there", n)
		}
		for _, i := range []int{7, 20, 21, 22} {
			b.since[i] = time.Now()
		}
		b.members[20] = []int{21, 22}
		time.Sleep(time.Minute)
		if n, listened, lapsed := b.at(up); n != nil || listened != time.Minute || lapsed {
			t.Errorf("%v %v %v", n, listened, lapsed)
		}
		b.take(7, []byte{2, 7}, quiet)
		b.take(7, lldpFrame(120, "sw1"), quiet)
		b.take(21, lldpFrame(120, "passive"), quiet)
		if n, _, _ := b.at(up); n == nil || n.Name != "sw1" || n.Port != "eth" {
			t.Errorf("%+v", n)
		}
		if n, _, _ := b.at(bond); n == nil || n.Name != "passive" {
			t.Errorf("%+v", n)
		}
		b.take(22, lldpFrame(120, "active"), quiet)
		if n, _, _ := b.at(bond); n == nil || n.Name != "active" {
			t.Errorf("%+v", n)
		}
		time.Sleep(121 * time.Second)
		if n, _, lapsed := b.at(up); n != nil || !lapsed {
			t.Errorf("%v %v: its word has run out", n, lapsed)
		}
		b.take(7, lldpFrame(120, "sw1"), quiet)
		b.take(7, lldpFrame(0, "sw1"), quiet) // its last
		time.Sleep(time.Nanosecond)
		if n, _, lapsed := b.at(up); n != nil || !lapsed {
			t.Errorf("%v %v: it has said good-bye", n, lapsed)
		}
	})
}

// TestCheckOfNothing: a node that knows nothing yet is told, and a check runs by what is asked of it.
func TestCheckOfNothing(t *testing.T) {
	a := &Agent{log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := a.joinFabric(); err != nil {
		t.Fatal(err)
	}
	defer a.checks.close()
	ask := func(do, id, options string) (wire.ReachState, error) {
		out, err := a.reach(t.Context(), &wire.ReachRequest{Do: do, ID: id, Options: json.RawMessage(options)})
		state, _ := out.(wire.ReachState)
		return state, err
	}
	for _, tt := range []struct{ do, id, options, want string }{
		{"Stare", "", "", `do: "Stare"`},
		{wire.ReachLook, "77", "", `no check "77" runs here`},
		{wire.ReachCancel, "77", "", `no check "77" runs here`},
		{wire.ReachStart, "", "[]", "install homeportctl and agent of one release"},
		{wire.ReachStart, "", `{"only":["x"]}`, `there is no test "x"`},
		{wire.ReachStart, "", `{"maxPPS":-1}`, "--max-pps -1"},
	} {
		if _, err := ask(tt.do, tt.id, tt.options); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	state, err := ask(wire.ReachStart, "", "")
	for deadline := time.Now().Add(20 * time.Second); err == nil && !state.Over && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		state, err = ask(wire.ReachLook, state.ID, "")
	}
	var r reach.Report
	if err != nil || json.Unmarshal(state.Report, &r) != nil {
		t.Fatalf("%v %+v", err, state)
	}
	if len(r.Findings) != 1 || r.Findings[0].Code != reach.AgentAbsent || !strings.Contains(r.Findings[0].Evidence[0], "has not read its desired state yet") {
		t.Errorf("%+v", r.Findings)
	}
}

// TestStranger: of a run or trunk that it takes no part in, a node says so.
func TestStranger(t *testing.T) {
	a := &Agent{}
	p := newProber(a, "n1", nil)
	if err := p.Send(t.Context(), probe.RunID{1}, "physnet1", nil); err == nil || !strings.Contains(err.Error(), "node n1 takes no part in check 0100000000000000 on trunk physnet1") {
		t.Error(err)
	}
	if err := p.Start(t.Context(), probe.RunID{1}, []string{"physnet1"}, 1000); err == nil || !strings.Contains(err.Error(), `node n1 has no trunk "physnet1"`) {
		t.Error(err)
	}
	if err := p.Start(t.Context(), probe.RunID{1}, nil, 0); err == nil || !strings.Contains(err.Error(), "want 1 to 100000") {
		t.Error(err)
	}
	if err := p.Stop(t.Context(), probe.RunID{1}); err != nil {
		t.Error(err)
	}
}
