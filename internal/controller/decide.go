// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/streamer"
)

// facts are all that decide looks at beside the clock.
type facts struct {
	// key is the name that is looked at.
	key types.NamespacedName
	// run is the object as read; nil if it is gone.
	run *v1alpha1.ChatRun
	// pool is what the pool knows under the run's name; nil if nothing.
	pool *streamer.Snapshot
	// ownership is whose the run is.
	ownership
	// pass allows an attempt that is decided by these facts.
	pass int
	// stopping says that this process shuts down: the pool takes no attempts.
	stopping bool
	// closed says that it starts nothing at all: until then it makes what it counted.
	closed bool
	// owed says that we counted the attempt that status tells of by a write of
	// unknown result, and did not make it. run was then read past the cache.
	owed bool
	// stored is the outcome of the attempt that status tells of, as it was read
	// from the object that keeps its answer, and kept is that object. Both are nil
	// unless the pool knows nothing of the attempt.
	stored *streamer.Outcome
	kept   *kept
	// awaited says that another run waits to go on from this one.
	awaited bool
	// wait says why no attempt may start; nil if one may, for all we know.
	wait *waitReason
	// parentUID pins the run to go on from; empty if there is none.
	parentUID string
}

// waitReason is why a run cannot start its next attempt just now.
type waitReason struct {
	// reason and message are for the condition. An empty reason means that the
	// answer is a moment away and not worth a write.
	reason, message string
	// after is when to look again, if no event will tell; 0 if one will.
	after time.Duration
	// queued says that it waits for a place, whether or not that is told yet, and
	// turn that it keeps its turn for one while it waits for something else.
	queued, turn bool
	// denied says that we may not read what is needed, so nobody knows what is there.
	denied bool
	// final says that waiting does not help: the run fails.
	final bool
}

func final(reason, message string) *waitReason {
	return &waitReason{reason: reason, message: message, final: true}
}

// verb is what to do.
type verb string

const (
	ignore   verb = "Ignore"   // nothing, until an event or until after
	drop     verb = "Drop"     // cancel the worker of an object that is gone, close its log
	forget   verb = "Forget"   // finished: cancel and forget any worker
	expire   verb = "Expire"   // finished and past its TTL: delete the object
	stop     verb = "Stop"     // cancel the worker with cause; its outcome brings us back
	settle   verb = "Settle"   // the outcome stands in status already: let the pool forget it
	succeed  verb = "Succeed"  // write the answer
	fail     verb = "Fail"     // write the final failure
	cancel   verb = "Cancel"   // write Cancelled
	suspend  verb = "Suspend"  // write Suspended
	retry    verb = "Retry"    // write the wait before the next attempt
	handOver verb = "HandOver" // write that the next owner may start at once
	hold     verb = "Hold"     // write why no attempt is under way, if that is not told yet
	start    verb = "Start"    // count attempt, then make it
)

// decision is what decide found: one verb, and what it needs.
type decision struct {
	// row is the row of the table in DESIGN §4 that fitted.
	row  int
	verb verb
	// after is when to look again at the latest; 0 leaves it to events.
	after time.Duration
	// cause goes with stop.
	cause error
	// outcome is the attempt's end that succeed, fail, cancel, suspend, retry and
	// handOver record; nil if there is none to record.
	outcome *streamer.Outcome
	// kept is where its text stands beside the status; nil if it does not.
	kept *kept
	// failure is what failed, for retry and fail.
	failure *chatretry.Failure
	// reason and message are the condition's, for fail and hold.
	reason, message string
	// delay goes with retry.
	delay time.Duration
	// attempt is the one to make, for start.
	attempt int32
}

// decide is the whole policy of a run: a pure function of facts and a clock,
// a table whose first fitting row wins.
func decide(f facts, now time.Time) decision {
	for _, rows := range []func(facts, time.Time) (decision, bool){identity, wishes, outcomes, next} {
		if d, ok := rows(f, now); ok {
			return d
		}
	}
	return decision{row: 16, verb: start, attempt: attemptOf(f.run) + 1}
}

// identity holds rows 1 to 4: is what we read the truth, and is this run ours to
// act on. Row 4 comes before row 3 as far as the read is too old.
func identity(f facts, now time.Time) (decision, bool) {
	run, pool := f.run, f.pool
	switch {
	case run == nil || !run.DeletionTimestamp.IsZero() || (pool != nil && pool.UID != string(run.UID)):
		if pool == nil {
			return decision{row: 1, verb: ignore}, true
		}
		return decision{row: 1, verb: drop}, true
	case isFinished(run):
		return finished(f, now), true
	case pool != nil && pool.Attempt > attemptOf(run),
		pool != nil && pool.Settled && pool.Attempt == attemptOf(run) && isStreaming(run):
		// What is older than what we did says nothing of whose the run is.
		return decision{row: 4, verb: ignore}, true
	case !f.lets():
		if pool != nil && pool.Running {
			return decision{row: 3, verb: stop, cause: streamer.ErrOwnershipLost}, true
		}
		return decision{row: 3, verb: ignore, after: f.turnAfter}, true
	case pool != nil && pool.Outcome != nil && pool.Attempt == attemptOf(run) && !isStreaming(run):
		// A write whose answer we never saw did stand.
		return decision{row: 4, verb: settle}, true
	}
	return decision{}, false
}

// finished is row 2.
func finished(f facts, now time.Time) decision {
	run, ttl := f.run, f.run.Spec.TTLSecondsAfterFinished
	if ttl == nil || run.Status.CompletionTime == nil || !f.lets() {
		return decision{row: 2, verb: forget}
	}
	left := run.Status.CompletionTime.Add(seconds(*ttl)).Sub(now)
	switch {
	case left > 0:
		return decision{row: 2, verb: forget, after: left}
	case f.awaited:
		// The event of the last one that waits brings us back.
		return decision{row: 2, verb: forget}
	}
	return decision{row: 2, verb: expire}
}

// wishes holds rows 5 to 8: what was asked of the run, against an answer that
// came in the same moment.
func wishes(f facts, now time.Time) (decision, bool) {
	run, outcome := f.run, outcomeOf(f)
	if outcome != nil && outcome.Good() {
		return decision{row: 5, verb: succeed, outcome: outcome}, true
	}
	d, cause := decision{outcome: outcome, failure: failureOf(outcome)}, streamer.ErrDeadline
	switch {
	case run.Spec.DesiredState == v1alpha1.DesiredCancelled:
		d.row, d.verb, cause = 6, cancel, streamer.ErrStopped
	case run.Spec.DesiredState == v1alpha1.DesiredSuspended:
		if f := failureOf(outcome); f != nil && isStreaming(run) {
			// It came by itself: a final one stays final, a hint is kept. The next
			// look suspends.
			return judge(run, 10, outcome, f, now), true
		}
		d.row, d.verb, cause = 8, suspend, streamer.ErrSuspended
	default:
		at, reason := deadline(run, now)
		if at.IsZero() || now.Before(at) {
			return decision{}, false
		}
		d.row, d.verb = 7, fail
		d.reason, d.message = reason, deadlineMessage(run, reason)
	}
	if f.pool != nil && f.pool.Running {
		// The outcome follows at once and brings the whole text with it.
		return decision{row: d.row, verb: stop, cause: cause}, true
	}
	return d, true
}

// outcomes holds rows 9 to 12: what became of the attempt under way.
func outcomes(f facts, now time.Time) (decision, bool) {
	outcome := outcomeOf(f)
	switch {
	case f.pool != nil && f.pool.Running && f.pool.Attempt == attemptOf(f.run):
		return decision{row: 11, verb: ignore, after: untilDeadline(f.run, now)}, true
	case !isStreaming(f.run):
		return decision{}, false
	case outcome != nil && outcome.Cause != nil:
		if f.stopping && !attemptsSpent(f.run) {
			return decision{row: 9, verb: handOver, outcome: outcome}, true
		}
		return judge(f.run, 9, outcome, takenBack(f.run, outcome.Cause), now), true
	case outcome != nil:
		return judge(f.run, 10, outcome, outcome.Failure, now), true
	case f.owed && !f.closed:
		return decision{row: 12, verb: start, attempt: attemptOf(f.run)}, true
	case f.owed && !attemptsSpent(f.run):
		return decision{row: 12, verb: handOver}, true
	default:
		return judge(f.run, 12, nil, workerLost(f.run), now), true
	}
}

// next holds rows 13 to 15: may the next attempt start.
func next(f facts, now time.Time) (decision, bool) {
	run := f.run
	if at := run.Status.RetryingAt; at != nil && now.Before(at.Time) {
		left := at.Sub(now)
		if until := untilDeadline(run, now); until > 0 {
			left = min(left, until)
		}
		return decision{
			row: 13, verb: hold, after: left,
			reason: v1alpha1.ReasonRetrying, message: retryingMessage(attemptOf(run), run.Status.LastErrorReason),
		}, true
	}
	if attemptsSpent(run) {
		return decision{
			row: 14, verb: fail,
			reason: v1alpha1.ReasonRetriesExhausted, message: exhaustedMessage(run, run.Status.LastError),
		}, true
	}
	if f.misplaced {
		return decision{row: 15, verb: handOver}, true
	}
	if f.wait != nil && f.wait.final {
		return decision{row: 15, verb: fail, reason: f.wait.reason, message: f.wait.message}, true
	}
	if f.wait != nil {
		after := untilDeadline(run, now)
		if f.wait.after > 0 && (after == 0 || f.wait.after < after) {
			after = f.wait.after
		}
		switch {
		case f.wait.reason == "" && run.Status.SuspendedAt != nil:
			// Its clock runs again from now on, however long that moment is.
			return decision{row: 15, verb: hold, after: after, reason: v1alpha1.ReasonPending, message: resumedMessage}, true
		case f.wait.reason == "":
			return decision{row: 15, verb: ignore, after: after}, true
		}
		return decision{row: 15, verb: hold, after: after, reason: f.wait.reason, message: f.wait.message}, true
	}
	return decision{}, false
}

// judge asks chatretry what follows a failed attempt.
func judge(run *v1alpha1.ChatRun, row int, outcome *streamer.Outcome, failure *chatretry.Failure, now time.Time) decision {
	d := decision{row: row, verb: fail, outcome: outcome, failure: failure}
	policy := retryPolicy(run)
	verdict, delay := policy.Next(int(attemptOf(run)), failure)
	switch verdict {
	case chatretry.TryAgain:
		at, _ := deadline(run, now)
		if beyond := !at.IsZero() && now.Add(delay).After(at); beyond && delay > policy.Delay(int(attemptOf(run))) {
			// The provider, not our back-off, puts the next attempt past the end.
			d.reason, d.message = v1alpha1.ReasonRetryAfterTooLong, hintMessage(failure, delay)
			break
		}
		d.verb, d.delay, d.after = retry, delay, delay
	case chatretry.Exhausted:
		d.reason, d.message = v1alpha1.ReasonRetriesExhausted, exhaustedMessage(run, failure.Message)
	case chatretry.HintTooLong:
		d.reason, d.message = v1alpha1.ReasonRetryAfterTooLong, hintMessage(failure, delay)
	case chatretry.GiveUp:
		d.reason, d.message = string(failure.Class), failure.Message
	}
	return d
}

// outcomeOf returns the outcome of the attempt that status counts last, if the
// pool or the object that keeps its answer holds one that is not recorded.
func outcomeOf(f facts) *streamer.Outcome {
	if f.pool == nil || f.pool.Outcome == nil || f.pool.Attempt != attemptOf(f.run) {
		return f.stored
	}
	return f.pool.Outcome
}

func failureOf(outcome *streamer.Outcome) *chatretry.Failure {
	if outcome == nil {
		return nil
	}
	return outcome.Failure
}

// deadline returns when the run's time is over, and the reason it then fails
// with: the pending deadline before the first attempt, the active one after.
// The zero time means never. A suspension moves the active one.
func deadline(run *v1alpha1.ChatRun, now time.Time) (time.Time, string) {
	if run.Status.StartTime == nil {
		if s := run.Spec.PendingDeadlineSeconds; s != nil {
			return run.CreationTimestamp.Add(seconds(*s)), v1alpha1.ReasonPendingDeadlineExceeded
		}
		return time.Time{}, ""
	}
	if s := run.Spec.ActiveDeadlineSeconds; s != nil {
		return run.Status.StartTime.Add(seconds(*s) + suspended(&run.Status, now)), v1alpha1.ReasonDeadlineExceeded
	}
	return time.Time{}, ""
}

// suspended returns how long the run was suspended after its first attempt,
// the present suspension included.
func suspended(s *v1alpha1.ChatRunStatus, now time.Time) time.Duration {
	var sum time.Duration
	if s.SuspendedMs != nil {
		sum = time.Duration(*s.SuspendedMs) * time.Millisecond
	}
	if s.SuspendedAt != nil && s.StartTime != nil {
		sum += max(now.Sub(s.SuspendedAt.Time), 0)
	}
	return sum
}

// untilDeadline returns the time left, 0 if there is no deadline.
func untilDeadline(run *v1alpha1.ChatRun, now time.Time) time.Duration {
	at, _ := deadline(run, now)
	if at.IsZero() {
		return 0
	}
	return max(at.Sub(now), 1)
}

func retryPolicy(run *v1alpha1.ChatRun) chatretry.Policy {
	p := run.Spec.RetryPolicy
	if p == nil {
		p = &v1alpha1.RetryPolicy{}
	}
	return chatretry.Policy{
		MaxAttempts: int(valueOr(p.MaxAttempts, v1alpha1.DefaultMaxAttempts)),
		Initial:     time.Duration(valueOr(p.InitialDelayMs, 0)) * time.Millisecond,
		Max:         time.Duration(valueOr(p.MaxDelayMs, 0)) * time.Millisecond,
	}
}

func attemptsSpent(run *v1alpha1.ChatRun) bool {
	limit := retryPolicy(run).MaxAttempts
	return limit > 0 && int(attemptOf(run)) >= limit
}

// takenBack is the failure of an attempt that we stopped, and need not have.
func takenBack(run *v1alpha1.ChatRun, cause error) *chatretry.Failure {
	return &chatretry.Failure{Class: chatretry.WorkerLost, Message: takenBackMessage(attemptOf(run), cause)}
}

// workerLost is the failure of an attempt whose outcome nobody knows.
func workerLost(run *v1alpha1.ChatRun) *chatretry.Failure {
	return &chatretry.Failure{Class: chatretry.WorkerLost, Message: workerLostMessage(attemptOf(run))}
}

func attemptOf(run *v1alpha1.ChatRun) int32 { return valueOr(run.Status.Attempt, 0) }

func isFinished(run *v1alpha1.ChatRun) bool {
	c := condition(run, v1alpha1.ConditionFinished)
	return c != nil && c.Status == metav1.ConditionTrue
}

func isStreaming(run *v1alpha1.ChatRun) bool {
	return reasonOf(run) == v1alpha1.ReasonStreaming
}

func seconds[T int32 | int64](n T) time.Duration { return time.Duration(n) * time.Second }

func valueOr[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
