package packet

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/homeport-cni/homeport/test/bench/internal/ratio"
)

// Judge are hooks whose port can be given other rules.
type Judge interface {
	Hooks
	Use(ifindex int, network string, mac net.HardwareAddr) error
	Release(ifindex int) error
}

// JudgeCase is one row: the rules of a network against none.
type JudgeCase struct{ Name, Network string }

// loopback is the interface that BPF_PROG_TEST_RUN takes packets for.
const loopback = 1

// JudgeRows measures what the whole from_vm takes for a packet that all rules have to be
// asked about, since none is about it: under the rules of each network, against those of
// empty, which has none. Such a packet belongs to no connection, and the default drops it.
// The kernel repeats the program (BPF_PROG_TEST_RUN), perSlice times a slice.
func JudgeRows(c Config, hooks Judge, empty string, cases ...JudgeCase) (rows []ratio.Row, err error) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	if err := hooks.Protect(loopback, "lo", mac); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, hooks.Release(loopback)) }()
	prog, err := programAt(loopback, ebpf.AttachTCXIngress)
	if err != nil {
		return nil, err
	}
	defer prog.Close()
	vm := host{mac, netip.MustParseAddr("10.200.0.1")}
	f := frame(vm, host{net.HardwareAddr{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("10.201.0.1")}, firstPort, servedPort)
	cost := func(network string) (ns float64, err error) {
		if err := hooks.Use(loopback, network, mac); err != nil {
			return 0, err
		}
		ret, took, err := prog.Benchmark(f, int(c.PerSlice), nil)
		if err == nil && ret != dropped {
			err = fmt.Errorf("network %s: the packet is not dropped: %d", network, int32(ret))
		}
		return took.Seconds(), err
	}
	for _, one := range cases {
		var pairs []ratio.Pair
		for range c.Rounds {
			var p ratio.Pair
			for range c.Slices {
				order := []string{empty, one.Network}
				rand.Shuffle(2, func(i, j int) { order[i], order[j] = order[j], order[i] })
				for _, n := range order {
					took, err := cost(n)
					if err != nil {
						return rows, err
					}
					if n == empty {
						p.Baseline += took / float64(c.Slices)
					} else {
						p.Ours += took / float64(c.Slices)
					}
				}
			}
			pairs = append(pairs, p)
		}
		row, err := ratio.Compare(one.Name, "the same program without rules", ratio.Seconds, ratio.Aim{}, pairs)
		if err != nil {
			return rows, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// dropped is TC_ACT_SHOT.
const dropped = 2
