// Command init is PID 1 of the node VM: it sets the machine up, runs the job's
// command with its output on a virtio-serial port, sends back /out and the exit
// code, and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/boot"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

func main() {
	// What goes wrong before the port is open can only be told on the console.
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init: error:", err)
	}
	boot.PowerOff()
}

func run() error {
	started := wire.Started{Init: boot.Uptime(), Kernel: boot.Kernel()}
	if err := boot.MountBase(); err != nil {
		return err
	}
	job, err := boot.ReadJob()
	if err != nil {
		return err
	}
	mountErr := boot.MountFull()
	moduleErr := boot.LoadModules(job.Modules)
	ports := []string{wire.MainPort}
	for _, g := range job.Guests {
		ports = append(ports, wire.ControlPort(g.Name))
	}
	if err := boot.LinkPorts(ports, 20*time.Second); err != nil {
		return err
	}
	port, err := os.OpenFile(filepath.Join(wire.PortDir, wire.MainPort), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("main port: %w", err)
	}
	w := wire.NewWriter(port)
	for _, err := range []error{mountErr, moduleErr, setUp(job)} {
		if err != nil {
			fmt.Fprintf(w.Stream(wire.Stderr), "init: %v\n", err)
		}
	}
	started.Command = boot.Uptime()
	if b, err := json.Marshal(started); err == nil {
		if err := w.Send(wire.Start, b); err != nil {
			return err
		}
	}
	code := runCommand(job, w)
	if err := sendOut(w); err != nil {
		fmt.Fprintf(w.Stream(wire.Stderr), "init: %v\n", err)
		if code == 0 {
			code = 125
		}
	}
	return w.Send(wire.Exit, []byte(strconv.Itoa(code)))
}

// setUp makes the machine fit for use: host name, loopback, /dev links, and
// the table of guests.
func setUp(job *wire.Job) error {
	if err := unix.Sethostname([]byte(job.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !os.IsExist(err) {
			return err
		}
	}
	if err := linkUp("lo"); err != nil {
		return err
	}
	return publishGuests(job)
}

// publishGuests finds the NIC of each guest, writes the table of guests and
// adds what it says to the command's environment.
func publishGuests(job *wire.Job) error {
	if len(job.Guests) == 0 {
		return nil
	}
	var nics []string
	for i := range job.Guests {
		g := &job.Guests[i]
		iface, err := boot.FindInterface(g.NodeMAC, 10*time.Second)
		if err != nil {
			return fmt.Errorf("guest %s: %w", g.Name, err)
		}
		g.Iface = iface
		nics = append(nics, iface)
		g.Control = filepath.Join(wire.PortDir, wire.ControlPort(g.Name))
		prefix := "HOMEPORT_GUEST_" + g.Name + "_"
		job.Env = append(job.Env, prefix+"IFACE="+g.Iface, prefix+"MAC="+g.MAC, prefix+"IP="+g.IP, prefix+"CONTROL="+g.Control)
	}
	if err := boot.EnlargeQueues(nics...); err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	b, err := json.MarshalIndent(job.Guests, "", "  ")
	if err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(wire.GuestsPath), 0o755); err != nil {
		return fmt.Errorf("guests: %w", err)
	}
	return os.WriteFile(wire.GuestsPath, append(b, '\n'), 0o644)
}

// linkUp sets an interface up by the old ioctl, which needs no library.
func linkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("interface %s up: %w", name, err)
	}
	return nil
}
