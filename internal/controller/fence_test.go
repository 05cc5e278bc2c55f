// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// during calls happen within each write of a status, before it stands.
func (b *bench) during(happen func()) {
	b.r.client = interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			happen()
			return c.SubResource(sub).Patch(ctx, o, patch, opts...)
		},
	})
}

// TestAFenceWhileTheCountIsWritten: the attempt is counted and not made. Others may
// have found it lost meanwhile, so we write that as well, and make another.
func TestAFenceWhileTheCountIsWritten(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	fenced := false
	b.during(func() {
		if !fenced {
			fenced = true
			b.r.pool.Fence()
		}
	})
	for i, want := range []v1alpha1.Phase{v1alpha1.PhaseStreaming, v1alpha1.PhaseRetrying} {
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		if s, ok := b.r.pool.Look("ns", "hello"); ok {
			t.Fatalf("look %d: an attempt was made: %+v", i, s)
		}
		if run := b.run(t); run.Status.Phase != want || attemptOf(run) != 1 {
			t.Fatalf("look %d: %+v", i, run.Status)
		}
	}
	if run := b.run(t); run.Status.LastErrorReason != "WorkerLost" || len(b.r.doubts.owing()) > 0 {
		t.Errorf("%s, and owed: %v", run.Status.LastErrorReason, len(b.r.doubts.owing()) > 0)
	}
	b.clock.SetTime(t0.Add(time.Minute))
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	s, _ := b.r.pool.Look("ns", "hello")
	if run := b.run(t); attemptOf(run) != 2 || s.Attempt != 2 || !s.Running {
		t.Errorf("%d are counted, and %+v", attemptOf(run), s)
	}
}

// TestADrainWhileTheCountIsWritten: the attempt is counted, so it is made, also if it
// is the last one, and the drain is not through before it ended.
func TestADrainWhileTheCountIsWritten(t *testing.T) {
	b := newBench(t, newRun(untitled, maxAttempts(1)), ready())
	d := &Drain{ChatRunReconciler: b.r, runs: newQueue()}
	seen := false
	b.during(func() {
		b.r.pool.Refuse()
		seen = seen || d.unsettled()
	})
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	s, _ := b.r.pool.Look("ns", "hello")
	if !seen || !d.unsettled() || !s.Running {
		t.Errorf("seen while it was counted: %v, and after: %v; %+v", seen, d.unsettled(), s)
	}
}

// TestAShutdownWhileTheCountIsWritten: the attempt is handed over, and all is through
// only then.
func TestAShutdownWhileTheCountIsWritten(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	d := &Drain{ChatRunReconciler: b.r, runs: newQueue()}
	b.during(func() {
		if err := b.r.pool.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if !d.unsettled() {
		t.Error("through with an attempt that is counted and not made")
	}
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	run := b.run(t)
	if run.Status.Worker != "" || run.Status.Phase != v1alpha1.PhasePending || attemptOf(run) != 1 || d.unsettled() {
		t.Errorf("%+v, and not through: %v", run.Status, d.unsettled())
	}
}

// TestAMisplacedRunIsHandedOver: through the whole look, its place included.
func TestAMisplacedRunIsHandedOver(t *testing.T) {
	p := ready()
	p.UID, p.Spec.Limits = "provider", &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
	b := newBench(t, newRun(untitled, waiting(1, time.Second)), p)
	others := map[string]members.State{"me": members.Live}
	for n := range 50 {
		others[string(rune('A'+n))] = members.Live
	}
	b.r.members = members.Fixed("me", others)
	b.clock.SetTime(t0.Add(time.Minute))
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t); run.Status.Worker != "" || run.Status.Phase != v1alpha1.PhasePending || attemptOf(run) != 1 {
		t.Errorf("%+v", run.Status)
	}
}

// TestADrainBeforeTheCount: nothing is counted.
func TestADrainBeforeTheCount(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	b.r.pool.Refuse()
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if run := b.run(t); attemptOf(run) != 0 {
		t.Errorf("%d are counted", attemptOf(run))
	}
}

// TestADrainEndsInTime: what is not written down in time is left to the Lease.
func TestADrainEndsInTime(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*drainPoll)
	defer cancel()
	(&Drain{ChatRunReconciler: b.r, runs: newQueue()}).Wait(ctx)
	if s, _ := b.r.pool.Look("ns", "hello"); !s.Running || ctx.Err() == nil {
		t.Errorf("the attempt was not let go on for all its time: %+v, %v", s, ctx.Err())
	}
}
