// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"go.uber.org/goleak"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"chatrun.dev/operator/internal/streamer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A Gate is what the stream endpoint asks.
var _ streamer.Guard = (*Gate)(nil)

var secretName = types.NamespacedName{Namespace: "chatrun-system", Name: "chatrun-stream-tickets"}

// The tokens of the API server's users. jane may read default/hello.
const (
	janeToken = "jane-token-8c1f"
	joeToken  = "joe-token-77aa"
	badToken  = "bad-token-0b0b"
)

// api is an API server of which only the reviews and Secrets are there.
type api struct {
	*fake.Clientset

	mu sync.Mutex
	// users are by token, readers by "user namespace/name".
	users   map[string]authenticationv1.UserInfo
	readers map[string]bool
	// down is what every review fails with.
	down error
	// thinking, if not nil, is closed when reviews are to be answered.
	thinking chan struct{}

	tokenReviews, accessReviews int
	asked                       authorizationv1.SubjectAccessReviewSpec
}

func newAPI(objects ...runtime.Object) *api {
	a := &api{
		Clientset: fake.NewClientset(objects...),
		users: map[string]authenticationv1.UserInfo{
			janeToken: {Username: "jane", UID: "uid-jane", Groups: []string{"staff"}, Extra: map[string]authenticationv1.ExtraValue{"scopes": {"chat"}}},
			joeToken:  {Username: "joe"},
		},
		readers: map[string]bool{"jane default/hello": true, "joe other/hello": true},
	}
	a.PrependReactor("create", "tokenreviews", a.reviewToken)
	a.PrependReactor("create", "subjectaccessreviews", a.reviewAccess)
	return a
}

// created returns what a request wants to create.
func created[T runtime.Object](action clienttesting.Action) T {
	create, ok := action.(clienttesting.CreateAction)
	if !ok {
		panic("not a create")
	}
	object, ok := create.GetObject().(T)
	if !ok {
		panic("another kind")
	}
	return object
}

func (a *api) reviewToken(action clienttesting.Action) (bool, runtime.Object, error) {
	if a.thinking != nil {
		<-a.thinking
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tokenReviews++
	if a.down != nil {
		return true, nil, a.down
	}
	review := created[*authenticationv1.TokenReview](action).DeepCopy()
	review.Status.User, review.Status.Authenticated = a.users[review.Spec.Token], a.users[review.Spec.Token].Username != ""
	if !review.Status.Authenticated {
		review.Status.Error = "invalid bearer token"
	}
	return true, review, nil
}

func (a *api) reviewAccess(action clienttesting.Action) (bool, runtime.Object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accessReviews++
	if a.down != nil {
		return true, nil, a.down
	}
	review := created[*authorizationv1.SubjectAccessReview](action).DeepCopy()
	a.asked = review.Spec
	wanted := review.Spec.ResourceAttributes
	review.Status.Allowed = a.readers[review.Spec.User+" "+wanted.Namespace+"/"+wanted.Name]
	return true, review, nil
}

// set changes the API server.
func (a *api) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// reviews returns how many there were of both kinds.
func (a *api) reviews() (token, access int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tokenReviews, a.accessReviews
}

var errDown = errors.New("the API server is down")

// world is a gate with all that it wrote.
type world struct {
	*testing.T
	gate *Gate
	log  *bytes.Buffer
	mu   *sync.Mutex
	// secrets are what must be in no log and no answer.
	secrets []string
}

func newWorld(t *testing.T, o Options) *world {
	t.Helper()
	w := &world{T: t, log: &bytes.Buffer{}, mu: &sync.Mutex{}, secrets: []string{janeToken, joeToken, badToken}}
	o.Log = w.logger()
	if o.TicketSecret.Name == "" {
		o.TicketSecret = secretName
	}
	w.gate = New(o)
	t.Cleanup(func() { w.clean("the log", w.logged()) })
	return w
}

// logger writes everything there is to write.
func (w *world) logger() logr.Logger {
	return funcr.New(func(_, args string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.log.WriteString(args + "\n")
	}, funcr.Options{Verbosity: 10})
}

func (w *world) logged() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// clean fails if a secret is in the text.
func (w *world) clean(where, text string) {
	w.Helper()
	for _, secret := range w.secrets {
		if strings.Contains(text, secret) {
			w.Errorf("%s holds a secret: %s", where, text)
		}
	}
}

// request is one to the stream of default/hello.
type request struct {
	token, ticket   string
	header          http.Header
	namespace, name string
}

func (q request) build(t testing.TB, method string) (r *http.Request, namespace, name string) {
	r = httptest.NewRequestWithContext(t.Context(), method, "/v1/x?follow=true&ticket="+q.ticket, http.NoBody)
	if q.header != nil {
		r.Header = q.header
	}
	if q.token != "" {
		r.Header.Set("Authorization", "Bearer "+q.token)
	}
	namespace, name = "default", "hello"
	if q.namespace != "" {
		namespace = q.namespace
	}
	if q.name != "" {
		name = q.name
	}
	return r, namespace, name
}

// admit asks the gate, and returns its answer; the code is 200 if it gave none.
func (w *world) admit(q request) *httptest.ResponseRecorder {
	w.Helper()
	r, namespace, name := q.build(w.T, http.MethodGet)
	answer := httptest.NewRecorder()
	if admitted := w.gate.Admit(answer, r, namespace, name); admitted != (answer.Code == http.StatusOK) {
		w.Errorf("admitted: %v, and answered %d", admitted, answer.Code)
	}
	w.check(q, answer)
	return answer
}

// check wants an answer without secrets: neither one that is known, nor what
// came with the request.
func (w *world) check(q request, answer *httptest.ResponseRecorder) {
	w.Helper()
	w.clean("the answer", answer.Body.String())
	if len(q.ticket) > 20 && strings.Contains(answer.Body.String()+w.logged(), q.ticket) {
		w.Errorf("the ticket was written down")
	}
}

// issue asks for a ticket, and returns the answer.
func (w *world) issue(q request) *httptest.ResponseRecorder {
	w.Helper()
	r, namespace, name := q.build(w.T, http.MethodPost)
	answer := httptest.NewRecorder()
	w.gate.Issue(answer, r, namespace, name)
	w.check(q, answer)
	return answer
}

// ticket issues one, and wants it.
func (w *world) ticket(q request) string {
	w.Helper()
	answer := w.issue(q)
	var got struct{ Ticket string }
	if err := json.Unmarshal(answer.Body.Bytes(), &got); err != nil || answer.Code != http.StatusCreated || got.Ticket == "" {
		w.Fatalf("no ticket: %d %s", answer.Code, answer.Body)
	}
	return got.Ticket
}

// status decodes a refusal.
func status(t *testing.T, answer *httptest.ResponseRecorder) metav1.Status {
	t.Helper()
	var s metav1.Status
	if err := json.Unmarshal(answer.Body.Bytes(), &s); err != nil {
		t.Fatalf("no Status: %v: %s", err, answer.Body)
	}
	if s.Kind != "Status" || s.APIVersion != "v1" || s.Status != metav1.StatusFailure || int(s.Code) != answer.Code {
		t.Errorf("a Status that does not fit the code %d: %+v", answer.Code, s)
	}
	if answer.Header().Get("Content-Type") != "application/json" || answer.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("headers of a refusal: %v", answer.Header())
	}
	return s
}

// leave asks, and goes away meanwhile.
func (w *world) leave(r *http.Request, namespace, name string) int {
	ctx, cancel := context.WithTimeout(r.Context(), time.Millisecond)
	defer cancel()
	answer := httptest.NewRecorder()
	w.gate.Admit(answer, r.WithContext(ctx), namespace, name)
	return answer.Code
}
