// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
)

// memory answers requests by a handler without a network, for time that is no real one.
type memory struct{ http.Handler }

// RoundTrip implements http.RoundTripper.
func (m memory) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Result(), nil
}

// api is an API server that holds one run.
type api struct {
	// get and watch answer the tries in turn, and the last one those that follow.
	get, watch *manager
	configMap  http.HandlerFunc
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case strings.HasSuffix(r.URL.Path, "/configmaps/answer"):
		a.configMap(w, r)
	case r.URL.Query().Get("watch") != "":
		a.watch.ServeHTTP(w, r)
	default:
		a.get.ServeHTTP(w, r)
	}
}

func (a *api) object(t *testing.T) *Object {
	t.Helper()
	client, err := runs.New(&rest.Config{Host: "http://api.example", Transport: memory{a}, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return &Object{Client: client}
}

// answers is a manager's list of them.
func answers(all ...http.HandlerFunc) *manager { return &manager{answers: all} }

func object(v any) http.HandlerFunc {
	raw, err := json.Marshal(v)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write(raw)
	}
}

// changes answers a watch that ends after them.
func changes(kind string, all ...any) http.HandlerFunc {
	var lines strings.Builder
	for _, v := range all {
		raw, err := json.Marshal(v)
		if err != nil {
			panic(err)
		}
		_, _ = fmt.Fprintf(&lines, `{"type":%q,"object":%s}`+"\n", kind, raw)
	}
	return code(http.StatusOK, lines.String())
}

func run(phase v1alpha1.Phase) *v1alpha1.ChatRun {
	r := &v1alpha1.ChatRun{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "ChatRun"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "hello", ResourceVersion: "7"},
	}
	r.Status.Phase, r.Status.Attempt = phase, new(int32(1))
	return r
}

func ended(phase v1alpha1.Phase, text string) *v1alpha1.ChatRun {
	r := run(phase)
	r.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue, Reason: "Ended"},
		{Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionFalse, Reason: "Why", Message: "because"},
	}
	r.Status.Output = &v1alpha1.Output{Text: text, Bytes: new(int64(5))}
	return r
}

func waits() *v1alpha1.ChatRun {
	r := run(v1alpha1.PhaseRetrying)
	r.Status.DelayMs, r.Status.LastError, r.Status.LastErrorReason = new(int64(900)), "busy", "Overloaded"
	r.Status.RetryingAt = &metav1.MicroTime{Time: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}
	return r
}

// status of the API server, in a watch.
func expired() *metav1.Status {
	return &metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: 410, Reason: metav1.StatusReasonExpired}
}

func TestObjectTellsPhasesRetriesAndTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &api{
			get: answers(object(run(v1alpha1.PhaseStreaming)), object(waits())),
			watch: answers(
				changes("MODIFIED", run(v1alpha1.PhaseStreaming), waits(), waits()),
				changes("ERROR", expired()),
				changes("MODIFIED", run(v1alpha1.PhaseStreaming), ended(v1alpha1.PhaseSucceeded, "Hello"), run(v1alpha1.PhasePending)),
			),
		}
		var events []string
		var end stream.Done
		err := a.object(t).follow(t.Context(), hello, true, func(e Event) {
			told(&events)(e)
			if last, is := e.(stream.Done); is {
				end = last
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "the events", events, "Status", "Status", "Retry", "Status", "Status", "Hello", "Done")
		if end.Phase != "Succeeded" || end.Truncated || end.Bytes != 5 {
			t.Errorf("the end is %+v", end)
		}
		if q := a.watch.requests[0].URL.Query(); q.Get("fieldSelector") != "metadata.name=hello" || q.Get("resourceVersion") != "7" {
			t.Errorf("it watches %v", q)
		}
	})
}

func TestObjectTellsHowMuchOfTheTextIsKept(t *testing.T) {
	kept := func(text string) http.HandlerFunc {
		return object(map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]string{v1alpha1.StoredText: text}})
	}
	for name, c := range map[string]struct {
		run       *v1alpha1.ChatRun
		stored    http.HandlerFunc
		text      string
		truncated bool
	}{
		"whole":               {ended(v1alpha1.PhaseSucceeded, "Hello"), nil, "Hello", false},
		"cut":                 {ended(v1alpha1.PhaseSucceeded, "Hel"), nil, "Hel", true},
		"stored":              {ended(v1alpha1.PhaseSucceeded, "Hel"), kept("Hello"), "Hello", false},
		"stored out of sight": {ended(v1alpha1.PhaseSucceeded, "Hel"), failure(403, "Forbidden", "no"), "Hel", true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.stored != nil {
				c.run.Status.Output.ConfigMapName = "answer"
			}
			a := &api{get: answers(object(c.run)), configMap: c.stored}
			var text string
			var end stream.Done
			err := a.object(t).follow(t.Context(), hello, true, func(e Event) {
				switch e := e.(type) {
				case stream.MessagePart:
					text += e.Text
				case stream.Done:
					end = e
				}
			})
			if err != nil || text != c.text || end.Truncated != c.truncated {
				t.Errorf("the text is %q, truncated %t, with %v", text, end.Truncated, err)
			}
		})
	}
}

func TestObjectTellsWhyARunFailed(t *testing.T) {
	a := &api{get: answers(object(ended(v1alpha1.PhaseFailed, "")))}
	var events []string
	if err := a.object(t).follow(t.Context(), hello, false, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "Status", "failed Why", "Done")
}

func TestObjectWithoutFollowTellsWhatStands(t *testing.T) {
	a := &api{get: answers(object(waits()))}
	var events []string
	if err := a.object(t).follow(t.Context(), hello, false, told(&events)); err != nil {
		t.Fatal(err)
	}
	expect(t, "the events", events, "Status", "Retry")
}

func TestObjectEndsWhereNothingIsToBeHad(t *testing.T) {
	running := object(run(v1alpha1.PhaseStreaming))
	for name, c := range map[string]struct {
		a  *api
		is func(error) bool
	}{
		"no such run":  {&api{get: answers(failure(404, "NotFound", "no"))}, apierrors.IsNotFound},
		"forbidden":    {&api{get: answers(failure(403, "Forbidden", "no"))}, apierrors.IsForbidden},
		"unauthorized": {&api{get: answers(failure(401, "Unauthorized", "no"))}, apierrors.IsUnauthorized},
		"watch":        {&api{get: answers(running), watch: answers(failure(403, "Forbidden", "no"))}, apierrors.IsForbidden},
		"deleted":      {&api{get: answers(running), watch: answers(changes("DELETED", run(v1alpha1.PhaseStreaming)))}, apierrors.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			if err := c.a.object(t).follow(t.Context(), hello, true, func(Event) {}); !c.is(err) {
				t.Errorf("the error is %v", err)
			}
			if n := len(c.a.get.requests); n != 1 {
				t.Errorf("it asks %d times", n)
			}
		})
	}
}

// A watch that never comes about is given up, though the run can be read.
func TestObjectGivesUpAfterSomeFailures(t *testing.T) {
	running := object(run(v1alpha1.PhaseStreaming))
	for name, a := range map[string]*api{
		"get":            {get: answers(failure(500, "InternalError", "broken"))},
		"watch":          {get: answers(running), watch: answers(failure(500, "InternalError", "broken"))},
		"error in watch": {get: answers(running), watch: answers(changes("ERROR", expired()))},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err := a.object(t).follow(ctx, hello, true, func(Event) {})
				if err == nil || !strings.Contains(err.Error(), "failed 8 times in a row") {
					t.Errorf("after %s and %d tries the error is %v", time.Since(began), len(a.get.requests), err)
				}
				if took := time.Since(began); took < 15*time.Second {
					t.Errorf("it gives up after %s, sooner than a server is replaced", took)
				}
			})
		})
	}
}
