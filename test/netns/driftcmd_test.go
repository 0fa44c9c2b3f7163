package netns

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// portOf finds the host interface of a pod's port by asking the agent.
func (s *session) portOf(node, pod string) (*Node, string, int, error) {
	n, err := s.lab.FindNode(node)
	if err != nil {
		return nil, "", 0, err
	}
	p, err := s.lab.FindPod(pod)
	if err != nil {
		return nil, "", 0, err
	}
	cmd := n.Command(s.ctx, n.path("bin", "homeportctl"), "ports", "-o", "json")
	var out strings.Builder
	cmd.Stdout = &out
	if err := n.Run(cmd); err != nil {
		return nil, "", 0, err
	}
	var list struct {
		Items []struct {
			ContainerID string `json:"containerID"`
			HostIfName  string `json:"hostIfName"`
			HostIfIndex int    `json:"hostIfIndex"`
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(out.String()), &list); err != nil {
		return nil, "", 0, err
	}
	for _, i := range list.Items {
		if i.ContainerID == p.ContainerID {
			return n, i.HostIfName, i.HostIfIndex, nil
		}
	}
	return nil, "", 0, fmt.Errorf("pod %s has no port on node %s", pod, node)
}

// cmdPort sets $PORT.
func cmdPort(s *session, out io.Writer, args []string) error {
	if err := want(args, 2, 2, "port NODE POD"); err != nil {
		return err
	}
	_, name, _, err := s.portOf(args[0], args[1])
	if err != nil {
		return err
	}
	s.ts.Setenv("PORT", name)
	_, err = fmt.Fprintln(out, name)
	return err
}

// cmdUnhook cuts the port's tcx links, as somebody with CAP_BPF could. It waits
// until the agent has moved the port there.
func cmdUnhook(s *session, _ io.Writer, args []string) error {
	if err := want(args, 2, 2, "unhook NODE POD"); err != nil {
		return err
	}
	n, name, index, err := s.portOf(args[0], args[1])
	if err != nil {
		return err
	}
	pattern := filepath.Join(n.BPFFS(), "homeport", "v*", "links", strconv.Itoa(index)+"-*")
	var pins []string
	err = until(s.ctx, patience, func() error {
		if pins, err = filepath.Glob(pattern); err == nil && len(pins) != 2 {
			err = fmt.Errorf("port %s: pinned links %v", name, pins)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, pin := range pins {
		l, err := link.LoadPinnedLink(pin, nil)
		if err != nil {
			return fmt.Errorf("%s: %w", pin, err)
		}
		if err := errors.Join(l.Detach(), l.Close()); err != nil {
			return fmt.Errorf("%s: %w", pin, err)
		}
	}
	return nil
}

// hasTCX says whether the kernel is one with tcx, Linux 6.6.
func hasTCX() bool {
	var u unix.Utsname
	var major, minor int
	if unix.Uname(&u) != nil {
		return false
	}
	_, err := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &major, &minor)
	return err == nil && (major > 6 || major == 6 && minor >= 6)
}
