package probe

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/homeport-cni/homeport/pkg/vlan"
)

// EtherHello is the EtherType of hellos: IEEE Std 802's Local Experimental EtherType 1.
// Behind it stands helloMagic; bpf/include/guard.h lets no such frame into a guest's port, or out of one.
const EtherHello = 0x88b5

// A hello's payload, numbers in network byte order:
//
//	 0  magic "HPrt"
//	 4  version, 1
//	 5  kind
//	 6  flags: 1 sent without a tag
//	 7  length of the node's name
//	 8  length of the uplink's name
//	 9  -
//	10  VLAN that is meant
//	12  run; here in all versions
//	20  sequence number in the run, of the sender
//	24  size of the payload with padding
//	26  key's ID
//	30  names of node and uplink
//	    HMAC over both MACs of the frame and all before it, cut to 16 bytes
//	    padding
const (
	helloMagic   = "HPrt"
	helloVersion = 1
	helloHead    = 30
	helloMAC     = 16
	etherHead    = 14
	// minPayload: a switch that takes a tag off must not be left with less.
	minPayload = 46
	maxName    = 255
)

var helloKinds = [...]Kind{1: Hello, 2: Full, 3: Foreign, 4: Unicast, 5: Size}

// Keys make hellos that guests and other hosts cannot. Those who can record one can send it
// again, within the run that it is of.
type Keys interface {
	Sign(message []byte) (key [4]byte, mac [helloMAC]byte)
	Verify(key [4]byte, message []byte, mac [helloMAC]byte) bool
}

// Greeting is what a hello says.
type Greeting struct {
	Run      RunID
	Seq      uint32
	Kind     Kind
	Node     string
	Uplink   string
	VLAN     vlan.ID // that the sender meant
	Untagged bool    // as it was sent
	Size     int     // of the Ethernet payload, in bytes
}

// errForged is of a hello that no key of ours has made.
var errForged = errors.New("made with none of the keys that are known here")

// frame makes a hello's frame.
func (g Greeting) frame(keys Keys, from, to MAC) ([]byte, error) {
	if len(g.Node) > maxName || len(g.Uplink) > maxName {
		return nil, fmt.Errorf("names %q, %q: want at most %d bytes", g.Node, g.Uplink, maxName)
	}
	kind := byte(0)
	for i, k := range helloKinds {
		if k == g.Kind && k != "" {
			kind = byte(i)
		}
	}
	if kind == 0 {
		return nil, fmt.Errorf("there is no hello of kind %q", g.Kind)
	}
	size := max(g.Size, helloHead+len(g.Node)+len(g.Uplink)+helloMAC, minPayload)
	b := make([]byte, 0, etherHead+size)
	b = append(append(b, to[:]...), from[:]...)
	b = binary.BigEndian.AppendUint16(b, EtherHello)
	b = append(b, helloMagic...)
	flags := byte(0)
	if g.Untagged {
		flags = 1
	}
	b = append(b, helloVersion, kind, flags, byte(len(g.Node)), byte(len(g.Uplink)), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(g.VLAN))
	b = append(b, g.Run[:]...)
	b = binary.BigEndian.AppendUint32(b, g.Seq)
	b = binary.BigEndian.AppendUint16(b, uint16(size))
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	b = append(append(b, g.Node...), g.Uplink...)
	// The key's ID is not in what it signs.
	key, mac := keys.Sign(b)
	copy(b[at:], key[:])
	b = append(b, mac[:]...)
	return b[:etherHead+size], nil // the rest is zero
}

// readHello reads a frame of EtherHello. ok is false for what is no hello of any version;
// the error is of one that cannot be believed, whose run is told all the same.
func readHello(keys Keys, f Frame) (g Greeting, ok bool, err error) {
	b := f.Data
	if len(b) < etherHead+len(helloMagic) || string(b[etherHead:etherHead+len(helloMagic)]) != helloMagic {
		return g, false, nil
	}
	p := b[etherHead:]
	if len(p) < helloHead {
		return g, true, errShort
	}
	g.Run = RunID(p[12:20])
	if p[4] != helloVersion {
		return g, true, fmt.Errorf("hello of version %d, this agent knows %d", p[4], helloVersion)
	}
	node, uplink := int(p[7]), int(p[8])
	end := helloHead + node + uplink
	if len(p) < end+helloMAC {
		return g, true, errShort
	}
	key := [4]byte(p[26:30])
	signed := append([]byte(nil), b[:etherHead+end]...)
	clear(signed[etherHead+26 : etherHead+30])
	if !keys.Verify(key, signed, [helloMAC]byte(p[end:])) {
		return g, true, errForged
	}
	if int(p[5]) >= len(helloKinds) || p[5] == 0 {
		return g, true, fmt.Errorf("hello of kind %d", p[5])
	}
	g = Greeting{Kind: helloKinds[p[5]], Untagged: p[6]&1 != 0, Node: string(p[helloHead : helloHead+node]), Uplink: string(p[helloHead+node : end]),
		VLAN: vlan.ID(binary.BigEndian.Uint16(p[10:])), Run: RunID(p[12:20]), Seq: binary.BigEndian.Uint32(p[20:]), Size: int(binary.BigEndian.Uint16(p[24:]))}
	// A frame that was cut on its way is none that passed.
	if f.Length < etherHead+g.Size {
		return g, true, errShort
	}
	return g, true, nil
}
