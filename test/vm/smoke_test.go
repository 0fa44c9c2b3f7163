package vm

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// series are the kernels that the project is tested on.
var series = []string{"6.1", "6.12"}

// needVM skips unless the environment asks for machines to be booted.
func needVM(t *testing.T) {
	t.Helper()
	if os.Getenv("HOMEPORT_VM") != "1" {
		t.Skip("boots virtual machines; set HOMEPORT_VM=1")
	}
}

// boot runs a shell script in a VM.
func boot(t *testing.T, s Spec, script string) (code int, stdout, stderr string, err error) {
	t.Helper()
	if s.Mem == 0 {
		s.Mem = 512
	}
	if s.Timeout == 0 {
		s.Timeout = 2 * time.Minute
	}
	s.SMP, s.Argv = 2, []string{"sh", "-c", script}
	var out, errOut bytes.Buffer
	code, err = Run(context.Background(), s, &out, &errOut)
	return code, out.String(), errOut.String(), err
}

func TestSmokeExitCodesAndFiles(t *testing.T) {
	needVM(t)
	for _, k := range series {
		t.Run(k, func(t *testing.T) {
			dir := t.TempDir()
			kernel, err := FindKernel(k)
			if err != nil {
				t.Fatal(err)
			}
			s := Spec{Kernel: k, Out: dir, Env: []string{"GREETING=hello world"}}
			code, out, errOut, err := boot(t, s, `uname -r; echo "$GREETING" >&2; mkdir /out/d; seq 50000 >/out/d/numbers; exit 7`)
			if err != nil || code != 7 {
				t.Errorf("exit code %d, %v; want 7", code, err)
			}
			if out != kernel.Release+"\n" || errOut != "hello world\n" {
				t.Errorf("stdout %q, stderr %q: want the release and the greeting, and nothing else", out, errOut)
			}
			b, err := os.ReadFile(filepath.Join(dir, "d", "numbers"))
			if err != nil || strings.Count(string(b), "\n") != 50000 || !strings.HasSuffix(string(b), "\n50000\n") {
				t.Errorf("copied back: %d bytes, %v", len(b), err)
			}
			code, out, errOut, err = boot(t, Spec{Kernel: k}, smokeTools)
			if err != nil || code != 0 {
				t.Errorf("tools: exit code %d, %v\n%s%s", code, err, out, errOut)
			}
		})
	}
}

// smokeTools checks that the real iproute2 is what a script gets, and that the
// modules of the reference plugin's features come by themselves.
const smokeTools = `set -e
test ! -e /proc/sys/net/bridge
ip link add br0 type bridge vlan_filtering 1
test $(cat /sys/class/net/br0/bridge/vlan_filtering) = 1
env ip -V | grep -q iproute2
timeout 5 ip -V | grep -q iproute2
ip link add d0 type dummy
ip link add link d0 name d0.5 type vlan id 5
ip netns add x
tc qdisc add dev d0 clsact
tc filter add dev d0 ingress protocol ip flower action drop
modprobe br_netfilter
test -e /proc/sys/net/bridge/bridge-nf-call-iptables
grep -q ' /sys/fs/bpf bpf ' /proc/mounts
grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts
ping -c1 -w5 127.0.0.1 >/dev/null
`

func TestSmokeTimeout(t *testing.T) {
	needVM(t)
	begun := time.Now()
	code, _, _, err := boot(t, Spec{Kernel: "6.1", Timeout: 8 * time.Second}, "sleep 1000")
	if code != CodeTimeout || !errors.Is(err, ErrTimeout) {
		t.Errorf("exit code %d, %v; want %d and ErrTimeout", code, err, CodeTimeout)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestSmokePanic(t *testing.T) {
	needVM(t)
	code, out, _, err := boot(t, Spec{Kernel: "6.12"}, "echo before; sleep 1; echo c >/proc/sysrq-trigger; sleep 1000")
	if code != CodeDied || !errors.Is(err, ErrDied) || !strings.Contains(err.Error(), "kernel panic - not syncing: sysrq") {
		t.Errorf("exit code %d, %v; want %d and the panic's words", code, err, CodeDied)
	}
	if out != "before\n" {
		t.Errorf("output before the panic: %q", out)
	}
}

// TestSmokeGuest pings a guest, and its service, from a namespace behind a
// bridge with VLANs; a namespace in another VLAN must not reach it.
func TestSmokeGuest(t *testing.T) {
	needVM(t)
	for _, k := range series {
		t.Run(k, func(t *testing.T) {
			g, err := ParseGuest("name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24,ip6=fd00:100::10/64")
			if err != nil {
				t.Fatal(err)
			}
			s := Spec{Kernel: k}
			s.Guests = append(s.Guests, g)
			code, out, errOut, err := boot(t, s, smokeGuest)
			if err != nil || code != 0 {
				t.Errorf("exit code %d, %v\n%s%s", code, err, out, errOut)
			}
			if !strings.Contains(out, `"banner":"homeport-guest vm1 22"`) {
				t.Errorf("no banner in\n%s", out)
			}
		})
	}
}

const smokeGuest = `set -ex
nic=$HOMEPORT_GUEST_vm1_IFACE
ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0
ip link set br0 up
host() { # name, VLAN, last byte of the address
	ip netns add $1
	ip link add to-$1 type veth peer name eth0 netns $1
	ip link set to-$1 master br0 up
	bridge vlan add dev to-$1 vid $2 pvid untagged
	ip -n $1 addr add 10.100.0.$3/24 dev eth0
	ip -n $1 addr add fd00:100::$3/64 dev eth0 nodad
	ip -n $1 link set lo up
	ip -n $1 link set eth0 up
}
host same 100 1
host other 200 2
ip link set $nic master br0 up
bridge vlan add dev $nic vid 100 pvid untagged
guestctl vm1 ip
ip netns exec same ping -c3 -i0.3 -w20 10.100.0.10
ip netns exec same ping -c3 -i0.3 -w20 fd00:100::10
if ip netns exec other ping -c2 -i0.3 -w2 10.100.0.10; then exit 1; fi
guestctl vm1 ping 10.100.0.1 3
guestctl vm1 tcp 10.100.0.10 22
if guestctl vm1 tcp 10.100.0.1 9; then exit 1; fi
guestctl vm1 bg recv 1 src=02:00:00:00:00:09
bridge fdb show br br0 | grep -q "00:50:56:aa:bb:01 dev $nic vlan 100"
`

// TestSmokeMove moves a guest from one port of a bridge with VLANs to another and
// back, as KubeVirt does, and cancels a move on the way.
func TestSmokeMove(t *testing.T) {
	needVM(t)
	for _, k := range series {
		t.Run(k, func(t *testing.T) {
			g, err := ParseGuest("name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24,ip6=fd00:100::10/64,places=2")
			if err != nil {
				t.Fatal(err)
			}
			s := Spec{Kernel: k}
			s.Guests = append(s.Guests, g)
			code, out, errOut, err := boot(t, s, smokeMove)
			if err != nil || code != 0 {
				t.Errorf("exit code %d, %v\n%s%s", code, err, out, errOut)
			}
			t.Logf("%s", out)
		})
	}
}

const smokeMove = `set -ex
grep -o '"iface": "[a-z0-9]*"' /run/lab/guests.json | cut -d'"' -f4 >/tmp/nics
ip link add br0 type bridge vlan_filtering 1 vlan_default_pvid 0
ip link set br0 up
ip netns add host
ip link add to-host type veth peer name eth0 netns host
for nic in to-host $(cat /tmp/nics); do
	ip link set $nic master br0 up
	bridge vlan add dev $nic vid 100 pvid untagged
done
ip -n host addr add 10.100.0.1/24 dev eth0
ip -n host link set eth0 up
port() { sed -n $1p /tmp/nics; }
at() { bridge fdb show br br0 | grep -q "00:50:56:aa:bb:01 dev $(port $1) vlan 100"; }
phase() { # waits for a phase
	until guestctl -host status vm1 | tee /tmp/status | grep -q '"phase":"'$1'"'; do sleep 0.05; done
	cat /tmp/status
}
if guestctl -host migrate vm1; then exit 1; fi
guestctl -host boot vm1
guestctl vm1 ip
ip netns exec host ping -i 0.1 -w 60 -q 10.100.0.10 >/tmp/ping &
guestctl vm1 ping 10.100.0.1 1
at 1
guestctl -host incoming vm1
guestctl -host migrate vm1
phase completed
ip netns exec host ping -c1 -w20 10.100.0.10
at 2
guestctl vm1 ping 10.100.0.1 1
if guestctl -host incoming vm1; then exit 1; fi
guestctl -host end vm1

# Back, slowly; held before the switch-over; cancelled; and then done.
guestctl -host incoming vm1
guestctl -host migrate vm1 limit=1 hold
phase active
guestctl vm1 ping 10.100.0.1 1
guestctl -host limit vm1
phase pre-switchover
if ip netns exec host ping -c2 -i0.2 -w1 10.100.0.10; then exit 1; fi
guestctl -host cancel vm1
phase cancelled
ip netns exec host ping -c1 -w20 10.100.0.10
at 2
guestctl -host incoming vm1
guestctl -host migrate vm1 hold
phase pre-switchover
guestctl -host release vm1
phase completed
ip netns exec host ping -c1 -w20 10.100.0.10
at 1
guestctl vm1 ip
kill -INT $!
wait $! || true
cat /tmp/ping
guestctl -host off vm1
guestctl -host boot vm1
guestctl vm1 ip
`
