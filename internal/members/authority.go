// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
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
	// authorityLook is how long an authority is used without a look at its Secret,
	// so how long a replica may serve with a certificate of one that was replaced.
	// A replica that started meanwhile knows the new one alone, and tries for longer.
	authorityLook = time.Minute
	// authorityRetry is the least time between two looks that a failed handshake, or
	// a failed look, can cause.
	authorityRetry = time.Second
	// authoritySpread is how long an authority that was replaced is taken still:
	// until every other replica has looked again, and some minutes without the API
	// server besides.
	authoritySpread = 10 * time.Minute
	// requestTimeout bounds one request to the API server.
	requestTimeout = 10 * time.Second
)

// Authority signs and verifies the certificates by which replicas know each
// other. All replicas share it, in a Secret that whoever needs it first makes;
// deleting the Secret makes another one. Its key is in memory and there alone.
//
// The rights to it are in config/rbac: a Role in the manager's own namespace.
type Authority struct {
	client kubernetes.Interface
	secret types.NamespacedName
	owners func(ctx context.Context, namespace string) []metav1.OwnerReference
	worker string
	log    logr.Logger

	looking singleflight.Group

	mu     sync.Mutex
	signer *signer // nil if there is none yet
	// former is the one before, replaced when that was found out.
	former   *x509.Certificate
	replaced time.Time
	leaf     *tls.Certificate
	renew    time.Time // when another leaf is due
	looked   time.Time
	err      error // of the last look
	told     time.Time
}

// signer is a certificate of an authority with its key.
type signer struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// NewAuthority returns the authority of this Secret, for the replica of this
// name. It reads nothing yet.
func NewAuthority(client kubernetes.Interface, secret types.NamespacedName, worker string, log logr.Logger) *Authority {
	return &Authority{client: client, secret: secret, worker: worker, log: log}
}

// Owned sets what the Secret is to be owned by if this replica makes it, by its
// namespace. It is called before anything is read.
func (a *Authority) Owned(by func(ctx context.Context, namespace string) []metav1.OwnerReference) {
	a.owners = by
}

// TLSConfig is how this replica serves others: with a certificate for its own
// name, which is renewed by itself.
func (a *Authority) TLSConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return a.certificate(hello.Context())
		},
	}
}

// clientConfig is how another replica is known: by a certificate for exactly its
// name.
func (a *Authority) clientConfig(ctx context.Context, worker string) (*tls.Config, error) {
	if err := a.keep(ctx); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	roots := x509.NewCertPool()
	roots.AddCert(a.signer.certificate)
	if a.former != nil && time.Since(a.replaced) < authoritySpread {
		roots.AddCert(a.former)
	}
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2"}, RootCAs: roots, ServerName: relayName(worker)}, nil
}

// doubt is for a replica whose certificate is of no authority that is known: the
// Secret may have been replaced. It reports whether there is another one now.
func (a *Authority) doubt(ctx context.Context) bool {
	a.mu.Lock()
	before, age := a.signer, time.Since(a.looked)
	a.mu.Unlock()
	if age < authorityRetry || a.look(ctx) != nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.signer != before
}

// certificate returns this replica's own.
func (a *Authority) certificate(ctx context.Context) (*tls.Certificate, error) {
	if err := a.keep(ctx); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.leaf == nil || !time.Now().Before(a.renew) {
		leaf, err := a.signer.issue(a.worker)
		if err != nil {
			return nil, fmt.Errorf("issuing a certificate for %s: %w", a.worker, err)
		}
		a.leaf, a.renew = leaf, time.Now().Add(leafRenewal)
	}
	return a.leaf, nil
}

// keep sees to it that there is an authority, and looks again in time. One that is
// known is preferred to the failure of looking at it again.
func (a *Authority) keep(ctx context.Context) error {
	a.mu.Lock()
	known, err, age, never := a.signer != nil, a.err, time.Since(a.looked), a.looked.IsZero()
	a.mu.Unlock()
	fresh := authorityLook
	if err != nil {
		fresh = authorityRetry
	}
	if never || age >= fresh {
		err = a.look(ctx)
	}
	if known {
		return nil
	}
	return err
}

// look reads the Secret, for all who want it at this time.
func (a *Authority) look(ctx context.Context) error {
	result := a.looking.DoChan("", func() (any, error) {
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
		defer cancel()
		found, err := a.read(ctx)
		a.mu.Lock()
		defer a.mu.Unlock()
		a.looked, a.err = time.Now(), err
		switch {
		case err != nil:
			if a.told.IsZero() || a.looked.Sub(a.told) >= quiet {
				a.told = a.looked
				a.log.Error(err, "reading the authority of the replicas")
			}
		case a.signer == nil:
			a.signer = found
		case !a.signer.certificate.Equal(found.certificate):
			a.former, a.replaced = a.signer.certificate, a.looked
			a.signer, a.leaf = found, nil
		}
		return nil, err
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// read reads the Secret, and makes it if it is not there. If another replica was
// faster, its authority counts.
func (a *Authority) read(ctx context.Context) (*signer, error) {
	if a.secret.Namespace == "" {
		return nil, errors.New("the manager does not know its namespace; start it with --relay-ca-secret=NAMESPACE/" + a.secret.Name)
	}
	// client-go writes bodies to the context's log, at a level that somebody will use.
	ctx = logr.NewContext(ctx, logr.Discard())
	secrets := a.client.CoreV1().Secrets(a.secret.Namespace)
	found, err := secrets.Get(ctx, a.secret.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		var fresh *corev1.Secret
		if fresh, err = newAuthoritySecret(a.secret); err != nil {
			return nil, fmt.Errorf("making an authority: %w", err)
		}
		if a.owners != nil {
			fresh.OwnerReferences = a.owners(ctx, fresh.Namespace)
		}
		if found, err = secrets.Create(ctx, fresh, metav1.CreateOptions{}); apierrors.IsAlreadyExists(err) {
			found, err = secrets.Get(ctx, a.secret.Name, metav1.GetOptions{})
		}
	}
	switch {
	case apierrors.IsForbidden(err):
		return nil, fmt.Errorf("give the manager the right to get and create the Secret %s: %w", a.secret, err)
	case err != nil:
		return nil, fmt.Errorf("reading the Secret %s: %w", a.secret, err)
	}
	read, err := readSigner(found)
	if err != nil {
		return nil, fmt.Errorf("the Secret %s holds no authority, delete it, and the manager makes another one: %w", a.secret, err)
	}
	return read, nil
}
