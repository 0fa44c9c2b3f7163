package desired

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/yaml"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// Cluster is a cluster's objects in files, as a repository has them or `kubectl get -o yaml` prints them. What nodes would
// make of them is told without an API server, by the code that asks one: it is a read.API from memory.
type Cluster struct {
	objects []*unstructured.Unstructured
	files   map[string]string // which file an object is from, by what id gives
}

// ReadCluster reads all *.yaml and *.yml of a directory: objects of any kind, one by one or in lists. Those of kinds that
// decide nothing here, and what is no object, are left out. The problems are of what cannot be read.
func ReadCluster(dir string) (*Cluster, []Problem, error) {
	stamps, err := list(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", dir, err)
	}
	c := &Cluster{files: map[string]string{}}
	var problems []Problem
	for _, f := range stamps {
		at := filepath.Join(dir, f.name)
		data, err := readFile(at, f.info)
		if err != nil {
			problems = append(problems, Problem{File: at, Message: fmt.Sprintf("cannot be read: %v", err)})
			continue
		}
		line := 1
		for _, chunk := range splitDocuments(data) {
			for _, p := range c.take(at, chunk) {
				p.File, p.Line = at, line
				problems = append(problems, p)
			}
			line += bytes.Count(chunk, []byte("\n"))
		}
	}
	return c, problems, nil
}

// take adds the objects of a document, and says what is wrong with it.
func (c *Cluster) take(file string, doc []byte) []Problem {
	var u unstructured.Unstructured
	text, err := yaml.YAMLToJSONStrict(doc)
	if err == nil {
		err = json.Unmarshal(text, &u.Object) // whole numbers stay whole
	}
	switch {
	case err != nil:
		return []Problem{{Message: fmt.Sprintf("the document that begins here cannot be read: %v", err)}}
	case u.GetAPIVersion() == "" && u.GetKind() == "":
		return nil // nothing, or no object: a chart's values, say
	}
	var problems []Problem
	add := func(o *unstructured.Unstructured) error {
		if p := c.add(file, o); p != "" {
			problems = append(problems, Problem{Kind: o.GetKind(), Name: o.GetName(), Message: p})
		}
		return nil
	}
	if !u.IsList() {
		_ = add(&u)
	} else if err := u.EachListItem(func(o runtime.Object) error { return add(o.(*unstructured.Unstructured)) }); err != nil {
		problems = append(problems, Problem{Kind: u.GetKind(), Message: fmt.Sprintf("is no list of objects: %v", err)})
	}
	return problems
}

// add takes an object in, and says why it does not.
func (c *Cluster) add(file string, o *unstructured.Unstructured) (problem string) {
	scope := clusterKinds[o.GroupVersionKind()]
	switch {
	case scope == nil && o.GroupVersionKind().Group == v1alpha1.GroupVersion.Group && !slices.Contains([]string{"VMPort", "VLANTrunkNode"}, o.GetKind()):
		return fmt.Sprintf("%s is no kind of this version: want %s of %s", cmp.Or(o.GetKind(), `""`), strings.Join(append(v1alpha1.Kinds(), "VMIdentity"), ", "), v1alpha1.APIVersion)
	case scope == nil:
		return ""
	case o.GetName() == "":
		return "metadata.name is missing: want the object's name"
	case scope.Name() == meta.RESTScopeNameRoot:
		o.SetNamespace("")
	case o.GetNamespace() == "":
		o.SetNamespace(metav1.NamespaceDefault)
	}
	if before, ok := c.files[id(o)]; ok {
		return "is in " + before + ", too: leave one out"
	}
	c.files[id(o)] = file
	c.objects = append(c.objects, o)
	return ""
}

// id is by what files are remembered.
func id(o *unstructured.Unstructured) string {
	return o.GetKind() + " " + strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
}

var (
	vmKind       = schema.GroupVersionKind{Group: vmiKind.Group, Version: vmiKind.Version, Kind: "VirtualMachine"}
	namespaceOf  = corev1.SchemeGroupVersion.WithKind("Namespace")
	nodeKind     = corev1.SchemeGroupVersion.WithKind("Node")
	podKind      = corev1.SchemeGroupVersion.WithKind("Pod")
	identityKind = v1alpha1.GroupVersion.WithKind("VMIdentity")
)

// clusterKinds are those that decide what a node makes of its VMs' ports. Nodes and pods are none: the ones that are asked about are made up.
var clusterKinds = func() map[schema.GroupVersionKind]meta.RESTScope {
	out := map[schema.GroupVersionKind]meta.RESTScope{
		identityKind: meta.RESTScopeNamespace, vmiKind: meta.RESTScopeNamespace, vmKind: meta.RESTScopeNamespace, attachmentKind: meta.RESTScopeNamespace,
		multiNetworkPolicies: meta.RESTScopeNamespace, clusterNetworkPolicies: meta.RESTScopeRoot, namespaceOf: meta.RESTScopeRoot,
	}
	for _, kind := range v1alpha1.Kinds() {
		out[v1alpha1.GroupVersion.WithKind(kind)] = meta.RESTScopeRoot
	}
	return out
}()

// memory is what an agent sees of a cluster's objects, as far as its watch of a kind keeps them. All are there from the start.
type memory struct {
	objects []*unstructured.Unstructured
	options read.CacheOptions
}

func (m memory) Client(meta.RESTMapper) (read.Reader, error)                { return m, nil }
func (m memory) Cache(o read.CacheOptions) (read.Cache, error)              { return memory{m.objects, o}, nil }
func (memory) Informer(context.Context, read.Object) (read.Informer, error) { return there{}, nil }
func (memory) Start(context.Context) error                                  { return nil }

type there struct{}

func (there) HasSynced() bool                        { return true }
func (there) Tell(read.Handler) (func() bool, error) { return there{}.HasSynced, nil }

// of gives the objects of a kind.
func (m memory) of(kind schema.GroupVersionKind) (out []unstructured.Unstructured, err error) {
	trim, selector := m.options.Transform, labels.Everything()
	for _, w := range m.options.Watches {
		if w.Of.GetObjectKind().GroupVersionKind() != kind {
			continue
		}
		if w.Transform != nil {
			trim = w.Transform
		}
		if w.Labels != nil {
			selector = w.Labels
		}
	}
	for _, o := range m.objects {
		if o.GroupVersionKind() != kind || !selector.Matches(labels.Set(o.GetLabels())) {
			continue
		}
		var kept any = o.DeepCopy()
		if trim != nil {
			if kept, err = trim(kept); err != nil {
				return nil, err
			}
		}
		out = append(out, *kept.(*unstructured.Unstructured))
	}
	return out, nil
}

func (m memory) List(_ context.Context, into read.List, _ int64) error {
	kind := into.GetObjectKind().GroupVersionKind()
	kind.Kind = strings.TrimSuffix(kind.Kind, "List")
	found, err := m.of(kind)
	switch l := into.(type) {
	case *unstructured.UnstructuredList:
		l.Items = found
	case *metav1.PartialObjectMetadataList:
		l.Items = make([]metav1.PartialObjectMetadata, len(found))
		for i := range found {
			err = cmp.Or(err, runtime.DefaultUnstructuredConverter.FromUnstructured(found[i].Object, &l.Items[i]))
		}
	}
	return err
}

func (m memory) Get(_ context.Context, at types.NamespacedName, into read.Object) error {
	kind := into.GetObjectKind().GroupVersionKind()
	found, err := m.of(kind)
	for i := range found {
		if found[i].GetNamespace() == at.Namespace && found[i].GetName() == at.Name {
			return cmp.Or(err, runtime.DefaultUnstructuredConverter.FromUnstructured(found[i].Object, into))
		}
	}
	return cmp.Or(err, error(apierrors.NewNotFound(schema.GroupResource{Group: kind.Group, Resource: kind.Kind}, at.Name)))
}
