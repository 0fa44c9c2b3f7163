package vlan

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want ID
		err  string // part of the error; empty means that it parses
	}{
		{in: "", err: "is empty"},
		{in: "0", err: "want 1-4094"},
		{in: "4095", err: "VLAN 4095 is out of range: want 1-4094"},
		{in: "65537", err: "out of range"},
		{in: "99999999999999999999", err: "out of range"},
		{in: "-1", err: "not a number"},
		{in: "+1", err: "not a number"},
		{in: " 1", err: "not a number"},
		{in: "0x64", err: "not a number"},
		{in: "1e2", err: "not a number"},
		{in: "0100", err: "leading zero"},
		{in: "00", err: "leading zero"},
		{in: "1", want: 1},
		{in: "4094", want: 4094},
	} {
		got, err := ParseID(tt.in)
		checkErr(t, tt.in, err, tt.err)
		if got != tt.want {
			t.Errorf("ParseID(%q) = %d, want %d", tt.in, got, tt.want)
		}
		if (err == nil) != (got.Validate() == nil) {
			t.Errorf("ParseID(%q): error %v and Validate %v differ", tt.in, err, got.Validate())
		}
	}
}

func TestParseSet(t *testing.T) {
	for _, tt := range []struct {
		in, want, err string
	}{
		{in: "100-", err: `range "100-" has no end: want FIRST-LAST, as 100-110`},
		{in: "-100", err: `range "-100" has no start: want FIRST-LAST, as 100-110`},
		{in: "-", err: "no ends"},
		{in: "0", err: "VLAN 0 is out of range: want 1-4094"},
		{in: "4095", err: "VLAN 4095 is out of range"},
		{in: "0-10", err: `range "0-10": VLAN 0 is out of range`},
		{in: "100-4095", err: "VLAN 4095 is out of range"},
		{in: "110-100", err: `range "110-100" is reversed: want 100-110`},
		{in: "100,,200", err: "nothing between two commas"},
		{in: "100,", err: "nothing between two commas or at an end"},
		{in: ",", err: "nothing between"},
		{in: "100-110-120", err: "not a number"},
		{in: "100;200", err: "not a number"},
		{in: "all", err: "not a number"},
		{in: "100..110", err: "not a number"},
		{in: "100 110", err: "not a number"},
		{in: "", want: ""},
		{in: "  ", want: ""},
		{in: "100-110,200", want: "100-110,200"},
		{in: "200, 100 - 110", want: "100-110,200"},
		{in: "1-4094", want: "1-4094"},
		{in: "5,4,3,1,4,3-4", want: "1,3-5"},
		{in: "7-7", want: "7"},
		{in: "63,64,127-128", want: "63-64,127-128"},
	} {
		s, err := ParseSet(tt.in)
		checkErr(t, tt.in, err, tt.err)
		if got := s.String(); got != tt.want {
			t.Errorf("ParseSet(%q) = %q, want %q", tt.in, got, tt.want)
		}
		if err != nil && !s.Empty() {
			t.Errorf("ParseSet(%q) failed and gave %q all the same", tt.in, s)
		}
	}
}

func TestSetEdits(t *testing.T) {
	var s Set
	for _, id := range []ID{0, 4095, 4096, 65535} {
		if err := s.Add(id); err == nil {
			t.Errorf("Add(%d) was not refused", id)
		}
		if s.Contains(id) {
			t.Errorf("Contains(%d) is true", id)
		}
		s.Remove(id)
	}
	for _, r := range []Range{{0, 5}, {5, 4095}, {6, 5}} {
		if err := s.AddRange(r); err == nil {
			t.Errorf("AddRange(%d-%d) was not refused", r.First, r.Last)
		}
	}
	if _, err := Of(1, 0); err == nil {
		t.Error("Of(1, 0) was not refused")
	}
	if !s.IsZero() {
		t.Fatalf("refused edits left %q", s)
	}

	must(t, s.AddRange(Range{60, 70}))
	must(t, s.Add(4094))
	s.Remove(64)
	if got, want := s.String(), "60-63,65-70,4094"; got != want {
		t.Errorf("set is %q, want %q", got, want)
	}
	if got, want := s.Len(), 11; got != want {
		t.Errorf("Len = %d, want %d", got, want)
	}
	want := []Range{{60, 63}, {65, 70}, {4094, 4094}}
	if d := cmp.Diff(want, s.Ranges()); d != "" {
		t.Errorf("Ranges (-want +got):\n%s", d)
	}
	if w := s.Words(); w[0] != 0xf<<60 || w[1] != 0x7e || w[63] != 1<<62 {
		t.Errorf("Words: %x %x %x", w[0], w[1], w[63])
	}
	for id := range s.All() {
		if id > 61 {
			break // an iterator must stop when asked
		}
	}
}

func TestSetAlgebra(t *testing.T) {
	a, b := mustSet(t, "1-10,100"), mustSet(t, "5-20,4094")
	for name, tt := range map[string]struct {
		got  Set
		want string
	}{
		"union":     {a.Union(b), "1-20,100,4094"},
		"intersect": {a.Intersect(b), "5-10"},
		"minus":     {a.Minus(b), "1-4,100"},
		"a":         {a, "1-10,100"}, // operands stay as they were
	} {
		if tt.got.String() != tt.want {
			t.Errorf("%s = %q, want %q", name, tt.got, tt.want)
		}
	}
	if a.Union(b) != b.Union(a) {
		t.Error("equal sets are not ==")
	}
}

func TestMode(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Mode
		err  string
	}{
		{in: "", err: "want Access, Trunk or Native"},
		{in: "access", err: `want "Access"`},
		{in: "TRUNK", err: `want "Trunk"`},
		{in: "Hybrid", err: "unknown"},
		{in: "Access", want: Access},
		{in: "Trunk", want: Trunk},
		{in: "Native", want: Native},
	} {
		got, err := ParseMode(tt.in)
		checkErr(t, tt.in, err, tt.err)
		if got != tt.want {
			t.Errorf("ParseMode(%q) = %v, want %v", tt.in, got, tt.want)
		}
	}
	if Access != 0 || Trunk != 1 || Native != 2 {
		t.Error("the values are not those of enum hp_vlan_mode")
	}
	if _, err := Mode(3).MarshalText(); err == nil {
		t.Error("Mode(3) was marshalled")
	}
	if got := Mode(3).String(); got != "Mode(3)" {
		t.Errorf("Mode(3) prints as %q", got)
	}
}

func TestJSON(t *testing.T) {
	type port struct {
		Mode   Mode `json:"mode"`
		PVID   ID   `json:"pvid,omitempty"`
		Tagged Set  `json:"tagged,omitzero"`
	}
	for _, tt := range []struct {
		in   port
		want string
	}{
		{port{Mode: Access, PVID: 100}, `{"mode":"Access","pvid":100}`},
		{port{Mode: Trunk, Tagged: mustSet(t, "200,100-101")}, `{"mode":"Trunk","tagged":"100-101,200"}`},
	} {
		text, err := json.Marshal(tt.in)
		must(t, err)
		if string(text) != tt.want {
			t.Errorf("marshalled %s, want %s", text, tt.want)
		}
		var back port
		must(t, json.Unmarshal(text, &back))
		if back != tt.in {
			t.Errorf("%s came back as %+v", text, back)
		}
	}
	for _, bad := range []string{`{"mode":"Hub"}`, `{"tagged":"100-"}`} {
		p := port{Mode: Native, Tagged: mustSet(t, "7")}
		if err := json.Unmarshal([]byte(bad), &p); err == nil {
			t.Errorf("%s was accepted", bad)
		}
		if p.Mode != Native || p.Tagged != mustSet(t, "7") {
			t.Errorf("%s was refused but changed the value to %+v", bad, p)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	for _, s := range []string{"", "100-110,200", "1-4094", "100-", "4095", "9-1", " 1 , 2 - 3 ", "00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSet(text)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("error without a message")
			}
			return
		}
		again, err := ParseSet(s.String())
		if err != nil || again != s {
			t.Fatalf("%q -> %q -> %q, %v", text, s, again, err)
		}
		if again.String() != s.String() {
			t.Fatalf("%q is not canonical", s)
		}
		n := 0
		for id := range s.All() {
			if id.Validate() != nil || !s.Contains(id) {
				t.Fatalf("%q holds %d", text, id)
			}
			n++
		}
		if n != s.Len() {
			t.Fatalf("%q: %d VLANs, Len %d", text, n, s.Len())
		}
	})
}

func FuzzParseID(f *testing.F) {
	for _, s := range []string{"1", "4094", "4095", "0", "010", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		id, err := ParseID(text)
		if err != nil {
			return
		}
		if got := (Range{id, id}).String(); got != text {
			t.Fatalf("%q parsed as %s", text, got)
		}
	})
}

func checkErr(t *testing.T, in string, err error, want string) {
	t.Helper()
	switch {
	case err == nil && want != "":
		t.Errorf("%q was accepted, want an error with %q", in, want)
	case err != nil && want == "":
		t.Errorf("%q: %v", in, err)
	case err != nil && !strings.Contains(err.Error(), want):
		t.Errorf("%q: error %q does not say %q", in, err, want)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustSet(t *testing.T, text string) Set {
	t.Helper()
	s, err := ParseSet(text)
	must(t, err)
	return s
}
