// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-logr/logr"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

// TestMetrics tries each way not to be let in, and the one to be.
func TestMetrics(t *testing.T) {
	var down error
	c := fake.NewClientset()
	c.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := created[*authenticationv1.TokenReview](action).DeepCopy()
		if who := map[string]string{"scraper-token": "scraper", "other-token": "other"}[review.Spec.Token]; who != "" {
			review.Status = authenticationv1.TokenReviewStatus{Authenticated: true, User: authenticationv1.UserInfo{Username: who}}
		}
		return true, review, down
	})
	c.PrependReactor("create", "subjectaccessreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		review := created[*authorizationv1.SubjectAccessReview](action).DeepCopy()
		asked := review.Spec.NonResourceAttributes
		review.Status.Allowed = review.Spec.User == "scraper" && review.Spec.ResourceAttributes == nil &&
			*asked == authorizationv1.NonResourceAttributes{Verb: "get", Path: "/metrics"}
		return true, review, nil
	})
	served := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("chatrun_runs 1")) })
	h := Metrics(c, logr.Discard(), served)
	ask := func(method, path, token string) int {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, path, nil)
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		h.ServeHTTP(w, r)
		if told := w.Body.String() == "chatrun_runs 1"; told != (w.Code == http.StatusOK) {
			t.Errorf("%d with %q", w.Code, w.Body)
		}
		return w.Code
	}
	for _, tc := range []struct {
		method, path, token string
		want                int
	}{
		{"GET", "/metrics", "scraper-token", 200},
		{"GET", "/metrics", "other-token", 403},
		{"GET", "/metrics", "bad-token", 401},
		{"GET", "/metrics", "", 401},
		{"POST", "/metrics", "scraper-token", 404},
		{"GET", "/metrics/../debug", "scraper-token", 404},
	} {
		if got := ask(tc.method, tc.path, tc.token); got != tc.want {
			t.Errorf("%s %s with %q: %d, want %d", tc.method, tc.path, tc.token, got, tc.want)
		}
	}
	down = errors.New("the API server is down")
	if got := ask("GET", "/metrics", "new-token"); got != 503 {
		t.Errorf("nobody could be asked: %d", got)
	}
}
