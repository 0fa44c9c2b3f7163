package apiserver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// storeMost is how many operations etcd takes in a transaction.
const storeMost = 128

// Store puts custom objects into etcd behind the API server's back, some hundred
// times as fast as by its API. What the API would have refused, defaulted or set is
// the caller's to get right, but for UIDs and generations; the best way is to
// create one by the API and to change that. group and resource are as in a URL,
// like homeport.dev and vmports. Keys are those of kube-apiserver (staging/src/k8s.io/
// apiextensions-apiserver/pkg/registry/customresource), the requests those of
// etcd's JSON gateway.
func (s *Server) Store(group, resource string, objects []*unstructured.Unstructured) {
	s.tb.Helper()
	type put struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	}
	type operation struct {
		Put put `json:"requestPut"`
	}
	for len(objects) > 0 {
		var txn struct {
			Success []operation `json:"success"`
		}
		n := min(storeMost, len(objects))
		for _, o := range objects[:n] {
			o.SetUID(uuid.NewUUID())
			o.SetGeneration(1)
			o.SetResourceVersion("") // etcd's own
			text, err := json.Marshal(o.Object)
			if err != nil {
				s.tb.Fatal(err)
			}
			key := path.Join("/registry", group, resource, o.GetNamespace(), o.GetName())
			txn.Success = append(txn.Success, operation{put{[]byte(key), text}})
		}
		objects = objects[n:]
		if err := s.ask("/v3/kv/txn", txn); err != nil {
			s.tb.Fatalf("store %s: %v", resource, err)
		}
	}
}

func (s *Server) ask(at string, request any) error {
	body, err := json.Marshal(request) // bytes as base64, as the gateway wants them
	if err != nil {
		return err
	}
	res, err := http.Post(s.plane.etcd.URL.JoinPath(at).String(), "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("etcd: %s: %.200s", res.Status, text)
	}
	return err
}
