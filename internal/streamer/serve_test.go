// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func pendingView() View { return View{Run: hello, Status: statusOf(hello, "Pending", 0)} }

// TestHeartbeat: a comment after every silence, none while frames come.
func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		_, listener := serve(t, NewHandler(hub, views(pendingView()), Anyone))
		answer, conn := listener.get(t, "")
		defer conn.Close()
		began := time.Now()
		if answer.StatusCode != http.StatusOK || answer.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("%s %v", answer.Status, answer.Header)
		}
		go func() {
			// 40 s in which a part comes every 10 s, and then silence.
			for range 4 {
				rest(t.Context(), 10*time.Second)
				hub.Part(hello.UID, 1, text("x"))
			}
		}()
		var beats, parts []time.Duration
		body := bufio.NewScanner(answer.Body)
		for len(beats) < 2 && body.Scan() {
			switch line := body.Text(); {
			case strings.HasPrefix(line, ":"):
				beats = append(beats, time.Since(began))
			case strings.HasPrefix(line, "event: message_part"):
				parts = append(parts, time.Since(began))
			}
		}
		if len(parts) != 4 || parts[0] != 10*time.Second {
			t.Errorf("parts at %v", parts)
		}
		if len(beats) != 2 || beats[0] != 55*time.Second || beats[1] != 70*time.Second {
			t.Errorf("heartbeats at %v", beats)
		}
	})
}

// TestCoalescing: the first frame comes at once, a fast stream in few writes,
// and what matters does not wait.
func TestCoalescing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		w, done := newRecorder(), make(chan struct{})
		go func() {
			defer close(done)
			NewHandler(hub, views(pendingView()), Anyone).ServeHTTP(w, request(t.Context(), ""))
		}()
		synctest.Wait()
		before := w.Flushes()
		hub.Part(hello.UID, 1, text("x"))
		synctest.Wait()
		if got := w.Flushes() - before; got != 1 {
			t.Fatalf("the first part made %d writes", got)
		}
		for range 1000 { // a second
			rest(t.Context(), time.Millisecond)
			hub.Part(hello.UID, 1, text("x"))
		}
		synctest.Wait()
		if got := w.Flushes() - before; got < 90 || got > 102 {
			t.Errorf("a second of 1,000 parts made %d writes", got)
		}
		rest(t.Context(), time.Second)
		// A part, and one millisecond later a retry, in the middle of a pause.
		hub.Part(hello.UID, 1, text("x"))
		rest(t.Context(), time.Millisecond)
		hub.Retry(hello, statusOf(hello, "Retrying", 1), retryOf(1))
		synctest.Wait()
		if got := names(parse(w.String())); !strings.HasSuffix(got, "status retry") {
			t.Error("the retry waited")
		}
		hub.Begin(hello, statusOf(hello, "Streaming", 2))
		hub.Part(hello.UID, 2, text("y"))
		hub.Finish(hello, endOf(hello, "Succeeded", 2))
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the end waited")
		}
	})
}

// TestFirstPartComesAtOnce: of each attempt, however short ago its status was told.
func TestFirstPartComesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		w, done := newRecorder(), make(chan struct{})
		go func() {
			defer close(done)
			NewHandler(hub, views(pendingView()), Anyone).ServeHTTP(w, request(t.Context(), ""))
		}()
		synctest.Wait()
		for attempt := range int32(2) {
			attempt++
			hub.Begin(hello, statusOf(hello, "Streaming", attempt))
			rest(t.Context(), time.Millisecond)
			before := w.Flushes()
			for part, want := range []int{1, 0, 0} {
				hub.Part(hello.UID, attempt, text("x"))
				synctest.Wait()
				if got := w.Flushes() - before; got != want {
					t.Errorf("part %d of attempt %d made %d writes", part+1, attempt, got)
				}
				before = w.Flushes()
			}
			hub.Retry(hello, statusOf(hello, "Retrying", attempt), retryOf(attempt))
		}
		hub.Finish(hello, endOf(hello, "Cancelled", 2))
		<-done
	})
}

// TestReadersThatDoNotRead: 1,000 readers of which every tenth never reads. All
// others get the whole text in time, and those are cut by the deadline.
func TestReadersThatDoNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const readers = 1000
		hub := NewHub()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		_, listener := serve(t, NewHandler(hub, views(pendingView()), Anyone))

		var work sync.WaitGroup
		texts := make([]string, readers)
		for i := range readers {
			if i%10 == 0 {
				conn := listener.dial(t)
				defer conn.Close()
				r := request(t.Context(), "")
				r.URL.Scheme, r.URL.Host = "http", "memory"
				if err := r.Write(conn); err != nil {
					t.Fatal(err)
				}
				continue
			}
			work.Go(func() {
				answer, conn := listener.get(t, "")
				defer conn.Close()
				raw, err := io.ReadAll(answer.Body)
				if err != nil {
					t.Error(err)
				}
				c := &client{t: t}
				c.read(string(raw))
				texts[i] = c.draft
			})
		}
		synctest.Wait()
		if got := hub.Readers(); got != readers {
			t.Fatalf("%d readers", got)
		}
		want, began := "", time.Now()
		for i := range 50 {
			s := fmt.Sprintf("token %d ", i)
			want += s
			hub.Part(hello.UID, 1, text(s))
			rest(t.Context(), 10*time.Millisecond)
		}
		hub.Finish(hello, endOf(hello, "Succeeded", 1))
		work.Wait()
		if took := time.Since(began); took > time.Second {
			t.Errorf("it took %s", took)
		}
		for i, got := range texts {
			if i%10 != 0 && got != want {
				t.Fatalf("reader %d has %q", i, got)
			}
		}
		if got := hub.Readers(); got != readers/10 {
			t.Errorf("%d readers are left", got)
		}
		rest(t.Context(), DefaultWriteTimeout)
		synctest.Wait()
		if got := hub.Readers(); got != 0 {
			t.Errorf("%d readers that do not read were not cut", got)
		}
	})
}

// TestServerEnds: an ending server ends its readers properly, by the hub or by
// its context, so that Shutdown does not wait.
func TestServerEnds(t *testing.T) {
	for _, by := range []string{"hub", "context"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := NewHub()
				hub.Begin(hello, statusOf(hello, "Streaming", 1))
				ctx, cancel := contextOf(t)
				defer cancel()
				server, listener := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					// As with a BaseContext, which this server has no time to be given.
					both, stop := context.WithCancel(r.Context())
					defer stop()
					defer context.AfterFunc(ctx, stop)()
					NewHandler(hub, views(pendingView()), Anyone).ServeHTTP(w, r.WithContext(both))
				}))
				answer, conn := listener.get(t, "")
				defer conn.Close()
				if by == "hub" {
					server.RegisterOnShutdown(hub.Close)
				} else {
					server.RegisterOnShutdown(cancel)
				}
				ended := make(chan error, 1)
				go func() { ended <- server.Shutdown(t.Context()) }()
				// A chunked body ends without an error only if it ends properly.
				raw, err := io.ReadAll(answer.Body)
				if want := map[string]string{"hub": "status status", "context": "status"}[by]; err != nil || names(parse(string(raw))) != want {
					t.Errorf("%v: %s", err, raw)
				}
				began := time.Now()
				if err := <-ended; err != nil || time.Since(began) > time.Second {
					t.Errorf("Shutdown: %v after %s", err, time.Since(began))
				}
			})
		})
	}
}

// TestReaderGoes: the run does not notice.
func TestReaderGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		_, listener := serve(t, NewHandler(hub, views(pendingView()), Anyone))
		_, conn := listener.get(t, "")
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := hub.Readers(); got != 0 {
			t.Errorf("%d readers", got)
		}
		hub.Part(hello.UID, 1, text("x"))
		if hub.find(hello.UID) == nil {
			t.Error("the log went with its reader")
		}
	})
}

// TestResumeOverSockets follows a run over real connections that break after
// every part, to its end and beyond.
func TestResumeOverSockets(t *testing.T) {
	hub, source := NewHub(), &shelf{view: pendingView()}
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	server := httptest.NewServer(NewHandler(hub, source, Anyone))
	defer server.Close()

	c := &client{t: t}
	last, want := "", ""
	for i := range 20 {
		s := fmt.Sprintf("token %d ", i)
		want += s
		hub.Part(hello.UID, 1, text(s))
		answer := connect(t, server, last)
		body := bufio.NewReader(answer.Body)
		for before := c.draft; c.draft == before; {
			e := readEvent(t, body)
			c.apply(e)
			last = e.id
		}
		_ = answer.Body.Close()
	}
	if c.draft != want || names(c.events[:2]) != "status message_part" || strings.Contains(names(c.events[1:]), "status") {
		t.Errorf("got %q from %s", c.draft, names(c.events))
	}
	end := endOf(hello, "Succeeded", 1)
	source.put(View{Run: hello, Status: end.Done.Status, Finished: true, Text: want, End: end}, nil)
	hub.Finish(hello, end)
	answer := connect(t, server, last)
	raw, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil {
		t.Fatal(err)
	}
	c.read(string(raw))
	if c.draft != want || !c.done {
		t.Errorf("got %q, done %t", c.draft, c.done)
	}
	answer = connect(t, server, c.events[len(c.events)-1].id)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusNoContent {
		t.Errorf("after the end: %s", answer.Status)
	}
}

func connect(t *testing.T, server *httptest.Server, last string) *http.Response {
	t.Helper()
	r := request(t.Context(), last)
	u, err := r.URL.Parse(server.URL + helloPath)
	if err != nil {
		t.Fatal(err)
	}
	r.URL = u
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// readEvent reads up to the next event.
func readEvent(t *testing.T, body *bufio.Reader) received {
	t.Helper()
	var raw strings.Builder
	for {
		line, err := body.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		raw.WriteString(line)
		if events := parse(raw.String()); line == "\n" && len(events) > 0 {
			return events[0]
		}
	}
}
