package netns

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

var (
	killSeed  = flag.Uint64("killseed", 0, "seed of TestKills; 0 takes one by the clock")
	killCount = flag.Int("kills", 0, "how many kills TestKills does; 0 is 120, or 80 where there is tcx and burst is the larger: 200 on two kernels")
)

const killSite = `apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100,200"}
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec: {trunk: trunk0, vlan: {id: 100}, defaultAction: Allow}
`

const killConf = `{"cniVersion": "1.0.0", "name": "l2", "type": "homeport", "network": "vlan100"}`

// killLab is a node with pods whose ADDs and DELs are cut short, and a listener
// on the wire.
type killLab struct {
	*testing.T
	lab   *Lab
	node  *Node
	pods  []*Pod
	wire  *Sniffer
	rnd   *rand.Rand
	empty string        // the node's listing without ports
	took  time.Duration // a whole ADD or DEL
	kills map[string]int
}

// TestKills ends the plugin or the agent by -9 at random instants of ADD and DEL, on
// four nodes side by side. Meanwhile a forger in each pod sends frames that no port may
// let out. At the end of each batch the runtime says DEL, and nothing is left.
func TestKills(t *testing.T) {
	t.Parallel() // with the scripts, which wait much and compute little
	seed := *killSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d: repeat with -killseed=%d", seed, seed)
	count := *killCount
	switch {
	case count == 0 && hasTCX():
		count = 80
	case count == 0:
		count = 120
	}
	const nodes = 4
	for i := range uint64(nodes) {
		t.Run(fmt.Sprint("node", i), func(t *testing.T) {
			t.Parallel()
			newKillLab(t, seed+i).killing((count + nodes - 1) / nodes)
		})
	}
}

// killing does so many kills.
func (k *killLab) killing(count int) {
	const batch = 20
	for done := 0; done < count; done += batch {
		for range min(batch, count-done) {
			k.oneKill(k.pods[k.rnd.IntN(len(k.pods))])
		}
		k.cleanUp()
	}
	k.wantNoSlotLost()
	k.Logf("a whole call took %v; killed: %v", k.took, k.kills)
	if got := k.wire.Frames(Want{data: "forged"}); len(got) > 0 {
		k.Errorf("%d forged frames came through an open port, the first: %+v", len(got), got[0])
	}
	if got := k.wire.Frames(Want{data: "honest"}); len(got) == 0 {
		k.Error("no honest frame came through: the forger's silence means nothing")
	}
}

func newKillLab(t *testing.T, seed uint64) *killLab {
	bin := requireLab(t)
	k := &killLab{T: t, rnd: rand.New(rand.NewPCG(seed, 1)), kills: map[string]int{}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	k.lab, err = New("kills", bin)
	must(err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(k.node.LogTail(60))
		}
		if err := k.lab.Close(); err != nil {
			t.Error(err)
		}
	})
	sw, err := k.lab.Switch("fabric")
	must(err)
	k.node, err = k.lab.Node("n1", sw, SwitchPort{Tagged: []uint16{100, 200}})
	must(err)
	tap, err := k.lab.Host("tap", sw, SwitchPort{Tagged: []uint16{100, 200}})
	must(err)
	k.wire, err = tap.Sniff(hostIf)
	must(err)
	t.Cleanup(func() { _ = k.wire.Close() }) // it has no error to tell
	must(os.WriteFile(filepath.Join(k.node.Manifests(), "site.yaml"), []byte(killSite), 0o644))
	must(k.node.StartAgent())
	must(k.node.WaitReady(t.Context(), patience))
	k.empty, err = k.node.Listing()
	must(err)
	for i := range 3 {
		p, err := k.lab.Pod(fmt.Sprintf("p%d", i))
		must(err)
		k.pods = append(k.pods, p)
	}
	begun := time.Now()
	must(k.call(k.pods[0], "ADD"))
	k.took = time.Since(begun)
	must(k.pods[0].Send(PodIfName(defaultNetwork), k.frame(k.pods[0], "honest"), 3))
	must(k.call(k.pods[0], "DEL"))
	stop := make(chan struct{})
	var outs []*Sender
	for _, p := range k.pods {
		out, err := p.Sender()
		must(err)
		outs = append(outs, out)
	}
	go k.forge(outs, stop)
	t.Cleanup(func() { close(stop) })
	return k
}

func (k *killLab) request(p *Pod, verb string) Call {
	return Call{Verb: verb, ContainerID: p.ContainerID, Netns: p.Path, IfName: PodIfName(defaultNetwork),
		MAC: k.mac(p), Config: []byte(killConf)}
}

func (k *killLab) mac(p *Pod) string { return "00:50:56:cc:00:0" + p.Name[1:] }

func (k *killLab) call(p *Pod, verb string) error {
	ctx, cancel := context.WithTimeout(k.Context(), 60*time.Second)
	defer cancel()
	_, err := k.node.CNI(ctx, k.request(p, verb))
	return err
}

// frame is what the pod sends; forged ones have a tag that an access port must
// not let out, and another source.
func (k *killLab) frame(p *Pod, data string) Frame {
	words := []string{"src=" + k.mac(p), "data=" + data}
	if data == "forged" {
		words = []string{"src=02:de:ad:be:ef:0" + p.Name[1:], "data=forged"}
	}
	f, err := ParseFrame(words)
	if err != nil {
		k.Fatal(err)
	}
	return f
}

// forge sends forged frames from each pod whenever it has an interface.
func (k *killLab) forge(outs []*Sender, stop <-chan struct{}) {
	ifName := PodIfName(defaultNetwork)
	var forged [][]byte
	for i, out := range outs {
		defer out.Close()
		forged = append(forged, k.frame(k.pods[i], "forged").Bytes())
	}
	tick := time.NewTicker(15 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			for i, out := range outs {
				_ = out.Send(ifName, forged[i], 2) // most of the time there is nothing to send on
			}
		}
	}
}

// oneKill starts an ADD or a DEL and kills the plugin or the agent during it.
func (k *killLab) oneKill(p *Pod) {
	verb, victim := "ADD", "plugin"
	if k.rnd.IntN(2) == 0 {
		verb = "DEL"
		if err := k.call(p, "ADD"); err != nil && !living(err) {
			k.Fatalf("ADD before DEL: %v", err)
		}
	}
	if k.rnd.IntN(5) == 0 {
		victim = "agent"
	}
	at := time.Duration(k.rnd.Int64N(int64(k.took + k.took/4)))
	cmd, err := k.node.CNICommand(k.Context(), k.request(p, verb), map[string]any{"cniVersion": "1.0.0", "name": "l2", "type": "homeport", "network": "vlan100"}, nil)
	if err != nil {
		k.Fatal(err)
	}
	if err := k.node.Start(cmd); err != nil {
		k.Fatal(err)
	}
	<-time.After(at) // the instant is what this test is about
	if victim == "plugin" {
		err = cmd.Process.Kill()
	} else {
		err = k.node.Kill()
	}
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		k.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		k.Fatal(err)
	}
	k.kills[verb+" "+victim]++
	if victim == "agent" {
		if err := k.node.StartAgent(); err != nil {
			k.Fatal(err)
		}
		if err := k.node.WaitReady(k.Context(), patience); err != nil {
			k.Fatalf("after kill %v: %v", k.kills, err)
		}
	}
	// As kubelet does after an ADD that failed; not always, since it dies too.
	if k.rnd.IntN(2) == 0 {
		if err := k.call(p, "DEL"); err != nil {
			k.Fatalf("DEL after %s with a dead %s: %v", verb, victim, err)
		}
	}
}

// living says that ADD was refused since an earlier, killed one came about.
func living(err error) bool {
	var refused *CNIError
	return errors.As(err, &refused) && refused.Code == 7
}

// poolAhead is how many port slots an agent keeps ready (pkg/agent).
const poolAhead = 64

// wantNoSlotLost wants no port slots besides those that the pool keeps ready, now
// that there are no ports.
func (k *killLab) wantNoSlotLost() {
	err := until(k.Context(), patience, func() error {
		n, err := k.node.Slots()
		if err == nil && (n == 0 || n > poolAhead) {
			err = fmt.Errorf("%d port slots are kept without a port after %v, want 1 to %d", n, k.kills, poolAhead)
		}
		return err
	})
	if err != nil {
		k.Error(err)
	}
}

// cleanUp says DEL for all, and wants nothing left.
func (k *killLab) cleanUp() {
	for _, p := range k.pods {
		if err := k.call(p, "DEL"); err != nil {
			k.Fatalf("DEL at the end of a batch: %v", err)
		}
	}
	err := until(k.Context(), patience, func() error {
		now, err := k.node.Listing()
		if err == nil && now != k.empty {
			err = fmt.Errorf("left behind after %v:\n%s", k.kills, Difference(k.empty, now))
		}
		return err
	})
	if err != nil {
		k.Fatal(err)
	}
}
