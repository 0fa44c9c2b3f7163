package bundle

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
)

// hiddenText stands where a secret was.
const hiddenText = "[left out]"

// secretWords are in the names of what must not leave the node, in lower case.
var secretWords = []string{"token", "passwd", "password", "passphrase", "secret", "apikey", "api-key", "api_key", "private-key", "privatekey",
	"private_key", "client-key", "client-certificate", "certificate-authority", "authorization", "credential", "cabundle", "accesskey", "access-key", "access_key"}

// hasWord says whether s, in lower case, has one of the words.
func hasWord(s string) bool {
	return slices.ContainsFunc(secretWords, func(w string) bool { return strings.Contains(s, w) })
}

var (
	// Of a document or a line that is a Secret nothing stays.
	secretKind = regexp.MustCompile(`\\*["']?kind\\*["']?\s*:\s*\\*["']?Secret(?:List)?\b`)
	kindAlone  = regexp.MustCompile(`^\s*["']?kind["']?\s*:\s*["']?Secret(?:List)?["']?\s*,?\s*$`)

	// secretForms know secrets by their form, across lines. Each begins with what a
	// search finds fast.
	secretForms = []*regexp.Regexp{
		// PEM, as text, within a JSON string, and in base64 as kubeconfigs have it.
		regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|\z)`),
		regexp.MustCompile(`LS0tLS1CRUdJTi[A-Za-z0-9+/=]*`),
		// JSON web tokens, as of service accounts.
		regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*`),
	}
	// secretAfter know them by what stands before in the line, which stays. Only
	// lines with the hint, in lower case, are looked at.
	secretAfter = []struct {
		hint string // "" is one of the words
		form *regexp.Regexp
	}{
		{"bearer", regexp.MustCompile(`(?i)(\bbearer\s+)[A-Za-z0-9._~+/=-]{6,}`)},
		{"basic", regexp.MustCompile(`(?i)(\bbasic\s+)[A-Za-z0-9+/=]{12,}`)},
		{"://", regexp.MustCompile(`([a-z][a-z0-9+.-]*://)[^\s/@"']+@`)},
		{"", regexp.MustCompile(`(?i)(["']?[\w.-]*(?:` + strings.Join(secretWords, "|") + `)[\w.-]*\\*["']?\s*[:=]\s*)` +
			`(?:"(?:[^"\\]|\\.)*"|'[^']*'|\\+"[^"]*"|[^\s,;{}&"'\\\[]+)`)},
		// Bootstrap tokens of kubeadm.
		{".", regexp.MustCompile(`(^|[^a-z0-9])[a-z0-9]{6}\.[a-z0-9]{16}\b`)},
	}
)

// Redact takes out what looks like a secret, and says at how many places. Text
// without any is returned as it is, byte for byte.
func Redact(content []byte) ([]byte, int) {
	if d := json.NewDecoder(bytes.NewReader(content)); json.Valid(content) {
		d.UseNumber() // serials and indexes have more digits than floats
		var v any
		if d.Decode(&v) == nil {
			hidden := 0
			v = redactValue(v, &hidden)
			if hidden == 0 {
				return content, 0
			}
			var out bytes.Buffer
			enc := json.NewEncoder(&out)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "  ")
			if enc.Encode(v) == nil {
				return out.Bytes(), hidden
			}
		}
	}
	text, hidden := redactText(string(content))
	if hidden == 0 {
		return content, 0
	}
	return []byte(text), hidden
}

// redactValue knows JSON: what a key says, and what a Secret is.
func redactValue(v any, hidden *int) any {
	switch v := v.(type) {
	case map[string]any:
		if kind, _ := v["kind"].(string); kind == "Secret" || kind == "SecretList" {
			*hidden++
			return map[string]any{"kind": kind, "leftOut": hiddenText}
		}
		for key, value := range v {
			if hasWord(strings.ToLower(key)) && value != nil {
				v[key] = hiddenText
				*hidden++
				continue
			}
			v[key] = redactValue(value, hidden)
		}
	case []any:
		for i := range v {
			v[i] = redactValue(v[i], hidden)
		}
	case string:
		text, n := redactString(v)
		*hidden += n
		return text
	}
	return v
}

// redactString reads JSON within a string, as in an annotation or a log line.
func redactString(s string) (string, int) {
	if t := strings.TrimSpace(s); strings.HasPrefix(t, "{") || strings.HasPrefix(t, "[") {
		if clean, n := Redact([]byte(s)); n > 0 {
			return string(clean), n
		}
	}
	return redactText(s)
}

// redactText knows lines, documents and the forms of secrets.
func redactText(s string) (string, int) {
	hidden := 0
	hide := func(string) string { hidden++; return hiddenText }
	for _, form := range secretForms {
		s = form.ReplaceAllStringFunc(s, hide)
	}
	lines := strings.Split(s, "\n")
	begun, isSecret := 0, false // the document at work
	var out []string
	end := func() {
		if isSecret {
			out = append(out[:begun], hide(""))
		}
		begun, isSecret = len(out)+1, false
	}
	for _, line := range lines {
		if strings.HasPrefix(line, "---") {
			end()
		}
		isSecret = isSecret || strings.Contains(line, "Secret") && kindAlone.MatchString(line)
		out = append(out, redactLine(line, hide))
	}
	end()
	return strings.Join(out, "\n"), hidden
}

func redactLine(line string, hide func(string) string) string {
	if strings.Contains(line, "Secret") && secretKind.MatchString(line) {
		return hide(line)
	}
	lower := strings.ToLower(line)
	for _, a := range secretAfter {
		if a.hint == "" && !hasWord(lower) || !strings.Contains(lower, a.hint) {
			continue
		}
		line = a.form.ReplaceAllStringFunc(line, func(m string) string {
			if strings.Contains(m, hiddenText) {
				return m
			}
			return a.form.FindStringSubmatch(m)[1] + hide(m)
		})
	}
	return line
}
