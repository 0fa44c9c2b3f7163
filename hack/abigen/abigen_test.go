package main

import (
	"strings"
	"testing"
)

func TestGeneratedFilesAreCurrent(t *testing.T) {
	err := run("../../bpf/include/abi.h", "../../pkg/policy/zz_generated_reasons.go", "../../docs/reference/reasons.md", true)
	if err != nil {
		t.Fatal(err)
	}
}

func TestParseRefuses(t *testing.T) {
	limits := "#define HP_REASON_FIRST_DROP 16\n#define HP_REASON_MAX 32\n"
	for name, c := range map[string]struct{ table, want string }{
		"no table":          {"", "no HP_REASONS table"},
		"pass among drops":  {"X(A, 17, PASS, \"a\")\n", "drops are from"},
		"drop among passes": {"X(A, 1, DROP, \"a\")\n", "drops are from"},
		"past the end":      {"X(A, 32, DROP, \"a\")\n", "drops are from"},
		"value used twice":  {"X(A, 1, PASS, \"a\")\nX(B, 1, PASS, \"b\")\n", "same value"},
	} {
		if _, err := parse([]byte(limits + c.table)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
}

func TestCamel(t *testing.T) {
	for c, want := range map[string]string{
		"RULE_DROP": "RuleDrop", "ND": "ND", "TCP_NO_STATE": "TCPNoState", "MAC_SPOOF": "MACSpoof", "NO_PORT": "NoPort",
	} {
		if got := (reason{name: c}).camel(); got != want {
			t.Errorf("%s is %s, want %s", c, got, want)
		}
	}
}
