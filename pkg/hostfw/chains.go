package hostfw

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Hooked is what of nftables and ebtables sees the frames of bridges themselves, whether it drops any or not.
type Hooked struct {
	// Bridge names a chain of nftables' family bridge, or the legacy ebtables; "" is none.
	Bridge string
	// Devices are chains that see the frames of single interfaces.
	Devices []BaseChain
}

// At names a chain that sees the frames of an interface; "" is none.
func (h Hooked) At(name string) string {
	for _, c := range h.Devices {
		for _, dev := range c.Devices {
			if prefix, wild := strings.CutSuffix(dev, "*"); dev == name || wild && strings.HasPrefix(name, prefix) {
				return c.String()
			}
		}
	}
	return ""
}

// Hooked asks the kernel, and needs no nft for it.
func (h Host) Hooked() (Hooked, error) {
	var found Hooked
	for _, table := range []string{"filter", "nat", "broute"} {
		if h.exists("sys/module/ebtable_" + table) {
			found.Bridge = "the legacy ebtables' table " + table
		}
	}
	for _, family := range []uint8{unix.NFPROTO_BRIDGE, unix.NFPROTO_NETDEV, unix.NFPROTO_INET} {
		chains, err := h.Chains(family)
		if err != nil {
			return found, fmt.Errorf("list the base chains of nftables: %w", err)
		}
		for _, c := range chains {
			if len(c.Devices) > 0 { // at ingress and egress
				found.Devices = append(found.Devices, c)
			}
			// input and output are for what the node itself says and hears.
			const input, output = 1, 3
			if c.Family == unix.NFPROTO_BRIDGE && c.Hook != input && c.Hook != output {
				found.Bridge = c.String()
			}
		}
	}
	return found, nil
}

// BaseChain is a chain of nftables that the kernel calls.
type BaseChain struct {
	Family      uint8 // unix.NFPROTO_...
	Table, Name string
	Hook        uint32   // its family's number
	Devices     []string // at which it is, where its hook is one of interfaces; "veth*" is all that begin so
}

// String is the chain as nft lists it.
func (c BaseChain) String() string {
	family := map[uint8]string{unix.NFPROTO_BRIDGE: "bridge", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_INET: "inet"}[c.Family]
	return fmt.Sprintf("nftables' chain %s %s %s", family, c.Table, c.Name)
}

// listChains lists the base chains of a family of nftables (unix.NFPROTO_...). A kernel without it has none.
func listChains(family uint8) (out []BaseChain, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// struct nlmsghdr and struct nfgenmsg.
	ask := binary.NativeEndian.AppendUint32(nil, unix.NLMSG_HDRLEN+4)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETCHAIN)
	ask = binary.NativeEndian.AppendUint16(ask, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	ask = append(ask, 1, 0, 0, 0, 0, 0, 0, 0, family, 0, 0, 0)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		messages, err := syscall.ParseNetlinkMessage(buf[:n])
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			switch m.Header.Type {
			case unix.NLMSG_DONE:
				return out, nil
			case unix.NLMSG_ERROR:
				errno := unix.Errno(0)
				if len(m.Data) >= 4 {
					errno = unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
				}
				if errno == unix.EINVAL || errno == unix.EOPNOTSUPP || errno == unix.ENOENT || errno == 0 {
					return out, nil // no nf_tables, or not of this family
				}
				return nil, errno
			}
			if c, ok := parseChain(m.Data); ok {
				out = append(out, c)
			}
		}
	}
}

// parseChain reads one message; ok is false for chains that no hook calls.
func parseChain(m []byte) (c BaseChain, ok bool) {
	const head = 4 // struct nfgenmsg
	if len(m) < head {
		return c, false
	}
	c.Family = m[0]
	for _, a := range nested(m[head:]) {
		switch a.kind {
		case unix.NFTA_CHAIN_TABLE:
			c.Table = text(a.value)
		case unix.NFTA_CHAIN_NAME:
			c.Name = text(a.value)
		case unix.NFTA_CHAIN_HOOK:
			ok = true
			for _, h := range nested(a.value) {
				switch h.kind {
				case unix.NFTA_HOOK_HOOKNUM:
					if len(h.value) >= 4 {
						c.Hook = binary.BigEndian.Uint32(h.value)
					}
				case unix.NFTA_HOOK_DEV:
					c.Devices = append(c.Devices, device(h))
				case hookDevs:
					for _, d := range nested(h.value) {
						c.Devices = append(c.Devices, device(d))
					}
				}
			}
		}
	}
	return c, ok
}

// Of include/uapi/linux/netfilter/nf_tables.h.
const (
	hookDevs     = 4 // NFTA_HOOK_DEVS
	devicePrefix = 2 // NFTA_DEVICE_PREFIX
)

// device is the name of an interface. Names that only begin so have no NUL, or an attribute of their own.
func device(a attr) string {
	name := text(a.value)
	if a.kind == devicePrefix || !bytes.HasSuffix(a.value, []byte{0}) {
		return name + "*"
	}
	return name
}

// attr is one attribute of a netlink message, without the flags of its type.
type attr struct {
	kind  uint16
	value []byte
}

func nested(b []byte) (out []attr) {
	const head = 4 // struct nlattr
	for len(b) >= head {
		size := int(binary.NativeEndian.Uint16(b))
		if size < head || size > len(b) {
			return out
		}
		out = append(out, attr{binary.NativeEndian.Uint16(b[2:]) &^ (unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER), b[head:size]})
		b = b[min((size+3)&^3, len(b)):]
	}
	return out
}

func text(b []byte) string { return string(bytes.TrimRight(b, "\x00")) }
