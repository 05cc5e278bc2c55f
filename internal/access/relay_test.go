// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"chatrun.dev/operator/internal/streamer"
)

var _ streamer.Admitter = (*RelayGuard)(nil)

// The tokens of replicas, and of those who are none.
const (
	replicaToken  = "replica-token-41d0"
	ordinaryToken = "ordinary-token-93be" // the manager's own, for the API server
	otherToken    = "other-token-5512"    // for replicas, of another ServiceAccount
	silentToken   = "silent-token-6a6a"   // good, but of an authenticator that knows no audiences
	manager       = "system:serviceaccount:chatrun-system:manager"
)

// relayAPI answers reviews as an API server does that knows audiences.
type relayAPI struct {
	*api
	selves int
	uid    string // of the account that asks
}

func newRelayAPI() *relayAPI {
	a := &relayAPI{api: newAPI()}
	users := map[string]string{replicaToken: manager, ordinaryToken: manager, otherToken: "system:serviceaccount:chatrun-system:other", silentToken: manager}
	audiences := map[string][]string{
		replicaToken: {RelayAudience}, otherToken: {RelayAudience}, ordinaryToken: {"https://kubernetes.default.svc"},
	}
	a.PrependReactor("create", "tokenreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.tokenReviews++
		if a.down != nil {
			return true, nil, a.down
		}
		review := created[*authenticationv1.TokenReview](action).DeepCopy()
		if !slices.Equal(review.Spec.Audiences, []string{RelayAudience}) {
			panic("a review without the audience")
		}
		user := users[review.Spec.Token]
		for _, one := range audiences[review.Spec.Token] {
			if slices.Contains(review.Spec.Audiences, one) {
				review.Status.Audiences = append(review.Status.Audiences, one)
			}
		}
		review.Status.Authenticated = user != "" && (len(review.Status.Audiences) > 0 || review.Spec.Token == silentToken)
		review.Status.User.Username = user
		return true, review, nil
	})
	a.PrependReactor("create", "selfsubjectreviews", func(action clienttesting.Action) (bool, runtime.Object, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.selves++
		if a.down != nil {
			return true, nil, a.down
		}
		review := created[*authenticationv1.SelfSubjectReview](action).DeepCopy()
		review.Status.UserInfo.Username, review.Status.UserInfo.UID = manager, a.uid
		return true, review, nil
	})
	return a
}

// TestRelayGuard tries each way not to be a replica, and the one to be.
func TestRelayGuard(t *testing.T) {
	for name, tc := range map[string]struct {
		header string
		code   int
	}{
		"a replica":          {"Bearer " + replicaToken, http.StatusOK},
		"no token":           {"", http.StatusUnauthorized},
		"another scheme":     {"Basic " + replicaToken, http.StatusUnauthorized},
		"an ordinary token":  {"Bearer " + ordinaryToken, http.StatusUnauthorized},
		"no audience at all": {"Bearer " + silentToken, http.StatusUnauthorized},
		"another account":    {"Bearer " + otherToken, http.StatusForbidden},
		"a user of streams":  {"Bearer " + janeToken, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			server := newRelayAPI()
			guard := NewRelayGuard(server, NewSelf(server), newWorld(t, Options{Client: server}).logger())
			answer := askRelay(t, guard, tc.header)
			if answer.Code != tc.code {
				t.Fatalf("%d: %s", answer.Code, answer.Body)
			}
			for _, secret := range []string{replicaToken, ordinaryToken, otherToken, silentToken, manager} {
				if strings.Contains(answer.Body.String(), secret) {
					t.Errorf("the answer holds %q: %s", secret, answer.Body)
				}
			}
			if tc.code != http.StatusOK {
				status(t, answer)
			}
		})
	}
}

func askRelay(t *testing.T, guard *RelayGuard, header string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, streamer.RelayPath+"default/chatruns/hello?uid=1", http.NoBody)
	if header != "" {
		r.Header.Set("Authorization", header)
	}
	answer := httptest.NewRecorder()
	if admitted := guard.Admit(answer, r, "default", "hello"); admitted != (answer.Code == http.StatusOK) {
		t.Errorf("admitted: %v, and answered %d", admitted, answer.Code)
	}
	return answer
}

// TestRelayGuardAsksSparingly: one review for all of some seconds, and one
// question who this manager is for ever; one that failed is asked again.
func TestRelayGuardAsksSparingly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newRelayAPI()
		guard := NewRelayGuard(server, NewSelf(server), newWorld(t, Options{Client: server}).logger())
		server.down = errDown
		for range 5 {
			if code := askRelay(t, guard, "Bearer "+replicaToken).Code; code != http.StatusServiceUnavailable {
				t.Errorf("%d while the API server is down", code)
			}
		}
		server.set(func() { server.down = nil; server.tokenReviews = 0 })
		for range 5 {
			if code := askRelay(t, guard, "Bearer "+replicaToken).Code; code != http.StatusOK {
				t.Errorf("%d", code)
			}
			<-time.After(time.Second)
		}
		if server.tokenReviews != 1 || server.selves != 1 {
			t.Errorf("%d reviews, %d questions who we are", server.tokenReviews, server.selves)
		}
		<-time.After(allowTTL)
		askRelay(t, guard, "Bearer "+replicaToken)
		if server.tokenReviews != 2 || server.selves != 1 {
			t.Errorf("later: %d reviews, %d questions who we are", server.tokenReviews, server.selves)
		}
	})
}

// TestSelfOwnsWhatItMakes: in its own namespace, as what the API server says that it is.
func TestSelfOwnsWhatItMakes(t *testing.T) {
	server := newRelayAPI()
	self := NewSelf(server)
	if got := self.Owners(t.Context(), "chatrun-system"); got != nil {
		t.Errorf("owned by an account without a UID: %v", got)
	}
	server = newRelayAPI()
	server.uid = "uid-1"
	self = NewSelf(server)
	want := metav1.OwnerReference{APIVersion: "v1", Kind: "ServiceAccount", Name: "manager", UID: "uid-1"}
	if got := self.Owners(t.Context(), "chatrun-system"); len(got) != 1 || got[0] != want {
		t.Errorf("owned by %v, want %v", got, want)
	}
	if got := self.Owners(t.Context(), "elsewhere"); got != nil {
		t.Errorf("owned by an account of another namespace: %v", got)
	}
	server.down = errDown
	if got := NewSelf(server).Owners(t.Context(), "chatrun-system"); got != nil {
		t.Errorf("owned by %v, which nobody said", got)
	}
}

// TestSelfIsAskedAgain: a failure is kept for a second alone.
func TestSelfIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newRelayAPI()
		server.down = errDown
		self := NewSelf(server)
		for range 3 {
			if _, err := self.Name(t.Context()); err == nil {
				t.Error("a name from nowhere")
			}
		}
		if server.selves != 1 {
			t.Errorf("asked %d times at once", server.selves)
		}
		server.set(func() { server.down = nil })
		<-time.After(selfRetry)
		if name, err := self.Name(t.Context()); err != nil || name != manager {
			t.Errorf("%q, %v", name, err)
		}
	})
}
