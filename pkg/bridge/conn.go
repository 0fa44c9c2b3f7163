package bridge

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// conn asks the kernel one thing at a time over a route netlink socket. The
// kernel has its answer ready when a request returns, so nothing here ever waits
// for a message: the socket is kept from Go's poller, which would wake a thread
// for each, and an ADD is some thirty of them.
type conn struct {
	mu  sync.Mutex
	fd  int
	seq uint32
	buf []byte
}

// answerMax is the most that the kernel puts into one datagram of a list
// (net/netlink/af_netlink.c, netlink_recvmsg and netlink_dump) and more, and far
// more than an answer about one interface.
const answerMax = 64 << 10

// dialKernel opens a socket in a network namespace.
func dialKernel(ns netns.NsHandle) (*conn, error) {
	c := &conn{buf: make([]byte, answerMax)}
	err := inNetns(ns, func() (err error) {
		c.fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open a netlink socket: %w", err)
	}
	// The first makes errors better, the second lets the kernel filter lists; a
	// kernel that has neither still answers.
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(c.fd, unix.SOL_NETLINK, opt, 1)
	}
	return c, nil
}

func (c *conn) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		_ = unix.Close(c.fd)
	}
	c.fd = -1
}

// ask sends a request and returns the bodies of its answers that are of a type.
// The error is nl.ErrDumpInterrupted when a list changed while it was read,
// EAGAIN when the kernel had no room for its answer, else an errno with the
// kernel's own words where it has some.
func (c *conn) ask(req *nl.NetlinkRequest, answer uint16) ([][]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seq++
	req.Seq = c.seq
	if err := unix.Sendto(c.fd, req.Serialize(), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	var found [][]byte
	var torn error
	for {
		msgs, err := c.receive()
		if err != nil {
			return nil, err
		}
		for _, m := range msgs {
			if m.Header.Seq != c.seq { // of a request that was given up
				continue
			}
			if m.Header.Flags&unix.NLM_F_DUMP_INTR != 0 {
				torn = nl.ErrDumpInterrupted
			}
			switch m.Header.Type {
			case unix.NLMSG_DONE, unix.NLMSG_ERROR:
				return found, errors.Join(kernelError(m), torn)
			case answer:
				found = append(found, slices.Clone(m.Data))
			}
			if m.Header.Flags&unix.NLM_F_MULTI == 0 {
				return found, torn
			}
		}
	}
}

// receive reads one datagram of the kernel's.
func (c *conn) receive() ([]syscall.NetlinkMessage, error) {
	for {
		n, from, err := unix.Recvfrom(c.fd, c.buf, unix.MSG_DONTWAIT|unix.MSG_TRUNC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("the kernel's answer has %d bytes, more than the %d expected", n, len(c.buf))
		}
		if nla, ok := from.(*unix.SockaddrNetlink); !ok || nla.Pid != nl.PidKernel {
			continue
		}
		return syscall.ParseNetlinkMessage(c.buf[:n])
	}
}

// kernelError is what an NLMSG_ERROR or NLMSG_DONE says; nil is success. Both
// begin with a negative errno; an error goes on with the request, whole or its
// header alone (NLM_F_CAPPED), then attributes.
func kernelError(m syscall.NetlinkMessage) error {
	if len(m.Data) < 4 || num(m.Data[:4]) == 0 {
		return nil
	}
	err := syscall.Errno(-int32(num(m.Data[:4])))
	const head = 4 + unix.NLMSG_HDRLEN
	if m.Header.Type != unix.NLMSG_ERROR || m.Header.Flags&unix.NLM_F_ACK_TLVS == 0 || len(m.Data) < head {
		return err
	}
	end := head
	if m.Header.Flags&unix.NLM_F_CAPPED == 0 {
		end = 4 + int(num(m.Data[4:8]))
	}
	if end < head || end > len(m.Data) {
		return err
	}
	as, perr := attrs(m.Data[end:])
	if perr != nil {
		return err
	}
	for _, a := range as {
		if a.Attr.Type == unix.NLMSGERR_ATTR_MSG {
			return fmt.Errorf("%w: %s", err, nl.BytesToString(a.Value))
		}
	}
	return err
}
