#!/usr/bin/env bash
# demo.sh: shows the product at work (test/demo). `make demo` builds it first.
#
#   WHERE=native|vm      where the nodes run; else natively if this machine can, else in a VM
#   BREAK=vlan|rule|mac  do that wrong: the demo must notice and exit 1
#   KERNEL=6.1           in a VM, with this kernel (default 6.12)
#
# Natively the nodes run on this machine's kernel, as root, in namespaces that
# the demo makes and that end with it; vm1 is a VM whose NIC is the tap of its
# launcher pod. Otherwise the nodes run inside a VM with a Debian kernel, by
# QEMU's software emulation, which needs no root; vm1 is another VM beside it.
# Either way nothing of this machine is touched, and vm1 has its own kernel.
set -euo pipefail
cd "$(dirname "$0")/.."

kernel=${KERNEL:-6.12}
where=${WHERE:-${KERNEL:+vm}}
out=out/demo
vm1=name=vm1,mac=00:50:56:aa:bb:01,ip=10.100.0.10/24
mkdir -p $out/bin $out/vm $out/native $out/helpers
export CGO_ENABLED=0
echo "demo: building the stage, and the reference CNI plugin bridge"
for b in cni-plugin bridge-agent homeportctl; do
	[ -x bin/$b ] || { echo "demo: bin/$b is missing; run make demo, which builds it" >&2; exit 2; }
done
go build -trimpath -o $out/bin/ ./test/vm/cmd/vmrun
go build -trimpath -ldflags '-s -w' -o $out/bin/demo ./test/demo
go build -trimpath -ldflags '-s -w' -o $out/helpers/ ./test/vm/guest ./test/vm/guestctl
(cd test/bench && go build -trimpath -ldflags '-s -w' -o ../../$out/bin/bridge github.com/containernetworking/plugins/plugins/main/bridge)

where=$($out/bin/demo -choose -where "$where" -kernel "$kernel")
if [ "$where" = native ]; then
	HOMEPORT_CNI_BIN=$PWD/$out/bin exec $out/bin/demo -native -break "${BREAK:-}" \
		-guest $vm1 -helpers $out/helpers -out $out/native
fi
exec $out/bin/vmrun -kernel "$kernel" -mem 1024 -timeout 6m -out $out/vm -guest $vm1 \
	-file bin/cni-plugin:/opt/homeport/cni-plugin -file bin/bridge-agent:/opt/homeport/bridge-agent \
	-file bin/homeportctl:/opt/homeport/homeportctl -file $out/bin/bridge:/opt/cni/bin/bridge \
	-file $out/bin/demo:/opt/homeport/demo \
	-env HOMEPORT_BIN=/opt/homeport -env HOMEPORT_CNI_BIN=/opt/cni/bin \
	-- /opt/homeport/demo -break "${BREAK:-}"
