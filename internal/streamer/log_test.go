// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// script is a run of three attempts: what happens to the hub, step by step, and
// the text that stands in the end.
func script(h *Hub) (steps []func(), final string) {
	step := func(f func()) { steps = append(steps, f) }
	part := func(attempt int32, s string) { step(func() { h.Part(hello.UID, attempt, text(s)) }) }
	begin := func(n int32) { step(func() { h.Begin(hello, statusOf(hello, "Streaming", n)) }) }
	retry := func(n int32) {
		step(func() {
			h.Retry(hello, statusOf(hello, "Retrying", n), stream.Retry{Attempt: n, DelayMs: 1000, Error: "Overloaded"})
		})
		part(n, "a late part that nobody may see")
		part(n+1, "an early one")
	}
	begin(1)
	for i := range 4 {
		part(1, fmt.Sprintf("first %d ", i))
	}
	retry(1)
	step(func() { h.Tell(hello, statusOf(hello, "Retrying", 1)) })
	begin(2)
	part(2, "second: ")
	step(func() { h.Title(hello, "A title") })
	for i := range 4 {
		part(2, fmt.Sprintf("zwölf «%d»\n", i))
	}
	retry(2)
	begin(3)
	for i := range 10 {
		s := fmt.Sprintf("third %d\t<&>\u2028 ", i)
		final += s
		part(3, s)
		if i%4 == 3 {
			step(func() { h.Part(hello.UID, 3, provider.Part{Kind: provider.Reasoning, Text: "hm"}) })
		}
	}
	step(func() { h.Finish(hello, endOf(hello, "Succeeded", 3)) })
	part(3, "after the end")
	return steps, final
}

// TestEveryReaderEndsWithTheText lets a reader join at every step of a run,
// afresh and with every cursor that was seen so far, promptly read or lagging,
// in a log that keeps all and in ones that must drop.
func TestEveryReaderEndsWithTheText(t *testing.T) {
	for _, limit := range []int{DefaultLogBytes, 2000, 900} {
		for _, lag := range []bool{false, true} {
			t.Run(fmt.Sprintf("limit %d lag %t", limit, lag), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { everyReader(t, limit, lag) })
			})
		}
	}
}

// follows is one reader of everyReader, with the draft that it came with.
type follows struct {
	*recorder
	from, draft string
	done        chan struct{}
	// plain readers have text alone, and may be broken off.
	plain, hold, aborted bool
}

// end says what the reader ended with, and whether that is an end at all.
func (r *follows) end(t *testing.T) (text string, whole bool) {
	switch {
	case r.plain:
		return r.String(), !r.aborted
	case r.from == endID(hello.UID):
		return r.draft, r.code == http.StatusNoContent
	}
	c := &client{t: t, draft: r.draft}
	c.read(r.String())
	return c.draft, c.done
}

func everyReader(t *testing.T, limit int, lag bool) {
	hub := NewHub()
	hub.LogBytes = limit
	source := &shelf{view: View{Run: hello, Status: statusOf(hello, "Pending", 0)}}
	handler := NewHandler(hub, source, Anyone)
	handler.MinInterval = 0

	gate := make(chan struct{})
	var readers []*follows
	join := func(r *follows, lag bool) *follows {
		r.recorder, r.done = newRecorder(), make(chan struct{})
		if lag {
			r.gate = gate
		}
		readers = append(readers, r)
		ask := request(t.Context(), r.from)
		if r.plain {
			ask.URL.RawQuery = fmt.Sprintf("format=text&hold=%t", r.hold)
		}
		go func() {
			defer close(r.done)
			defer func() { r.aborted = recover() != nil }()
			handler.ServeHTTP(r, ask)
		}()
		return r
	}

	first := join(&follows{}, false)
	steps, final := script(hub)
	for i, step := range append(steps, func() {}) {
		synctest.Wait()
		join(&follows{}, lag)
		join(&follows{plain: true}, lag)
		join(&follows{plain: true, hold: true}, lag)
		seen := &client{t: t}
		for _, e := range parse(first.String()) {
			seen.apply(e)
			join(&follows{from: e.id, draft: seen.draft}, lag)
		}
		synctest.Wait()
		if i == len(steps)-2 {
			end := endOf(hello, "Succeeded", 3)
			source.put(View{Run: hello, Status: end.Done.Status, Finished: true, Text: final, End: end}, nil)
		}
		step()
	}
	synctest.Wait()
	close(gate)
	broken := 0
	for _, r := range readers {
		<-r.done
		text, whole := r.end(t)
		if r.plain && !r.hold && !whole {
			broken++ // it had text of an attempt that failed
			continue
		}
		if !whole || text != final {
			t.Fatalf("a reader from %q, plain %t, ended with %q, whole %t:\n%s", r.from, r.plain, text, whole, r)
		}
	}
	if plain := len(steps) + 1; broken == 0 || broken == plain {
		t.Errorf("%d of %d plain readers were broken off", broken, plain)
	}
	rest(t.Context(), 2*DefaultGrace)
	if n := hub.Readers(); n != 0 || len(hub.logs) != 0 || len(hub.begun) != 0 || hub.Bytes() != 0 {
		t.Errorf("the hub still has %d readers, %d logs, %d names, %d bytes", n, len(hub.logs), len(hub.begun), hub.Bytes())
	}
}

// reading follows a hub with one fresh reader; stop ends it.
func reading(t *testing.T, hub *Hub, v View, last string) (*recorder, func()) {
	t.Helper()
	handler := NewHandler(hub, views(v), Anyone)
	handler.MinInterval = 0
	r, done := newRecorder(), make(chan struct{})
	ctx, cancel := contextOf(t)
	go func() {
		defer close(done)
		handler.ServeHTTP(r, request(ctx, last))
	}()
	synctest.Wait()
	return r, func() { cancel(); <-done }
}

// TestLateJoiner says what the first frames of one that joins are.
func TestLateJoiner(t *testing.T) {
	pending := View{Run: hello, Status: statusOf(hello, "Pending", 0)}
	retrying := View{Run: hello, Status: statusOf(hello, "Retrying", 2), Retry: &stream.Retry{Attempt: 2}}
	tests := []struct {
		name string
		view View
		do   func(*Hub)
		last string
		want string
	}{
		{"nothing happened", pending, func(*Hub) {}, "", "status"},
		{"waiting since before a restart", retrying, func(*Hub) {}, "", "status retry"},
		{"the same with an old cursor", retrying, func(*Hub) {}, "ABCDEFGHIJ-1-7", "reset status retry"},
		{"streaming", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
			h.Part(hello.UID, 1, text("b"))
		}, "", "status message_part message_part"},
		{"streaming, with garbage", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
		}, "garbage", "reset status message_part"},
		{"waiting for a retry", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
		}, "", "status retry"},
		{"told anew while waiting", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			h.Tell(hello, statusOf(hello, "Retrying", 1))
		}, "", "status retry"},
		{"second attempt", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			h.Begin(hello, statusOf(hello, "Streaming", 2))
			h.Part(hello.UID, 2, text("b"))
		}, "", "status message_part"},
		{"suspended", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
			h.Tell(hello, statusOf(hello, "Suspended", 1))
			h.Part(hello.UID, 1, text("late"))
		}, "", "status"},
		{"suspended while it waits", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			h.Tell(hello, statusOf(hello, "Suspended", 1))
		}, "", "status"},
		{"ended while it waited", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			h.Finish(hello, End{Void: true, Done: stream.Done{Status: statusOf(hello, "Cancelled", 1)}})
		}, "", "status done"},
		{"a title came", pending, func(h *Hub) {
			h.Begin(hello, statusOf(hello, "Streaming", 1))
			h.Part(hello.UID, 1, text("a"))
			h.Title(hello, "T")
			h.Title(hello, "T")
		}, "", "status message_part"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := NewHub()
				test.do(hub)
				r, stop := reading(t, hub, test.view, test.last)
				defer stop()
				if got := names(parse(r.String())); got != test.want {
					t.Errorf("got %q, want %q:\n%s", got, test.want, r)
				}
			})
		})
	}
}

// TestLiveReader says what one sees who was there from the beginning.
func TestLiveReader(t *testing.T) {
	begin := func(h *Hub) {
		h.Begin(hello, statusOf(hello, "Streaming", 1))
		h.Part(hello.UID, 1, text("a"))
		synctest.Wait()
	}
	tests := []struct {
		name, want, draft string
		do                func(*Hub)
	}{
		{"success", "status status message_part usage done", "a", func(h *Hub) {
			begin(h)
			h.Finish(hello, endOf(hello, "Succeeded", 1))
		}},
		{"failure keeps what came", "status status message_part failed done", "a", func(h *Hub) {
			begin(h)
			h.Finish(hello, End{Failed: &stream.Failed{Reason: "ContentFiltered"}, Done: stream.Done{Status: statusOf(hello, "Failed", 1)}})
		}},
		{"cancelled while it waits", "status status message_part status retry reset done", "", func(h *Hub) {
			begin(h)
			h.Retry(hello, statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			h.Finish(hello, End{Done: stream.Done{Status: statusOf(hello, "Cancelled", 1)}})
		}},
		{"suspended and resumed", "status status message_part status reset status reset message_part", "b", func(h *Hub) {
			begin(h)
			h.Tell(hello, statusOf(hello, "Suspended", 1))
			h.Begin(hello, statusOf(hello, "Streaming", 2))
			h.Part(hello.UID, 2, text("b"))
		}},
		{"a title", "status status message_part title", "a", func(h *Hub) {
			begin(h)
			h.Title(hello, "T")
			h.Title(hello, "T")
		}},
		{"an attempt without a retry before it", "status status message_part status reset message_part", "b", func(h *Hub) {
			begin(h)
			h.Begin(hello, statusOf(hello, "Streaming", 2))
			h.Part(hello.UID, 1, text("late"))
			h.Part(hello.UID, 2, text("b"))
		}},
		{"dropped", "status status message_part", "a", func(h *Hub) {
			begin(h)
			h.Drop(hello.UID)
		}},
		{"created again", "status status message_part", "a", func(h *Hub) {
			begin(h)
			again := Run{"uid-2", hello.Namespace, hello.Name}
			h.Begin(again, statusOf(again, "Streaming", 1))
			h.Part(again.UID, 1, text("other"))
			h.Drop(again.UID)
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := NewHub()
				r, stop := reading(t, hub, View{Run: hello, Status: statusOf(hello, "Pending", 0)}, "")
				defer stop()
				test.do(hub)
				synctest.Wait()
				c := &client{t: t}
				c.read(r.String())
				if got := names(c.events); got != test.want || c.draft != test.draft {
					t.Errorf("got %q with %q, want %q with %q", got, c.draft, test.want, test.draft)
				}
			})
		})
	}
}

// TestBound appends far more than a log keeps, of parts and of retries.
func TestBound(t *testing.T) {
	hub := NewHub()
	hub.LogBytes = 10_000
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	check := func(what string) {
		t.Helper()
		if l := hub.find(hello.UID); l.parts+l.controls > hub.LogBytes {
			t.Fatalf("after many %s the log has %d bytes of parts, %d of others", what, l.parts, l.controls)
		}
	}
	for range 1000 {
		hub.Part(hello.UID, 1, text("a token"))
		check("parts")
	}
	for n := range int32(1000) {
		hub.Retry(hello, statusOf(hello, "Retrying", n+1), stream.Retry{Attempt: n + 1, RetryingAt: time.Unix(0, 0)})
		check("retries")
		hub.Begin(hello, statusOf(hello, "Streaming", n+2))
		hub.Part(hello.UID, n+2, text("a token"))
		check("attempts")
	}
	for range 1000 {
		hub.Tell(hello, statusOf(hello, "Streaming", 1001))
		check("statuses")
	}
}

// TestFallenFarBehind: a reader that missed even retries gets what a late
// joiner does, and one whose cursor is that old as well.
func TestFallenFarBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		hub.LogBytes = 4000
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		handler := NewHandler(hub, views(View{Run: hello}), Anyone)
		slow, done := newRecorder(), make(chan struct{})
		slow.gate = make(chan struct{})
		go func() {
			defer close(done)
			handler.ServeHTTP(slow, request(t.Context(), ""))
		}()
		synctest.Wait()
		for n := range int32(50) {
			hub.Retry(hello, statusOf(hello, "Retrying", n+1), stream.Retry{Attempt: n + 1})
			hub.Begin(hello, statusOf(hello, "Streaming", n+2))
		}
		hub.Part(hello.UID, 51, text("the text"))
		hub.Finish(hello, endOf(hello, "Succeeded", 51))
		close(slow.gate)
		<-done
		c := &client{t: t}
		c.read(slow.String())
		if c.draft != "the text" || !c.done || !strings.HasSuffix(names(c.events), "reset status message_part usage done") {
			t.Errorf("got %q, done %t: %s", c.draft, c.done, names(c.events))
		}
	})
}
