// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"

	"chatrun.dev/operator/internal/provider"
)

// TestFenceEndsAllAndVoidsWhatWasDecided: all attempts end with the cause, and one
// that was decided before starts nothing after. What is decided later starts.
func TestFenceEndsAllAndVoidsWhatWasDecided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(t, func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) { return until(ctx) })
		before := p.Pass()
		start(t, p, Attempt{Number: 1, Pass: before})
		other := Run{UID: "other", Namespace: "ns", Name: "other"}
		start(t, p, Attempt{Run: other, Number: 7, Pass: before})
		if n := p.Attempts(); n != 2 {
			t.Errorf("%d attempts", n)
		}
		p.Fence()
		if s := p.look(t); s.Running || s.Outcome == nil || !errors.Is(s.Outcome.Cause, ErrOwnershipLost) {
			t.Errorf("%+v", s)
		}
		if s, _ := p.Look("ns", "other"); s.Running || !errors.Is(s.Outcome.Cause, ErrOwnershipLost) {
			t.Errorf("%+v", s)
		}
		if n := p.Attempts(); n != 0 {
			t.Errorf("%d attempts", n)
		}
		if err := p.Start(Attempt{Run: hello, Number: 2, Pass: before}); !errors.Is(err, ErrFenced) {
			t.Errorf("decided before: %v", err)
		}
		start(t, p, Attempt{Number: 2, Pass: p.Pass()})
		if s := p.look(t); !s.Running || s.Attempt != 2 {
			t.Errorf("decided after: %+v", s)
		}
	})
}

// TestFenceAndStartAtATime: whichever comes first, no attempt that was decided
// before the fence is under way after it.
func TestFenceAndStartAtATime(t *testing.T) {
	for range 200 {
		synctest.Test(t, func(t *testing.T) {
			p := newPool(t, func(ctx context.Context, _ func(provider.Part)) (provider.Result, error) { return until(ctx) })
			pass := p.Pass()
			var work sync.WaitGroup
			work.Go(func() {
				if err := p.Start(Attempt{Run: hello, Number: 1, Pass: pass}); err != nil && !errors.Is(err, ErrFenced) {
					t.Error(err)
				}
			})
			work.Go(p.Fence)
			work.Wait()
			synctest.Wait()
			if s, ok := p.Look(hello.Namespace, hello.Name); ok && s.Running {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestRefuseLetsGoOn: it says that nothing new is taken on, and lets start what was
// counted before that; all comes to its own end.
func TestRefuseLetsGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := make(chan struct{})
		p := newPool(t, func(context.Context, func(provider.Part)) (provider.Result, error) {
			<-open
			return stopped, nil
		})
		start(t, p, Attempt{Number: 1})
		p.Refuse()
		if p.Accepting() {
			t.Error("it accepts")
		}
		if p.Closed() {
			t.Error("it starts nothing")
		}
		start(t, p, Attempt{Run: Run{UID: "other", Namespace: "ns", Name: "other"}, Number: 1})
		if s := p.look(t); !s.Running {
			t.Errorf("%+v", s)
		}
		close(open)
		if s := p.look(t); s.Running || !s.Outcome.Good() {
			t.Errorf("%+v", s)
		}
	})
}
