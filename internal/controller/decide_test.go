// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// t0 is when every run of the tables started its first attempt.
var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// runOption makes one difference to a run.
type runOption func(*v1alpha1.ChatRun)

// newRun is a fresh run, created ten seconds before t0.
func newRun(options ...runOption) *v1alpha1.ChatRun {
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: "hello", UID: "uid-1", Generation: 1, CreationTimestamp: metav1.NewTime(t0.Add(-10 * time.Second)),
		},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "fake"},
			Prompt:      "Hi",
			RetryPolicy: &v1alpha1.RetryPolicy{MaxAttempts: new(int32(25)), InitialDelayMs: new(int64(1000)), MaxDelayMs: new(int64(60000))},
		},
		Status: v1alpha1.ChatRunStatus{Phase: v1alpha1.PhasePending},
	}
	for _, o := range options {
		o(run)
	}
	return run
}

// streaming has attempt n under way, started by this worker at t0.
func streaming(n int32) runOption {
	return func(run *v1alpha1.ChatRun) {
		run.Status = nextStatus(run, decision{verb: start, attempt: n}, actor{worker: "me", model: "m"}, t0)
	}
}

// waiting has attempt n failed at t0, and waits for d.
func waiting(n int32, d time.Duration) runOption {
	return func(run *v1alpha1.ChatRun) {
		streaming(n)(run)
		run.Status = nextStatus(run, decision{verb: retry, delay: d, failure: overloaded}, actor{worker: "me"}, t0)
	}
}

func ended(v verb, reason string) runOption {
	return func(run *v1alpha1.ChatRun) {
		streaming(1)(run)
		run.Status = nextStatus(run, decision{verb: v, reason: reason, outcome: good(1)}, actor{worker: "me"}, t0)
	}
}

func suspendedAt(t time.Time) runOption {
	return func(run *v1alpha1.ChatRun) {
		run.Status = nextStatus(run, decision{verb: suspend}, actor{worker: "me"}, t)
	}
}

func desired(s v1alpha1.DesiredState) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.DesiredState = s }
}

func maxAttempts(n int32) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.RetryPolicy.MaxAttempts = &n }
}

func activeDeadline(s int64) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.ActiveDeadlineSeconds = &s }
}

func pendingDeadline(s int64) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.PendingDeadlineSeconds = &s }
}

func ttl(s int32) runOption {
	return func(run *v1alpha1.ChatRun) { run.Spec.TTLSecondsAfterFinished = &s }
}

func deleting(run *v1alpha1.ChatRun) { run.DeletionTimestamp = new(metav1.NewTime(t0)) }

var (
	overloaded = &chatretry.Failure{Class: chatretry.Overloaded, Message: "the provider is overloaded"}
	wrongKey   = &chatretry.Failure{Class: chatretry.AuthenticationFailed, Message: "the provider refuses the key"}
)

func good(n int32) *streamer.Outcome {
	return &streamer.Outcome{
		Attempt: n, Text: "Hello", Bytes: 5, FinishReason: provider.FinishStop,
		Usage: provider.Usage{InputTokens: 3, OutputTokens: 2}, FirstPart: t0.Add(time.Second),
	}
}

func failed(n int32, f *chatretry.Failure) *streamer.Outcome {
	return &streamer.Outcome{Attempt: n, Text: "Hel", Bytes: 3, Failure: f, Usage: provider.Usage{InputTokens: 3, OutputTokens: 1}}
}

func stopped(n int32, cause error) *streamer.Outcome {
	return &streamer.Outcome{Attempt: n, Text: "Hel", Bytes: 3, Cause: cause, FirstPart: t0.Add(time.Second)}
}

func pool(n int32, outcome *streamer.Outcome) *streamer.Snapshot {
	return &streamer.Snapshot{UID: "uid-1", Attempt: n, Running: outcome == nil, Outcome: outcome}
}

func settled(n int32) *streamer.Snapshot {
	return &streamer.Snapshot{UID: "uid-1", Attempt: n, Settled: true}
}

func replaced(s *streamer.Snapshot) *streamer.Snapshot { s.UID = "uid-0"; return s }

func hinted(d time.Duration) *chatretry.Failure {
	return &chatretry.Failure{Class: chatretry.RateLimited, Message: "slow down", RetryAfter: d}
}

// want is what a row of the table must lead to.
type want struct {
	row     int
	verb    verb
	after   time.Duration
	delay   time.Duration
	cause   error
	reason  string
	attempt int32
	class   chatretry.Class
	text    string
}

func TestDecide(t *testing.T) {
	notReadyYet := notReady("make it")
	for _, tc := range []struct {
		name string
		f    facts
		at   time.Duration // since t0
		want want
	}{
		// Row 1: gone.
		{"gone, unknown", facts{}, 0, want{row: 1, verb: ignore}},
		{"gone, streaming", facts{pool: pool(1, nil)}, 0, want{row: 1, verb: drop}},
		{"being deleted", facts{run: newRun(streaming(1), deleting), pool: pool(1, nil)}, 0, want{row: 1, verb: drop}},
		{"being deleted, unknown", facts{run: newRun(deleting)}, 0, want{row: 1, verb: ignore}},
		{"another under this name", facts{run: newRun(), pool: replaced(pool(1, nil))}, 0, want{row: 1, verb: drop}},
		{"another, ended", facts{run: newRun(), pool: replaced(pool(1, good(1)))}, 0, want{row: 1, verb: drop}},

		// Row 2: finished.
		{"finished", facts{run: newRun(ended(succeed, "")), pool: settled(1)}, 0, want{row: 2, verb: forget}},
		{"finished, worker left", facts{run: newRun(ended(cancel, "")), pool: pool(1, nil)}, 0, want{row: 2, verb: forget}},
		{"finished, TTL ahead", facts{run: newRun(ended(succeed, ""), ttl(60))}, 20 * time.Second, want{row: 2, verb: forget, after: 40 * time.Second}},
		{"finished, TTL over", facts{run: newRun(ended(succeed, ""), ttl(60))}, 60 * time.Second, want{row: 2, verb: expire}},
		{"finished, TTL zero", facts{run: newRun(ended(fail, "InvalidRequest"), ttl(0))}, 0, want{row: 2, verb: expire}},
		{"finished beats cancel", facts{run: newRun(ended(succeed, ""), desired(v1alpha1.DesiredCancelled))}, 0, want{row: 2, verb: forget}},

		// Row 3: another's.
		{"another owns it", facts{run: newRun(streaming(1)), ownership: ownership{otherOwnerLive: true}}, 0, want{row: 3, verb: ignore}},
		{"another owns it, we run it", facts{run: newRun(streaming(1)), pool: pool(1, nil), ownership: ownership{otherOwnerLive: true}}, 0,
			want{row: 3, verb: stop, cause: streamer.ErrOwnershipLost}},

		// Row 4: a stale read.
		{"pool is ahead", facts{run: newRun(waiting(1, time.Second)), pool: pool(2, nil)}, time.Hour, want{row: 4, verb: ignore}},
		{"pool is ahead, outcome there", facts{run: newRun(streaming(1)), pool: pool(2, good(2))}, 0, want{row: 4, verb: ignore}},
		{"outcome was settled", facts{run: newRun(streaming(1)), pool: settled(1)}, 0, want{row: 4, verb: ignore}},
		{"a write of unknown result stood", facts{run: newRun(waiting(1, time.Second)), pool: pool(1, failed(1, overloaded))}, 0, want{row: 4, verb: settle}},

		// Row 5: good.
		{"good", facts{run: newRun(streaming(1)), pool: pool(1, good(1))}, 0, want{row: 5, verb: succeed, text: "Hello"}},
		{"good beats cancel", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredCancelled)), pool: pool(1, good(1))}, 0, want{row: 5, verb: succeed, text: "Hello"}},
		{"good beats suspend", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredSuspended)), pool: pool(1, good(1))}, 0, want{row: 5, verb: succeed, text: "Hello"}},
		{"good beats deadline", facts{run: newRun(streaming(1), activeDeadline(5)), pool: pool(1, good(1))}, time.Minute, want{row: 5, verb: succeed, text: "Hello"}},
		{"good beats shutdown", facts{run: newRun(streaming(1)), pool: pool(1, good(1)), stopping: true}, 0, want{row: 5, verb: succeed, text: "Hello"}},

		// Row 6: cancel.
		{"cancel before the start", facts{run: newRun(desired(v1alpha1.DesiredCancelled))}, 0, want{row: 6, verb: cancel}},
		{"cancel, streaming", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredCancelled)), pool: pool(1, nil)}, 0, want{row: 6, verb: stop, cause: streamer.ErrStopped}},
		{"cancel, stopped", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredCancelled)), pool: pool(1, stopped(1, streamer.ErrStopped))}, 0, want{row: 6, verb: cancel, text: "Hel"}},
		{"cancel, failed meanwhile", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredCancelled)), pool: pool(1, failed(1, overloaded))}, 0,
			want{row: 6, verb: cancel, text: "Hel", class: chatretry.Overloaded}},
		{"cancel, waiting", facts{run: newRun(waiting(2, time.Hour), desired(v1alpha1.DesiredCancelled)), pool: settled(2)}, 0, want{row: 6, verb: cancel}},
		{"cancel after a restart", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredCancelled))}, 0, want{row: 6, verb: cancel}},
		{"cancel without a provider", facts{run: newRun(desired(v1alpha1.DesiredCancelled)), wait: notReadyYet}, 0, want{row: 6, verb: cancel}},

		// Row 7: deadlines.
		{"deadline, streaming", facts{run: newRun(streaming(1), activeDeadline(5)), pool: pool(1, nil)}, 5 * time.Second, want{row: 7, verb: stop, cause: streamer.ErrDeadline}},
		{"deadline, stopped", facts{run: newRun(streaming(1), activeDeadline(5)), pool: pool(1, stopped(1, streamer.ErrDeadline))}, 5 * time.Second,
			want{row: 7, verb: fail, reason: "DeadlineExceeded", text: "Hel"}},
		{"deadline, waiting", facts{run: newRun(waiting(1, time.Hour), activeDeadline(5))}, 5 * time.Second, want{row: 7, verb: fail, reason: "DeadlineExceeded"}},
		{"deadline not there yet", facts{run: newRun(streaming(1), activeDeadline(5)), pool: pool(1, nil)}, 4 * time.Second, want{row: 11, verb: ignore, after: time.Second}},
		{"deadline, suspended time not counted", facts{run: newRun(streaming(1), suspendedAt(t0), activeDeadline(5), desired(v1alpha1.DesiredRunning)), wait: notReadyYet}, time.Hour,
			want{row: 15, verb: hold, reason: "ProviderNotReady", after: 5 * time.Second}},
		{"pending deadline", facts{run: newRun(pendingDeadline(10)), wait: notReadyYet}, 0, want{row: 7, verb: fail, reason: "PendingDeadlineExceeded"}},
		{"pending deadline ahead", facts{run: newRun(pendingDeadline(11)), wait: notReadyYet}, 0, want{row: 15, verb: hold, reason: "ProviderNotReady", after: time.Second}},
		{"pending deadline is over with the start", facts{run: newRun(pendingDeadline(10), streaming(1)), pool: pool(1, nil)}, time.Hour, want{row: 11, verb: ignore}},
		{"active deadline counts from the start", facts{run: newRun(activeDeadline(1)), wait: notReadyYet}, time.Hour, want{row: 15, verb: hold, reason: "ProviderNotReady"}},

		// Row 8: suspend.
		{"suspend before the start", facts{run: newRun(desired(v1alpha1.DesiredSuspended))}, 0, want{row: 8, verb: suspend}},
		{"suspend, streaming", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredSuspended)), pool: pool(1, nil)}, 0, want{row: 8, verb: stop, cause: streamer.ErrSuspended}},
		{"suspend, stopped", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredSuspended)), pool: pool(1, stopped(1, streamer.ErrSuspended))}, 0, want{row: 8, verb: suspend, text: "Hel"}},
		{"suspend, waiting", facts{run: newRun(waiting(1, time.Second), desired(v1alpha1.DesiredSuspended))}, 0, want{row: 8, verb: suspend}},
		{"suspend beats deadline", facts{run: newRun(waiting(1, time.Hour), activeDeadline(5), desired(v1alpha1.DesiredSuspended))}, time.Minute, want{row: 8, verb: suspend}},
		{"a failure by itself is judged first", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredSuspended)), pool: pool(1, failed(1, wrongKey))}, 0,
			want{row: 10, verb: fail, reason: "AuthenticationFailed", class: chatretry.AuthenticationFailed, text: "Hel"}},
		{"and its wait is kept", facts{run: newRun(streaming(1), desired(v1alpha1.DesiredSuspended)), pool: pool(1, failed(1, hinted(time.Minute)))}, 0,
			want{row: 10, verb: retry, delay: time.Minute, after: time.Minute, class: chatretry.RateLimited, text: "Hel"}},

		// Row 9: ended by ourselves, for a reason that holds no more.
		{"shutdown hands over", facts{run: newRun(streaming(1)), pool: pool(1, stopped(1, streamer.ErrShutdown)), stopping: true}, 0, want{row: 9, verb: handOver, text: "Hel"}},
		{"shutdown, attempts spent", facts{run: newRun(streaming(1), maxAttempts(1)), pool: pool(1, stopped(1, streamer.ErrShutdown)), stopping: true}, 0,
			want{row: 9, verb: fail, reason: "RetriesExhausted", class: chatretry.WorkerLost, text: "Hel"}},
		{"suspension taken back", facts{run: newRun(streaming(1)), pool: pool(1, stopped(1, streamer.ErrSuspended))}, 0,
			want{row: 9, verb: retry, delay: time.Second, after: time.Second, class: chatretry.WorkerLost, text: "Hel"}},
		{"deadline raised meanwhile", facts{run: newRun(streaming(1), activeDeadline(3600)), pool: pool(1, stopped(1, streamer.ErrDeadline))}, 5 * time.Second,
			want{row: 9, verb: retry, delay: time.Second, after: time.Second, class: chatretry.WorkerLost, text: "Hel"}},

		// Row 10: failed.
		{"transient", facts{run: newRun(streaming(1)), pool: pool(1, failed(1, overloaded))}, 0, want{row: 10, verb: retry, delay: time.Second, after: time.Second, class: chatretry.Overloaded, text: "Hel"}},
		{"transient, third", facts{run: newRun(streaming(3)), pool: pool(3, failed(3, overloaded))}, 0, want{row: 10, verb: retry, delay: 4 * time.Second, after: 4 * time.Second, class: chatretry.Overloaded, text: "Hel"}},
		{"final", facts{run: newRun(streaming(1)), pool: pool(1, failed(1, wrongKey))}, 0, want{row: 10, verb: fail, reason: "AuthenticationFailed", class: chatretry.AuthenticationFailed, text: "Hel"}},
		{"limit 1", facts{run: newRun(streaming(1), maxAttempts(1)), pool: pool(1, failed(1, overloaded))}, 0, want{row: 10, verb: fail, reason: "RetriesExhausted", class: chatretry.Overloaded, text: "Hel"}},
		{"limit 2, first", facts{run: newRun(streaming(1), maxAttempts(2)), pool: pool(1, failed(1, overloaded))}, 0, want{row: 10, verb: retry, delay: time.Second, after: time.Second, class: chatretry.Overloaded, text: "Hel"}},
		{"limit 2, second", facts{run: newRun(streaming(2), maxAttempts(2)), pool: pool(2, failed(2, overloaded))}, 0, want{row: 10, verb: fail, reason: "RetriesExhausted", class: chatretry.Overloaded, text: "Hel"}},
		{"no policy on the object", facts{run: newRun(streaming(24), func(r *v1alpha1.ChatRun) { r.Spec.RetryPolicy = nil }), pool: pool(24, failed(24, overloaded))}, 0,
			want{row: 10, verb: retry, delay: time.Minute, after: time.Minute, class: chatretry.Overloaded, text: "Hel"}},
		{"no limit", facts{run: newRun(streaming(1000), maxAttempts(0)), pool: pool(1000, failed(1000, overloaded))}, 0, want{row: 10, verb: retry, delay: time.Minute, after: time.Minute, class: chatretry.Overloaded, text: "Hel"}},
		{"hint is a floor", facts{run: newRun(streaming(1)), pool: pool(1, failed(1, hinted(7*time.Second)))}, 0, want{row: 10, verb: retry, delay: 7 * time.Second, after: 7 * time.Second, class: chatretry.RateLimited, text: "Hel"}},
		{"hint below the back-off", facts{run: newRun(streaming(4)), pool: pool(4, failed(4, hinted(time.Second)))}, 0, want{row: 10, verb: retry, delay: 8 * time.Second, after: 8 * time.Second, class: chatretry.RateLimited, text: "Hel"}},
		{"hint of a day", facts{run: newRun(streaming(1)), pool: pool(1, failed(1, hinted(24*time.Hour)))}, 0, want{row: 10, verb: fail, reason: "RetryAfterTooLong", class: chatretry.RateLimited, text: "Hel"}},
		{"hint beyond the deadline", facts{run: newRun(streaming(1), activeDeadline(30)), pool: pool(1, failed(1, hinted(time.Minute)))}, 0, want{row: 10, verb: fail, reason: "RetryAfterTooLong", class: chatretry.RateLimited, text: "Hel"}},
		{"back-off beyond the deadline", facts{run: newRun(streaming(9), activeDeadline(30)), pool: pool(9, failed(9, overloaded))}, 0, want{row: 10, verb: retry, delay: time.Minute, after: time.Minute, class: chatretry.Overloaded, text: "Hel"}},

		// Row 11: runs.
		{"runs", facts{run: newRun(streaming(1)), pool: pool(1, nil)}, time.Hour, want{row: 11, verb: ignore}},
		{"runs, provider gone", facts{run: newRun(streaming(1)), pool: pool(1, nil), wait: notReadyYet}, 0, want{row: 11, verb: ignore}},

		// Row 12: nobody knows of it.
		{"worker lost", facts{run: newRun(streaming(3))}, 0, want{row: 12, verb: retry, delay: 4 * time.Second, after: 4 * time.Second, class: chatretry.WorkerLost}},
		{"worker lost, limit", facts{run: newRun(streaming(3), maxAttempts(3))}, 0, want{row: 12, verb: fail, reason: "RetriesExhausted", class: chatretry.WorkerLost}},
		{"worker lost, pool knows an older attempt", facts{run: newRun(streaming(3)), pool: settled(2)}, 0, want{row: 12, verb: retry, delay: 4 * time.Second, after: 4 * time.Second, class: chatretry.WorkerLost}},

		{"owed", facts{run: newRun(streaming(3)), owed: true}, 0, want{row: 12, verb: start, attempt: 3}},
		{"owed, and cancelled since", facts{run: newRun(streaming(3), desired(v1alpha1.DesiredCancelled)), owed: true}, 0, want{row: 6, verb: cancel}},
		{"owed while we drain", facts{run: newRun(streaming(3), maxAttempts(3)), owed: true, stopping: true}, 0, want{row: 12, verb: start, attempt: 3}},
		{"owed at shutdown", facts{run: newRun(streaming(3)), owed: true, stopping: true, closed: true}, 0, want{row: 12, verb: handOver}},
		{"owed at shutdown, attempts spent", facts{run: newRun(streaming(3), maxAttempts(3)), owed: true, stopping: true, closed: true}, 0,
			want{row: 12, verb: fail, reason: "RetriesExhausted", class: chatretry.WorkerLost}},
		{"somebody wrote over our status", facts{run: newRun(func(r *v1alpha1.ChatRun) { r.Status.Attempt = new(int32(1)) }), pool: pool(1, nil)}, 0, want{row: 11, verb: ignore}},

		// Row 13: waits.
		{"waits", facts{run: newRun(waiting(1, 4*time.Second)), pool: settled(1)}, time.Second, want{row: 13, verb: hold, after: 3 * time.Second, reason: "Retrying"}},
		{"waits after a restart", facts{run: newRun(waiting(1, 4*time.Second))}, time.Second, want{row: 13, verb: hold, after: 3 * time.Second, reason: "Retrying"}},
		{"waits, deadline first", facts{run: newRun(waiting(1, time.Hour), activeDeadline(9))}, time.Second, want{row: 13, verb: hold, after: 8 * time.Second, reason: "Retrying"}},
		{"wait is over to the microsecond", facts{run: newRun(waiting(1, time.Second))}, time.Second, want{row: 16, verb: start, attempt: 2}},

		// Row 14: attempts spent.
		{"limit lowered", facts{run: newRun(waiting(3, time.Second), maxAttempts(3))}, time.Second, want{row: 14, verb: fail, reason: "RetriesExhausted"}},
		{"limit lowered below", facts{run: newRun(waiting(3, time.Second), maxAttempts(1))}, time.Second, want{row: 14, verb: fail, reason: "RetriesExhausted"}},

		// Row 15: cannot start.
		{"provider not ready", facts{run: newRun(), wait: notReadyYet}, 0, want{row: 15, verb: hold, reason: "ProviderNotReady"}},
		{"provider a moment away", facts{run: newRun(), wait: &waitReason{}}, 0, want{row: 15, verb: ignore}},
		{"look again", facts{run: newRun(), wait: &waitReason{reason: "ProviderNotReady", after: 5 * time.Second}}, 0, want{row: 15, verb: hold, reason: "ProviderNotReady", after: 5 * time.Second}},
		{"look again, deadline first", facts{run: newRun(pendingDeadline(12)), wait: &waitReason{reason: "ProviderNotReady", after: 5 * time.Second}}, 0,
			want{row: 15, verb: hold, reason: "ProviderNotReady", after: 2 * time.Second}},

		// Row 16: start.
		{"first", facts{run: newRun()}, 0, want{row: 16, verb: start, attempt: 1}},
		{"next", facts{run: newRun(waiting(4, time.Second)), pool: settled(4)}, time.Minute, want{row: 16, verb: start, attempt: 5}},
		{"resumed", facts{run: newRun(streaming(1), suspendedAt(t0))}, time.Minute, want{row: 16, verb: start, attempt: 2}},
		{"handed over", facts{run: newRun(streaming(1), func(run *v1alpha1.ChatRun) {
			run.Status = nextStatus(run, decision{verb: handOver}, actor{}, t0)
		})}, 0, want{row: 16, verb: start, attempt: 2}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := decide(tc.f, t0.Add(tc.at))
			got := want{row: d.row, verb: d.verb, after: d.after, delay: d.delay, cause: d.cause, reason: d.reason, attempt: d.attempt}
			if d.verb == fail && d.row == 10 && d.reason == string(d.failure.Class) && d.message != d.failure.Message {
				t.Errorf("message %q, want the failure's", d.message)
			}
			if d.failure != nil {
				got.class = d.failure.Class
			}
			if d.outcome != nil {
				got.text = d.outcome.Text
			}
			if !errors.Is(got.cause, tc.want.cause) {
				t.Errorf("cause %v, want %v", got.cause, tc.want.cause)
			}
			got.cause, tc.want.cause = nil, nil
			if got != tc.want {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// TestDecideNeverStartsEarly walks a wait in steps: no poke starts an attempt
// before its time, and each tells when to come back.
func TestDecideNeverStartsEarly(t *testing.T) {
	run := newRun(waiting(1, time.Second))
	for at := time.Duration(0); at < time.Second; at += 37 * time.Millisecond {
		d := decide(facts{run: run, pool: settled(1)}, t0.Add(at))
		if d.verb != hold || d.after != time.Second-at {
			t.Fatalf("after %v: %s, look again after %v", at, d.verb, d.after)
		}
		if next := nextStatus(run, d, actor{worker: "me"}, t0.Add(at)); !sameStatus(next, run.Status) {
			t.Fatalf("after %v a poke would write %+v", at, next)
		}
	}
}

func TestMessagesNameTheLimitAndTheCause(t *testing.T) {
	d := decide(facts{run: newRun(streaming(2), maxAttempts(2)), pool: pool(2, failed(2, overloaded))}, t0)
	for _, part := range []string{"Attempt 2", "maxAttempts allows 2", overloaded.Message} {
		if !strings.Contains(d.message, part) {
			t.Errorf("message %q does not say %q", d.message, part)
		}
	}
}
