// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"chatrun.dev/operator/api/stream"
)

const listPath = "/v1/namespaces/default/chatruns"

// lister lists what a function says.
type lister func(namespace string) ([]stream.Summary, bool, error)

func (l lister) Runs(_ context.Context, namespace string) ([]stream.Summary, bool, error) {
	return l(namespace)
}

// runsOf returns n runs, two of each second, in the order of a list.
func runsOf(n int) []stream.Summary {
	runs := make([]stream.Summary, n)
	for i := range runs {
		runs[i] = stream.Summary{Name: fmt.Sprintf("run-%04d", i), UID: fmt.Sprint(i), Phase: "Pending", CreatedAt: time.Unix(int64(1e9+i/2), 0)}
	}
	slices.SortFunc(runs, Newest)
	return runs
}

// askList asks a handler for a list.
func askList(t *testing.T, h *Handler, method, target, etag string) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), method, target, http.NoBody)
	r.Header.Set("If-None-Match", etag)
	h.ServeHTTP(w, r)
	return w
}

func decodeList(t *testing.T, w *httptest.ResponseRecorder) stream.RunList {
	t.Helper()
	var list stream.RunList
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != http.StatusOK {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	return list
}

func listHandler(guard Guard, l Lister) *Handler {
	h := NewHandler(NewHub(), views(View{}), guard)
	h.Lister = l
	return h
}

// TestListPages: page by page each run comes once, whatever is created or deleted
// meanwhile, the run included that the page before ended with.
func TestListPages(t *testing.T) {
	runs := runsOf(25)
	h := listHandler(Anyone, lister(func(string) ([]stream.Summary, bool, error) { return runs, true, nil }))
	var got []string
	target := listPath + "?limit=10"
	for pages := 1; ; pages++ {
		list := decodeList(t, askList(t, h, "GET", target, ""))
		if list.Namespace != "default" || !list.Truncated || len(list.Runs) > 10 {
			t.Errorf("page %d: %q, truncated %v, %d runs", pages, list.Namespace, list.Truncated, len(list.Runs))
		}
		for i := range list.Runs {
			got = append(got, list.Runs[i].Name)
		}
		if list.Continue == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
		target = listPath + "?limit=10&continue=" + url.QueryEscape(list.Continue)
		// The last one of the page goes, and a newer one comes.
		last := list.Runs[len(list.Runs)-1].Name
		runs = slices.DeleteFunc(slices.Clone(runs), func(s stream.Summary) bool { return s.Name == last })
		runs = append([]stream.Summary{{Name: fmt.Sprintf("new-%d", pages), CreatedAt: time.Unix(2e9, 0)}}, runs...)
		slices.SortFunc(runs, Newest)
	}
	var want []string
	for _, s := range runsOf(25) {
		want = append(want, s.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("listed %q", got)
	}
}

// TestListRefuses what is wrong, in the manners of a stream.
func TestListRefuses(t *testing.T) {
	good := lister(func(string) ([]stream.Summary, bool, error) { return runsOf(600), false, nil })
	failing := func(err error) Lister {
		return lister(func(string) ([]stream.Summary, bool, error) { return nil, false, err })
	}
	for _, tc := range []struct {
		name, method, target string
		lister               Lister
		code                 int
		want                 string
	}{
		{"a list", "GET", listPath, good, 200, `"continue"`},
		{"no limit above the bound", "GET", listPath + "?limit=100000", good, 200, `"continue"`},
		{"a limit that is none", "GET", listPath + "?limit=x", good, 400, "limit"},
		{"a limit of nothing", "GET", listPath + "?limit=0", good, 400, "limit"},
		{"garbage to go on from", "GET", listPath + "?continue=garbage", good, 400, "continue"},
		{"a name that is none", "GET", listPath + "?continue=2026-01-02T15:04:05Z/A", good, 400, "continue"},
		{"POST", "POST", listPath, good, 405, "GET"},
		{"no namespace", "GET", "/v1/namespaces/A/chatruns", good, 400, "namespace"},
		{"not at the API server's door", "GET", "/apis/stream.chatrun.dev/v1alpha1/namespaces/default/chatruns", good, 404, "no such path"},
		{"no lister", "GET", listPath, nil, 404, "lists no runs"},
		{"not watched", "GET", listPath, failing(ErrNotWatched), 404, "does not watch"},
		{"no answer", "GET", listPath, failing(errors.New("a secret")), 503, "try again"},
		{"none", "GET", listPath, lister(func(string) ([]stream.Summary, bool, error) { return nil, false, nil }), 200, `"runs":[]`},
	} {
		w := askList(t, listHandler(Anyone, tc.lister), tc.method, tc.target, "")
		if w.Code != tc.code || !strings.Contains(w.Body.String(), tc.want) || strings.Contains(w.Body.String(), "a secret") {
			t.Errorf("%s: %d, want %d with %q: %s", tc.name, w.Code, tc.code, tc.want, w.Body)
		}
	}
	if n := len(decodeList(t, askList(t, listHandler(Anyone, good), "GET", listPath+"?limit=100000", "")).Runs); n != maxList {
		t.Errorf("%d runs in a page", n)
	}
}

// TestListUnchanged: who has the list is not sent it again.
func TestListUnchanged(t *testing.T) {
	runs := runsOf(3)
	h := listHandler(Anyone, lister(func(string) ([]stream.Summary, bool, error) { return runs, false, nil }))
	etag := askList(t, h, "GET", listPath, "").Header().Get("ETag")
	if w := askList(t, h, "GET", listPath, etag); etag == "" || w.Code != http.StatusNotModified || w.Body.Len() > 0 {
		t.Errorf("%q: %d, %d bytes", etag, w.Code, w.Body.Len())
	}
	runs = slices.Clone(runs)
	runs[1].Phase = "Streaming"
	if w := askList(t, h, "GET", listPath, etag); w.Code != http.StatusOK || w.Header().Get("ETag") == etag {
		t.Errorf("after a change: %d", w.Code)
	}
}

// TestListAsksTheGuardFirst, and makes only so many at one time.
func TestListAsksTheGuardFirst(t *testing.T) {
	looked := false
	l := lister(func(string) ([]stream.Summary, bool, error) {
		looked = true
		return nil, false, nil
	})
	var asked []string
	w := askList(t, listHandler(nobody{&asked}, l), "GET", listPath+"?limit=x", "")
	if w.Code != http.StatusForbidden || looked || !slices.Equal(asked, []string{"default/*"}) {
		t.Errorf("%d, looked %v, asked %q", w.Code, looked, asked)
	}
	h := listHandler(Anyone, l)
	for range maxLists {
		h.lists <- struct{}{}
	}
	if w := askList(t, h, "GET", listPath, ""); w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" || looked {
		t.Errorf("one too many: %d", w.Code)
	}
	<-h.lists
	if w := askList(t, h, "GET", listPath, ""); w.Code != http.StatusOK || len(h.lists) != maxLists-1 {
		t.Errorf("with a place: %d, %d taken", w.Code, len(h.lists))
	}
}
