// Package wire is what the host side of the VM harness and the programs inside
// the VMs say to each other: the job that the host puts into the initramfs, and
// the frames that come back over one virtio-serial port.
//
// One port for everything keeps the order: the exit frame is the last one, so
// whoever has read it has read all output and all result files.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Paths and names known to both sides.
const (
	// JobPath is where the job lies in the initramfs.
	JobPath = "/etc/homeport/job.json"
	// MainPort is the virtio-serial port that carries the frames.
	MainPort = "homeport.main"
	// HostPort is the virtio-serial port by which the node VM makes vmrun move
	// its guests; it is there when one of them can move.
	HostPort = "homeport.host"
	// PortDir is where /init links virtio-serial ports by name.
	PortDir = "/dev/virtio-ports"
	// GuestsPath lists the guests inside the node VM, as JSON: []Guest.
	GuestsPath = "/run/lab/guests.json"
	// OutDir is the folder of the VM that is copied back to the host.
	OutDir = "/out"
)

// ControlPort names the virtio-serial port of a guest's control channel, on
// both of its ends.
func ControlPort(guest string) string { return "homeport.guest." + guest }

// Job tells /init what to do. A guest's job has no Argv.
type Job struct {
	Hostname string   `json:"hostname"`
	Modules  []string `json:"modules"` // files, in loading order
	Argv     []string `json:"argv,omitempty"`
	Env      []string `json:"env,omitempty"`
	Guests   []Guest  `json:"guests,omitempty"` // node: guests joined to it
	Self     *Guest   `json:"self,omitempty"`   // guest: what it is itself
}

// Guest describes one guest. IP, IP6 and Gateway are what the guest sets up by
// itself; the node is told for the sake of tests, never to be used by the product.
type Guest struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	IP      string `json:"ip,omitempty"`
	IP6     string `json:"ip6,omitempty"`
	Gateway string `json:"gw,omitempty"`
	VLAN    int    `json:"vlan,omitempty"` // tag used by the guest itself; 0 is untagged
	NodeMAC string `json:"nodeMAC"`        // MAC of the node VM's NIC joined to the guest's
	Iface   string `json:"iface,omitempty"`
	// Second is where a guest that can move is joined to the node VM once it has
	// moved; nil is a guest that stays. One that can move runs only when asked to.
	Second *Place `json:"second,omitempty"`
	// Announce says what tells the network of a move: "" is QEMU's RARP and the
	// guest's own announcement, as Linux does it; "rarp" is QEMU's alone.
	Announce string `json:"announce,omitempty"`
	Control  string `json:"control,omitempty"` // path of the control channel: a device in the node VM, or FIFOs (control.FIFOs)
}

// Place is one end of a guest's wire in the node VM.
type Place struct {
	NodeMAC string `json:"nodeMAC"`
	Iface   string `json:"iface,omitempty"`
}

// Move tells where a guest that can move is, and how its last move went. It is the
// result of every request to vmrun (HostPort).
type Move struct {
	Place  int    `json:"place"`            // where the guest runs, 1 or 2; 0 is nowhere
	Target int    `json:"target,omitempty"` // where a QEMU waits for it
	Source int    `json:"source,omitempty"` // where it was left by the guest, and not ended yet
	Phase  string `json:"phase,omitempty"`
	Error  string `json:"error,omitempty"`
	// QEMU's own figures (MigrationInfo in qapi/migration.json).
	TotalMs     int64 `json:"totalMs,omitempty"`
	SetupMs     int64 `json:"setupMs,omitempty"`
	DowntimeMs  int64 `json:"downtimeMs,omitempty"`
	Transferred int64 `json:"transferredBytes,omitempty"`
	Remaining   int64 `json:"remainingBytes,omitempty"`
	// PausedMs is from the source's STOP to the target's RESUME.
	PausedMs float64 `json:"pausedMs,omitempty"`
}

// Phases of a move.
const (
	MoveSetup     = "setup"
	MoveCopying   = "active"         // the guest runs at the source
	MoveHeld      = "pre-switchover" // it runs nowhere
	MoveCompleted = "completed"      // it runs at the target
	MoveFailed    = "failed"
	MoveCancelled = "cancelled"
)

// Running says whether the move is under way.
func (m Move) Running() bool {
	return m.Phase == MoveSetup || m.Phase == MoveCopying || m.Phase == MoveHeld
}

// Frame kinds.
const (
	Stdout byte = 'o' // bytes of the command's standard output
	Stderr byte = 'e' // bytes of its standard error, and of /init's own messages
	Start  byte = 's' // JSON Started, once, before the command runs
	Tar    byte = 't' // a part of the tar stream of OutDir
	Exit   byte = 'x' // the exit code in decimal; the last frame
)

// Started is the payload of a Start frame; times are seconds of kernel uptime.
type Started struct {
	Kernel  string  `json:"kernel"`
	Init    float64 `json:"init"`    // when /init began
	Command float64 `json:"command"` // when the command is started
}

// MaxFrame is the largest payload; a longer one means a broken stream.
const MaxFrame = 1 << 16

// Writer sends frames; it may be used by many goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter makes a Writer on w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one frame, or several when p is longer than MaxFrame.
func (w *Writer) Send(kind byte, p []byte) error {
	for {
		n := min(len(p), MaxFrame)
		buf := make([]byte, 5+n)
		buf[0] = kind
		binary.BigEndian.PutUint32(buf[1:], uint32(n))
		copy(buf[5:], p[:n])
		w.mu.Lock()
		_, err := w.w.Write(buf)
		w.mu.Unlock()
		if err != nil {
			return fmt.Errorf("frame %q: %w", kind, err)
		}
		if p = p[n:]; len(p) == 0 {
			return nil
		}
	}
}

// Stream gives a writer whose bytes become frames of one kind.
func (w *Writer) Stream(kind byte) io.Writer { return stream{w, kind} }

type stream struct {
	w    *Writer
	kind byte
}

func (s stream) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.w.Send(s.kind, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// ErrFrame is returned when what was read cannot be a frame.
var ErrFrame = errors.New("not a frame of the VM harness")

// Read reads one frame. io.EOF means that the stream ended between frames.
func Read(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > MaxFrame {
		return 0, nil, fmt.Errorf("%w: kind %q, length %d", ErrFrame, head[0], n)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		return 0, nil, fmt.Errorf("frame %q: %w", head[0], err)
	}
	return head[0], payload, nil
}
