// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
)

// finishedView is a run that failed in its third attempt, with all there can be.
func finishedView() View {
	return View{
		Run: hello, Status: statusOf(hello, "Failed", 3), Finished: true,
		Text: "half an <answer>\n", Title: "A title",
		End: End{
			Usage:  &stream.Usage{InputTokens: 5, OutputTokens: 6},
			Failed: &stream.Failed{Reason: "RetriesExhausted", Message: "no attempt is left"},
			Done:   stream.Done{Status: statusOf(hello, "Failed", 3), Bytes: 17},
		},
	}
}

func TestRequests(t *testing.T) {
	found := views(finishedView())
	missing := source(func() (View, error) { return View{}, ErrNotFound })
	broken := source(func() (View, error) { return View{}, errors.New("secret detail") })
	tests := []struct {
		name, method, path string
		source             source
		last               string
		code               int
		reason             string
	}{
		{"finished", "GET", helloPath, found, "", 200, ""},
		{"head", "HEAD", helloPath, found, "", 200, ""},
		{"head of nothing", "HEAD", helloPath, missing, "", 404, "NotFound"},
		{"seen to the end", "GET", helloPath, found, "end-uid-1", 204, ""},
		{"another one's end", "GET", helloPath, found, "end-uid-2", 200, ""},
		{"post", "POST", helloPath, found, "", 405, "MethodNotAllowed"},
		{"no such run", "GET", helloPath, missing, "", 404, "NotFound"},
		{"source broken", "GET", helloPath, broken, "", 503, "ServiceUnavailable"},
		{"no such path", "GET", "/v1/namespaces/default/chatruns/hello", found, "", 404, "NotFound"},
		{"upper case", "GET", "/v1/namespaces/default/chatruns/Hello/stream", found, "", 400, "BadRequest"},
		{"slash in the name", "GET", "/v1/namespaces/default/chatruns/a%2fb/stream", found, "", 400, "BadRequest"},
		{"dots in the name", "GET", "/v1/namespaces/default/chatruns/a..b/stream", found, "", 400, "BadRequest"},
		{"a subdomain", "GET", "/v1/namespaces/default/chatruns/a.b-c.d0/stream", found, "", 200, ""},
		{"dot in the namespace", "GET", "/v1/namespaces/a.b/chatruns/hello/stream", found, "", 400, "BadRequest"},
		{"dash first", "GET", "/v1/namespaces/-a/chatruns/hello/stream", found, "", 400, "BadRequest"},
		{"long namespace", "GET", "/v1/namespaces/" + strings.Repeat("a", 64) + "/chatruns/hello/stream", found, "", 400, "BadRequest"},
		{"long name", "GET", "/v1/namespaces/default/chatruns/" + strings.Repeat("a", 254) + "/stream", found, "", 400, "BadRequest"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := httptest.NewRequestWithContext(t.Context(), test.method, test.path, nil)
			r.Header.Set("Last-Event-ID", test.last)
			w := httptest.NewRecorder()
			hub := NewHub()
			NewHandler(hub, test.source, Anyone).ServeHTTP(w, r)
			if w.Code != test.code {
				t.Fatalf("%d, want %d: %s", w.Code, test.code, w.Body)
			}
			if test.code == 200 {
				h := w.Header()
				if h.Get("Content-Type") != "text/event-stream" || h.Get("Cache-Control") != "no-store" || h.Get("X-Accel-Buffering") != "no" {
					t.Errorf("header %v", h)
				}
			}
			if (test.method == "HEAD" && test.code == 200 || test.code == 204) && w.Body.Len() > 0 {
				t.Errorf("body %s", w.Body)
			}
			if test.code == 405 && w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("header %v", w.Header())
			}
			if test.reason != "" {
				var status struct{ Kind, Status, Reason, Message string }
				if err := json.Unmarshal(w.Body.Bytes(), &status); err != nil || status.Kind != "Status" || status.Reason != test.reason {
					t.Errorf("%v: %s", err, w.Body)
				}
				if strings.Contains(w.Body.String(), "secret") {
					t.Errorf("shows the source's error: %s", w.Body)
				}
			}
			if hub.Readers() != 0 || len(hub.logs) != 0 {
				t.Error("a reader was left behind")
			}
		})
	}
}

func TestFinishedRun(t *testing.T) {
	for last, want := range map[string]string{
		"":               "status message_part title usage failed done",
		"ABCDEFGHIJ-3-9": "reset status message_part title usage failed done",
	} {
		w := httptest.NewRecorder()
		NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(w, request(t.Context(), last))
		c := &client{t: t, draft: ""}
		c.read(w.Body.String())
		if got := names(c.events); got != want {
			t.Errorf("with cursor %q: got %q, want %q", last, got, want)
		}
		if c.draft != "half an <answer>\n" || c.title != "A title" || c.events[len(c.events)-1].id != "end-uid-1" {
			t.Errorf("got %q, %q:\n%s", c.draft, c.title, w.Body)
		}
		// Whoever is cut after the text must not get it twice.
		again := httptest.NewRecorder()
		NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(again, request(t.Context(), c.events[2].id))
		c.done = false
		c.read(again.Body.String())
		if c.draft != "half an <answer>\n" {
			t.Errorf("after a reconnect: %q", c.draft)
		}
	}
}

// TestBetweenTwoLooks: what happens to a run between the first look at it and
// the one after the reader is registered.
func TestBetweenTwoLooks(t *testing.T) {
	waiting := View{Run: hello, Status: statusOf(hello, "Streaming", 1)}
	other := Run{"uid-2", hello.Namespace, hello.Name}
	otherEnd := View{Run: other, Status: statusOf(other, "Succeeded", 1), Finished: true, Text: "other", End: endOf(other, "Succeeded", 1)}
	tests := []struct {
		name  string
		looks []View // the last one stays
		code  int
		want  string
	}{
		{"finished", []View{waiting, finishedView()}, 200, "status message_part title usage failed done"},
		{"replaced by one that is finished", []View{waiting, otherEnd}, 200, "status message_part usage done"},
		{"replaced, then finished", []View{waiting, {Run: other}, {Run: other}, otherEnd}, 200, "status message_part usage done"},
		{"deleted", []View{waiting, {}}, 404, ""},
		{"replaced again and again", []View{{Run: Run{UID: "1"}}, {Run: Run{UID: "2"}}, {Run: Run{UID: "3"}}, {Run: Run{UID: "4"}}}, 503, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				looks := 0
				hub := NewHub()
				h := NewHandler(hub, source(func() (View, error) {
					v := test.looks[min(looks, len(test.looks)-1)]
					looks++
					if v.Run.UID == "" {
						return v, ErrNotFound
					}
					v.Run.Namespace, v.Run.Name = hello.Namespace, hello.Name
					if looks == 3 && test.code == 200 {
						// Registered at a log that nobody writes: what it is told
						// by its heartbeat, or by the end.
						go hub.Finish(v.Run, endOf(v.Run, "Succeeded", 1))
					}
					return v, nil
				}), Anyone)
				w, began := newRecorder(), time.Now()
				h.ServeHTTP(w, request(t.Context(), ""))
				if took := time.Since(began); took > 0 {
					t.Errorf("it took %s: who is finished already needs no heartbeat to say so", took)
				}
				got := names(parse(w.String()))
				if w.code != test.code || !strings.HasSuffix(got, test.want) {
					t.Errorf("%d %q, want %d %q", w.code, got, test.code, test.want)
				}
				if hub.Readers() != 0 || len(hub.logs) != 0 {
					t.Error("a reader was left behind")
				}
			})
		})
	}
}

// TestLogThatNobodyWrites: a reader that waits where no attempt began learns
// the end of the run by looking again.
func TestLogThatNobodyWrites(t *testing.T) {
	waiting := View{Run: hello, Status: statusOf(hello, "Streaming", 1)}
	other := Run{"uid-2", hello.Namespace, hello.Name}
	tests := []struct {
		name string
		next View
		err  error
		tell bool
		want string
		ends bool
	}{
		{"finished unseen", finishedView(), nil, false, "status status message_part title usage failed done", true},
		{"finished elsewhere, and told", finishedView(), nil, true, "status status message_part title usage failed done", true},
		{"told, and the source is behind", waiting, nil, true, "status usage done", true},
		{"told, and deleted at once", View{}, ErrNotFound, true, "status usage done", true},
		{"gone", View{}, ErrNotFound, false, "status", true},
		{"replaced", View{Run: other}, nil, false, "status", true},
		{"the source is broken", View{}, errors.New("no"), false, "status", false},
		{"nothing", waiting, nil, false, "status", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source := &shelf{view: waiting}
				hub := NewHub()
				h := NewHandler(hub, source, Anyone)
				ctx, cancel := context.WithCancel(t.Context())
				w, done := newRecorder(), make(chan struct{})
				go func() {
					defer close(done)
					h.ServeHTTP(w, request(ctx, ""))
				}()
				synctest.Wait()
				source.put(test.next, test.err)
				if test.tell {
					hub.Finish(hello, endOf(hello, "Succeeded", 1))
				}
				rest(ctx, DefaultHeartbeat)
				synctest.Wait()
				ended := false
				select {
				case <-done:
					ended = true
				default:
				}
				if got := names(parse(w.String())); got != test.want || ended != test.ends {
					t.Errorf("got %q, ended %t, want %q, %t", got, ended, test.want, test.ends)
				}
				cancel()
				<-done
				if len(hub.logs) != 0 || hub.Readers() != 0 {
					t.Error("a log was left behind")
				}
			})
		})
	}
}

// TestOneLogForMany: a log that readers opened serves the attempt that begins
// later, and stays when they leave.
func TestOneLogForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		v := View{Run: hello, Status: statusOf(hello, "Pending", 0)}
		one, stopOne := reading(t, hub, v, "")
		two, stopTwo := reading(t, hub, v, "")
		if len(hub.logs) != 1 || hub.Readers() != 2 {
			t.Fatalf("%d logs, %d readers", len(hub.logs), hub.Readers())
		}
		stopOne()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		hub.Part(hello.UID, 1, text("x"))
		synctest.Wait()
		stopTwo()
		if got := names(parse(one.String())); got != "status" {
			t.Error(got)
		}
		if got := names(parse(two.String())); got != "status status message_part" {
			t.Error(got)
		}
		if len(hub.logs) != 1 {
			t.Error("the log of a run under way went with its readers")
		}
		hub.Drop(hello.UID)
		hub.Close()
		hub.Close()
		w := newRecorder()
		NewHandler(hub, views(v), Anyone).ServeHTTP(w, request(t.Context(), ""))
		if w.code != http.StatusServiceUnavailable {
			t.Errorf("after Close: %d", w.code)
		}
	})
}
