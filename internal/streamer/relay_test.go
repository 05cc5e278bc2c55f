// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRelay: many readers at an edge cost the owner one, and get its frames as
// they are, in all formats.
func TestRelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		atOwner, _ := a.attend(t.Context(), helloPath, "")
		var edge []*recorder
		var ends []<-chan struct{}
		for range 20 {
			w, done := b.attend(t.Context(), helloPath, "")
			edge, ends = append(edge, w), append(ends, done)
		}
		plainText, textDone := b.attend(t.Context(), helloPath+"?format=text&hold=true", "")
		openAI, openAIDone := b.attend(t.Context(), helloPath+"?format=openai&hold=true", "")
		synctest.Wait()
		if got := all.connections(); got != 1 {
			t.Fatalf("%d connections", got)
		}
		if c := b.handler.Counts(); c.Fetched != 1 || c.Readers != 22 {
			t.Errorf("counted at the edge: %+v", c)
		}
		_, want := play(a.hub, func(int) { rest(t.Context(), 100*time.Millisecond) })
		synctest.Wait()
		for _, done := range append(ends, textDone, openAIDone) {
			<-done
		}
		own := framesOf(atOwner.String())
		for _, w := range edge {
			c := &client{t: t}
			c.read(w.String())
			if c.draft != want || !c.done || c.title != "A title" {
				t.Fatalf("draft %q, done %t, title %q", c.draft, c.done, c.title)
			}
			if got := framesOf(w.String()); strings.Join(got, "|") != strings.Join(own, "|") {
				t.Fatalf("at the owner:\n%s\nat the edge:\n%s", strings.Join(own, "\n"), strings.Join(got, "\n"))
			}
		}
		if plainText.String() != want {
			t.Errorf("text %q", plainText)
		}
		if !strings.Contains(openAI.String(), "[DONE]") {
			t.Errorf("openai %q", openAI)
		}
		synctest.Wait()
		// The frames that readers saw, and the ledger; no heartbeat, and nothing twice.
		if c := b.handler.Counts(); c.Fetched != 0 || c.Readers != 0 || c.Frames < uint64(len(own)) || c.Frames > uint64(len(own))+2 {
			t.Errorf("counted at the edge, of %d frames: %+v", len(own), c)
		}
		if c := a.handler.Counts(); c.Forwarded != 0 || c.Frames != 0 {
			t.Errorf("counted at the owner: %+v", c)
		}
		if all.connections() != 0 || a.hub.Readers() != 0 || b.hub.Readers() != 0 || len(b.hub.logs) != 0 {
			t.Errorf("%d connections, %d and %d readers, %d logs", all.connections(), a.hub.Readers(), b.hub.Readers(), len(b.hub.logs))
		}
		if got := all.opened(); len(got) != 1 {
			t.Errorf("opened %q", got)
		}
		if b.hub.Bytes() != 0 {
			t.Errorf("%d bytes are left", b.hub.Bytes())
		}
	})
}

// TestRelayCursor: who was cut at one replica goes on at another without a reset,
// whatever frame it saw last.
func TestRelayCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		all.owned("a", pendingView())
		a := all.all["a"]
		c := &client{t: t}
		last, turn := "", 0
		_, want := play(a.hub, func(n int) {
			one := all.all[[]string{"b", "c", "a"}[turn%3]]
			turn++
			ctx, cancel := context.WithCancel(t.Context())
			w, done := one.attend(ctx, helloPath, last)
			rest(t.Context(), 100*time.Millisecond)
			synctest.Wait()
			cancel()
			<-done
			// A part of an attempt that failed is in no log any more.
			own := reader{log: a.hub.find(hello.UID)}
			void := last != "" && !own.resume(last)
			before := len(c.events)
			c.read(w.String())
			for _, e := range c.events[before:] {
				if e.event == "reset" && !void && strings.HasSuffix(e.id, "-0") {
					t.Errorf("step %d: a reset for %s", n, last)
				}
				if !strings.HasSuffix(e.id, "-0") {
					last = e.id
				}
			}
		})
		if c.draft != want || !c.done {
			t.Errorf("draft %q, done %t", c.draft, c.done)
		}
	})
}

// TestRelayCut cuts the connection to the owner after every number of bytes.
func TestRelayCut(t *testing.T) {
	for cut := 1; cut < 6000; cut += 61 {
		synctest.Test(t, func(t *testing.T) {
			all := newReplicas("a", "b")
			all.owned("a", pendingView())
			a, b := all.all["a"], all.all["b"]
			all.cut = cut
			w, done := b.attend(t.Context(), helloPath, "")
			synctest.Wait()
			end, want := play(a.hub, func(int) { rest(t.Context(), 300*time.Millisecond) })
			rest(t.Context(), 30*time.Second)
			finished := View{Run: hello, Status: end.Done.Status, Finished: true, Text: want, End: end}
			all.owned("a", finished)
			rest(t.Context(), 30*time.Second)
			select {
			case <-done:
			default:
				t.Fatalf("cut after %d: it goes on: %s", cut, w)
			}
			c := &client{t: t}
			c.read(w.String())
			if c.draft != want || !c.done {
				t.Errorf("cut after %d: draft %q, done %t: %s", cut, c.draft, c.done, w)
			}
		})
	}
}
