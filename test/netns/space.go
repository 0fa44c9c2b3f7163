package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	vns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// namedDir is where ip-netns(8) keeps namespaces by name.
const namedDir = "/run/netns"

// Space is a network namespace with a name in its lab.
type Space struct {
	Name string
	// Path names the namespace to others, as CNI_NETNS does.
	Path string
	// Link acts on the namespace's interfaces.
	Link *netlink.Handle

	handle vns.NsHandle
	env    []string // added to commands that run here
}

// newSpace makes a namespace with its loopback up.
func newSpace(name, unique string) (*Space, error) {
	path := filepath.Join(namedDir, unique)
	var handle vns.NsHandle
	err := onThread(func() error {
		var err error
		handle, err = vns.NewNamed(unique)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	link, err := netlink.NewHandleAt(handle, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	s := &Space{Name: name, Path: path, Link: link, handle: handle}
	lo, err := link.LinkByName("lo")
	if err == nil {
		err = link.LinkSetUp(lo)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("namespace %s: loopback: %w", name, err), s.close())
	}
	return s, nil
}

// close deletes the namespace and with it all that is virtual in it.
func (s *Space) close() error {
	s.Link.Close()
	err := s.handle.Close()
	if uerr := unix.Unmount(s.Path, unix.MNT_DETACH); uerr != nil && !errors.Is(uerr, unix.ENOENT) && !errors.Is(uerr, unix.EINVAL) {
		err = errors.Join(err, fmt.Errorf("unmount %s: %w", s.Path, uerr))
	}
	if rerr := os.Remove(s.Path); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// onThread runs f on a thread of its own, which comes back only in the
// namespace that it started from.
func onThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		home, err := vns.Get()
		if err != nil {
			done <- err
			return
		}
		defer home.Close()
		err = f()
		if back := vns.Set(home); back != nil {
			// The goroutine ends with its thread locked: the thread goes too.
			done <- errors.Join(err, back)
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

// Do runs f on a thread inside the namespace. Sockets that f opens and
// processes that it starts stay there.
func (s *Space) Do(f func() error) error {
	return onThread(func() error {
		if err := vns.Set(s.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", s.Name, err)
		}
		return f()
	})
}

// Command prepares a program to run in the namespace; Start starts it.
func (s *Space) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.env...)
	if cmd.Err != nil || filepath.Base(name) == name {
		if p, err := s.lookPath(name); err == nil {
			cmd.Path, cmd.Err = p, nil
		}
	}
	return cmd
}

// lookPath finds a program in the PATH of this namespace's commands.
func (s *Space) lookPath(name string) (string, error) {
	for _, dir := range filepath.SplitList(s.pathVar()) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return exec.LookPath(name)
}

func (s *Space) pathVar() string {
	for _, kv := range s.env {
		if v, ok := cutPrefix(kv, "PATH="); ok {
			return v
		}
	}
	return os.Getenv("PATH")
}

func cutPrefix(s, prefix string) (string, bool) {
	if len(s) >= len(prefix) && s[:len(prefix)] == prefix {
		return s[len(prefix):], true
	}
	return s, false
}

// Start starts a command inside the namespace.
func (s *Space) Start(cmd *exec.Cmd) error { return s.Do(cmd.Start) }

// Run runs a command inside the namespace to its end.
func (s *Space) Run(cmd *exec.Cmd) error {
	if err := s.Start(cmd); err != nil {
		return err
	}
	return cmd.Wait()
}

// Sysctl writes one of the namespace's settings below /proc/sys/net.
func (s *Space) Sysctl(name, value string) error {
	return s.Do(func() error {
		return os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644)
	})
}

// up brings an interface up by name.
func (s *Space) up(name string) error {
	l, err := s.Link.LinkByName(name)
	if err != nil {
		return fmt.Errorf("%s: interface %s: %w", s.Name, name, err)
	}
	if err := s.Link.LinkSetUp(l); err != nil {
		return fmt.Errorf("%s: interface %s up: %w", s.Name, name, err)
	}
	return nil
}

// address gives an interface an address that is usable at once.
func (s *Space) address(ifName, cidr string) error {
	a, err := netlink.ParseAddr(cidr)
	if err != nil {
		return fmt.Errorf("%s: address %s: %w", s.Name, cidr, err)
	}
	if a.IP.To4() == nil {
		a.Flags |= unix.IFA_F_NODAD
	}
	l, err := s.Link.LinkByName(ifName)
	if err != nil {
		return fmt.Errorf("%s: interface %s: %w", s.Name, ifName, err)
	}
	if err := s.Link.AddrAdd(l, a); err != nil {
		return fmt.Errorf("%s: address %s on %s: %w", s.Name, cidr, ifName, err)
	}
	return nil
}

// cable joins two namespaces by a veth pair and leaves both ends down.
func cable(a *Space, aName string, b *Space, bName string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = aName
	attrs.MTU = 1500
	v := &netlink.Veth{LinkAttrs: attrs, PeerName: bName, PeerNamespace: netlink.NsFd(int(b.handle))}
	if err := a.Link.LinkAdd(v); err != nil {
		return fmt.Errorf("cable from %s (%s) to %s (%s): %w", a.Name, aName, b.Name, bName, err)
	}
	return nil
}

// tool runs one of iproute2's programs inside the namespace.
func (s *Space) tool(name string, args ...string) error {
	cmd := s.Command(context.Background(), name, args...)
	var diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &diag, &diag
	if err := s.Run(cmd); err != nil {
		return fmt.Errorf("%s: %s %s: %w: %s", s.Name, name, strings.Join(args, " "), err, strings.TrimSpace(diag.String()))
	}
	return nil
}
