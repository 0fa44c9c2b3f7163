package packet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Learn is a node that knows many addresses of NICs and learns more, all the time.
type Learn struct {
	Label string
	// Addresses that it knows.
	Addresses int
	Hooks     Ported
	// Know has the programs know so many addresses, and no others.
	Know func(n int) error
	// Heard says how much the programs have told since it was last asked.
	Heard func() int
}

// AimLearn is of packets of an established flow: learning costs them nothing.
var AimLearn = ratio.Aim{High: 1.05}

// learnEvery is the pace of a port that says more than it may tell of: 64 frames each time, and 64 are told in a second.
const learnEvery = 100 * time.Millisecond

// LearnRow compares packets of an established flow on a node that knows and learns addresses with those on one that knows none
// and hears nothing.
func LearnRow(c Config, l Learn) (row ratio.Row, err error) {
	sinks, leave, err := prepare(c)
	if err != nil {
		return row, err
	}
	defer leave()
	path, err := newPath("learn", 0, sinks, 1)
	if err != nil {
		return row, err
	}
	p := &ourPath{Path: path, hooks: l.Hooks, ports: []*Port{path.A, path.B}}
	defer func() { err = errors.Join(err, p.close()) }()
	for _, port := range p.ports {
		if err := l.Hooks.Protect(port.Index, port.Name, port.VM.mac); err != nil {
			return row, fmt.Errorf("protect %s: %w", port.Name, err)
		}
	}
	// Who says all that is a third port.
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := l.Hooks.Protect(loopback, "lo", mac); err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, l.Hooks.Release(loopback)) }()
	prog, err := programAt(loopback, ebpf.AttachTCXIngress)
	if err != nil {
		return row, err
	}
	defer prog.Close()
	told := 0
	talk := func() error {
		for i := range 64 {
			claim := announcement(mac, netip.AddrFrom4([4]byte{10, 99, byte(told >> 8), byte(told + i)}))
			if _, err := prog.Run(&ebpf.RunOptions{Data: claim}); err != nil {
				return err
			}
		}
		told += l.Heard()
		time.Sleep(learnEvery)
		return nil
	}
	var talker scanner
	calm := &side{name: "knowing nobody", turn: func(n uint32) (Sample, error) {
		// As much as the other side has done before its turn, for the sake of caches.
		if err := errors.Join(l.Know(l.Addresses), l.Know(0)); err != nil {
			return Sample{}, err
		}
		return p.established(n)
	}}
	busy := &side{name: "learning", turn: func(n uint32) (Sample, error) {
		if err := errors.Join(l.Know(0), l.Know(l.Addresses)); err != nil {
			return Sample{}, err
		}
		talker.begin(talk)
		s, err := p.established(n)
		return s, errors.Join(err, talker.end())
	}}
	if err := contest(c, []*side{calm, busy}); err != nil {
		return row, err
	}
	if told == 0 {
		return row, errors.New("nothing was heard, so nothing was learnt")
	}
	if row, err = busy.against(fmt.Sprintf("%s/established-learning-%s-addresses", l.Label, short(l.Addresses)), calm, "the same, knowing nobody", AimLearn); err != nil {
		return row, err
	}
	row.Note = fmt.Sprintf("%d addresses are known, and %d frames were told of meanwhile", l.Addresses, told)
	return row, nil
}

// announcement is ARP by which a NIC says that it has an address.
func announcement(mac net.HardwareAddr, a netip.Addr) []byte {
	ip := a.As4()
	b := slices.Concat([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, []byte{0, 0, 0, 1, 8, 0, 6, 4, 0, 1}, mac, ip[:], make([]byte, 6), ip[:], make([]byte, 18))
	binary.BigEndian.PutUint16(b[12:], unix.ETH_P_ARP)
	return b
}
