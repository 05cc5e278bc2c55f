// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
)

// TestIdleReaderOverHTTP2: there a deadline of a write ends a stream that has
// nothing to write, too.
func TestIdleReaderOverHTTP2(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	handler := NewHandler(hub, views(pendingView()), Anyone)
	handler.WriteTimeout, handler.Heartbeat = 50*time.Millisecond, 150*time.Millisecond
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	r := request(t.Context(), "")
	r.URL, _ = r.URL.Parse(server.URL + helloPath)
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.ProtoMajor != 2 {
		t.Fatalf("it is %s", answer.Proto)
	}
	// Three heartbeats are nine times the deadline.
	body := bufio.NewScanner(answer.Body)
	for beats := 0; beats < 3; {
		if !body.Scan() {
			t.Fatalf("cut after %d heartbeats: %v", beats, body.Err())
		}
		if strings.HasPrefix(body.Text(), ":") {
			beats++
		}
	}
	hub.Finish(hello, endOf(hello, "Succeeded", 1))
	for body.Scan() {
		if body.Text() == "event: done" {
			return
		}
	}
	t.Errorf("no end came: %v", body.Err())
}

// TestShrinkBesideTheEnd: a log that ends while memory is being relieved keeps
// the frames that say so.
func TestShrinkBesideTheEnd(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	hub.Part(hello.UID, 1, text("x"))
	seen := hub.retained()
	hub.Finish(hello, endOf(hello, "Succeeded", 1))
	seen[0].log.shrink(0)
	r := &reader{log: seen[0].log}
	r.enter(false, new(pendingView()))
	b := r.next(nil)
	if b.fallen || b.state != ended {
		t.Errorf("the reader gets %+v", b)
	}
}

// TestTitleBesideTheEnd is for the race detector: a title that comes while
// readers are told of the end.
func TestTitleBesideTheEnd(t *testing.T) {
	for range 20 {
		hub := NewHub()
		handler := NewHandler(hub, views(pendingView()), Anyone)
		handler.MinInterval = 0
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		hub.Part(hello.UID, 1, text("x"))
		var work sync.WaitGroup
		for _, query := range []string{"", "format=text", "format=openai"} {
			got := listen(t, handler, query)
			work.Go(func() { <-got.done })
		}
		work.Go(func() { hub.Finish(hello, doneWith("Succeeded", "x")) })
		work.Go(func() { hub.Title(hello, "A title") })
		work.Wait()
	}
}

// TestReaderGoesFromPlainFormat: a reader whose request ends while it still
// reads, as one that closes half of its connection, is not told a proper end.
func TestReaderGoesFromPlainFormat(t *testing.T) {
	for _, query := range []string{"format=text", "format=openai", "format=text&hold", "wait=30s"} {
		for _, part := range []string{"", "half"} {
			t.Run(query+" "+part, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := NewHub()
					var from Source = views(pendingView())
					if strings.HasPrefix(query, "wait") {
						from = &shelf{err: ErrNotFound}
					}
					ctx, cancel := contextOf(t)
					got := listenTo(ctx, NewHandler(hub, from, Anyone), query)
					synctest.Wait()
					hub.Begin(hello, statusOf(hello, "Streaming", 1))
					hub.Part(hello.UID, 1, text(part))
					synctest.Wait()
					cancel()
					<-got.done
					if !got.aborted {
						t.Errorf("it ends properly with %d %q", got.code, got)
					}
				})
			})
		}
	}
}

// TestObjectBeforeLog: the object may tell the end before the log does, as when
// the answer of a write was lost. Then the log has all the text all the same.
func TestObjectBeforeLog(t *testing.T) {
	whole, other := doneWith("Succeeded", "all of it"), doneWith("Succeeded", "something else")
	for _, test := range []struct {
		name, query string
		end         End
		want        string
		aborted     bool
	}{
		{"events", "", whole, "all of it", false},
		{"text", "format=text", whole, "all of it", false},
		{"text, held", "format=text&hold", whole, "all of it", false},
		{"events of another attempt", "", other, "cut", false},
		{"text of another attempt", "format=text", other, "all of it", true},
		{"text of another attempt, held", "format=text&hold", other, "cut", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				source, hub := &shelf{view: pendingView()}, NewHub()
				got := listen(t, NewHandler(hub, source, Anyone), test.query)
				synctest.Wait()
				hub.Begin(hello, statusOf(hello, "Streaming", 1))
				hub.Part(hello.UID, 1, text("all of it"))
				synctest.Wait()
				source.put(View{Run: hello, Status: test.end.Done.Status, Finished: true, Text: "cut", End: test.end}, nil)
				rest(t.Context(), 2*DefaultHeartbeat)
				synctest.Wait()
				<-got.done
				text := got.String()
				if test.query == "" {
					c := &client{t: t}
					c.read(text)
					if text = c.draft; !c.done {
						t.Error("no end")
					}
				}
				if test.aborted && text != test.want && got.code != http.StatusServiceUnavailable || !test.aborted && text != test.want || got.aborted && got.code != 200 {
					t.Errorf("%d, aborted %t: %q, want %q", got.code, got.aborted, text, test.want)
				}
				if test.aborted && got.code == 200 && !got.aborted {
					t.Error("it ends properly")
				}
			})
		})
	}
}

// TestWaitOverRecreation: one who waits goes on waiting when the run is deleted
// and created again.
func TestWaitOverRecreation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		looks := 0
		again := make(chan struct{}, 1)
		from := &waits{created: again, source: source(func() (View, error) {
			looks++
			switch looks {
			case 1, 3: // not there; gone again
				again <- struct{}{}
				return View{}, ErrNotFound
			case 2:
				return pendingView(), nil
			}
			return finishedView(), nil
		})}
		got := listen(t, NewHandler(NewHub(), from, Anyone), "wait=30s")
		<-got.done
		if !strings.HasSuffix(names(parse(got.String())), "done") {
			t.Errorf("%d %s", got.code, got)
		}
	})
}

// waits is a source with a channel of its own.
type waits struct {
	source
	created chan struct{}
}

func (w *waits) Created(string, string) (<-chan struct{}, func()) { return w.created, func() {} }

// TestCreatedBetweenLookAndWait: a run that is created while it is looked for.
func TestCreatedBetweenLookAndWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &shelf{err: ErrNotFound}
		began := time.Now()
		got := listen(t, NewHandler(NewHub(), creating{s}, Anyone), "wait=30s")
		<-got.done
		if got.code != 200 || time.Since(began) > 0 {
			t.Errorf("%d after %s", got.code, time.Since(began))
		}
	})
}

// creating creates the run right behind each look that did not find it.
type creating struct{ *shelf }

func (c creating) Find(ctx context.Context, namespace, name string) (View, error) {
	v, err := c.shelf.Find(ctx, namespace, name)
	if err != nil {
		c.put(finishedView(), nil)
	}
	return v, err
}

// TestBatchIsBounded: large parts come in small batches.
func TestBatchIsBounded(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	for range 20 {
		hub.Part(hello.UID, 1, text(strings.Repeat("x", maxWrite/2)))
	}
	r := &reader{log: hub.find(hello.UID)}
	for b := (batch{more: true}); b.more; {
		b = r.next(nil)
		size := 0
		for _, f := range b.frames {
			size += len(f)
		}
		if size > 2*maxWrite {
			t.Fatalf("a batch of %d bytes", size)
		}
	}
}

// TestCatchUpTellsTheRest: who lost parts loses nothing else.
func TestCatchUpTellsTheRest(t *testing.T) {
	hub := NewHub()
	hub.LogBytes = 4000
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	r := &reader{log: hub.find(hello.UID)}
	r.next(nil)
	hub.Part(hello.UID, 1, text("first "))
	hub.Title(hello, "A title")
	for range 100 {
		hub.Part(hello.UID, 1, text("many "))
	}
	b := r.next(nil)
	var raw strings.Builder
	for _, f := range b.frames {
		raw.Write(f)
	}
	if got := names(parse(raw.String())); got != "title reset" || b.whole.size == 0 {
		t.Errorf("got %q and %d bytes", got, b.whole.size)
	}
}

// TestWholeOfAnEndedEpisode: a text that is taken back while it is sent ends as
// a frame that can be read.
func TestWholeOfAnEndedEpisode(t *testing.T) {
	l := newLog(hello, DefaultLogBytes, &memory{})
	l.begin(statusOf(hello, "Streaming", 1))
	l.part(1, 0, "void", encode("x"))
	l.fail(statusOf(hello, "Retrying", 1), retryOf(1))
	w := httptest.NewRecorder()
	if err := (&Handler{WriteTimeout: time.Second}).sink(w, request(t.Context(), "")).sendWhole(l, whole{cursor{l.epoch, 1, 2}, 4}); err != nil {
		t.Fatal(err)
	}
	var part stream.MessagePart
	parse(w.Body.String())[0].into(t, &part)
	if part.Text != "" {
		t.Errorf("got %q", part.Text)
	}
}

// TestChunks: what clients of OpenAI's API need of the frames beside the text.
func TestChunks(t *testing.T) {
	c := newChunks(hello, true)
	end := doneWith("Succeeded", "ab")
	end.Done.FinishReason = "Length"
	raw := string(c.text("m", []byte("a"))) + string(c.text("m", []byte("b"))) + string(c.end(end))
	for what, want := range map[string]int{`"role":"assistant"`: 1, `"finish_reason":"length"`: 1, `"finish_reason":null`: 2, `"total_tokens":3`: 1, "[DONE]": 1} {
		if got := strings.Count(raw, what); got != want {
			t.Errorf("%s stands there %d times, want %d:\n%s", what, got, want, raw)
		}
	}
	if beat := string(c.silence()); !strings.HasPrefix(beat, ":") || strings.Contains(beat, "\n\n") {
		t.Errorf("in silence comes %q, which some clients take for an event", beat)
	}
}

// TestHeaderBeatsParameter: an EventSource that comes back has both.
func TestHeaderBeatsParameter(t *testing.T) {
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, helloPath+"?after=end-uid-1", nil)
	r.Header.Set("Last-Event-ID", "ABCDEFGHIJ-1-1")
	w := httptest.NewRecorder()
	NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(w, r)
	if w.Code != 200 {
		t.Errorf("%d", w.Code)
	}
	for last, want := range map[string]string{"end-uid-1": "no-store", "": "no-store"} {
		w := httptest.NewRecorder()
		NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(w, request(t.Context(), last))
		if got := w.Header().Get("Cache-Control"); got != want {
			t.Errorf("%q: %q", last, got)
		}
	}
}

// TestUnavailableSaysWhen: whoever is to come back is told when.
func TestUnavailableSaysWhen(t *testing.T) {
	for _, query := range []string{"", "format=text", "format=openai"} {
		hub := NewHub()
		hub.Close()
		w := httptest.NewRecorder()
		NewHandler(hub, views(pendingView()), Anyone).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprint(helloPath, "?", query), nil))
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("%q: %d %v", query, w.Code, w.Header())
		}
	}
}
