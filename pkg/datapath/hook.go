package datapath

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Hook is one of the places where a program is attached.
type Hook uint8

// The hooks. Values of the two of a port are those of policy.Direction.
const (
	FromVM Hook = 0 // ingress of the host end
	ToVM   Hook = 1 // egress of the host end
	// inbound is the ingress of an uplink.
	inbound Hook = 2
)

const (
	hooks    = 2 // of a port
	allHooks = 3
)

// String is the program's name in the object, with which that of the loaded one begins.
func (h Hook) String() string {
	return [allHooks]string{portProgFromVm, portProgToVm, portProgInbound}[h%allHooks]
}

func (h Hook) suffix() string { return [allHooks]string{"from", "to", "inbound"}[h%allHooks] }

func (h Hook) parent() uint32 {
	if h == ToVM {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

func (h Hook) attachType() ebpf.AttachType {
	if h == ToVM {
		return ebpf.AttachTCXEgress
	}
	return ebpf.AttachTCXIngress
}

// What can be wrong at a hook; [PortError] wraps one of them.
var (
	// ErrNoRecord: the interface is not known as a port; its packets drop if
	// the programs are attached.
	ErrNoRecord = errors.New("no port record")
	// ErrNotAttached: no program of ours is at the hook; packets pass unjudged.
	ErrNotAttached = errors.New("no program attached")
	// ErrSevered: there is a link, but it has been cut from the interface.
	ErrSevered = errors.New("link severed")
	// ErrWrongProgram: another program than the loaded one is at the hook.
	ErrWrongProgram = errors.New("not the loaded program")
)

// PortError says what is wrong with one port.
type PortError struct {
	IfIndex int
	Hook    Hook // means nothing with ErrNoRecord
	Err     error
}

// Error names the interface, the hook and what is wrong.
func (e *PortError) Error() string {
	if errors.Is(e.Err, ErrNoRecord) {
		return fmt.Sprintf("port at interface %d: %v", e.IfIndex, e.Err)
	}
	return fmt.Sprintf("port at interface %d, hook %s: %v", e.IfIndex, e.Hook, e.Err)
}

// Unwrap gives what is wrong.
func (e *PortError) Unwrap() error { return e.Err }

// Filters have a fixed place, so that a replacement is one atomic step and the
// same filter is found again. "Hp" is out of the way of what people type.
const (
	filterHandle   = 1
	filterPriority = 0x4870
)

// chooseHooks finds out what the kernel has and whether it fits the config.
func (d *Datapath) chooseHooks() error {
	d.tcx = probeTCX(d.progs[FromVM]).Answer == Yes
	d.clsact = probeClsact(d.progs[FromVM]).Answer != No
	switch {
	case d.cfg.Attach == AttachTCX && !d.tcx:
		return fmt.Errorf("this kernel has no tcx (Linux 6.6): %w", ebpf.ErrNotSupported)
	case d.cfg.Attach == AttachClsact && !d.clsact, !d.tcx && !d.clsact:
		return fmt.Errorf("this kernel has no clsact qdisc: load modules sch_ingress and cls_bpf: %w", ebpf.ErrNotSupported)
	}
	return nil
}

// fast says whether ports are attached by clsact.
func (d *Datapath) fast() bool { return d.cfg.Attach != AttachTCX && d.clsact }

// attachHook puts the loaded program at the hook, in place of whatever of ours
// is there. The program's own state decides what passes.
func (d *Datapath) attachHook(ifindex int, h Hook) error {
	if d.fast() {
		return d.attachClsact(ifindex, h)
	}
	return d.attachTCX(ifindex, h)
}

// attachTCX swaps the program of the hook's link, or makes a link if there is none
// that is good for anything.
func (d *Datapath) attachTCX(ifindex int, h Hook) error {
	old, _, err := d.linkAt(ifindex, h)
	if old != nil {
		if err := errors.Join(patient(func() error { return old.Update(d.progs[h]) }), old.Close()); err != nil {
			return fmt.Errorf("attach %s to interface %d by its tcx link: %w", h, ifindex, err)
		}
		return nil
	}
	path := d.pins.link(ifindex, h)
	if err != nil {
		d.log.Warn("a tcx link is made anew", "ifindex", ifindex, "hook", h.String(), "error", err)
		if err := remove(path); err != nil {
			return err
		}
	}
	l, err := d.newTCX(ifindex, h)
	if err != nil {
		return fmt.Errorf("attach %s to interface %d by tcx: %w", h, ifindex, err)
	}
	if err := l.Pin(path); err != nil {
		return errors.Join(fmt.Errorf("pin the tcx link: %w", err), l.Close())
	}
	return l.Close()
}

// newTCX attaches before all other programs.
func (d *Datapath) newTCX(ifindex int, h Hook) (l link.Link, err error) {
	err = patient(func() error {
		l, err = link.AttachTCX(link.TCXOptions{
			Interface: ifindex, Program: d.progs[h], Attach: h.attachType(), Anchor: link.Head(),
		})
		return err
	})
	return l, err
}

// patient waits for links that nobody holds any more: they are detached by the kernel in its own
// time, and the same program is not attached twice.
func patient(attach func() error) error {
	const patience, pause = 2 * time.Second, 5 * time.Millisecond
	for deadline := time.Now().Add(patience); ; time.Sleep(pause) {
		if err := attach(); !errors.Is(err, unix.EEXIST) || time.Now().After(deadline) {
			return err
		}
	}
}

// filter is ours at a hook; without a program it is one to delete.
func filter(ifindex int, h Hook, prog *ebpf.Program) *netlink.BpfFilter {
	fd := -1
	if prog != nil {
		fd = prog.FD()
	}
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: ifindex, Parent: h.parent(), Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: fd, Name: h.String(), DirectAction: true,
	}
}

func clsact(ifindex int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func (d *Datapath) addClsact(ifindex int) error {
	if err := d.netlink.QdiscAdd(clsact(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add clsact to interface %d: %w", ifindex, err)
	}
	return nil
}

func (d *Datapath) attachClsact(ifindex int, h Hook) error {
	if err := d.addClsact(ifindex); err != nil {
		return err
	}
	if err := d.netlink.FilterReplace(filter(ifindex, h, d.progs[h])); err != nil {
		return fmt.Errorf("attach %s to interface %d by clsact: %w", h, ifindex, err)
	}
	return nil
}

// findFilter gives the program at our place of the hook: 0 if there is none.
func (d *Datapath) findFilter(ifindex int, h Hook) (ebpf.ProgramID, error) {
	dev := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: ifindex}}
	filters, err := d.netlink.FilterList(dev, h.parent())
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOENT) {
		return 0, nil // no clsact, or no interface
	}
	if err != nil {
		return 0, fmt.Errorf("list filters of interface %d: %w", ifindex, err)
	}
	for _, f := range filters {
		if b, ok := f.(*netlink.BpfFilter); ok && b.Handle == filterHandle && b.Priority == filterPriority {
			return ebpf.ProgramID(b.Id), nil
		}
	}
	return 0, nil
}

func (d *Datapath) deleteFilter(ifindex int, h Hook) error {
	id, err := d.findFilter(ifindex, h)
	if err != nil || id == 0 {
		return err
	}
	f := filter(ifindex, h, d.progs[h])
	if err := d.netlink.FilterDel(f); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete %s filter of interface %d: %w", h, ifindex, err)
	}
	return nil
}

// linkAt opens the hook's pinned link and says which program it runs: nil if
// there is none; ErrSevered if it is cut from the interface.
func (d *Datapath) linkAt(ifindex int, h Hook) (link.Link, ebpf.ProgramID, error) {
	path := d.pins.link(ifindex, h)
	if !exists(path) {
		return nil, 0, nil
	}
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, 0, fmt.Errorf("open link %s: %w", path, err)
	}
	info, err := l.Info()
	if err != nil {
		return nil, 0, errors.Join(fmt.Errorf("link %s: %w", path, err), l.Close())
	}
	if tcx := info.TCX(); tcx == nil || int(tcx.Ifindex) != ifindex {
		return nil, 0, errors.Join(ErrSevered, l.Close())
	}
	return l, info.Program, nil
}

// verifyHook: nil if the loaded program is at the hook by either kind.
func (d *Datapath) verifyHook(ifindex int, h Hook) error {
	if d.progs[h] == nil {
		return ErrNotAttached // on a kernel that takes none at uplinks
	}
	l, id, err := d.linkAt(ifindex, h)
	if l != nil {
		_ = l.Close() // a descriptor; the pin keeps the link
	}
	if err == nil && id == d.progID[h] {
		return nil
	}
	fid, ferr := d.findFilter(ifindex, h)
	switch {
	case ferr != nil:
		return ferr
	case fid == d.progID[h]:
		return nil
	case err != nil:
		return err
	case id != 0 || fid != 0:
		return ErrWrongProgram
	}
	return ErrNotAttached
}

// replaceHook swaps the program for the loaded one, atomically, wherever one of
// ours is attached.
func (d *Datapath) replaceHook(ifindex int, h Hook) error {
	l, id, err := d.linkAt(ifindex, h)
	if l != nil {
		defer l.Close()
		if id != d.progID[h] {
			err = patient(func() error { return l.Update(d.progs[h]) })
		}
	}
	fid, ferr := d.findFilter(ifindex, h)
	if ferr == nil && fid != 0 && fid != d.progID[h] {
		ferr = d.netlink.FilterReplace(filter(ifindex, h, d.progs[h]))
	}
	if err := errors.Join(err, ferr); err != nil {
		return &PortError{ifindex, h, err}
	}
	return nil
}

// detachHook removes what of ours is at the hook. An unpinned link goes a moment
// later; till then a port's program finds no record and drops, and an uplink's leaves all to the bridge.
func (d *Datapath) detachHook(ifindex int, h Hook) error {
	return errors.Join(remove(d.pins.link(ifindex, h)), d.deleteFilter(ifindex, h))
}
