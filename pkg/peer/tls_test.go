package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

// shake has a client and a server shake hands and say a word each, since a client
// hears only after its handshake that its certificate was refused.
func shake(tb testing.TB, server, client *tls.Config) (serverErr, clientErr error) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	word := func(c *tls.Conn) error {
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			return err
		}
		if err := c.Handshake(); err != nil {
			return err
		}
		if _, err := c.Write([]byte{1}); err != nil {
			return err
		}
		_, err := c.Read(make([]byte, 1))
		return err
	}
	served := make(chan error)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = word(tls.Server(c, server))
		}
		served <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	clientErr = word(tls.Client(c, client))
	return <-served, clientErr
}

// steps are the files of a node in the course of a rotation from key 1 to key 2.
func steps() []string { return []string{lines(1), lines(1, 2), lines(2, 1), lines(2)} }

// TestRotation: nodes that are a step apart, as they are while a step is carried out,
// trust each other in all ways; nodes that are two steps apart need not, and the first
// and the last do not.
func TestRotation(t *testing.T) {
	for i, a := range steps() {
		for j, b := range steps() {
			t.Run(fmt.Sprintf("step %d asks step %d", i, j), func(t *testing.T) {
				ka, err := ParseKeys([]byte(a))
				if err != nil {
					t.Fatal(err)
				}
				kb, err := ParseKeys([]byte(b))
				if err != nil {
					t.Fatal(err)
				}
				near := max(i-j, j-i) <= 1
				serverErr, clientErr := shake(t, ServerTLS(Fixed(kb), "b"), ClientTLS(Fixed(ka), "a", "b"))
				if near && (serverErr != nil || clientErr != nil) {
					t.Errorf("server: %v, client: %v", serverErr, clientErr)
				}
				id, mac := ka.Sign([]byte("hello"))
				heard := kb.Verify(id, []byte("hello"), mac)
				if near && !heard {
					t.Error("the hello is refused")
				}
				if max(i, j) == 3 && min(i, j) == 0 && (serverErr == nil || clientErr == nil || heard) {
					t.Errorf("keys that share nothing trust each other: server: %v, client: %v, hello: %v", serverErr, clientErr, heard)
				}
			})
		}
	}
}

// TestRotationRunning goes through all steps on two agents that stay up, one of them
// always first, by their files.
func TestRotationRunning(t *testing.T) {
	pathA, pathB := keyFile(t, steps()[0]), keyFile(t, steps()[0])
	a, err := OpenRing(pathA)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenRing(pathB)
	if err != nil {
		t.Fatal(err)
	}
	both := func(when string) {
		t.Helper()
		for _, c := range []struct{ server, client *tls.Config }{
			{ServerTLS(a, "a"), ClientTLS(b, "b", "a")}, {ServerTLS(b, "b"), ClientTLS(a, "a", "b")},
		} {
			if serverErr, clientErr := shake(t, c.server, c.client); serverErr != nil || clientErr != nil {
				t.Errorf("%s: server: %v, client: %v", when, serverErr, clientErr)
			}
		}
		for _, r := range [][2]*Ring{{a, b}, {b, a}} {
			if id, mac := r[0].Keys().Sign([]byte("m")); !r[1].Keys().Verify(id, []byte("m"), mac) {
				t.Errorf("%s: a hello is refused", when)
			}
		}
	}
	// These are made once, as those of agents are.
	oldClient, server := ClientTLS(Fixed(keys(t, 1)), "b", "a"), ServerTLS(a, "a")
	for i, text := range steps() {
		write(t, pathA, text)
		a.lookNow()
		both(fmt.Sprintf("a at step %d, b before", i))
		write(t, pathB, text)
		b.lookNow()
		both(fmt.Sprintf("both at step %d", i))
		// a signs with the new key from step 2 on, and drops the old one at 3.
		serverErr, clientErr := shake(t, server, oldClient)
		if trusted := i <= 1; trusted != (clientErr == nil) || (i <= 1) != (serverErr == nil) {
			t.Errorf("step %d, one that has the old key only: server: %v, client: %v", i, serverErr, clientErr)
		}
	}
	var trust *trustError
	stolen := &identity{ring: Fixed(keys(t, 1)), node: "b"}
	client := stolen.clientTLS("a")
	client.VerifyConnection = nil // a thief takes anybody
	if serverErr, _ := shake(t, server, client); !errors.As(serverErr, &trust) || trust.node != "b" || trust.key != keys(t, 1).IDs()[0].String() {
		t.Errorf("under the key that was taken out: %v", serverErr)
	}
}

// forged makes a certificate under a key of ours as change has it.
func forged(tb testing.TB, k *key, change func(*x509.Certificate)) *tls.Certificate {
	tb.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	c := &x509.Certificate{
		URIs: []*url.URL{nodeURI("b")}, NotBefore: notBefore(), NotAfter: notAfter(), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	change(c)
	leaf, err := sign(c, k.ca, public, k.caKey)
	if err != nil {
		tb.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: private, Leaf: leaf}
}

func TestPeerFails(t *testing.T) {
	ours, theirs := keys(t, 1, 2), keys(t, 3)
	uri := func(texts ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, text := range texts {
				u, err := url.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				c.URIs = append(c.URIs, u)
			}
		}
	}
	usage := func(u ...x509.ExtKeyUsage) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtKeyUsage = u }
	}
	mine := ours.set.keys[0]
	tests := []struct {
		name string
		by   *key
		edit func(*x509.Certificate)
		want string
	}{
		{"strange key", theirs.set.keys[0], func(*x509.Certificate) {}, "agent of node b, under fabric key " + theirs.String() + ": not under the keys of this node (" + ours.String() + ")"},
		{"no URI", mine, uri(), "it names no node"},
		{"two URIs", mine, uri("homeport://node/b", "homeport://node/a"), "it names no node"},
		{"other scheme", mine, uri("spiffe://node/b"), "it names no node"},
		{"other host", mine, uri("homeport://pod/b"), "it names no node"},
		{"user", mine, uri("homeport://x@node/b"), "it names no node"},
		{"query", mine, uri("homeport://node/b?a"), "it names no node"},
		{"fragment", mine, uri("homeport://node/b#a"), "it names no node"},
		{"escaped", mine, uri("homeport://node/%62"), "it names no node"},
		{"deeper", mine, uri("homeport://node/b/c"), "it names no node"},
		{"two slashes", mine, uri("homeport://node//b"), "it names no node"},
		{"capitals", mine, uri("homeport://node/B"), "it names no node"},
		{"no name", mine, uri("homeport://node/"), "it names no node"},
		{"only a host name", mine, func(c *x509.Certificate) { c.URIs, c.DNSNames = nil, []string{"b"} }, "it names no node"},
		{"for servers only", mine, usage(x509.ExtKeyUsageServerAuth), "incompatible key usage"},
		{"for code", mine, usage(x509.ExtKeyUsageCodeSigning), "incompatible key usage"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cert := forged(t, tt.by, tt.edit)
			_, err := ours.peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}, x509.ExtKeyUsageClientAuth)
			var trust *trustError
			if !errors.As(err, &trust) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			secretFree(t, err.Error())
			if _, err := (Keys{}).peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert.Leaf}}, x509.ExtKeyUsageClientAuth); err == nil {
				t.Error("without keys it is trusted")
			}
		})
	}
}

// TestPeerNone: what is not a certificate of an agent at all.
func TestPeerNone(t *testing.T) {
	ours := keys(t, 1, 2)
	mine, theirs := ours.set.keys[0], keys(t, 3).set.keys[0].caKey
	if _, err := ours.peer(tls.ConnectionState{}, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("no certificate is trusted")
	}
	if _, err := ours.peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{mine.ca}}, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("the authority itself is taken for a node")
	}
	// A name is not a signature: the issuer's name is ours, its key is not.
	if der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		Subject: mine.ca.Subject, URIs: []*url.URL{nodeURI("b")}, NotBefore: notBefore(), NotAfter: notAfter(),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, &x509.Certificate{Subject: mine.ca.Subject, SubjectKeyId: mine.ca.SubjectKeyId}, theirs.Public(), theirs); err != nil {
		t.Error(err)
	} else if cert, err := x509.ParseCertificate(der); err != nil {
		t.Error(err)
	} else if _, err := ours.peer(tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}, x509.ExtKeyUsageClientAuth); err == nil {
		t.Error("a certificate with the name of our authority alone is trusted")
	}
}

func TestHandshakeFails(t *testing.T) {
	ring := Fixed(keys(t, 1))
	bare := func(change func(*tls.Config)) *tls.Config {
		c := ClientTLS(ring, "a", "b")
		change(c)
		return c
	}
	tests := []struct {
		name           string
		server, client *tls.Config
		serverWant     string // "" for anything that is an error
		clientWant     string
	}{
		{"no certificate", ServerTLS(ring, "b"), bare(func(c *tls.Config) { c.GetClientCertificate = nil }), "client didn't provide a certificate", "certificate required"},
		{"TLS 1.2", ServerTLS(ring, "b"), bare(func(c *tls.Config) { c.MinVersion, c.MaxVersion = 0, tls.VersionTLS12 }), "unsupported versions", "protocol version"},
		{"another node", ServerTLS(ring, "c"), ClientTLS(ring, "a", "b"), "", "agent of node c: it is not that of node b"},
		{"a node that begins alike", ServerTLS(ring, "b.example"), ClientTLS(ring, "a", "b"), "", "agent of node b.example: it is not"},
		{"other key", ServerTLS(Fixed(keys(t, 2)), "b"), ClientTLS(ring, "a", "b"), "", "agent of node b, under fabric key " + keys(t, 2).String()},
		{"the server lacks the client's key", ServerTLS(Fixed(keys(t, 2)), "b"), ClientTLS(Fixed(keys(t, 1, 2)), "a", "b"), "agent of node a, under fabric key " + keys(t, 1).String(), "bad certificate"},
		{"no keys at the server", ServerTLS(Fixed(Keys{}), "b"), ClientTLS(ring, "a", "b"), "this node has no fabric keys", ""},
		{"no keys at the client", ServerTLS(ring, "b"), ClientTLS(Fixed(Keys{}), "a", "b"), "", "this node has no fabric keys"},
		{"the server has no name", ServerTLS(ring, ""), ClientTLS(ring, "a", "b"), "no node name", ""},
		{"the client has a bad name", ServerTLS(ring, "b"), ClientTLS(ring, "A_", "b"), "", `node name "A_"`},
		{"certificate of another fabric's", ServerTLS(ring, "b"), bare(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return forged(t, keys(t, 3).set.keys[0], func(*x509.Certificate) {}), nil
			}
		}), "not under the keys of this node", "bad certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			serverErr, clientErr := shake(t, tt.server, tt.client)
			for who, e := range map[string]struct {
				err  error
				want string
			}{"server": {serverErr, tt.serverWant}, "client": {clientErr, tt.clientWant}} {
				if e.err == nil || !strings.Contains(e.err.Error(), e.want) {
					t.Errorf("%s: got %v, want %q", who, e.err, e.want)
					continue
				}
				secretFree(t, e.err.Error())
			}
		})
	}
}

// TestHandshake: names as long as may be, and clocks as wrong as may be.
func TestHandshake(t *testing.T) {
	long := strings.Repeat("a.", 94) + strings.Repeat("b", 65)
	ring := Fixed(keys(t, 1))
	for _, clock := range []time.Time{{}, time.Unix(0, 0), time.Date(2150, 1, 1, 0, 0, 0, 0, time.UTC)} {
		server, client := ServerTLS(ring, long), ClientTLS(ring, "0-0.x", long)
		server.Time = func() time.Time { return clock }
		client.Time = server.Time
		verify := server.VerifyConnection
		server.VerifyConnection = func(cs tls.ConnectionState) error {
			if node, err := ring.Keys().peer(cs, x509.ExtKeyUsageClientAuth); err != nil || node != "0-0.x" {
				t.Errorf("caller %q, %v", node, err)
			}
			if cs.Version != tls.VersionTLS13 || cs.DidResume {
				t.Errorf("%+v", cs)
			}
			return verify(cs)
		}
		if serverErr, clientErr := shake(t, server, client); serverErr != nil || clientErr != nil {
			t.Errorf("clock %v: server: %v, client: %v", clock, serverErr, clientErr)
		}
	}
}

// TestCertificateIsKept until another key signs.
func TestCertificateIsKept(t *testing.T) {
	ring := Fixed(keys(t, 1))
	me := &identity{ring: ring, node: "a"}
	get := func() *tls.Certificate {
		t.Helper()
		c, err := me.certificate()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := get()
	if get() != first {
		t.Error("made again")
	}
	ring.turn(keys(t, 2, 1))
	second := get()
	if keyOf(second.Leaf) != keys(t, 2).String() || get() != second {
		t.Errorf("under key %s", keyOf(second.Leaf))
	}
}

func TestCheckNode(t *testing.T) {
	for name, want := range map[string]bool{
		"": false, ".": false, "a.": false, ".a": false, "a..b": false, "-a": false, "a-": false, "a.-b": false, "A": false, "a_b": false,
		"a/b": false, "a b": false, "ä": false, "a\n": false, strings.Repeat("a", 254): false,
		"a": true, "0": true, "a-b": true, "a--b": true, "node-1.example.org": true, strings.Repeat("a", 253): true,
	} {
		if err := checkNode(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// FuzzNodeURI: what is read of a certificate's URI is a node's name that makes it.
func FuzzNodeURI(f *testing.F) {
	for _, text := range []string{"homeport://node/a", "homeport://node/%61", "HOMEPORT://node/a", "homeport:node/a", "homeport://node/a?", "homeport://node/a#"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		node, err := nodeOf(&x509.Certificate{URIs: []*url.URL{u}})
		if err != nil {
			return
		}
		if checkNode(node) != nil || u.String() != "homeport://node/"+node {
			t.Errorf("%q is taken for %q", text, node)
		}
	})
}

func uriless(c *x509.Certificate) { c.URIs = nil }
