package datapath

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Answer is what a probe found out.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota // could not tell; Detail says why
	Yes
	No
)

// String is the answer in words.
func (a Answer) String() string { return [...]string{"could not tell", "yes", "no"}[min(a, No)] }

// Feature is one thing that a kernel has or lacks.
type Feature struct {
	Name string
	// Need says what it is for.
	Need string
	// Required: without it the datapath does not work.
	Required bool
	Answer   Answer
	// Detail is the least kernel for No, the cause for Unknown.
	Detail string
}

// Features probes the running kernel by trying; it changes nothing. It needs the
// same rights as Open, and CAP_SYS_ADMIN for clsact, which it tries in a network
// namespace of its own: without it that answer is Unknown, and Open takes it for Yes.
func Features() []Feature {
	out := []Feature{
		helper("coarse clock", "timeouts of connections", "Linux 5.11", asm.FnKtimeGetCoarseNs),
		helper("bpf_skb_load_bytes", "headers behind the linear part", "Linux 4.5", asm.FnSkbLoadBytes),
		mapType("LPM trie", "address classes", "Linux 4.11", ebpf.LPMTrie),
		mapType("array of maps", "policies and ports' tables", "Linux 4.12", ebpf.ArrayOfMaps),
		mapType("LRU hash", "unanswered connections", "Linux 4.10", ebpf.LRUHash),
		probeInnerMap(),
		probeFastPath(),
		probeBatch(),
		probeBTF(),
	}
	prog, err := passProgram()
	if err != nil {
		return append(out, Feature{Name: "clsact", Detail: err.Error()}, Feature{Name: "tcx", Detail: err.Error()})
	}
	defer prog.Close()
	return append(out, probeClsact(prog), probeTCX(prog))
}

// answer turns a probe's error into an answer.
func (f Feature) answer(err error, least string) Feature {
	switch {
	case err == nil:
		f.Answer = Yes
	case errors.Is(err, ebpf.ErrNotSupported):
		f.Answer, f.Detail = No, "needs at least "+least
	default:
		f.Answer, f.Detail = Unknown, err.Error()
	}
	return f
}

func helper(name, need, least string, fn asm.BuiltinFunc) Feature {
	f := Feature{Name: name, Need: need, Required: true}
	return f.answer(features.HaveProgramHelper(ebpf.SchedCLS, fn), least)
}

// probeFastPath loads what is particular about its programs: a jump from one that has a function, and the
// redirection to a veth's other end.
func probeFastPath() Feature {
	f := Feature{Name: "fast path", Need: "packets between VMs of a node, and to and from the uplink, past the bridge"}
	if err := features.HaveProgramHelper(ebpf.SchedCLS, asm.FnRedirectPeer); err != nil {
		return f.answer(err, fastPathNeeds)
	}
	jumps, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ProgramArray, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return f.answer(err, fastPathNeeds)
	}
	defer jumps.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), asm.Call.Label("function"),
		asm.Mov.Reg(asm.R1, asm.R6), asm.LoadMapPtr(asm.R2, jumps.FD()), asm.Mov.Imm(asm.R3, 0), asm.FnTailCall.Call(),
		asm.Mov.Imm(asm.R0, -1), asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("function"), asm.Return(),
	}})
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		err = ebpf.ErrNotSupported
	}
	if err == nil {
		err = p.Close()
	}
	return f.answer(err, fastPathNeeds)
}

const fastPathNeeds = "Linux 5.10, on arm64 6.0"

func mapType(name, need, least string, t ebpf.MapType) Feature {
	f := Feature{Name: name, Need: need, Required: true}
	return f.answer(features.HaveMapType(t), least)
}

// probeInnerMap tries an inner array of another size than its template.
func probeInnerMap() Feature {
	f := Feature{Name: "inner arrays of any size", Need: "policies of any size", Required: true}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_INNER_MAP})
	if errors.Is(err, unix.EINVAL) {
		err = ebpf.ErrNotSupported
	}
	if err == nil {
		err = m.Close()
	}
	return f.answer(err, "Linux 5.10")
}

// probeBatch writes a map of maps in one call.
func probeBatch() Feature {
	f := Feature{Name: "map batch", Need: "publishing many ports or policies at once"}
	inner := &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1}
	m, err := ebpf.NewMap(inner)
	if err != nil {
		return f.answer(err, "")
	}
	defer m.Close()
	outer, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 2, InnerMap: inner})
	if err != nil {
		return f.answer(err, "")
	}
	defer outer.Close()
	_, err = outer.BatchUpdate([]uint32{0, 1}, []uint32{uint32(m.FD()), uint32(m.FD())}, nil)
	return f.answer(err, "Linux 5.13")
}

func probeBTF() Feature {
	f := Feature{Name: "kernel BTF", Need: "readable dumps of maps and programs"}
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	if errors.Is(err, os.ErrNotExist) {
		f.Answer, f.Detail = No, "needs a kernel with CONFIG_DEBUG_INFO_BTF"
		return f
	}
	return f.answer(err, "")
}

// noInterface is an index that no interface has.
const noInterface = 0x7ffffff0

// probeTCX attaches to an interface that is not there: only a kernel that knows
// tcx gets as far as looking for it.
func probeTCX(prog *ebpf.Program) Feature {
	f := Feature{Name: "tcx", Need: "hooks that other programs cannot delete"}
	l, err := link.AttachTCX(link.TCXOptions{Interface: noInterface, Program: prog, Attach: ebpf.AttachTCXIngress})
	switch {
	case err == nil:
		err = errors.Join(fmt.Errorf("interface %d exists", noInterface), l.Close())
	case errors.Is(err, unix.ENODEV):
		err = nil
	}
	return f.answer(err, "Linux 6.6")
}

// probeClsact attaches a program by clsact in a network namespace of its own,
// which goes with the thread that made it.
func probeClsact(prog *ebpf.Program) Feature {
	f := Feature{Name: "clsact", Need: "hooks that attach in no time; required without tcx"}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		result <- tryClsact(prog)
	}()
	err := <-result
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) {
		err = ebpf.ErrNotSupported
	}
	return f.answer(err, "a kernel with modules sch_ingress and cls_bpf")
}

func tryClsact(prog *ebpf.Program) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := h.QdiscAdd(clsact(lo.Attrs().Index)); err != nil {
		return fmt.Errorf("add clsact: %w", err)
	}
	return h.FilterReplace(filter(lo.Attrs().Index, FromVM, prog))
}

func passProgram() (*ebpf.Program, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.SchedCLS, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
	})
	if err != nil {
		return nil, fmt.Errorf("load a program that passes all: %w", err)
	}
	return p, nil
}
