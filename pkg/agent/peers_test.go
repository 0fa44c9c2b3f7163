package agent

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/peer"
	"github.com/homeport-cni/homeport/pkg/reach"
)

// TestToldAddress: others are told an address that they can use, as they write it, or none.
func TestToldAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1:9748": "10.0.0.1:9748", "[10.0.0.1]:9748": "10.0.0.1:9748", "[fd00::1]:9748": "[fd00::1]:9748", "[::ffff:10.0.0.1]:9748": "10.0.0.1:9748",
		"": "", ":9748": "", "[]:9748": "", "0.0.0.0:9748": "", "[::]:9748": "", "node1:9748": "", "10.0.0.1": "", "fd00::1:9748": "", "10.0.0.1:0": "",
		"10.0.0.1:https": "", "10.0.0.1:99999": "", "[fe80::1%eth0]:9748": "",
	} {
		if got := (&Fabric{Addr: addr}).told(); got != want {
			t.Errorf("%q is told as %q, want %q", addr, got, want)
		}
	}
}

// joined is an agent that knows its fabric, and what it logs.
func joined(t *testing.T, f Fabric) (*Agent, *RecentLog) {
	t.Helper()
	log := new(RecentLog)
	a := &Agent{cfg: Config{Fabric: f}, log: slog.New(slog.NewTextHandler(log, nil))}
	if err := a.joinFabric(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.client.Close)
	return a, log
}

func keyFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "keys")
	if text != "" {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file
}

// TestAgents: who has an address is asked, and of others it is told why they are not.
func TestAgents(t *testing.T) {
	var trouble error
	peers := func(context.Context) ([]peer.Peer, error) {
		return []peer.Peer{{Node: "n3"}, {Node: "n2", Address: "10.0.0.2:9748"}, {Node: "n1", Address: "10.0.0.1:9748"}}, trouble
	}
	nodes := func(a *Agent) (asked, absent []string) {
		t.Helper()
		all, missing, err := a.agents(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range all {
			asked = append(asked, x.Node())
		}
		for _, x := range missing {
			absent = append(absent, x.Node+": "+x.Why)
		}
		return asked, absent
	}
	a, _ := joined(t, Fabric{Node: "n1", KeyFile: keyFile(t, peer.MakeKey()), Peers: peers})
	asked, absent := nodes(a)
	if d := cmp.Diff([]string{"n1", "n2"}, asked) + cmp.Diff([]string{"n3: its agent has told no address to be asked at: it runs without --agents-addr, or is of an older release"}, absent); d != "" {
		t.Error(d)
	}
	trouble = errors.New("connection refused")
	if all, absent, err := a.agents(t.Context()); err == nil || all != nil || absent != nil || !strings.Contains(err.Error(), "find the agents of other nodes: connection refused") {
		t.Errorf("%v %v %v", all, absent, err)
	}
	trouble = nil

	file := keyFile(t, "")
	a, _ = joined(t, Fabric{Node: "n1", KeyFile: file, Patient: true, Peers: peers})
	asked, absent = nodes(a)
	if len(asked) != 1 || len(absent) != 2 || !strings.HasPrefix(absent[0], "n2: the agent of n1, which was to ask it, has no key of the fabric yet: fabric keys "+file+": ") {
		t.Errorf("%q %q", asked, absent)
	}
	if asked, absent = nodes(&Agent{prober: a.prober}); len(asked) != 1 || absent != nil {
		t.Errorf("%q %q", asked, absent)
	}
}

// TestKeyFileMissing: manifests' agent does not start without its key, a cluster's does.
func TestKeyFileMissing(t *testing.T) {
	file := keyFile(t, "")
	a := &Agent{cfg: Config{Fabric: Fabric{Node: "n1", KeyFile: file}}, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	if err := a.joinFabric(); err == nil || !strings.Contains(err.Error(), "keys of the fabric (--fabric-key): fabric keys "+file+": ") {
		t.Error(err)
	}
	joined(t, Fabric{Node: "n1", KeyFile: file, Patient: true})
}

// TestPatience: an agent begins to answer when its key is there and its address is free, and
// says once what it waits for; what it then says, who has the key understands.
func TestPatience(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	addr, file, key := taken.Addr().String(), keyFile(t, ""), peer.MakeKey()
	far, _ := joined(t, Fabric{Node: "n2", KeyFile: keyFile(t, key)})

	synctest.Test(t, func(t *testing.T) {
		a, log := joined(t, Fabric{Node: "n1", KeyFile: file, Patient: true, Addr: addr})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		listens := make(chan net.Listener)
		go func() {
			l, err := a.awaitAgents(ctx)
			if err != nil {
				t.Error(err)
			}
			listens <- l
		}()
		read := 0
		says := func(what string) {
			t.Helper()
			time.Sleep(3 * tryEvery)
			synctest.Wait()
			got, _ := log.Lines()
			if got, read = got[read:], len(got); strings.Count(got, "level=WARN") != 1 || !strings.Contains(got, what) {
				t.Errorf("log %s, want %q once", got, what)
			}
		}
		says("no such file")
		if err := os.WriteFile(file, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		says("line 1: not base64")
		if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
			t.Fatal(err)
		}
		says("address already in use")
		taken.Close()
		l := <-listens
		l.Close()
		if err := a.ring.Alone(); err != nil {
			t.Error(err)
		}
		// Hellos are signed by the key that came, too.
		id, mac := helloKeys{far.ring}.Sign([]byte("hello"))
		if !a.prober.keys.Verify(id, []byte("hello"), mac) {
			t.Error("a hello under the key that came is not taken")
		}
	})
}

// TestServeAgents: an agent whose key came late answers those that have it.
func TestServeAgents(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	file, key := keyFile(t, ""), peer.MakeKey()
	a, _ := joined(t, Fabric{Node: "n1", KeyFile: file, Patient: true, Addr: addr})
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for ; a.ring.Alone() != nil; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal(a.ring.Alone())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- a.serveAgents(ctx) }()
	far, _ := joined(t, Fabric{Node: "n2", KeyFile: keyFile(t, key), Peers: func(context.Context) ([]peer.Peer, error) {
		return []peer.Peer{{Node: "n1", Address: addr}}, nil
	}})
	all, _, err := far.agents(t.Context())
	if err != nil || len(all) != 2 {
		t.Fatal(all, err)
	}
	for {
		_, err := all[1].Describe(t.Context())
		if err != nil && strings.Contains(err.Error(), "the agent has not read its desired state yet") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

var _ reach.Agent = farAgent{}
