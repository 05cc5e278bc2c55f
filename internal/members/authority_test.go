// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
)

var authoritySecret = types.NamespacedName{Namespace: "chatrun-system", Name: "chatrun-relay-ca"}

func authorityOf(client kubernetes.Interface, worker string) *Authority {
	return NewAuthority(client, authoritySecret, worker, logr.Discard())
}

// greet connects a replica to another one, by the name that it takes it for.
func greet(ctx context.Context, from, to *Authority, name string) error {
	client, server := net.Pipe()
	// Both may have something to say when one does not like the other.
	for _, end := range []net.Conn{client, server} {
		_ = end.SetDeadline(time.Now().Add(time.Second))
	}
	var served sync.WaitGroup
	served.Go(func() {
		conn := tls.Server(server, to.TLSConfig())
		_ = conn.HandshakeContext(ctx)
		_ = server.Close()
	})
	defer served.Wait()
	defer client.Close()
	config, err := from.clientConfig(ctx, name)
	if err != nil {
		return err
	}
	return tls.Client(client, config).HandshakeContext(ctx)
}

func dropAuthority(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	if err := client.CoreV1().Secrets(authoritySecret.Namespace).Delete(t.Context(), authoritySecret.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestAuthorityIsShared: replicas that need it at the same time have one, and know
// each other by name.
func TestAuthorityIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		names := []string{"manager-a", "manager-b", "manager.c"}
		var all []*Authority
		for _, name := range names {
			all = append(all, authorityOf(client, name))
		}
		var work sync.WaitGroup
		for i, from := range all {
			for j, to := range all {
				work.Go(func() {
					if err := greet(t.Context(), from, to, names[j]); err != nil {
						t.Errorf("%s to %s: %v", names[i], names[j], err)
					}
				})
			}
		}
		work.Wait()
		for _, one := range all[1:] {
			if !one.signer.certificate.Equal(all[0].signer.certificate) {
				t.Error("two authorities")
			}
		}
		if err := greet(t.Context(), all[0], all[1], "manager-c"); err == nil || !strings.Contains(err.Error(), "manager-c") {
			t.Errorf("taken for another: %v", err)
		}
		stranger := authorityOf(fake.NewClientset(), "manager-b")
		if _, ok := errors.AsType[x509.UnknownAuthorityError](greet(t.Context(), all[0], stranger, "manager-b")); !ok {
			t.Error("a stranger was believed")
		}
	})
}

// TestAuthorityIsReplaced: the Secret is deleted. Those who looked and those who
// did not know each other all the time, and in the end by the new one alone.
func TestAuthorityIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		a, b := authorityOf(client, "a"), authorityOf(client, "b")
		both := func(what string) {
			t.Helper()
			if err := greet(t.Context(), a, b, "b"); err != nil {
				t.Errorf("%s: a to b: %v", what, err)
			}
			err := greet(t.Context(), b, a, "a")
			if _, unknown := errors.AsType[x509.UnknownAuthorityError](err); unknown && b.doubt(t.Context()) {
				err = greet(t.Context(), b, a, "a")
			}
			if err != nil {
				t.Errorf("%s: b to a: %v", what, err)
			}
		}
		both("before")
		<-time.After(authorityLook / 2)
		if err := b.look(t.Context()); err != nil { // so that they look at different times
			t.Fatal(err)
		}
		first := a.signer.certificate
		dropAuthority(t, client)
		<-time.After(authorityLook/2 + time.Second)
		both("a looked")
		// One that starts now knows the new one alone, and is understood in a minute.
		c := authorityOf(client, "c")
		<-time.After(authorityLook)
		if err := greet(t.Context(), c, b, "b"); err != nil {
			t.Errorf("c to b: %v", err)
		}
		if a.signer.certificate.Equal(first) {
			t.Error("a did not look")
		}
		<-time.After(authoritySpread)
		both("long after")
		if !a.signer.certificate.Equal(b.signer.certificate) {
			t.Error("two authorities")
		}
		config, err := a.clientConfig(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		alone := x509.NewCertPool()
		alone.AddCert(a.signer.certificate)
		if !config.RootCAs.Equal(alone) {
			t.Error("the former authority is believed still")
		}
	})
}

// TestLeafIsRenewed: long before it ends.
func TestLeafIsRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		a := authorityOf(client, "a")
		before, err := a.certificate(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(leafRenewal - time.Minute)
		same, err := a.certificate(t.Context())
		if err != nil || same != before {
			t.Errorf("renewed too early: %v", err)
		}
		<-time.After(2 * time.Minute)
		after, err := a.certificate(t.Context())
		if err != nil || after == before {
			t.Errorf("not renewed: %v", err)
		}
		if err := greet(t.Context(), authorityOf(client, "b"), a, "a"); err != nil {
			t.Error(err)
		}
	})
}

// TestAuthorityTroubles: what is said where there is none, and that no key is.
func TestAuthorityTroubles(t *testing.T) {
	other, err := newAuthoritySecret(authoritySecret)
	if err != nil {
		t.Fatal(err)
	}
	mixed := other.DeepCopy()
	again, err := newAuthoritySecret(authoritySecret)
	if err != nil {
		t.Fatal(err)
	}
	mixed.Data[corev1.TLSPrivateKeyKey] = again.Data[corev1.TLSPrivateKeyKey]
	empty := other.DeepCopy()
	empty.Data = nil
	for name, secret := range map[string]*corev1.Secret{"empty": empty, "the key of another": mixed} {
		a := authorityOf(fake.NewClientset(secret), "a")
		_, err := a.certificate(t.Context())
		if err == nil || !strings.Contains(err.Error(), "delete it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := NewAuthority(fake.NewClientset(), types.NamespacedName{Name: "x"}, "a", logr.Discard())
	if _, err := a.certificate(t.Context()); err == nil || !strings.Contains(err.Error(), "--relay-ca-secret") {
		t.Error(err)
	}
}
