// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/places"
)

// free says whether the bench's only place is.
func (b *bench) free() bool {
	next := places.Key{Namespace: "elsewhere", Name: "next"}
	got, _ := b.r.places.Ask(places.Claim{Key: next, UID: "next", Provider: "another"})
	b.r.places.Leave(next)
	return got == places.Granted
}

// TestErrorsHoldNoPlace: a run whose start the API server answers with an error,
// and be it for ever, leaves its place to others; one whose count may stand, or
// that only read too early, keeps it.
func TestErrorsHoldNoPlace(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     []runOption
		through interceptor.Funcs
		fault   error // of the status write
		keeps   bool
	}{
		{"the count is refused", nil, interceptor.Funcs{}, denied, false},
		{"the key cannot be read", nil, unreadable[*corev1.Secret](encrypted), nil, false},
		{"the messages cannot be read", []runOption{fromConfigMap}, unreadable[*corev1.ConfigMap](encrypted), nil, false},
		{"the count may stand", nil, interceptor.Funcs{}, lostAnswer, true},
		{"what was read is old", nil, interceptor.Funcs{}, conflict, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, newRun(append(tc.run, untitled)...), withKey(),
				&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
			b.r.places = places.New(1, func(places.Key) {})
			b.behind(tc.through)
			for range 3 {
				b.fault = tc.fault
				if _, err := b.reconcile(t); err == nil && !errors.Is(tc.fault, conflict) {
					t.Fatal("no error")
				}
				if b.free() == tc.keeps {
					t.Fatalf("it keeps its place: %v", !tc.keeps)
				}
			}
		})
	}
}

// refuseMany closes the gate of the bench's provider, without a pause.
func (b *bench) refuseMany() {
	for i := range 20 {
		k := places.Key{Namespace: "others", Name: fmt.Sprint(i)}
		b.r.places.Ask(places.Claim{Key: k, UID: k.Name, Model: "m"})
		b.r.places.Ended(k, k.Name, places.Result{Refused: true, Until: time.Now()})
		b.r.places.Leave(k) // its turn, once the gate is closed
	}
}

// TestRefusalKeepsItsPause: others leave a provider alone for as long as the run
// that was refused waits, or would: also when the refusal is first met with an
// old status, comes within a look at the run, or ends the run.
func TestRefusalKeepsItsPause(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     []runOption
		failure *chatretry.Failure
		pause   time.Duration
		meets   func(t *testing.T, b *bench, answer func())
	}{
		{"as a rule", nil, overloaded, time.Second, func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"the last attempt", []runOption{maxAttempts(1)}, overloaded, time.Second, func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"a hint of a day", nil, hinted(24 * time.Hour), 15 * time.Second, func(_ *testing.T, _ *bench, answer func()) { answer() }},
		{"an old status", nil, overloaded, time.Second, func(t *testing.T, b *bench, answer func()) {
			old := newRun(untitled)
			b.get(t, old, "hello")
			old.Status = v1alpha1.ChatRunStatus{Phase: v1alpha1.PhasePending}
			answer()
			now := b.r.client
			b.r.client = seeing(b.api, func(run *v1alpha1.ChatRun) error {
				old.DeepCopyInto(run)
				return nil
			})
			b.must(t)
			b.r.client = now
		}},
		{"within a look", nil, overloaded, time.Second, func(t *testing.T, b *bench, answer func()) {
			run := b.run(t)
			run.Generation++
			if err := b.api.Update(t.Context(), run); err != nil {
				t.Fatal(err)
			}
			now := b.r.client
			b.behind(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				answer()
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			}})
			b.must(t)
			b.r.client, b.r.live = now, b.api
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, newRun(append(tc.run, untitled)...), newRun(untitled, named("later")), ready())
				b.clock.SetTime(time.Now())
				b.must(t)
				<-b.caller.asked
				b.refuseMany()
				tc.meets(t, b, func() {
					b.caller.answer <- tc.failure
					<-b.nudged
				})
				b.must(t)
				b.name = "later"
				b.must(t)
				<-time.After(tc.pause - time.Millisecond)
				b.must(t)
				if run := b.run(t); messageOf(run) != providerRefusesMessage || len(b.caller.asked) != 0 {
					t.Errorf("the next is %s: %s", reasonOf(run), messageOf(run))
				}
				<-time.After(time.Millisecond)
				b.must(t)
				<-b.caller.asked
			})
		})
	}
}

// TestUnjudgedProvider: while nobody has judged a change of the provider, a queued
// run keeps its turn, and holds no place that others could use.
func TestUnjudgedProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, woken, free := crowded(t)
		b.must(t)
		p := ready()
		b.get(t, p, "fake")
		p.Generation++
		if err := b.api.Update(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		b.must(t)
		free()
		if k := <-woken; k.Name != "hello" {
			t.Fatalf("woken: %v, so it lost its turn", k)
		}
		b.must(t)
		if !b.free() {
			t.Error("it keeps a place")
		}
	})
}

// TestPriorities: what only tells of a queue comes last, and no other look inherits
// that.
func TestPriorities(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := crowded(t)
		look := func(what string, want int) {
			t.Helper()
			if result, _ := b.reconcile(t); valueOr(result.Priority, -1000) != want {
				t.Errorf("%s: priority %d, want %d", what, valueOr(result.Priority, -1000), want)
			}
		}
		look("not told yet", patient)
		<-time.After(queuedGrace)
		b.fault = broken
		look("an error", 0)
		b.fault = conflict
		look("a conflict", 0)
		look("told", 0)
	})
	synctest.Test(t, func(t *testing.T) {
		b, _, _ := crowded(t, pendingDeadline(11))
		b.clock.SetTime(t0.Add(999 * time.Millisecond))
		if result, err := b.reconcile(t); err != nil || result.RequeueAfter != time.Millisecond || *result.Priority != 0 {
			t.Errorf("a deadline: %+v, %v", result, err)
		}
	})
}

// TestResumedClockRuns, also while nobody knows yet what the run waits for.
func TestResumedClockRuns(t *testing.T) {
	run := newRun(streaming(1), suspendedAt(t0.Add(time.Second)), activeDeadline(60))
	f := facts{run: run, pool: settled(1), wait: &waitReason{after: time.Second, queued: true}}
	now := t0.Add(time.Hour)
	d := decide(f, now)
	run.Status = nextStatus(run, d, actor{worker: "me"}, now)
	if run.Status.Phase != v1alpha1.PhasePending || reasonOf(run) != v1alpha1.ReasonPending || messageOf(run) != resumedMessage {
		t.Errorf("%s: %s %s", short(d), reasonOf(run), messageOf(run))
	}
	if at, _ := deadline(run, now.Add(time.Hour)); !at.Equal(now.Add(59 * time.Second)) {
		t.Errorf("its deadline is %v after the resume", at.Sub(now))
	}
	settles(t, f, decide(f, now), now)
}

// TestQueuedMessageStays as long as a run is queued: what is full changes by the
// moment.
func TestQueuedMessageStays(t *testing.T) {
	run := newRun()
	for _, message := range []string{managerFullMessage, providerRefusesMessage} {
		f := facts{run: run, wait: queued(message)}
		run.Status = nextStatus(run, decide(f, t0), actor{worker: "me"}, t0)
	}
	if reasonOf(run) != v1alpha1.ReasonQueued || messageOf(run) != managerFullMessage {
		t.Errorf("%s: %s", reasonOf(run), messageOf(run))
	}
}
