package vlan

import (
	"fmt"
	"strings"
)

// Mode is how a port carries VLANs. The values are those of enum hp_vlan_mode
// in bpf/include/abi.h.
type Mode uint8

// The modes.
const (
	// Access gives the guest one VLAN, untagged.
	Access Mode = 0
	// Trunk gives the guest a set that it tags itself; untagged is refused.
	Trunk Mode = 1
	// Native is Trunk with one more VLAN for untagged frames.
	Native Mode = 2
)

// String gives the name that manifests and JSON use.
func (m Mode) String() string {
	switch m {
	case Access:
		return "Access"
	case Trunk:
		return "Trunk"
	case Native:
		return "Native"
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// ParseMode reads a name that String gives. The case matters, as it does for
// every other enumeration in a manifest; the error names the right spelling.
func ParseMode(s string) (Mode, error) {
	for _, m := range []Mode{Access, Trunk, Native} {
		switch {
		case s == m.String():
			return m, nil
		case strings.EqualFold(s, m.String()):
			return 0, fmt.Errorf("VLAN mode %q is written differently: want %q", s, m)
		}
	}
	return 0, fmt.Errorf("VLAN mode %q is unknown: want Access, Trunk or Native", s)
}

// MarshalText implements encoding.TextMarshaler; it refuses a mode without a name.
func (m Mode) MarshalText() ([]byte, error) {
	if m > Native {
		return nil, fmt.Errorf("VLAN mode %d is unknown: want Access, Trunk or Native", uint8(m))
	}
	return []byte(m.String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler by ParseMode.
func (m *Mode) UnmarshalText(text []byte) error {
	v, err := ParseMode(string(text))
	if err != nil {
		return err
	}
	*m = v
	return nil
}
