package bundle

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/homeport-cni/homeport/pkg/bridge"
	"github.com/homeport-cni/homeport/pkg/datapath"
)

// Network is what a bundle reads of the kernel; *bridge.Net is one.
type Network interface {
	Links() ([]bridge.Link, error)
	Observe(bridge string, also ...bridge.Ref) (bridge.Observed, error)
	FDB(bridge.Ref) ([]bridge.FDBEntry, error)
}

// Network adds links, and of each bridge its ports' VLANs and what it has learned.
func (w *Writer) Network(n Network) {
	links, err := n.Links()
	if err != nil {
		w.Missing("network", err)
		return
	}
	names := map[int]string{}
	for _, l := range links {
		names[l.Index] = l.Name
	}
	w.Add("network/links.txt", linkTable(links, names))
	var vlans, learned strings.Builder
	for _, l := range links {
		if l.Bridge == nil {
			continue
		}
		fmt.Fprintf(&vlans, "== %s filtering %v default_pvid %d stp %v mcast_snooping %v\n", l.Name,
			l.Bridge.VLANFiltering, l.Bridge.DefaultPVID, l.Bridge.STP, l.Bridge.McastSnooping)
		if o, err := n.Observe(l.Name); err != nil {
			w.Missing("network/vlans.txt", err)
		} else {
			vlanTable(&vlans, o)
		}
		fmt.Fprintf(&learned, "== %s\n", l.Name)
		entries, err := n.FDB(l.Ref())
		if err != nil {
			w.Missing("network/fdb.txt", err)
		}
		for _, e := range entries {
			fmt.Fprintf(&learned, "%s\tvlan %d\t%s\tlocal %v\n", e.MAC, e.VLAN, names[e.Port], e.Local)
		}
	}
	w.Add("network/vlans.txt", []byte(vlans.String()))
	w.Add("network/fdb.txt", []byte(learned.String()))
}

func linkTable(links []bridge.Link, names map[int]string) []byte {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "INDEX\tNAME\tKIND\tMAC\tMTU\tUP\tRUNNING\tMASTER\tLOWER\tALIAS")
	for _, l := range links {
		master := names[l.Master]
		if master == "" {
			master = "-"
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%d\t%v\t%v\t%s\t%d\t%q\n", l.Index, l.Name, l.Kind, l.MAC, l.MTU, l.Up, l.Running, master, l.Lower, l.Alias)
	}
	t.Flush() // to memory
	return []byte(b.String())
}

func vlanTable(b *strings.Builder, o bridge.Observed) {
	t := tabwriter.NewWriter(b, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "%s\t(itself)\t%s\n", o.Bridge.Name, o.Self)
	for _, p := range o.SortedPorts() {
		fmt.Fprintf(t, "%s\t%s\t%s\t%+v\n", p.Name, p.State, p.VLANs, p.Flags)
	}
	t.Flush() // to memory
}

// Pins adds what the pinned maps below a BPF file system say. Compiled rules are
// in maps of maps, which only CAP_SYS_ADMIN opens.
func (w *Writer) Pins(bpffs string) {
	d, err := datapath.ReadPins(bpffs)
	if err != nil {
		w.Missing("maps", err)
		return
	}
	for _, p := range d.Problems {
		w.Missing("maps", errors.New(p))
	}
	rules := d.Rules
	d.Rules = nil
	w.Try("maps/state.json", func() ([]byte, error) { return json.MarshalIndent(d, "", "  ") })
	slices.SortFunc(rules, func(a, b datapath.RuleMap) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range rules {
		w.Add("maps/"+r.Name, r.Content)
	}
}
