package desired

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Policies of kinds that others bring are added here to what is proposed.

var errKindGone = errors.New("the cluster does not have the kind any more: apply its CRD again, or delete the policies before it")

// lookAtPodPolicies adds the MultiNetworkPolicies to what is proposed, and tells of
// what they allow less than their authors may think. While they cannot be read, or
// the cluster does not have the kind any more, those in force stay.
func (k *Kube) lookAtPodPolicies(m *manifest, p *placement) (notices []Problem) {
	around := surroundings{namespaces: p.namespaces, holders: p.holders, attachments: map[string]attachment{}, objects: m.objects}
	if k.last != nil {
		around.last = k.last.PodPolicies
	}
	nads, _ := k.attachments.list() // those that are missing are told one by one
	for i := range nads {
		config, _, _ := unstructured.NestedString(nads[i].Object, "spec", "config")
		around.attachments[nads[i].GetNamespace()+"/"+nads[i].GetName()] = readAttachment(config)
	}
	items, err := k.podPolicies.list()
	if err == nil && !k.podPolicies.found() && len(around.last) > 0 {
		err = errKindGone
	}
	if err != nil {
		for i := range around.last {
			m.objects = append(m.objects, object{key: key{kindPodPolicy, around.last[i].FullName()}})
		}
		return []Problem{{Kind: kindPodPolicy, Message: fmt.Sprintf("%v; those in force stay", err), Kept: len(around.last) > 0}}
	}
	for i := range items {
		o, here, problems := readPodPolicy(&items[i], around)
		if here {
			m.objects = append(m.objects, o)
		}
		if here && o.value == nil {
			m.problems = append(m.problems, problems...)
			continue
		}
		notices = append(notices, problems...)
	}
	return notices
}

// asksForCluster says whether a network that is proposed wants ClusterNetworkPolicies.
func asksForCluster(m *manifest) bool {
	return slices.ContainsFunc(m.objects, func(o object) bool {
		n, ok := o.value.(Network)
		return ok && n.Cluster
	})
}

// lookAtClusterPolicies does the same for ClusterNetworkPolicies, if a network wants
// them, or has: one that is gone may live on for its ports. A network that asks for
// them first while they cannot be read has to wait: without them more would pass.
func (k *Kube) lookAtClusterPolicies(m *manifest, p *placement) (notices []Problem) {
	var last []string
	if k.last != nil {
		for i := range k.last.Policies {
			if name, ok := strings.CutPrefix(k.last.Policies[i].Name, kindClusterPolicy+"/"); ok {
				last = append(last, name)
			}
		}
	}
	asked := asksForCluster(m)
	if !asked && len(last) == 0 {
		return nil
	}
	items, err := k.clusterPolicies.list()
	if err == nil && !k.clusterPolicies.found() {
		if len(last) == 0 {
			return []Problem{{Kind: kindClusterPolicy, Message: "the cluster does not have the kind, and a VLANNetwork asks for it: apply its CRD, or set spec.clusterNetworkPolicies to Disabled"}}
		}
		err = errKindGone
	}
	if err != nil && len(items) == 0 {
		for _, name := range last {
			m.objects = append(m.objects, object{key: key{kindClusterPolicy, name}})
		}
		if len(last) > 0 {
			return []Problem{{Kind: kindClusterPolicy, Message: fmt.Sprintf("%v; those in force stay", err), Kept: true}}
		}
		k.holdBack(m, err)
		return nil
	}
	for i := range items {
		o, problems := readClusterPolicy(&items[i], p.namespaces, p.holders)
		m.objects = append(m.objects, o)
		switch {
		case !asked: // nobody will miss what it says
		case o.value == nil:
			m.problems = append(m.problems, problems...)
		default:
			notices = append(notices, problems...)
		}
	}
	if err != nil {
		notices = append(notices, Problem{Kind: kindClusterPolicy, Message: fmt.Sprintf("%v; they are as they were last seen", err)})
	}
	return notices
}

// holdBack has networks that newly ask for ClusterNetworkPolicies stay as they are.
func (k *Kube) holdBack(m *manifest, why error) {
	for i := range m.objects {
		o := &m.objects[i]
		n, ok := o.value.(Network)
		if !ok || !n.Cluster || k.last != nil && k.last.Networks[n.Name].Cluster {
			continue
		}
		o.value = nil
		m.problems = append(m.problems, Problem{Kind: o.Kind, Name: o.Name, Field: "spec.clusterNetworkPolicies",
			Message: fmt.Sprintf("the policies cannot be read, and without them more would pass: %v", why)})
	}
}
