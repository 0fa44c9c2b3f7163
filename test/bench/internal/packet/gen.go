// Package packet measures what a packet costs from one bridge port to another:
// through the plain kernel bridge, and through the same bridge with Homeport's
// programs at both ports.
//
// The generator is BPF_PROG_TEST_RUN of an XDP program with live frames
// (Documentation/bpf/bpf_prog_run.rst): the kernel makes frames, runs the
// program over them as if they had come in at a given interface, and what the
// program passes goes up the stack from there, all on the calling thread. At
// the far end of the second port, in a namespace of its own, a program
// counts and drops.
package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Frame layout: Ethernet, IPv4 without options, UDP, zeros up to 60 bytes.
const (
	frameLen   = 60
	offSrcPort = 14 + 20
	offDstPort = offSrcPort + 2
	offUDPEnd  = offSrcPort + 8
	firstPort  = 1024 // of the side that opens the flows
	servedPort = 4789
	freshFlows = 60000 // ports of the opener until the served one is the next
	freshPorts = 200   // served ones: 12 million flows before one comes again
)

// host is one VM as its frames show it.
type host struct {
	mac net.HardwareAddr
	ip  netip.Addr
}

// frame is a UDP packet from one host to another. IPv4 only.
func frame(from, to host, sport, dport uint16) []byte {
	b := make([]byte, frameLen)
	copy(b, to.mac)
	copy(b[6:], from.mac)
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_IP)
	ip := b[14:34]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(ip[2:], frameLen-14)
	copy(ip[12:], from.ip.AsSlice())
	copy(ip[16:], to.ip.AsSlice())
	binary.BigEndian.PutUint16(ip[10:], checksum(ip))
	binary.BigEndian.PutUint16(b[offSrcPort:], sport)
	binary.BigEndian.PutUint16(b[offDstPort:], dport)
	binary.BigEndian.PutUint16(b[offSrcPort+4:], frameLen-34)
	return b
}

// checksum of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// generator sends frames of one direction. In turn each is of the next of so many
// flows.
type generator struct {
	prog *ebpf.Program
	sent *ebpf.Map // one u64: frames made
	data []byte
}

func newCounter(name string) (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", name, err)
	}
	return m, nil
}

func count(m *ebpf.Map) (uint64, error) {
	var n uint64
	if err := m.Lookup(uint32(0), &n); err != nil {
		return 0, fmt.Errorf("read counter: %w", err)
	}
	return n, nil
}

// newGenerator makes the program that writes the port at offset (offSrcPort or
// offDstPort) of each frame, the next of `flows` ones, and passes it. Where every frame is to be
// the first of its flow, fresh, the other port is the next of freshPorts when all have had their turn.
func newGenerator(data []byte, offset int16, flows int32, fresh bool) (*generator, error) {
	sent, err := newCounter("bench_sent")
	if err != nil {
		return nil, err
	}
	code := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // data
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word), // data_end
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, offUDPEnd),
		asm.JGT.Reg(asm.R4, asm.R3, "drop"),
		asm.LoadMapValue(asm.R5, sent.FD(), 0),
		asm.LoadMem(asm.R1, asm.R5, 0, asm.DWord),
		asm.Mov.Reg(asm.R0, asm.R1),
		asm.Add.Imm(asm.R0, 1),
		asm.StoreMem(asm.R5, 0, asm.R0, asm.DWord),
	}
	if fresh {
		code = append(code,
			asm.Mov.Reg(asm.R4, asm.R1),
			asm.Div.Imm(asm.R4, flows),
			asm.Mod.Imm(asm.R4, freshPorts),
			asm.Add.Imm(asm.R4, servedPort+1), // none of the established ones
			asm.HostTo(asm.BE, asm.R4, asm.Half),
			asm.StoreMem(asm.R2, offSrcPort+offDstPort-offset, asm.R4, asm.Half))
	}
	code = append(code,
		asm.Mod.Imm32(asm.R1, flows),
		asm.Add.Imm(asm.R1, firstPort),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R2, offset, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R0, 2), // XDP_PASS
		asm.Return(),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("drop"), // XDP_DROP
		asm.Return())
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bench_gen", Type: ebpf.XDP, License: "Apache-2.0", Instructions: code})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load generator: %w", err), sent.Close())
	}
	return &generator{prog: prog, sent: sent, data: data}, nil
}

// run makes at least n frames come in at the interface. A signal can make the
// kernel start over, so count what was sent by sent.
func (g *generator) run(ifindex int, n uint32) error {
	ctx := struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{DataEnd: uint32(len(g.data)), Ingress: uint32(ifindex)}
	_, err := g.prog.Run(&ebpf.RunOptions{Data: g.data, Context: ctx, Repeat: n, Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES})
	if err != nil {
		return fmt.Errorf("generate: %w", err)
	}
	return nil
}

func (g *generator) close() error { return errors.Join(g.prog.Close(), g.sent.Close()) }

// newSink makes a program for the far end's tc ingress hook that drops every
// frame and counts those that are IPv4 and UDP.
func newSink() (*ebpf.Program, *ebpf.Map, error) {
	got, err := newCounter("bench_got")
	if err != nil {
		return nil, nil, err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "bench_sink", Type: ebpf.SchedCLS, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadAbs(14+9, asm.Byte), // IPv4: protocol
		asm.JNE.Imm(asm.R0, unix.IPPROTO_UDP, "drop"),
		asm.LoadMapValue(asm.R1, got.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Mov.Imm(asm.R0, 2).WithSymbol("drop"), // TC_ACT_SHOT
		asm.Return(),
	}})
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("load sink: %w", err), got.Close())
	}
	return prog, got, nil
}
