package bridge

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

func TestKernelError(t *testing.T) {
	word := func(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }
	minus := func(e syscall.Errno) []byte { return word(uint32(-int32(e))) }
	header := func(n uint32) []byte { return append(word(n), make([]byte, unix.NLMSG_HDRLEN-4)...) }
	text := nl.NewRtAttr(unix.NLMSGERR_ATTR_MSG, nl.ZeroTerminated("no such VLAN")).Serialize()
	join := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	cases := []struct {
		name  string
		typ   uint16
		flags uint16
		data  []byte
		want  syscall.Errno
		words string
	}{
		{name: "done without a word", typ: unix.NLMSG_DONE},
		{name: "acknowledged", typ: unix.NLMSG_ERROR, data: join(word(0), header(40))},
		{name: "list refused", typ: unix.NLMSG_DONE, data: minus(unix.EPERM), want: unix.EPERM},
		{name: "bare", typ: unix.NLMSG_ERROR, data: join(minus(unix.ENODEV), header(40)), want: unix.ENODEV},
		{name: "in words, request capped", typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS | unix.NLM_F_CAPPED,
			data: join(minus(unix.EINVAL), header(40), text), want: unix.EINVAL, words: "no such VLAN"},
		{name: "in words, request whole", typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS,
			data: join(minus(unix.EINVAL), header(20), word(7), text), want: unix.EINVAL, words: "no such VLAN"},
		{name: "request longer than the message", typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS,
			data: join(minus(unix.EINVAL), header(4000), text), want: unix.EINVAL},
		{name: "request shorter than its header", typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS,
			data: join(minus(unix.EINVAL), header(3), text), want: unix.EINVAL},
		{name: "cut in the header", typ: unix.NLMSG_ERROR, flags: unix.NLM_F_ACK_TLVS, data: join(minus(unix.EBUSY), word(1)), want: unix.EBUSY},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			err := kernelError(syscall.NetlinkMessage{Header: syscall.NlMsghdr{Type: c.typ, Flags: c.flags}, Data: c.data})
			if c.want == 0 {
				if err != nil {
					t.Errorf("%v, want success", err)
				}
				return
			}
			if !errors.Is(err, c.want) || !strings.HasSuffix(err.Error(), c.words) {
				t.Errorf("%v, want %v %q", err, c.want, c.words)
			}
		})
	}
}

// TestKernelWords has the kernel itself refuse something in words.
func TestKernelWords(t *testing.T) {
	host := newSpace(t)
	must(t, host.newVeth(VethSpec{HostName: "vethwords", PeerName: "peer"}, Veth{HostMAC: randomMAC(2), PeerMAC: randomMAC(2)}, host.ns))
	l, err := host.LinkInfo(Ref{Name: "vethwords"})
	must(t, err)
	err = host.setLink(l.Index, nil, nl.NewRtAttr(unix.IFLA_MTU, nl.Uint32Attr(1)))
	if !errors.Is(err, unix.EINVAL) || !strings.Contains(err.Error(), "mtu") {
		t.Errorf("MTU 1: %v, want EINVAL with what the kernel says about the MTU", err)
	}
	// The connection is good for more.
	if _, err := host.LinkInfo(l.Ref()); err != nil {
		t.Error(err)
	}
}
