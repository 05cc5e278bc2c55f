// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

// vendors are the streams that every fault is tried on.
var vendors = []struct{ name, path, body, terminal string }{
	{"OpenAI", openAIPath, openAIPlainStream, "[DONE]"},
	{"Anthropic", anthropicPath, anthropicStream, "message_stop"},
}

// TestEnds tries every way in which a body can end too early or wrongly, as a
// client on a plain HTTP/1.1 connection sees it.
func TestEnds(t *testing.T) {
	good := chattest.Answer("one", "two", "three")
	tests := []struct {
		name     string
		response chattest.Response
		status   int
		parts    int   // of the three, how many arrive
		err      error // of reading
		state    chattest.State
	}{
		{"whole", good, 200, 3, nil, chattest.Completed},
		{"reset after none", good.ResetAfter(0), 200, 0, syscall.ECONNRESET, chattest.Broken},
		{"reset after two", good.ResetAfter(2), 200, 2, syscall.ECONNRESET, chattest.Broken},
		{"reset beyond the last", good.ResetAfter(9), 200, 3, syscall.ECONNRESET, chattest.Broken},
		{"reset at once", chattest.Reset(), 0, 0, syscall.ECONNRESET, chattest.Broken},
		{"clean end after none", good.EndAfter(0), 200, 0, nil, chattest.Broken},
		{"clean end after one", good.EndAfter(1), 200, 1, nil, chattest.Broken},
		{"clean end beyond the last", good.EndAfter(9), 200, 3, nil, chattest.Broken},
		{"unterminated", good.Unterminated(), 200, 3, nil, chattest.Broken},
		{"error event after one", good.ErrorEventAfter(1, chattest.AnthropicOverloadedResponse()), 200, 1, nil, chattest.Broken},
		{"cut at once", good.TruncateAt(0), 200, 0, nil, chattest.Broken},
		{"cut beyond the end", good.TruncateAt(1 << 20), 200, 3, nil, chattest.Completed},
		{"page", chattest.HTMLPage(), 200, 0, nil, chattest.Broken},
		{"empty", chattest.Empty(), 200, 0, nil, chattest.Broken},
		{"gateway", chattest.Raw(502, "text/html", "<h1>Bad Gateway</h1>"), 502, 0, nil, chattest.Refused},
		{"rate limit", chattest.OpenAIRateLimitResponse(), 429, 0, nil, chattest.Refused},
		{"error body reset", chattest.OpenAIServerErrorResponse().ResetAfter(0), 500, 0, syscall.ECONNRESET, chattest.Broken},
	}
	for _, vendor := range vendors {
		for _, test := range tests {
			t.Run(vendor.name+"/"+test.name, func(t *testing.T) {
				server := chattest.Start(t, chattest.Always(test.response))
				status, body, err := do(t, client(t, server, false), ask(t, server.URL(), vendor.path, vendor.body))
				if status != test.status || !errors.Is(err, test.err) {
					t.Errorf("status %d, error %v; want %d, %v", status, err, test.status, test.err)
				}
				for i, text := range []string{"one", "two", "three"} {
					if got, want := strings.Contains(body, text), i < test.parts; got != want {
						t.Errorf("part %q arrived: %v, want %v, in\n%s", text, got, want, body)
					}
				}
				if got, want := strings.Contains(body, vendor.terminal), test.state == chattest.Completed; got != want {
					t.Errorf("terminal event: %v, want %v, in\n%s", got, want, body)
				}
				entry := server.Ledger().Requests()[0]
				if entry.State != test.state || entry.Parts != test.parts {
					t.Errorf("ledger: %s after %d parts, want %s after %d", entry.State, entry.Parts, test.state, test.parts)
				}
			})
		}
	}
}

// TestCut looks at the bytes of a cut body.
func TestCut(t *testing.T) {
	for n := range 200 {
		server := chattest.New(chattest.Always(chattest.Answer("é", "é").TruncateAt(n)))
		listener := newPipes()
		if err := server.Serve(listener); err != nil {
			t.Fatal(err)
		}
		c := &http.Client{Transport: &http.Transport{DialContext: listener.dial}}
		_, body, err := do(t, c, ask(t, "http://pipe", openAIPath, openAIPlainStream))
		if err != nil || len(body) != n {
			t.Errorf("%d bytes and %v, want %d", len(body), err, n)
		}
		c.CloseIdleConnections()
		server.Close()
	}
}

// TestOtherTransports tries the cut connection where it is not a bare TCP one.
func TestOtherTransports(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		for _, secure := range []bool{false, true} {
			var options []chattest.Option
			if secure {
				options = append(options, chattest.TLS())
			}
			server := chattest.Start(t, chattest.Sequence(
				chattest.Answer("one", "two").ResetAfter(1), chattest.Reset(), chattest.Answer("one")), options...)
			c := client(t, server, http2)

			resp, err := c.Do(ask(t, server.URL(), openAIPath, openAIPlainStream))
			if err != nil {
				t.Fatal(err)
			}
			if want := map[bool]int{false: 1, true: 2}[http2]; resp.ProtoMajor != want {
				t.Errorf("protocol %s, want HTTP/%d", resp.Proto, want)
			}
			body, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err == nil || !strings.Contains(string(body), "one") {
				t.Errorf("http2 %v, tls %v: error %v, body %q", http2, secure, err, body)
			}
			if !http2 && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("tls %v: %v, want a reset", secure, err)
			}
			if _, _, err := do(t, c, ask(t, server.URL(), openAIPath, openAIPlainStream)); err == nil {
				t.Error("a reset before the header is an answer")
			}
			if status, _, err := do(t, c, ask(t, server.URL(), openAIPath, openAIPlainStream)); status != 200 || err != nil {
				t.Errorf("after the resets: %d, %v", status, err)
			}
		}
	}
}

// TestSilence abandons each kind of silence, and expects the server to notice.
func TestSilence(t *testing.T) {
	tests := []struct {
		name     string
		response chattest.Response
		parts    int
		sees     string // a line that shows where the stream stands; "" if not even a header comes
	}{
		{"no header", chattest.Silent(), 0, ""},
		{"slow header", chattest.Answer("one").SlowHeaders(time.Hour), 0, ""},
		{"before the first part", chattest.Answer("one").FirstDelay(time.Hour), 0, "data:"},
		{"between parts", chattest.Answer("one", "two").Pace(time.Hour), 1, "one"},
		{"stall at once", chattest.Answer("one").StallAfter(0), 0, "data:"},
		{"stall after one", chattest.Answer("one", "two").StallAfter(1), 1, "one"},
		{"stall before the end", chattest.Answer("one").StallAfter(1), 1, "one"},
		{"held", chattest.Answer("one", "two").HoldAfter(1, make(chan struct{})), 1, "one"},
		{"OpenAI's keep-alives", chattest.Answer("one").KeepAlivesAfter(1, time.Millisecond), 1, ": keep-alive"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := chattest.Start(t, chattest.Always(test.response))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			request := ask(t, server.URL(), openAIPath, openAIPlainStream).WithContext(ctx)
			c := client(t, server, false)
			ended := make(chan error, 1)
			seen := make(chan error, 1)
			go func() {
				resp, err := c.Do(request)
				if err == nil {
					defer shut(resp.Body)
					body := bufio.NewReader(resp.Body)
					seen <- readLine(body, test.sees)
					_, err = io.Copy(io.Discard, body)
				}
				ended <- err
			}()
			if test.sees == "" {
				waitFor(t, server.Ledger(), func(l *chattest.Ledger) bool { return l.Live() == 1 })
			} else if err := <-seen; err != nil {
				t.Fatal(err)
			}
			waitFor(t, server.Ledger(), func(l *chattest.Ledger) bool { return l.Requests()[0].Parts == test.parts })
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the client ended with %v", err)
			}
			waitFor(t, server.Ledger(), func(l *chattest.Ledger) bool { return l.Live() == 0 })
			if state := server.Ledger().Requests()[0].State; state != chattest.Cancelled {
				t.Errorf("the request is %s", state)
			}
		})
	}
}

// TestClose ends silent and held streams from the server's side: the client
// must see an error, never a clean end.
func TestClose(t *testing.T) {
	for _, http2 := range []bool{false, true} {
		server := chattest.Start(t, chattest.Always(chattest.Answer("one", "two").StallAfter(1)), chattest.TLS())
		resp, err := client(t, server, http2).Do(ask(t, server.URL(), anthropicPath, anthropicStream))
		if err != nil {
			t.Fatal(err)
		}
		defer shut(resp.Body)
		body := bufio.NewReader(resp.Body)
		if err := readLine(body, "one"); err != nil {
			t.Fatal(err)
		}
		server.Close()
		server.Close() // again is allowed
		if _, err := io.Copy(io.Discard, body); err == nil {
			t.Error("the stream ended cleanly")
		}
		if got := server.Ledger().Total(chattest.PurposeAnswer); got.Live != 0 || got.Broken+got.Cancelled != 1 {
			t.Errorf("after Close: %+v", got)
		}
		if err := server.Listen("127.0.0.1:0"); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("listening after Close: %v", err)
		}
		address := strings.TrimPrefix(server.URL(), "https://")
		if conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address); err == nil {
			shut(conn)
			t.Error("somebody listens after Close")
		}
	}
}

// TestHold goes on when the gate opens, and sends raw bytes between parts.
func TestHold(t *testing.T) {
	gate := make(chan struct{})
	server := chattest.Start(t, chattest.Always(
		chattest.Answer("one", "two").HoldAfter(1, gate).RawAfter(1, ": raw\n\n").RawAfter(9, ": late\n\n")))
	resp, err := client(t, server, false).Do(ask(t, server.URL(), openAIPath, openAIPlainStream))
	if err != nil {
		t.Fatal(err)
	}
	defer shut(resp.Body)
	body := bufio.NewReader(resp.Body)
	for _, text := range []string{"one", ": raw", "two", ": late", "[DONE]"} {
		if err := readLine(body, text); err != nil {
			t.Fatal(err)
		}
		if text == "one" {
			close(gate)
		}
	}
}

// TestUnreadBody ends a stream that its client has stopped to read, so that the
// server is held in a write: once by the client, once by Close.
func TestUnreadBody(t *testing.T) {
	for _, byClient := range []bool{true, false} {
		// More than loopback buffers hold.
		server := chattest.Start(t, chattest.Always(chattest.Answer(strings.Repeat("x", 64<<20))))
		resp, err := client(t, server, false).Do(ask(t, server.URL(), openAIPath, openAIPlainStream))
		if err != nil {
			t.Fatal(err)
		}
		want := chattest.Broken
		if byClient {
			want = chattest.Cancelled
			_ = resp.Body.Close()
			waitFor(t, server.Ledger(), func(l *chattest.Ledger) bool { return l.Live() == 0 })
		}
		server.Close()
		_ = resp.Body.Close()
		if entry := server.Ledger().Requests()[0]; entry.State != want || entry.Parts != 0 {
			t.Errorf("%s after %d parts, want %s", entry.State, entry.Parts, want)
		}
	}
}
