// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestLogOfRequests reads the line of each kind of request.
func TestLogOfRequests(t *testing.T) {
	server := newAPI()
	w := newWorld(t, Options{Client: server})
	ticket := w.ticket(request{token: janeToken})
	w.secrets = append(w.secrets, ticket)
	handler := Log(w.logger(), http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		if !w.gate.Admit(answer, r, "default", r.URL.Query().Get("run")) {
			return
		}
		switch r.URL.Path {
		case "/early":
			answer.WriteHeader(http.StatusEarlyHints)
			_, _ = io.WriteString(answer, "hello")
		case "/flush":
			// What streams do: the log must not be in the way.
			control := http.NewResponseController(answer)
			if err := control.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Errorf("no deadline: %v", err)
			}
			if err := control.Flush(); err != nil {
				t.Errorf("no flush: %v", err)
			}
		case "/abort":
			_, _ = io.WriteString(answer, "hel")
			_ = http.NewResponseController(answer).Flush()
			panic(http.ErrAbortHandler)
		}
	}))
	endpoint := httptest.NewServer(handler)
	defer endpoint.Close()
	long := "/" + strings.Repeat("x", 2*maxLoggedPath)
	for _, tc := range []struct{ path, run, token, ticket, want string }{
		{"/early", "hello", janeToken, "", `"level"=1 "msg"="request" "method"="GET" "path"="/early" "code"=200 "user"="jane" "duration"=D "bytes"=5 "aborted"=false`},
		{"/early", "hello", "", ticket, `"level"=1 "msg"="request" "method"="GET" "path"="/early" "code"=200 "user"="jane" "duration"=D "bytes"=5 "aborted"=false`},
		{"/flush", "hello", janeToken, ticket, `"level"=1 "msg"="request" "method"="GET" "path"="/flush" "code"=200 "user"="jane" "duration"=D "bytes"=0 "aborted"=false`},
		{"/abort", "hello", janeToken, ticket, `"level"=1 "msg"="request" "method"="GET" "path"="/abort" "code"=200 "user"="jane" "duration"=D "bytes"=3 "aborted"=true`},
		{"/x", "secret", janeToken, "", `"level"=0 "msg"="request" "method"="GET" "path"="/x" "code"=403 "user"="jane" "duration"=D "bytes"=N "aborted"=false`},
		{"/x", "hello", badToken, ticket, `"level"=0 "msg"="request" "method"="GET" "path"="/x" "code"=401 "user"="" "duration"=D "bytes"=N "aborted"=false`},
		{"/x", "hello", "", ticket[1:], `"level"=0 "msg"="request" "method"="GET" "path"="/x" "code"=401 "user"="" "duration"=D "bytes"=N "aborted"=false`},
		{long, "hello", janeToken, "", `"level"=1 "msg"="request" "method"="GET" "path"="` + long[:maxLoggedPath] + `" "code"=200 "user"="jane" "duration"=D "bytes"=0 "aborted"=false`},
	} {
		before := len(w.logged())
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, endpoint.URL+tc.path+"?follow=true&run="+tc.run+"&ticket="+tc.ticket, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		if tc.token != "" {
			r.Header.Set("Authorization", "Bearer "+tc.token)
		}
		answer, err := endpoint.Client().Do(r)
		if err == nil {
			_, err = io.Copy(io.Discard, answer.Body)
			_ = answer.Body.Close()
		}
		if (err != nil) != (tc.path == "/abort") {
			t.Errorf("%s: %v", tc.path, err)
		}
		// The line is written when the handler has returned, which the reader of a
		// short answer does not wait for.
		line := waitFor(t, w, before)
		if got := normal(line, strings.Contains(tc.want, "=N ")); got != tc.want {
			t.Errorf("got  %s\nwant %s", got, tc.want)
		}
	}
}

// waitFor waits for the line after an offset.
func waitFor(t *testing.T, w *world, offset int) string {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if line := w.logged()[offset:]; strings.HasSuffix(line, "\n") {
			return strings.TrimSuffix(line, "\n")
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("no line was written")
		}
	}
}

// normal takes out of a line what differs each time.
func normal(line string, refusal bool) string {
	replace := func(key, value string) {
		_, rest, ok := strings.Cut(line, key+"=")
		if !ok {
			return
		}
		old, _, _ := strings.Cut(rest, " ")
		line = strings.Replace(line, key+"="+old, key+"="+value, 1)
	}
	replace(`"duration"`, "D")
	if refusal {
		replace(`"bytes"`, "N")
	}
	return line
}

// TestNoteWithoutLog: whoever serves without the log need not know of it.
func TestNoteWithoutLog(t *testing.T) {
	note(t.Context(), "jane")
	answer := httptest.NewRecorder()
	Log(newWorld(t, Options{Client: newAPI()}).logger(), http.NotFoundHandler()).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if answer.Code != http.StatusNotFound {
		t.Error(answer.Code)
	}
}
