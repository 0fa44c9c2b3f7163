package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/vm/wire"
)

// machine is one QEMU process in the making, then running.
type machine struct {
	name       string
	args       []string
	kernelArgs string     // Kernel.Args
	files      []*os.File // inherited by QEMU from descriptor 3 on
	console    string     // host path of the console log
	cmd        *exec.Cmd
	done       chan struct{} // closed when the process has ended
	output     *limitedBuffer
}

// commandLine is what both kinds of kernel boot with: mitigations and address
// randomisation buy nothing in a throw-away machine, and an oops must end the
// run at once instead of hanging it. QEMU's CPUs share the host's clock; 6.1 does
// not see that by itself and would ask an emulated device for every time. Programs are
// always at the same place, where QEMU has translated them already.
const commandLine = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr norandmaps random.trust_cpu=on tsc=reliable"

// CoarseTimers has a kernel wake nobody between two ticks, which are 4 ms apart. Each
// switch between processes costs QEMU what it has learnt of where code is, and Go's
// runtime sleeps for 20 microseconds at a time: a machine computes a sixth less with it.
// It is not for what measures times.
const CoarseTimers = "highres=off"

// cpuModel is all that QEMU can emulate but for what makes a kernel slow there:
// with erms and fsrm it clears and copies pages byte by byte, and with xsave and
// the wide registers every switch between tasks saves them. Without these a
// program starts in half the time.
const cpuModel = "max,la57=off,erms=off,fsrm=off,xsave=off,avx=off,pku=off,smap=off,smep=off,umip=off"

// With oneThread the CPUs of a machine take turns in one thread of the host. Where there
// are more CPUs than the host has, that spares them waiting for each other's locks while
// the one that holds them does not run.
func newMachine(name string, k Kernel, initramfs, console string, mem, smp int, oneThread bool) *machine {
	threads := "multi"
	if oneThread {
		threads = "single"
	}
	return &machine{name: name, console: console, kernelArgs: k.Args, args: []string{
		"-accel", "tcg,thread=" + threads, "-cpu", cpuModel,
		"-smp", strconv.Itoa(smp), "-m", strconv.Itoa(mem),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-serial", "file:" + console,
		"-kernel", k.Image, "-initrd", initramfs, "-append", strings.TrimSpace(commandLine + " " + k.Args),
		"-device", "virtio-serial-pci,max_ports=31",
	}}
}

// inherit hands a descriptor to QEMU and gives its number there.
func (m *machine) inherit(f *os.File) string {
	m.files = append(m.files, f)
	return strconv.Itoa(2 + len(m.files))
}

// port adds a virtio-serial port whose other side is the given socket.
func (m *machine) port(name string, socket *os.File) {
	id := "c" + strconv.Itoa(len(m.files))
	m.args = append(m.args,
		"-chardev", "socket,id="+id+",fd="+m.inherit(socket),
		"-device", "virtserialport,chardev="+id+",name="+name)
}

// nic adds a virtio NIC whose wire is the given socket, of streams or of datagrams.
func (m *machine) nic(mac string, socket *os.File) {
	id := "n" + strconv.Itoa(len(m.files))
	m.args = append(m.args,
		"-netdev", "socket,id="+id+",fd="+m.inherit(socket),
		"-device", "virtio-net-pci,romfile=,netdev="+id+",mac="+mac)
}

// movingNIC adds a guest's NIC as KubeVirt's libvirt does: a modern device without an
// option ROM, whose MTU is named. It announces the guest after a move by itself
// (QEMU's net/announce.c), and tells the guest to. It does not filter by VLAN, as the
// device does not in KubeVirt, where vhost receives for it: QEMU 7.2's own filter is
// empty after a move, and a guest that tags would hear nothing any more.
func (m *machine) movingNIC(g wire.Guest, socket *os.File) {
	device := "virtio-net-pci,romfile=,disable-legacy=on,host_mtu=1500,ctrl_vlan=off,netdev=n0,mac=" + g.MAC
	if g.Announce == "rarp" {
		device += ",guest_announce=off"
	}
	m.args = append(m.args, "-netdev", "socket,id=n0,fd="+m.inherit(socket), "-device", device)
}

// fifos adds a virtio-serial port whose other side is a pair of FIFOs.
func (m *machine) fifos(name, path string) {
	m.args = append(m.args,
		"-chardev", "pipe,id=p0,path="+path,
		"-device", "virtserialport,chardev=p0,name="+name)
}

// tapNIC adds a virtio NIC on an open tap.
func (m *machine) tapNIC(mac string, tap *os.File) {
	m.args = append(m.args,
		"-netdev", "tap,id=t0,fd="+m.inherit(tap),
		"-device", "virtio-net-pci,romfile=,netdev=t0,mac="+mac)
}

// start runs QEMU; the machine's descriptors are closed on our side.
func (m *machine) start() error {
	qemu, err := findProgram("qemu-system-x86_64")
	if err != nil {
		return err
	}
	m.output = &limitedBuffer{max: 8 << 10}
	m.cmd = exec.Command(qemu, m.args...)
	m.cmd.ExtraFiles = m.files
	m.cmd.Stdout, m.cmd.Stderr = m.output, m.output
	// A killed vmrun takes its machines along.
	m.cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL, Setpgid: true}
	err = m.cmd.Start()
	for _, f := range m.files {
		f.Close()
	}
	if err != nil {
		return fmt.Errorf("machine %s: %w", m.name, err)
	}
	m.done = make(chan struct{})
	go func() {
		_ = m.cmd.Wait()
		close(m.done)
	}()
	return nil
}

// stop gives the machine a moment to end by itself and then kills it.
func (m *machine) stop(grace time.Duration) {
	if m.cmd == nil || m.cmd.Process == nil || m.done == nil {
		return
	}
	select {
	case <-m.done:
		return
	case <-time.After(grace):
	}
	_ = m.cmd.Process.Kill()
	<-m.done
}

// socketPair gives two ends of a stream; used as wire, port or control channel.
func socketPair(what string) (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for %s: %w", what, err)
	}
	return os.NewFile(uintptr(fds[0]), what), os.NewFile(uintptr(fds[1]), what), nil
}

// join connects a guest's NIC and control channel with the node VM.
func join(node, guest *machine, g wire.Guest) error {
	nicA, nicB, err1 := socketPair(g.Name + " NIC")
	ctlA, ctlB, err2 := socketPair(g.Name + " control channel")
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	node.nic(g.NodeMAC, nicA)
	guest.nic(g.MAC, nicB)
	node.port(wire.ControlPort(g.Name), ctlA)
	guest.port(wire.ControlPort(g.Name), ctlB)
	return nil
}

// limitedBuffer keeps the first max bytes of what is written.
type limitedBuffer struct {
	max int
	b   []byte
}

func (l *limitedBuffer) Write(p []byte) (int, error) {
	if room := l.max - len(l.b); room > 0 {
		l.b = append(l.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
