// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	lru "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

// listing is a reader that counts its lists, and fails if it is told to.
type listing struct {
	client.Reader
	lists int
	err   error
}

func (l *listing) List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error {
	if l.lists++; l.err != nil {
		return l.err
	}
	return l.Reader.List(ctx, list, opts...)
}

func newLists(t *testing.T, objects ...client.Object) (*RunLists, *listing) {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	cache := &listing{Reader: fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()}
	return &RunLists{cache: cache, kept: lru.NewLRUExpireCache(maxNamespaces)}, cache
}

// TestRunsAreListed: those of the namespace, the newest first, and no word of what
// was asked and answered.
func TestRunsAreListed(t *testing.T) {
	old, young := newRun(waiting(2, time.Minute)), newRun(ended(succeed, ""))
	old.Name, old.UID, old.CreationTimestamp = "old", "1", metav1.Unix(1000, 0)
	young.Name, young.UID, young.CreationTimestamp = "young", "2", metav1.Unix(2000, 0)
	young.Annotations = map[string]string{v1alpha1.AnnotationTitle: "A title"}
	old.Spec.Prompt = "secret question"
	elsewhere := newRun()
	elsewhere.Namespace = "elsewhere"
	l, _ := newLists(t, old, young, elsewhere)
	runs, truncated, err := l.Runs(t.Context(), old.Namespace)
	if err != nil || truncated || len(runs) != 2 || runs[0].Name != "young" || runs[1].Name != "old" {
		t.Fatalf("%+v, %v, %v", runs, truncated, err)
	}
	if runs[0].Title != "A title" || runs[0].Phase != string(v1alpha1.PhaseSucceeded) || !runs[0].RetryingAt.IsZero() {
		t.Errorf("young: %+v", runs[0])
	}
	if s := runs[1]; s.Attempt != 2 || s.Phase != string(v1alpha1.PhaseRetrying) || !s.RetryingAt.Equal(old.Status.RetryingAt.Time) ||
		s.DelayMs != *old.Status.DelayMs || s.Provider != old.Spec.ProviderRef.Name || s.UID != "1" {
		t.Errorf("old: %+v", s)
	}
	if raw, _ := json.Marshal(runs); strings.Contains(string(raw), "secret question") {
		t.Error("the question is in the list")
	}
}

// TestListsAreShared: however many ask, a namespace is looked at once a second.
func TestListsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, cache := newLists(t, newRun())
		ask := func() error {
			_, _, err := l.Runs(t.Context(), "default")
			return err
		}
		for range 10 {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
		}
		if cache.lists != 1 {
			t.Errorf("ten lists cost %d", cache.lists)
		}
		<-time.After(2 * listTTL)
		if err := ask(); err != nil || cache.lists != 2 {
			t.Errorf("a while later: %v, %d", err, cache.lists)
		}
		<-time.After(2 * listTTL)
		cache.err = errors.New("no")
		if err := ask(); err == nil {
			t.Error("a failure passes for a list")
		}
		if cache.err = nil; ask() != nil {
			t.Error("a failure is kept")
		}
	})
}

func TestListsOfOtherNamespaces(t *testing.T) {
	l, cache := newLists(t)
	l.only = []string{"team"}
	if _, _, err := l.Runs(t.Context(), "default"); !errors.Is(err, streamer.ErrNotWatched) || cache.lists != 0 {
		t.Errorf("%v, %d lists", err, cache.lists)
	}
}

func TestLongListsAreCut(t *testing.T) {
	objects := make([]client.Object, maxListed+1)
	for i := range objects {
		run := newRun()
		run.Name, run.UID, run.CreationTimestamp = fmt.Sprintf("run-%d", i), "", metav1.Unix(int64(i+1), 0)
		objects[i] = run
	}
	l, _ := newLists(t, objects...)
	runs, truncated, err := l.Runs(t.Context(), newRun().Namespace)
	if err != nil || !truncated || len(runs) != maxListed || runs[0].Name != fmt.Sprintf("run-%d", maxListed) {
		t.Errorf("%d runs, truncated %v, %v", len(runs), truncated, err)
	}
}

// TestWalk reads the columns of runs from an API server, to the last page or to the
// bound, and passes its failures on.
func TestWalk(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pages int // 0 for no end
		code  int
		want  int
	}{
		{"one page", 1, 200, 1}, {"three pages", 3, 200, 3}, {"no end", 0, 200, maxWalked / walkedPage}, {"a failure", 1, 500, -1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var asked atomic.Int64
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				n := int(asked.Add(1))
				after := ""
				if n > 1 {
					after = fmt.Sprint(n - 1)
				}
				if q := r.URL.Query(); r.URL.Path != "/apis/chatrun.dev/v1alpha1/namespaces/default/chatruns" || q.Get("continue") != after ||
					q.Get("limit") == "" || q.Get("includeObject") != "Metadata" || !strings.Contains(r.Header.Get("Accept"), "as=Table") {
					t.Errorf("asked for %s, as %s", r.URL, r.Header.Get("Accept"))
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(tc.code)
				next := ""
				if tc.pages == 0 || n < tc.pages {
					next = fmt.Sprint(n)
				}
				fmt.Fprintf(w, `{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{"continue":%q},
					"columnDefinitions":[{"name":"Name"},{"name":"Phase"},{"name":"Attempt"},{"name":"Retrying-At"},{"name":"New"}],
					"rows":[{"cells":["x","Retrying",3,"2026-01-02T15:04:05.123456Z",null],
					"object":{"metadata":{"name":"run-%03d","uid":"u","creationTimestamp":"2026-01-02T15:04:05Z"}}}]}`, next, n)
			}))
			defer server.Close()
			set, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
			if err != nil {
				t.Fatal(err)
			}
			l := &RunLists{api: set.Discovery().RESTClient(), kept: lru.NewLRUExpireCache(maxNamespaces)}
			runs, truncated, err := l.Runs(t.Context(), "default")
			if tc.want < 0 {
				if err == nil {
					t.Error("it passes for a list")
				}
				return
			}
			if err != nil || len(runs) != tc.want || truncated != (tc.pages == 0) || int(asked.Load()) != tc.want {
				t.Fatalf("%d runs, truncated %v, %d requests, %v", len(runs), truncated, asked.Load(), err)
			}
			at := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
			want := stream.Summary{Name: "run-001", UID: "u", Phase: "Retrying", Attempt: 3, RetryingAt: at.Add(123456 * time.Microsecond), CreatedAt: at}
			if !slices.IsSortedFunc(runs, streamer.Newest) || runs[0] != want {
				t.Errorf("%+v", runs[0])
			}
		})
	}
}
