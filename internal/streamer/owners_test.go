// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRelayPromoted: this replica takes the run over. Readers are reset, and get
// the new attempt from here.
func TestRelayPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("lost"))
		w, done := b.attend(t.Context(), helloPath, "")
		atC, doneC := all.all["c"].attend(t.Context(), helloPath, "")
		synctest.Wait()
		all.set(func() { all.down = errors.New("down") })
		a.hub.Close()
		synctest.Wait()
		all.owned("b", pendingView())
		all.set(func() { all.down = nil })
		b.hub.Retry(hello, statusOf(hello, "Retrying", 1), retryOf(1))
		rest(t.Context(), time.Second)
		b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
		b.hub.Part(hello.UID, 2, text("kept"))
		rest(t.Context(), 10*time.Second)
		end := endOf(hello, "Succeeded", 2)
		end.Done.Bytes = 4
		b.hub.Finish(hello, end)
		<-done
		<-doneC
		for _, raw := range []string{w.String(), atC.String()} {
			c := &client{t: t}
			c.read(raw)
			if c.draft != "kept" || !c.done || !strings.Contains(names(c.events), "reset status retry") {
				t.Errorf("draft %q, done %t: %s", c.draft, c.done, names(c.events))
			}
		}
	})
}

// TestElsewhere: a log that was written here is another replica's from now on.
func TestElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("lost"))
		atA, doneA := a.attend(t.Context(), helloPath, "")
		atC, doneC := all.all["c"].attend(t.Context(), helloPath, "")
		synctest.Wait()
		all.owned("b", pendingView())
		b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
		b.hub.Part(hello.UID, 2, text("kept"))
		for range 3 {
			a.hub.Elsewhere(hello)
			all.all["c"].hub.Elsewhere(hello)
			synctest.Wait()
		}
		// A late part of a worker that was stopped reaches nobody.
		a.hub.Part(hello.UID, 1, text("late"))
		rest(t.Context(), time.Second)
		if got := all.connections(); got != 2 {
			t.Errorf("%d connections", got)
		}
		end := endOf(hello, "Succeeded", 2)
		end.Done.Bytes = 4
		b.hub.Finish(hello, end)
		<-doneA
		<-doneC
		for _, raw := range []string{atA.String(), atC.String()} {
			c := &client{t: t}
			c.read(raw)
			if c.draft != "kept" || !c.done || !strings.Contains(names(c.events), "message_part reset status message_part") {
				t.Errorf("draft %q, done %t: %s", c.draft, c.done, names(c.events))
			}
		}
		a.hub.Elsewhere(hello) // no log
	})
}

// TestRelayFaults: what readers are told who cannot be relayed to.
func TestRelayFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		down   error
		reason string
		code   int
		after  time.Duration
	}{
		"refused":     {fmt.Errorf("asking: %w", ErrRefused), "RelayRefused", http.StatusBadGateway, 0},
		"unreachable": {errors.New("no route"), "OwnerUnreachable", http.StatusServiceUnavailable, DefaultOwnerLimit},
		"not there":   {ErrNotOwner, "OwnerUnreachable", http.StatusServiceUnavailable, DefaultOwnerLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newReplicas("a", "b")
				all.owned("a", pendingView())
				a, b := all.all["a"], all.all["b"]
				a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
				a.hub.Part(hello.UID, 1, text("begun"))
				w, done := b.attend(t.Context(), helloPath, "")
				held, heldDone := b.attend(t.Context(), helloPath+"?format=text&hold=true", "")
				rest(t.Context(), time.Second)
				began := time.Now()
				all.set(func() { all.down = tc.down })
				a.hub.Close()
				<-done
				<-heldDone
				if took := time.Since(began); took < tc.after || took > tc.after+15*time.Second {
					t.Errorf("after %s", took)
				}
				events := parse(w.String())
				last := events[len(events)-1]
				if last.event != "failed" || last.id != "" || !strings.Contains(last.data, tc.reason) {
					t.Errorf("the end: %+v", last)
				}
				if held.code != tc.code || !strings.Contains(held.String(), tc.reason) {
					t.Errorf("before the first byte: %d %s", held.code, held)
				}
				if beats := strings.Count(w.String(), ": keep-alive"); tc.after > 0 && beats < 4 {
					t.Errorf("%d heartbeats", beats)
				}
				dials := len(all.opened())
				if limit := 3 + int(tc.after/maxRedial) + 12; dials > limit { // some are sooner, at first and where there is news
					t.Errorf("%d dials", dials)
				}
				// One who comes now: refused at once, or told where the run stands.
				late, lateDone := b.attend(t.Context(), helloPath, "")
				if tc.after == 0 {
					<-lateDone
					if late.code != tc.code || !strings.Contains(late.String(), tc.reason) || !strings.Contains(late.String(), `"kind":"Status"`) {
						t.Errorf("late: %d %s", late.code, late)
					}
					return
				}
				rest(t.Context(), historyWait)
				synctest.Wait()
				if got := names(parse(late.String())); got != "status" {
					t.Errorf("late: %d %s", late.code, late)
				}
				b.hub.Close()
				<-lateDone
			})
		})
	}
}

// TestPromotedInFlight: parts of the former owner are in flight while this replica
// begins. None of them gets in after that.
func TestPromotedInFlight(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			all := newReplicas("a", "b")
			a, b := all.all["a"], all.all["b"]
			all.owned("a", pendingView())
			a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
			w, done := b.attend(t.Context(), helloPath, "")
			synctest.Wait()
			var work sync.WaitGroup
			work.Go(func() {
				for range 200 {
					a.hub.Part(hello.UID, 1, text("old "))
				}
			})
			work.Go(func() {
				rest(t.Context(), 5*time.Millisecond)
				all.owned("b", pendingView())
				b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
				b.hub.Part(hello.UID, 2, text("new"))
			})
			work.Wait()
			rest(t.Context(), time.Second)
			a.hub.Part(hello.UID, 1, text("late "))
			end := endOf(hello, "Succeeded", 2)
			end.Done.Bytes = 3
			b.hub.Finish(hello, end)
			<-done
			c := &client{t: t}
			c.read(w.String())
			if c.draft != "new" || !c.done {
				t.Errorf("draft %q, done %t", c.draft, c.done)
			}
			if all.connections() != 0 {
				t.Errorf("%d connections", all.connections())
			}
		})
	}
}

// TestElsewhereUnread: a log that nobody reads goes.
func TestElsewhereUnread(t *testing.T) {
	hub := NewHub()
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	hub.Part(hello.UID, 1, text("lost"))
	hub.Elsewhere(hello)
	if hub.find(hello.UID) != nil || hub.Bytes() != 0 {
		t.Errorf("it is there still, %d bytes", hub.Bytes())
	}
	// One that ended here stays for those who come back.
	hub.Begin(hello, statusOf(hello, "Streaming", 2))
	hub.Finish(hello, endOf(hello, "Succeeded", 2))
	hub.Elsewhere(hello)
	if hub.joinWritten(hello) == nil {
		t.Error("the end is forgotten")
	}
	hub.Drop(hello.UID)
}

// TestElsewhereByMistake: what is written here goes on if nobody else has it.
func TestElsewhereByMistake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a")
		a := all.all["a"]
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("one "))
		w, done := a.attend(t.Context(), helloPath, "")
		synctest.Wait()
		a.hub.Elsewhere(hello)
		a.hub.Part(hello.UID, 1, text("two"))
		synctest.Wait()
		end := endOf(hello, "Succeeded", 1)
		end.Done.Bytes = 7
		a.hub.Finish(hello, end)
		<-done
		c := &client{t: t}
		c.read(w.String())
		if c.draft != "one two" || !c.done || len(all.opened()) != 0 {
			t.Errorf("draft %q, done %t, opened %q", c.draft, c.done, all.opened())
		}
	})
}
