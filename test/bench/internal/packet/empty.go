package packet

import (
	"errors"
	"fmt"
	"net"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

// Empty is two programs that do nothing: what the kernel takes to call any
// program at both hooks.
type Empty struct {
	prog  *ebpf.Program
	links []link.Link
}

// NewEmpty loads the program.
func NewEmpty() (*Empty, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bench_empty", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, -1), // TC_ACT_UNSPEC
		asm.Return(),
	}})
	if err != nil {
		return nil, fmt.Errorf("load the empty program: %w", err)
	}
	return &Empty{prog: prog}, nil
}

// Protect implements Hooks.
func (e *Empty) Protect(ifindex int, _ string, _ net.HardwareAddr) error {
	for _, where := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: e.prog, Attach: where})
		if err != nil {
			return fmt.Errorf("attach the empty program: %w", err)
		}
		e.links = append(e.links, l)
	}
	return nil
}

// Close lets go of program and links.
func (e *Empty) Close() error {
	errs := []error{e.prog.Close()}
	for _, l := range e.links {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}
