// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"maps"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/streamer"
)

// TestEndedAs: each way in which an attempt may end has its name.
func TestEndedAs(t *testing.T) {
	began := t0
	for name, tc := range map[string]struct {
		o    *streamer.Outcome
		f    *chatretry.Failure
		want metrics.End
	}{
		"good": {&streamer.Outcome{Started: began, FirstPart: began.Add(time.Second), Ended: began.Add(time.Minute)}, nil,
			metrics.End{Outcome: "Succeeded", Duration: time.Minute, FirstToken: time.Second}},
		"failed":           {&streamer.Outcome{Failure: overloaded, Started: began, Ended: began.Add(1)}, overloaded, metrics.End{Outcome: "Overloaded", Duration: 1}},
		"lost":             {nil, workerLost(newRun()), metrics.End{Outcome: "WorkerLost"}},
		"never made":       {nil, nil, metrics.End{Outcome: "HandedOver"}},
		"cancelled":        {&streamer.Outcome{Cause: streamer.ErrStopped}, nil, metrics.End{Outcome: "Cancelled"}},
		"suspended":        {&streamer.Outcome{Cause: streamer.ErrSuspended}, nil, metrics.End{Outcome: "Suspended"}},
		"deadline":         {&streamer.Outcome{Cause: streamer.ErrDeadline}, nil, metrics.End{Outcome: "DeadlineExceeded"}},
		"shutdown":         {&streamer.Outcome{Cause: streamer.ErrShutdown}, nil, metrics.End{Outcome: "HandedOver"}},
		"fenced":           {&streamer.Outcome{Cause: streamer.ErrOwnershipLost}, nil, metrics.End{Outcome: "WorkerLost"}},
		"read from object": {good(1), nil, metrics.End{Outcome: "Succeeded", InputTokens: 3, OutputTokens: 2}},
	} {
		if got := endedAs(tc.o, tc.f); got != tc.want {
			t.Errorf("%s: %+v, want %+v", name, got, tc.want)
		}
	}
}

// TestTellsOf: what another replica wrote of our attempt is not counted by us.
func TestTellsOf(t *testing.T) {
	failed := &streamer.Outcome{Attempt: 1, Failure: overloaded}
	fenced := &streamer.Outcome{Attempt: 1, Cause: streamer.ErrOwnershipLost}
	stopped := &streamer.Outcome{Attempt: 1, Cause: streamer.ErrStopped}
	recorded := func(d decision) *v1alpha1.ChatRun {
		run := newRun(streaming(1))
		run.Status = nextStatus(run, d, actor{worker: "other"}, t0)
		return run
	}
	lost := recorded(decision{verb: retry, failure: workerLost(newRun())})
	for name, tc := range map[string]struct {
		run  *v1alpha1.ChatRun
		o    *streamer.Outcome
		want bool
	}{
		"ours, good":              {recorded(decision{verb: succeed, outcome: good(1)}), good(1), true},
		"ours, failed":            {recorded(decision{verb: retry, failure: overloaded, outcome: failed}), failed, true},
		"ours, cancelled":         {recorded(decision{verb: cancel, outcome: stopped}), stopped, true},
		"written off, was good":   {lost, good(1), false},
		"written off, had failed": {lost, failed, false},
		"written off, fenced":     {lost, fenced, false},
		"made again, had failed":  {recorded(decision{verb: succeed, outcome: good(1)}), failed, false},
	} {
		if got := tellsOf(tc.run, tc.o); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestAccountOfALife: two retries, one of them for an attempt that another replica
// lost, and an answer.
func TestAccountOfALife(t *testing.T) {
	b := newBench(t, newRun(untitled, streaming(1), func(run *v1alpha1.ChatRun) { run.Status.Worker = "gone" }), ready())
	next := func() {
		t.Helper()
		b.clock.SetTime(b.clock.Now().Add(time.Minute))
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	next() // lost
	next() // attempt 2
	<-b.caller.asked
	b.caller.answer <- overloaded
	<-b.nudged
	next()
	next() // attempt 3
	<-b.caller.asked
	b.caller.answer <- nil
	<-b.nudged
	next()
	next()
	for _, tc := range []struct {
		want   float64
		name   string
		labels []string
	}{
		{2, "chatrun_attempts_total", nil},
		{3, "chatrun_attempt_outcomes_total", nil},
		{1, "chatrun_attempt_outcomes_total", []string{"WorkerLost"}},
		{1, "chatrun_attempt_outcomes_total", []string{"Overloaded"}},
		{1, "chatrun_attempt_outcomes_total", []string{"Succeeded"}},
		{2, "chatrun_retries_total", nil},
		{1, "chatrun_retries_total", []string{"WorkerLost"}},
		{1, "chatrun_runs_finished_total", []string{"Completed"}},
		{1, "chatrun_takeovers_total", nil},
	} {
		if got := b.counted(t, tc.name, tc.labels...); got != tc.want {
			t.Errorf("%s%v is %v, want %v", tc.name, tc.labels, got, tc.want)
		}
	}
}

// TestNoWriteIsNoNews: a write that is refused, or only moves the generation on,
// counts nothing.
func TestNoWriteIsNoNews(t *testing.T) {
	b := newBench(t, newRun(untitled, waiting(1, time.Hour)), ready())
	run := b.run(t)
	run.Generation++
	run.Spec.ActiveDeadlineSeconds = new(int64(86400))
	if err := b.api.Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	b.fault, run = throttled, b.run(t)
	run.Spec.DesiredState = v1alpha1.DesiredCancelled
	if err := b.api.Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if _, err := b.reconcile(t); err == nil {
		t.Fatal("the write was not refused")
	}
	for _, name := range []string{"chatrun_attempt_outcomes_total", "chatrun_retries_total", "chatrun_runs_finished_total"} {
		if got := b.counted(t, name); got != 0 {
			t.Errorf("%s is %v", name, got)
		}
	}
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if got := b.counted(t, "chatrun_runs_finished_total", "Cancelled"); got != 1 {
		t.Errorf("the cancel was counted %v times", got)
	}
}

// TestEachRunIsCountedOnce: by the replica that has it, or by the one that it falls
// to, whatever its phase.
func TestEachRunIsCountedOnce(t *testing.T) {
	all := []client.Object{ready()}
	limited := ready()
	limited.Name, limited.UID, limited.Spec.Limits = "limited", "provider", &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
	all = append(all, limited)
	want := map[string]int{}
	for _, phase := range allPhases {
		want[string(phase)] = 0
	}
	for i, s := range phases {
		for owner := range 4 {
			run := s.f().run.DeepCopy()
			run.ObjectMeta = metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprintf("r-%d-%d", i, owner), UID: types.UID(fmt.Sprintf("uid-%d-%d", i, owner))}
			run.Status.Worker = []string{"", "a", "b", "gone"}[owner]
			if owner%2 == 0 {
				run.Spec.ProviderRef.Name = "limited"
			}
			all = append(all, run)
			phase := run.Status.Phase
			if phase == "" {
				phase = v1alpha1.PhasePending
			}
			want[string(phase)]++
		}
	}
	sum := map[string]int{}
	for _, me := range []string{"a", "b", "c"} {
		b := newBench(t, all...)
		b.r.worker, b.r.members = me, members.Fixed(me, map[string]members.State{"a": members.Live, "b": members.Live, "c": members.Draining})
		counted, err := b.r.byPhase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for phase, n := range counted {
			sum[phase] += n
		}
		if me != "c" && counted["Pending"] == want["Pending"] {
			t.Errorf("%s counts all", me)
		}
	}
	if !maps.Equal(sum, want) {
		t.Errorf("%v, want %v", sum, want)
	}
}
