package bridge

import (
	"encoding/binary"
	"testing"

	"github.com/vishvananda/netlink/nl"
)

// VLANs in which a port does not forward are told from the others, as the kernel lists them.
func TestBlockedVLANs(t *testing.T) {
	var p PortVLANs
	for _, e := range []struct {
		first, last uint16
		state       []byte
	}{
		{1, 1, nil}, // of the bridge itself
		{100, 102, []byte{byte(PortForwarding)}},
		{103, 105, []byte{byte(PortBlocking)}},
		{200, 200, []byte{byte(PortLearning)}},
	} {
		info := make([]byte, bridgeVLANInfoSize)
		binary.NativeEndian.PutUint16(info[2:], e.first)
		b := nl.NewRtAttr(vlandbEntryInfo, info).Serialize()
		if e.last != e.first {
			b = append(b, nl.NewRtAttr(vlandbEntryRange, nl.Uint16Attr(e.last)).Serialize()...)
		}
		if e.state != nil {
			b = append(b, nl.NewRtAttr(vlandbEntryState, e.state).Serialize()...)
		}
		must(t, p.addEntry(b))
	}
	if p.Blocked != set(t, "103-105,200") || p.Members != set(t, "1,100-105,200") {
		t.Errorf("members %v, of which blocked %v", p.Members, p.Blocked)
	}
}
