package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/pkg/attach"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// UninstallConfig says what to remove, and from where.
type UninstallConfig struct {
	Paths  attach.Paths
	BPFFS  string // mount point of the BPF file system
	CNIBin string // directory of the CNI plugin; "" leaves it
	Force  bool   // ends living ports too
	Log    *slog.Logger
}

// Uninstall removes what an agent made on this node: programs, maps and their
// pins, managed bridges, VLANs added to adopted ones, chains in the host's iptables,
// state, the plugin. It refuses while ports live, unless Force ends them as DEL does:
// their interfaces go first, so that no VM is ever without its firewall. It can be
// repeated, also after an error, and says what it did.
func Uninstall(cfg UninstallConfig) (done []string, err error) {
	u := &uninstaller{cfg: cfg}
	if exists(cfg.Paths.RunDir) || exists(u.pins()) {
		err = u.node()
	}
	if err == nil {
		err = u.plugin()
	}
	return u.done, err
}

type uninstaller struct {
	cfg  UninstallConfig
	done []string
}

func (u *uninstaller) say(format string, args ...any) {
	u.done = append(u.done, fmt.Sprintf(format, args...))
}

func (u *uninstaller) pins() string { return filepath.Join(u.cfg.BPFFS, "homeport") }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// node removes all but the plugin. State goes last: with it a second try knows what
// is left.
func (u *uninstaller) node() error {
	a, err := New(Config{Paths: u.cfg.Paths, SourceName: "uninstall", BPFFS: u.cfg.BPFFS, Log: u.cfg.Log})
	if err != nil {
		return err
	}
	defer a.lock.Close()
	err = u.ports(a)
	if err == nil {
		err = u.trunks(a)
	}
	if err == nil {
		err = u.hostChains(a)
	}
	if err == nil {
		_, err = a.kernel.dp.AttachInbound() // at no uplink any more
	}
	if err == nil {
		_, err = a.kernel.dp.GC(func(int) bool { return false })
	}
	if err := errors.Join(err, a.kernel.Close()); err != nil {
		return err
	}
	if err := os.RemoveAll(u.pins()); err != nil {
		return fmt.Errorf("remove pinned programs and maps: %w", err)
	}
	u.say("removed programs and maps below %s", u.pins())
	return u.state()
}

// ports refuses living ones, or ends them.
func (u *uninstaller) ports(a *Agent) error {
	if err := a.adoptRecords(); err != nil { // the dead are ended by this
		return err
	}
	strays, err := a.kernel.Collect(a.ownIndexes(), a.orphans)
	if err != nil {
		return err
	}
	var living []string
	for _, it := range a.table.list() {
		living = append(living, fmt.Sprintf("%s (pod %s/%s, interface %s)", it.rec.HostIfName, it.rec.Pod.Namespace, it.rec.Pod.Name, it.rec.IfName))
	}
	for _, name := range strays {
		living = append(living, name+" (without a record)")
	}
	if len(living) > 0 && !u.cfg.Force {
		return fmt.Errorf("%d ports live on this node: %s; stop or migrate their VMs first, or end them with --force: "+
			"their VMs lose these interfaces until they are started again", len(living), strings.Join(living, ", "))
	}
	return u.end(a, strays)
}

// end ends ports as DEL does. One without a record goes with its interface.
func (u *uninstaller) end(a *Agent, strays []string) error {
	for _, it := range a.table.list() {
		e, unlock := a.table.lock(it.rec.Key)
		err := a.end(e, &it.rec)
		unlock()
		if err != nil {
			return fmt.Errorf("end port %s: %w", it.rec.HostIfName, err)
		}
		u.say("ended port %s of pod %s/%s", it.rec.HostIfName, it.rec.Pod.Namespace, it.rec.Pod.Name)
	}
	links, err := a.kernel.net.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if !slices.Contains(strays, l.Name) {
			continue
		}
		if err := a.kernel.net.DeleteVethFast(l.Ref()); err != nil {
			return fmt.Errorf("end port %s: %w", l.Name, err)
		}
		u.say("ended port %s, which had no record", l.Name)
	}
	return nil
}

// trunks removes managed bridges, and what we added to others'.
func (u *uninstaller) trunks(a *Agent) error {
	none := &desired.Snapshot{}
	if a.world.snap != nil {
		gone := goneTrunks(a.world.snap, none, nil)
		a.world.gone = gone
		a.dropTrunks(none, gone)
		for at, t := range gone {
			if _, stays := a.world.gone[at]; !stays && t.Managed {
				u.say("removed bridge %s of trunk %s", t.Bridge, t.Name)
			}
		}
	}
	added := a.uplinks
	a.releaseUplinks(none)
	for at := range added {
		if _, stays := a.uplinks[at]; stays {
			return fmt.Errorf("uplink %s of bridge %s: VLANs that were added cannot be taken off; see the log", at.uplink, at.bridge)
		}
		u.say("took the VLANs that were added off uplink %s of bridge %s, which stays", at.uplink, at.bridge)
	}
	links, err := a.kernel.net.Links()
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Marked() {
			err = errors.Join(err, fmt.Errorf("bridge %s, which is Homeport's, has ports that it does not know: take them out (bridge link), then try again, or ip link delete %s", l.Name, l.Name))
		}
	}
	return err
}

// hostChains takes our chains out of the host's iptables.
func (u *uninstaller) hostChains(a *Agent) error {
	done, err := a.hostfw.host.RemoveBypass()
	for _, what := range done {
		u.say("removed %s", what)
	}
	return err
}

// state removes the directory, or what is in it where it is a mount, as in a pod.
func (u *uninstaller) state() error {
	dir := u.cfg.Paths.RunDir
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	if err != nil {
		return fmt.Errorf("remove state: %w", err)
	}
	switch err := os.Remove(dir); {
	case errors.Is(err, unix.EBUSY):
		u.say("emptied %s; the directory itself is a mount here and stays", dir)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("remove state: %w", err)
	default:
		u.say("removed %s", dir)
	}
	return nil
}

// plugin removes the CNI plugin.
func (u *uninstaller) plugin() error {
	if u.cfg.CNIBin == "" {
		return nil
	}
	file := filepath.Join(u.cfg.CNIBin, PluginName)
	err := os.Remove(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove the CNI plugin: %w", err)
	}
	u.say("removed %s", file)
	return nil
}
