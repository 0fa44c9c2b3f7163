// Command init is PID 1 of the node VM: it sets the machine up, runs the job's
// command with its output on a virtio-serial port, sends back /out and the exit
// code, and powers off.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

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
		if g.Second != nil && !slices.Contains(ports, wire.HostPort) {
			ports = append(ports, wire.HostPort)
		}
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
