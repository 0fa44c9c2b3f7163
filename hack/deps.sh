#!/bin/bash
# deps.sh puts in place what Homeport's build and tests need and Go does not bring:
# Debian packages (as root, by apt-get) and, as any user into a cache, Debian's 6.1
# and 6.12 kernels for the VMs, containerd and runc for the nodes of the test cluster,
# promtool for the alerts' tests and keepalived for the lab, whose packages would begin to
# run services here if they were installed. It does nothing, quickly, when nothing is missing.
#
#   hack/deps.sh          install what is missing
#   hack/deps.sh --check  only report; exit 1 if something is missing
#
# HOMEPORT_CACHE  cache folder (default: $XDG_CACHE_HOME/homeport or ~/.cache/homeport)
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

# package|why. One dpkg-query asks about all of them.
packages='clang|compiles bpf/*.bpf.c
llvm|llvm-strip for the BPF objects
libbpf-dev|bpf_helpers.h and its kin
linux-libc-dev|linux/bpf.h and the other kernel headers
qemu-system-x86|runs the node VM and the guests
busybox-static|small tools inside the VMs
bash|shell scripts inside the node VM
kmod|depmod: dependency order of kernel modules
xz-utils|unpacks the modules of kernel 6.12
iproute2|ip, bridge and tc, on the host and in the VM
iputils-ping|ping, on the host and in the VM
iputils-arping|arping, for the lab: ARP as attackers and hosts send it
ndisc6|ndisc6 and rdisc6, for the lab: neighbor discovery by hand
dnsmasq-base|dnsmasq, for the lab: its DHCP server, started by no service
isc-dhcp-client|dhclient, for the lab: its DHCPv6 client, started by no service
python3-scapy|Scapy: frames of attackers that are not of our making (go generate ./pkg/datapath)
libsnmp40|what keepalived is linked with
libnl-genl-3-200|what keepalived is linked with
nftables|nft, for the reference bridge plugin macspoofchk
iptables|what br_netfilter sends bridged frames through
tcpdump|packet traces of the demo
chromium-headless-shell|shows pages of HTML to their tests
e2fsprogs|mke2fs: disks of nodes of the test cluster
ca-certificates|downloads of Go modules'

# series|Debian meta-package that names its newest build.
kernels='6.1|linux-image-cloud-amd64
6.12|linux-image-6.12-cloud-amd64'

cache=${HOMEPORT_CACHE:-${XDG_CACHE_HOME:-${HOME:?set HOME or HOMEPORT_CACHE}/.cache}/homeport}
check_only=false
apt=(-o APT::Sandbox::User=root)   # plus private folders when not root
updated=false

say() { printf 'deps: %s\n' "$*"; }
die() { printf 'deps: error: %s\n' "$*" >&2; exit 1; }

missing_packages() {
	local have name
	have=" $(dpkg-query -W -f '${db:Status-Abbrev}${Package} ' $(cut -d'|' -f1 <<<"$packages") 2>/dev/null || true) "
	while IFS='|' read -r name _; do
		[[ $have == *" ii $name "* || $have == *"ii  $name "* ]] || echo "$name"
	done <<<"$packages"
}

why() { grep -m1 "^$1|" <<<"$packages" | cut -d'|' -f2; }

promtool_ready() { [[ -x $cache/prometheus/usr/bin/promtool ]]; }

keepalived_ready() { [[ -x $cache/keepalived/usr/sbin/keepalived ]]; }

runtime_ready() { [[ -x $cache/containerd/usr/bin/containerd && -x $cache/containerd/usr/sbin/runc ]]; }

kernel_ready() { [[ -s $cache/kernels/$1/vmlinuz && -s $cache/kernels/$1/release ]]; }

# update refreshes apt's lists once; other people's broken sources do not stop us.
update() {
	$updated && return 0
	updated=true
	if [[ $EUID -ne 0 ]]; then
		mkdir -p "$cache/apt/lists/partial" "$cache/apt/cache/archives/partial"
		apt+=(-o "Dir::State::lists=$cache/apt/lists" -o "Dir::Cache=$cache/apt/cache")
	fi
	say "apt-get update, to learn the current package versions"
	apt-get "${apt[@]}" -qq update || say "apt-get update reported errors; going on with what it got"
}

install_packages() {
	local list=("$@") sudo=()
	if [[ $EUID -ne 0 ]]; then
		if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
			sudo=(sudo)
		else
			die "packages need root; run: sudo apt-get update && sudo apt-get install -y --no-install-recommends ${list[*]}"
		fi
	fi
	say "apt-get update, to learn the current package versions"
	"${sudo[@]}" apt-get -qq update || say "apt-get update reported errors; going on with what it got"
	[[ $EUID -ne 0 ]] || updated=true
	"${sudo[@]}" apt-get install -y -qq --no-install-recommends "${list[@]}" >/dev/null ||
		die "apt-get could not install ${list[*]}; see its message above"
}

# fetch_kernel SERIES META builds the folder aside and renames it, so that an
# interrupted run leaves nothing that looks complete.
fetch_kernel() {
	local series=$1 meta=$2 image release tmp
	update
	image=$(apt-cache "${apt[@]}" depends "$meta" 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ {print $2; exit}')
	[[ -n $image ]] || die "kernel $series: apt knows no package $meta; it is in Debian 12 (main, with bookworm-security): check /etc/apt/sources.list*"
	release=${image#linux-image-}
	[[ $release == "$series".* ]] || die "kernel $series: $meta names $image, another series; Debian 12 with bookworm-security is needed"
	mkdir -p "$cache/kernels"
	tmp=$(mktemp -d "$cache/kernels/.$series.XXXXXX")
	trap "rm -rf ${tmp@Q}" EXIT # locals are gone by then
	say "kernel $series: downloading $image"
	(cd "$tmp" && apt-get "${apt[@]}" -qq download "$image") || die "kernel $series: apt-get download $image failed"
	dpkg -x "$tmp"/*.deb "$tmp/root"
	mkdir -p "$tmp/new/lib/modules"
	cp "$tmp/root/boot/vmlinuz-$release" "$tmp/new/vmlinuz"
	cp "$tmp/root/boot/config-$release" "$tmp/new/config"
	if [[ -d $tmp/root/usr/lib/modules ]]; then
		mv "$tmp/root/usr/lib/modules/$release" "$tmp/new/lib/modules/"
	else
		mv "$tmp/root/lib/modules/$release" "$tmp/new/lib/modules/"
	fi
	say "kernel $series: unpacking modules and computing their order"
	find "$tmp/new/lib/modules" -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P "$(nproc)" xz -d
	PATH=$PATH:/usr/sbin:/sbin depmod -b "$tmp/new" "$release"
	echo "$release" >"$tmp/new/release"
	chmod 0755 "$tmp/new"
	rm -rf "$cache/kernels/$series"
	mv "$tmp/new" "$cache/kernels/$series"
	rm -rf "$tmp"
	trap - EXIT
	say "kernel $series: $release is in $cache/kernels/$series"
}

# fetch_packages FOLDER PACKAGE... is the same for packages as they are.
fetch_packages() {
	local name=$1 tmp deb
	shift
	update
	mkdir -p "$cache"
	tmp=$(mktemp -d "$cache/.$name.XXXXXX")
	trap "rm -rf ${tmp@Q}" EXIT # locals are gone by then
	say "downloading $*"
	(cd "$tmp" && apt-get "${apt[@]}" -qq download "$@") || die "apt-get download $* failed"
	for deb in "$tmp"/*.deb; do dpkg -x "$deb" "$tmp/new"; done
	rm -rf "$cache/$name"
	mv "$tmp/new" "$cache/$name"
	rm -rf "$tmp"
	trap - EXIT
}

main() {
	local pkgs=() p series meta wanting=0
	case ${1:-} in
	'') ;;
	--check) check_only=true ;;
	*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
	esac
	command -v dpkg-query >/dev/null || die "no dpkg-query: this is not Debian; install the packages listed in $0 by hand"
	[[ $(dpkg --print-architecture) == amd64 ]] || die "the VMs run Debian's amd64 kernels; this machine is $(dpkg --print-architecture)"

	mapfile -t pkgs < <(missing_packages)
	for p in "${pkgs[@]}"; do
		say "$p is missing: $(why "$p")"
		wanting=1
	done
	while IFS='|' read -r series meta; do
		kernel_ready "$series" || { say "kernel $series is missing: the VM tests run on it"; wanting=1; }
	done <<<"$kernels"
	runtime_ready || { say "containerd and runc are missing: the test cluster's nodes run them"; wanting=1; }
	promtool_ready || { say "promtool is missing: the tests of alerts and dashboard evaluate them with it"; wanting=1; }
	keepalived_ready || { say "keepalived is missing: guests of the lab speak VRRP with it"; wanting=1; }
	if $check_only; then
		[[ $wanting -eq 0 ]] || say "run hack/deps.sh to install it"
		exit $wanting
	fi

	[[ ${#pkgs[@]} -eq 0 ]] || install_packages "${pkgs[@]}"
	while IFS='|' read -r series meta; do
		kernel_ready "$series" || fetch_kernel "$series" "$meta"
	done <<<"$kernels"
	runtime_ready || fetch_packages containerd containerd runc
	promtool_ready || fetch_packages prometheus prometheus
	keepalived_ready || fetch_packages keepalived keepalived
	[[ $wanting -eq 0 ]] || say "everything is in place"
}

main "$@"
