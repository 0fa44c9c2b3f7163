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
		"":                "protocol must be",
		"80":              "protocol must be",
		"TCP/80":          "protocol must be",
		"tcp/":            "0 to 65535",
		"tcp/65536":       "0 to 65535",
		"tcp/-1":          "0 to 65535",
		"tcp/90-80":       "write tcp/80-90",
		"udp/80-90-100":   "0 to 65535",
		"icmp/256":        "0 to 255",
		"icmp/3/256":      "0 to 255",
		"icmp/3/4/5":      "0 to 255",
		"icmpv6/129-128":  "write icmpv6/128-129",
		"icmp/3/4-3/3":    "write icmp/3/3-3/4",
		"protocol47/1":    "protocol must be",
		"icmp/echo":       "0 to 255",
		"tcp/http":        "0 to 65535",
		"tcp/80,443":      "0 to 65535",
		" tcp/80":         "protocol must be",
		"icmp/8-":         "0 to 255",
		"sctp/1000":       "protocol must be",
		"tcp/80 - 90":     "0 to 65535",
		"icmpv6/128/0/-1": "0 to 255",
	} {
		if s, err := ParseService(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, %v, want an error with %q", text, s, err, want)
		}
	}
}

func TestServiceText(t *testing.T) {
	for text, want := range map[string]Service{
		"tcp":               {TCP, 0, 65535},
		"tcp/80":            {TCP, 80, 80},
		"udp/80-90":         {UDP, 80, 90},
		"icmp":              {ICMP, 0, 0xffff},
		"icmp/8":            {ICMP, 0x0800, 0x08ff},
		"icmp/8-10":         {ICMP, 0x0800, 0x0aff},
		"icmpv6/1/4":        {ICMPv6, 0x0104, 0x0104},
		"icmpv6/1/4-2/0":    {ICMPv6, 0x0104, 0x0200},
		"icmp/255/255":      {ICMP, 0xffff, 0xffff},
		"udp/0":             {UDP, 0, 0},
		"udp/65535":         {UDP, 65535, 65535},
		"icmp/3/0-3/254":    {ICMP, 0x0300, 0x03fe},
		"icmpv6/0-254":      {ICMPv6, 0, 0xfeff},
		"icmpv6/0/1-255/25": {ICMPv6, 1, 0xff19},
	} {
		if got := want.String(); got != text {
			t.Errorf("%+v prints %q, want %q", want, got, text)
		}
		if got, err := ParseService(text); err != nil || got != want {
			t.Errorf("%q: got %+v, %v, want %+v", text, got, err, want)
		}
	}
	if got := (Service{Protocol: 47, Last: 0xffff}).String(); got != "protocol47" {
		t.Errorf("got %q", got)
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
			{Key: RuleKey{Policy: "web", ID: 1002}, Action: Allow, Directions: OnlyIn, Sources: []AddrRange{}, Services: []Service{{TCP, 80, 90}}},
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
		Action(2), Direction(2), Directions(0), Directions(4), Service{Protocol: 47},
	} {
		if text, err := from.MarshalText(); err == nil {
			t.Errorf("%#v gave %q", from, text)
		}
	}
	if got := fmt.Sprint(Action(2), Direction(2), Directions(4)); got != "Action(2) Direction(2) Directions(0x4)" {
		t.Error(got)
	}
}
