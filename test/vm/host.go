package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/homeport-cni/homeport/test/vm/control"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

// host answers the node VM's requests about guests that can move: one line each, "ID
// VERB GUEST [ARG...]", as a guest's control channel has them. None takes long: what a
// move has come to is asked for.
type host struct {
	port   *os.File
	guests map[string]*movable
}

// add makes a guest one of the host's; the first brings the port.
func (h *host) add(node *machine, m *movable) error {
	if h.guests == nil {
		ours, theirs, err := socketPair("host port")
		if err != nil {
			return err
		}
		node.port(wire.HostPort, theirs)
		h.port, h.guests = ours, map[string]*movable{}
	}
	h.guests[m.guest.Name] = m
	return nil
}

// serve answers until the node VM has ended.
func (h *host) serve() {
	if h.port == nil {
		return
	}
	in := bufio.NewScanner(h.port)
	for in.Scan() {
		b, err := json.Marshal(h.answer(in.Text()))
		if err != nil {
			continue // who asked gives up in time
		}
		if _, err := h.port.Write(append(b, '\n')); err != nil {
			return
		}
	}
}

func (h *host) answer(line string) control.Answer {
	words := strings.Fields(line)
	if len(words) == 0 {
		return control.Answer{Error: "empty request"}
	}
	a := control.Answer{ID: words[0]}
	if len(words) < 3 {
		a.Error = "usage: VERB GUEST [ARG...]:\n" + control.HostCommands
		return a
	}
	m := h.guests[words[2]]
	if m == nil {
		a.Error = fmt.Sprintf("no guest %s that can move; -guest with places=2 makes one", words[2])
		return a
	}
	result, err := m.do(words[1], words[3:])
	if err != nil {
		a.Error = err.Error()
	}
	a.OK = err == nil
	if a.Result, err = json.Marshal(result); err != nil {
		a.OK, a.Error = false, err.Error()
	}
	return a
}

// close ends all guests, once the node VM has ended.
func (h *host) close() error {
	var errs []error
	for _, m := range h.guests {
		m.mu.Lock()
		errs = append(errs, m.off(), m.channel.close())
		for _, w := range m.wires {
			errs = append(errs, w.close())
		}
		m.mu.Unlock()
	}
	if h.port != nil {
		errs = append(errs, h.port.Close())
	}
	return errors.Join(errs...)
}
