// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/streamer"
)

// stands is where a run of the life table is when the event comes, a minute
// after t0. What it waits for beside its own clock is a fact of its own.
type stands struct {
	name string
	f    func() facts
}

// happening is what happens then.
type happening struct {
	name string
	to   func(*facts)
}

// held is a run that waits with a reason.
func held(reason string) runOption {
	return func(run *v1alpha1.ChatRun) {
		run.Status = nextStatus(run, decision{verb: hold, reason: reason, message: "so"}, actor{worker: "me"}, t0)
	}
}

func continuing(run *v1alpha1.ChatRun) {
	run.Spec.ContinueFrom = &v1alpha1.RunReference{Name: "former"}
	run.Status.ParentUID = "uid-0"
}

var phases = []stands{
	{"Pending", func() facts { return facts{run: newRun()} }},
	{"Waiting", func() facts {
		return facts{run: newRun(continuing, held("WaitingForParent")), wait: &waitReason{reason: "WaitingForParent"}}
	}},
	{"Queued", func() facts { return facts{run: newRun(held("Queued")), wait: queued("full")} }},
	{"Queued again", func() facts {
		return facts{run: newRun(waiting(1, time.Second), held("Queued")), pool: settled(1), wait: queued("full")}
	}},
	{"Streaming", func() facts { return facts{run: newRun(streaming(1)), pool: pool(1, nil)} }},
	{"Retrying", func() facts { return facts{run: newRun(waiting(1, 2*time.Minute)), pool: settled(1)} }},
	{"Suspended", func() facts {
		return facts{run: newRun(waiting(1, 2*time.Minute), suspendedAt(t0), desired(v1alpha1.DesiredSuspended)), pool: settled(1)}
	}},
	{"Succeeded", func() facts { return facts{run: newRun(ended(succeed, ""))} }},
	{"Failed", func() facts { return facts{run: newRun(ended(fail, "InvalidRequest"))} }},
	{"Cancelled", func() facts { return facts{run: newRun(ended(cancel, ""), desired(v1alpha1.DesiredCancelled))} }},
}

var happenings = []happening{
	{"nothing", func(*facts) {}},
	{"cancel", func(f *facts) { f.run.Spec.DesiredState = v1alpha1.DesiredCancelled }},
	{"suspend", func(f *facts) { f.run.Spec.DesiredState = v1alpha1.DesiredSuspended }},
	{"resume", func(f *facts) {
		if f.run.Spec.DesiredState == v1alpha1.DesiredSuspended {
			f.run.Spec.DesiredState = v1alpha1.DesiredRunning
		}
	}},
	{"delete", func(f *facts) { f.run.DeletionTimestamp = new(metav1.NewTime(t0)) }},
	{"gone", func(f *facts) { f.run = nil }},
	{"deadline", func(f *facts) {
		f.run.Spec.ActiveDeadlineSeconds, f.run.Spec.PendingDeadlineSeconds = new(int64(30)), new(int64(30))
	}},
	{"TTL", func(f *facts) { f.run.Spec.TTLSecondsAfterFinished = new(int32(30)) }},
	{"TTL, awaited", func(f *facts) { f.run.Spec.TTLSecondsAfterFinished, f.awaited = new(int32(30)), true }},
	{"provider gone", func(f *facts) { f.wait = notReady("make it") }},
	// The key is read at every attempt, so a new one is no news for a decision.
	{"Secret rotated", func(*facts) {}},
	{"restart", func(f *facts) { f.pool = nil }},
	{"restart, output stands", func(f *facts) { f.pool, f.stored = nil, good(1) }},
	{"parent gone", func(f *facts) {
		if f.run.Spec.ContinueFrom != nil && attemptOf(f.run) == 0 {
			f.wait = final(v1alpha1.ReasonParentNotFound, "gone")
		}
	}},
	{"place free", func(f *facts) {
		if reasonOf(f.run) == v1alpha1.ReasonQueued {
			f.wait = nil
		}
	}},
	{"stopping", func(f *facts) { f.wait, f.stopping = &waitReason{}, true }},
}

// life is every phase by every event: the row that fits, and what it does. A
// retry and a start say which attempt, a failure and a hold why, and each how
// long until the next look where that is no event's business.
const life = `
event                  | Pending                        | Waiting                        | Queued                         | Queued again             | Streaming   | Retrying                | Suspended           | Succeeded | Failed   | Cancelled
nothing                | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
cancel                 | 6 Cancel                       | 6 Cancel                       | 6 Cancel                       | 6 Cancel                 | 6 Stop      | 6 Cancel                | 6 Cancel            | 2 Forget  | 2 Forget | 2 Forget
suspend                | 8 Suspend                      | 8 Suspend                      | 8 Suspend                      | 8 Suspend                | 8 Stop      | 8 Suspend               | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
resume                 | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 13 Hold Retrying 1m | 2 Forget  | 2 Forget | 2 Forget
delete                 | 1 Ignore                       | 1 Ignore                       | 1 Ignore                       | 1 Drop                   | 1 Drop      | 1 Drop                  | 1 Drop              | 1 Ignore  | 1 Ignore | 1 Ignore
gone                   | 1 Ignore                       | 1 Ignore                       | 1 Ignore                       | 1 Drop                   | 1 Drop      | 1 Drop                  | 1 Drop              | 1 Ignore  | 1 Ignore | 1 Ignore
deadline               | 7 Fail PendingDeadlineExceeded | 7 Fail PendingDeadlineExceeded | 7 Fail PendingDeadlineExceeded | 7 Fail DeadlineExceeded  | 7 Stop      | 7 Fail DeadlineExceeded | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
TTL                    | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Expire  | 2 Expire | 2 Expire
TTL, awaited           | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
provider gone          | 15 Hold ProviderNotReady       | 15 Hold ProviderNotReady       | 15 Hold ProviderNotReady       | 15 Hold ProviderNotReady | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
Secret rotated         | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
restart                | 16 Start 1                     | 15 Hold WaitingForParent       | 15 Hold Queued                 | 15 Hold Queued           | 12 Retry 1s | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
restart, output stands | -                              | -                              | -                              | -                        | 5 Succeed   | -                       | -                   | -         | -        | -
parent gone            | 16 Start 1                     | 15 Fail ParentNotFound         | 15 Hold Queued                 | 15 Hold Queued           | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
place free             | 16 Start 1                     | 15 Hold WaitingForParent       | 16 Start 1                     | 16 Start 2               | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
stopping               | 15 Ignore                      | 15 Ignore                      | 15 Ignore                      | 15 Ignore                | 11 Ignore   | 13 Hold Retrying 1m     | 8 Suspend           | 2 Forget  | 2 Forget | 2 Forget
`

func TestLife(t *testing.T) {
	lines := strings.Split(strings.TrimSpace(life), "\n")
	cells := func(line string) []string {
		out := strings.Split(line, "|")
		for i := range out {
			out[i] = strings.TrimSpace(out[i])
		}
		return out
	}
	header := cells(lines[0])
	if len(header) != len(phases)+1 || len(lines) != len(happenings)+1 {
		t.Fatalf("the table has %d phases and %d events, there are %d and %d", len(header)-1, len(lines)-1, len(phases), len(happenings))
	}
	for i, e := range happenings {
		row := cells(lines[i+1])
		if row[0] != e.name {
			t.Fatalf("line %d tells of %q, the event is %q", i+1, row[0], e.name)
		}
		for j, p := range phases {
			if header[j+1] != p.name {
				t.Fatalf("column %d tells of %q, the phase is %q", j+1, header[j+1], p.name)
			}
			want := row[j+1]
			if want == "-" {
				continue // only an attempt under way has an output to be found
			}
			t.Run(e.name+"/"+p.name, func(t *testing.T) {
				f := p.f()
				e.to(&f)
				now := t0.Add(time.Minute)
				d := decide(f, now)
				if got := short(d); got != want {
					t.Errorf("%s, want %s", got, want)
				}
				settles(t, f, d, now)
			})
		}
	}
}

// short tells a decision in a few words.
func short(d decision) string {
	s := fmt.Sprintf("%d %s", d.row, d.verb)
	switch d.verb {
	case start:
		s += fmt.Sprintf(" %d", d.attempt)
	case retry:
		s += " " + d.delay.String()
	case hold, fail:
		s += " " + d.reason
	}
	if d.verb == hold && d.after > 0 {
		s += " " + strings.TrimSuffix(d.after.String(), "0s")
	}
	return s
}

// settles follows a decision on to where nothing is written any more, as long as
// no new fact comes: a run that is looked at twice is as one looked at once.
func settles(t *testing.T, f facts, d decision, now time.Time) {
	t.Helper()
	if f.run == nil {
		return
	}
	for looks := 0; ; looks++ {
		if looks > 3 {
			t.Fatalf("still %s after %d looks", short(d), looks)
		}
		next := nextStatus(f.run, d, actor{worker: "me", parentUID: f.parentUID}, now)
		wrote := !sameStatus(next, f.run.Status)
		f.run.Status = next
		switch d.verb {
		case start:
			f.pool = pool(d.attempt, nil)
		case stop:
			f.pool = pool(f.pool.Attempt, stopped(f.pool.Attempt, d.cause))
		case expire, drop:
			return
		default:
			if f.pool != nil && f.pool.Outcome != nil && wrote {
				f.pool = settled(f.pool.Attempt)
			}
			if !wrote {
				return
			}
			f.stored = nil
		}
		d = decide(f, now)
	}
}

// TestStoppedByAnEvent is what follows the outcome of an attempt that an event
// stopped, or that ended by itself in the same moment.
func TestStoppedByAnEvent(t *testing.T) {
	for _, tc := range []struct {
		outcome *streamer.Outcome
		want    map[string]string
	}{
		{good(1), map[string]string{"cancel": "5 Succeed", "suspend": "5 Succeed", "resume": "5 Succeed", "deadline": "5 Succeed", "delete": "1 Drop", "stopping": "5 Succeed"}},
		{stopped(1, streamer.ErrStopped), map[string]string{"cancel": "6 Cancel", "delete": "1 Drop"}},
		{stopped(1, streamer.ErrSuspended), map[string]string{"suspend": "8 Suspend", "cancel": "6 Cancel", "resume": "9 Retry 1s", "deadline": "7 Fail DeadlineExceeded"}},
		{stopped(1, streamer.ErrDeadline), map[string]string{"deadline": "7 Fail DeadlineExceeded", "nothing": "9 Retry 1s", "cancel": "6 Cancel"}},
		{stopped(1, streamer.ErrShutdown), map[string]string{"stopping": "9 HandOver", "cancel": "6 Cancel", "suspend": "8 Suspend"}},
		{failed(1, overloaded), map[string]string{"cancel": "6 Cancel", "suspend": "10 Retry 1s", "deadline": "7 Fail DeadlineExceeded", "delete": "1 Drop", "nothing": "10 Retry 1s", "provider gone": "10 Retry 1s"}},
	} {
		for _, e := range happenings {
			want, listed := tc.want[e.name]
			if !listed {
				continue
			}
			f := facts{run: newRun(streaming(1)), pool: pool(1, tc.outcome)}
			e.to(&f)
			d := decide(f, t0.Add(time.Minute))
			if got := short(d); got != want {
				t.Errorf("%v, then %s: %s, want %s", tc.outcome, e.name, got, want)
			}
			settles(t, f, d, t0.Add(time.Minute))
		}
	}
}
