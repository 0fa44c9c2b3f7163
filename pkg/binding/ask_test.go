package binding

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/homeport-cni/homeport/pkg/attach/wire"
	"github.com/homeport-cni/homeport/pkg/desired"
	"github.com/homeport-cni/homeport/pkg/learn"
	"github.com/homeport-cni/homeport/pkg/snoop"
)

// anyRig is a rig whose network takes any address, with ports 1 and 2.
func anyRig(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	n := lan(learn.ModeObserved)
	n.Subnets = nil
	r.networks["lan"] = n
	r.port(1, "lan")
	r.port(2, "lan")
	return r
}

// nd is a message of neighbour discovery, heard at port n, of the station with MAC m, about an address.
func (r *rig) nd(n, m int, kind byte, from, addr string, out bool) {
	r.Helper()
	src, a := netip.MustParseAddr(from).As16(), netip.MustParseAddr(addr).As16()
	options := []byte{}
	if kind == 136 {
		options = slices.Concat([]byte{2, 1}, mac(m))
	}
	frame := slices.Concat([]byte{0x33, 0x33, 0xff, 0, 0, 5}, mac(m), []byte{0x86, 0xdd, 0x60, 0, 0, 0, 0, byte(24 + len(options)), 58, 255}, src[:], []byte{0xff, 2, 15: 5},
		[]byte{kind, 0, 0, 0, 0, 0, 0, 0}, a[:], options)
	if !r.Heard(n, snoop.Frame{At: r.now, Out: out, VLAN: 100, Data: frame}) {
		r.Fatalf("no port %d", n)
	}
}

func (r *rig) asks(n int, addr string)       { r.Helper(); r.nd(n, n, 135, "::", addr, true) }
func (r *rig) advertises(n int, addr string) { r.Helper(); r.nd(n, n, 136, addr, addr, true) }
func (r *rig) foreign(n, m int, addr string) { r.Helper(); r.nd(n, m, 136, addr, addr, false) }
func (r *rig) passes(d time.Duration)        { r.now = r.now.Add(d); r.Tick() }
func (r *rig) conflicts(what string, want int) {
	r.Helper()
	if _, got := r.Count(); got != want {
		r.Errorf("%s there are %d conflicts, want %d", what, got, want)
	}
}

// TestAsks: duplicate address detection gives an address that nobody has, and none that another has: who finds that does without.
func TestAsks(t *testing.T) {
	r := anyRig(t)
	r.asks(1, "fd00::5")
	r.want("nobody has it", "fd00::5/100 1")
	r.asks(2, "fd00::5")
	r.want("the first has it", "fd00::5/100 1")
	if all := r.Addresses(""); len(all) != 1 || all[0].Conflict || all[0].Provenance != "ND" {
		t.Errorf("there are %+v", all)
	}
}

// TestForeignUnasked: what others say to all of what nobody here has or asks for is not kept.
func TestForeignUnasked(t *testing.T) {
	r := anyRig(t)
	r.foreign(1, 9, "fd00::5")
	r.asks(1, "fd00::5")
	r.want("it asks later", "fd00::5/100 1")
	r.conflicts("somebody said before that he has it:", 0)
}

// TestAsksAndIsAnswered: who asks and is answered does without, whoever answers; but not who has said meanwhile to have the address.
func TestAsksAndIsAnswered(t *testing.T) {
	r := anyRig(t)
	r.asks(1, "fd00::5")
	r.passes(time.Second)
	r.foreign(1, 9, "fd00::5")
	r.want("by somebody outside")
	r.conflicts("he alone has it", 0)
	r.asks(1, "fd00::5")
	r.want("he has it still")

	r = anyRig(t)
	r.asks(1, "fd00::5")
	r.FoundOutside(Key{"trunk0", 100, netip.MustParseAddr("fd00::5")}, learn.MAC(mac(9)))
	r.want("at the uplink")

	r = anyRig(t)
	r.asks(1, "fd00::5")
	r.advertises(2, "fd00::5")
	r.want("by a NIC of this node", "fd00::5/100 2")
	r.conflicts("it alone has it", 0)

	r = anyRig(t)
	r.others = []desired.Identity{{Namespace: "shop", Name: "web.1", VM: "web", UID: "vm-1", Network: "lan", Node: "n2", MAC: mac(7)}}
	r.follow()
	r.asks(1, "fd00::5")
	r.foreign(1, 7, "fd00::5")
	r.want("by one of another", "fd00::5/100 7")

	r = anyRig(t)
	r.asks(1, "fd00::5")
	r.foreign(2, 1, "fd00::5")
	r.want("what comes back is its own", "fd00::5/100 1")
	r.passes(4 * time.Second)
	r.asks(1, "fd00::5")
	r.passes(4 * time.Second)
	r.foreign(1, 9, "fd00::5")
	r.want("asked again")

	r = anyRig(t)
	r.asks(1, "fd00::5")
	r.Own(r.ports[0].Key, wire.Owner{Name: "web", UID: "vm-1", VM: true})
	r.want("it is a VM's", "fd00::5/100 1")
	r.foreign(1, 9, "fd00::5")
	r.want("which asked")
}

// TestAsksAndHas: who has said meanwhile to have the address keeps it, and so does who was not answered for some seconds.
func TestAsksAndHas(t *testing.T) {
	r := anyRig(t)
	r.asks(1, "fd00::5")
	r.advertises(1, "fd00::5")
	r.foreign(1, 9, "fd00::5")
	r.want("it says that it has it", "fd00::5/100 1 disputed")

	r = anyRig(t)
	r.asks(1, "fd00::5")
	r.now = r.now.Add(answeredWithin + time.Second) // and no Tick
	r.foreign(1, 9, "fd00::5")
	r.want("nobody says otherwise for a while", "fd00::5/100 1 disputed")

	r = anyRig(t)
	r.ports[0].Declared = []netip.Addr{netip.MustParseAddr("fd00::5")}
	r.asks(1, "fd00::5")
	r.follow()
	r.foreign(1, 9, "fd00::5")
	r.want("it is declared", "fd00::5/100 1 firm disputed")

	r = anyRig(t)
	for i := range 100 {
		r.asks(1, netip.AddrFrom16([16]byte{0xfd, 15: byte(i)}).String())
	}
	if len(r.asked) != learn.DefaultLimit {
		t.Errorf("%d questions are kept", len(r.asked))
	}
	if r.passes(answeredWithin + time.Second); len(r.asked) > 0 {
		t.Errorf("%d questions are kept for ever", len(r.asked))
	}
}
