// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"
)

// secrets returns how often Secrets were read and made, and what is in ours.
func (a *api) secrets(t *testing.T) (gets, creates int, key []byte) {
	t.Helper()
	for _, action := range a.Actions() {
		switch {
		case action.Matches("get", "secrets"):
			gets++
		case action.Matches("create", "secrets"):
			creates++
		}
	}
	secret, err := a.Tracker().Get(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, secretName.Namespace, secretName.Name)
	if err != nil {
		return gets, creates, nil
	}
	found, ok := secret.(*corev1.Secret)
	if !ok || found.Immutable == nil || !*found.Immutable {
		t.Errorf("the Secret: %+v", secret)
	}
	return gets, creates, found.Data["key"]
}

func (a *api) dropSecret(t *testing.T) {
	t.Helper()
	if err := a.Tracker().Delete(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}, secretName.Namespace, secretName.Name); err != nil {
		t.Fatal(err)
	}
}

// TestReplicasShareTheKey: the first one that issues a ticket makes it, also if
// many do at once, and any of them opens it.
func TestReplicasShareTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		var replicas [3]*world
		for i := range replicas {
			replicas[i] = newWorld(t, Options{Client: server})
			replicas[i].admit(request{token: janeToken})
		}
		if gets, creates, _ := server.secrets(t); gets != 0 || creates != 0 {
			t.Errorf("%d reads and %d writes of Secrets before anybody wanted a ticket", gets, creates)
		}
		tickets := make([]string, 30)
		var callers sync.WaitGroup
		for i := range tickets {
			callers.Go(func() { tickets[i] = replicas[i%3].ticket(request{token: janeToken}) })
		}
		callers.Wait()
		for i, ticket := range tickets {
			if code := replicas[(i+1)%3].admit(request{ticket: ticket}).Code; code != http.StatusOK {
				t.Errorf("%d at another replica", code)
			}
		}
		gets, _, key := server.secrets(t)
		if len(key) != 32 || gets > 6 {
			t.Errorf("a key of %d bytes, read %d times", len(key), gets)
		}
		for _, w := range replicas {
			w.secrets = append(w.secrets, string(key), base64.StdEncoding.EncodeToString(key))
		}
	})
}

// TestKeyOfTheFasterReplicaCounts: between the look and the write another
// replica made the Secret.
func TestKeyOfTheFasterReplicaCounts(t *testing.T) {
	server := newAPI()
	faster := newWorld(t, Options{Client: server})
	var once sync.Once
	var ticket string
	slower := newAPI()
	slower.PrependReactor("get", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		found, err := server.Tracker().Get(action.GetResource(), action.GetNamespace(), secretName.Name)
		once.Do(func() { ticket = faster.ticket(request{token: janeToken}) })
		return true, found, err
	})
	slower.PrependReactor("create", "secrets", func(action clienttesting.Action) (bool, runtime.Object, error) {
		secret := created[*corev1.Secret](action)
		return true, secret, server.Tracker().Create(action.GetResource(), secret, secret.Namespace)
	})
	w := newWorld(t, Options{Client: slower})
	own := w.ticket(request{token: janeToken})
	if code := w.admit(request{ticket: ticket}).Code; code != http.StatusOK {
		t.Errorf("%d for the faster one's ticket", code)
	}
	if code := faster.admit(request{ticket: own}).Code; code != http.StatusOK {
		t.Errorf("%d for the slower one's ticket", code)
	}
}

// TestDeletedSecret makes all tickets void, within a minute, and the next one
// that is issued brings a new key that the others find at once.
func TestDeletedSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w, other := newWorld(t, Options{Client: server}), newWorld(t, Options{Client: server})
		old := w.ticket(request{token: janeToken})
		_, _, first := server.secrets(t)
		server.dropSecret(t)
		<-time.After(keyTTL)
		if code := w.admit(request{ticket: old}).Code; code != http.StatusUnauthorized {
			t.Errorf("%d with a ticket whose key was deleted", code)
		}
		if _, _, key := server.secrets(t); key != nil {
			t.Error("a reader with a ticket made a Secret")
		}
		fresh := other.ticket(request{token: janeToken})
		if _, _, second := server.secrets(t); bytes.Equal(first, second) {
			t.Error("the same key again")
		}
		<-time.After(keyRetry)
		if code := w.admit(request{ticket: fresh}).Code; code != http.StatusOK {
			t.Errorf("%d with a ticket of the new key", code)
		}
		if code := w.admit(request{ticket: old}).Code; code != http.StatusUnauthorized {
			t.Errorf("%d with a ticket of the old key", code)
		}
	})
}

// TestForeignTicketsCostLittle: whoever sends tickets of another key makes the
// manager read its own once a second, not more.
func TestForeignTicketsCostLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		foreign := newWorld(t, Options{Client: newAPI()}).ticket(request{token: janeToken})
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		for range 100 {
			if code := w.admit(request{ticket: foreign}).Code; code != http.StatusUnauthorized {
				t.Fatalf("%d with a ticket of another cluster", code)
			}
		}
		if gets, creates, _ := server.secrets(t); gets != 1 || creates != 0 {
			t.Errorf("no key yet: %d reads, %d writes", gets, creates)
		}
		own := w.ticket(request{token: janeToken})
		before, _, _ := server.secrets(t)
		<-time.After(keyRetry)
		for range 100 {
			w.admit(request{ticket: foreign})
		}
		if gets, _, _ := server.secrets(t); gets != before+1 {
			t.Errorf("%d reads for 100 foreign tickets", gets-before)
		}
		if code := w.admit(request{ticket: own}).Code; code != http.StatusOK {
			t.Errorf("%d for a good one after them", code)
		}
	})
}

// TestNoRightToTheSecret: tokens serve on, and whoever wants a ticket is told
// what is lacking.
func TestNoRightToTheSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		denied := apierrors.NewForbidden(corev1.Resource("secrets"), secretName.Name, errors.New("the manager's own name"))
		server.PrependReactor("*", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, denied })
		w := newWorld(t, Options{Client: server})
		for range 10 {
			answer := w.issue(request{token: janeToken})
			s := status(t, answer)
			if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") == "" ||
				s.Message != "tickets cannot be used at present: give the manager the right to get and create the Secret chatrun-system/chatrun-stream-tickets" {
				t.Fatalf("%d %s", answer.Code, s.Message)
			}
		}
		if code := w.admit(request{token: janeToken}).Code; code != http.StatusOK {
			t.Errorf("%d for a token", code)
		}
		if gets, _, _ := server.secrets(t); gets != 1 || strings.Count(w.logged(), "\n") != 1 {
			t.Errorf("%d reads, and the log: %s", gets, w.logged())
		}
		ticket := newWorld(t, Options{Client: newAPI()}).ticket(request{token: janeToken})
		if code := w.admit(request{ticket: ticket}).Code; code != http.StatusServiceUnavailable {
			t.Errorf("%d for a ticket that nobody can check", code)
		}
	})
}

// TestKnownKeyOutlivesAnOutage of the API server.
func TestKnownKeyOutlivesAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		ticket := w.ticket(request{token: janeToken})
		server.PrependReactor("*", "secrets", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errDown })
		<-time.After(keyTTL)
		if code := w.admit(request{ticket: ticket}).Code; code != http.StatusOK {
			t.Errorf("%d", code)
		}
	})
}

// TestUnusableKeys: each is answered with what to do.
func TestUnusableKeys(t *testing.T) {
	short := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: secretName.Namespace, Name: secretName.Name}, Data: map[string][]byte{"key": []byte("short")},
	}
	for name, tc := range map[string]struct {
		objects []runtime.Object
		secret  types.NamespacedName
		advice  string
	}{
		"too short":    {[]runtime.Object{short}, secretName, `has no "key" of 32 bytes; delete it`},
		"no namespace": {nil, types.NamespacedName{Name: "tickets"}, "start it with --stream-ticket-secret=NAMESPACE/tickets"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, Options{Client: newAPI(tc.objects...), TicketSecret: tc.secret})
			answer := w.issue(request{token: janeToken})
			if s := status(t, answer); answer.Code != http.StatusServiceUnavailable || !strings.Contains(s.Message, tc.advice) {
				t.Errorf("%d %s", answer.Code, s.Message)
			}
		})
	}
}
