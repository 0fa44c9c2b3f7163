package learn

import (
	"net/netip"
	"testing"
	"time"
)

func TestModeDeclared(t *testing.T) {
	runStories(t, []story{
		{"takes nothing that is observed", mode(ModeDeclared), []step{
			{says(1, web, five, ARP), "Refused web DeclaredOnly"},
			{says(2, web, five, ARP), ""},
			{leases(3, web, six, 100), "Refused web DeclaredOnly"},
			{says(4, web, five, Declared), "Bound web Declared"},
			{says(5, web, five, ARP), ""},
			{withdraws(6, web, five, Declared), "Unbound web Declared"}, // and that sightings are refused is told
		}},
		{"but sees who takes what is declared", mode(ModeDeclared), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{withdraws(3, web, five, Declared), "Unbound web Declared, Refused db DeclaredOnly, Dropped db ARP, ConflictEnded Inside"},
		}},
		{"takes link-local addresses, which nobody declares", mode(ModeDeclared), []step{
			{says(1, web, "fe80::1", ND), "Bound web ND"},
			{says(2, db, "fe80::1", ND), "Aside db ND, ConflictBegan Inside"},
			{decides(3, EventDeny, web, "fe80::1"), "Unbound web ND, Promoted db ND, ConflictEnded Inside"},
		}},
		{"Observed becomes Declared", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, Declared), "Bound web Declared"},
			{sets(3, mode(ModeDeclared)), "Refused web DeclaredOnly, Unbound web ARP"},
			{sets(4, mode(ModeObserved)), ""},
			{says(5, web, five, ARP), "Bound web ARP"},
		}},
		{"Declared becomes Observed", mode(ModeDeclared), []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{sets(3, mode(ModeObserved)), ""},
			{withdraws(4, web, five, Declared), "Unbound web Declared, Promoted db ARP, ConflictEnded Inside"},
		}},
	})
}

func TestModeApproved(t *testing.T) {
	change := mode(ModeApproved)
	runStories(t, []story{
		{"nobody claims it", change, []step{
			{decides(1, EventApprove, web, five), "Refused web NobodyClaims"},
			{decides(2, EventDeny, web, five), "Refused web NobodyClaims"},
			{decides(3, EventApprove, web, five), "Refused web NobodyClaims"}, // a person is always answered
			{says(4, web, five, ARP), "Waiting web ARP"},
			{in(decides(5, EventApprove, web, five), someSegments[1]), "Refused web NobodyClaims"},
			{decides(6, EventApprove, db, five), "Refused db NobodyClaims"},
			{toldBy(decides(7, EventDeny, web, six), ARP), "Refused web NobodyClaims"},
			{toldBy(decides(8, EventDeny, web, six), ARP), "Refused web NobodyClaims"},
		}},
		{"no link-local address waits", change, []step{
			{says(1, web, "fe80::1", ND), "Bound web ND"},
			{sets(2, mode(ModeObserved)), ""},
			{sets(3, change), ""},
		}},
		{"waits", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, web, five, ARP), ""},
			{leases(3, web, five, 9), "Waiting web DHCP"},
			{in(decides(4, EventApprove, web, five), someSegments[0]), "Bound web DHCP"},
			{passes(9), "Unbound web DHCP"},
			{says(10, web, five, ARP), "Bound web ARP"}, // still approved
		}},
		{"in all segments at once", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{in(says(2, web, five, ARP), someSegments[1]), "Waiting web ARP"},
			{decides(3, EventApprove, web, five), "Bound web ARP, Bound web ARP"},
		}},
		{"counts from the approval", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{decides(3, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(4, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
			{decides(5, EventDeny, db, five), "Unbound db ARP, Promoted web ARP, ConflictEnded Inside"},
		}},
		{"denied", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventDeny, web, five), "Dropped web ARP"},
			{says(3, web, five, DHCP), "Refused web Denied"},
			{says(4, web, five, ARP), ""},
			{decides(5, EventApprove, web, five), ""},
			{decides(4, EventDeny, web, five), ""}, // was before
			{says(6, web, five, ARP), "Bound web ARP"},
		}},
		{"denied, and declared", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventDeny, web, five), "Dropped web ARP"},
			{says(3, web, five, Declared), "Bound web Declared"},
			{decides(4, EventDeny, web, five), "Refused web IsDeclared"},
			{says(5, web, five, ARP), ""},
			{withdraws(6, web, five, Declared), "Waiting web ARP"},
		}},
		{"declared needs no approval", change, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, db, five, ARP), "Waiting db ARP, ConflictBegan Inside"},
		}},
	})
}

func TestApprovals(t *testing.T) {
	change := mode(ModeApproved)
	runStories(t, []story{
		{"Observed becomes Approved", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, db, five, ARP), "Aside db ARP, ConflictBegan Inside"},
			{sets(3, change), "Waiting db ARP, Bound web ARP, ConflictChanged Inside"},
			{says(4, web, six, ARP), "Waiting web ARP"},
			{of(5, EventGone, web), "Dropped web ARP, Unbound web ARP, ConflictEnded Inside"},
		}},
		{"Approved becomes Observed", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{says(1, db, six, ARP), "Waiting db ARP"},
			{says(2, web, six, ARP), "Waiting web ARP"},
			{decides(3, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{sets(4, mode(ModeObserved)), "Aside web ARP, ConflictChanged Inside, Aside web ARP, Bound db ARP, ConflictBegan Inside"},
		}},
		{"denied while Observed", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{decides(2, EventDeny, web, five), "Unbound web ARP"},
			{says(3, web, five, ARP), "Refused web Denied"},
			{of(4, EventGone, web), ""},
			{says(5, web, five, ARP), "Bound web ARP"},
		}},
		{"what waits again is as young as its next approval", change, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{withdraws(3, web, five, Declared), "Waiting web ARP"},
			{says(4, db, five, ARP), "Waiting db ARP"},
			{decides(5, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(6, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
		}},
		{"an older sighting does not make an approval older", change, []step{
			{says(5, web, five, ARP), "Waiting web ARP"},
			{says(6, db, five, ARP), "Waiting db ARP"},
			{decides(8, EventApprove, db, five), "Bound db ARP, ConflictBegan Inside"},
			{decides(10, EventApprove, web, five), "Aside web ARP, ConflictChanged Inside"},
			{says(3, web, five, ARP), "Aside web ARP, ConflictChanged Inside"},
		}},
		{"those who waited for the same, by age", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{says(2, db, five, ARP), "Waiting db ARP"},
			{sets(4, mode(ModeObserved)), "Aside db ARP, Bound web ARP, ConflictBegan Inside"},
		}},
		{"an approval survives what makes its address unfit, but binds nothing", change, []step{
			{says(1, web, five, ARP), "Waiting web ARP"},
			{decides(2, EventApprove, web, five), "Bound web ARP"},
			{sets(3, Network{Mode: ModeApproved, Gateways: addrs(five)}), "Refused web Gateway, Unbound web ARP"},
			{says(4, web, five, Declared), "Refused web Gateway"},
			{source(says(5, web, five, Declared), "Multus"), "Refused web Gateway"},
			{says(6, web, five, Declared), ""},
			{withdraws(7, web, five, Declared), ""},
			{source(withdraws(8, web, five, Declared), "Multus"), ""},
			{sets(9, change), ""},
			{says(10, web, five, ARP), "Bound web ARP"},
		}},
		{"a NIC of another network", change, []step{
			{says(1, old, five, ARP), "Bound old ARP"},
			{says(2, web, five, ARP), "Waiting web ARP, ConflictBegan Inside"},
		}},
	})
}

func TestShared(t *testing.T) {
	shared := Network{Mode: ModeObserved, Shared: prefixes("10.0.0.96/28")}
	short := shared
	short.Expiry = 10 * time.Second
	waits := shared
	waits.Mode = ModeApproved
	runStories(t, []story{
		{"the last has it", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{says(3, web, vip, GuestAgent), "Aside web GuestAgent"}, // its list is no announcement
			{says(4, db, vip, ARP), ""},
			{says(5, web, vip, ARP), "Aside db ARP, Promoted web GuestAgent"},
			{outside(6, vip, 1), ""},
		}},
		{"who had it is forgotten after an hour", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{passes(3600), ""},
			{passes(3601), "Dropped web ARP"},
			{passes(1e9), ""},
		}},
		{"or with the network's expiry", short, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{passes(11), "Dropped web ARP"},
			{passes(12), "Unbound db ARP"},
		}},
		{"declarations first", shared, []step{
			{says(1, web, vip, Declared), "Bound web Declared"},
			{says(2, db, vip, ARP), "Aside db ARP"},
			{says(3, old, vip, ARP), "Aside old ARP"}, // b does not share it
		}},
		{"who is of a network that does not share it does not keep it", shared, []step{
			{says(1, old, vip, ARP), "Bound old ARP"},
			{says(2, web, vip, ARP), "Aside old ARP, Bound web ARP"},
			{says(3, old, vip, DHCP), "Aside old DHCP"},
			{says(4, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{says(5, web, vip, ARP), "Aside db ARP, Promoted web ARP"},
			{withdraws(6, web, vip, ARP), "Unbound web ARP, Promoted db ARP"},
			{withdraws(7, db, vip, ARP), "Unbound db ARP, Promoted old DHCP"},
			{says(8, web, vip, ARP), "Aside old DHCP, Bound web ARP"},
		}},
		{"unless it is declared there", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, old, vip, Declared), "Aside web ARP, Bound old Declared, ConflictBegan Inside"},
			{says(3, web, vip, Declared), "Aside web Declared, ConflictChanged Declared"},
			{withdraws(4, old, vip, Declared), "Unbound old Declared, Promoted web Declared, ConflictEnded Declared"},
		}},
		{"who waits has no say", waits, []step{
			{says(1, old, vip, ARP), "Bound old ARP"},
			{says(2, web, vip, ARP), "Waiting web ARP, ConflictBegan Inside"},
			{decides(3, EventApprove, web, vip), "Aside old ARP, Bound web ARP, ConflictEnded Inside"},
			{decides(4, EventDeny, web, vip), "Unbound web ARP, Promoted old ARP"},
		}},
		{"declared for both", shared, []step{
			{says(1, web, vip, Declared), "Bound web Declared"},
			{says(2, db, vip, Declared), "Aside db Declared"},
			{says(3, db, vip, ARP), "Aside web Declared, Promoted db Declared"},
			{says(4, web, vip, ARP), "Aside db Declared, Promoted web Declared"},
		}},
		{"whoever was denied it has no say", shared, []step{
			{says(1, old, vip, ARP), "Bound old ARP"},
			{decides(2, EventDeny, old, vip), "Unbound old ARP"},
			{says(3, web, vip, ARP), "Bound web ARP"},
			{says(4, db, vip, ARP), "Aside web ARP, Bound db ARP"},
		}},
		{"no more", shared, []step{
			{says(1, web, vip, ARP), "Bound web ARP"},
			{says(2, db, vip, ARP), "Aside web ARP, Bound db ARP"},
			{sets(3, mode(ModeObserved)), "Aside db ARP, Promoted web ARP, ConflictBegan Inside"},
			{passes(1e6), ""},
			{sets(1e6, shared), "Aside web ARP, Promoted db ARP, ConflictEnded Inside, Dropped web ARP"},
		}},
	})
}

// TestSharedNext: who is of a network that does not share an address is not the next to have it, though he was the last to announce it.
func TestSharedNext(t *testing.T) {
	b := newBook(t, Settings{Networks: map[string]Network{"a": {Mode: ModeObserved, Shared: prefixes(vip + "/32")}, "b": mode(ModeObserved)}})
	for _, e := range []Event{says(9, old, vip, ARP), says(2, web, vip, ARP), says(3, db, vip, ARP)} {
		b.Apply(e)
	}
	who := b.Who(someSegments[0], netip.MustParseAddr(vip))
	if !who.Shared || who.Holder == nil || who.Holder.NIC != db || len(who.Aside) != 2 || who.Aside[0].NIC != web || who.Aside[1].NIC != old {
		t.Errorf("%+v", who)
	}
}

func TestLowerLimit(t *testing.T) {
	runStories(t, []story{
		{"takes nothing away, nor new evidence for what is held", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, ARP), "Bound web ARP"},
			{sets(3, Network{Mode: ModeObserved, Limit: 1}), ""},
			{says(4, web, six, GuestAgent), "Bound web GuestAgent"},
			{withdraws(5, web, six, GuestAgent), "Bound web ARP"},
			{says(6, web, vip, ARP), "Refused web Limit"},
			{withdraws(7, web, six, ARP), "Unbound web ARP"},
			{says(8, web, six, ARP), "Refused web Limit"},
			{withdraws(9, web, five, ARP), "Unbound web ARP"},
			{says(10, web, six, ARP), "Bound web ARP"},
		}},
		{"room for one", Network{Mode: ModeObserved, Limit: 1}, []step{
			{says(1, web, five, Declared), "Bound web Declared"},
			{says(2, web, five, ARP), ""},
			{withdraws(3, web, five, Declared), "Bound web ARP"},
			{says(4, web, six, Declared), "Bound web Declared"},
			{says(5, web, six, ARP), ""},
			{withdraws(6, web, six, Declared), "Refused web Limit, Unbound web Declared"},
		}},
	})
}

func TestNetworkChanges(t *testing.T) {
	narrow := Network{Mode: ModeObserved, Subnets: prefixes("10.0.0.0/24"), Gateways: addrs(six)}
	runStories(t, []story{
		{"unfit becomes fit", narrow, []step{
			{says(1, web, six, Declared), "Refused web Gateway"},
			{says(2, web, six, Declared), ""},
			{says(3, db, six, ARP), "Refused db Gateway"},
			{sets(4, mode(ModeObserved)), "Bound web Declared"},
			{sets(5, narrow), "Refused web Gateway, Unbound web Declared"},
			{withdraws(6, web, six, Declared), ""},
		}},
		{"what was seen must be heard again", mode(ModeObserved), []step{
			{says(1, web, six, ARP), "Bound web ARP"},
			{sets(2, narrow), "Refused web Gateway, Unbound web ARP"},
			{sets(3, mode(ModeObserved)), ""},
			{says(4, web, six, ARP), "Bound web ARP"},
		}},
		{"an unfit declaration is in nobody's way", narrow, []step{
			{says(1, web, six, Declared), "Refused web Gateway"},
			{says(2, old, six, ARP), "Bound old ARP"},
		}},
		{"is gone, and comes back", mode(ModeObserved), []step{
			{says(1, web, five, ARP), "Bound web ARP"},
			{says(2, web, six, Declared), "Bound web Declared"},
			{Event{Kind: EventNetworkGone, At: second(3), Network: "a"}, "Refused web NetworkUnknown, Unbound web ARP, Refused web NetworkUnknown, Unbound web Declared"},
			{says(4, db, five, ARP), "Refused db NetworkUnknown"},
			{sets(5, mode(ModeObserved)), "Bound web Declared"},
		}},
		{"a bad one is not taken", mode(ModeObserved), []step{
			{sets(1, Network{Mode: "Lax"}), "Refused  Malformed"},
			{says(2, web, five, ARP), "Bound web ARP"},
		}},
	})
}
