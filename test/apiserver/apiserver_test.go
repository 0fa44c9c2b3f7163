package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func newClient(t *testing.T, cfg *rest.Config) client.WithWatch {
	t.Helper()
	c, err := client.NewWithWatch(cfg, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func configMap(name, value string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Data:       map[string]string{"value": value},
	}
}

// eventually polls until ok says so, and fails with the last state seen.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		done, state := ok()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within a minute; last seen: %s", what, state)
		}
	}
}

// TestServer is a day in the life of a server; its parts build on each other.
func TestServer(t *testing.T) {
	began := time.Now()
	s := Start(t)
	t.Logf("the server was up after %v", time.Since(began).Round(time.Millisecond))
	t.Run("watch", func(t *testing.T) { testWatch(t, s) })
	t.Run("user", func(t *testing.T) { testUser(t, s) })
	t.Run("extra", func(t *testing.T) { testExtra(t, s) })
	t.Run("crds", func(t *testing.T) { testCRDs(t, s) })
	t.Run("restart", func(t *testing.T) { testRestart(t, s) })
}

// TestEnd wants nothing left of a server whose test has ended: no process, no folder.
func TestEnd(t *testing.T) {
	binaries(t)
	var dir string
	if !t.Run("life", func(t *testing.T) { dir = Start(t).plane.dir }) || dir == "" {
		return
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder %s is still there: %v", dir, err)
	}
	eventually(t, "the processes end", func() (bool, string) {
		left := running(t, dir)
		return len(left) == 0, strings.Join(left, "; ")
	})
}

// running lists the command lines that name dir.
func running(t *testing.T, dir string) (found []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		b, _ := os.ReadFile(f) // one that has just ended cannot be read
		if strings.Contains(string(b), dir) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// TestShared has two tests share a server, and one of them leave it stopped.
func TestShared(t *testing.T) {
	binaries(t)
	// Named by the server: with -count a test meets what it left before.
	cm := configMap("", "1")
	cm.GenerateName = "shared-"
	t.Run("one", func(t *testing.T) {
		s := Shared(t)
		if err := newClient(t, s.Config()).Create(t.Context(), cm); err != nil {
			t.Fatal(err)
		}
		s.Stop()
	})
	t.Run("two", func(t *testing.T) {
		if err := newClient(t, Shared(t).Config()).Get(t.Context(), client.ObjectKeyFromObject(cm), cm); err != nil {
			t.Error(err)
		}
	})
}

// TestFindBinaries wants to be told what to do where there are none.
func TestFindBinaries(t *testing.T) {
	t.Setenv("HOMEPORT_CLUSTER_BIN", t.TempDir())
	if dir, err := findBinaries(); err == nil {
		t.Errorf("an empty folder is taken for one with binaries: %s", dir)
	}
	t.Setenv("HOMEPORT_CLUSTER_BIN", "")
	t.Chdir(t.TempDir())
	if _, err := findBinaries(); err == nil || !strings.Contains(err.Error(), "HOMEPORT_CLUSTER_BIN") {
		t.Errorf("outside the repository: %v", err)
	}
}

func testWatch(t *testing.T, s *Server) {
	c := newClient(t, s.Config())
	w, err := c.Watch(t.Context(), &corev1.ConfigMapList{}, client.InNamespace("default"))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := c.Create(t.Context(), configMap("watched", "1")); err != nil {
		t.Fatal(err)
	}
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-w.ResultChan():
			if cm, ok := e.Object.(*corev1.ConfigMap); ok && cm.Name == "watched" {
				return
			}
		case <-timeout:
			t.Fatal("the watch did not show the ConfigMap within a minute")
		}
	}
}

// testUser has a user refused, then allowed by RBAC.
func testUser(t *testing.T, s *Server) {
	admin, anna := newClient(t, s.Config()), newClient(t, s.User("anna", []string{"crew"}, nil))
	var list corev1.ConfigMapList
	if err := anna.List(t.Context(), &list); !apierrors.IsForbidden(err) {
		t.Fatalf("a user without rights: got %v, want 403", err)
	}
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "reads-configmaps"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "crew"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "Group", Name: "crew"}},
	}
	for _, o := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the role of the group applies", func() (bool, string) {
		err := anna.List(t.Context(), &list)
		return err == nil, fmt.Sprint(err)
	})
}

// testExtra asks the server who it takes the service account of a node for.
func testExtra(t *testing.T, s *Server) {
	const claim = "authentication.kubernetes.io/node-name"
	agent := newClient(t, s.User("system:serviceaccount:homeport:agent", nil, map[string][]string{claim: {"node1"}}))
	var review authenticationv1.SelfSubjectReview
	if err := agent.Create(t.Context(), &review); err != nil {
		t.Fatal(err)
	}
	got := review.Status.UserInfo
	slices.Sort(got.Groups)
	want := authenticationv1.UserInfo{
		Username: "system:serviceaccount:homeport:agent",
		Groups:   []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:homeport"},
		Extra:    map[string]authenticationv1.ExtraValue{claim: {"node1"}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func testCRDs(t *testing.T, s *Server) {
	const crd = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: buoys.test.homeport.dev}
spec:
  group: test.homeport.dev
  names: {kind: Buoy, listKind: BuoyList, plural: buoys, singular: buoy}
  scope: Cluster
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "buoys.yaml"), []byte(crd), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, s.plane, []string{dir})
	buoy := &unstructured.Unstructured{}
	buoy.SetGroupVersionKind(schema.GroupVersionKind{Group: "test.homeport.dev", Version: "v1", Kind: "Buoy"})
	buoy.SetName("one")
	if err := newClient(t, s.Config()).Create(t.Context(), buoy); err != nil {
		t.Error(err)
	}
}

// testRestart takes the server away under an informer, and brings it back.
func testRestart(t *testing.T, s *Server) {
	c, informer := newClient(t, s.Config()), startInformer(t, s.Config())
	if err := c.Create(t.Context(), configMap("kept", "old")); err != nil {
		t.Fatal(err)
	}
	key := client.ObjectKey{Namespace: "default", Name: "kept"}
	value := func(r client.Reader) string {
		var cm corev1.ConfigMap
		if err := r.Get(t.Context(), key, &cm); err != nil {
			return err.Error()
		}
		return cm.Data["value"]
	}
	eventually(t, "the informer sees the object", func() (bool, string) { v := value(informer); return v == "old", v })

	began := time.Now()
	s.Stop()
	t.Logf("Stop with an open watch took %v", time.Since(began).Round(time.Millisecond))
	if v := value(c); !strings.Contains(v, "connection refused") {
		t.Errorf("the server is stopped, and answers %q", v)
	}
	if v := value(informer); v != "old" {
		t.Errorf("the informer lost what it knew: %q", v)
	}

	began = time.Now()
	s.Restart()
	t.Logf("Restart took %v", time.Since(began).Round(time.Millisecond))
	if v := value(c); v != "old" {
		t.Fatalf("after the restart the object's value is %q", v)
	}
	if err := c.Update(t.Context(), configMap("kept", "new")); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	eventually(t, "the informer catches up", func() (bool, string) { v := value(informer); return v == "new", v })
	t.Logf("the informer caught up after %v", time.Since(began).Round(time.Millisecond))
}

// startInformer runs a cache of ConfigMaps until the test ends.
func startInformer(t *testing.T, cfg *rest.Config) cache.Cache {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	informer, err := cache.New(cfg, cache.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- informer.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("informer: %v", err)
		}
	})
	if _, err := informer.GetInformer(ctx, &corev1.ConfigMap{}); err != nil {
		t.Fatal(err)
	}
	if !informer.WaitForCacheSync(ctx) {
		t.Fatal("the informer does not sync")
	}
	return informer
}

// TestScript asks the build script for its folder, and for a program that it does
// not know.
func TestScript(t *testing.T) {
	path, err := findScript()
	if err != nil {
		t.Fatal(err)
	}
	cache := t.TempDir()
	t.Setenv("HOMEPORT_CACHE", cache)
	out, err := exec.Command(path, "--dir").Output()
	if dir := string(out); err != nil || !strings.HasPrefix(dir, cache+"/cluster/") || strings.Count(dir, "\n") != 1 {
		t.Errorf("--dir prints %q, %v; want one line, a folder below %s", out, err, cache)
	}
	out, err = exec.Command(path, "nosuch").CombinedOutput()
	exit := (*exec.ExitError)(nil)
	if !errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "nosuch; known: etcd kube-apiserver") {
		t.Errorf("a program that it does not know: %v, %q", err, out)
	}
}

// TestScriptClears: what other versions left goes when it was not asked for in a
// month, and nothing else does.
func TestScriptClears(t *testing.T) {
	path, err := findScript()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOMEPORT_CACHE", t.TempDir())
	out, err := exec.Command(path, "--dir").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := strings.TrimSpace(string(out))
	root := filepath.Dir(dir)
	recent, old, others := filepath.Join(root, "0123456789abcde0"), filepath.Join(root, "0123456789abcde1"), filepath.Join(root, "notes")
	for _, d := range []string{dir, recent, old, others} {
		for _, name := range []string{"etcd", "kube-apiserver"} {
			if err := errors.Join(os.MkdirAll(d, 0o700), os.WriteFile(filepath.Join(d, name), nil, 0o700)); err != nil {
				t.Fatal(err)
			}
		}
		age := 40 * 24 * time.Hour
		if d == recent {
			age = 20 * 24 * time.Hour
		}
		if err := os.Chtimes(d, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command(path).CombinedOutput(); err != nil || !strings.Contains(string(out), "removing "+old) || !strings.HasSuffix(string(out), dir+"\n") {
		t.Fatalf("%v: %s", err, out)
	}
	for d, stays := range map[string]bool{dir: true, recent: true, old: false, others: true} {
		if _, err := os.Stat(d); (err == nil) != stays {
			t.Errorf("%s: %v; should it stay? %v", d, err, stays)
		}
	}
}
