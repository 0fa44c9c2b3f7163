package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/peer"
)

// oneSecret is an API server that has this Secret, or none.
type oneSecret struct {
	client.Client // nil: what is not here is not asked for

	meet func(verb string) error // before each request

	mu    sync.Mutex
	have  *corev1.Secret
	asked []string
}

var secrets = schema.GroupResource{Resource: "secrets"}

func (s *oneSecret) ask(verb string) error {
	s.asked = append(s.asked, verb)
	if s.meet != nil {
		return s.meet(verb)
	}
	return nil
}

func (s *oneSecret) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ask("get " + key.String()); err != nil {
		return err
	}
	if s.have == nil {
		return apierrors.NewNotFound(secrets, key.Name)
	}
	s.have.DeepCopyInto(o.(*corev1.Secret))
	return nil
}

func (s *oneSecret) Create(_ context.Context, o client.Object, _ ...client.CreateOption) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ask("create " + client.ObjectKeyFromObject(o).String()); err != nil {
		return err
	}
	if s.have != nil {
		return apierrors.NewAlreadyExists(secrets, o.GetName())
	}
	s.have = o.(*corev1.Secret).DeepCopy()
	return nil
}

// take gives the requests since it was last called.
func (s *oneSecret) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.asked
	s.asked = nil
	return out
}

// set has the Secret be with these keys, or not be there.
func (s *oneSecret) set(keys *string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.have = nil; keys != nil {
		s.have = &corev1.Secret{Data: map[string][]byte{"keys": []byte(*keys)}}
	}
}

// logText is what was logged since it was last taken.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logText) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

func newFabricKey(s *oneSecret, log *logText) *fabricKey {
	return &fabricKey{namespace: "hp", reader: s, writer: s, every: time.Minute, retry: 10 * time.Second,
		log: slog.New(slog.NewTextHandler(log, nil))}
}

const (
	getKey    = "get hp/homeport-fabric-key"
	createKey = "create hp/homeport-fabric-key"
)

// keysOf are those that agents would read.
func keysOf(t *testing.T, s *corev1.Secret) string {
	t.Helper()
	k, err := peer.ParseKeys(s.Data["keys"])
	if err != nil {
		t.Fatal(err)
	}
	return k.String()
}

// TestFabricKey: it is made once, and again when it was deleted; what people made of it stays.
func TestFabricKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		s := &oneSecret{}
		f := newFabricKey(s, &log)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- f.Start(ctx) }()
		after := func(d time.Duration, want ...string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := s.take(); !slices.Equal(got, want) {
				t.Errorf("asked for %q, want %q", got, want)
			}
		}
		after(0, getKey, createKey)
		first := keysOf(t, s.have)
		if text := string(s.have.Data["keys"]); !strings.HasPrefix(text, "# ") || strings.Contains(first, ",") || s.have.Type != corev1.SecretTypeOpaque {
			t.Errorf("%s %s", s.have.Type, text)
		}
		after(f.every, getKey)
		if got := keysOf(t, s.have); got != first {
			t.Errorf("keys %s, were %s", got, first)
		}
		// By hand, and badly: told once, and left alone.
		wait := f.every
		for _, text := range []string{"rubbish", ""} {
			log.take()
			s.set(&text)
			after(wait, getKey)
			wait = f.retry // one that is bad is looked at more often
			after(wait, getKey)
			said := log.take()
			if got := string(s.have.Data["keys"]); got != text || strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "secret=hp/homeport-fabric-key") || !strings.Contains(said, "data.keys: ") {
				t.Errorf("%q became %q\n%s", text, got, said)
			}
		}
		s.set(new(peer.MakeKey()))
		after(f.retry, getKey)
		second := keysOf(t, s.have)
		log.take()
		s.set(nil)
		after(f.every, getKey, createKey)
		said := log.take()
		if third := keysOf(t, s.have); third == first || third == second || !strings.Contains(said, "is made") {
			t.Errorf("keys %s, %s and %s\n%s", first, second, third, said)
		}
		if strings.Contains(said, string(s.have.Data["keys"][len(fabricKeyNote):len(s.have.Data["keys"])-1])) {
			t.Error("the log shows the key")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestFabricKeyRefused: the API server's refusal ends nothing and is told once; two controllers
// that find none make one.
func TestFabricKeyRefused(t *testing.T) {
	var log logText
	s := &oneSecret{meet: func(verb string) error {
		return apierrors.NewForbidden(secrets, FabricKeySecret, errors.New(strings.Fields(verb)[0]))
	}}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := newFabricKey(s, &log).Start(ctx); err != nil {
			t.Error(err)
		}
	})
	said := log.take()
	if n := len(s.take()); n < 6 || strings.Count(said, "level=WARN") != 1 || !strings.Contains(said, "is forbidden") {
		t.Errorf("asked %d times\n%s", n, said)
	}

	other := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "hp", Name: FabricKeySecret}, Data: map[string][]byte{"keys": []byte(peer.MakeKey())}}
	s = &oneSecret{}
	s.meet = func(verb string) error {
		if verb == createKey {
			s.have = other
		}
		return nil
	}
	if err := newFabricKey(s, &log).look(t.Context()); err != nil || s.have != other {
		t.Errorf("%v; keys %s, want the other's", err, keysOf(t, s.have))
	}
	s = &oneSecret{meet: func(verb string) error {
		if verb == createKey {
			return apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "hp")
		}
		return nil
	}}
	if err := newFabricKey(s, &log).look(t.Context()); err == nil || !strings.Contains(err.Error(), `make it: namespaces "hp" not found`) {
		t.Error(err)
	}
}

// TestFabricKeyAsShipped: two controllers with no rights but those that the manifests give have
// one key between them, and it comes back when it is deleted.
func TestFabricKeyAsShipped(t *testing.T) {
	l, cfg := asShipped(t)
	name := cfg.Namespace + "/" + FabricKeySecret
	l.start(cfg)
	l.start(cfg) // without a Lease: both do it
	made := func(what, other string) (uid, keys string) {
		t.Helper()
		l.until(what, func() string {
			var s corev1.Secret
			if err := l.Get(t.Context(), key(name), &s); err != nil {
				return err.Error()
			}
			if uid = string(s.UID); uid == other {
				return "it is the one from before"
			}
			keys = keysOf(t, &s)
			return ""
		})
		return uid, keys
	}
	uid, first := made("the Secret is made", "")
	time.Sleep(time.Second) // some looks more
	if again, second := made("it stays", ""); again != uid || second != first {
		t.Errorf("another key")
	}
	l.patch("Secret", name, fmt.Sprintf(`stringData: {keys: %q}`, "rubbish"))
	time.Sleep(time.Second)
	if got := l.get("Secret", name); got.Object["data"].(map[string]any)["keys"] != "cnViYmlzaA==" {
		t.Error("what is bad is changed")
	}
	l.delete("Secret", name)
	if _, third := made("it is made again", uid); third == first {
		t.Error("the same key again")
	}
}
