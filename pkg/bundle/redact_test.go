package bundle

import (
	"encoding/base64"
	"strings"
	"testing"
)

// Planted secrets; none may be in a bundle in any form.
const (
	plantedJWT   = "eyJhbGciOiJSUzI1NiIsImtpZCI6Ik9xIn0.eyJpc3MiOiJrdWJlcm5ldGVzIn0.c2lnbmF0dXJlLXBsYW50ZWQ"
	plantedWord  = "Tr0ub4dor-planted"
	plantedPEM   = "-----BEGIN CERTIFICATE-----\nMIIBplanted\n-----END CERTIFICATE-----"
	plantedKey   = "-----BEGIN EC PRIVATE KEY-----\nMHcCplanted\n-----END EC PRIVATE KEY-----\n"
	plantedJoin  = "abcdef.0123456789abcdef"
	plantedOther = "cGxhbnRlZC1pbi1hLVNlY3JldA=="
)

// leaked are parts of the above that would betray them.
var leaked = []string{"eyJ", "c2lnbmF0dXJl", "Tr0ub4dor", "MIIBplanted", "MHcCplanted", "0123456789abcdef", "cGxhbnRlZ", "LS0tLS1CRUdJTi"}

func TestSecretsAreLeftOut(t *testing.T) {
	pem64 := base64.StdEncoding.EncodeToString([]byte(plantedKey))
	for name, text := range map[string]string{
		"log of a header":          `level=ERROR msg="GET /api" header="Authorization: Bearer ` + plantedJWT + `"`,
		"bearer of no form":        "sent Bearer " + plantedWord,
		"basic":                    "Authorization: Basic " + plantedOther,
		"JWT alone":                "read " + plantedJWT + " from the pod",
		"URL":                      "proxy https://admin:" + plantedWord + "@10.0.0.1/x",
		"flag":                     "--token=" + plantedWord + " --node n1",
		"quoted with a blank":      `password: "` + plantedWord + ` and more"`,
		"quoted with a quote":      `password: "x\"` + plantedWord + `"`,
		"YAML":                     "users:\n- name: a\n  user:\n    token: " + plantedWord + "\n    client-key-data: " + pem64,
		"bootstrap token":          "kubeadm join 10.0.0.1:6443 --discovery " + plantedJoin,
		"PEM":                      "a\n" + plantedPEM + "\nb",
		"PEM that is cut":          "a\n-----BEGIN RSA PRIVATE KEY-----\nMHcCplanted",
		"PEM in JSON":              `{"ca": "` + strings.ReplaceAll(plantedPEM, "\n", `\n`) + `"}`,
		"PEM in base64":            `{"x": "` + pem64 + `"}`,
		"JSON key":                 `{"auth": {"accessToken": "` + plantedWord + `", "n": 12345678901234567890}}`,
		"JSON key of a list":       `{"tokens": ["` + plantedWord + `"]}`,
		"JSON within JSON":         `{"annotation": "{\"password\":\"` + plantedWord + `\"}"}`,
		"JSON within a line":       `msg="{\"password\":\"` + plantedWord + `\"}"`,
		"Secret as JSON":           `{"items": [{"kind": "Secret", "data": {"x": "` + plantedOther + `"}}]}`,
		"Secret as a line of JSON": `err={"kind":"Secret","data":{"x":"` + plantedOther + `"}}`,
		"Secret within quotes":     `msg="{\"kind\":\"Secret\",\"data\":{\"x\":\"` + plantedOther + `\"}}"`,
		"Secret of YAML in a line": `msg="kind: Secret\ndata:\n  x: ` + plantedOther + `"`,
		"Secret as YAML":           "apiVersion: v1\nkind: Secret\ndata:\n  x: " + plantedOther + "\n---\nkind: VLANTrunk\n",
		"Secret as broken JSON":    "{\n  \"data\": {\"x\": \"" + plantedOther + "\"},\n  \"kind\": \"Secret\",\n",
	} {
		got, hidden := Redact([]byte(text))
		if hidden == 0 {
			t.Errorf("%s: nothing was hidden in %s", name, got)
		}
		for _, part := range leaked {
			if strings.Contains(string(got), part) {
				t.Errorf("%s: %q is left in %s", name, part, got)
			}
		}
		if again, more := Redact(got); string(again) != string(got) {
			t.Errorf("%s: a second time changes it at %d places: %s", name, more, again)
		}
	}
}

// TestTheRestStays: what is no secret is kept to the byte, and so is what stands
// beside one.
func TestTheRestStays(t *testing.T) {
	for _, text := range []string{
		"",
		"{\"hash\":   12345678901234567890, \"containerID\": \"0123456789abcdef0123456789abcdef\"}",
		"{\n  \"kind\": \"VMPort\",\n  \"mac\": \"00:50:56:aa:bb:01\"\n}\n",
		"time=2026-09-01T12:00:00Z level=INFO msg=\"trunk trunk0: uplink eth1 is down\"\n",
		"homeport_port_packets_total{namespace=\"shop\",pod=\"a\"} 3\n",
		"[1, 2",
		"\x00\xff\x80binary",
	} {
		if got, hidden := Redact([]byte(text)); hidden != 0 || string(got) != text {
			t.Errorf("%q became %q", text, got)
		}
	}
	for text, want := range map[string]string{
		"a: 1\ntoken: x1y2z3\nb: 2\n":                           "a: 1\ntoken: [left out]\nb: 2\n",
		"kind: Secret\ndata: {x: eA==}\n---\nkind: VLANTrunk\n": "[left out]\n---\nkind: VLANTrunk\n",
		`{"n":12345678901234567890,"token":"x"}`:                "{\n  \"n\": 12345678901234567890,\n  \"token\": \"[left out]\"\n}\n",
	} {
		if got, _ := Redact([]byte(text)); string(got) != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}
