#!/usr/bin/env bash
# demo-cluster.sh: the cluster of test/cluster, kept up until Ctrl-C, with two VMs in
# it and commands to try. Nothing of this machine is touched: the control plane
# listens on loopback, nodes and VMs are QEMU's; logs are in out/demo-cluster.
#
#   NODES="6.12 6.1"  a node for each of these kernels (default: 6.12 6.12 6.1)
set -euo pipefail
cd "$(dirname "$0")/.."

hack/cluster-bins.sh all
mkdir -p out/bin
CGO_ENABLED=0 go build -trimpath -o out/bin/demo-cluster ./test/cluster/demo
exec out/bin/demo-cluster -bin "$(hack/cluster-bins.sh --dir)" -kernels "${NODES:-6.12 6.12 6.1}"
