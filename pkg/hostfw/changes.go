package hostfw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// changesGap is how long changes that come together count as one: a proxy that
// writes thousands of rules makes a message of each.
const changesGap = time.Second

// Changes calls changed after tables, chains or rules of nftables were changed in this
// network namespace, by iptables-nft too, until ctx ends. Elements of sets are no such
// change: this package does not read them. The kernel tells nobody of changes of
// iptables-legacy. The error is that of socket(2), bind(2) or read(2); a kernel without
// nftables just has nothing to tell.
func Changes(ctx context.Context, changed func()) error {
	f, err := listen()
	if err == nil {
		err = tell(ctx, f, changed)
	}
	if err != nil {
		return fmt.Errorf("listen for changes of nftables: %w", err)
	}
	return nil
}

// listen opens a socket that hears what the kernel says of nftables.
func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)}); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "nftables"), nil
}

// tell is Changes for an open socket, which it closes.
func tell(ctx context.Context, f *os.File, changed func()) error {
	defer f.Close()
	conn, err := f.SyscallConn()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { f.Close() })() // ends what waits for a message
	buf := make([]byte, 32<<10)                          // as much as the kernel puts into one message, and more
	for {
		// All that has come by now is one change.
		var failed error
		err := conn.Read(func(fd uintptr) bool {
			for heard := false; ; {
				switch n, err := unix.Read(int(fd), buf); err {
				case nil:
					heard = heard || ofRules(buf[:n])
				case unix.ENOBUFS: // more has come than fits
					heard = true
				case unix.EINTR:
				case unix.EAGAIN:
					return heard
				default:
					failed = err
					return true
				}
			}
		})
		if ctx.Err() != nil {
			return nil
		}
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		changed()
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(changesGap):
		}
	}
}

// ofRules says whether messages are about tables, chains or rules. What cannot be read
// may be.
func ofRules(b []byte) bool {
	messages, err := syscall.ParseNetlinkMessage(b)
	return err != nil || slices.ContainsFunc(messages, func(m syscall.NetlinkMessage) bool {
		return m.Header.Type>>8 == unix.NFNL_SUBSYS_NFTABLES && m.Header.Type&0xff <= unix.NFT_MSG_DELRULE
	})
}
