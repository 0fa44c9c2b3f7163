#!/usr/bin/env bash
# image-layout.sh makes what the Dockerfile puts on top of its base image, without
# Docker: out/image/ARCH/ is the image's root.
#
#   hack/image-layout.sh [-o DIR] [ARCH...]   (default: out/image, amd64 arm64)
set -euo pipefail
cd "$(dirname "$0")/.."

out=out/image
if [[ ${1:-} == -o ]]; then
	out=${2:?-o wants a directory}
	shift 2
fi
[[ $# -gt 0 ]] || set -- amd64 arm64
version=${VERSION:-$(git describe --always --dirty 2>/dev/null || echo unknown)}

for arch in "$@"; do
	[[ $arch == amd64 || $arch == arm64 ]] || { echo "image-layout: no image is made for $arch; known: amd64 arm64" >&2; exit 2; }
	rm -rf "${out:?}/$arch"
	mkdir -p "$out/$arch/usr/local/bin" "$out/$arch/usr/share/doc/homeport"
	CGO_ENABLED=0 GOOS=linux GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$version" \
		-o "$out/$arch/usr/local/bin/" ./cmd/bridge-agent ./cmd/cni-plugin ./cmd/homeportctl
	install -m 0644 LICENSE "$out/$arch/usr/share/doc/homeport/LICENSE"
	echo "$out/$arch"
done
