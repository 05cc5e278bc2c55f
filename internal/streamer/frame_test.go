// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"math"
	"net/http/httptest"
	"strings"
	"testing"

	"chatrun.dev/operator/internal/provider"
)

// FuzzEncodePart: a part is encoded as encoding/json does.
func FuzzEncodePart(f *testing.F) {
	for _, text := range []string{"", "a", "a <b> & c", `"`, `\`, "\n", "\x7f", "ü🎉", "\u2028", "a\u2029b", "\xff", "\xe2\x80", "\ufffd"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []provider.PartKind{provider.Text, provider.Reasoning} {
			if got, want := string(encodePart(kind, text)), string(encode(messagePart(kind, text))); got != want {
				t.Errorf("%s, want %s", got, want)
			}
		}
	})
}

func TestCursor(t *testing.T) {
	good := cursor{"ABCDEFGHIJ", 3, 42}
	if s := good.String(); s != "ABCDEFGHIJ-3-42" {
		t.Error(s)
	}
	long := cursor{"ABCDEFGHIJ", math.MaxInt32, math.MaxUint64}
	for _, c := range []cursor{good, long, {"ABCDEFGHIJ", 0, nowhere}} {
		if got, ok := parseCursor(c.String()); !ok || got != c || len(c.String()) > cursorLen {
			t.Errorf("%s became %v, %t", c, got, ok)
		}
	}
	for _, s := range []string{
		"", "-", "--", "garbage", "ABCDEFGHIJ", "ABCDEFGHIJ-3", "ABCDEFGHIJ-3-", "ABCDEFGHIJ--42", "ABCDEFGHIJ-3-42-1",
		"ABCDEFGHIJ-3-042", "ABCDEFGHIJ-+3-42", "ABCDEFGHIJ-3--42", "ABC-3-42", "ABCDEFGHIJ-3-18446744073709551616",
		"ABCDEFGHIJ-2147483648-1", " ABCDEFGHIJ-3-42", "end-uid-1",
	} {
		if c, ok := parseCursor(s); ok {
			t.Errorf("%q is %v", s, c)
		}
	}
	if first, second := newEpoch(), newEpoch(); first == second {
		t.Error("two logs have one epoch")
	}
}

// TestResumeExactly: only the very cursors that stand in a log are resumed.
func TestResumeExactly(t *testing.T) {
	l := newLog(hello, DefaultLogBytes, &memory{})
	l.begin(statusOf(hello, "Streaming", 1))
	l.part(1, 0, "x", encode("x"))
	at := cursor{l.epoch, 1, 2}
	for _, test := range []struct {
		c    cursor
		want bool
	}{
		{at, true},
		{cursor{l.epoch, 1, 1}, true},
		{cursor{l.epoch, 2, 2}, false},
		{cursor{l.epoch, 1, 3}, false},
		{cursor{l.epoch, 1, nowhere}, false},
		{cursor{newEpoch(), 1, 2}, false},
	} {
		if got := (&reader{log: l}).resume(test.c.String()); got != test.want {
			t.Errorf("%s: %t", test.c, got)
		}
	}
	l.fail(statusOf(hello, "Retrying", 1), retryOf(1))
	if (&reader{log: l}).resume(at.String()) {
		t.Error("resumed at a part that was taken back")
	}
}

// TestConnect: the mux does not clean the path of a CONNECT.
func TestConnect(t *testing.T) {
	for _, path := range []string{"/v1/namespaces/default/chatruns//stream", "//v1/namespaces", "/v1/namespaces//chatruns//stream"} {
		r := httptest.NewRequestWithContext(t.Context(), "CONNECT", helloPath, nil)
		r.URL.Path = path
		w := httptest.NewRecorder()
		NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(w, r)
		if w.Code != 405 && w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("ABCDEFGHIJ-3-42")
	f.Add("end-uid")
	f.Add("ABCDEFGHIJ--1-0")
	f.Add("0000000000-00-0")
	f.Fuzz(func(t *testing.T, s string) {
		c, ok := parseCursor(s)
		if ok && c.String() != s {
			t.Errorf("%q became %q", s, c)
		}
		if !ok && c != (cursor{}) {
			t.Errorf("%q is refused and gives %v", s, c)
		}
	})
}

// FuzzRequest sends any path, query and cursor: no panic, an answer that is
// foreseen, and what a client sends never breaks a frame.
func FuzzRequest(f *testing.F) {
	f.Add("/v1/namespaces/default/chatruns/hello/stream", "", "ABCDEFGHIJ-3-42")
	f.Add("/v1/namespaces/a/b/chatruns/../stream", "after=end-uid-1", "end-uid-1")
	f.Add("/v1/namespaces/%2e/chatruns/a%00b/stream", "wait=30s&follow=false", "\x00")
	f.Add("/apis/stream.chatrun.dev/v1alpha1/namespaces/default/chatruns/hello/log", "format=text&hold=true", "")
	f.Add("/v1//namespaces/default/chatruns/hello/chat/completions", "format=openai&ticket=x", "")
	f.Fuzz(func(t *testing.T, path, query, last string) {
		r := httptest.NewRequestWithContext(t.Context(), "GET", helloPath, nil)
		r.URL.Path, r.URL.RawQuery = path, query
		r.Header["Last-Event-Id"] = []string{last}
		w := httptest.NewRecorder()
		NewHandler(NewHub(), views(finishedView()), Anyone).ServeHTTP(w, r)
		switch w.Code {
		case 200:
			parts := strings.Split(path, "/")
			events := names(parse(w.Body.String()))
			if len(parts) < 7 || !isLabel(parts[len(parts)-4]) || !isSubdomain(parts[len(parts)-2]) || !strings.HasSuffix(events, "status message_part title usage failed done") {
				t.Errorf("%q %q %q: %s", path, query, last, w.Body)
			}
		case 204, 307, 400, 404, 405, 424:
		default:
			t.Errorf("%q %q %q: %d", path, query, last, w.Code)
		}
	})
}
