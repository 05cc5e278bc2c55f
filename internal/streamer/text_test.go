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
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
)

// told is what a reader of a plain format got.
type told struct {
	*recorder
	aborted bool
	done    chan struct{}
}

// listen reads a run with a query until the answer ends or is broken off.
func listen(t *testing.T, h http.Handler, query string) *told {
	t.Helper()
	return listenTo(t.Context(), h, query)
}

func listenTo(ctx context.Context, h http.Handler, query string) *told {
	got := &told{recorder: newRecorder(), done: make(chan struct{})}
	go func() {
		defer close(got.done)
		defer func() {
			if r := recover(); r != nil {
				if err, ok := r.(error); !ok || !errors.Is(err, http.ErrAbortHandler) {
					panic(r)
				}
				got.aborted = true
			}
		}()
		h.ServeHTTP(got, httptest.NewRequestWithContext(ctx, http.MethodGet, helloPath+"?"+query, nil))
	}()
	return got
}

// content joins the text of OpenAI's chunks, and says how they ended.
func content(t *testing.T, raw string) (text, end string) {
	t.Helper()
	for block := range strings.SplitSeq(raw, "\n\n") {
		line, ok := strings.CutPrefix(block, "data: ")
		if !ok {
			continue
		}
		if line == "[DONE]" {
			return text, "done"
		}
		var c struct {
			chunk
			Error *struct{ Code, Message string }
		}
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if c.Error != nil {
			return text, c.Error.Code
		}
		if c.Object != "chat.completion.chunk" || c.ID != "chatcmpl-uid-1" || c.Created == 0 {
			t.Errorf("chunk %s", line)
		}
		for _, choice := range c.Choices {
			text += choice.Delta.Content
		}
	}
	return text, "cut"
}

func doneWith(phase, text string) End {
	end := endOf(hello, phase, 1)
	end.Done.Bytes = int64(len(text))
	return end
}

// TestPlainFormats: a proper end is the whole text of a run that succeeded, and
// nothing else is.
// ofSecond is the end of a run by its second attempt.
func ofSecond(end End) End {
	end.Done.Attempt = 2
	return end
}

func TestPlainFormats(t *testing.T) {
	begin := func(h *Hub, n int32, parts ...string) {
		h.Begin(hello, statusOf(hello, "Streaming", n))
		for _, s := range parts {
			synctest.Wait()
			h.Part(hello.UID, n, text(s))
		}
		synctest.Wait()
	}
	retry := func(h *Hub, n int32) {
		h.Retry(hello, statusOf(hello, "Retrying", n), retryOf(n))
		synctest.Wait()
	}
	failed := End{Void: true, Failed: &stream.Failed{Reason: "QuotaExhausted", Message: "no money"}, Done: stream.Done{Status: statusOf(hello, "Failed", 1)}}
	cancelled := doneWith("Cancelled", "half")
	cancelled.Done.Reason, cancelled.Done.Message = "Cancelled", "the run was cancelled"
	tests := []struct {
		name string
		do   func(*Hub)
		text string
		// end is how OpenAI's format ends; code is that of text, 200 if it is cut.
		end  string
		code int
		// held is what hold makes of it.
		held, heldEnd string
	}{
		{"success", func(h *Hub) {
			begin(h, 1, "a", "zwölf", "\n")
			h.Finish(hello, doneWith("Succeeded", "azwölf\n"))
		}, "azwölf\n", "done", 200, "azwölf\n", "done"},
		{"a retry before any text", func(h *Hub) {
			begin(h, 1)
			retry(h, 1)
			begin(h, 2, "b")
			h.Finish(hello, ofSecond(doneWith("Succeeded", "b")))
		}, "b", "done", 200, "b", "done"},
		{"a retry after text", func(h *Hub) {
			begin(h, 1, "void")
			retry(h, 1)
			begin(h, 2, "b")
			h.Finish(hello, ofSecond(doneWith("Succeeded", "b")))
		}, "void", "AttemptFailed", 200, "b", "done"},
		{"a retry set and cleared between two looks", func(h *Hub) {
			begin(h, 1, "void")
			h.Retry(hello, statusOf(hello, "Retrying", 1), retryOf(1))
			h.Begin(hello, statusOf(hello, "Streaming", 2))
			h.Part(hello.UID, 2, text("longer than before"))
			h.Finish(hello, ofSecond(doneWith("Succeeded", "longer than before")))
		}, "void", "AttemptFailed", 200, "longer than before", "done"},
		{"suspended after text", func(h *Hub) {
			begin(h, 1, "void")
			h.Tell(hello, statusOf(hello, "Suspended", 1))
			synctest.Wait()
			begin(h, 2, "b")
			h.Finish(hello, ofSecond(doneWith("Succeeded", "b")))
		}, "void", "AttemptFailed", 200, "b", "done"},
		{"failed without text", func(h *Hub) {
			begin(h, 1)
			h.Finish(hello, failed)
		}, "", "QuotaExhausted", 424, "", "QuotaExhausted"},
		{"failed after text", func(h *Hub) {
			begin(h, 1, "void")
			h.Finish(hello, failed)
		}, "void", "AttemptFailed", 200, "", "QuotaExhausted"},
		{"cancelled after text", func(h *Hub) {
			begin(h, 1, "half")
			h.Finish(hello, cancelled)
		}, "half", "Cancelled", 200, "", "Cancelled"},
		{"deleted after text", func(h *Hub) {
			begin(h, 1, "x")
			h.Drop(hello.UID)
		}, "x", "NotFound", 200, "", "NotFound"},
		{"deleted", func(h *Hub) {
			begin(h, 1)
			h.Drop(hello.UID)
		}, "", "NotFound", 404, "", "NotFound"},
		{"the server closes", func(h *Hub) {
			begin(h, 1)
			h.Close()
		}, "", "ServiceUnavailable", 503, "", "ServiceUnavailable"},
		{"the server closes after text", func(h *Hub) {
			begin(h, 1, "x")
			h.Close()
		}, "x", "ServiceUnavailable", 200, "", "ServiceUnavailable"},
		{"more than was kept", func(h *Hub) {
			begin(h, 1, "half")
			end := doneWith("Succeeded", "half of it")
			end.Done.Truncated = true
			h.Finish(hello, end)
		}, "half", "Truncated", 200, "", "Truncated"},
	}
	for _, test := range tests {
		for _, query := range []string{"format=text", "format=openai", "format=text&hold=true", "format=openai&hold=true"} {
			t.Run(test.name+" "+query, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					hub := NewHub()
					handler := NewHandler(hub, views(pendingView()), Anyone)
					handler.MinInterval = 0
					got := listen(t, handler, query)
					synctest.Wait()
					test.do(hub)
					<-got.done
					wantText, wantEnd, code := test.text, test.end, test.code
					if strings.Contains(query, "hold") {
						wantText, wantEnd = test.held, test.heldEnd
						code = map[bool]int{true: 200, false: 0}[wantText != ""]
					}
					if strings.Contains(query, "openai") {
						text, end := content(t, got.String())
						if text != wantText || end != wantEnd || got.aborted || got.code != 200 {
							t.Errorf("got %q, %q, code %d, aborted %t, want %q, %q", text, end, got.code, got.aborted, wantText, wantEnd)
						}
						return
					}
					if code == 0 {
						code = map[string]int{"NotFound": 404, "ServiceUnavailable": 503, "Truncated": 507}[wantEnd]
						code = max(code, map[bool]int{true: 424, false: 0}[code == 0])
					}
					if got.code != code || got.aborted != (code == 200 && wantEnd != "done") {
						t.Errorf("code %d, aborted %t, want %d", got.code, got.aborted, code)
					}
					if code == 200 && got.String() != wantText {
						t.Errorf("got %q, want %q", got, wantText)
					}
				})
			})
		}
	}
}

// TestPlainFormatsOfFinishedRun: the same from the run's object alone.
func TestPlainFormatsOfFinishedRun(t *testing.T) {
	good := View{Run: hello, Finished: true, Text: "the text", End: doneWith("Succeeded", "the text")}
	cut := good
	cut.End.Done.Bytes, cut.End.Done.Truncated = 99, true
	none := cut
	none.Text = ""
	for _, test := range []struct {
		name, query string
		view        View
		code        int
		body        string // what is in it
		aborted     bool
	}{
		{"text", "format=text", good, 200, "the text", false},
		{"openai", "format=openai", good, 200, "data: [DONE]", false},
		{"failed as text", "format=text", finishedView(), 424, "RetriesExhausted", false},
		{"failed for OpenAI's clients", "format=openai", finishedView(), 424, "RetriesExhausted", false},
		{"truncated as text", "format=text", cut, 200, "the text", true},
		{"truncated and held", "format=text&hold", cut, 507, "Truncated", false},
		{"truncated for OpenAI's clients", "format=openai", cut, 200, "Truncated", false},
		{"truncated and held for OpenAI's clients", "format=openai&hold", cut, 507, "Truncated", false},
		{"not kept as text", "format=text", none, 507, "Truncated", false},
		{"not kept for OpenAI's clients", "format=openai", none, 507, "Truncated", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := listen(t, NewHandler(NewHub(), views(test.view), Anyone), test.query)
			<-got.done
			if got.code != test.code || got.aborted != test.aborted || !strings.Contains(got.String(), test.body) {
				t.Errorf("%d, aborted %t: %s", got.code, got.aborted, got)
			}
		})
	}
}

// TestPlainTextIsLive: text comes as it comes, and the header of text with it.
func TestPlainTextIsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		_, listener := serve(t, NewHandler(hub, views(pendingView()), Anyone))
		conn := listener.dial(t)
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "GET %s?format=text HTTP/1.1\r\nHost: memory\r\n\r\n", helloPath); err != nil {
			t.Fatal(err)
		}
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		answer := make(chan string)
		go func() {
			buffer := make([]byte, 1000)
			for {
				n, err := conn.Read(buffer)
				if err != nil {
					close(answer)
					return
				}
				answer <- string(buffer[:n])
			}
		}()
		rest(t.Context(), time.Minute) // heartbeats are no text
		select {
		case s := <-answer:
			t.Errorf("before the first text: %q", s)
		default:
		}
		hub.Part(hello.UID, 1, text("Hello"))
		if got := <-answer; !strings.Contains(got, "text/plain; charset=utf-8") {
			t.Errorf("header %q", got)
		}
		if got := <-answer; !strings.Contains(got, "Hello") {
			t.Errorf("got %q", got)
		}
		hub.Part(hello.UID, 1, text(" world"))
		if got := <-answer; !strings.Contains(got, " world") {
			t.Errorf("got %q", got)
		}
		hub.Finish(hello, doneWith("Succeeded", "Hello world"))
		if got := <-answer; got != "0\r\n\r\n" {
			t.Errorf("the end is %q", got)
		}
	})
}

// TestTextOverHTTP10: where only the end of the connection ends an answer, none
// is sent that might be broken off, and one that is whole tells its size.
func TestTextOverHTTP10(t *testing.T) {
	good := View{Run: hello, Finished: true, Text: "the text", End: doneWith("Succeeded", "the text")}
	for query, want := range map[string]int{"format=text": http.StatusHTTPVersionNotSupported, "format=text&hold=true": 200, "format=openai": 200, "": 200} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, helloPath+"?"+query, nil)
		r.Proto, r.ProtoMajor, r.ProtoMinor = "HTTP/1.0", 1, 0
		w := httptest.NewRecorder()
		NewHandler(NewHub(), views(good), Anyone).ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d, want %d", query, w.Code, want)
		}
		if size := w.Header().Get("Content-Length"); (size == "8") != strings.Contains(query, "hold") {
			t.Errorf("%q: Content-Length %q", query, size)
		}
	}
}

// TestHeldTextTellsItsSize: also from the log.
func TestHeldTextTellsItsSize(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		got := listen(t, NewHandler(hub, views(pendingView()), Anyone), "format=text&hold=true")
		synctest.Wait()
		hub.Begin(hello, statusOf(hello, "Streaming", 1))
		hub.Part(hello.UID, 1, text("zwölf"))
		hub.Finish(hello, doneWith("Succeeded", "zwölf"))
		<-got.done
		if got.header.Get("Content-Length") != "6" || got.String() != "zwölf" {
			t.Errorf("%v %q", got.header, got)
		}
	})
}
