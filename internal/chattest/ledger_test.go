// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"chatrun.dev/operator/internal/chattest"
)

// prompt is the body of a stream that asks this.
func prompt(text string) string {
	return fmt.Sprintf(`{"model":"m","stream":true,"messages":[{"role":"user","content":%q}]}`, text)
}

// TestLedgerUnderRace has many clients, each of which calls again at the end of
// one answer: no two of one key may ever seem to live at once.
func TestLedgerUnderRace(t *testing.T) {
	const runs, attempts = 40, 5
	script := chattest.Sequence(
		chattest.Answer("a", "b").ResetAfter(1),
		chattest.AnthropicOverloadedResponse(),
		chattest.Answer("a", "b").EndAfter(1),
		chattest.Answer("a", "b").TruncateAt(100),
		chattest.Answer("a", "b"))
	server := chattest.Start(t, script)
	ledger := server.Ledger()
	c := client(t, server, false)
	var wg sync.WaitGroup
	for run := range runs {
		wg.Go(func() {
			key := fmt.Sprintf("run-%d", run)
			for n := range attempts {
				_, _, err := do(t, c, ask(t, server.URL(), openAIPath, prompt(key)))
				if (err != nil) != (n == 0) {
					t.Errorf("attempt %d: %v", n+1, err)
				}
				// The client has seen the end, so the ledger has, too.
				if got := ledger.For(key, chattest.PurposeAnswer); got.Count != n+1 || got.Live != 0 || got.MaxLive != 1 {
					t.Errorf("after attempt %d of %s: %+v", n+1, key, got)
				}
				_ = ledger.Snapshot()
				_ = ledger.Requests()
			}
		})
	}
	wg.Go(func() {
		if err := ledger.WaitFor(t.Context(), func(l *chattest.Ledger) bool {
			return l.Total(chattest.PurposeAnswer).Completed == runs
		}); err != nil {
			t.Error(err)
		}
	})
	wg.Wait()
	got := ledger.Total(chattest.PurposeAnswer)
	want := chattest.Tally{Count: runs * attempts, MaxLive: got.MaxLive, Completed: runs, Refused: runs, Broken: 3 * runs}
	if got != want || ledger.Live() != 0 || len(ledger.Requests()) != runs*attempts {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// TestTwoAtOnce is what MaxLiveFor is there to find.
func TestTwoAtOnce(t *testing.T) {
	gate := make(chan struct{})
	server := chattest.Start(t, chattest.Always(chattest.Answer("a").HoldAfter(0, gate)))
	c := client(t, server, false)
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			if _, _, err := do(t, c, ask(t, server.URL(), openAIPath, prompt("twin"))); err != nil {
				t.Error(err)
			}
		})
	}
	waitFor(t, server.Ledger(), func(l *chattest.Ledger) bool { return l.Live() == 2 })
	close(gate)
	wg.Wait()
	if got := server.Ledger().MaxLiveFor("twin"); got != 2 {
		t.Errorf("%d at once", got)
	}
}

// TestArrival finds a request in the ledger before anything is answered.
func TestArrival(t *testing.T) {
	var server *chattest.Server
	server = chattest.New(func(r chattest.Request) chattest.Response {
		if got := server.Ledger().For(r.Key, r.Purpose); got.Count != 1 || got.Live != 1 {
			t.Errorf("while the script is asked: %+v", got)
		}
		return chattest.Answer("a")
	})
	t.Cleanup(server.Close)
	if err := server.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := do(t, client(t, server, false), ask(t, server.URL(), openAIPath, prompt("x"))); err != nil {
		t.Fatal(err)
	}
}

// TestWaitForGivesUp ends with the cause of its context.
func TestWaitForGivesUp(t *testing.T) {
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	server := chattest.New(nil)
	defer server.Close()
	if err := server.Ledger().WaitFor(ctx, func(*chattest.Ledger) bool { return false }); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}

// TestLedgerOverHTTP is how another process reads the counts.
func TestLedgerOverHTTP(t *testing.T) {
	server := chattest.Start(t, nil)
	c := client(t, server, false)
	if _, _, err := do(t, c, ask(t, server.URL(), openAIPath, prompt("x"))); err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL()+"/ledger", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, body, err := do(t, c, request)
	if err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(strings.NewReader(body))
	decoder.DisallowUnknownFields()
	var got chattest.Snapshot
	if err := decoder.Decode(&got); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	tally := chattest.Tally{Count: 1, MaxLive: 1, Completed: 1}
	if got.Answers != tally || len(got.Keys) != 1 || got.Keys[0] != (chattest.KeyTally{Key: "x", Purpose: chattest.PurposeAnswer, Tally: tally}) {
		t.Errorf("got %+v", got)
	}
	if strings.Contains(body, "sk-test") {
		t.Error("the ledger shows the key")
	}
}
