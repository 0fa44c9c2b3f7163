package compile

import (
	"encoding/binary"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/policy"
)

func readABI(tb testing.TB) string {
	tb.Helper()
	text, err := os.ReadFile("../../../bpf/include/abi.h")
	if err != nil {
		tb.Fatal(err)
	}
	return string(text)
}

// fieldsOf gives "name" or "name[size]" of the __u32 and struct hp_part fields of a C
// struct, and fails on fields of other types.
func fieldsOf(tb testing.TB, abi, name string) (fields []string) {
	tb.Helper()
	_, body, ok := strings.Cut(abi, "struct "+name+" {\n")
	body, _, closed := strings.Cut(body, "};")
	if !ok || !closed {
		tb.Fatalf("no struct %s in abi.h", name)
	}
	for line := range strings.Lines(body) {
		m := regexp.MustCompile(`^\t(?:__u32|struct hp_part) (\w+)(\[\w+\])?;`).FindStringSubmatch(line)
		if m == nil {
			tb.Fatalf("struct %s has a line that this test cannot read: %q", name, line)
		}
		fields = append(fields, m[1]+m[2])
	}
	return fields
}

// camel turns src_classrow into SrcClassrow and dir_row[HP_DIRS] into DirRow.
func camel(s string) string {
	s, _, _ = strings.Cut(s, "[")
	var b strings.Builder
	for part := range strings.SplitSeq(s, "_") {
		b.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return b.String()
}

func TestHeaderIsThatOfTheABI(t *testing.T) {
	var want, got []string
	for _, f := range fieldsOf(t, readABI(t), "hp_header") {
		want = append(want, camel(f))
		if strings.HasSuffix(f, "[HP_DIRS]") {
			want = append(want, camel(f))
		}
		if strings.HasSuffix(f, "[HP_TIERS_MAX]") {
			want = append(want, slices.Repeat([]string{camel(f)}, 3*TiersMax-1)...)
		}
	}
	var h Header
	for _, place := range h.fields() {
		v := reflect.ValueOf(&h).Elem()
		for i := range v.NumField() {
			from := v.Field(i).Addr().Pointer()
			if at := reflect.ValueOf(place).Pointer(); from <= at && at < from+v.Field(i).Type().Size() {
				got = append(got, v.Type().Field(i).Name)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("struct hp_header and Header differ (-abi.h +Go):\n%s", diff)
	}
	if size := int(reflect.TypeOf(h).Size()); size != 4*len(want) {
		t.Errorf("Header has %d bytes, want %d", size, 4*len(want))
	}
	if diff := cmp.Diff([]string{"dir_row[HP_DIRS]", "sportindex"}, fieldsOf(t, readABI(t), "hp_part")); diff != "" {
		t.Errorf("struct hp_part and Part differ (-Go +abi.h):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"counter", "rule_id", "action", "flags"}, fieldsOf(t, readABI(t), "hp_rule")); diff != "" {
		t.Errorf("struct hp_rule and ruleMeta differ (-Go +abi.h):\n%s", diff)
	}
}

func TestConstantsAreThoseOfTheABI(t *testing.T) {
	abi := readABI(t)
	for name, want := range map[string]int{
		"HP_PAGE_SIZE": PageSize, "HP_WORDS_MAX": WordsMax,
		"HP_SVC_TCP": svcTCP, "HP_SVC_UDP": svcUDP, "HP_SVC_ICMP": svcICMP, "HP_SVC_ICMPV6": svcICMPv6,
		"HP_SVC_SCTP": svcSCTP, "HP_SPORT_GROUPS": len(portGroups), "HP_SVC_IP": svcIP, "HP_SVC_GROUPS": svcGroups,
		"HP_OUT": int(policy.Out), "HP_IN": int(policy.In), "HP_DIRS": len(Header{}.DirRow),
		"HP_RULE_IMPLIED": ruleImplied, "HP_RULE_STATELESS": ruleStateless, "HP_RULE_LOOSE": ruleLoose, "HP_RULE_LOG": ruleLog, "HP_RULE_FIRM": ruleFirm, "HP_DROP": int(policy.Drop), "HP_ALLOW": int(policy.Allow), "HP_REJECT": int(policy.Reject), "HP_PASS": int(policy.Pass),
		"HP_RULE_LINK_SHIFT": ruleLinkShift, "HP_TIERS_MAX": TiersMax, "HP_MONITORED": partMonitored + 1,
	} {
		m := regexp.MustCompile(`(?m)^(?:#define|\t)\s*` + name + `(?: =)? (\d+)`).FindStringSubmatch(abi)
		if m == nil {
			t.Errorf("abi.h has no %s", name)
			continue
		}
		if got, _ := strconv.Atoi(m[1]); got != want {
			t.Errorf("%s is %d in abi.h, %d here", name, got, want)
		}
	}
}

// TestLayoutOfFirst: what pages of before SCTP had stays where it was, for the programs
// of a new agent read them until it has compiled its own.
func TestLayoutOfFirst(t *testing.T) {
	h := Header{EarlierWords: 1, Rules: 2, DefaultAction: 3, DefaultCounter: 4, SrcClassrow: 5, DstClassrow: 6, Classes: 10, Rows: 11, Svcindex: 12, Svcchunk: 13,
		SvcNoneRow: 14, Meta: 15, DirRow: [2]uint32{7, 8}, SvcGroups: 6, Sportindex: 9, Monitored: 16}
	for i := range h.Parts {
		h.Parts[i] = Part{[2]uint32{uint32(100 + i), uint32(200 + i)}, uint32(300 + i)}
	}
	h.LocalClassrow, h.Flagindex, h.Flagparts, h.Etherindex = [2]uint32{17, 18}, 19, 20, 21
	page := h.page()
	want := map[int]uint32{0: 1, 4: 2, 8: 3, 12: 4, 16: 5, 20: 6, 24: 10, 28: 11, 32: 12, 36: 13, 40: 14, 44: 15, 48: 7, 52: 8, 56: 6, 60: 9, 64: 16,
		164: 17, 168: 18, 172: 19, 176: 20, 180: 21, 184: 0}
	for i := range 8 {
		want[68+12*i], want[72+12*i], want[76+12*i] = uint32(100+i), uint32(200+i), uint32(300+i)
	}
	for at, want := range want {
		if got := binary.NativeEndian.Uint32(page[at:]); got != want {
			t.Errorf("at %d there is %d, want %d", at, got, want)
		}
	}
	if svcTCP != 0 || svcUDP != 1 || svcICMP != 2 || svcICMPv6 != 3 {
		t.Errorf("groups moved: %d %d %d %d", svcTCP, svcUDP, svcICMP, svcICMPv6)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	var want Header
	for i, f := range want.fields() {
		*f = uint32(i + 1)
	}
	want.Words = 8
	p := Policy{Pages: []Page{want.page()}}
	if _, err := p.Header(); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.Header(); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	want.Words = WordsMax + 1
	p.SetHeader(want)
	if _, err := p.Header(); err == nil {
		t.Error("a width that is not known was accepted")
	}
	if _, err := (&Policy{}).Header(); err == nil {
		t.Error("a policy without pages was accepted")
	}
}
