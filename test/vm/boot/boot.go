// Package boot is what the /init programs of the node VM and of a guest have in
// common: mounts, modules, virtio-serial ports and the job they were given.
package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// mount is one line of what a small Linux system needs.
type mount struct{ source, target, fstype, data string }

var base = []mount{
	{"proc", "/proc", "proc", ""},
	{"sysfs", "/sys", "sysfs", ""},
	{"devtmpfs", "/dev", "devtmpfs", ""},
}

var full = []mount{
	{"devpts", "/dev/pts", "devpts", "ptmxmode=0666"},
	{"tmpfs", "/dev/shm", "tmpfs", ""},
	{"tmpfs", "/run", "tmpfs", "mode=0755"},
	{"tmpfs", "/tmp", "tmpfs", "mode=1777"},
	{"bpf", "/sys/fs/bpf", "bpf", "mode=0700"},
	{"cgroup2", "/sys/fs/cgroup", "cgroup2", ""},
	{"debugfs", "/sys/kernel/debug", "debugfs", ""},
	{"tracefs", "/sys/kernel/tracing", "tracefs", ""},
}

// MountBase mounts proc, sysfs and devtmpfs.
func MountBase() error { return mountAll(base) }

// MountFull mounts the rest of what the node VM has. A failure does not keep
// the others from being mounted.
func MountFull() error { return mountAll(full) }

func mountAll(list []mount) error {
	var errs []error
	for _, m := range list {
		// Mount points inside sysfs exist already; mkdir there is refused.
		if err := os.MkdirAll(m.target, 0o755); err != nil && !errors.Is(err, os.ErrPermission) {
			errs = append(errs, fmt.Errorf("mount %s: %w", m.target, err))
			continue
		}
		err := unix.Mount(m.source, m.target, m.fstype, 0, m.data)
		if err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err))
		}
	}
	return errors.Join(errs...)
}

// ReadJob reads the job from the initramfs.
func ReadJob() (*wire.Job, error) {
	b, err := os.ReadFile(wire.JobPath)
	if err != nil {
		return nil, fmt.Errorf("job: %w", err)
	}
	j := new(wire.Job)
	if err := json.Unmarshal(b, j); err != nil {
		return nil, fmt.Errorf("job %s: %w", wire.JobPath, err)
	}
	return j, nil
}

// parameters keeps modules from making an interface that nobody asked for.
var parameters = map[string]string{"dummy.ko": "numdummies=0"}

// LoadModules loads files in the given order and reports every failure.
func LoadModules(files []string) error {
	var errs []error
	for _, file := range files {
		if err := loadModule(file); err != nil {
			errs = append(errs, fmt.Errorf("module %s: %w", filepath.Base(file), err))
		}
	}
	return errors.Join(errs...)
}

func loadModule(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), parameters[filepath.Base(file)], 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// LinkPorts makes /dev/virtio-ports/NAME for every virtio-serial port that the
// kernel knows, as udev would, and waits until those named are there.
func LinkPorts(names []string, timeout time.Duration) error {
	if err := os.MkdirAll(wire.PortDir, 0o755); err != nil {
		return fmt.Errorf("virtio ports: %w", err)
	}
	deadline := time.Now().Add(timeout)
	for {
		found := linkPortsOnce()
		var missing []string
		for _, n := range names {
			if !found[n] {
				missing = append(missing, n)
			}
		}
		if len(missing) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("virtio ports: %s did not appear within %v; is virtio_console loaded?", strings.Join(missing, ", "), timeout)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func linkPortsOnce() map[string]bool {
	found := map[string]bool{}
	files, _ := filepath.Glob("/sys/class/virtio-ports/vport*/name")
	for _, file := range files {
		b, err := os.ReadFile(file)
		name := strings.TrimSpace(string(b))
		if err != nil || name == "" {
			continue
		}
		dev := filepath.Base(filepath.Dir(file))
		if _, err := os.Stat("/dev/" + dev); err != nil {
			continue
		}
		err = os.Symlink("../"+dev, filepath.Join(wire.PortDir, name))
		found[name] = err == nil || errors.Is(err, os.ErrExist)
	}
	return found
}

// FindInterface gives the name of the network interface with a MAC address;
// it waits for the driver.
func FindInterface(mac string, timeout time.Duration) (string, error) {
	deadline := time.Now().Add(timeout)
	for {
		files, _ := filepath.Glob("/sys/class/net/*/address")
		for _, file := range files {
			if b, err := os.ReadFile(file); err == nil && strings.EqualFold(strings.TrimSpace(string(b)), mac) {
				return filepath.Base(filepath.Dir(file)), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("interface with MAC %s did not appear within %v; is virtio_net loaded?", mac, timeout)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// EnlargeQueues makes room for the bursts of an emulated machine, so that a
// packet that is missing in a test was lost by what is tested: queues of NICs
// that come up later, the per-CPU backlog and socket buffers.
func EnlargeQueues(nics ...string) error {
	var errs []error
	set := func(file, value string) { errs = append(errs, os.WriteFile(file, []byte(value), 0o644)) }
	set("/proc/sys/net/core/default_qdisc", "pfifo_fast") // fq_codel drops what is merely late
	set("/proc/sys/net/core/netdev_max_backlog", "20000")
	set("/proc/sys/net/core/rmem_max", "67108864")
	set("/proc/sys/net/core/wmem_max", "67108864")
	for _, n := range nics {
		set(filepath.Join("/sys/class/net", n, "tx_queue_len"), "20000")
	}
	return errors.Join(errs...)
}

// Uptime gives the seconds since the kernel started.
func Uptime() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return float64(ts.Nano()) / 1e9
}

// Kernel gives the running kernel's release, as uname -r prints it.
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// PowerOff ends the machine. It does not return.
func PowerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {}
}
