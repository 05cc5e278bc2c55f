// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// TestRefusals tries each way not to be admitted, and the one to be.
func TestRefusals(t *testing.T) {
	unauthorized := metav1.Status{Code: 401, Reason: metav1.StatusReasonUnauthorized, Message: "Unauthorized"}
	for name, tc := range map[string]struct {
		request request
		down    error
		want    metav1.Status
	}{
		"good":            {request{token: janeToken}, nil, metav1.Status{Code: 200}},
		"no token":        {request{}, nil, unauthorized},
		"bad token":       {request{token: badToken}, nil, unauthorized},
		"empty token":     {request{header: http.Header{"Authorization": {"Bearer "}}}, nil, unauthorized},
		"another scheme":  {request{header: http.Header{"Authorization": {"Basic " + janeToken}}}, nil, unauthorized},
		"names in header": {request{header: http.Header{"X-Remote-User": {"jane"}, "X-Remote-Group": {"system:masters"}}}, nil, unauthorized},
		"no right to it": {request{token: janeToken, name: "secret"}, nil, metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: `chatruns.stream.chatrun.dev "secret" is forbidden: User "jane" cannot get resource "chatruns/log" in API group "stream.chatrun.dev" in the namespace "default"`}},
		"right of another namespace": {request{token: joeToken}, nil, metav1.Status{Code: 403, Reason: metav1.StatusReasonForbidden,
			Message: `chatruns.stream.chatrun.dev "hello" is forbidden: User "joe" cannot get resource "chatruns/log" in API group "stream.chatrun.dev" in the namespace "default"`}},
		"API server down": {request{token: janeToken}, errDown, metav1.Status{Code: 503, Reason: metav1.StatusReasonServiceUnavailable,
			Message: "it could not be found out who you are: try again"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := newAPI()
			server.down = tc.down
			w := newWorld(t, Options{Client: server})
			answer := w.admit(tc.request)
			if answer.Code != int(tc.want.Code) {
				t.Fatalf("%d, want %d: %s", answer.Code, tc.want.Code, answer.Body)
			}
			if answer.Code == http.StatusOK {
				return
			}
			got := status(t, answer)
			if got.Reason != tc.want.Reason || got.Message != tc.want.Message {
				t.Errorf("%s: %s", got.Reason, got.Message)
			}
			if challenge := answer.Header().Get("WWW-Authenticate"); (challenge == "Bearer") != (answer.Code == 401) {
				t.Errorf("WWW-Authenticate: %q", challenge)
			}
			if again := answer.Header().Get("Retry-After"); (again == "5") != (answer.Code == 503) {
				t.Errorf("Retry-After: %q", again)
			}
		})
	}
}

// TestQuestion checks what the API server is asked, to the letter: it is the
// right that roles grant.
func TestQuestion(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server})
	if code := w.admit(request{token: janeToken}).Code; code != http.StatusOK {
		t.Fatal(code)
	}
	want := authorizationv1.SubjectAccessReviewSpec{
		User: "jane", UID: "uid-jane", Groups: []string{"staff", "system:authenticated"},
		Extra: map[string]authorizationv1.ExtraValue{"scopes": {"chat"}},
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: "default", Name: "hello", Verb: "get",
			Group: "stream.chatrun.dev", Version: "v1alpha1", Resource: "chatruns", Subresource: "log",
		},
	}
	if !reflect.DeepEqual(server.asked, want) {
		t.Errorf("asked %+v", server.asked)
	}
}

// TestReasonIsPassedOn: what the API server says of a refusal stands in it.
func TestReasonIsPassedOn(t *testing.T) {
	got := forbidden("jane", streamRight("default", "hello"), "no such role").ErrStatus.Message
	if !strings.HasSuffix(got, `in the namespace "default": no such role`) {
		t.Error(got)
	}
}

// TestAccessReviewFails: the token was good, but the right is not known.
func TestAccessReviewFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		w.admit(request{token: janeToken})
		server.set(func() { server.down = errDown })
		if code := w.admit(request{token: janeToken, name: "another"}).Code; code != http.StatusServiceUnavailable {
			t.Errorf("%d without a review", code)
		}
		if code := w.admit(request{token: janeToken}).Code; code != http.StatusOK {
			t.Errorf("%d, though the answer is known still", code)
		}
		<-time.After(allowTTL + time.Millisecond)
		if code := w.admit(request{token: janeToken}).Code; code != http.StatusServiceUnavailable {
			t.Errorf("%d with an answer that is too old", code)
		}
	})
}

// TestFailureIsLoggedOnce: not for each reader that meets it, and with the
// right that is lacking, if one is.
func TestFailureIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		server.down = apierrors.NewForbidden(schema.GroupResource{Resource: "tokenreviews"}, "", errDown)
		w := newWorld(t, Options{Client: server})
		for range 20 {
			w.admit(request{token: janeToken})
		}
		if lines := strings.Count(w.logged(), "\n"); lines != 1 || !strings.Contains(w.logged(), "create tokenreviews.authentication.k8s.io") {
			t.Errorf("%d lines: %s", lines, w.logged())
		}
		<-time.After(quiet)
		w.admit(request{token: janeToken})
		if lines := strings.Count(w.logged(), "\n"); lines != 2 {
			t.Errorf("%d lines after a while", lines)
		}
	})
}

// TestReviewsAreKept counts them: one for all requests of some seconds, be the
// answer good or bad, and one after that.
func TestReviewsAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		count := func(what string, wantToken, wantAccess int) {
			t.Helper()
			if token, access := server.reviews(); token != wantToken || access != wantAccess {
				t.Errorf("%s: %d token reviews, %d access reviews; want %d and %d", what, token, access, wantToken, wantAccess)
			}
		}
		var readers sync.WaitGroup
		for range 100 {
			readers.Go(func() { w.admit(request{token: janeToken}) })
		}
		readers.Wait()
		count("100 at once", 1, 1)
		<-time.After(allowTTL - time.Second)
		w.admit(request{token: janeToken})
		count("within the time", 1, 1)
		<-time.After(2 * time.Second)
		w.admit(request{token: janeToken})
		count("after the time", 2, 2)
		for range 10 {
			w.admit(request{token: janeToken, name: "secret"})
			w.admit(request{token: badToken})
		}
		count("refused again and again", 3, 3)
		<-time.After(denyTTL + time.Millisecond)
		server.set(func() { server.readers["jane default/secret"] = true })
		if code := w.admit(request{token: janeToken, name: "secret"}).Code; code != http.StatusOK {
			t.Errorf("%d with a right that was just given", code)
		}
		count("after a refusal's time", 3, 4)
	})
}

// TestReaderLeaves: who leaves while the API server thinks takes nothing from
// those who wait for the same answer.
func TestReaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newAPI()
		w := newWorld(t, Options{Client: server})
		server.thinking = make(chan struct{})
		var stays, leaves int
		var readers sync.WaitGroup
		readers.Go(func() { stays = w.admit(request{token: janeToken}).Code })
		readers.Go(func() {
			r, namespace, name := request{token: janeToken}.build(t, http.MethodGet)
			leaves = w.leave(r, namespace, name)
		})
		<-time.After(time.Second)
		close(server.thinking)
		readers.Wait()
		if stays != http.StatusOK || leaves != http.StatusServiceUnavailable {
			t.Errorf("stays: %d, leaves: %d", stays, leaves)
		}
	})
}
