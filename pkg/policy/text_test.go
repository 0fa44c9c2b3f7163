package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestParseAddrRangeRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                    "no IP address",
		"10.0.0":              "no IP address",
		"10.0.0.1/8":          "write 10.0.0.0/8, or 10.0.0.1",
		"10.0.0.0/33":         "no CIDR",
		"10.0.0.9-10.0.0.1":   "write 10.0.0.1-10.0.0.9",
		"10.0.0.1-fd00::1":    "both ends",
		"fe80::1%eth0":        "no zone",
		"10.0.0.1-":           "no IP address",
		"10.0.0.1-10.0.0.2-3": "no IP address",
	} {
		if r, err := ParseAddrRange(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want an error with %q", text, r, err, want)
		}
	}
}

func TestAddrRangeText(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1":                             "10.0.0.1",
		"10.0.0.1/32":                          "10.0.0.1",
		"10.0.0.0/24":                          "10.0.0.0/24",
		"10.0.0.0-10.0.0.255":                  "10.0.0.0/24",
		"10.0.0.0 - 10.0.0.254":                "10.0.0.0-10.0.0.254",
		"10.0.0.1-10.0.0.2":                    "10.0.0.1-10.0.0.2",
		"0.0.0.0/0":                            "0.0.0.0/0",
		"::/0":                                 "::/0",
		"fd00::-fd00::ffff":                    "fd00::/112",
		"::ffff:10.0.0.0/120":                  "10.0.0.0/24",
		"::ffff:10.0.0.1":                      "10.0.0.1",
		"::fffe:0:0-::ffff:1:0:0":              "::fffe:0:0-::ffff:1:0:0",
		"fd00::1-fd00::2":                      "fd00::1-fd00::2",
		"255.255.255.254-255.255.255.255":      "255.255.255.254/31",
		"255.255.255.255":                      "255.255.255.255",
		"fd00:0:0:8000::-fd00:0:0:ffff:ffff::": "fd00:0:0:8000::-fd00:0:0:ffff:ffff::",
	} {
		r, err := ParseAddrRange(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: got %v, %v, want %q", text, r, err, want)
			continue
		}
		if again, err := ParseAddrRange(r.String()); err != nil || again != r {
			t.Errorf("%q does not read back: %v, %v", r, again, err)
		}
	}
}

func TestParseServiceRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "protocol must be",
		"80":                   "protocol must be",
		"TCP/80":               "protocol must be",
		"tcp/":                 "0 to 65535",
		"tcp/65536":            "0 to 65535",
		"tcp/-1":               "0 to 65535",
		"tcp/90-80":            "write tcp/80-90",
		"udp/80-90-100":        "0 to 65535",
		"icmp/256":             "0 to 255",
		"icmp/3/256":           "0 to 255",
		"icmp/3/4/5":           "0 to 255",
		"icmpv6/129-128":       "write icmpv6/128-129",
		"icmp/3/4-3/3":         "write icmp/3/3-3/4",
		"protocol47/1":         "protocol must be",
		"ip":                   "protocol must be",
		"ip/256":               "0 to 255, as ip/47",
		"ip/47/1":              "0 to 255, as ip/47",
		"ip/gre":               "0 to 255, as ip/47",
		"ip/47 from 1":         "protocol must be",
		"tcp from 0":           "from 1 on",
		"tcp from 9-8":         "write from 8-9",
		"tcp from ":            "0 to 65535",
		"icmp from 1":          "source ports are of",
		"icmp/echo":            "0 to 255",
		"tcp/http":             "0 to 65535",
		"tcp/80,443":           "0 to 65535",
		" tcp/80":              "protocol must be",
		"icmp/8-":              "0 to 255",
		"sctp/1000-999":        "write sctp/999-1000",
		"tcp/80 - 90":          "0 to 65535",
		"icmpv6/128/0/-1":      "0 to 255",
		"tcp with ":            `"" is no TCP flag: want some of FIN, SYN`,
		"tcp with SYN,!":       `"!" is no TCP flag`,
		"tcp with syn,SYN,ACK": "SYN is there twice",
		"tcp with SYN,!SYN":    "SYN is there twice: want each flag once, as SYN or !SYN",
		"udp with SYN":         "flags are of tcp",
		"ip/47 with SYN":       "protocol must be",
		"tcp with SYN from 1":  "is no TCP flag",
	} {
		if s, err := ParseService(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want an error with %q", text, s, err, want)
		}
	}
}

func TestServiceText(t *testing.T) {
	for text, want := range map[string]Service{
		"tcp":                            {Protocol: TCP, First: 0, Last: 65535},
		"tcp/80":                         {Protocol: TCP, First: 80, Last: 80},
		"udp/80-90":                      {Protocol: UDP, First: 80, Last: 90},
		"icmp":                           {Protocol: ICMP, First: 0, Last: 0xffff},
		"icmp/8":                         {Protocol: ICMP, First: 0x0800, Last: 0x08ff},
		"icmp/8-10":                      {Protocol: ICMP, First: 0x0800, Last: 0x0aff},
		"icmpv6/1/4":                     {Protocol: ICMPv6, First: 0x0104, Last: 0x0104},
		"icmpv6/1/4-2/0":                 {Protocol: ICMPv6, First: 0x0104, Last: 0x0200},
		"icmp/255/255":                   {Protocol: ICMP, First: 0xffff, Last: 0xffff},
		"udp/0":                          {Protocol: UDP, First: 0, Last: 0},
		"udp/65535":                      {Protocol: UDP, First: 65535, Last: 65535},
		"icmp/3/0-3/254":                 {Protocol: ICMP, First: 0x0300, Last: 0x03fe},
		"icmpv6/0-254":                   {Protocol: ICMPv6, First: 0, Last: 0xfeff},
		"sctp":                           {Protocol: SCTP, Last: 65535},
		"sctp/2905":                      {Protocol: SCTP, First: 2905, Last: 2905},
		"ip/47":                          {Protocol: 47, Last: 65535},
		"ip/0":                           {Last: 65535},
		"tcp from 20":                    {Protocol: TCP, Last: 65535, SourceFirst: 20, SourceLast: 20},
		"udp/53 from 1-9":                {Protocol: UDP, First: 53, Last: 53, SourceFirst: 1, SourceLast: 9},
		"icmpv6/0/1-255/25":              {Protocol: ICMPv6, First: 1, Last: 0xff19},
		"tcp with SYN,!ACK":              {Protocol: TCP, Last: 65535, Flags: TCPFlags{18, 2}},
		"tcp/80 from 1-9 with !FIN,!CWR": {Protocol: TCP, First: 80, Last: 80, SourceFirst: 1, SourceLast: 9, Flags: TCPFlags{129, 0}},
	} {
		if got := want.String(); got != text {
			t.Errorf("%+v prints %q, want %q", want, got, text)
		}
		if got, err := ParseService(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	if got, err := ParseService("tcp/80 with !ack , syn"); err != nil || got != (Service{Protocol: TCP, First: 80, Last: 80, Flags: TCPFlags{18, 2}}) {
		t.Errorf("flags in another order: %+v, %v", got, err)
	}
	// Protocols with a name are read by number, too.
	if got, err := ParseService("ip/6"); err != nil || got != (Service{Protocol: TCP, Last: 0xffff}) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// What is stored comes back, nil lists and empty ones told apart.
func TestJSON(t *testing.T) {
	type stored struct {
		Set      Set
		Counters map[RuleKey]uint32
		Dir      Direction
	}
	want := stored{
		Set: Set{Network: "n", Default: Allow, Rules: []Rule{
			{Key: RuleKey{Policy: "web", ID: 1001}, Action: Drop, Directions: InOut, Sources: ranges(t, "10.0.0.0/8", "fd00::1-fd00::9")},
			{Key: RuleKey{Policy: "web", ID: 1002}, Action: Allow, Directions: OnlyIn, Sources: []AddrRange{}, Services: []Service{{Protocol: TCP, First: 80, Last: 90}}},
			{Key: RuleKey{Policy: "a.b", ID: 0}, Directions: OnlyOut},
		}},
		Counters: map[RuleKey]uint32{{Policy: "web", ID: 1001}: 1, DefaultKey("n"): 2, DefaultKey(""): 3},
		Dir:      In,
	}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got stored
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("%s\n%s", text, diff)
	}
}

func TestWordsRefuse(t *testing.T) {
	for text, into := range map[string]interface{ UnmarshalText([]byte) error }{
		"allow": new(Action), "in": new(Direction), "Both": new(Directions), "web": new(RuleKey),
		"web/x": new(RuleKey), "web/4294967296": new(RuleKey), "tcp/x": new(Service), "10": new(AddrRange),
	} {
		if err := into.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%T took %q", into, text)
		}
	}
	for _, from := range []interface{ MarshalText() ([]byte, error) }{
		Action(4), Direction(2), Directions(0), Directions(4), Service{Protocol: 47}, Service{Protocol: ICMP, Last: 9, SourceFirst: 1, SourceLast: 2}, Service{Protocol: TCP, Last: 9, SourceLast: 2},
	} {
		if text, err := from.MarshalText(); err == nil {
			t.Errorf("%#v gave %q", from, text)
		}
	}
	if got := fmt.Sprint(Action(4), Direction(2), Directions(4)); got != "Action(4) Direction(2) Directions(0x4)" {
		t.Error(got)
	}
}
