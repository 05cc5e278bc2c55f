// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	logPath        = "/apis/stream.chatrun.dev/v1alpha1/namespaces/default/chatruns/hello/log"
	completionPath = "/v1/namespaces/default/chatruns/hello/chat/completions"
	ticketPath     = "/v1/namespaces/default/chatruns/hello/ticket"
)

// TestDoors: what each path takes and refuses.
func TestDoors(t *testing.T) {
	good := View{Run: hello, Finished: true, Status: statusOf(hello, "Succeeded", 1), Text: "the text", End: doneWith("Succeeded", "the text")}
	tests := []struct {
		name, method, target, body string
		code                       int
		want                       string // what is in the body
	}{
		{"log", "GET", logPath, "", 200, "event: done"},
		{"log, followed", "GET", logPath + "?follow=true", "", 200, "event: done"},
		{"log as text", "GET", logPath + "?format=text", "", 200, "the text"},
		{"head of text", "HEAD", logPath + "?format=text", "", 200, ""},
		{"events", "GET", helloPath + "?format=events", "", 200, "event: done"},
		{"openai", "GET", helloPath + "?format=openai", "", 200, "[DONE]"},
		{"openai at the other door", "GET", logPath + "?format=openai", "", 200, "[DONE]"},
		{"openai without follow", "GET", logPath + "?format=openai&follow=false", "", 400, "follow=false is for"},
		{"text without follow", "GET", helloPath + "?format=text&follow=false", "", 400, "follow=false is for"},
		{"hold without a value", "GET", helloPath + "?format=text&hold", "", 200, "the text"},
		{"completion without follow", "POST", completionPath + "?follow=false", `{"stream":true}`, 200, "[DONE]"},
		{"no such format", "GET", helloPath + "?format=xml", "", 400, "format must be"},
		{"follow is no bool", "GET", helloPath + "?follow=perhaps", "", 400, "follow must be"},
		{"hold is no bool", "GET", helloPath + "?hold=2", "", 400, "hold must be"},
		{"wait is no duration", "GET", helloPath + "?wait=30", "", 400, "wait must be"},
		{"wait is negative", "GET", helloPath + "?wait=-1s", "", 400, "wait must be"},
		{"wait is too long", "GET", helloPath + "?wait=5m1s", "", 400, "wait must be"},
		{"malformed query", "GET", helloPath + "?format=%zz", "", 400, "query"},
		{"malformed query, semicolon", "GET", helloPath + "?a;b", "", 400, "query"},
		{"unknown parameters", "GET", helloPath + "?color=red", "", 200, "event: done"},
		{"after the end", "GET", helloPath + "?after=end-uid-1", "", 204, ""},
		{"after another end", "GET", helloPath + "?after=end-uid-2", "", 200, "event: reset"},
		{"delete", "DELETE", logPath, "", 405, "GET, HEAD"},
		{"completion", "POST", completionPath, `{"model":"m","messages":[],"stream":true}`, 200, "[DONE]"},
		{"completion with usage", "POST", completionPath, `{"stream":true,"stream_options":{"include_usage":true}}`, 200, `"total_tokens":3`},
		{"completion at once", "POST", completionPath, `{"model":"m"}`, 400, "stream to true"},
		{"completion of nothing", "POST", completionPath, "", 400, "not the JSON"},
		{"completion of a list", "POST", completionPath, "[]", 400, "not the JSON"},
		{"completion with a huge body", "POST", completionPath, `{"x":"` + strings.Repeat("a", maxQuestion) + `"}`, 413, "1 MiB"},
		{"completion by GET", "GET", completionPath, "", 405, "POST"},
		{"ticket", "POST", ticketPath, "", 404, "without a ticket"},
		{"ticket by GET", "GET", ticketPath, "", 405, "POST"},
		{"ticket of no name", "POST", "/v1/namespaces/default/chatruns/A/ticket", "", 400, "not one that an object can have"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), test.method, test.target, strings.NewReader(test.body))
			NewHandler(NewHub(), views(good), Anyone).ServeHTTP(w, r)
			if w.Code != test.code || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("%d, want %d with %q: %s", w.Code, test.code, test.want, w.Body)
			}
			if got := w.Header().Get("Content-Type"); test.code == 200 && strings.HasPrefix(got, "text/plain") != strings.Contains(test.target, "format=text") {
				t.Errorf("content type %q", got)
			}
		})
	}
}

// TestUsageOnlyIfAsked: a client of OpenAI's API gets the usage if it asked.
func TestUsageOnlyIfAsked(t *testing.T) {
	good := View{Run: hello, Finished: true, Text: "x", End: doneWith("Succeeded", "x")}
	w := httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), "POST", completionPath, strings.NewReader(`{"stream":true}`))
	NewHandler(NewHub(), views(good), Anyone).ServeHTTP(w, r)
	if strings.Contains(w.Body.String(), "usage") {
		t.Error(w.Body)
	}
}

// nobody is a guard that refuses, and notes that it was asked.
type nobody struct{ asked *[]string }

func (g nobody) Admit(w http.ResponseWriter, _ *http.Request, namespace, name string) bool {
	*g.asked = append(*g.asked, namespace+"/"+name)
	w.WriteHeader(http.StatusForbidden)
	return false
}

func (g nobody) AdmitList(w http.ResponseWriter, r *http.Request, namespace string) bool {
	return g.Admit(w, r, namespace, "*")
}

func (g nobody) Issue(w http.ResponseWriter, r *http.Request, namespace, name string) {
	g.Admit(w, r, namespace, name)
}

// TestGuardIsAskedFirst: before anything is looked up or read, on every path.
func TestGuardIsAskedFirst(t *testing.T) {
	looked := false
	source := source(func() (View, error) {
		looked = true
		return View{}, ErrNotFound
	})
	for method, targets := range map[string][]string{
		"GET":  {helloPath, helloPath + "?format=nonsense", logPath + "?wait=1s", helloPath + "?format=text"},
		"HEAD": {helloPath},
		"POST": {completionPath, ticketPath},
	} {
		for _, target := range targets {
			var asked []string
			w := httptest.NewRecorder()
			r := httptest.NewRequestWithContext(t.Context(), method, target, strings.NewReader("no json"))
			NewHandler(NewHub(), source, nobody{&asked}).ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || looked || len(asked) != 1 || asked[0] != "default/hello" {
				t.Errorf("%s %s: %d, looked %t, asked %q", method, target, w.Code, looked, asked)
			}
		}
	}
}

// TestWait: one who comes before the run does.
func TestWait(t *testing.T) {
	tests := []struct {
		name string
		do   func(*shelf, *Hub)
		code int
		took time.Duration
	}{
		{"created meanwhile", func(s *shelf, _ *Hub) { s.put(finishedView(), nil) }, 200, time.Second},
		{"never created", func(*shelf, *Hub) {}, 404, 30 * time.Second},
		{"another is created", func(s *shelf, _ *Hub) { s.put(View{}, ErrNotFound) }, 404, 30 * time.Second},
		{"the source breaks", func(s *shelf, _ *Hub) { s.put(View{}, context.DeadlineExceeded) }, 503, time.Second},
		{"the server closes", func(_ *shelf, h *Hub) { h.Close() }, 503, time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &shelf{err: ErrNotFound}
				hub := NewHub()
				handler := NewHandler(hub, source, Anyone)
				began := time.Now()
				got := listen(t, handler, "wait=30s")
				rest(t.Context(), time.Second)
				test.do(source, hub)
				<-got.done
				if took := time.Since(began); got.code != test.code || took != test.took {
					t.Errorf("%d after %s, want %d after %s", got.code, took, test.code, test.took)
				}
				if len(source.waiting) != 0 || handler.seats.total != 0 {
					t.Error("someone still waits")
				}
			})
		})
	}
}

// TestSeats: readers above the bounds are refused, and each that leaves makes
// room for another.
func TestSeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		handler := NewHandler(hub, views(pendingView()), Anyone)
		handler.MaxReadersPerRun = 2
		handler.MaxReaders = 3
		other := strings.Replace(helloPath, "hello", "other", 1)
		join := func(path string) (code int, leave func()) {
			ctx, cancel := contextOf(t)
			r := httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil)
			w, done := newRecorder(), make(chan struct{})
			go func() {
				defer close(done)
				handler.ServeHTTP(w, r)
			}()
			synctest.Wait()
			return w.code, func() { cancel(); <-done }
		}
		_, leave := join(helloPath)
		_, second := join(helloPath)
		defer second()
		if code, _ := join(helloPath); code != http.StatusTooManyRequests {
			t.Errorf("a third reader of the run: %d", code)
		}
		code, third := join(other)
		defer third()
		if code != 200 {
			t.Errorf("a reader of another run: %d", code)
		}
		if code, _ := join(other); code != http.StatusTooManyRequests {
			t.Errorf("a fourth reader in all: %d", code)
		}
		if c := handler.Counts(); c.Readers != 3 || c.RefusedReaders != 2 {
			t.Errorf("counted: %+v", c)
		}
		leave()
		code, last := join(helloPath)
		defer last()
		if code != 200 {
			t.Errorf("after one left: %d", code)
		}
	})
	w := httptest.NewRecorder()
	refused := NewHandler(NewHub(), views(pendingView()), Anyone)
	refused.MaxReaders = 1
	refused.seats.take(hello.key(), 0, 0)
	refused.ServeHTTP(w, request(t.Context(), ""))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d, header %v", w.Code, w.Header())
	}
}

// TestSnapshot: without follow the answer is what is there now.
func TestSnapshot(t *testing.T) {
	hub := NewHub()
	handler := NewHandler(hub, views(pendingView()), Anyone)
	ask := func(query string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, logPath+query, nil))
		return w
	}
	if got := names(parse(ask("").Body.String())); got != "status" {
		t.Errorf("before the start: %q", got)
	}
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	for range 3 * batchFrames {
		hub.Part(hello.UID, 1, text("x"))
	}
	c := &client{t: t}
	c.read(ask("").Body.String())
	if want := strings.Repeat("x", 3*batchFrames); c.draft != want {
		t.Errorf("got %q", c.draft)
	}
	if hub.Readers() != 0 {
		t.Error("a reader stays")
	}
}

// TestFarewell: a closing server tells readers where the run stands, and spreads
// their return.
func TestFarewell(t *testing.T) {
	hint := regexp.MustCompile(`(?m)^retry: (\d+)$`)
	seen := map[string]bool{}
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			hub := NewHub()
			hub.Begin(hello, statusOf(hello, "Streaming", 1))
			got := listen(t, NewHandler(hub, views(pendingView()), Anyone), "")
			synctest.Wait()
			hub.Part(hello.UID, 1, text("x"))
			synctest.Wait()
			hub.Close()
			<-got.done
			events := parse(got.String())
			if last := events[len(events)-1]; last.event != "status" || last.id != "" || got.aborted {
				t.Errorf("the last frame is %+v", last)
			}
			hints := hint.FindAllStringSubmatch(got.String(), -1)
			if len(hints) != 2 || hints[0][1] != "2000" {
				t.Fatalf("hints %q", hints)
			}
			ms, err := strconv.Atoi(hints[1][1])
			if err != nil || ms < 1000 || ms > 10_000 {
				t.Errorf("come back after %q ms", hints[1][1])
			}
			seen[hints[1][1]] = true
		})
	}
	if len(seen) < 10 {
		t.Errorf("20 readers come back at %d times", len(seen))
	}
}

// TestSeatsOfNamespace: who reads in one namespace does not keep all others out.
func TestSeatsOfNamespace(t *testing.T) {
	s := newSeats()
	for i := range 6 {
		if !s.take(name{"mine", strconv.Itoa(i)}, 8, 0) {
			t.Fatalf("reader %d is refused", i)
		}
	}
	if s.take(name{"mine", "x"}, 8, 0) || !s.take(name{"yours", "x"}, 8, 0) {
		t.Error("one namespace gets all seats, or another none")
	}
	s.giveBack(name{"mine", "0"})
	if !s.take(name{"mine", "x"}, 8, 0) {
		t.Error("a seat that was given back is not there")
	}
}
