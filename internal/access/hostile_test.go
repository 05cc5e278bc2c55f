// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// TestUsersOfOneName: an answer about one user is none about another of the same
// name with other groups, UID or extras.
func TestUsersOfOneName(t *testing.T) {
	server := newAPI()
	maps.Copy(server.users, map[string]authenticationv1.UserInfo{
		"staff": {Username: "twin", Groups: []string{"staff"}}, "guest": {Username: "twin", Groups: []string{"guests"}},
		"other": {Username: "twin", Groups: []string{"staff"}, UID: "2"}, "scoped": {Username: "twin", Groups: []string{"staff"}, Extra: map[string]authenticationv1.ExtraValue{"s": {"1"}}},
	})
	server.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := created[*authorizationv1.SubjectAccessReview](action).DeepCopy()
		s := review.Spec
		review.Status.Allowed = s.Groups[0] == "staff" && s.UID == "" && len(s.Extra) == 0
		return true, review, nil
	})
	w := newWorld(t, Options{Client: server})
	for _, tc := range []struct {
		token string
		code  int
	}{{"staff", 200}, {"guest", 403}, {"other", 403}, {"scoped", 403}, {"staff", 200}} {
		if got := w.admit(request{token: tc.token}).Code; got != tc.code {
			t.Errorf("%s: %d, want %d", tc.token, got, tc.code)
		}
	}
}

// TestDeniedBeatsAllowed: an authorizer may say both.
func TestDeniedBeatsAllowed(t *testing.T) {
	server := newAPI()
	server.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := created[*authorizationv1.SubjectAccessReview](action).DeepCopy()
		review.Status.Allowed, review.Status.Denied = true, true
		return true, review, nil
	})
	w := newWorld(t, Options{Client: server})
	if got := w.admit(request{token: janeToken}).Code; got != http.StatusForbidden {
		t.Errorf("%d", got)
	}
}

// TestPlaces: so many reviews are made, so many wait, and each above is refused
// at once; of the two kinds neither keeps the other waiting.
func TestPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newReviews(nil, logr.Discard())
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range maxReviews {
			if err := v.who.take(ctx); err != nil {
				t.Fatal(err)
			}
		}
		for range maxWaiting {
			waiting.Go(func() {
				if err := v.who.take(ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("one that waits gets %v", err)
				}
			})
		}
		synctest.Wait()
		if err := v.who.take(ctx); !errors.Is(err, errCrowd) {
			t.Errorf("one too many gets %v", err)
		}
		if err := v.what.take(ctx); err != nil {
			t.Errorf("another kind gets %v", err)
		}
		leave()
		waiting.Wait()
		v.who.giveBack()
		if err := v.who.take(t.Context()); err != nil {
			t.Errorf("after one left: %v", err)
		}
	})
}

// TestLogTakesLittle of what anybody can send.
func TestLogTakesLittle(t *testing.T) {
	var lines strings.Builder
	logger := funcr.New(func(_, args string) { lines.WriteString(args) }, funcr.Options{Verbosity: 10})
	r := httptest.NewRequestWithContext(t.Context(), strings.Repeat("M", 30_000), "/v1/x%3Fticket=a-ticket", http.NoBody)
	Log(logger, http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	if got := lines.String(); len(got) > 500 || strings.Contains(got, "a-ticket") {
		t.Errorf("it writes %.200q and more, %d bytes", got, len(got))
	}
}

// deadlines is a ResponseWriter that notes its deadlines.
type deadlines struct {
	*httptest.ResponseRecorder
	set []time.Time
}

// SetWriteDeadline is found by http.ResponseController.
func (d *deadlines) SetWriteDeadline(at time.Time) error {
	d.set = append(d.set, at)
	return nil
}

// TestEveryAnswerHasADeadline: also one to whoever is not admitted.
func TestEveryAnswerHasADeadline(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"a code": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) },
		"a body": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("x")) },
	} {
		w := &deadlines{ResponseRecorder: httptest.NewRecorder()}
		Log(logr.Discard(), h).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody))
		if len(w.set) != 1 || time.Until(w.set[0]) > answerTimeout || time.Until(w.set[0]) <= 0 {
			t.Errorf("%s: %v", name, w.set)
		}
	}
}
