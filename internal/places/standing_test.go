// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package places

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestStandings: what is held and waits, by provider, and how wide the gates are of
// those models that refused.
func TestStandings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(0, func(Key) {})
		closed(t, p, "narrow")
		<-time.After(time.Second)
		ask(t, p, of("narrow", claim("a", 0)), Granted)
		ask(t, p, of("narrow", claim("a", 1)), ProviderRefuses)
		ask(t, p, of("wide", claim("a", 2)), Granted)
		want := Standing{Provider: "a/provider", Held: 2, Waiting: 1, Gates: 1, Width: 1}
		if got := p.Standings(); len(got) != 1 || got[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		ask(t, p, limited(of("wide", claim("a", 2)), 7), Granted)
		if got := p.Standings()[0].Limit; got != 7 {
			t.Errorf("limit %d", got)
		}
		leaveAll(t, p)
	})
}

// TestWaited: who asks again for a place that was given meanwhile is told for how
// long it waited.
func TestWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1, func(Key) {})
		first, second := claim("a", 0), claim("a", 1)
		if _, waited := p.Ask(first); waited != 0 {
			t.Errorf("the first waited for %v", waited)
		}
		p.Ask(second)
		<-time.After(3 * time.Second)
		p.Ended(first.Key, first.UID, Result{Accepted: true})
		<-time.After(time.Second)
		for range 2 {
			if answer, waited := p.Ask(second); answer != Granted || waited != 3*time.Second {
				t.Errorf("%s after %v", answer, waited)
			}
		}
		leaveAll(t, p)
	})
}
