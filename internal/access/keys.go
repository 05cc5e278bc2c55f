// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

const (
	// keyTTL is how long a key is used without a look at its Secret. So long
	// tickets outlive a Secret that was deleted to make them void.
	keyTTL = time.Minute
	// keyRetry is the least time between two looks that anybody can cause. A
	// ticket that another replica issued under a new key is refused that long.
	keyRetry = time.Second
	// keyField is where the Secret has the key.
	keyField = "key"
)

var (
	// errNoKey says that nobody made a key yet.
	errNoKey = errors.New("no ticket was ever issued")
	// errKey says that the key cannot be had.
	errKey = errors.New("tickets cannot be used at present")
)

// keyError is an errKey with what to do about it.
type keyError struct {
	advice string
	cause  error // nil if there is no other one
}

// Error implements error.
func (e *keyError) Error() string {
	if e.cause == nil {
		return e.told()
	}
	return e.told() + ": " + e.cause.Error()
}

// Unwrap makes it an errKey and its cause.
func (e *keyError) Unwrap() []error { return []error{errKey, e.cause} }

// told is what a caller is told: not what the API server said to the manager.
func (e *keyError) told() string { return errKey.Error() + ": " + e.advice }

// keys has the key that all replicas share. It is read when it is first needed,
// so that a manager that may not still serves those who send a token. Whoever
// needs it first to issue a ticket makes it.
//
// The rights to it are in config/rbac: a Role in the manager's own namespace.
type keys struct {
	client kubernetes.Interface
	secret types.NamespacedName
	// owners are those of what is made in a namespace.
	owners func(ctx context.Context, namespace string) []metav1.OwnerReference
	log    logr.Logger
	failed failure

	looking singleflight.Group
	turn    sync.Mutex // held while looking, so that a later look knows more

	mu     sync.Mutex
	held   *key // nil if there is none
	looked time.Time
	err    error // of the last look
}

// current returns the key. If there is none it is made, or errNoKey returned.
func (k *keys) current(ctx context.Context, create bool) (*key, error) {
	k.mu.Lock()
	held, err, age, never := k.held, k.err, time.Since(k.looked), k.looked.IsZero()
	k.mu.Unlock()
	fresh := keyTTL
	if err != nil {
		fresh = keyRetry
	}
	if !never && age < fresh && (!create || !errors.Is(err, errNoKey)) {
		return answer(held, err)
	}
	return k.look(ctx, create)
}

// find returns the key of this id. It looks for a new one if it does not know
// the id, as another replica may have read it earlier.
func (k *keys) find(ctx context.Context, id keyID) (*key, error) {
	held, err := k.current(ctx, false)
	if err == nil && held.id != id && k.age() >= keyRetry {
		held, err = k.look(ctx, false)
	}
	switch {
	case errors.Is(err, errNoKey), err == nil && held.id != id:
		return nil, errTicket
	}
	return held, err
}

func (k *keys) age() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.looked)
}

// answer prefers a key that is known to the failure of looking at it again.
func answer(held *key, err error) (*key, error) {
	if held != nil {
		return held, nil
	}
	return nil, err
}

// look reads the key, for all who want it at this time.
func (k *keys) look(ctx context.Context, create bool) (*key, error) {
	kind := "read"
	if create {
		kind = "create"
	}
	result := k.looking.DoChan(kind, func() (any, error) {
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		k.turn.Lock()
		defer k.turn.Unlock()
		found, err := k.read(ctx, create)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.looked, k.err = time.Now(), err
		switch {
		case err == nil, errors.Is(err, errNoKey):
			k.held = found
		default:
			// The rights that a ticket stands for need the API server in any case.
			k.failed.log(k.log, err, "reading the tickets' key", "get and create secrets in "+k.secret.Namespace)
		}
		return answer(k.held, err)
	})
	select {
	case r := <-result:
		found, _ := r.Val.(*key) // the function above returns nothing else
		return found, r.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// read reads the Secret, and makes it if it is wanted and not there. If another
// replica was faster, its key counts.
func (k *keys) read(ctx context.Context, create bool) (*key, error) {
	if k.secret.Namespace == "" {
		return nil, &keyError{advice: "the manager does not know its namespace; start it with --stream-ticket-secret=NAMESPACE/" + k.secret.Name}
	}
	ctx = unlogged(ctx)
	secrets := k.client.CoreV1().Secrets(k.secret.Namespace)
	found, err := secrets.Get(ctx, k.secret.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if !create {
			return nil, errNoKey
		}
		fresh := newSecret(k.secret)
		fresh.OwnerReferences = k.owners(ctx, fresh.Namespace)
		if found, err = secrets.Create(ctx, fresh, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			found, err = secrets.Get(ctx, k.secret.Name, metav1.GetOptions{})
		}
	}
	switch {
	case apierrors.IsForbidden(err):
		return nil, &keyError{fmt.Sprintf("give the manager the right to get and create the Secret %s", k.secret), err}
	case err != nil:
		return nil, &keyError{fmt.Sprintf("the Secret %s could not be read; try again", k.secret), err}
	case len(found.Data[keyField]) != keyBytes:
		return nil, &keyError{advice: fmt.Sprintf("the Secret %s has no %q of %d bytes; delete it, and the manager makes another one", k.secret, keyField, keyBytes)}
	}
	return newKey(found.Data[keyField])
}

func newSecret(name types.NamespacedName) *corev1.Secret {
	fresh := make([]byte, keyBytes)
	_, _ = rand.Read(fresh) // it never fails
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: name.Namespace, Name: name.Name,
			Labels:      map[string]string{"app.kubernetes.io/name": "chatrun-operator", "app.kubernetes.io/component": "manager"},
			Annotations: map[string]string{"chatrun.dev/description": "Seals the tickets of the stream endpoint. Deleting it makes all tickets void; another one is made when it is needed."},
		},
		// To be replaced by deleting it: an edit would make two keys of one name.
		Immutable: new(true),
		Data:      map[string][]byte{keyField: fresh},
	}
}
