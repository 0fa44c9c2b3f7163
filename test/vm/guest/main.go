// Command guest is PID 1 of a guest VM: a small host with a static address that
// it tells nobody, a few services, and a control channel by which a test makes
// it act (see package control for the commands).
//
// It is quiet on purpose: no gratuitous ARP, no duplicate address detection, no
// router solicitation. Whoever wants to know its address must find it out. Only
// after a live migration it announces itself, as Linux does when QEMU tells it to.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/boot"
	"github.com/homeport-cni/homeport/test/vm/control"
	"github.com/homeport-cni/homeport/test/vm/wire"
)

func main() {
	if len(os.Args) == 4 && os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest:", standIn(os.Args[1], os.Args[2], os.Args[3]))
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init: error:", err)
	}
	boot.PowerOff()
}

// standIn plays a guest in a network namespace that has its NIC and addresses
// already: for tests where a VM would take too long.
func standIn(name, nic, channel string) error {
	in, out := control.FIFOs(channel)
	r, err1 := os.OpenFile(in, os.O_RDWR, 0)
	w, err2 := os.OpenFile(out, os.O_RDWR, 0)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	return act(name, nic, struct {
		io.Reader
		io.Writer
	}{r, w})
}

func run() error {
	if err := boot.MountBase(); err != nil {
		return err
	}
	job, err := boot.ReadJob()
	if err != nil {
		return err
	}
	if job.Self == nil {
		return errors.New("job: it is not for a guest")
	}
	if err := boot.LoadModules(job.Modules); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	if err := unix.Sethostname([]byte(job.Hostname)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	g := *job.Self
	nic, err := configure(g)
	if err != nil {
		return err
	}
	name := wire.ControlPort(g.Name)
	if err := boot.LinkPorts([]string{name}, 20*time.Second); err != nil {
		return err
	}
	port, err := os.OpenFile(filepath.Join(wire.PortDir, name), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("control channel: %w", err)
	}
	return act(g.Name, nic, port)
}

// act is a guest's life once its NIC is up: services, and doing as it is told.
func act(name, nic string, port io.ReadWriter) error {
	s := &sink{}
	if err := serve(name, s); err != nil {
		return err
	}
	c := &controller{port: port, commands: newCommands(nic, s), jobs: map[int]chan control.Answer{}}
	return c.loop()
}

// configure sets the address up, on the NIC or on a VLAN interface above it,
// and gives the NIC's name.
func configure(g wire.Guest) (string, error) {
	nic, err := boot.FindInterface(g.MAC, 10*time.Second)
	if err != nil {
		return "", err
	}
	if err := boot.EnlargeQueues(nic); err != nil {
		return "", fmt.Errorf("queues of %s: %w", nic, err)
	}
	quiet := map[string]string{"accept_dad": "0", "dad_transmits": "0", "router_solicitations": "0", "accept_ra": "0"}
	if g.IP6 == "" {
		quiet = map[string]string{"disable_ipv6": "1"}
	}
	for _, scope := range []string{"all", "default", nic} {
		for key, value := range quiet {
			file := filepath.Join("/proc/sys/net/ipv6/conf", scope, key)
			if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
				return "", fmt.Errorf("making the guest quiet: %w", err)
			}
		}
	}
	on := nic
	steps := []string{"link set lo up", "link set " + nic + " up"}
	if g.VLAN != 0 {
		on = nic + "." + strconv.Itoa(g.VLAN)
		steps = append(steps, fmt.Sprintf("link add link %s name %s type vlan id %d", nic, on, g.VLAN), "link set "+on+" up")
	}
	if g.IP != "" {
		steps = append(steps, "addr add "+g.IP+" dev "+on)
	}
	if g.IP6 != "" {
		steps = append(steps, "-6 addr add "+g.IP6+" dev "+on)
	}
	if g.Gateway != "" {
		steps = append(steps, "route add default via "+g.Gateway)
	}
	for _, s := range steps {
		out, err := exec.Command("/bin/busybox", append([]string{"ip"}, strings.Fields(s)...)...).CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("ip %s: %w: %s", s, err, strings.TrimSpace(string(out)))
		}
	}
	return nic, nil
}
