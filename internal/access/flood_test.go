// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// slowAPI is an API server that takes a second for each review, refuses every
// token, and counts how many reviews there are at one time.
type slowAPI struct {
	mu                sync.Mutex
	reviews, now, top int
}

// RoundTrip implements http.RoundTripper.
func (s *slowAPI) RoundTrip(r *http.Request) (*http.Response, error) {
	s.count(1)
	defer s.count(-1)
	select {
	case <-time.After(time.Second):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: http.StatusCreated, Header: http.Header{"Content-Type": {"application/json"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(`{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","status":{"authenticated":false}}`)),
	}, nil
}

func (s *slowAPI) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now += change
	s.reviews += max(0, change)
	s.top = max(s.top, s.now)
}

// TestFloodOfBadTokens: the API server is asked about few at a time, whatever
// comes; the others are told to come back.
func TestFloodOfBadTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &slowAPI{}
		client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api", Transport: server, QPS: -1})
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, Options{Client: client})
		var mu sync.Mutex
		codes := map[int]int{}
		var callers sync.WaitGroup
		for i := range 500 {
			callers.Go(func() {
				code := w.admit(request{token: fmt.Sprint("bad-", i)}).Code
				mu.Lock()
				defer mu.Unlock()
				codes[code]++
			})
		}
		callers.Wait()
		if server.top != maxReviews {
			t.Errorf("%d reviews at one time", server.top)
		}
		if codes[401] < 9*maxReviews || codes[401]+codes[503] != 500 {
			t.Errorf("codes %v", codes)
		}
		if lines := strings.Count(w.logged(), "\n"); lines != 1 || !strings.Contains(w.logged(), "too many readers at once") {
			t.Errorf("%d lines: %s", lines, w.logged())
		}
	})
}
