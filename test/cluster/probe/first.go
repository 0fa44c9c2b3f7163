package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/vishvananda/netlink"
)

const (
	again   = 40 * time.Millisecond // between attempts to connect
	goesOut = time.Second           // an attempt ends: before its second SYN
)

// first gives the NIC one more address, which nobody has heard of, and connects from it until each of the ports of
// a host has answered. It gives the milliseconds of each from the first attempt on, which has to ask by ARP
// for the host. The address is gone afterwards.
func first(nic, addr, to string, ports []string) (any, error) {
	link, err := netlink.LinkByName(nic)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", nic, err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrAdd(link, a); err != nil {
		return nil, err
	}
	known, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	for _, n := range known {
		if n.IP.String() == to {
			err = errors.Join(err, netlink.NeighDel(&n))
		}
	}
	if err != nil {
		return nil, errors.Join(err, netlink.AddrDel(link, a))
	}
	type answered struct {
		port string
		ms   int64
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	took := make(chan answered, len(ports))
	began := time.Now()
	for _, port := range ports {
		go func() { took <- answered{port, connects(ctx, a.IP, net.JoinHostPort(to, port), began)} }()
	}
	out := map[string]int64{}
	for range ports {
		if x := <-took; x.ms > 0 {
			out[x.port] = x.ms
		}
	}
	return out, netlink.AddrDel(link, a)
}

// connects gives the milliseconds since began at which a connection was made; 0 is never.
func connects(ctx context.Context, from net.IP, to string, began time.Time) int64 {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	made := make(chan int64)
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: goesOut}
	for {
		go func() {
			conn, err := d.DialContext(ctx, "tcp", to)
			if err != nil {
				return
			}
			conn.Close()
			select {
			case made <- max(1, time.Since(began).Milliseconds()):
			case <-ctx.Done():
			}
		}()
		select {
		case ms := <-made:
			return ms
		case <-ctx.Done():
			return 0
		case <-time.After(again):
		}
	}
}
