package datapath

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
)

// readNames learns the policy numbers given out earlier.
func (d *Datapath) readNames() error {
	d.names = map[string]uint32{}
	var number uint32
	var name portHpPolicyName
	it := d.maps[portMapPolicyNames].Iterate()
	for it.Next(&number, &name) {
		network, _, _ := bytes.Cut(name.Network[:], []byte{0})
		d.names[string(network)] = number
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read policy numbers: %w", err)
	}
	return nil
}

// policyNumber gives the network's number, a new one if it has none; mu is held.
// Packets of a number without a program are dropped as NoProgram.
func (d *Datapath) policyNumber(network string) (uint32, error) {
	if number, ok := d.names[network]; ok {
		return number, nil
	}
	if len(network) >= nameMax {
		return 0, fmt.Errorf("network %q: the name is longer than %d bytes", network, nameMax-1)
	}
	used := [PoliciesMax]bool{}
	for _, number := range d.names {
		used[number%PoliciesMax] = true
	}
	for number, taken := range used {
		if taken {
			continue
		}
		var name portHpPolicyName
		copy(name.Network[:], network)
		if err := d.maps[portMapPolicyNames].Put(uint32(number), name); err != nil {
			return 0, fmt.Errorf("give network %q a policy number: %w", network, err)
		}
		d.names[network] = uint32(number)
		return uint32(number), nil
	}
	return 0, fmt.Errorf("network %q: all %d policy numbers of the node are in use", network, PoliciesMax)
}

// networkOf is the network that has the number; "" also if none has.
func (d *Datapath) networkOf(number uint32) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for network, n := range d.names {
		if n == number {
			return network
		}
	}
	return ""
}

// dropNames frees the numbers of networks that no side holds a program of and no
// port uses. It runs under syncing.
func (d *Datapath) dropNames() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := map[uint32]bool{}
	for _, rec := range d.ports.records() {
		used[rec.Policy] = true
	}
	for network, number := range d.names {
		_, even := d.sides[0].programs[number*2]
		_, odd := d.sides[1].programs[number*2+1]
		if used[number] || even || odd {
			continue
		}
		if err := d.maps[portMapPolicyNames].Delete(number); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("free the policy number of network %q: %w", network, err)
		}
		delete(d.names, network)
	}
	return nil
}
