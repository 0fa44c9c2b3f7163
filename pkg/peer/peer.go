// Package peer lets the agents of the nodes ask each other, over HTTPS on which
// both sides prove who they are.
//
// All trust comes from fabric keys: secrets of 32 to 64 bytes that the agents of
// one fabric share, as a Secret that is mounted or a file. From each key follow
// (HKDF) the key of a certificate authority, the key of the MACs of hellos, and a
// short id that may be shown. An agent makes itself a certificate for its node, in
// memory, under the authority of the first key, and takes those that were made
// under any of its keys. So there is nothing to hand out, to store or to renew.
//
// Who has a fabric key is an agent of this fabric, and may say that he is the agent
// of any node: node names keep mistakes apart (an address that is another node's by
// now), not thieves. A stolen key allows to ask every agent, to answer in its name
// and to say hello for it, until the key is gone from all files; what was said on
// connections that were recorded stays secret. The remedy is another key:
//
//  1. add it as second line, on every node;
//  2. make it the first, on every node;
//  3. take the old one out, on every node.
//
// At any moment two neighbouring steps may be mixed, and nobody restarts. A key that
// is taken out counts no more for connections that are made, nor for requests on
// those that were. Certificates do not expire, and no clock is asked: what ends
// trust is the going of its key.
//
// A request is a POST of JSON to /v1/VERB. It is sent only when the other side has
// taken the connection and asks for it (100-continue), so a request that was refused
// for the sake of trust, version or size was not begun.
package peer

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Version is the number of the protocol that agents speak. Agents of different
// numbers do not understand each other.
const Version = 1

// Both sides say their protocol's number and their release.
const (
	versionHeader = "Homeport-Agents"
	releaseHeader = "Homeport-Release"
)

const (
	pathPrefix = "/v1/"
	// MaxRequest bounds the body of a request, in bytes of JSON.
	MaxRequest = 4 << 20
	// MaxAnswer bounds an answer, in bytes of JSON.
	MaxAnswer = 64 << 20
	// maxRefusal bounds what is read of an answer that says why there is none.
	maxRefusal = 64 << 10
	maxHeaders = 16 << 10
)

const (
	// handshakeTime bounds a TLS handshake, on either side.
	handshakeTime = 5 * time.Second
	// maxNodeName is what Kubernetes lets a node be called (RFC 1123 subdomain).
	maxNodeName = 253
)

// Peer is the agent of another node.
type Peer struct {
	// Node is the name of its node; an agent of any other is refused.
	Node string
	// Address is where it listens: host:port.
	Address string
}

func (p Peer) check() error {
	if err := checkNode(p.Node); err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(p.Address)
	if err != nil {
		return fmt.Errorf("address %q: want host:port", p.Address)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return fmt.Errorf("address %q: want a host and a port from 1 to 65535", p.Address)
	}
	return nil
}

// port of an address that was checked.
func (p Peer) port() string {
	_, port, _ := net.SplitHostPort(p.Address)
	return port
}

// checkNode takes what Kubernetes takes for the name of a node.
func checkNode(name string) error {
	if name == "" {
		return errors.New("no node name")
	}
	if len(name) > maxNodeName {
		return fmt.Errorf("node name of %d bytes: want at most %d", len(name), maxNodeName)
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return fmt.Errorf("node name %q: want lower case letters, digits, '-' and '.', each part beginning and ending with a letter or digit", name)
		}
	}
	return nil
}

// isLabel is one part of a node name, or a verb.
func isLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		inner := c == '-' && i > 0 && i < len(s)-1
		if !inner && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
