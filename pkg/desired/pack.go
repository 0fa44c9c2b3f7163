package desired

import (
	"encoding/json"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/homeport-cni/homeport/pkg/kube/read"
)

// packed is the field that stands for all of an object but its metadata while it
// is kept: as JSON text. As maps of anything the rules and addresses of a large
// cluster would take some ten times the room, and each is read once.
const packed = "packed"

// packing packs what slim leaves. What is packed already is left as it is:
// transforms may be asked twice.
func packing(slim read.Transform) read.Transform {
	return func(obj any) (any, error) {
		if u, ok := obj.(*unstructured.Unstructured); ok && u.Object[packed] != nil {
			return obj, nil
		}
		obj, err := slim(obj)
		u, ok := obj.(*unstructured.Unstructured)
		if err != nil || !ok {
			return obj, err
		}
		kept, rest := map[string]any{}, map[string]any{}
		for field, v := range u.Object {
			switch field {
			case "apiVersion", "kind", "metadata":
				kept[field] = v
			default:
				rest[field] = v
			}
		}
		text, err := json.Marshal(rest)
		kept[packed] = string(text)
		return &unstructured.Unstructured{Object: kept}, err
	}
}

// unpack gives a packed object as it was, and any other as it is.
func unpack(u *unstructured.Unstructured) *unstructured.Unstructured {
	text, ok := u.Object[packed].(string)
	if !ok {
		return u
	}
	out := map[string]any{}
	if err := utiljson.Unmarshal([]byte(text), &out); err != nil {
		return u // which has fields that no kind has: it is refused
	}
	for _, field := range []string{"apiVersion", "kind", "metadata"} {
		out[field] = u.Object[field]
	}
	return &unstructured.Unstructured{Object: out}
}
