// Command init is PID 1 of a node of the test cluster: it brings up what a
// distribution's init would, containerd and the kubelet, and runs commands that
// the test sends.
package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/cluster/node"
	"github.com/homeport-cni/homeport/test/vm/boot"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "serve" {
		if err := serve(); err != nil {
			fmt.Fprintln(os.Stderr, "node: error:", err)
			boot.PowerOff()
		}
	}
	fmt.Fprintln(os.Stderr, "init: error:", begin())
	boot.PowerOff()
}

// begin makes a root that containers can be started from, and starts the rest as
// a process of its own: all that PID 1 does then is to collect what has ended. It
// returns only for an error.
func begin() error {
	if err := leaveRootfs(); err != nil {
		return err
	}
	if err := errors.Join(boot.MountBase(), boot.MountFull()); err != nil {
		return err
	}
	// What a container mounts for the node, the node sees, as with systemd.
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("shared mounts: %w", err)
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = os.StartProcess("/proc/self/exe", []string{"init", "serve"}, &os.ProcAttr{
		Files: []*os.File{console, console, console}, Env: os.Environ(), Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	for {
		if _, err := unix.Wait4(-1, nil, 0, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait: %w", err)
		}
	}
}

// leaveRootfs makes the initramfs a mount like any other: the kernel lets nobody
// pivot away from its first root, as runc does.
func leaveRootfs() error {
	const at = "/mnt"
	if err := unix.Mount("/", at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Chdir(at); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if err := unix.Mount(at, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	return errors.Join(unix.Chroot("."), unix.Chdir("/"))
}

func serve() error {
	job, err := boot.ReadJob()
	if err != nil {
		return err
	}
	if err := boot.LoadModules(job.Modules); err != nil {
		return err
	}
	for _, kv := range job.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			os.Setenv(k, v)
		}
	}
	conf, err := setUp()
	if err != nil {
		return err
	}
	if err := guests(job.Guests); err != nil {
		return err
	}
	say("up")
	l, err := net.Listen("tcp", ":"+strconv.Itoa(node.ExecPort))
	if err != nil {
		return err
	}
	if err := serveAPI(conf); err != nil {
		return err
	}
	go startServices(conf)
	return http.Serve(l, handlers())
}

func say(format string, args ...any) {
	fmt.Printf("node: %6.1f s  %s\n", boot.Uptime(), fmt.Sprintf(format, args...))
}

// startServices keeps containerd and the kubelet running. What they say is in
// /var/log.
func startServices(conf *node.Conf) {
	go keep("containerd", "containerd", "--config", node.Dir+"/containerd.toml")
	for exec.Command("ctr", "version").Run() != nil {
		time.Sleep(100 * time.Millisecond)
	}
	say("containerd answers")
	go keep("kubelet", "kubelet", "--config="+node.Dir+"/kubelet.yaml", "--kubeconfig="+node.Dir+"/kubelet.kubeconfig",
		"--hostname-override="+conf.Name, "--node-ip="+strings.Split(conf.Address, "/")[0], "-v=1")
	if err := os.WriteFile(node.Ready, nil, 0o644); err != nil {
		say("%v", err)
	}
}

// keep runs a service, again and again, and leaves its PID in /run/node/NAME.
func keep(name string, argv ...string) {
	for {
		log, err := os.OpenFile("/var/log/"+name+".log", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err == nil {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Stdout, cmd.Stderr = log, log
			cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
			if err = cmd.Start(); err == nil {
				_ = os.WriteFile("/run/node/"+name, []byte(strconv.Itoa(cmd.Process.Pid)), 0o644)
				err = cmd.Wait()
			}
			log.Close()
		}
		say("%s ended: %v; it is started again", name, err)
		time.Sleep(time.Second)
	}
}
