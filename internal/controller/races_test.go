// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"math"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

var runs = schema.GroupResource{Group: "chatrun.dev", Resource: "chatruns"}

// seeing is a client that reads runs as get says, and has all else of c.
func seeing(c client.Client, get func(*v1alpha1.ChatRun) error) client.Client {
	return interceptor.NewClient(c.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, c client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if run, ok := o.(*v1alpha1.ChatRun); ok {
				return get(run)
			}
			return c.Get(ctx, key, o, opts...)
		},
	})
}

// TestStartWhoseCountStands: an attempt that is counted, by us and a moment
// ago, is made, however the write was answered: it is not taken for one that
// another manager made and lost.
func TestStartWhoseCountStands(t *testing.T) {
	for _, tc := range []struct {
		name  string
		fault error
		// blind fails the live read that follows the write.
		blind bool
	}{
		// client-go sends a write again by itself after a 429 or 5xx with a
		// Retry-After (etcd changed its leader): the second meets the first.
		{"conflict with its own first try", conflict, false},
		{"answer lost, and the next read fails as well", lostAnswer, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, newRun(untitled, maxAttempts(1)), ready())
			b.fault, b.stands = tc.fault, true
			blind := tc.blind
			b.r.live = seeing(b.api, func(run *v1alpha1.ChatRun) error {
				if blind {
					return broken
				}
				return b.api.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: "hello"}, run)
			})
			if _, err := b.reconcile(t); tc.blind && err == nil {
				t.Fatal("no error")
			}
			blind = false
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			if s, _ := b.r.pool.Look("ns", "hello"); !s.Running || s.Attempt != 1 {
				run := b.run(t)
				t.Errorf("attempt 1 is not under way: %+v; the run is %s: %s", s, reasonOf(run), messageOf(run))
			}
		})
	}
}

// TestAttemptOutlivesAStaleCache: an attempt that began on what was read past
// the cache is not dropped because the cache still has, or just lost, the
// object that had the name before.
func TestAttemptOutlivesAStaleCache(t *testing.T) {
	for name, stale := range map[string]func(*v1alpha1.ChatRun) error{
		"the former object":   func(run *v1alpha1.ChatRun) error { newRun(untitled, waiting(1, 0)).DeepCopyInto(run); return nil },
		"between the objects": func(*v1alpha1.ChatRun) error { return apierrors.NewNotFound(runs, "hello") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRun(untitled, func(run *v1alpha1.ChatRun) { run.UID = "uid-2" }), ready())
			b.r.client = seeing(b.api, stale)
			key := types.NamespacedName{Namespace: "ns", Name: "hello"}
			for range liveAfterConflicts {
				b.r.doubts.conflict(key)
			}
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			<-b.caller.asked
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			if s, _ := b.r.pool.Look("ns", "hello"); s.UID != "uid-2" || !s.Running {
				t.Errorf("the attempt of uid-2 was dropped: %+v", s)
			}
		})
	}
}

// TestReadyOfAnOlderGeneration: Ready tells of the spec that it observed. One
// that was edited since is judged first: what is wrong with it would fail the
// run for good.
func TestReadyOfAnOlderGeneration(t *testing.T) {
	p := ready()
	p.Generation = 2
	p.Spec.CABundle = "no certificate"
	b := newBench(t, newRun(untitled), p)
	result, err := b.reconcile(t)
	if err != nil || result.RequeueAfter != 0 {
		t.Errorf("%+v, %v", result, err)
	}
	if attemptOf(b.run(t)) != 0 {
		t.Error("an attempt was started by a spec that nobody looked at")
	}
}

// TestShutdownBetweenCountAndStart: an attempt that was counted and, because we
// shut down, not made is handed over as one that was cut is.
func TestShutdownBetweenCountAndStart(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	b.r.client = interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if err := b.r.pool.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	for range 3 {
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	run := b.run(t)
	if run.Status.RetryingAt != nil || run.Status.Worker != "" || run.Status.LastErrorReason != "" {
		t.Errorf("not handed over: %s, worker %q, %s at %v", reasonOf(run), run.Status.Worker, run.Status.LastErrorReason, run.Status.RetryingAt)
	}
	if len(b.caller.asked) != 0 {
		t.Error("asked all the same")
	}
}

func handedOver(run *v1alpha1.ChatRun) {
	run.Status = nextStatus(run, decision{verb: handOver}, actor{}, t0)
}

// TestObservedGeneration: an edit that changes nothing of what is under way is
// observed all the same, or tools that wait for it (kstatus) wait for ever.
func TestObservedGeneration(t *testing.T) {
	for name, run := range map[string]*v1alpha1.ChatRun{
		"finished":                             newRun(untitled, ended(succeed, "")),
		"waiting":                              newRun(untitled, waiting(1, time.Hour)),
		"handed over, its provider not judged": newRun(untitled, streaming(1), handedOver, func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = "unjudged" }),
		"suspended":                            newRun(untitled, desired(v1alpha1.DesiredSuspended), suspendedAt(t0)),
	} {
		t.Run(name, func(t *testing.T) {
			run.Generation = 2
			unjudged := ready()
			unjudged.Name, unjudged.Generation = "unjudged", 5
			b := newBench(t, run, ready(), unjudged)
			for range 2 {
				if _, err := b.reconcile(t); err != nil {
					t.Fatal(err)
				}
			}
			if got := valueOr(b.run(t).Status.ObservedGeneration, 0); got != 2 {
				t.Errorf("observed %d of 2", got)
			}
			if b.writes > 1 {
				t.Errorf("%d writes", b.writes)
			}
		})
	}
}

// TestUsageNeverOverflows: the schema refuses a negative sum, and with it every
// further status of the run, its answer included.
func TestUsageNeverOverflows(t *testing.T) {
	huge := good(2)
	huge.Usage = provider.Usage{InputTokens: math.MaxInt64, OutputTokens: math.MaxInt64}
	run := newRun(streaming(2))
	run.Status.Usage = addUsage(nil, provider.Usage{InputTokens: 1, OutputTokens: 1})
	usage := nextStatus(run, decision{verb: succeed, outcome: huge}, actor{worker: "me"}, t0).Usage
	if *usage.InputTokens < 0 || *usage.OutputTokens < 0 {
		t.Errorf("%d, %d", *usage.InputTokens, *usage.OutputTokens)
	}
}

// TestSucceedWithoutText: the provider client says EmptyAnswer, but a status is
// not computed on that promise: a panic here would come back for ever.
func TestSucceedWithoutText(t *testing.T) {
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("panic: %v", r)
		}
	}()
	empty := &streamer.Outcome{Attempt: 1, FinishReason: provider.FinishStop}
	s := nextStatus(newRun(streaming(1)), decision{verb: succeed, outcome: empty}, actor{worker: "me"}, t0)
	if s.Phase != v1alpha1.PhaseSucceeded {
		t.Error(s.Phase)
	}
}

// TestFailureInTheMomentOfASuspension: a failure that came by itself is judged,
// whatever was asked in the same moment: what is final stays final, and what
// the provider asked to wait is waited.
func TestFailureInTheMomentOfASuspension(t *testing.T) {
	hint := &chatretry.Failure{Class: chatretry.RateLimited, Message: "slow down", RetryAfter: time.Minute}
	for name, failure := range map[string]*chatretry.Failure{"final": wrongKey, "with a hint": hint} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newRun(untitled), ready())
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			<-b.caller.asked
			b.caller.answer <- failure
			<-b.nudged
			for _, state := range []v1alpha1.DesiredState{v1alpha1.DesiredSuspended, v1alpha1.DesiredRunning} {
				run := b.run(t)
				run.Spec.DesiredState = state
				if err := b.api.Update(t.Context(), run); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if _, err := b.reconcile(t); err != nil {
						t.Fatal(err)
					}
				}
			}
			if run := b.run(t); attemptOf(run) != 1 {
				t.Errorf("asked again at once: attempt %d, %s", attemptOf(run), reasonOf(run))
			}
		})
	}
}

// TestTextOfAFailedAttempt is never kept: it is no answer, also if a cancel came
// between the failure and its record.
func TestTextOfAFailedAttempt(t *testing.T) {
	for _, d := range []decision{
		{verb: cancel, outcome: failed(1, overloaded), failure: overloaded},
		{verb: fail, reason: v1alpha1.ReasonDeadlineExceeded, outcome: failed(1, overloaded), failure: overloaded},
	} {
		if s := nextStatus(newRun(streaming(1)), d, actor{worker: "me"}, t0); s.Output != nil {
			t.Errorf("%s keeps %q of an attempt that failed", d.verb, s.Output.Text)
		}
	}
}

// TestForeignStatusWrite: a status that somebody else wrote over ours does not
// make a second call beside the one under way.
func TestForeignStatusWrite(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	<-b.caller.asked
	run := b.run(t)
	run.Status.Conditions = []metav1.Condition{}
	if err := b.api.Status().Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if n := attemptOf(b.run(t)); n != 1 || len(b.caller.asked) != 0 {
		t.Errorf("attempt %d counted while attempt 1 is under way", n)
	}
}
