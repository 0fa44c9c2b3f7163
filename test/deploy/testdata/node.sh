# A node on which the agent's pod is played: sh node.sh AGENT-CAPABILITIES
# UNINSTALL-CAPABILITIES MOUNT-COMMAND, the capabilities as ",+net_admin,+bpf". /hp has
# the programs. Mounts and /proc/sys are as in a container; each step says what it saw.
set -u
agent_caps=$1 uninstall_caps=$2 mount_bpffs=$3
# as CAPABILITIES COMMAND... becomes the command, with no others
as() { caps=$1; shift; exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all$caps" "$@"; }
while umount /sys/fs/bpf 2>/dev/null; do :; done
mount -t tmpfs tmpfs /run
mkdir -p /run/pods /hp/site
/bin/sh -c "$mount_bpffs" && /bin/sh -c "$mount_bpffs"
echo "bpffs mounted: $(grep -c ' /sys/fs/bpf bpf ' /proc/mounts)"
mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys
# The host's own iptables, in both variants.
modprobe br_netfilter
for variant in nft legacy; do iptables-$variant -P FORWARD DROP; done
ip link set lo up
ip link add eth1 type veth peer name switch && ip link set switch up

cat >/hp/site/site.yaml <<'EOF'
apiVersion: homeport.dev/v1alpha1
kind: VLANTrunk
metadata: {name: trunk0}
spec:
  bridge: {name: br-trunk0, managed: true}
  uplink: {interface: eth1, allowedVLANs: "100"}
  hostFirewall: Bypass
---
apiVersion: homeport.dev/v1alpha1
kind: VLANNetwork
metadata: {name: vlan100}
spec: {trunk: trunk0, vlan: {mode: Access, id: 100}, defaultAction: Drop}
EOF
cat >/hp/cni.json <<'EOF'
{"cniVersion": "1.0.0", "name": "vlan100", "type": "homeport", "network": "vlan100"}
EOF
# wait_for WORDS COMMAND...: until its output has them
wait_for() {
	words=$1; shift
	for _ in $(seq 300); do "$@" 2>&1 | grep -q "$words" && return 0; sleep 0.1; done
	echo "not seen: $words; last:"; "$@" 2>&1; cat /hp/log; exit 1
}

(as "" /hp/bridge-agent install --to /hp/bin)
as "$agent_caps" /hp/bridge-agent run --source dir:/hp/site --metrics-addr 127.0.0.1:9747 --cni-bin /hp/bin >/hp/log 2>&1 &
agent=$!
wait_for "Node is ready" /hp/homeportctl status
echo "agent: $(grep CapEff /proc/$agent/status)"
for variant in nft legacy; do
	wait_for HOMEPORT-FORWARD iptables-$variant -S FORWARD
	wait_for HOMEPORT-RAW iptables-$variant -t raw -S PREROUTING
	echo "$variant: bypassed"
done
rm /hp/bin/homeport
wait_for homeport ls /hp/bin

: >/run/pods/a && unshare --net=/run/pods/a true
export CNI_CONTAINERID=c1 CNI_NETNS=/run/pods/a CNI_IFNAME=net1 CNI_PATH=/hp/bin CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE=vms;K8S_POD_NAME=a'
CNI_COMMAND=ADD /hp/bin/homeport </hp/cni.json >/dev/null || { cat /hp/log; exit 1; }
/hp/homeportctl ports
kill $agent; wait $agent
as "$agent_caps" /hp/bridge-agent run --source dir:/hp/site --cni-bin /hp/bin >>/hp/log 2>&1 &
agent=$!
wait_for "Node is ready" /hp/homeportctl status
echo "again: $(/hp/homeportctl status | grep '^Ports')"
echo "traced: $(/hp/homeportctl trace a --from 10.0.0.1 --to 10.0.0.2:80/tcp | grep '^Stage')"
echo "observed: $(/hp/homeportctl observe | wc -l)"
kill $agent; wait $agent

(as "$uninstall_caps" /hp/bridge-agent uninstall --cni-bin /hp/bin) 2>&1
CNI_COMMAND=DEL /hp/bin/homeport </hp/cni.json 2>/dev/null && echo "deleted"
(as "$uninstall_caps" /hp/bridge-agent uninstall --cni-bin /hp/bin)
echo "left: $(ls /hp/bin /sys/fs/bpf /run/homeport 2>/dev/null | grep homeport) $(ip -o link show type bridge)"
echo "chains left: $({ iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; } 2>/dev/null | grep -c HOMEPORT)"
