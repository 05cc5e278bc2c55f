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
