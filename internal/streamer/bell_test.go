// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"net/http/httptest"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// TestBells: each reader of a log has one, muffled ones hear what is urgent alone, and
// one that was taken away hears nothing, whichever it was.
func TestBells(t *testing.T) {
	for gone := range 3 {
		l := newLog(hello, 4096, &NewHub().memory)
		bells := []*bell{{}, {}, {}}
		for _, b := range bells {
			b.rung = make(chan struct{}, 1)
			l.listen(b)
		}
		l.deafen(bells[gone])
		quiet := bells[(gone+1)%3]
		quiet.muffled.Store(true)
		for _, urgent := range []bool{false, true} {
			l.notify(urgent)
			l.notify(urgent) // nobody took the first: it does not block
			for i, b := range bells {
				want := 1
				if i == gone || b == quiet && !urgent {
					want = 0
				}
				if got := len(b.rung); got != want {
					t.Errorf("without bell %d, urgent %v: bell %d has %d values, not %d", gone, urgent, i, got, want)
				}
				if len(b.rung) > 0 {
					<-b.rung
				}
			}
		}
		for _, b := range bells {
			if b != bells[gone] {
				l.deafen(b)
			}
		}
		if len(l.bells) != 0 {
			t.Errorf("%d bells are left", len(l.bells))
		}
	}
}

// TestBellThatHasRung: news that nobody took yet hide neither the timer nor the end of
// a request or of the server.
func TestBellThatHasRung(t *testing.T) {
	for _, tc := range []struct {
		name string
		then func(leave, shut func())
		want []signal
	}{
		{"the timer", func(func(), func()) { <-time.After(DefaultHeartbeat) }, []signal{woken, fired}},
		{"the reader leaves", func(leave, _ func()) { leave() }, []signal{left, left}},
		{"the server closes", func(_, shut func()) { shut() }, []signal{closing, closing}},
		{"nothing else", func(func(), func()) {}, []signal{woken, fired}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := NewHub()
				h := NewHandler(hub, views(pendingView()), Anyone)
				l := newLog(hello, 4096, &hub.memory)
				ctx, leave := context.WithCancel(t.Context())
				defer leave()
				var p pace
				h.pace(httptest.NewRequestWithContext(ctx, "GET", "/", nil), l, &p)
				defer p.stop()
				began := l.knowledge()
				l.notify(false)
				tc.then(leave, hub.Close)
				synctest.Wait()
				var got []signal
				got = append(got, p.next(began))
				got = append(got, p.next(l.knowledge()))
				if !slices.Equal(got, tc.want) {
					t.Errorf("%v, not %v", got, tc.want)
				}
			})
		})
	}
}

// TestWideCrowd: where many read, parts wait for each other, the longer the more they
// are; what is urgent waits for none, and no part waits where few read.
func TestWideCrowd(t *testing.T) {
	const each = 10 * time.Millisecond
	for _, tc := range []struct {
		readers int
		want    time.Duration
	}{{1, each}, {wideCrowd - 1, each}, {wideCrowd, 50 * time.Millisecond}, {500, 100 * time.Millisecond}, {1250, wideInterval}, {5000, wideInterval}} {
		synctest.Test(t, func(t *testing.T) {
			l := newLog(hello, DefaultLogBytes, &NewHub().memory)
			for range tc.readers {
				l.listen(&bell{rung: make(chan struct{}, 1)})
			}
			last := l.bells[tc.readers-1]
			l.begin(statusOf(hello, "Streaming", 1))
			<-last.rung
			l.part(1, provider.Text, "a", []byte("{}"))
			if len(last.rung) != 1 {
				t.Fatalf("%d readers: the first part does not ring", tc.readers)
			}
			<-last.rung
			began := time.Now()
			tick := time.NewTicker(each)
			defer tick.Stop()
			var rang []time.Duration
			for len(rang) < 3 {
				select {
				case <-tick.C:
					l.part(1, provider.Text, "a", []byte("{}"))
				case <-last.rung:
					rang = append(rang, time.Since(began))
				}
				synctest.Wait()
			}
			for i, at := range rang {
				if want := time.Duration(i+1) * tc.want; at < want || at > want+each {
					t.Errorf("%d readers: the bells rang after %s, not every %s", tc.readers, rang, tc.want)
					break
				}
			}
			l.part(1, provider.Text, "a", []byte("{}"))
			l.fail(statusOf(hello, "Retrying", 1), stream.Retry{Attempt: 1})
			if len(last.rung) != 1 {
				t.Errorf("%d readers: a retry does not ring", tc.readers)
			}
			<-time.After(wideInterval) // for what was held
		})
	}
}

// TestHeldPartsAreTold: a part that comes in the moment in which those that were held are
// told of is told of as well.
func TestHeldPartsAreTold(t *testing.T) {
	const rounds = 20
	hub := NewHub()
	h := NewHandler(hub, views(pendingView()), Anyone)
	h.Heartbeat, h.MinInterval = 5*time.Second, 0 // a heartbeat instead of news is a failure
	l := newLog(hello, DefaultLogBytes, &hub.memory)
	l.perReader = 20 * time.Microsecond
	for range wideCrowd {
		l.listen(&bell{rung: make(chan struct{}, 1)})
	}
	var p pace
	h.pace(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), l, &p)
	defer p.stop()
	l.begin(statusOf(hello, "Streaming", 1))
	r := reader{log: l}
	look := func() knowledge {
		b := r.next(nil)
		for b.more {
			b = r.next(nil)
		}
		return b.known
	}
	for round := range rounds {
		for held := false; !held; {
			l.part(1, provider.Text, "", []byte("{}"))
			l.mu.Lock()
			if held = l.holding; held && l.more == nil {
				l.more = make(chan struct{})
			}
			told := l.more
			l.mu.Unlock()
			if held {
				l.ringing.Lock() // the count comes, and whoever rings is late
				<-told
			}
		}
		known := look()
		l.add(1, provider.Text, "", []byte("{}"))
		l.ringing.Unlock()
		p.spoke = time.Now()
		if got := p.next(known); got != woken {
			t.Fatalf("round %d: a reader gets signal %d", round, got)
		}
	}
}

// TestReplicasAreNotHeldBack: another replica has readers of its own, and does not wait
// for a crowd that reads here.
func TestReplicasAreNotHeldBack(t *testing.T) {
	for _, tc := range []struct {
		name    string
		replica bool
		want    time.Duration
	}{{"a reader of the crowd", false, 50 * time.Millisecond}, {"another replica", true, time.Millisecond}} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := NewHandler(NewHub(), views(pendingView()), Anyone)
				h.MinInterval = 0
				l := newLog(hello, DefaultLogBytes, &h.hub.memory)
				for range wideCrowd - 1 {
					l.listen(&bell{rung: make(chan struct{}, 1)})
				}
				var p pace
				h.pace(httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), l, &p)
				if tc.replica {
					p.hurry(relayHurry)
				}
				l.begin(statusOf(hello, "Streaming", 1))
				l.part(1, provider.Text, "a", []byte("{}")) // the first, which nothing holds back
				known, began := l.knowledge(), time.Now()
				time.AfterFunc(time.Millisecond, func() { l.part(1, provider.Text, "b", []byte("{}")) })
				if got := p.next(known); got != woken || time.Since(began) != tc.want {
					t.Errorf("signal %d after %s, not %s", got, time.Since(began), tc.want)
				}
				p.stop()
				if len(l.hurried) != 0 {
					t.Error("one that left is hurried still")
				}
				<-time.After(wideInterval) // for what was held
			})
		})
	}
}
