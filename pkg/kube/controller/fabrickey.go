package controller

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/homeport-cni/homeport/pkg/peer"
)

// The Secret with the keys by which agents know each other. Their pods mount it
// (deploy/base/daemonset.yaml), and nobody else reads it.
const (
	FabricKeySecret = "homeport-fabric-key"
	FabricKeyField  = "keys"
)

const fabricKeyNote = `# By these keys Homeport's agents know each other, in checks of the fabric: one a line,
# the first is used, all are trusted. Whoever has one can speak for any agent. To change
# it, add another as second line; minutes later make that the first; minutes later take
# the old one out. Or delete the Secret: it is made anew, and for some minutes checks
# find agents absent. Traffic does not need it.
`

// fabricKey has the agents' Secret be there. One that is there, whatever is in it, is
// people's: it may have been given to nodes outside the cluster, too.
type fabricKey struct {
	namespace string
	reader    client.Reader // uncached: a watch of Secrets would want more rights
	writer    client.Writer
	log       *slog.Logger
	every     time.Duration // between looks
	retry     time.Duration // after one that failed
	said      string        // what was last wrong, to say it once
}

func (c *Controller) addFabricKey(w *writer) error {
	if c.cfg.Namespace == "" {
		return nil
	}
	return c.mgr.Add(&fabricKey{namespace: c.cfg.Namespace, reader: w.live, writer: w, log: c.cfg.Log, every: c.look, retry: min(c.look, c.poll)})
}

// Start implements manager.Runnable. No failure ends the controller: traffic and status
// do not need the key.
func (f *fabricKey) Start(ctx context.Context) error {
	for {
		wait, text := f.every, ""
		if err := f.look(ctx); err != nil {
			text = err.Error()
			wait = f.retry
		}
		if text != f.said && text != "" && ctx.Err() == nil {
			f.log.Warn("agents may not know each other, and checks of the fabric find them absent", "secret", f.namespace+"/"+FabricKeySecret, "error", text)
		}
		f.said = text
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// look makes the Secret if there is none.
func (f *fabricKey) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var have corev1.Secret
	err := f.reader.Get(ctx, client.ObjectKey{Namespace: f.namespace, Name: FabricKeySecret}, &have)
	if err == nil {
		if _, err := peer.ParseKeys(have.Data[FabricKeyField]); err != nil {
			return fmt.Errorf("data.%s: %w; or delete the Secret, and it is made anew", FabricKeyField, err)
		}
		return nil
	}
	if !apierrors.IsNotFound(err) {
		return fmt.Errorf("read it: %w", err)
	}
	made := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: FabricKeySecret,
			Labels: map[string]string{"app.kubernetes.io/name": "homeport", "app.kubernetes.io/part-of": "homeport"}},
		Type: corev1.SecretTypeOpaque,
		Data: map[string][]byte{FabricKeyField: []byte(fabricKeyNote + peer.MakeKey())},
	}
	switch err := f.writer.Create(ctx, made); {
	case apierrors.IsAlreadyExists(err): // another replica was faster
		return nil
	case err != nil:
		return fmt.Errorf("make it: %w", err)
	}
	f.log.Info("the key by which agents know each other is made", "secret", f.namespace+"/"+FabricKeySecret)
	return nil
}
