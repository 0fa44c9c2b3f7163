#!/usr/bin/env bash
# test-vm.sh KERNEL...: the tests that need a real kernel, inside VMs with those
# Debian kernels, side by side. There nothing may be skipped. Where several kernels are
# named, what test-vm.tsv says to need one alone runs with that one.
#
#   HOMEPORT_VM_ALL=1 hack/test-vm.sh 6.1 6.12       # every test with each kernel
#   HOMEPORT_VM_PKGS="pkg/bridge test/netns" hack/test-vm.sh 6.12
#   HOMEPORT_VM_ARGS="-test.run=TestScripts/attach" hack/test-vm.sh 6.12
#   HOMEPORT_SEEDS=100 HOMEPORT_VM_ARGS="-test.run=TestCombinations" hack/test-vm.sh 6.12
#   HOMEPORT_VM_TIMERS=fine hack/test-vm.sh 6.12     # for what measures times
set -euo pipefail
cd "$(dirname "$0")/.."

kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || { echo "usage: hack/test-vm.sh 6.1 6.12" >&2; exit 2; }
read -ra pkgs <<<"${HOMEPORT_VM_PKGS:-pkg/store pkg/bridge pkg/datapath pkg/probe pkg/agent test/netns}"
export CGO_ENABLED=0
out=out/vm
mkdir -p $out/bin

echo "test-vm: building the product, the reference plugins and the tests"
go build -o $out/bin/vmrun ./test/vm/cmd/vmrun
go build -o $out/bin/testsum ./hack/testsum
make -s build
(cd test/bench && go build -trimpath -ldflags '-s -w' -o ../../$out/bin/ github.com/containernetworking/plugins/plugins/{main/bridge,ipam/dhcp,ipam/host-local,ipam/static})
for p in "${pkgs[@]}"; do
	go test -c -o "$out/bin/$(tr / - <<<"$p").test" "./$p"
done

# The guests of the lab: one that stays, and those that scripts boot and move: on an
# access VLAN; tagging by itself, and silent but for QEMU's RARP; with IPv6 alone.
labguests=(
	-guest name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24,ip6=fd00:100::10/64
	-guest name=vm2,mac=00:50:56:aa:bb:02,ip=10.100.0.12/24,ip6=fd00:100::12/64,places=2
	-guest name=vm3,mac=00:50:56:aa:bb:03,ip=10.200.0.13/24,ip6=fd00:200::13/64,vlan=200,places=2,announce=rarp
	-guest name=vm4,mac=00:50:56:aa:bb:04,ip6=fd00:100::14/64,places=2
)

# elsewhere is a pattern of a package's tests that run with another of these kernels.
elsewhere() { # KERNEL PACKAGE
	local k p what w
	[ -z "${HOMEPORT_VM_ALL:-}${HOMEPORT_VM_ARGS:-}" ] || return 0
	while IFS=$'\t' read -r k p what; do
		[[ $p == "$2" && $k != "$1" && " ${kernels[*]} " == *" $k "* ]] || continue
		for w in $what; do
			case $w in
			*_test.go) sed -nE 's/^func ((Test|Fuzz)[A-Za-z0-9]*)\(.*/^\1$/p' "$p/$w" ;;
			*.txtar) echo "TestScripts/^${w%.txtar}\$" ;;
			*) echo "^${w/\//\$/^}\$" ;;
			esac
		done
	done <hack/test-vm.tsv | paste -sd '|'
}

# One VM runs the tests of some packages, one after the other. It has the sources
# that tests read, at the same places below /src.
one() { # KERNEL NAME ARGS SKIP PACKAGE...
	local kernel=$1 name=$2 args=$3 skip=$4; shift 4
	local files=() guests=() run=() how=() script='code=0;' p test other code=0
	# Where labs have more CPUs than the host, those of each take turns, or they would wait for
	# each other's locks. In the other VMs two run at once, for what only shows then.
	[[ $name != lab* || $((2 * ${#kernels[@]})) -le $(nproc) ]] || how=(-one-thread)
	[ "${HOMEPORT_VM_TIMERS:-coarse}" = fine ] || how+=(-coarse-timers)
	rm -f "$out/$kernel-$name"/figures.*
	for p in "$@"; do
		test=$(tr / - <<<"$p").test
		files+=(-file "$out/bin/$test:/t/$test" -dir "$p:/src/$p")
		other=$(elsewhere "$kernel" "$p")
		other=$skip${skip:+${other:+|}}$other
		script+=" cd /src/$p && /t/$test -test.v=test2json -test.timeout=23m $args ${other:+-test.skip='$other'} || code=1;"
		[ "$p" = test/netns ] && guests=("${labguests[@]}")
	done
	run=($out/bin/testsum run -test2json -noskip -name "vm-$kernel-$name" -- \
		$out/bin/vmrun -kernel "$kernel" "${how[@]}" -mem 1536 -timeout 24m -out "$out/$kernel-$name" \
		"${guests[@]}" "${files[@]}" \
		-file bin/cni-plugin:/opt/homeport/cni-plugin -file bin/bridge-agent:/opt/homeport/bridge-agent \
		-file bin/homeportctl:/opt/homeport/homeportctl -file $out/bin/bridge:/opt/cni/bin/bridge \
		-file $out/bin/dhcp:/opt/cni/bin/dhcp -file $out/bin/host-local:/opt/cni/bin/host-local -file $out/bin/static:/opt/cni/bin/static \
		-dir bpf:/src/bpf -dir docs/reference:/src/docs/reference -dir pkg/snoop:/src/pkg/snoop \
		-env HOMEPORT_BIN=/opt/homeport -env HOMEPORT_CNI_BIN=/opt/cni/bin -env HOMEPORT_IN_VM="$kernel" \
		-env HOMEPORT_SEED="${HOMEPORT_SEED:-}" -env HOMEPORT_SEEDS="${HOMEPORT_SEEDS:-}" \
		-- /bin/sh -c "$script exit \$code")
	"${run[@]}" || code=$?
	if [ "$code" -eq 123 ]; then # as vmrun says
		echo "vm-$kernel-$name: the kernel died of a fault of QEMU's, see above: all of it once more"
		code=0
		"${run[@]}" || code=$?
	fi
	if [ -s "$out/$kernel-$name/figures.txt" ]; then
		echo "vm-$kernel-$name: figures of an emulated machine, good for comparing its rows"
		cat "$out/$kernel-$name/figures.txt"
	fi
	return "$code"
}

# Packages share a VM, for a boot is some twenty seconds. The lab has its own, and another
# for what takes its time alone: live migrations, and what needs br_netfilter. A VM a core
# runs at a time, those that take longest first: emulation computes more than tests wait,
# and with more VMs some wait for each other for longer than they may.
alone='^(TestMigrate|TestHostFirewall)$'
node=() lab=()
for p in "${pkgs[@]}"; do
	if [ "$p" = test/netns ]; then lab+=("$p"); else node+=("$p"); fi
done

# A VM and what watches it are a process group, which ends with this script.
set -m
trap 'for group in $(jobs -p); do kill -- "-$group" 2>/dev/null || true; done' EXIT
trap 'exit 130' INT TERM
code=0 running=0 slots=$(nproc)
start() {
	if [ $running -eq $slots ]; then
		wait -n || code=1
		running=$((running - 1))
	fi
	one "$@" &
	running=$((running + 1))
}
each() { # NAME ARGS SKIP PACKAGE...: that VM, with each kernel
	[ $# -gt 3 ] || return 0
	for k in "${kernels[@]}"; do start "$k" "$@"; done
}
if [ -n "${HOMEPORT_VM_ARGS:-}" ]; then
	each lab "$HOMEPORT_VM_ARGS" "" "${lab[@]}"
	each node "$HOMEPORT_VM_ARGS" "" "${node[@]}"
else
	each node "" "" "${node[@]}"
	each lab "" "$alone" "${lab[@]}"
	each lab2 "-test.run='$alone'" "" "${lab[@]}"
fi
while [ $running -gt 0 ]; do
	wait -n || code=1
	running=$((running - 1))
done
exit $code
