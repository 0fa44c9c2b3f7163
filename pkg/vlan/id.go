// Package vlan has the VLAN numbers of IEEE 802.1Q as values: one ID, a Set of
// them, and the Mode in which a port carries them. It is a leaf: it imports
// nothing of this module, and nothing in it touches the kernel.
package vlan

import (
	"fmt"
	"strconv"
)

// The VLAN numbers that frames may carry. 0 means "priority tag only" and 4095
// is reserved (IEEE 802.1Q-2022, table 9-2).
const (
	Min ID = 1
	Max ID = 4094
)

// ID is one VLAN, Min to Max. The zero value means "none" where a field says so.
type ID uint16

// Validate says whether the ID may be on the wire; 0 and 4095 may not.
func (id ID) Validate() error {
	if id < Min || id > Max {
		return fmt.Errorf("VLAN %d is out of range: want %d-%d", uint16(id), Min, Max)
	}
	return nil
}

// ParseID reads a decimal VLAN number. It refuses signs, spaces, leading zeros
// (which some tools would read as octal) and everything outside Min to Max.
func ParseID(s string) (ID, error) {
	n, err := parseNumber(s)
	if err != nil {
		return 0, err
	}
	if n < int(Min) || n > int(Max) {
		return 0, fmt.Errorf("VLAN %s is out of range: want %d-%d", s, Min, Max)
	}
	return ID(n), nil
}

// parseNumber reads plain decimal digits. A number too big for any VLAN is
// returned as one that is merely out of range.
func parseNumber(s string) (int, error) {
	if s == "" {
		return 0, fmt.Errorf("VLAN is empty: want a number %d-%d", Min, Max)
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("VLAN %q is not a number: want %d-%d", s, Min, Max)
		}
	}
	if len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("VLAN %q has a leading zero: want a plain decimal number %d-%d", s, Min, Max)
	}
	n, err := strconv.Atoi(s)
	if err != nil { // digits only, so the one possible error is the range
		return int(Max) + 1, nil
	}
	return n, nil
}
