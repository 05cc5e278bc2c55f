// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnOwnerThatGoesAfterMinutes: readers are not told that nobody is reached before
// anybody was asked anew.
func TestAnOwnerThatGoesAfterMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b, c := all.all["a"], all.all["b"], all.all["c"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		w, done := b.attend(t.Context(), helloPath, "")
		for range 24 {
			a.hub.Part(hello.UID, 1, text("old "))
			rest(t.Context(), 5*time.Second)
		}
		all.owned("c", pendingView())
		c.hub.Begin(hello, statusOf(hello, "Streaming", 2))
		c.hub.Part(hello.UID, 2, text("kept"))
		a.hub.Close() // a ends
		rest(t.Context(), 10*time.Second)
		end := endOf(hello, "Succeeded", 2)
		end.Done.Bytes = 4
		c.hub.Finish(hello, end)
		<-done
		cl := &client{t: t}
		cl.read(w.String())
		if cl.draft != "kept" || !cl.done {
			t.Errorf("draft %q, done %t, opened %q: %s", cl.draft, cl.done, all.opened(), names(cl.events))
		}
	})
}

// TestALogOfALostAttemptIsNoAnswer: another replica took the run over and finished it
// before this one, fenced, saw either. What it streamed is void.
func TestALogOfALostAttemptIsNoAnswer(t *testing.T) {
	for _, format := range []string{"", "?format=text&hold=true", "?format=openai&hold=true"} {
		t.Run(format, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newReplicas("a", "b")
				a := all.all["a"]
				all.owned("a", pendingView())
				a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
				a.hub.Part(hello.UID, 1, text("lost text of attempt one"))
				w, done := a.attend(t.Context(), helloPath+format, "")
				synctest.Wait()
				end := endOf(hello, "Succeeded", 2)
				end.Done.Bytes = 4
				all.owned("", View{Run: hello, Status: end.Done.Status, Finished: true, Text: "kept", End: end})
				a.hub.Finish(hello, end) // row 2: forget
				<-done
				late, lateDone := a.attend(t.Context(), helloPath+format, "")
				<-lateDone
				for _, raw := range []string{w.String(), late.String()} {
					if format != "" {
						if !strings.Contains(raw, "kept") || strings.Contains(raw, "lost") {
							t.Errorf("%s: %q", format, raw)
						}
						continue
					}
					cl := &client{t: t}
					cl.read(raw)
					if cl.draft != "kept" || !cl.done {
						t.Errorf("draft %q, done %t: %s", cl.draft, cl.done, names(cl.events))
					}
				}
				a.hub.Drop(hello.UID)
			})
		})
	}
}

// TestMovedAndNotRelayed: the run moved, and its new owner cannot be asked, or there is
// no relay. The answer comes from the object, after a reset.
func TestMovedAndNotRelayed(t *testing.T) {
	for _, how := range []string{"no relay", "down", "heartbeat"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newReplicas("a", "b")
				a, b := all.all["a"], all.all["b"]
				all.owned("a", pendingView())
				if how != "down" {
					a.handler.Peers = nil
				}
				all.down = errors.New("down")
				a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
				a.hub.Part(hello.UID, 1, text("lost "))
				w, done := a.attend(t.Context(), helloPath, "")
				synctest.Wait()
				all.owned("b", pendingView())
				b.hub.Begin(hello, statusOf(hello, "Streaming", 2))
				a.hub.Elsewhere(hello)
				rest(t.Context(), time.Second)
				end := endOf(hello, "Succeeded", 2)
				end.Done.Bytes = 4
				all.owned("", View{Run: hello, Status: end.Done.Status, Finished: true, Text: "kept", End: end})
				if how != "heartbeat" {
					a.hub.Finish(hello, end)
				}
				<-done
				cl := &client{t: t}
				cl.read(w.String())
				if cl.draft != "kept" || !cl.done {
					t.Errorf("%s: draft %q, done %t: %s", how, cl.draft, cl.done, names(cl.events))
				}
				b.hub.Drop(hello.UID)
			})
		})
	}
}

// TestAWaitThatChangesHandsIsRead: a run that waits falls to a replica that has readers
// of it, and writes nothing. Others read it there.
func TestAWaitThatChangesHandsIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b", "c")
		a, b, c := all.all["a"], all.all["b"], all.all["c"]
		v := pendingView()
		v.Status = statusOf(hello, "Suspended", 1)
		all.owned("a", v)
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Tell(hello, statusOf(hello, "Suspended", 1))
		_, doneB := b.attend(t.Context(), helloPath, "")
		w, doneC := c.attend(t.Context(), helloPath, "")
		rest(t.Context(), time.Second)
		a.hub.Close()
		all.owned("b", v) // a is gone; nothing has to be written of a run that waits
		rest(t.Context(), 2*time.Minute)
		if strings.Contains(w.String(), "OwnerUnreachable") {
			t.Errorf("%s\n%q", w, all.opened())
		}
		b.hub.Close()
		c.hub.Close()
		<-doneB
		<-doneC
	})
}

// TestDroppedAgainAndAgain: what is accepted and then dropped is no reason to hurry.
func TestDroppedAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, view := NewHub(), pendingView()
		view.Owner = "a"
		status := statusOf(hello, "Streaming", 1)
		say := ledgerFrame(ledger{Epoch: otherEpoch, Last: 1, Told: 1, Status: &status, Attempt: 1, Open: true}) +
			"id: AAAAAAAAAA-1-2\nevent: message_part\ndata: {\"text\":\"hello\"}\n\n: live\n\nid: AAAAAAAAAA-2-3\nevent: message_part\ndata: {}\n\n"
		peers := &upstream{say: func(w io.Writer) { _, _ = io.WriteString(w, say) }}
		h := NewHandler(hub, views(view), Anyone)
		h.Peers = peers
		w, done := (&replica{handler: h}).attend(t.Context(), helloPath, "")
		rest(t.Context(), 10*time.Minute)
		if n := peers.opens.Load(); n > 200 {
			t.Errorf("%d connections, %d resets", n, strings.Count(w.String(), "event: reset"))
		}
		hub.Close()
		<-done
	})
}

// TestEpochIsReadUnderTheLock: a reader comes while a history is taken.
func TestEpochIsReadUnderTheLock(t *testing.T) {
	hub := NewHub()
	l := hub.join(hello)
	l.estrange(false)
	var work sync.WaitGroup
	work.Go(func() {
		for i := range 2000 {
			status := statusOf(hello, "Streaming", int32(i+1))
			from := newLog(hello, 4096, &memory{})
			from.status = &status
			l.take(l.mirror, from)
		}
	})
	r := reader{log: l}
	v := pendingView()
	for range 2000 {
		r.enter(true, &v)
		if r.resume("AAAAAAAAAA-1-1") {
			t.Error("a cursor of nobody's is in the log")
		}
	}
	work.Wait()
}

// TestTextsOfMirrorsCutNobody: they belong to answers in the making, as those of our own
// runs do.
func TestTextsOfMirrorsCutNobody(t *testing.T) {
	hub := NewHub()
	hub.TotalBytes, hub.LogBytes = 1<<20, 1<<16
	for i := range 10 {
		run := Run{UID: "m" + string(rune('0'+i)), Namespace: "default", Name: "m" + string(rune('0'+i))}
		l := hub.join(run)
		l.estrange(false)
		status := statusOf(run, "Streaming", 1)
		from := newLog(run, hub.LogBytes, &memory{})
		from.status, from.episode = &status, episode{attempt: 1, open: true, text: make([]byte, 200<<10)}
		l.take(l.mirror, from)
		hub.relieve()
	}
	hub.Begin(hello, statusOf(hello, "Streaming", 1))
	for range 20 {
		hub.Part(hello.UID, 1, text("one short answer, of which somebody reads"))
	}
	l := hub.find(hello.UID)
	t.Logf("%d bytes of %d; frames of our own short log: %d, cut %d", hub.Bytes(), hub.TotalBytes, len(l.frames), l.episode.cut)
	if hub.Bytes() > hub.TotalBytes {
		t.Errorf("%d bytes, above %d", hub.Bytes(), hub.TotalBytes)
	}
	if l.episode.cut != 0 {
		t.Error("a short log of our own was cut")
	}
}

// TestAReaderAheadOfACopyWaits: who saw the retry at the owner comes to a replica whose
// copy is a moment behind, and is not told anew what is void.
func TestAReaderAheadOfACopyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		a, b := all.all["a"], all.all["b"]
		all.owned("a", pendingView())
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		_, doneB := b.attend(t.Context(), helloPath, "")
		all.set(func() { all.cut = 2000 })
		for range 8 {
			a.hub.Part(hello.UID, 1, text("void "))
			rest(t.Context(), 100*time.Millisecond)
		}
		ctx, cancel := context.WithCancel(t.Context())
		w, done := a.attend(ctx, helloPath, "")
		rest(t.Context(), 100*time.Millisecond)
		// the way between a and b is cut: b is in its back-off
		all.set(func() { all.down = errors.New("down") })
		for range 40 {
			a.hub.Part(hello.UID, 1, text("void "))
			rest(t.Context(), 100*time.Millisecond)
		}
		a.hub.Retry(hello, statusOf(hello, "Retrying", 1), retryOf(1))
		rest(t.Context(), time.Second)
		cancel()
		<-done
		c := &client{t: t}
		c.read(w.String())
		last := c.events[len(c.events)-1].id
		w2, done2 := b.attend(t.Context(), helloPath, last)
		rest(t.Context(), time.Second)
		all.set(func() { all.down = nil; all.cut = 0 })
		rest(t.Context(), 10*time.Second)
		c.read(w2.String())
		a.hub.Close()
		b.hub.Close()
		<-done2
		<-doneB
	})
}

// TestWithoutARelayAReaderIsSentAway: it would wait for what never comes here.
func TestWithoutARelayAReaderIsSentAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		all.owned("a", pendingView())
		b := all.all["b"]
		b.handler.Peers = nil
		w, done := b.attend(t.Context(), helloPath, "")
		<-done
		if w.code != 503 || !strings.Contains(w.String(), "replica a has this run") {
			t.Errorf("%d: %s", w.code, w)
		}
	})
}
