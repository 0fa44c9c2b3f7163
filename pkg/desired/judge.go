package desired

import "k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

// Judge says what is wrong with the objects of a cluster (VLANTrunk, VLANNetwork,
// FirewallPolicy; all of them), as far as that is the same on every node: with
// each alone, and with what they say of each other. Which nodes have a trunk is
// not looked at, nor are trunks compared, which may be on different nodes.
func Judge(objects []unstructured.Unstructured) []Problem {
	var m manifest
	for i := range objects {
		d := decodeObject(&objects[i])
		m.objects = append(m.objects, d.object)
		m.problems = append(m.problems, d.problems...)
	}
	r := newResolver(nil, []manifest{m})
	r.everywhere = true
	_, problems := r.resolve()
	return problems
}
