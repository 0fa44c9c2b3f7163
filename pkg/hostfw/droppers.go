package hostfw

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/homeport-cni/homeport/pkg/report"
)

// nftables has any number of base chains at a hook, and a frame passes only if
// all of them let it: what iptables' chain accepts, another can still drop. That
// cannot be overridden by us, only found and told.

// ErrNoNFT is that nobody can look.
var ErrNoNFT = errors.New("base chains of nftables beside iptables' own were not looked at: there is no nft on this node (Debian: apt-get install nftables)")

// runNFT runs nft.
func runNFT(args ...string) (string, error) {
	path, err := exec.LookPath("nft")
	if err != nil {
		return "", err
	}
	return run(path, "", args...)
}

// nftObject is one of what "nft -j" lists.
type nftObject struct {
	Chain *nftChain `json:"chain"`
	Rule  *struct {
		Chain string            `json:"chain"`
		Expr  []json.RawMessage `json:"expr"`
	} `json:"rule"`
}

type nftChain struct {
	Family string `json:"family"`
	Table  string `json:"table"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Hook   string `json:"hook"`
	Prio   int    `json:"prio"`
	Policy string `json:"policy"`
}

func (c nftChain) String() string {
	return fmt.Sprintf("%s %s %s (hook %s, priority %d)", c.Family, c.Table, c.Name, c.Hook, c.Prio)
}

// meets says whether bridged frames of these families come by a base chain, other
// than those that our own chains are in. What is in no connection tracking, or is
// not rewritten, is not for chains of type nat.
func (c nftChain) meets(families []Family) bool {
	if !slices.Contains([]string{"prerouting", "forward", "postrouting"}, c.Hook) || c.Type == "nat" {
		return false
	}
	ip := c.Family == "ip" && slices.Contains(families, IPv4) || c.Family == "ip6" && slices.Contains(families, IPv6)
	if ip && (c.Table == "filter" && c.Name == "FORWARD" || c.Table == "raw" && c.Name == "PREROUTING") {
		return false
	}
	return ip || c.Family == "inet" && len(families) > 0 || c.Family == "bridge"
}

// Droppers names the base chains of nftables that can drop bridged frames of
// these families and bridges, whatever iptables' chains say. Untracked says that
// the frames are in no connection tracking. Rules were read, not tried: such a
// chain may never drop a VM's frame.
func (h Host) Droppers(families []Family, bridges []string, untracked bool) ([]string, error) {
	chains, err := h.listNFT("list", "chains")
	if errors.Is(err, exec.ErrNotFound) {
		return nil, ErrNoNFT
	}
	if err != nil {
		return nil, fmt.Errorf("list the base chains of nftables: %w", err)
	}
	var found []string
	tables := map[string][]nftObject{}
	for _, o := range chains {
		if o.Chain == nil || !o.Chain.meets(families) {
			continue
		}
		c := *o.Chain
		if c.Policy == "drop" {
			found = append(found, c.String()+" has the policy drop")
			continue
		}
		at := c.Family + " " + c.Table
		if tables[at] == nil {
			// Without the elements of sets, of which there can be very many.
			if tables[at], err = h.listNFT("-t", "list", "table", c.Family, c.Table); err != nil {
				return found, fmt.Errorf("list table %s of nftables: %w", at, err)
			}
		}
		w := walk{table: tables[at], seen: map[string]bool{}, untracked: untracked}
		if c.Family != "bridge" { // there, interfaces are ports
			w.bridges = bridges
		}
		if w.drops(c.Name) {
			found = append(found, c.String()+" has rules that drop")
		}
	}
	return found, nil
}

func (h Host) listNFT(args ...string) ([]nftObject, error) {
	text, err := h.NFT(append([]string{"-j"}, args...)...)
	if err != nil {
		return nil, err
	}
	var out struct {
		Objects []nftObject `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return nil, fmt.Errorf("nft %s: %w", strings.Join(args, " "), err)
	}
	return out.Objects, nil
}

// walk looks for a verdict that drops among the rules that frames can meet.
type walk struct {
	table     []nftObject
	seen      map[string]bool
	bridges   []string // nil is any interface
	untracked bool
}

func (w *walk) drops(chain string) bool {
	if w.seen[chain] {
		return false
	}
	w.seen[chain] = true
	for _, o := range w.table {
		if o.Rule == nil || o.Rule.Chain != chain {
			continue
		}
		if slices.ContainsFunc(o.Rule.Expr, w.excludes) {
			continue
		}
		for _, e := range o.Rule.Expr {
			var v any
			if json.Unmarshal(e, &v) == nil && w.verdict(v) {
				return true
			}
		}
	}
	return false
}

// verdict looks for drop and reject in an expression, also within a verdict map,
// and follows where it leads.
func (w *walk) verdict(v any) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, w.verdict)
	case map[string]any:
		for key, inner := range v {
			switch key {
			case "drop", "reject":
				return true
			case "jump", "goto":
				to, _ := inner.(map[string]any)
				target, _ := to["target"].(string)
				if w.drops(target) {
					return true
				}
			default:
				if w.verdict(inner) {
					return true
				}
			}
		}
	}
	return false
}

// excludes says that an expression matches no frame of the bridges: it wants
// another interface, or a state of a connection that untracked frames have not.
func (w *walk) excludes(expr json.RawMessage) bool {
	var e struct {
		Match *struct {
			Op   string `json:"op"`
			Left struct {
				Meta *struct{ Key string } `json:"meta"`
				CT   *struct{ Key string } `json:"ct"`
			} `json:"left"`
			Right any `json:"right"`
		} `json:"match"`
	}
	if json.Unmarshal(expr, &e) != nil || e.Match == nil || e.Match.Op != "==" && e.Match.Op != "in" {
		return false
	}
	words := words(e.Match.Right)
	if len(words) == 0 {
		return false
	}
	left := e.Match.Left
	switch {
	case left.CT != nil && left.CT.Key == "state":
		return w.untracked && !slices.Contains(words, "untracked")
	case left.Meta != nil && slices.Contains([]string{"iifname", "oifname", "iif", "oif"}, left.Meta.Key) && w.bridges != nil:
		return !slices.ContainsFunc(words, func(name string) bool {
			prefix, wild := strings.CutSuffix(name, "*")
			return slices.ContainsFunc(w.bridges, func(br string) bool { return br == name || wild && strings.HasPrefix(br, prefix) })
		})
	}
	return false
}

// words are the values of the right side of a match, if they are texts.
func words(v any) []string {
	switch v := v.(type) {
	case string:
		if strings.HasPrefix(v, "@") { // a named set
			return nil
		}
		return []string{v}
	case []any:
		var out []string
		for _, one := range v {
			w := words(one)
			if w == nil {
				return nil
			}
			out = append(out, w...)
		}
		return out
	case map[string]any:
		return words(v["set"])
	}
	return nil
}

// Reached are the families whose frames get to the host's filter.
func (n Netfilter) Reached() []Family {
	var out []Family
	for _, f := range []Family{IPv4, IPv6} {
		if n.Reaches(f) {
			out = append(out, f)
		}
	}
	return out
}

// droppersCheck asks what no rule of iptables can make good.
func (h Host) droppersCheck(n Netfilter, err error, bridges []string) report.Check {
	c := report.Check{Name: "no other chain of nftables drops bridged frames", Answer: report.Yes, Detail: "none was found"}
	if err != nil {
		c.Answer, c.Detail = report.Unknown, "not known whether bridged frames reach them: "+err.Error()
		return c
	}
	found, err := h.Droppers(n.Reached(), bridges, false)
	switch {
	case len(found) > 0:
		c.Answer, c.Detail = report.No, strings.Join(found, "; ")
		c.Needs = "that they let the bridges' frames pass"
		c.Remedy = DropperRemedy
	case err != nil && len(n.Reached()) > 0:
		c.Answer, c.Detail = report.Unknown, err.Error()
		c.Remedy = "look by hand: nft list ruleset"
	case err != nil:
		c.Detail = "bridged frames do not reach them; " + err.Error()
	}
	return c
}

// DropperRemedy is what to do about chains that [Host.Droppers] names.
const DropperRemedy = "an accept elsewhere does not override them: have the program that made them let these bridges pass" +
	" (firewalld: firewall-cmd --permanent --zone=trusted --add-interface=BRIDGE), or take them out; see nft list ruleset"
