#!/usr/bin/env bash
# test-vm.sh KERNEL...: the tests that need a real kernel, inside VMs with those
# Debian kernels, side by side. There nothing may be skipped.
#
#   HOMEPORT_VM_PKGS="pkg/bridge test/netns" hack/test-vm.sh 6.12
#   HOMEPORT_VM_ARGS="-test.run=TestScripts/attach" hack/test-vm.sh 6.12
set -euo pipefail
cd "$(dirname "$0")/.."

kernels=("$@")
[ ${#kernels[@]} -gt 0 ] || { echo "usage: hack/test-vm.sh 6.1 6.12" >&2; exit 2; }
read -ra pkgs <<<"${HOMEPORT_VM_PKGS:-pkg/store pkg/bridge pkg/datapath pkg/agent test/netns}"
export CGO_ENABLED=0
out=out/vm
mkdir -p $out/bin

echo "test-vm: building the product, the reference plugin and the tests"
go build -o $out/bin/vmrun ./test/vm/cmd/vmrun
go build -o $out/bin/testsum ./hack/testsum
make -s build
(cd test/bench && go build -trimpath -ldflags '-s -w' -o ../../$out/bin/bridge github.com/containernetworking/plugins/plugins/main/bridge)
for p in "${pkgs[@]}"; do
	go test -c -o "$out/bin/$(tr / - <<<"$p").test" "./$p"
done

# The VM has the sources that tests read, at the same places below /src.
one() { # KERNEL PACKAGE
	local test; test=$(tr / - <<<"$2").test
	local guests=()
	[ "$2" = test/netns ] && guests=(-guest name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24,ip6=fd00:100::10/64)
	$out/bin/testsum run -test2json -noskip -name "vm-$1-$(basename "$2")" -- \
		$out/bin/vmrun -kernel "$1" -mem 1536 -timeout 14m -out "$out/$1-$(basename "$2")" \
		"${guests[@]}" \
		-file bin/cni-plugin:/opt/homeport/cni-plugin -file bin/bridge-agent:/opt/homeport/bridge-agent \
		-file bin/homeportctl:/opt/homeport/homeportctl -file $out/bin/bridge:/opt/cni/bin/bridge \
		-file "$out/bin/$test:/t/$test" -dir "$2:/src/$2" -dir bpf:/src/bpf -dir docs/reference:/src/docs/reference \
		-env HOMEPORT_BIN=/opt/homeport -env HOMEPORT_CNI_BIN=/opt/cni/bin -env HOMEPORT_IN_VM="$1" \
		-- /bin/sh -c "cd /src/$2 && exec /t/$test -test.v=test2json -test.timeout=13m ${HOMEPORT_VM_ARGS:-}"
}

pids=()
for k in "${kernels[@]}"; do
	(
		code=0
		for p in "${pkgs[@]}"; do one "$k" "$p" || code=1; done
		exit $code
	) &
	pids+=($!)
done
code=0
for p in "${pids[@]}"; do wait "$p" || code=1; done
exit $code
