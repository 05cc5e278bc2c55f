// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/places"
)

// crowded is a bench with one place, which another run has.
func crowded(t *testing.T, options ...runOption) (b *bench, woken chan places.Key, free func()) {
	t.Helper()
	b = newBench(t, newRun(append(options, untitled)...), ready())
	woken = make(chan places.Key, 10)
	b.r.places = places.New(1, func(k places.Key) { woken <- k })
	other := places.Key{Namespace: "ns", Name: "other"}
	if got, _ := b.r.places.Ask(places.Claim{Key: other, UID: "other", Provider: "other"}); got != places.Granted {
		t.Fatal(got)
	}
	return b, woken, func() { b.r.places.Leave(other) }
}

// TestQueued: a run that finds no place tells of it after a moment, in one
// write, and starts when it is woken.
func TestQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, woken, free := crowded(t)
		if after := b.must(t); after < queuedGrace || b.writes != 0 {
			t.Fatalf("looks again after %v, with %d writes", after, b.writes)
		}
		<-time.After(10 * time.Millisecond)
		if after := b.must(t); after <= 0 || after >= queuedGrace || b.writes != 0 {
			t.Fatalf("poked, it looks again after %v, with %d writes", after, b.writes)
		}
		<-time.After(queuedGrace)
		for range 2 {
			if after := b.must(t); after != 0 || b.writes != 1 {
				t.Fatalf("looks again after %v, with %d writes", after, b.writes)
			}
		}
		run := b.run(t)
		if run.Status.Phase != v1alpha1.PhasePending || reasonOf(run) != v1alpha1.ReasonQueued || messageOf(run) != managerFullMessage || attemptOf(run) != 0 {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
		free()
		if k := <-woken; k.Name != "hello" {
			t.Errorf("woken: %v", k)
		}
		b.must(t)
		<-b.caller.asked
		if run := b.run(t); !isStreaming(run) {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
		b.caller.answer <- nil
		<-b.nudged
		b.must(t)
		if again, _ := b.r.places.Ask(places.Claim{Key: places.Key{Name: "next"}, UID: "next"}); again != places.Granted {
			t.Errorf("the place was not given back: %s", again)
		}
	})
}

// TestQueuedAfterAWait: a time that was promised and is over does not stand for
// as long as it takes to tell thousands of a queue.
func TestQueuedAfterAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := crowded(t, waiting(1, time.Second))
		b.clock.SetTime(t0.Add(time.Hour))
		for range 1000 {
			b.r.queuedTurns.wait(b.clock.Now())
		}
		if after := b.must(t); after != queuedGrace {
			t.Errorf("looks again after %v", after)
		}
		<-time.After(queuedGrace)
		b.must(t)
		if run := b.run(t); reasonOf(run) != v1alpha1.ReasonQueued || run.Status.RetryingAt != nil || run.Status.DelayMs != nil {
			t.Errorf("%s, retrying at %v", reasonOf(run), run.Status.RetryingAt)
		}
	})
}

// TestPlaceIsGivenBack by a run that does not need it after all, and so is the
// turn of one that waits.
func TestPlaceIsGivenBack(t *testing.T) {
	for name, tc := range map[string]struct {
		run    []runOption
		change func(*v1alpha1.ChatRun)
	}{
		"cancelled while it waits":    {nil, desired(v1alpha1.DesiredCancelled)},
		"suspended while it waits":    {nil, desired(v1alpha1.DesiredSuspended)},
		"its messages are not there":  {[]runOption{fromConfigMap}, func(*v1alpha1.ChatRun) {}},
		"its provider is not there":   {nil, func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = "absent" }},
		"it goes on from one not yet": {nil, after("former")},
	} {
		synctest.Test(t, func(t *testing.T) {
			b, woken, free := crowded(t, tc.run...)
			b.must(t)
			run := b.run(t)
			tc.change(run)
			if err := b.api.Update(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			free()
			<-woken
			b.must(t)
			if got, _ := b.r.places.Ask(places.Claim{Key: places.Key{Name: "next"}, UID: "next"}); got != places.Granted {
				t.Errorf("%s: %s", name, got)
			}
		})
	}
}

// TestWaitHoldsNoPlace: between two attempts a run's place is another's.
func TestWaitHoldsNoPlace(t *testing.T) {
	b := newBench(t, newRun(untitled), newRun(untitled, named("later")), ready())
	b.r.places = places.New(1, func(places.Key) {})
	b.must(t)
	<-b.caller.asked
	b.caller.answer <- &chatretry.Failure{Class: chatretry.ServerError, Message: "broken"}
	<-b.nudged
	b.must(t)
	if run := b.run(t); run.Status.Phase != v1alpha1.PhaseRetrying {
		t.Fatalf("%s: %s", reasonOf(run), messageOf(run))
	}
	b.name = "later"
	b.must(t)
	<-b.caller.asked
	if run := b.run(t); !isStreaming(run) {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
}

// TestRefusedProviderIsAskedLess: a run that was refused, as many others were,
// waits as promised, and others meanwhile are Queued, as nothing of the provider's
// is under way.
func TestRefusedProviderIsAskedLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newRun(untitled), newRun(untitled, named("later")), ready())
		b.clock.SetTime(time.Now())
		b.must(t)
		<-b.caller.asked
		for i := range 20 {
			k := places.Key{Namespace: "ns", Name: fmt.Sprintf("refused-%d", i)}
			b.r.places.Ask(places.Claim{Key: k, UID: k.Name, Model: "m"})
			b.r.places.Ended(k, k.Name, places.Result{Refused: true, Until: time.Now()})
			b.r.places.Leave(k) // its turn, once the gate is closed
		}
		b.caller.answer <- overloaded
		<-b.nudged
		b.must(t)
		promised := b.run(t).Status.RetryingAt.Time
		b.name = "later"
		b.must(t)
		<-time.After(queuedGrace)
		b.must(t)
		if run := b.run(t); reasonOf(run) != v1alpha1.ReasonQueued || messageOf(run) != providerRefusesMessage || len(b.caller.asked) != 0 {
			t.Errorf("%s: %s", reasonOf(run), messageOf(run))
		}
		b.name = ""
		if run := b.run(t); run.Status.RetryingAt == nil || run.Status.RetryingAt.Sub(promised) != 0 {
			t.Errorf("retrying at %v, promised was %v", run.Status.RetryingAt, promised)
		}
	})
}

func TestTurns(t *testing.T) {
	var turns turns
	if got := turns.wait(t0); got != queuedGrace {
		t.Errorf("the first waits %v", got)
	}
	for i := range 10 {
		if got, want := turns.wait(t0), queuedGrace+time.Duration(i+1)*queuedEvery; got != want {
			t.Errorf("number %d waits %v, want %v", i, got, want)
		}
	}
	if got := turns.wait(t0.Add(time.Hour)); got != queuedGrace {
		t.Errorf("later one waits %v", got)
	}
}
