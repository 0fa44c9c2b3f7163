#!/usr/bin/env bash
# cluster-bins.sh builds real Kubernetes programs for tests, from the module in
# test/cluster/tools, into a cache. It does nothing, quickly, when they are there.
# The last line of its output is the folder that holds them.
#
#   hack/cluster-bins.sh [NAME...]  build what is missing (default: etcd kube-apiserver)
#   hack/cluster-bins.sh --dir      only print the folder
#
# NAME is one of: etcd kube-apiserver kube-controller-manager kube-scheduler kubelet
# kubectl multus bridge loopback host-local static whereabouts, or all.
#
# Folders of other versions that nobody asked for in 30 days are removed.
#
# HOMEPORT_CACHE  cache folder (default: $XDG_CACHE_HOME/homeport or ~/.cache/homeport)
set -euo pipefail
cd "$(dirname "$0")/../test/cluster/tools"

# name|package
programs='etcd|go.etcd.io/etcd/server/v3
kube-apiserver|k8s.io/kubernetes/cmd/kube-apiserver
kube-controller-manager|k8s.io/kubernetes/cmd/kube-controller-manager
kube-scheduler|k8s.io/kubernetes/cmd/kube-scheduler
kubelet|k8s.io/kubernetes/cmd/kubelet
kubectl|k8s.io/kubernetes/cmd/kubectl
multus|gopkg.in/k8snetworkplumbingwg/multus-cni.v4/cmd/multus
bridge|github.com/containernetworking/plugins/plugins/main/bridge
loopback|github.com/containernetworking/plugins/plugins/main/loopback
host-local|github.com/containernetworking/plugins/plugins/ipam/host-local
static|github.com/containernetworking/plugins/plugins/ipam/static
whereabouts|github.com/k8snetworkplumbingwg/whereabouts/cmd'

# With optimization: kubelet and Multus run in emulated machines, where half the speed
# is too little, and programs that are compiled alike share most packages.
# gitVersion: it would call itself v0.0.0-master without.
flags=(-trimpath -ldflags='-s -w -X k8s.io/component-base/version.gitVersion=v1.36.3')

say() { printf 'cluster-bins: %s\n' "$*"; }
die() { printf 'cluster-bins: error: %s\n' "$1" >&2; exit "${2:-1}"; }
package() { sed -n "s,^$1|,,p" <<<"$programs"; }

# build NAME compiles to a name of its own and renames, so that an interrupted
# run leaves nothing that looks complete.
build() {
	local name=$1 tmp start=$SECONDS
	tmp=$(mktemp "$dir/.$name.XXXXXX")
	trap 'rm -f "$tmp"' EXIT
	say "building $name from $(package "$name")"
	go build "${flags[@]}" -o "$tmp" "$(package "$name")" ||
		die "$name was not built, see above; modules come from GOPROXY=$(go env GOPROXY), their versions from test/cluster/tools/go.mod"
	chmod 0755 "$tmp"
	mv "$tmp" "$dir/$name"
	trap - EXIT
	say "$name took $((SECONDS - start)) s, $(($(stat -c %s "$dir/$name") >> 20)) MiB"
}

main() {
	local names=("$@") name missing=()
	command -v go >/dev/null || die "no go in PATH; install Go 1.26 from https://go.dev/dl/"
	export CGO_ENABLED=0 GOFLAGS='-mod=readonly -buildvcs=false' GOWORK=off
	# All that decides what comes out decides the folder: no stale binary is ever used.
	key=$({ cat go.mod go.sum; go env GOVERSION GOOS GOARCH; echo "${flags[@]}"; } | sha256sum)
	root=${HOMEPORT_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or HOMEPORT_CACHE}/.cache}/homeport}/cluster
	dir=$root/${key:0:16}
	[[ ! -d $dir ]] || touch "$dir" # when it was last asked for

	case ${1:-} in
	'') names=(etcd kube-apiserver) ;;
	all) mapfile -t names < <(cut -d'|' -f1 <<<"$programs") ;;
	--dir) echo "$dir"; return ;;
	esac
	for name in "${names[@]}"; do
		[[ $name =~ ^[a-z-]+$ && -n $(package "$name") ]] ||
			die "no program named $name; known: $(cut -d'|' -f1 <<<"$programs" | tr '\n' ' ')all" 2
		[[ -x $dir/$name ]] || missing+=("$name")
	done
	if [[ ${#missing[@]} -gt 0 ]]; then
		mkdir -p "$dir"
		# Two runs at once would compile all of it twice; the second waits.
		exec 9>"$dir/.lock"
		flock -n 9 || { say "another run builds in $dir; waiting for it"; flock 9; }
		say "missing in $dir: ${missing[*]}; the first of Kubernetes takes some 10 minutes on 2 cores, the next a minute or two"
		for name in "${missing[@]}"; do
			[[ -x $dir/$name ]] || build "$name"
		done
	fi
	clear_old
	echo "$dir"
}

# clear_old removes folders that only versions of long ago would look into.
clear_old() {
	local old
	find "$root" -mindepth 1 -maxdepth 1 -type d -mtime +30 -regextype posix-extended -regex '.*/[0-9a-f]{16}' ! -path "$dir" -print0 |
		while IFS= read -rd '' old; do
			say "removing $old, which nobody asked for in 30 days"
			rm -rf "$old"
		done
}

main "$@"
