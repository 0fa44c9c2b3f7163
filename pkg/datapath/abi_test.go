package datapath

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf/btf"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/policy"
	"github.com/homeport-cni/homeport/pkg/policy/compile"
	"github.com/homeport-cni/homeport/pkg/vlan"
)

// Every struct that both sides read has the same size and offsets in Go and in
// the compiled C.
func TestABIStructs(t *testing.T) {
	spec, err := loadPort()
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]any{
		"hp_header": portHpHeader{}, "hp_rule": portHpRule{}, "hp_port": portHpPort{}, "hp_control": portHpControl{},
		"hp_policy_name": portHpPolicyName{}, "hp_flow_key": portHpFlowKey{}, "hp_new_key": portHpNewKey{},
		"hp_flow": portHpFlow{}, "hp_counter": portHpCounter{}, "hp_reason_counter": portHpReasonCounter{}, "addr_key": portAddrKey{},
		"hp_address_key": portHpAddressKey{}, "hp_address": portHpAddress{}, "hp_heard": portHpHeard{}, "hp_ethertypes": portHpEthertypes{}, "hp_quota": portHpQuota{},
	} {
		var c *btf.Struct
		if err := spec.Types.TypeByName(name, &c); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		compareStruct(t, name, c, reflect.TypeOf(v))
	}
	// The compiler of policies has a header of its own.
	var c *btf.Struct
	if err := spec.Types.TypeByName("hp_header", &c); err != nil {
		t.Fatal(err)
	}
	compareStruct(t, "compile.Header", c, reflect.TypeOf(compile.Header{}))
}

func compareStruct(t *testing.T, name string, c *btf.Struct, g reflect.Type) {
	t.Helper()
	if uint32(g.Size()) != c.Size {
		t.Errorf("%s: %d bytes in Go, %d in C", name, g.Size(), c.Size)
	}
	for _, m := range c.Members {
		field, ok := g.FieldByName(camel(m.Name))
		if !ok {
			t.Errorf("%s.%s: not in Go", name, m.Name)
			continue
		}
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if uint32(field.Offset) != m.Offset.Bytes() || int(field.Type.Size()) != size {
			t.Errorf("%s.%s: %d bytes at %d in Go, %d at %d in C", name, m.Name, field.Type.Size(), field.Offset, size, m.Offset.Bytes())
		}
	}
}

func camel(s string) string {
	var b strings.Builder
	for _, w := range strings.Split(s, "_") {
		b.WriteString(strings.ToUpper(w[:1]) + w[1:])
	}
	return b.String()
}

// Every number that Go repeats is the header's.
// A connection takes 144 bytes at most, and so a million of them 144 MB. The kernel puts 48
// before what a hash has of it, struct htab_elem of kernel/bpf/hashtab.c.
func TestFlowMemory(t *testing.T) {
	if n := 48 + unsafe.Sizeof(portHpFlowKey{}) + unsafe.Sizeof(portHpFlow{}); n > 144 {
		t.Errorf("a connection takes %d bytes", n)
	}
}

func TestABIConstants(t *testing.T) {
	header, err := os.ReadFile("../../bpf/include/abi.h")
	if errors.Is(err, os.ErrNotExist) {
		t.Fatal("bpf/include/abi.h is not where it is in the sources")
	}
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]int{}
	for _, m := range regexp.MustCompile(`(?m)^(?:#define|\t) ?(HP_\w+)(?: =)? (\d+)\b`).FindAllSubmatch(header, -1) {
		values[string(m[1])], _ = strconv.Atoi(string(m[2]))
	}
	for name, want := range map[string]int{
		"HP_ABI_VERSION": ABIVersion, "HP_PORTS_MAX": PortsMax, "HP_POLICIES_MAX": PoliciesMax,
		"HP_BOOK_COUNTERS": bookCounters, "HP_BOOKS_MAX": booksMax, "HP_CONNS_QUOTA": ConnsQuota, "HP_REASON_MAX": reasonsMax, "HP_REASON_COUNTED": reasonsCounted,
		"HP_NAME_MAX": nameMax, "HP_PORT_FAST": portFast, "HP_PORT_PROMISCUOUS": portPromiscuous, "HP_PORT_BPDU_GUARD": portBPDUGuard,
		"HP_PORT_RA_GUARD": portRAGuard, "HP_PORT_DHCP_GUARD": portDHCPGuard, "HP_PORT_FORGED": portForged,
		"HP_PORT_MAC_CHANGES": portMACChanges, "HP_STATIONS_A_PORT": StationsOfPort,
		"HP_PORT_RATES": portRates, "HP_PORT_IP_GUARD": portIPGuard, "HP_PORT_STRICT": portStrict, "HP_PORT_ARP_GUARD": portARPGuard,
		"HP_PORT_ND_GUARD": portNDGuard, "HP_PORT_ETHERTYPES": portEtherTypes, "HP_PORT_UNICAST": portUnicast, "HP_ETHERTYPES_MAX": len(attach.EtherTypes{}),
		"HP_RATE_MAX":     attach.MaxRate,
		"HP_EVENT_LOGGED": eventLogged, "HP_EVENT_MONITORED_LOGGED": eventMonitoredLogged, "HP_EVENT_ENDED": eventEnded, "HP_EVENT_IP": eventIP,
		"HP_EVENT_PORTS": eventPorts, "HP_EVENTS_A_WINDOW": EventsOfPort, "HP_EVENTS_OF_NODE": EventsOfNode,
		"HP_ADDRESS_FIRM": addressFirm, "HP_ADDRESS_SHARED": addressShared, "HP_ADDRESS_WAITS": addressWaits, "HP_ADDRESS_NOBODYS": addressNobodys,
		"HP_ADDRESSES": AddressesMax, "HP_HEARD_SHORT": HeardShort, "HP_HEARD_LONG": HeardLong, "HP_HEARD_A_WINDOW": HeardOfPort, "HP_HEARD_OF_NODE": HeardOfNode,
		"HP_PORT_CELLS": portCells, "HP_PORT_PROBES": portProbes,
		"HP_GENERATION_ETHER_BIT": generationEtherBit,
		"HP_PAGE_SIZE":            compile.PageSize, "HP_WORDS_MAX": compile.WordsMax,
		"HP_DARK": int(attach.Dark), "HP_QUARANTINED": int(attach.Quarantined), "HP_ACTIVE": int(attach.Active), "HP_RELEASED": int(attach.Released),
		"HP_OUT": int(policy.Out), "HP_IN": int(policy.In), "HP_DIRS": hooks,
		"HP_ACCESS": int(vlan.Access), "HP_TRUNK": int(vlan.Trunk), "HP_NATIVE": int(vlan.Native),
		"HP_DROP": int(policy.Drop), "HP_ALLOW": int(policy.Allow),
		"HP_FLOW_NEW": int(FlowNew), "HP_FLOW_OPEN": int(FlowOpen), "HP_FLOW_CLOSING": int(FlowClosing),
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s is %d in C (found: %v), %d in Go", name, got, ok, want)
		}
	}
	if RuleCountersMax != compile.CountersMax {
		t.Errorf("a node counts %d rules, and the compiler gives out %d counters", RuleCountersMax, compile.CountersMax)
	}
	if int(FromVM) != int(policy.Out) || int(ToVM) != int(policy.In) {
		t.Error("hooks are not numbered as directions")
	}
}

// Reasons have the values that the programs were compiled with.
func TestABIReasons(t *testing.T) {
	spec, err := loadPort()
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("hp_reason", &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Values) != len(policy.Reasons()) {
		t.Errorf("%d reasons in C, %d in Go", len(e.Values), len(policy.Reasons()))
	}
	for _, v := range e.Values {
		if got := policy.Reason(v.Value).Label(); "HP_"+strings.ToUpper(got) != v.Name {
			t.Errorf("%s = %d is %s in Go", v.Name, v.Value, got)
		}
	}
}

// Defaults of the knobs are the same in C and in Go.
func TestABITimeouts(t *testing.T) {
	spec, err := loadPort()
	if err != nil {
		t.Fatal(err)
	}
	def := DefaultTimeouts()
	for name, want := range map[string]uint32{
		portVarTcpNewTicks: ticks(def.TCPNew), portVarTcpOpenTicks: ticks(def.TCPOpen), portVarTcpClosingTicks: ticks(def.TCPClosing),
		portVarUdpNewTicks: ticks(def.UDPNew), portVarUdpOpenTicks: ticks(def.UDPOpen), portVarIcmpTicks: ticks(def.ICMP),
	} {
		var got uint32
		if err := spec.Variables[name].Get(&got); err != nil || got != want {
			t.Errorf("%s is %d in C, %d in Go: %v", name, got, want, err)
		}
	}
	header, err := os.ReadFile("../../bpf/include/clock.h")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("#define AHEAD SECONDS(%d)\n", (time.Duration(ahead+1)<<tickShift).Truncate(time.Second)/time.Second); !strings.Contains(string(header), want) {
		t.Errorf("clock.h has no %s", want)
	}
}

// Objects name no file outside of the sources and the system's headers.
func TestObjectsNameNoPaths(t *testing.T) {
	path := regexp.MustCompile(`/[a-z]+(/[A-Za-z0-9_.-]+)+`)
	for _, name := range []string{"port_bpfel.o", "port_bpfeb.o"} {
		object, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range path.FindAll(object, -1) {
			if s := string(p); !strings.HasPrefix(s, "/bpf/") && !strings.HasPrefix(s, "/include/") && !strings.HasPrefix(s, "/usr/include/") {
				t.Errorf("%s names %s", name, s)
			}
		}
	}
}
