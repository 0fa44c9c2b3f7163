package probe

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Parts of LLDP frames as IEEE 802.1AB-2016, 8.5, and the annexes D of 802.1Q and 79 of 802.3 draw them.
const (
	lldpChassis = `0207 04 001c73aabbcc `         // MAC
	lldpPort    = `040c 05 "Ethernet1/7" `        // name of the interface
	lldpTTL     = `0602 0078 `                    // 120 s
	lldpPVID    = `fe06 0080c2 01 0064 `          // 100
	lldpEnd     = `0000 000000000000000000000000` // and padding
)

// lldpOfSwitch is all that a data centre's switch says at a trunk.
const lldpOfSwitch = lldpChassis + lldpPort + lldpTTL + `
	0816 "to hv-17, rack 4, eth1"
	0a10 "leaf-3.example.o"
	0c1a "Some Switch OS version 4.2"
	0e04 0014 0004
	100c 05 01 c0000201 02 00000001 00
	fe06 0080c2 01 0064
	fe07 0080c2 02 03 0064
	fe0e 0080c2 03 0064 07 "VLAN100"
	fe0b 0080c2 03 00c8 04 "blue"
	fe07 0080c2 03 0ffe 00
	fe09 0080c2 04 04 88cc0000
	fe09 00120f 01 03 6c11 001e
	fe09 00120f 03 01 00000000
	fe06 00120f 04 2400
	fe05 0001020304
	` + lldpEnd

func TestReadLLDP(t *testing.T) {
	mac, port := "00:1c:73:aa:bb:cc", "Ethernet1/7"
	least := func(change func(*Neighbour)) *Neighbour {
		n := &Neighbour{Chassis: mac, Port: port, TTL: 2 * time.Minute}
		change(n)
		return n
	}
	same := least(func(*Neighbour) {})
	for _, tt := range []struct {
		name, frame string
		err         string
		want        *Neighbour
	}{
		{name: "nothing", err: "no chassis ID"},
		{name: "end at once", frame: lldpEnd, err: "no chassis ID"},
		{name: "no chassis", frame: lldpPort + lldpTTL + lldpEnd, err: "no chassis ID"},
		{name: "no port", frame: lldpChassis + lldpTTL + lldpEnd, err: "no port ID"},
		{name: "no time to live", frame: lldpChassis + lldpPort + lldpEnd, err: "no time to live"},
		{name: "all behind the end", frame: `0000 ` + lldpChassis + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "empty chassis", frame: `0200 ` + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "chassis without a name", frame: `0201 07 ` + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "chassis of control characters", frame: `0205 07 1b070a00 ` + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "chassis with a short MAC", frame: `0206 04 4142434445 ` + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "chassis with a short address", frame: `0205 05 01414243 ` + lldpPort + lldpTTL, err: "no chassis ID"},
		{name: "port with a long MAC", frame: lldpChassis + `0408 03 41424344454647 ` + lldpTTL, err: "no port ID"},
		{name: "port with an address of another family", frame: lldpChassis + `0406 04 0641424344 ` + lldpTTL, err: "no port ID"},
		{name: "empty port", frame: lldpChassis + `0401 05 ` + lldpTTL, err: "no port ID"},
		{name: "time to live of a byte", frame: lldpChassis + lldpPort + `0601 78 ` + lldpEnd, err: "no time to live"},
		{name: "time to live of none", frame: lldpChassis + lldpPort + `0600 ` + lldpEnd, err: "no time to live"},
		{name: "a part past the end", frame: lldpChassis + lldpPort + lldpTTL + `0a05 "leaf"`, err: errShort.Error()},

		{name: "least", frame: lldpChassis + lldpPort + lldpTTL + lldpEnd, want: same},
		{name: "without an end", frame: lldpChassis + lldpPort + lldpTTL, want: same},
		{name: "in another order", frame: lldpTTL + lldpPort + lldpChassis, want: same},
		{name: "broken behind the end", frame: lldpChassis + lldpPort + lldpTTL + `0000 0aff`, want: same},
		{name: "shutdown", frame: lldpChassis + lldpPort + `0602 0000 ` + lldpEnd, want: least(func(n *Neighbour) { n.TTL = 0 })},
		{name: "longest time", frame: lldpChassis + lldpPort + `0602 ffff `, want: least(func(n *Neighbour) { n.TTL = 65535 * time.Second })},
		{name: "time to live with more behind", frame: lldpChassis + lldpPort + `0603 0078ff `, want: same},
		{name: "as a switch sends it", frame: lldpOfSwitch, want: &Neighbour{Chassis: mac, Name: "leaf-3.example.o", Port: port, PortIs: "to hv-17, rack 4, eth1",
			TTL: 2 * time.Minute, Native: 100, VLANs: ids(t, "100,200,4094"), MaxFrame: 9216}},
		{name: "chassis by IPv4, port by MAC", frame: `0206 05 01 c0000201 0407 03 001c73aabbcd ` + lldpTTL, want: least(func(n *Neighbour) { n.Chassis, n.Port = "192.0.2.1", "00:1c:73:aa:bb:cd" })},
		{name: "chassis and port by IPv6", frame: `0212 05 02 fe800000000000000000000000000001 0412 04 02 20010db8000000000000000000000007 ` + lldpTTL,
			want: least(func(n *Neighbour) { n.Chassis, n.Port = "fe80::1", "2001:db8::7" })},
		{name: "names of other kinds", frame: `0206 07 "sw-01" 0403 07 "17" ` + lldpTTL, want: least(func(n *Neighbour) { n.Chassis, n.Port = "sw-01", "17" })},
		{name: "a port's kind that a chassis has for MACs", frame: lldpChassis + `0407 05 "eth0/1" ` + lldpTTL, want: least(func(n *Neighbour) { n.Port = "eth0/1" })},
		{name: "UTF-8", frame: lldpChassis + lldpPort + lldpTTL + `0a06 "Käfer" `, want: least(func(n *Neighbour) { n.Name = "Käfer" })},
		{name: "PVID 0, for none", frame: lldpChassis + lldpPort + lldpTTL + `fe06 0080c2 01 0000`, want: same},
		{name: "PVID 4095", frame: lldpChassis + lldpPort + lldpTTL + `fe06 0080c2 01 0fff`, want: same},
		{name: "PVID of a byte", frame: lldpChassis + lldpPort + lldpTTL + `fe05 0080c2 01 64`, want: same},
		{name: "names of VLANs 0 and 4095", frame: lldpChassis + lldpPort + lldpTTL + `fe07 0080c2 03 0000 00 fe07 0080c2 03 0fff 00`, want: same},
		{name: "broken VLAN name, whole frame size", frame: lldpChassis + lldpPort + lldpTTL + `fe04 0080c2 03 fe03 0080c2 fe06 00120f 04 05ee`, want: least(func(n *Neighbour) { n.MaxFrame = 1518 })},
		{name: "another organization's", frame: lldpChassis + lldpPort + lldpTTL + `fe06 0080c3 01 0064 fe06 00120e 04 05ee fe07 00120f 03 0064 00`, want: same},
		{name: "reserved types", frame: lldpChassis + lldpPort + lldpTTL + `1203 414243 fc02 4142`, want: same},
	} {
		got, err := ReadLLDP(bytesOf(t, tt.frame))
		if d := cmp.Diff(tt.want, got, comparing); !says(err, tt.err) || d != "" {
			t.Errorf("%s: %v, want %q (-want +got):\n%s", tt.name, err, tt.err, d)
		}
	}
}

// TestLLDPText: a switch's words are printed on terminals.
func TestLLDPText(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		" \t\r\n ":                     "",
		"leaf-3\x00":                   "leaf-3",
		"\x1b]0;title\x07leaf":         "]0;titleleaf",
		"\x1b[31mred\x1b[0m":           "[31mred[0m",
		"a\nb\rc\x08d\x7f":             "abcd",
		"\u009b2Jx":                    "2Jx", // CSI as one rune
		"\u202egnp.exe":                "gnp.exe",
		"\xff\xfeok\xc3":               "ok",
		"zero\u200bwidth\u2028line":    "zerowidthline",
		"  a name with spaces, äöü 漢 ": "a name with spaces, äöü 漢",
	} {
		frame := slices.Concat(bytesOf(t, lldpChassis+lldpPort+lldpTTL), []byte{0x0a, byte(len(in))}, []byte(in), []byte{0x08, byte(len(in))}, []byte(in))
		n, err := ReadLLDP(frame)
		if err != nil || n.Name != want || n.PortIs != want {
			t.Errorf("%q is %+v, %v; want %q", in, n, err, want)
		}
	}
}

// TestLLDPCut: a part is there or it is not.
func TestLLDPCut(t *testing.T) {
	good := bytesOf(t, lldpOfSwitch)
	const mandatory = 9 + 14 + 4
	var short, read int
	for n := range good {
		got, err := ReadLLDP(slices.Clip(good[:n]))
		switch {
		case n < mandatory && err == nil:
			t.Errorf("cut to %d bytes: %+v", n, got)
		case errors.Is(err, errShort):
			short++
		case err == nil:
			read++
		}
	}
	if short == 0 || read == 0 {
		t.Errorf("%d too short, %d read", short, read)
	}
}

func TestNeighbour(t *testing.T) {
	n := &Neighbour{Chassis: "00:1c:73:aa:bb:cc", Port: "Ethernet1/7"}
	if n.String() != "00:1c:73:aa:bb:cc Ethernet1/7" {
		t.Errorf("without a name: %v", n)
	}
	n, err := ReadLLDP(bytesOf(t, lldpOfSwitch))
	must(t, err)
	if n.String() != "leaf-3.example.o Ethernet1/7" {
		t.Errorf("with a name: %v", n)
	}
	text, err := json.Marshal(n)
	must(t, err)
	if !strings.Contains(string(text), `"vlans":"100,200,4094"`) {
		t.Errorf("JSON %s", text)
	}
	var back Neighbour
	must(t, json.Unmarshal(text, &back))
	if d := cmp.Diff(n, &back, comparing); d != "" {
		t.Errorf("by JSON and back (-want +got):\n%s", d)
	}
}
