// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// actor says who acts: what a status tells beside the decision.
type actor struct {
	// worker is our own name.
	worker string
	// model is the resolved model of the attempt to start.
	model string
}

// nextStatus computes the status that a decision leads to: a pure function,
// and the only place where a phase or a condition is set. For a verb that
// writes nothing, and one that would tell what is told already, it returns the
// status as it is.
func nextStatus(run *v1alpha1.ChatRun, d decision, by actor, now time.Time) v1alpha1.ChatRunStatus {
	s := *run.Status.DeepCopy()
	w := writer{status: &s, generation: run.Generation, now: now}
	switch d.verb {
	case start:
		w.attempt(d.attempt, by)
	case retry:
		w.record(d)
		w.wait(d.delay)
		w.underWay(v1alpha1.PhaseRetrying, v1alpha1.ReasonRetrying, retryingMessage(valueOr(s.Attempt, 0), s.LastErrorReason))
	case hold:
		if d.reason != v1alpha1.ReasonRetrying {
			// The wait, if there was one, is over.
			s.DelayMs, s.RetryingAt = nil, nil
		}
		w.resume()
		w.underWay(phaseOf(d.reason), d.reason, d.message)
	case handOver:
		w.record(d)
		s.Worker = ""
		w.underWay(v1alpha1.PhasePending, v1alpha1.ReasonPending, handedOverMessage)
	case suspend:
		w.record(d)
		if s.SuspendedAt == nil {
			s.SuspendedAt = microTime(now)
		}
		w.underWay(v1alpha1.PhaseSuspended, v1alpha1.ReasonSuspended, suspendedMessage)
	case succeed:
		w.record(d)
		s.FinishReason = finishReason(d.outcome.FinishReason)
		message := completedMessage
		if s.Output != nil && valueOr(s.Output.Truncated, false) {
			message = truncatedMessage
		}
		w.finish(v1alpha1.PhaseSucceeded, metav1.ConditionTrue, v1alpha1.ReasonCompleted, message)
	case cancel:
		w.record(d)
		if s.Output != nil {
			s.FinishReason = v1alpha1.FinishCancelled
		}
		w.finish(v1alpha1.PhaseCancelled, metav1.ConditionFalse, v1alpha1.ReasonCancelled, cancelledMessage)
	case fail:
		w.record(d)
		if s.Output != nil {
			s.FinishReason = v1alpha1.FinishDeadlineExceeded
		}
		w.finish(v1alpha1.PhaseFailed, metav1.ConditionFalse, d.reason, d.message)
	case ignore, forget:
		w.observe()
	case drop, expire, stop, settle:
	}
	return s
}

// writer changes a status in the ways that verbs share.
type writer struct {
	status     *v1alpha1.ChatRunStatus
	generation int64
	now        time.Time
}

// attempt counts an attempt that is about to be made.
func (w writer) attempt(number int32, by actor) {
	s := w.status
	w.resume()
	s.Attempt, s.Worker, s.Model = &number, by.worker, by.model
	s.DelayMs, s.RetryingAt = nil, nil
	if s.StartTime == nil {
		s.StartTime = microTime(w.now)
	}
	w.underWay(v1alpha1.PhaseStreaming, v1alpha1.ReasonStreaming, streamingMessage)
}

// wait sets the wait before the next attempt.
func (w writer) wait(delay time.Duration) {
	// A wait is never cut by rounding: both round up, and the time last.
	ms := (delay + time.Millisecond - 1).Milliseconds()
	w.status.DelayMs = &ms
	w.status.RetryingAt = microTime(w.now.Add(delay).Add(time.Microsecond - 1))
}

// record takes over what an ended attempt left: usage, text, failure.
func (w writer) record(d decision) {
	s := w.status
	if f := d.failure; f != nil {
		s.LastError, s.LastErrorReason = lastError(f), string(f.Class)
	}
	o := d.outcome
	if o == nil {
		return
	}
	if o.Usage != (provider.Usage{}) {
		s.Usage = addUsage(s.Usage, o.Usage)
	}
	if keepsText(d) && o.Bytes > 0 {
		s.Output = inlineOutput(o)
		if !o.FirstPart.IsZero() {
			s.FirstTokenTime = microTime(o.FirstPart)
		}
	}
}

// keepsText says whether the text of the attempt is kept: that of a good one,
// and of one that an end of our own making cut. What a failed attempt wrote is
// not an answer.
func keepsText(d decision) bool {
	switch {
	case d.outcome.Failure != nil:
		return false
	case d.verb == succeed, d.verb == cancel:
		return true
	default:
		return d.verb == fail && d.reason == v1alpha1.ReasonDeadlineExceeded
	}
}

// resume ends a suspension: its time is added to the former ones, if the
// deadline's clock was running.
func (w writer) resume() {
	s := w.status
	if s.SuspendedAt == nil {
		return
	}
	if ms := suspended(s, w.now).Milliseconds(); ms > 0 {
		s.SuspendedMs = &ms
	}
	s.SuspendedAt = nil
}

func (w writer) underWay(phase v1alpha1.Phase, reason, message string) {
	w.status.Phase = phase
	w.condition(v1alpha1.ConditionSucceeded, metav1.ConditionUnknown, reason, message)
}

func (w writer) finish(phase v1alpha1.Phase, status metav1.ConditionStatus, reason, message string) {
	s := w.status
	w.resume()
	s.Phase = phase
	s.DelayMs, s.RetryingAt = nil, nil
	s.CompletionTime = microTime(w.now)
	w.condition(v1alpha1.ConditionSucceeded, status, reason, message)
	w.condition(v1alpha1.ConditionFinished, metav1.ConditionTrue, reason, message)
}

// observe says which generation the status tells of, where nothing else has
// changed: tools that wait for an edit to be seen would wait for ever.
func (w writer) observe() {
	s := w.status
	if s.ObservedGeneration == nil {
		return
	}
	s.ObservedGeneration = &w.generation
	for i := range s.Conditions {
		s.Conditions[i].ObservedGeneration = w.generation
	}
}

func (w writer) condition(kind string, status metav1.ConditionStatus, reason, message string) {
	w.status.ObservedGeneration = &w.generation
	meta.SetStatusCondition(&w.status.Conditions, metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message,
		ObservedGeneration: w.generation, LastTransitionTime: metav1.NewTime(w.now),
	})
}

// inlineOutput is the answer as it stands in status.
func inlineOutput(o *streamer.Outcome) *v1alpha1.Output {
	out := &v1alpha1.Output{Text: cut(o.Text, v1alpha1.MaxInlineOutputBytes), Bytes: &o.Bytes}
	if int64(len(out.Text)) < o.Bytes {
		truncated := true
		out.Truncated = &truncated
	}
	return out
}

func addUsage(sum *v1alpha1.Usage, u provider.Usage) *v1alpha1.Usage {
	if sum == nil {
		sum = &v1alpha1.Usage{}
	}
	in, out := addTokens(valueOr(sum.InputTokens, 0), u.InputTokens), addTokens(valueOr(sum.OutputTokens, 0), u.OutputTokens)
	return &v1alpha1.Usage{InputTokens: &in, OutputTokens: &out}
}

// addTokens stops at the largest number, and takes a negative one for none: the
// schema would refuse the sum, and with it the whole status, for ever.
func addTokens(a, b int64) int64 {
	if b = max(b, 0); a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func finishReason(r provider.FinishReason) v1alpha1.FinishReason {
	switch r {
	case provider.FinishStop:
		return v1alpha1.FinishStop
	case provider.FinishLength:
		return v1alpha1.FinishLength
	default:
		return v1alpha1.FinishOther
	}
}

func phaseOf(reason string) v1alpha1.Phase {
	if reason == v1alpha1.ReasonRetrying {
		return v1alpha1.PhaseRetrying
	}
	return v1alpha1.PhasePending
}

func lastError(f *chatretry.Failure) string {
	if f.Message == "" {
		return string(f.Class)
	}
	return bounded(f.Message)
}

func condition(run *v1alpha1.ChatRun, kind string) *metav1.Condition {
	return meta.FindStatusCondition(run.Status.Conditions, kind)
}

func reasonOf(run *v1alpha1.ChatRun) string {
	if c := condition(run, v1alpha1.ConditionSucceeded); c != nil {
		return c.Reason
	}
	return ""
}

func messageOf(run *v1alpha1.ChatRun) string {
	if c := condition(run, v1alpha1.ConditionSucceeded); c != nil {
		return c.Message
	}
	return ""
}

func microTime(t time.Time) *metav1.MicroTime {
	m := metav1.NewMicroTime(t.Truncate(time.Microsecond))
	return &m
}
