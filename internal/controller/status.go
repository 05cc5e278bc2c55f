// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"math"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// actor says who acts: what a status tells beside the decision.
type actor struct {
	// worker is our own name.
	worker string
	// model is the resolved model of the attempt to start.
	model string
	// digest is that of the messages which the attempt to start copied; empty if
	// the spec holds all of them.
	digest string
	// parentUID pins the run to go on from; empty if there is none.
	parentUID string
}

// nextStatus computes the status that a decision leads to: a pure function,
// and the only place where a phase or a condition is set. For a verb that
// writes nothing, and one that would tell what is told already, it returns the
// status as it is.
func nextStatus(run *v1alpha1.ChatRun, d decision, by actor, now time.Time) v1alpha1.ChatRunStatus {
	s := *run.Status.DeepCopy()
	w := writer{run: run, status: &s, generation: run.Generation, now: now}
	switch d.verb {
	case start, hold:
		if s.ParentUID == "" {
			s.ParentUID = by.parentUID
		}
	default:
	}
	switch d.verb {
	case start:
		w.attempt(d.attempt, by)
	case retry:
		w.record(d)
		// Whoever found that the attempt was lost owns the wait that follows.
		s.Worker = by.worker
		w.wait(d.delay)
		w.underWay(v1alpha1.PhaseRetrying, v1alpha1.ReasonRetrying, retryingMessage(valueOr(s.Attempt, 0), s.LastErrorReason))
	case hold:
		if d.reason != v1alpha1.ReasonRetrying {
			// The wait, if there was one, is over.
			s.DelayMs, s.RetryingAt = nil, nil
		}
		w.resume()
		message := d.message
		if d.reason == v1alpha1.ReasonQueued && reasonOf(run) == d.reason {
			// What is full changes by the moment, and is not worth a write each time.
			message = messageOf(run)
		}
		w.underWay(phaseOf(d.reason), d.reason, message)
	case handOver:
		w.record(d)
		s.Worker = ""
		s.DelayMs, s.RetryingAt = nil, nil
		w.underWay(v1alpha1.PhasePending, v1alpha1.ReasonPending, handedOverMessage)
	case suspend:
		w.record(d)
		if s.SuspendedAt == nil {
			s.SuspendedAt = microTime(now)
		}
		w.underWay(v1alpha1.PhaseSuspended, v1alpha1.ReasonSuspended, suspendedMessage)
	case succeed:
		w.record(d)
		s.FinishReason = finishOf(d)
		w.finish(v1alpha1.PhaseSucceeded, metav1.ConditionTrue, v1alpha1.ReasonCompleted, completedMessage(run, s.Output))
	case cancel:
		w.record(d)
		if s.Output != nil {
			s.FinishReason = finishOf(d)
		}
		w.finish(v1alpha1.PhaseCancelled, metav1.ConditionFalse, v1alpha1.ReasonCancelled, cmp.Or(d.message, cancelledMessage))
	case fail:
		w.record(d)
		if s.Output != nil {
			s.FinishReason = finishOf(d)
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
	run        *v1alpha1.ChatRun
	status     *v1alpha1.ChatRunStatus
	generation int64
	now        time.Time
}

// attempt counts an attempt that is about to be made.
func (w writer) attempt(number int32, by actor) {
	s := w.status
	w.resume()
	s.Attempt, s.Worker, s.Model = &number, by.worker, by.model
	if by.digest != "" {
		s.MessagesDigest = by.digest
	}
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
		s.Output = outputOf(w.run, d)
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
		return d.verb == fail && (d.reason == v1alpha1.ReasonDeadlineExceeded || d.reason == v1alpha1.ReasonOutputRefused)
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
	// A run that is suspended is as it was asked to be: nobody has to wait for it.
	w.kstatus(v1alpha1.ConditionReconciling, reason != v1alpha1.ReasonSuspended, reason, message)
}

func (w writer) finish(phase v1alpha1.Phase, status metav1.ConditionStatus, reason, message string) {
	s := w.status
	w.resume()
	s.Phase = phase
	s.DelayMs, s.RetryingAt = nil, nil
	s.CompletionTime = microTime(w.now)
	w.condition(v1alpha1.ConditionSucceeded, status, reason, message)
	w.condition(v1alpha1.ConditionFinished, metav1.ConditionTrue, reason, message)
	w.kstatus(v1alpha1.ConditionReconciling, false, reason, message)
	w.kstatus(v1alpha1.ConditionStalled, phase == v1alpha1.PhaseFailed, reason, message)
}

// kstatus sets a condition that is there only while it holds.
func (w writer) kstatus(kind string, holds bool, reason, message string) {
	if holds {
		w.condition(kind, metav1.ConditionTrue, reason, message)
	} else {
		meta.RemoveStatusCondition(&w.status.Conditions, kind)
	}
}

// observe says which generation the status tells of, where nothing else has
// changed: tools that wait for an edit to be seen would wait for ever.
func (w writer) observe() {
	s := w.status
	if valueOr(s.ObservedGeneration, 0) == 0 {
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
