package policy

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestParseMACs(t *testing.T) {
	for text, want := range map[string]string{
		"00:50:56:0a:0b:0c": "100::50:560a:b0c-100::50:560a:b0c 00:50:56:0a:0b:0c", "00-50-56-0A-0B-0C": "100::50:560a:b0c-100::50:560a:b0c 00:50:56:0a:0b:0c",
		"00:50:56:00:00:00/24": "100::50:5600:0-100::50:56ff:ffff 00:50:56:00:00:00/24",
		"01:00:5e:00:00:00/25": "100::100:5e00:0-100::100:5e7f:ffff 01:00:5e:00:00:00/25",
		"ff:ff:ff:ff:ff:ff/48": "100::ffff:ffff:ffff-100::ffff:ffff:ffff ff:ff:ff:ff:ff:ff",
		"00:00:00:00:00:00/1":  "100::-100::7fff:ffff:ffff 00:00:00:00:00:00/1",
	} {
		r, err := ParseMACs(text)
		if err != nil || r.First.String()+"-"+r.Last.String()+" "+r.MACText() != want {
			t.Errorf("%s: %v-%v %s, %v; want %s", text, r.First, r.Last, r.MACText(), err, want)
		}
		if again, err := ParseMACs(r.MACText()); err != nil || again != r {
			t.Errorf("%s is told as %s, which is %v, %v", text, r.MACText(), again, err)
		}
	}
	for text, want := range map[string]string{
		"":                        "six bytes in hex",
		"00:50:56:0a:0b":          "six bytes in hex",
		"00:50:56:0a:0b:0c:0d:0e": "six bytes in hex",
		"10.0.0.1":                "six bytes in hex",
		"00:50:56:0a:0b:0c/24":    "write 00:50:56:00:00:00/24, or 00:50:56:0a:0b:0c for the one MAC",
		"00:50:56:00:00:00/0":     "from 1 to 48",
		"00:50:56:00:00:00/49":    "from 1 to 48",
		"00:50:56:00:00:00/x":     "from 1 to 48",
	} {
		if r, err := ParseMACs(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v; want an error with %q", text, r, err, want)
		}
	}
}

func TestParseEtherType(t *testing.T) {
	for text, want := range map[string]uint16{"IPv4": 0x800, "ipv6": 0x86dd, "ARP": 0x806, "LLDP": 0x88cc, "0x8892": 0x8892, "0X88CC": 0x88cc, "0x600": 0x600, "0xffff": 0xffff} {
		n, err := ParseEtherType(text)
		if err != nil || n != want {
			t.Errorf("%s: %#x, %v", text, n, err)
		}
		s := Service{EtherType: n}
		if again, err := ParseService(s.String()); err != nil || again != s {
			t.Errorf("%s is told as %v, which is %v, %v", text, s, again, err)
		}
	}
	for text, want := range map[string]string{
		"": "no EtherType", "8892": "no EtherType", "0x5ff": "no EtherType", "0x10000": "no EtherType", "0xzz": "no EtherType", "IPX": "no EtherType",
		"RARP": "passes before any rule", "0x8035": "passes before any rule", "0x8100": "is a VLAN tag", "0x88A8": "is a VLAN tag",
	} {
		if n, err := ParseEtherType(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %#x, %v; want an error with %q", text, n, err, want)
		}
	}
	for _, s := range []Service{{EtherType: 0x88cc, Last: 0xffff}, {EtherType: 0x88cc, Protocol: TCP}, {EtherType: 0x5ff}, {EtherType: EtherRARP}} {
		if s.Check() == nil {
			t.Errorf("%+v passes", s)
		}
	}
}

// TestStoredEthernet: an Ethernet rule survives being stored, and versions that do not know such
// rules cannot read it: they would take one for every frame for one for every packet.
func TestStoredEthernet(t *testing.T) {
	r := Rule{Key: RuleKey{Policy: "p", ID: 1}, Ethernet: true, Action: Allow, Directions: InOut, NotSources: true,
		Sources: []AddrRange{{First: MACAddr(MAC{1}), Last: MACAddr(MAC{2})}}, Services: []Service{{EtherType: 0x8892}}}
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var again Rule
	if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(again, r) {
		t.Errorf("%s is read as %+v, %v", text, again, err)
	}
	var before struct{ Directions Directions } // what was there before any mark
	if err := json.Unmarshal(text, &before); err == nil {
		t.Errorf("an older version reads %s", text)
	}
	if err := json.Unmarshal([]byte(`{"Key":"p/1","Action":"Allow","Directions":"later:InOut"}`), &again); err == nil {
		t.Error("this version reads what a later one has marked")
	}
	for _, mark := range []string{"peers:", "local:"} { // that versions before take off
		if strings.Contains(string(text), mark) {
			t.Errorf("an older version reads %s", text)
		}
	}
}
