#!/usr/bin/env bash
# bench.sh [FLAGS]: ratios against the plain bridge and the reference plugin, to
# out/bench.json. Flags are those of test/bench, as -where native -rows packet.
# STRICT=1 exits 1 when an aim is missed. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "bench: needs root: it makes namespaces and loads programs" >&2; exit 2; }
export CGO_ENABLED=0
(
	cd test/bench
	go build -trimpath -ldflags='-s -w' -o ../../bin/bench .
	go build -trimpath -ldflags='-s -w' -o ../../bin/bridge-reference github.com/containernetworking/plugins/plugins/main/bridge
)
go build -trimpath -ldflags='-s -w' -o bin/vmrun ./test/vm/cmd/vmrun
exec bin/bench -bin bin "$@"
