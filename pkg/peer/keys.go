package peer

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

const (
	minKey  = 32
	maxKey  = 64
	maxKeys = 4

	makeKey = "make one with head -c 32 /dev/urandom | base64"
)

// What is derived from a key (RFC 5869, info). To change one is to cut off all
// agents that have the old.
const (
	infoID    = "homeport key id v1"
	infoHello = "homeport hello v1"
	infoCA    = "homeport agents CA v1"
)

// KeyID names a fabric key and tells nothing of it.
type KeyID [4]byte

// String is the id in hex.
func (id KeyID) String() string { return hex.EncodeToString(id[:]) }

// MAC proves that who made a message has a fabric key: HMAC-SHA256, cut to 16 bytes.
type MAC [16]byte

// Keys are the fabric keys of an agent: the first signs, all are trusted. The value
// does not change, and printed it shows ids only. The zero value has no key: what
// it signs nobody trusts, and it trusts nobody.
type Keys struct {
	// set is behind a pointer so that what prints a struct by its fields finds an
	// address here.
	set *keySet
}

type keySet struct {
	keys []*key // the signing one first
	// roots are the authorities of all keys.
	roots *x509.CertPool
}

// key is what is derived from a fabric key; the key itself is not kept.
type key struct {
	id     KeyID
	ca     *x509.Certificate
	caKey  ed25519.PrivateKey
	hashes sync.Pool // of *keyedHash
}

// Format implements fmt.Formatter: whatever is asked for, the id is shown.
func (k *key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.id.String()) }

// keyedHash is an HMAC to be used again, with the place for its sum.
type keyedHash struct {
	hash.Hash
	sum [sha256.Size]byte
}

// ParseKeys reads a file of fabric keys: one a line in base64, 32 to 64 bytes each,
// at most 4; blank lines and what follows a # do not count. Errors name the line and
// the remedy, and show nothing of a key.
func ParseKeys(text []byte) (Keys, error) {
	set := &keySet{roots: x509.NewCertPool()}
	var raw [][]byte
	var at []int // the line of each
	n := 0
	for line := range bytes.Lines(text) {
		n++
		line, _, _ = bytes.Cut(line, []byte("#"))
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		secret, err := decodeKey(line)
		if err != nil {
			return Keys{}, fmt.Errorf("line %d: %w", n, err)
		}
		same := func(b []byte) bool { return subtle.ConstantTimeCompare(b, secret) == 1 }
		if i := slices.IndexFunc(raw, same); i >= 0 {
			return Keys{}, fmt.Errorf("line %d: the same key as in line %d: remove one of them", n, at[i])
		}
		if len(raw) == maxKeys {
			return Keys{}, fmt.Errorf("line %d: more than %d keys: remove those that no node signs with any more", n, maxKeys)
		}
		k, err := deriveKey(secret)
		if err != nil {
			return Keys{}, fmt.Errorf("line %d: %w", n, err)
		}
		raw, at = append(raw, secret), append(at, n)
		set.keys = append(set.keys, k)
		set.roots.AddCert(k.ca)
	}
	if len(set.keys) == 0 {
		return Keys{}, errors.New("no key: " + makeKey + ", and give the same to every node")
	}
	return Keys{set}, nil
}

// MakeKey makes a key, as a line of a key file.
func MakeKey() string {
	var secret [minKey]byte
	_, _ = rand.Read(secret[:]) // never fails
	return base64.StdEncoding.EncodeToString(secret[:]) + "\n"
}

func decodeKey(line []byte) ([]byte, error) {
	enc := base64.RawStdEncoding
	if bytes.HasSuffix(line, []byte("=")) {
		enc = base64.StdEncoding
	}
	b := make([]byte, enc.DecodedLen(len(line)))
	n, err := enc.Strict().Decode(b, line)
	if err != nil {
		// The cause would be a place within the key: nothing that helps.
		return nil, errors.New("not base64: " + makeKey)
	}
	if n < minKey || n > maxKey {
		return nil, fmt.Errorf("%d bytes, want %d to %d: %s", n, minKey, maxKey, makeKey)
	}
	return b[:n], nil
}

func deriveKey(secret []byte) (*key, error) {
	derive := func(info string, n int) ([]byte, error) {
		b, err := hkdf.Key(sha256.New, secret, nil, info, n)
		if err != nil {
			return nil, fmt.Errorf("derive from the key: %w", err)
		}
		return b, nil
	}
	k := new(key)
	id, err := derive(infoID, len(k.id))
	if err != nil {
		return nil, err
	}
	k.id = KeyID(id)
	hello, err := derive(infoHello, sha256.Size)
	if err != nil {
		return nil, err
	}
	k.hashes.New = func() any { return &keyedHash{Hash: hmac.New(sha256.New, hello)} }
	seed, err := derive(infoCA, ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	k.caKey = ed25519.NewKeyFromSeed(seed)
	k.ca, err = newCA(k.id, k.caKey)
	return k, err
}

// all are the keys, the signing one first.
func (k Keys) all() []*key {
	if k.set == nil {
		return nil
	}
	return k.set.keys
}

// IDs are those of the keys, of the signing one first.
func (k Keys) IDs() []KeyID {
	ids := make([]KeyID, 0, maxKeys)
	for _, one := range k.all() {
		ids = append(ids, one.id)
	}
	return ids
}

// same says whether both have the same keys in the same order.
func (k Keys) same(o Keys) bool {
	return slices.EqualFunc(k.all(), o.all(), func(a, b *key) bool { return a.caKey.Equal(b.caKey) })
}

// Sign gives the MAC of msg under the first key, and that key's id.
func (k Keys) Sign(msg []byte) (id KeyID, mac MAC) {
	all := k.all()
	if len(all) == 0 {
		return id, mac
	}
	return all[0].id, all[0].mac(msg)
}

// Verify says whether mac is that of msg under a key with this id.
func (k Keys) Verify(id KeyID, msg []byte, mac MAC) bool {
	for _, one := range k.all() {
		if one.id != id {
			continue
		}
		if want := one.mac(msg); hmac.Equal(want[:], mac[:]) {
			return true
		}
	}
	return false
}

func (k *key) mac(msg []byte) (m MAC) {
	h := k.hashes.Get().(*keyedHash)
	defer k.hashes.Put(h)
	h.Reset()
	h.Write(msg)
	copy(m[:], h.Sum(h.sum[:0]))
	return m
}

// String shows the ids.
func (k Keys) String() string {
	all := k.all()
	if len(all) == 0 {
		return "no fabric keys"
	}
	ids := make([]string, len(all))
	for i, one := range all {
		ids[i] = one.id.String()
	}
	return strings.Join(ids, ", ")
}

// GoString shows the ids.
func (k Keys) GoString() string { return "peer.Keys(" + k.String() + ")" }

// LogValue shows the ids.
func (k Keys) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalJSON shows the ids.
func (k Keys) MarshalJSON() ([]byte, error) { return json.Marshal(k.String()) }
