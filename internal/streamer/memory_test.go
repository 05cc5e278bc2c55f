// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
)

// sum counts what the logs of a hub hold, one by one.
func sum(h *Hub) int {
	total := 0
	for _, r := range h.retained() {
		total += r.held
	}
	return total
}

func runNamed(name string) Run { return Run{UID: "uid-" + name, Namespace: "default", Name: name} }

// TestTotalIsBounded: many runs write far more than all logs may hold. What is
// held stays below the bound, short logs lose nothing, and whoever reads ends
// with the whole text.
func TestTotalIsBounded(t *testing.T) {
	hub := NewHub()
	hub.TotalBytes = 200_000
	short := runNamed("short")
	hub.Begin(short, statusOf(short, "Streaming", 1))
	for range 10 {
		hub.Part(short.UID, 1, text("few "))
	}
	before := hub.find(short.UID).held
	for i := range 20 {
		long := runNamed(fmt.Sprint("long-", i))
		hub.Begin(long, statusOf(long, "Streaming", 1))
	}
	for range 2000 {
		for i := range 20 {
			hub.Part(fmt.Sprint("uid-long-", i), 1, text("many "))
			if hub.Bytes() > hub.TotalBytes || hub.Bytes() != sum(hub) {
				t.Fatalf("%d bytes held, %d in sum, of %d", hub.Bytes(), sum(hub), hub.TotalBytes)
			}
		}
	}
	if got := hub.find(short.UID).held; got != before {
		t.Errorf("the short log went from %d to %d bytes", before, got)
	}
	if got := hub.Bytes(); got < hub.TotalBytes/4 {
		t.Errorf("only %d bytes are left of %d", got, hub.TotalBytes)
	}
	r := &reader{log: hub.find("uid-long-7")}
	c := &client{t: t}
	for b := (batch{more: true}); b.more; {
		b = r.next(nil)
		w := httptest.NewRecorder()
		out := (&Handler{WriteTimeout: time.Second}).sink(w, request(t.Context(), ""))
		if err := out.send(b.frames...); err != nil {
			t.Fatal(err)
		}
		if err := out.sendWhole(r.log, b.whole); err != nil {
			t.Fatal(err)
		}
		c.read(w.Body.String())
	}
	if want := strings.Repeat("many ", 2000); c.draft != want {
		t.Errorf("a reader ends with %d bytes, want %d", len(c.draft), len(want))
	}
}

// TestFinishedLogsGoFirst: before a run under way loses a part, the logs of
// finished ones go, the oldest first.
func TestFinishedLogsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		hub.TotalBytes = 100_000
		for i := range 3 {
			run := runNamed(fmt.Sprint("over-", i))
			hub.Begin(run, statusOf(run, "Streaming", 1))
			for range 100 {
				hub.Part(run.UID, 1, text("some text "))
			}
			hub.Finish(run, endOf(run, "Succeeded", 1))
			rest(t.Context(), time.Millisecond)
		}
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		gone := 0
		for range 400 {
			hub.Part(hello.UID, 1, text("some text "))
			for i := range 3 {
				if hub.find(fmt.Sprint("uid-over-", i)) == nil && i >= gone {
					if i != gone {
						t.Fatalf("the log of run %d went before that of run %d", i, gone)
					}
					gone++
				}
			}
			if hub.find(hello.UID).episode.cut != 0 && gone < 3 {
				t.Fatal("a run under way lost a part, and a finished one stays")
			}
		}
		if gone == 0 || hub.Bytes() > hub.TotalBytes {
			t.Errorf("%d logs went, %d bytes are held", gone, hub.Bytes())
		}
	})
}

// TestNothingIsHeldInTheEnd: however a log ends, with or without readers, what
// it held is given back once.
func TestNothingIsHeldInTheEnd(t *testing.T) {
	ends := map[string]func(*Hub){
		"grace over": func(h *Hub) { h.Finish(hello, endOf(hello, "Succeeded", 1)) },
		"dropped":    func(h *Hub) { h.Drop(hello.UID) },
		"dropped in its grace": func(h *Hub) {
			h.Finish(hello, endOf(hello, "Succeeded", 1))
			h.Drop(hello.UID)
		},
		"replaced": func(h *Hub) {
			again := Run{"uid-2", hello.Namespace, hello.Name}
			h.Begin(again, statusOf(again, "Streaming", 1))
			h.Drop(again.UID)
		},
		"finished twice": func(h *Hub) {
			h.Finish(hello, endOf(hello, "Succeeded", 1))
			h.Finish(hello, endOf(hello, "Succeeded", 1))
		},
	}
	for what, end := range ends {
		for _, readers := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s with %d readers", what, readers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := NewHub()
					hub.Begin(hello, statusOf(hello, "Streaming", 1))
					l := hub.find(hello.UID)
					for range readers {
						hub.join(hello)
					}
					hub.Part(hello.UID, 1, text("x"))
					end(hub)
					rest(t.Context(), 2*DefaultGrace)
					l.tell(statusOf(hello, "Retrying", 1)) // one that found it before
					if held := what == "grace over" || what == "finished twice"; (readers > 0 && held) != (hub.Bytes() > 0) {
						t.Errorf("%d bytes are held while readers are there", hub.Bytes())
					}
					for range readers {
						hub.leave(l)
					}
					if hub.Bytes() != 0 || len(hub.logs) != 0 || len(hub.begun) != 0 || hub.Readers() != 0 {
						t.Errorf("%d bytes, %d logs, %d names, %d readers are left", hub.Bytes(), len(hub.logs), len(hub.begun), hub.Readers())
					}
				})
			})
		}
	}
}

func TestLevelFor(t *testing.T) {
	for _, test := range []struct {
		sizes  []int
		excess int
		want   int
	}{
		{[]int{100}, 10, 90},
		{[]int{100, 50}, 10, 90},
		{[]int{100, 50}, 50, 50},
		{[]int{100, 50}, 70, 40},
		{[]int{10, 100, 50}, 160, 0},
		{[]int{10, 100, 50}, 1000, 0},
		{[]int{7, 7, 7}, 1, 6},
		{nil, 5, 0},
	} {
		var logs []retained
		for _, n := range test.sizes {
			logs = append(logs, retained{held: n})
		}
		got := levelFor(logs, test.excess)
		if got != test.want {
			t.Errorf("%v over by %d: level %d, want %d", test.sizes, test.excess, got, test.want)
		}
	}
}

// TestWholeInPieces: a text that is encoded piece by piece is the frame that it
// would be in one, wherever the pieces end.
func TestWholeInPieces(t *testing.T) {
	for _, s := range []string{"x", "zwölf «9»\n\t<&>\u2028\x01\"", strings.Repeat("ab", maxWrite), strings.Repeat("«\"\n", maxWrite), "a" + strings.Repeat("😀", maxWrite)} {
		l := newLog(hello, DefaultLogBytes, &memory{})
		l.begin(statusOf(hello, "Streaming", 2))
		l.part(2, 0, s, encode("x"))
		w := httptest.NewRecorder()
		at := cursor{"ABCDEFGHIJ", 2, 9}
		if err := (&Handler{WriteTimeout: time.Second}).sink(w, request(t.Context(), "")).sendWhole(l, whole{at, len(s)}); err != nil {
			t.Fatal(err)
		}
		want := event(at, stream.EventMessagePart, encode(messagePart(0, s)))
		if !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%.20q: got %.200q, want %.200q", s, w.Body, want)
		}
	}
}

// TestGrace: one who was cut at the end resumes without a reset while the log
// is there; one who joins sees what the object would tell.
func TestGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		source := &shelf{view: pendingView()}
		handler := NewHandler(hub, source, Anyone)
		ask := func(last string) []received {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, request(t.Context(), last))
			return parse(w.Body.String())
		}
		hub.Begin(hello, statusOf(hello, "Streaming", 2))
		hub.Part(hello.UID, 2, text("a"))
		hub.Part(hello.UID, 2, text("b"))
		hub.Title(hello, "A title")
		l := hub.find(hello.UID)
		end := endOf(hello, "Succeeded", 2)
		hub.Finish(hello, end)
		source.put(View{Run: hello, Status: end.Done.Status, Finished: true, Text: "ab", Title: "A title", End: end}, nil)

		if got := names(ask(cursor{l.epoch, 2, l.frames[2].seq}.String())); got != "message_part title usage done" {
			t.Errorf("one that resumes gets %q", got)
		}
		joined := ask("")
		if got := names(joined); got != "status message_part message_part title usage done" {
			t.Errorf("one that joins gets %q", got)
		}
		var s stream.Status
		if joined[0].into(t, &s); s.Phase != "Succeeded" || s.Title != "A title" {
			t.Errorf("it is told %+v", s)
		}
		rest(t.Context(), DefaultGrace)
		synctest.Wait()
		if got := names(ask("")); got != "status message_part title usage done" {
			t.Errorf("after the grace: %q", got)
		}
		if got := names(ask(cursor{l.epoch, 2, 2}.String())); got != "reset status message_part title usage done" {
			t.Errorf("with a cursor after the grace: %q", got)
		}
	})
}

// TestLateTitle: a title that comes after the end is told to those who join.
func TestLateTitle(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	end := endOf(hello, "Succeeded", 1)
	hub.Finish(hello, end)
	hub.Title(hello, "Late")
	w := httptest.NewRecorder()
	NewHandler(hub, views(View{Run: hello, Finished: true, End: end}), Anyone).ServeHTTP(w, request(t.Context(), ""))
	c := &client{t: t}
	c.read(w.Body.String())
	if got := names(c.events); got != "status title usage done" || c.title != "Late" {
		t.Errorf("got %q, %q", got, c.title)
	}
}

// TestVoidTextIsNotKept: of a run that ends without text a late joiner sees none.
func TestVoidTextIsNotKept(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	hub.Part(hello.UID, 1, text("void"))
	end := End{Void: true, Failed: &stream.Failed{Reason: "QuotaExhausted"}, Done: stream.Done{Status: statusOf(hello, "Failed", 1)}}
	hub.Finish(hello, end)
	w := httptest.NewRecorder()
	NewHandler(hub, views(View{Run: hello, Finished: true, End: end}), Anyone).ServeHTTP(w, request(t.Context(), ""))
	if got := names(parse(w.Body.String())); got != "status failed done" {
		t.Errorf("got %q", got)
	}
}

// TestUnreadAnswer: a finished run whose answer cannot be read is there in a
// moment, unless it went.
func TestUnreadAnswer(t *testing.T) {
	for err, want := range map[error]int{
		ErrNotFound: http.StatusNotFound, ErrBusy: http.StatusServiceUnavailable, errors.New("no leader"): http.StatusServiceUnavailable,
	} {
		for _, query := range []string{"", "format=text", "format=openai"} {
			v := View{Run: hello, Finished: true, End: endOf(hello, "Succeeded", 1), Load: func(context.Context) (string, func(), error) { return "", nil, err }}
			w := httptest.NewRecorder()
			r := request(t.Context(), "")
			r.URL.RawQuery = query
			NewHandler(NewHub(), views(v), Anyone).ServeHTTP(w, r)
			if w.Code != want || (w.Header().Get("Retry-After") != "") != (want == http.StatusServiceUnavailable) || strings.Contains(w.Body.String(), "leader") {
				t.Errorf("%v, %q: %d %s", err, query, w.Code, w.Body)
			}
		}
	}
}
