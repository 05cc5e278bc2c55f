// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
)

// TestFenceVoidsADebt: an attempt that was counted by a write of unknown result, and
// not made before a fence, is lost. Another replica may be taking the run over, and
// only a write can tell.
func TestFenceVoidsADebt(t *testing.T) {
	b := newBench(t, newRun(untitled), ready())
	b.fault, b.stands = lostAnswer, true
	if _, err := b.reconcile(t); err == nil {
		t.Fatal("no error")
	}
	b.r.pool.Fence()
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if s, known := b.r.pool.Look("ns", "hello"); known {
		t.Errorf("the pool made it: %+v", s)
	}
	if run := b.run(t); reasonOf(run) != v1alpha1.ReasonRetrying || run.Status.LastErrorReason != string(chatretry.WorkerLost) {
		t.Errorf("the run is %s, after %s", reasonOf(run), run.Status.LastErrorReason)
	}
}

// TestTakesOver: an owner's Lease is read for what may be under way elsewhere, and
// for nothing else.
func TestTakesOver(t *testing.T) {
	owned := func(run *v1alpha1.ChatRun, worker string) *v1alpha1.ChatRun {
		run.Status.Worker = worker
		return run
	}
	for _, tc := range []struct {
		name string
		run  *v1alpha1.ChatRun
		ownership
		want bool
	}{
		{"another's attempt", owned(newRun(streaming(1)), "other"), ownership{}, true},
		{"our own", owned(newRun(streaming(1)), "us"), ownership{}, false},
		{"nobody's", owned(newRun(streaming(1)), ""), ownership{}, false},
		{"one that waits", owned(newRun(waiting(1, 0)), "other"), ownership{}, false},
		{"we are not held", owned(newRun(streaming(1)), "other"), ownership{unheld: true}, false},
		{"it is another's turn", owned(newRun(streaming(1)), "other"), ownership{othersTurn: true}, false},
	} {
		if got := takesOver(tc.run, tc.ownership, "us"); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}
