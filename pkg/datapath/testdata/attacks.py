"""Frames of a VM that attacks, and of one that does not, made by Scapy: what each is to be judged by, its name and its bytes.

The port has 02:00:00:00:00:01, 10.1.0.5 and fd00::5, in one VLAN, with all guards on. go generate writes attacks.tsv.
"""

from scapy.all import (
    ARP, BOOTP, DHCP, IP, LLC, STP, TCP, UDP, DHCP6_Advertise, DHCP6_Solicit, DHCP6OptClientId, DHCP6OptServerId, Dot1Q, Dot3, DUID_LL, Ether, ICMPv6EchoRequest,
    ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_Redirect, ICMPv6ND_RS, ICMPv6NDOptDstLLAddr, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr,
    IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN, fragment6, raw)

ME, THIEF, ALL, PEER = "02:00:00:00:00:01", "02:00:00:00:00:07", "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:02"
ALL6, ROUTERS6, AGENTS6 = "33:33:00:00:00:01", "33:33:00:00:00:02", "33:33:00:01:00:02"
VM4, VM6, LINK6 = "10.1.0.5", "fd00::5", "fe80::5"
OTHER4, OTHER6 = "192.0.2.7", "2001:db8:2::7"


def ether(dst=PEER, src=ME):
    return Ether(src=src, dst=dst)


def pieces(packet, size):
    return fragment6(packet, size)


advert = ICMPv6ND_RA(chlim=64, routerlifetime=1800) / ICMPv6NDOptPrefixInfo(prefix="fd66::", prefixlen=64) / ICMPv6NDOptSrcLLAddr(lladdr=ME)
link = IPv6(src=LINK6, dst="ff02::1", hlim=255)
pad = PadN(optdata=b"\0" * 4)
split = pieces(ether(ALL6) / link / IPv6ExtHdrFragment(id=7) / ICMPv6ND_RA(routerlifetime=1800) / ICMPv6NDOptPrefixInfo(prefix="fd66::") / (b"\0" * 128), 120)
behind = pieces(ether(ALL6) / link / IPv6ExtHdrFragment(id=8) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0" * 62)]) / advert, 120)
server4 = BOOTP(op=2, yiaddr="10.1.0.66", siaddr=VM4, chaddr=bytes.fromhex("020000000009"), xid=7)
client4 = BOOTP(op=1, chaddr=bytes.fromhex("020000000001"), xid=7)

FRAMES = [
    ("DefaultAllow", "its own packet", ether() / IP(src=VM4, dst=OTHER4) / UDP(sport=5, dport=53) / b"x"),
    ("DefaultAllow", "its own packet, IPv6", ether() / IPv6(src=VM6, dst=OTHER6) / UDP(sport=5, dport=53) / b"x"),
    ("DefaultAllow", "DHCP, as a client", ether(ALL) / IP(src="0.0.0.0", dst="255.255.255.255") / UDP(sport=68, dport=67) / client4 / DHCP(options=[("message-type", "discover"), "end"])),
    ("DefaultAllow", "DHCPv6, as a client", ether(AGENTS6) / IPv6(src=LINK6, dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(trid=7) / DHCP6OptClientId(duid=DUID_LL(lladdr=ME))),
    ("ARP", "ARP, its own", ether(ALL) / ARP(op="who-has", hwsrc=ME, psrc=VM4, pdst=OTHER4)),
    ("ARP", "ARP, a probe", ether(ALL) / ARP(op="who-has", hwsrc=ME, psrc="0.0.0.0", pdst="10.1.0.9")),
    ("ND", "neighbour discovery, its own", ether("33:33:ff:00:00:07") / IPv6(src=VM6, dst="ff02::1:ff00:7", hlim=255) / ICMPv6ND_NS(tgt=OTHER6) / ICMPv6NDOptSrcLLAddr(lladdr=ME)),
    ("ND", "router solicitation", ether(ROUTERS6) / IPv6(src=LINK6, dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=ME)),
    ("MACSpoof", "another's MAC", ether(src=THIEF) / IP(src=VM4, dst=OTHER4) / UDP(sport=5, dport=53)),
    ("GuestTag", "one tag at an access port", ether() / Dot1Q(vlan=200) / IP(src=VM4, dst=OTHER4) / UDP(sport=5, dport=53)),
    ("GuestTag", "two tags", ether() / Dot1Q(vlan=100) / Dot1Q(vlan=200) / IP(src=VM4, dst=OTHER4) / UDP(sport=5, dport=53)),
    ("IPGuard", "another's IP", ether() / IP(src=OTHER4, dst=VM4) / TCP(sport=5, dport=80, flags="S")),
    ("IPGuard", "another's IPv6", ether() / IPv6(src=OTHER6, dst=VM6) / ICMPv6EchoRequest()),
    ("ARPGuard", "poison for a neighbour", ether() / ARP(op="is-at", hwsrc=ME, psrc=OTHER4, hwdst=PEER, pdst="10.1.0.9")),
    ("ARPGuard", "gratuitous theft", ether(ALL) / ARP(op="who-has", hwsrc=ME, psrc=OTHER4, pdst=OTHER4)),
    ("ARPGuard", "another's MAC inside", ether(ALL) / ARP(op="is-at", hwsrc=THIEF, psrc=VM4, pdst=VM4)),
    ("NDGuard", "theft by an unasked advertisement", ether(ALL6) / IPv6(src=VM6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(R=0, S=0, O=1, tgt=OTHER6) / ICMPv6NDOptDstLLAddr(lladdr=ME)),
    ("NDGuard", "its own, at another's MAC", ether(ALL6) / IPv6(src=VM6, dst="ff02::1", hlim=255) / ICMPv6ND_NA(R=0, S=0, O=1, tgt=VM6) / ICMPv6NDOptDstLLAddr(lladdr=THIEF)),
    ("RAGuard", "router advertisement", ether(ALL6) / link / advert),
    ("RAGuard", "redirect", ether() / IPv6(src=LINK6, dst=OTHER6, hlim=255) / ICMPv6ND_Redirect(tgt=VM6, dst=OTHER6)),
    ("RAGuard", "router advertisement behind extension headers", ether(ALL6) / link / IPv6ExtHdrHopByHop(options=[pad]) / IPv6ExtHdrDestOpt(options=[pad]) / advert),
    ("RAGuard", "router advertisement, the first fragment", split[0]),
    ("Malformed", "router advertisement, whose head is in the second fragment", behind[0]),
    ("DHCPServerGuard", "DHCP offer", ether(ALL) / IP(src=VM4, dst="255.255.255.255") / UDP(sport=67, dport=68) / server4 / DHCP(options=[("message-type", "offer"), ("server_id", VM4), "end"])),
    ("DHCPServerGuard", "DHCPv6 advertise", ether() / IPv6(src=LINK6, dst="fe80::9") / UDP(sport=547, dport=546) / DHCP6_Advertise(trid=7) / DHCP6OptServerId(duid=DUID_LL(lladdr=ME))),
    ("BPDUGuard", "spanning tree", Dot3(src=ME, dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / STP(rootid=0, bridgeid=0, rootmac=ME, bridgemac=ME)),
    ("EtherTypeGuard", "an EtherType that is not allowed", Ether(src=ME, dst=PEER, type=0x88B5) / (b"\0" * 46)),
]

for reason, name, frame in FRAMES:
    print(reason, name, raw(frame).hex(), sep="\t")
