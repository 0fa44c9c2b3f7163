package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// monitorPatience is how long QEMU may take to answer: its main loop answers, which
// shares its CPU with the machine that it emulates.
const monitorPatience = time.Minute

// monitor speaks QMP with one QEMU (docs/interop/qmp-spec.txt there).
type monitor struct {
	conn    *os.File
	mu      sync.Mutex // one command at a time
	replies chan qmpMessage
	events  chan<- qmpMessage
}

// qmpMessage is any line that QEMU says.
type qmpMessage struct {
	Event  string          `json:"event"`
	Data   json.RawMessage `json:"data"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Stamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// at is when QEMU says that an event happened.
func (m qmpMessage) at() time.Time { return time.Unix(m.Stamp.Seconds, m.Stamp.Microseconds*1000) }

// newMonitor starts to listen. Events go to the channel, which must have room for
// them, and which is closed when QEMU has ended.
func newMonitor(conn *os.File, events chan<- qmpMessage) *monitor {
	m := &monitor{conn: conn, replies: make(chan qmpMessage, 1), events: events}
	go m.listen()
	return m
}

// listen ends when QEMU does.
func (m *monitor) listen() {
	defer m.conn.Close()
	defer close(m.replies)
	defer close(m.events)
	in := bufio.NewScanner(m.conn)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var msg qmpMessage
		if err := json.Unmarshal(in.Bytes(), &msg); err != nil {
			continue // never seen; the asker's patience ends
		}
		switch {
		case msg.Event != "":
			m.events <- msg
		case msg.Return != nil || msg.Error != nil:
			m.replies <- msg
		}
	}
}

var errMonitorEnded = errors.New("QEMU has ended")

// do runs a command; result may be nil.
func (m *monitor) do(command string, arguments map[string]any, result any) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	b, err := json.Marshal(request)
	if err != nil {
		return fmt.Errorf("QMP %s: %w", command, err)
	}
	if _, err := m.conn.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("QMP %s: %w", command, errors.Join(errMonitorEnded, err))
	}
	select {
	case msg, ok := <-m.replies:
		switch {
		case !ok:
			return fmt.Errorf("QMP %s: %w", command, errMonitorEnded)
		case msg.Error != nil:
			return fmt.Errorf("QMP %s: %s: %s", command, msg.Error.Class, msg.Error.Desc)
		case result != nil:
			return json.Unmarshal(msg.Return, result)
		}
		return nil
	case <-time.After(monitorPatience):
		return fmt.Errorf("QMP %s: no answer within %v", command, monitorPatience)
	}
}
