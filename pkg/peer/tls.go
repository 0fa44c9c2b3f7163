package peer

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"sync"
	"time"
)

// caName begins the name of an authority; the id of its key follows.
const caName = "homeport agents "

// Certificates hold for all times that clocks may show, and are judged at a fixed
// one: a node whose clock is wrong belongs to the fabric.
func notBefore() time.Time { return time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }
func notAfter() time.Time  { return time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC) }
func judgedAt() time.Time  { return time.Date(2050, 1, 1, 0, 0, 0, 0, time.UTC) }

// newCA is the certificate of a key's authority: the same on every node.
func newCA(id KeyID, key ed25519.PrivateKey) (*x509.Certificate, error) {
	return sign(&x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: caName + id.String()},
		NotBefore:             notBefore(),
		NotAfter:              notAfter(),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}, nil, key.Public().(ed25519.PublicKey), key)
}

func nodeURI(node string) *url.URL {
	return &url.URL{Scheme: "homeport", Host: "node", Path: "/" + node}
}

// newLeaf makes the certificate of a node's agent, with a key of its own.
func (k *key) newLeaf(node string) (*tls.Certificate, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	leaf, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: "homeport agent"},
		URIs:                  []*url.URL{nodeURI(node)},
		NotBefore:             notBefore(),
		NotAfter:              notAfter(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}, k.ca, public, k.caKey)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: private, Leaf: leaf}, nil
}

// sign makes a certificate; no issuer is itself.
func sign(c, issuer *x509.Certificate, public ed25519.PublicKey, by ed25519.PrivateKey) (*x509.Certificate, error) {
	if issuer == nil {
		issuer = c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, public, by)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read the certificate that was made: %w", err)
	}
	return made, nil
}

// identity has the certificate of this node's agent, made anew when another key
// comes first.
type identity struct {
	ring *Ring
	node string

	mu   sync.Mutex
	key  *key
	cert *tls.Certificate // under key
}

func (i *identity) certificate() (*tls.Certificate, error) {
	if err := checkNode(i.node); err != nil {
		return nil, fmt.Errorf("this agent's own: %w", err)
	}
	all := i.ring.Keys().all()
	if len(all) == 0 {
		return nil, errors.New("this node has no fabric keys")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.key == all[0] {
		return i.cert, nil
	}
	cert, err := all[0].newLeaf(i.node)
	if err != nil {
		return nil, err
	}
	i.key, i.cert = all[0], cert
	return cert, nil
}

// trustError is why a certificate was not taken.
type trustError struct {
	// node is who it says to be, if that is a node's name at all; key is the id of
	// the key that it says to be made under, or "".
	node, key string
	// known says that it was made under one of our keys.
	known bool
	err   error
}

// Error implements error.
func (e *trustError) Error() string {
	switch {
	case e.known:
		return fmt.Sprintf("agent of node %s: %v", e.node, e.err)
	case e.node != "" && e.key != "":
		return fmt.Sprintf("agent of node %s, under fabric key %s: %v", e.node, e.key, e.err)
	}
	return fmt.Sprintf("no agent's certificate: %v", e.err)
}

// Unwrap gives the cause.
func (e *trustError) Unwrap() error { return e.err }

// peer gives the node whose agent is on the other side, as a server or a client.
// Errors are *trustError.
func (k Keys) peer(cs tls.ConnectionState, as x509.ExtKeyUsage) (string, error) {
	if len(cs.PeerCertificates) == 0 {
		return "", &trustError{err: errors.New("there is none")}
	}
	cert := cs.PeerCertificates[0]
	node, err := nodeOf(cert)
	if err != nil {
		return "", &trustError{err: err}
	}
	refused := &trustError{node: node, key: keyOf(cert)}
	if k.set == nil {
		refused.err = errors.New("this node has no fabric keys")
		return "", refused
	}
	_, err = cert.Verify(x509.VerifyOptions{
		Roots:       k.set.roots,
		CurrentTime: judgedAt(),
		KeyUsages:   []x509.ExtKeyUsage{as},
	})
	if err != nil {
		refused.err = fmt.Errorf("not under the keys of this node (%s): %w", k, err)
		return "", refused
	}
	return node, nil
}

// nodeOf reads the node's name: the certificate has one URI and it is a node's.
func nodeOf(cert *x509.Certificate) (string, error) {
	if len(cert.URIs) != 1 {
		return "", errors.New("it names no node")
	}
	u := cert.URIs[0]
	node := strings.TrimPrefix(u.Path, "/")
	if err := checkNode(node); err != nil || u.String() != nodeURI(node).String() {
		return "", errors.New("it names no node")
	}
	return node, nil
}

// keyOf is the id of the key that a certificate says to be made under, for messages.
func keyOf(cert *x509.Certificate) string {
	id, ok := strings.CutPrefix(cert.Issuer.CommonName, caName)
	if b, err := hex.DecodeString(id); !ok || err != nil || len(b) != len(KeyID{}) {
		return ""
	}
	return id
}

// ServerTLS is for an agent that answers as that of node. Each handshake goes by the
// keys that the ring has then: callers need a certificate under one of them.
func ServerTLS(ring *Ring, node string) *tls.Config {
	me := &identity{ring: ring, node: node}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAnyClientCert, // VerifyConnection judges it
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return me.certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := ring.Keys().peer(cs, x509.ExtKeyUsageClientAuth)
			return err
		},
	}
}

// ClientTLS is for the agent of node me that asks the one of node want, and nobody
// else. Each handshake goes by the keys that the ring has then.
func ClientTLS(ring *Ring, me, want string) *tls.Config {
	return (&identity{ring: ring, node: me}).clientTLS(want)
}

func (i *identity) clientTLS(want string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		// Names and addresses of hosts say nothing here: VerifyConnection judges.
		InsecureSkipVerify:   true,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return i.certificate() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			node, err := i.ring.Keys().peer(cs, x509.ExtKeyUsageServerAuth)
			if err == nil && node != want {
				err = &trustError{node: node, known: true, err: fmt.Errorf("it is not that of node %s", want)}
			}
			return err
		},
	}
}
