#!/usr/bin/env bash
# demo.sh: shows the product at work (test/demo). `make demo` builds it first.
#
#   BREAK=vlan|rule|mac  do that wrong: the demo must notice and exit 1
#   KERNEL=6.1           kernel of the nodes (default 6.12)
#
# The nodes run inside a VM with a Debian kernel, by QEMU's software emulation,
# on every machine: it needs no root, and touches nothing of this one. vm1 is a
# VM of its own beside it, with its own kernel.
set -euo pipefail
cd "$(dirname "$0")/.."

kernel=${KERNEL:-6.12}
out=out/demo
mkdir -p $out/bin
export CGO_ENABLED=0
echo "demo: building the stage, and the reference CNI plugin bridge"
for b in cni-plugin bridge-agent homeportctl; do
	[ -x bin/$b ] || { echo "demo: bin/$b is missing; run make demo, which builds it" >&2; exit 2; }
done
go build -trimpath -o $out/bin/ ./test/vm/cmd/vmrun
go build -trimpath -ldflags '-s -w' -o $out/bin/demo ./test/demo
(cd test/bench && go build -trimpath -ldflags '-s -w' -o ../../$out/bin/bridge github.com/containernetworking/plugins/plugins/main/bridge)

echo "demo: starting a VM with kernel $kernel for the nodes, and the guest vm1 beside it"
exec $out/bin/vmrun -kernel "$kernel" -mem 1024 -timeout 6m -out $out/vm \
	-guest name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24 \
	-file bin/cni-plugin:/opt/homeport/cni-plugin -file bin/bridge-agent:/opt/homeport/bridge-agent \
	-file bin/homeportctl:/opt/homeport/homeportctl -file $out/bin/bridge:/opt/cni/bin/bridge \
	-file $out/bin/demo:/opt/homeport/demo \
	-env HOMEPORT_BIN=/opt/homeport -env HOMEPORT_CNI_BIN=/opt/cni/bin \
	-- /opt/homeport/demo -break "${BREAK:-}"
