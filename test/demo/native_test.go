package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/test/vm"
)

// TestNativeInVM runs the native demo on a kernel that has all it needs, and not the one that
// the demo in VMs has. A namespace plays vm1, as a VM inside a VM takes too long. It must say
// no where something is broken, and leave nothing behind whichever way it ends.
//
//	HOMEPORT_VM=1 go test -count=1 -timeout 60m -v -run TestNativeInVM ./test/demo
func TestNativeInVM(t *testing.T) {
	needVM(t)
	t.Parallel()
	dir := t.TempDir()
	build(t, ".", dir+"/", "../../cmd/cni-plugin", "../../cmd/bridge-agent", "../../cmd/homeportctl", "../vm/guest", "../vm/guestctl", ".")
	build(t, "../bench", dir+"/bridge", "github.com/containernetworking/plugins/plugins/main/bridge")
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(nativeScript), 0o755); err != nil {
		t.Fatal(err)
	}
	s := vm.Spec{Kernel: "6.1", Mem: 1024, SMP: 2, Timeout: 25 * time.Minute, Argv: []string{"bash", "/opt/script"},
		Env: []string{"HOMEPORT_BIN=/opt", "HOMEPORT_CNI_BIN=/opt/cni"}}
	for _, name := range []string{"cni-plugin", "bridge-agent", "homeportctl", "guest", "guestctl", "demo", "script"} {
		s.Files = append(s.Files, vm.Copy{Host: filepath.Join(dir, name), Guest: "/opt/" + name})
	}
	s.Files = append(s.Files, vm.Copy{Host: filepath.Join(dir, "bridge"), Guest: "/opt/cni/bridge"})
	if code, err := vm.Run(context.Background(), s, os.Stdout, os.Stderr); err != nil || code != 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
}

// needVM skips where no virtual machines are wanted.
func needVM(t *testing.T) {
	t.Helper()
	if os.Getenv("HOMEPORT_VM") != "1" {
		t.Skip("boots virtual machines; set HOMEPORT_VM=1")
	}
}

const nativeScript = `
list() {
	ip -o link; ip netns list; cut -d' ' -f4- /proc/self/mountinfo; find /run /sys/fs/bpf
	sysctl -a 2>/dev/null | grep -e '^net.*\(forward\|filter\|bridge\|disable_ipv6\)'
	for p in /proc/[0-9]*; do tr '\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep -e opt/ -e /run/ -e tcpdump | grep -v script
}
# play CODE WHAT COMMAND...: the demo ends so, with output that has WHAT, and leaves nothing.
play() {
	code=$1 what=$2; shift 2
	"$@" -native -standin -guest name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24 -helpers /opt -out /out $flags >/tmp/log 2>&1
	got=$?
	for i in $(seq 100); do # the kernel takes namespaces down behind everybody's back
		list >/tmp/now
		diff /tmp/before /tmp/now >/tmp/diff && break
		sleep 0.1
	done
	if [ $got != $code ] || ! grep -q "$what" /tmp/log || [ -s /tmp/diff ]; then
		tail -n 40 /tmp/log
		echo "play $* $flags: exit code $got, want $code and $what; left behind:"; cat /tmp/diff
		exit 1
	fi
	echo "$* $flags: exit code $got as it should be: $(grep "$what" /tmp/log | head -n 1); nothing is left"
}
# halt SIGNAL WHOM COMMAND...: a command that is sent a signal at the demo's second step:
# its process group, as by Ctrl-C, or it alone.
halt() {
	signal=$1 whom=$2; shift 2
	"$@" &
	pid=$!
	until grep -q '\[2/11\]' /tmp/log || ! kill -0 $pid; do sleep 0.1; done
	[ $whom = alone ] || pid=-$pid
	kill -s $signal -- $pid
	wait ${pid#-}
}
set -m # jobs are process groups
list >/tmp/before
[ "$(/opt/demo -choose)" = native ] || exit 1
play 0 'All as expected' /opt/demo
flags='-break rule' play 1 'FAILED.*step 7.*rule 1002' /opt/demo
flags='-break vlan' play 1 'FAILED.*step 5.*cannot reach vm1 on VLAN 100' /opt/demo
flags='-break mac' play 1 'FAILED.*step 8.*saw a forged frame' /opt/demo
play 130 FAILED halt INT group /opt/demo
play 130 FAILED halt TERM alone /opt/demo
play 137 '\[2/11\]' halt KILL alone /opt/demo
`
