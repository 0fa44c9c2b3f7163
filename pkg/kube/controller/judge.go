package controller

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/api/v1alpha1"
	"github.com/homeport-cni/homeport/pkg/desired"
)

// judge keeps what desired.Judge says of every trunk, network and policy. All of
// them are judged together, once a burst of changes is over, and the controllers
// of those of which something else is said now are told. A controller that finds
// no verdict on the generation that it sees leaves it at that: it will be told.
type judge struct {
	cache cache.Cache
	quiet time.Duration // a burst is over when nothing came for so long,
	limit time.Duration // or when it lasts longer than that
	news  chan struct{}
	// read is the generation of each object judged last.
	read map[types.UID]int64

	mu       sync.Mutex
	verdicts map[types.UID]verdict
	tell     map[string][]func(name string) // by kind
	runs     int
}

// verdict is what is said of an object.
type verdict struct {
	generation int64
	problems   string // "" is none
}

func newJudge(c cache.Cache) *judge {
	return &judge{cache: c, quiet: 100 * time.Millisecond, limit: 2 * time.Second, news: make(chan struct{}, 1),
		read: map[types.UID]int64{}, verdicts: map[types.UID]verdict{}, tell: map[string][]func(string){}}
}

// of gives the problems of an object's present generation; known is false while
// there is no verdict on it.
func (j *judge) of(o metav1.Object) (problems string, known bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v, ok := j.verdicts[o.GetUID()]
	return v.problems, ok && v.generation == o.GetGeneration()
}

// onVerdict has tell called with the name of each object of a kind of which
// something else is said than before.
func (j *judge) onVerdict(kind string, tell func(name string)) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.tell[kind] = append(j.tell[kind], tell)
}

func (j *judge) changed() {
	select {
	case j.news <- struct{}{}:
	default:
	}
}

// watch has changed called for each change of what an object says.
func (j *judge) watch(ctx context.Context) error {
	for _, kind := range v1alpha1.Kinds() {
		i, err := j.cache.GetInformer(ctx, judged(kind), cache.BlockUntilSynced(false))
		if err != nil {
			return err
		}
		if _, err := i.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { j.changed() },
			UpdateFunc: func(before, after any) {
				b, a := before.(metav1.Object), after.(metav1.Object)
				if b.GetGeneration() != a.GetGeneration() || b.GetUID() != a.GetUID() {
					j.changed()
				}
			},
			DeleteFunc: func(any) { j.changed() },
		}); err != nil {
			return err
		}
	}
	return nil
}

// Start implements manager.Runnable.
func (j *judge) Start(ctx context.Context) error {
	for {
		if err := j.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-j.news:
		}
		for end, over := time.After(j.limit), false; !over; {
			select {
			case <-j.news:
			case <-time.After(j.quiet):
				over = true
			case <-end:
				over = true
			}
		}
	}
}

// look judges the objects if one of them is not as it was.
func (j *judge) look(ctx context.Context) error {
	var objects []unstructured.Unstructured
	read := map[types.UID]int64{}
	for _, kind := range v1alpha1.Kinds() {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind + "List"))
		if err := j.cache.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return err
		}
		for _, u := range list.Items {
			read[u.GetUID()] = u.GetGeneration()
			o := maps.Clone(u.Object) // it is the cache's
			delete(o, "status")
			objects = append(objects, unstructured.Unstructured{Object: o})
		}
	}
	if maps.Equal(read, j.read) {
		return nil
	}
	j.take(objects, desired.Judge(objects))
	j.read = read
	return nil
}

// take keeps what is said of the objects, and tells what is new.
func (j *judge) take(objects []unstructured.Unstructured, problems []desired.Problem) {
	type key struct{ kind, name string }
	said := map[key][]string{}
	for _, p := range problems {
		k, text := key{p.Kind, p.Name}, p.Message
		if p.Field != "" {
			text = fmt.Sprintf("%s: %s", p.Field, p.Message)
		}
		said[k] = append(said[k], text)
	}
	verdicts := make(map[types.UID]verdict, len(objects))
	var news []key
	j.mu.Lock()
	for i := range objects {
		o := &objects[i]
		k := key{o.GetKind(), o.GetName()}
		v := verdict{o.GetGeneration(), some(said[k], "; ")}
		if old, ok := j.verdicts[o.GetUID()]; !ok || old != v {
			news = append(news, k)
		}
		verdicts[o.GetUID()] = v
	}
	j.verdicts = verdicts
	j.runs++
	tell := maps.Clone(j.tell)
	j.mu.Unlock()
	for _, k := range news {
		for _, t := range tell[k.kind] {
			t(k.name)
		}
	}
}
