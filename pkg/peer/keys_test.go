package peer

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
)

// secret is the nth fabric key of the tests.
func secret(n byte) []byte {
	b := make([]byte, minKey)
	for i := range b {
		b[i] = n*37 + byte(i)*11
	}
	return b
}

func line(n byte) string { return base64.StdEncoding.EncodeToString(secret(n)) + "\n" }

func lines(ns ...byte) string {
	var b strings.Builder
	for _, n := range ns {
		b.WriteString(line(n))
	}
	return b.String()
}

func keys(tb testing.TB, ns ...byte) Keys {
	tb.Helper()
	k, err := ParseKeys([]byte(lines(ns...)))
	if err != nil {
		tb.Fatal(err)
	}
	return k
}

// shown are the ways in which parts of the keys 1 to 4 may be printed, and of what
// only who has them may derive, in lower case.
var shown = sync.OnceValue(func() (all []string) {
	for n := byte(1); n <= maxKeys; n++ {
		k, err := deriveKey(secret(n))
		if err != nil {
			panic(err)
		}
		for _, b := range [][]byte{secret(n), k.caKey.Seed()} {
			for _, part := range [][]byte{b[:9], b[len(b)-9:]} {
				list := fmt.Sprint(part)
				code := fmt.Sprintf("%#v", part)
				for _, text := range []string{
					string(part), hex.EncodeToString(part), base64.RawStdEncoding.EncodeToString(part),
					list[1 : len(list)-1], code[len("[]byte{") : len(code)-1],
				} {
					all = append(all, strings.ToLower(text))
				}
			}
		}
	}
	return all
})

// secretFree fails if text shows anything of the keys 1 to 4.
func secretFree(tb testing.TB, text string) {
	tb.Helper()
	lower := strings.ToLower(text)
	for _, part := range shown() {
		if strings.Contains(lower, part) {
			tb.Errorf("%q shows %q", text, part)
			return
		}
	}
}

// TestMakeKey: each is another, and a file of one can be read.
func TestMakeKey(t *testing.T) {
	one, err := ParseKeys([]byte(MakeKey()))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := ParseKeys([]byte(MakeKey())); err != nil || two.same(one) {
		t.Errorf("%v %v", two, err)
	}
}

// TestSecretFree: the test that many others trust sees what it looks for.
func TestSecretFree(t *testing.T) {
	for _, text := range []string{
		line(3), fmt.Sprint(secret(4)), fmt.Sprintf("%#v", secret(1)), fmt.Sprintf("%X", secret(2)), string(secret(1)),
		fmt.Sprint(keys(t, 1).set.keys[0].caKey), fmt.Sprintf("%x", keys(t, 1).set.keys[0].caKey),
	} {
		silent := new(testing.B)
		secretFree(silent, text)
		if !silent.Failed() {
			t.Errorf("%q passes", text)
		}
	}
}

func TestParseKeysFails(t *testing.T) {
	short := base64.StdEncoding.EncodeToString(secret(1)[:12])
	long := base64.StdEncoding.EncodeToString(slices.Concat(secret(1), secret(2), []byte{1}))
	tests := []struct{ name, text, want string }{
		{"empty", "", "no key: make one with head -c 32 /dev/urandom | base64"},
		{"blank", "\n \t\n# nothing\r\n", "no key: make one"},
		{"short", "# ours\n" + short, "line 2: 12 bytes, want 32 to 64: make one with head -c 32 /dev/urandom | base64"},
		{"31 bytes", base64.StdEncoding.EncodeToString(secret(1)[:31]), "line 1: 31 bytes"},
		{"long", long, "line 1: 65 bytes, want 32 to 64"},
		{"no base64", line(1) + "\n" + strings.Repeat("!", 44), "line 3: not base64: make one"},
		{"URL alphabet", strings.Repeat("_-", 22), "line 1: not base64"},
		{"cut off", line(1)[:42] + "=", "line 1: not base64"},
		{"two in a line", strings.TrimSpace(line(1)) + " " + line(2), "line 1: not base64"},
		{"binary", string(secret(1)), "line 1: "},
		{"hex", hex.EncodeToString(secret(1)) + "0", "line 1: not base64"},
		{"twice", "\n" + line(1) + line(2) + line(1), "line 4: the same key as in line 2: remove one of them"},
		{"twice, once without padding", line(1) + strings.TrimRight(line(1), "=\n"), "line 2: the same key as in line 1"},
		{"five", lines(1, 2, 3, 4, 5), "line 5: more than 4 keys: remove those"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k, err := ParseKeys([]byte(tt.text))
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if len(k.IDs()) != 0 {
				t.Errorf("there are keys: %v", k)
			}
			secretFree(t, err.Error())
		})
	}
}

func TestParseKeys(t *testing.T) {
	want := keys(t, 1, 2).IDs()
	for _, text := range []string{
		lines(1, 2),
		"# both\r\n\r\n  " + strings.TrimSpace(line(1)) + "\t# old\r\n" + strings.TrimSpace(line(2)),
		strings.TrimRight(line(1), "=\n") + "#old\n" + strings.TrimRight(line(2), "=\n"),
	} {
		if k, err := ParseKeys([]byte(text)); err != nil || !slices.Equal(k.IDs(), want) {
			t.Errorf("%q: %v, %v; want %v", text, k, err, want)
		}
	}
	long := base64.StdEncoding.EncodeToString(slices.Concat(secret(1), secret(2)))
	if _, err := ParseKeys([]byte(long + "\n" + lines(1, 2, 3))); err != nil {
		t.Errorf("64 bytes, and four keys: %v", err)
	}
}

// TestDerived: what is derived from a key is what agents of all releases derive.
// The values were computed by an implementation of RFC 5869 and RFC 2104 that is not
// this one.
func TestDerived(t *testing.T) {
	k, err := ParseKeys([]byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")) // 0, 1, ... 31
	if err != nil {
		t.Fatal(err)
	}
	id, mac := k.Sign([]byte("hello"))
	if id.String() != "6e3f75bc" || hex.EncodeToString(mac[:]) != "0ab193f68bdb82142f717d2ad7c15c17" {
		t.Errorf("id %v, MAC %x", id, mac)
	}
	seed, err := hex.DecodeString("ba2f55d12fe3643a6bc349c0eac064132f44d71973f6b928cd4c0bef24072600")
	if err != nil {
		t.Fatal(err)
	}
	if !k.set.keys[0].caKey.Equal(ed25519.NewKeyFromSeed(seed)) {
		t.Error("the authority has another key")
	}
	again, err := ParseKeys([]byte("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="))
	if err != nil || !k.same(again) || !k.set.keys[0].ca.Equal(again.set.keys[0].ca) {
		t.Errorf("not the same again: %v", err)
	}
}

func TestVerifyFails(t *testing.T) {
	k, msg := keys(t, 1, 2), []byte("hello")
	id, mac := k.Sign(msg)
	id2, mac2 := keys(t, 2).Sign(msg)
	_, mac3 := keys(t, 3).Sign(msg)
	flip := func(m MAC, at int) MAC { m[at] ^= 1; return m }
	tests := []struct {
		name string
		keys Keys
		id   KeyID
		msg  []byte
		mac  MAC
		want bool
	}{
		{"no keys", Keys{}, id, msg, mac, false},
		{"no MAC", k, id, msg, MAC{}, false},
		{"nothing at all", Keys{}, KeyID{}, nil, MAC{}, false},
		{"first bit", k, id, msg, flip(mac, 0), false},
		{"last bit", k, id, msg, flip(mac, 15), false},
		{"other message", k, id, []byte("hellp"), mac, false},
		{"id of the other key", k, id2, msg, mac, false},
		{"under a strange key with our id", k, id, msg, mac3, false},
		{"key that is gone", keys(t, 2), id, msg, mac, false},
		{"first key", k, id, msg, mac, true},
		{"second key", k, id2, msg, mac2, true},
	}
	for _, tt := range tests {
		if got := tt.keys.Verify(tt.id, tt.msg, tt.mac); got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
	if id, mac := (Keys{}).Sign(msg); id != (KeyID{}) || mac != (MAC{}) {
		t.Errorf("without keys: %v %x", id, mac)
	}
}

// TestSameID: ids are short, and two keys may have the same.
func TestSameID(t *testing.T) {
	k := keys(t, 1, 2)
	k.set.keys[1].id = k.set.keys[0].id
	_, mac := keys(t, 2).Sign([]byte("m"))
	if !k.Verify(k.set.keys[0].id, []byte("m"), mac) {
		t.Error("the second key with the id was not tried")
	}
}

func TestSignConcurrently(t *testing.T) {
	k := keys(t, 1, 2)
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 200 {
				msg := fmt.Appendf(nil, "%d %d", n, i)
				if id, mac := k.Sign(msg); !k.Verify(id, msg, mac) {
					t.Errorf("%s does not verify", msg)
				}
			}
		})
	}
	wg.Wait()
}

// TestNothingShown prints all that has keys, alone and within others.
func TestNothingShown(t *testing.T) {
	k := keys(t, 1, 2, 3, 4)
	ring := Fixed(k)
	server := &Server{Ring: ring, Node: "a"}
	client := NewClient(ring, "a", "v1")
	if _, err := client.me.certificate(); err != nil {
		t.Fatal(err)
	}
	k.Sign(nil) // fills the pool
	type within struct {
		Keys   Keys
		hidden Keys
		Ring   *Ring
	}
	verbs := []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%t"}
	for _, v := range []any{
		k, &k, k.all(), within{k, k, ring}, &within{k, k, ring}, []Keys{k}, map[string]Keys{"k": k},
		ring, server, *server, client, ServerTLS(ring, "a"), ClientTLS(ring, "a", "b"),
	} {
		for _, verb := range verbs {
			secretFree(t, fmt.Sprintf(verb, v))
		}
		if b, err := json.Marshal(v); err == nil {
			secretFree(t, string(b))
		}
		var log bytes.Buffer
		for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
			slog.New(h).Info("m", "v", v)
		}
		secretFree(t, log.String())
	}
	ids := fmt.Sprint(keys(t, 1).IDs()[0], ", ", keys(t, 2).IDs()[0])
	two := keys(t, 1, 2)
	b, err := json.Marshal(two)
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "v", two)
	for how, text := range map[string]string{
		"%v": fmt.Sprint(two), "%+v": fmt.Sprintf("%+v", two), "%#v": fmt.Sprintf("%#v", two), "JSON": string(b), "slog": log.String(),
		"ring": Fixed(two).String(),
	} {
		if !strings.Contains(text, ids) {
			t.Errorf("%s: %s does not show %s", how, text, ids)
		}
	}
}

func FuzzParseKeys(f *testing.F) {
	for _, text := range []string{"", "#\n", lines(1, 2), lines(1, 1), lines(1, 2, 3, 4, 5), "AAAA", "====", strings.Repeat("A", 43)} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		k, err := ParseKeys(text)
		if !bytes.Equal(text, before) {
			t.Fatal("the text was changed")
		}
		ids := k.IDs()
		if (err == nil) != (len(ids) > 0) || len(ids) > maxKeys {
			t.Fatalf("%d keys, %v", len(ids), err)
		}
		if err != nil {
			for word := range strings.FieldsSeq(string(text)) {
				if len(word) >= 12 && strings.Contains(err.Error(), word) && !strings.Contains("/dev/urandom", word) {
					t.Fatalf("%v shows %q", err, word)
				}
			}
			return
		}
		id, mac := k.Sign(text)
		if id != ids[0] || !k.Verify(id, text, mac) {
			t.Fatal("what was signed does not verify")
		}
	})
}

// TestAllocations: hellos are many.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector drops from pools")
	}
	k, msg := keys(t, 1, 2), make([]byte, 100)
	id, mac := keys(t, 2).Sign(msg)
	if n := testing.AllocsPerRun(1000, func() { k.Sign(msg) }); n > 0.1 {
		t.Errorf("Sign allocates %v times", n)
	}
	if n := testing.AllocsPerRun(1000, func() { k.Verify(id, msg, mac) }); n > 0.1 {
		t.Errorf("Verify allocates %v times", n)
	}
}

func BenchmarkSign(b *testing.B) {
	k, msg := keys(b, 1, 2), make([]byte, 100)
	b.ReportAllocs()
	for b.Loop() {
		k.Sign(msg)
	}
}

func BenchmarkVerify(b *testing.B) {
	k, msg := keys(b, 1, 2), make([]byte, 100)
	id, mac := keys(b, 2).Sign(msg)
	b.ReportAllocs()
	for b.Loop() {
		if !k.Verify(id, msg, mac) {
			b.Fatal("does not verify")
		}
	}
}

func BenchmarkRingKeys(b *testing.B) {
	ring, err := OpenRing(keyFile(b, lines(1, 2)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		ring.Keys()
	}
}
