// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"errors"
	"time"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/streamer"
)

// news is what a write of a status says that was not so before.
type news struct {
	// ended: the attempt under way is over. finished: so is the run.
	ended, finished bool
}

func newsOf(before, run *v1alpha1.ChatRun) news {
	return news{ended: isStreaming(before) && !isStreaming(run), finished: !isFinished(before) && isFinished(run)}
}

// account counts what a write recorded, once it stands, and tells of it as spans.
func (r *ChatRunReconciler) account(run *v1alpha1.ChatRun, n news, o *streamer.Outcome, f *chatretry.Failure) {
	r.trace(run, n, o, f)
	p := providerOf(run)
	if n.ended {
		r.metrics.Ended(p, endedAs(o, f))
		if s := &run.Status; reasonOf(run) == v1alpha1.ReasonRetrying {
			r.metrics.Retry(p, s.LastErrorReason, time.Duration(valueOr(s.DelayMs, 0))*time.Millisecond)
		}
	}
	if n.finished {
		took := run.Status.CompletionTime.Sub(run.CreationTimestamp.Time)
		r.metrics.Finished(p, reasonOf(run), string(run.Status.Phase), took)
	}
}

// catchUp counts what stands by a write whose answer we never saw. The pool still
// holds the attempt's outcome then.
func (r *ChatRunReconciler) catchUp(f facts) {
	if f.pool == nil || f.pool.Outcome == nil || f.pool.Attempt != attemptOf(f.run) || isStreaming(f.run) || !tellsOf(f.run, f.pool.Outcome) {
		return
	}
	r.account(f.run, news{ended: true, finished: isFinished(f.run)}, f.pool.Outcome, f.pool.Outcome.Failure)
}

// tellsOf says whether a status may be what we wrote of an outcome: another replica
// may have taken the run over, and judged the attempt without it.
func tellsOf(run *v1alpha1.ChatRun, o *streamer.Outcome) bool {
	if run.Status.Phase == v1alpha1.PhaseSucceeded || o.Good() {
		return run.Status.Phase == v1alpha1.PhaseSucceeded && o.Good()
	}
	if o.Failure != nil {
		return run.Status.LastErrorReason == string(o.Failure.Class)
	}
	return !errors.Is(o.Cause, streamer.ErrOwnershipLost) && reasonOf(run) != v1alpha1.ReasonRetrying
}

// endedAs says how an attempt ended. Nobody knows the outcome of one that was lost.
func endedAs(o *streamer.Outcome, f *chatretry.Failure) metrics.End {
	e := metrics.End{Outcome: outcomeName(o, f)}
	if o == nil {
		return e
	}
	e.InputTokens, e.OutputTokens = o.Usage.InputTokens, o.Usage.OutputTokens
	if !o.Started.IsZero() {
		e.Duration = o.Ended.Sub(o.Started)
		if !o.FirstPart.IsZero() {
			e.FirstToken = o.FirstPart.Sub(o.Started)
		}
	}
	return e
}

// outcomeName is the class of a failure, or what ended the attempt.
func outcomeName(o *streamer.Outcome, f *chatretry.Failure) string {
	switch {
	case f != nil:
		return string(f.Class)
	case o == nil:
		return metrics.OutcomeHandedOver // counted, and never made
	case o.Good():
		return metrics.OutcomeSucceeded
	case errors.Is(o.Cause, streamer.ErrStopped):
		return metrics.OutcomeCancelled
	case errors.Is(o.Cause, streamer.ErrDeadline):
		return metrics.OutcomeDeadlineExceeded
	case errors.Is(o.Cause, streamer.ErrSuspended):
		return metrics.OutcomeSuspended
	case errors.Is(o.Cause, streamer.ErrShutdown):
		return metrics.OutcomeHandedOver
	}
	return string(chatretry.WorkerLost)
}

// tookOver says whether a write took a run from a replica that is gone or drains.
func tookOver(before, run *v1alpha1.ChatRun, me string) bool {
	if owner := before.Status.Worker; owner == "" || owner == me || isFinished(before) {
		return false
	}
	return run.Status.Worker == me || isFinished(run)
}

// providerOf names a run's provider among metrics.
func providerOf(run *v1alpha1.ChatRun) string {
	return metrics.Provider(run.Namespace, run.Spec.ProviderRef.Name)
}
