package hostfw

import (
	"errors"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

// Chains that see bridged frames are found as the kernel has them.
func TestHooked(t *testing.T) {
	needNFT(t)
	inNamespace(t, func() {
		h := NewHost()
		h.Root = fstest.MapFS{}
		look := func(what, bridge, device string) {
			t.Helper()
			got, err := h.Hooked()
			if err != nil || got.Bridge != bridge || got.At("lo") != device || (device == "") != (len(got.Devices) == 0) || got.At("l") != "" {
				t.Errorf("%s: found %+v, %v, want %q and %q", what, got, err, bridge, device)
			}
		}
		nft := func(script string) {
			t.Helper()
			if _, err := runNFT(script); err != nil {
				t.Errorf("nft: %v", err)
			}
		}
		look("nothing", "", "")
		nft("table bridge t { chain plain { drop; }; chain i { type filter hook input priority 0; }; }\ntable inet u { chain f { type filter hook forward priority 0; }; }")
		look("chains that see no bridged frames", "", "")
		nft("table netdev n { chain in { type filter hook ingress device lo priority 0; }; }")
		look("a device", "", "nftables' chain netdev n in")
		nft("delete table netdev n\ntable netdev n { chain in { type filter hook ingress devices = { lo } priority 0; }; }")
		look("devices", "", "nftables' chain netdev n in")
		nft("delete table netdev n\ntable inet n { chain in { type filter hook ingress device lo priority 0; }; }")
		look("of both families", "", "nftables' chain inet n in")
		nft("delete table inet n\ntable bridge t { chain f { type filter hook forward priority 0; }; }")
		look("a bridge's chain", "nftables' chain bridge t f", "")
		nft("delete table bridge t")
		look("gone", "", "")

		h.Root = fstest.MapFS{"sys/module/ebtable_filter/refcnt": {}}
		look("ebtables", "the legacy ebtables' table filter", "")
		h.Chains = func(uint8) ([]BaseChain, error) { return nil, errors.New("busy") }
		if _, err := h.Hooked(); err == nil {
			t.Error("that it cannot be told is not told")
		}
	})
}

// Names that only begin so are read however a kernel says them.
func TestChainOfPrefix(t *testing.T) {
	message := func(device ...byte) []byte {
		// NFTA_CHAIN_HOOK > NFTA_HOOK_DEVS > one
		return append([]byte{unix.NFPROTO_NETDEV, 0, 0, 0, byte(8 + len(device)), 0, 4, 0x80, byte(4 + len(device)), 0, 4, 0x80}, device...)
	}
	for _, m := range [][]byte{
		message(9, 0, 2, 0, 'v', 'e', 't', 'h', 0, 0, 0, 0), // NFTA_DEVICE_PREFIX
		message(8, 0, 1, 0, 'v', 'e', 't', 'h'),             // NFTA_DEVICE_NAME without its end
	} {
		c, ok := parseChain(m)
		h := Hooked{Devices: []BaseChain{c}}
		if !ok || h.At("veth0a") == "" || h.At("vet") != "" || h.At("eth0") != "" {
			t.Errorf("%v is read as %+v, %v", m, c, ok)
		}
	}
	if c, ok := parseChain(message(9, 0, 1, 0, 'v', 'e', 't', 'h', 0, 0, 0, 0)); !ok || len(c.Devices) != 1 || c.Devices[0] != "veth" {
		t.Errorf("a whole name is read as %+v", c)
	}
}

// A message of any content is read without harm.
func FuzzChain(f *testing.F) {
	f.Add([]byte{7, 0, 0, 0, 6, 0, 1, 0, 't', 0, 0, 0, 12, 0, 4, 128, 8, 0, 1, 0, 0, 0, 0, 2})
	f.Fuzz(func(t *testing.T, m []byte) {
		c, ok := parseChain(m)
		if !ok && (c.Hook != 0 || len(c.Devices) > 0) {
			t.Errorf("no base chain, and %+v", c)
		}
	})
}
