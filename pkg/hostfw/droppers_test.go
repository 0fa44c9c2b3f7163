package hostfw

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/homeport-cni/homeport/pkg/report"
)

// fakeNFT lists one table, inet t, with a base chain "base" at hook forward and
// with these rules, each in a chain, as nft prints them.
func fakeNFT(tb testing.TB, base string, rules ...string) func(...string) (string, error) {
	return func(args ...string) (string, error) {
		switch line := strings.Join(args, " "); line {
		case "-j list chains":
			return `{"nftables": [{"metainfo": {"version": "1.0.6"}}, {"chain": ` + base + `}, {"chain": {"family": "inet", "table": "t", "name": "sub"}}]}`, nil
		case "-j -t list table inet t", "-j -t list table bridge t", "-j -t list table ip mangle":
			var b strings.Builder
			for _, r := range rules {
				chain, expr, _ := strings.Cut(r, " ")
				fmt.Fprintf(&b, `, {"rule": {"family": "inet", "table": "t", "chain": %q, "expr": [%s]}}`, chain, expr)
			}
			return `{"nftables": [{"table": {"family": "inet", "name": "t"}}` + b.String() + `]}`, nil
		default:
			tb.Errorf("nft %s: not expected", line)
			return "", errors.New("not expected")
		}
	}
}

func chain(family, table, name, hook, policy string) string {
	return fmt.Sprintf(`{"family": %q, "table": %q, "name": %q, "type": "filter", "hook": %q, "prio": 10, "policy": %q}`, family, table, name, hook, policy)
}

func TestDroppers(t *testing.T) {
	forwardBase := chain("inet", "t", "base", "forward", "accept")
	const rules = "inet t base (hook forward, priority 10) has rules that drop"
	ifname := func(key, right string) string {
		return fmt.Sprintf(`{"match": {"op": "==", "left": {"meta": {"key": %q}}, "right": %s}}`, key, right)
	}
	state := func(right string) string {
		return `{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ` + right + `}}`
	}
	for name, tt := range map[string]struct {
		base  string
		rules []string
		want  string
	}{
		"policy":              {chain("inet", "t", "base", "forward", "drop"), nil, "inet t base (hook forward, priority 10) has the policy drop"},
		"no rule":             {forwardBase, nil, ""},
		"drop":                {forwardBase, []string{`base {"drop": null}`}, rules},
		"reject":              {forwardBase, []string{`base {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}`}, rules},
		"accept":              {forwardBase, []string{`base {"counter": {"packets": 0, "bytes": 0}}, {"accept": null}`}, ""},
		"in a chain of it":    {forwardBase, []string{`base {"jump": {"target": "sub"}}`, `sub {"drop": null}`}, rules},
		"not led to":          {forwardBase, []string{`base {"accept": null}`, `sub {"drop": null}`}, ""},
		"in a circle":         {forwardBase, []string{`base {"goto": {"target": "sub"}}`, `sub {"jump": {"target": "base"}}`}, ""},
		"in a map":            {forwardBase, []string{`base {"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": {"set": [["tcp", {"accept": null}], ["udp", {"drop": null}]]}}}`}, rules},
		"other interface":     {forwardBase, []string{`base ` + ifname("iifname", `"eth0"`) + `, {"drop": null}`}, ""},
		"other interfaces":    {forwardBase, []string{`base ` + ifname("oifname", `{"set": ["eth0", "cali*"]}`) + `, {"drop": null}`}, ""},
		"our interface":       {forwardBase, []string{`base ` + ifname("iifname", `{"set": ["eth0", "br-phys"]}`) + `, {"drop": null}`}, rules},
		"our interfaces":      {forwardBase, []string{`base ` + ifname("iifname", `"br-*"`) + `, {"drop": null}`}, rules},
		"interfaces of a set": {forwardBase, []string{`base ` + ifname("iifname", `"@outside"`) + `, {"drop": null}`}, rules},
		"state new":           {forwardBase, []string{`base ` + state(`["new", "invalid"]`) + `, {"drop": null}`}, ""},
		"state untracked":     {forwardBase, []string{`base ` + state(`["new", "untracked"]`) + `, {"drop": null}`}, rules},
		"bridge family":       {chain("bridge", "t", "base", "forward", "accept"), []string{`base ` + ifname("iifname", `"veth1"`) + `, {"drop": null}`}, "bridge t base (hook forward, priority 10) has rules that drop"},
		"input":               {chain("inet", "t", "base", "input", "drop"), nil, ""},
		"our FORWARD":         {chain("ip", "filter", "FORWARD", "forward", "drop"), nil, ""},
		"mangle":              {chain("ip", "mangle", "PREROUTING", "prerouting", "accept"), []string{`PREROUTING {"drop": null}`}, "ip mangle PREROUTING (hook prerouting, priority 10) has rules that drop"},
		"family not reached":  {chain("ip6", "t", "base", "forward", "drop"), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := Host{NFT: fakeNFT(t, tt.base, tt.rules...)}
			got, err := h.Droppers([]Family{IPv4}, []string{"br-phys"}, true)
			if d := cmp.Diff(tt.want, strings.Join(got, "; ")); d != "" || err != nil {
				t.Errorf("%v; -want +got:\n%s", err, d)
			}
		})
	}
	h := Host{NFT: fakeNFT(t, forwardBase, "base "+state(`"new"`)+`, {"drop": null}`)}
	if got, err := h.Droppers([]Family{IPv4}, nil, false); err != nil || len(got) != 1 {
		t.Errorf("tracked frames have states: %q, %v", got, err)
	}
}

func TestDroppersUnknown(t *testing.T) {
	if _, err := (Host{NFT: noNFT}).Droppers([]Family{IPv4}, nil, true); err == nil || !strings.Contains(err.Error(), "were not looked at") {
		t.Errorf("%v", err)
	}
	for _, text := range []string{"", "{", `{"nftables": 1}`} {
		h := Host{NFT: func(...string) (string, error) { return text, nil }}
		if _, err := h.Droppers([]Family{IPv4}, nil, true); err == nil {
			t.Errorf("%q was taken for a listing", text)
		}
	}
}

func TestDroppersCheck(t *testing.T) {
	const name = "no other chain"
	on := loaded(map[string]string{sysctls + "call-iptables": "1\n"})
	h := newHost(t, on, chains{})
	h.NFT = fakeNFT(t, chain("inet", "t", "base", "forward", "drop"))
	if c := find(t, h.Checks(nil), name); c.Answer != report.No || !strings.Contains(c.Detail, "inet t base") || !strings.Contains(c.Remedy, "does not override") {
		t.Errorf("%+v", c)
	}
	h.NFT = noNFT
	if c := find(t, h.Checks(nil), name); c.Answer != report.Unknown || c.Remedy == "" {
		t.Errorf("%+v", c)
	}
	h = newHost(t, healthy(nil), chains{})
	h.NFT = noNFT
	if c := find(t, h.Checks(nil), name); c.Answer != report.Yes || !strings.Contains(c.Detail, "do not reach") {
		t.Errorf("%+v", c)
	}
	h = newHost(t, healthy(map[string]string{"sys/module/br_netfilter/refcnt": "0"}), chains{})
	if c := find(t, h.Checks(nil), name); c.Answer != report.Unknown {
		t.Errorf("%+v", c)
	}
}

func needNFT(t *testing.T) {
	t.Helper()
	if _, err := (Host{NFT: runNFT}).Droppers(nil, nil, true); errors.Is(err, ErrNoNFT) {
		t.Skip("this machine has no nft")
	}
}

// The real nft lists in the form that is read here.
func TestRealNFT(t *testing.T) {
	needNFT(t)
	h := Host{NFT: runNFT}
	inNamespace(t, func() {
		if _, err := runNFT("add table inet t; add chain inet t sub; add chain inet t base { type filter hook forward priority 10; }; add rule inet t base iifname lo drop; add rule inet t base ct state invalid drop; add rule inet t base jump sub; add rule inet t sub ip saddr 192.0.2.0/24 reject"); err != nil {
			t.Errorf("nft: %v", err)
			return
		}
		got, err := h.Droppers([]Family{IPv4}, []string{"br-phys"}, true)
		if want := []string{"inet t base (hook forward, priority 10) has rules that drop"}; err != nil || cmp.Diff(want, got) != "" {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := runNFT("flush chain inet t sub"); err != nil {
			t.Errorf("nft: %v", err)
		}
		if got, err := h.Droppers([]Family{IPv4}, []string{"br-phys"}, true); err != nil || len(got) > 0 {
			t.Errorf("what no frame of ours can meet: %q, %v", got, err)
		}
	})
}
