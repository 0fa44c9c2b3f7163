package datapath

//go:generate go run ../../hack/abigen -abi ../../bpf/include/abi.h -go ../policy/zz_generated_reasons.go -doc ../../docs/reference/reasons.md

// The multiarch folders are Debian's: clang for a BPF target does not look there.
//go:generate go tool bpf2go -cc clang -go-package datapath -target bpfel,bpfeb -type hp_port -type hp_handover -type hp_control -type hp_policy_name -type hp_flow_key -type hp_new_key -type hp_flow -type hp_reason_counter -type hp_hits -type hp_counter -type hp_event -type hp_quota -type hp_fast_uplink -type hp_uplink -type hp_header -type hp_rule -type addr_key -type fragmented -type hp_station_key -type hp_rates -type hp_late_key -type hp_mac_key -type hp_address_key -type hp_address -type hp_heard -type hp_ethertypes port ../../bpf/port.bpf.c -- -O2 -mcpu=v3 -Wall -Wextra -Werror -I../../bpf/include -idirafter /usr/include/x86_64-linux-gnu -idirafter /usr/include/aarch64-linux-gnu

// Debian's Python has Debian's Scapy.
//go:generate sh -c "/usr/bin/python3 testdata/attacks.py >testdata/attacks.tsv"
