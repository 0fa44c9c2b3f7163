package desired

import (
	"fmt"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
)

func (d *decoded) fail(path, message string) {
	d.problems = append(d.problems, Problem{Kind: d.Kind, Name: d.Name, Field: path, Message: message})
	d.value = nil
}

// failAll notes errors of an object that has rules, if any.
func (d *decoded) failAll(errs field.ErrorList, rules ...v1alpha1.FirewallRule) {
	for _, e := range errs {
		d.fail(e.Field, inRule(rules, e.Field)+e.ErrorBody())
	}
}

// inRule begins a message about a field of a rule, which people know by its ID.
func inRule(rules []v1alpha1.FirewallRule, field string) string {
	var i int
	if _, err := fmt.Sscanf(field, "spec.rules[%d]", &i); err != nil || i < 0 || i >= len(rules) || rules[i].ID == 0 {
		return ""
	}
	return fmt.Sprintf("rule %d: ", rules[i].ID)
}

// placement tells which objects of the cluster are for this node. Objects are
// placed in the order of kinds: trunks, networks, policies and the rest.
type placement struct {
	node       labels.Set                     // this node's labels
	namespaces []metav1.PartialObjectMetadata // of the cluster
	holders    []holder                       // of the cluster
	elsewhere  map[key]bool                   // objects that are in force on other nodes alone
	far        map[string]string              // the networks among those, and their trunks
	notices    []Problem                      // of what is taken: not as its author may think
}

// place adds an object to what is proposed for this node, unless it is for others.
func (p *placement) place(m *manifest, d decoded) {
	if d.value == nil {
		// What it means to this node is not known: what is in force stays.
		m.problems = append(m.problems, d.problems...)
		m.objects = append(m.objects, d.object)
		return
	}
	switch v := d.value.(type) {
	case Trunk:
		if !labels.SelectorFromSet(d.nodes).Matches(p.node) {
			p.elsewhere[d.key] = true
			return
		}
	case Network:
		if p.elsewhere[key{v1alpha1.KindVLANTrunk, v.Trunk}] {
			p.elsewhere[d.key] = true
			p.far[v.Name] = v.Trunk
			if o, ok := d.subnets(); ok {
				m.objects = append(m.objects, o)
			}
			return
		}
		names, err := p.selectNamespaces(d.namespaces)
		if err != nil {
			d.fail("spec.namespaces", err.Error())
			m.problems = append(m.problems, d.problems...)
			m.objects = append(m.objects, d.object)
			return
		}
		v.Namespaces = names
		d.value = v
	case Check:
		for _, n := range v.Networks {
			if p.elsewhere[key{v1alpha1.KindVLANNetwork, n}] {
				v.Far = append(v.Far, n)
			}
		}
		d.value = v
	case Policy:
		here := slices.DeleteFunc(slices.Clone(v.Networks), func(n string) bool {
			return p.elsewhere[key{v1alpha1.KindVLANNetwork, n}]
		})
		if len(here) == 0 {
			here = nil
		}
		all := v.Any()
		v.NICs = slices.DeleteFunc(slices.Clone(v.NICs), func(n NICs) bool {
			return p.elsewhere[key{v1alpha1.KindVLANNetwork, n.Network}]
		})
		if v.Networks = here; v.Any() && !all {
			return
		}
		var notices []Problem
		d.value, notices = putVMPeers(v, d.vms, p.holders)
		p.notices = append(p.notices, notices...)
	}
	m.objects = append(m.objects, d.object)
}

// selectNamespaces names the namespaces that a selector selects; nil is all.
func (p *placement) selectNamespaces(s *metav1.LabelSelector) ([]string, error) {
	if s == nil {
		return []string{}, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return nil, fmt.Errorf("is no label selector: %w", err)
	}
	if selector.Empty() {
		return nil, nil
	}
	names := []string{}
	for _, n := range p.namespaces {
		if selector.Matches(labels.Set(n.Labels)) {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}
