// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"time"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/internal/traces"
)

// trace tells as spans what account counts.
func (r *ChatRunReconciler) trace(run *v1alpha1.ChatRun, n news, o *streamer.Outcome, f *chatretry.Failure) {
	if r.traces == nil {
		return
	}
	if n.ended {
		r.traces.Ended(tracedRun(run), tracedAttempt(run, o, f, r.clock.Now()))
	}
	if n.finished {
		s := &run.Status
		r.traces.Finished(tracedRun(run), traces.End{
			Phase: string(s.Phase), Reason: reasonOf(run), Failed: s.Phase == v1alpha1.PhaseFailed,
			Message: messageOf(run), Attempts: attemptOf(run), At: s.CompletionTime.Time,
		})
	}
}

func tracedRun(run *v1alpha1.ChatRun) traces.Run {
	return traces.Run{
		UID: string(run.UID), Namespace: run.Namespace, Name: run.Name,
		Provider: run.Spec.ProviderRef.Name, Model: run.Status.Model,
		Conversation: run.Labels[v1alpha1.LabelConversation],
		Parent:       run.Annotations[v1alpha1.AnnotationTraceParent],
		Created:      run.CreationTimestamp.Time,
	}
}

func tracedAttempt(run *v1alpha1.ChatRun, o *streamer.Outcome, f *chatretry.Failure, now time.Time) traces.Attempt {
	s := &run.Status
	a := traces.Attempt{Number: attemptOf(run), Outcome: outcomeName(o, f), Failure: f, Noticed: now}
	if reasonOf(run) == v1alpha1.ReasonRetrying && s.RetryingAt != nil {
		a.RetryingAt, a.Delay = s.RetryingAt.Time, time.Duration(valueOr(s.DelayMs, 0))*time.Millisecond
	}
	if o == nil {
		return a
	}
	a.Call = &traces.Call{
		Type: string(o.Called.Type), Server: o.Called.Server,
		Started: o.Started, FirstPart: o.FirstPart, Ended: o.Ended,
		FinishReason: string(o.FinishReason),
		InputTokens:  o.Usage.InputTokens, OutputTokens: o.Usage.OutputTokens,
	}
	if p := run.Spec.Parameters; p != nil {
		a.Call.Parameters = traces.Parameters{
			Temperature: p.Temperature, TopP: p.TopP, MaxOutputTokens: int64(valueOr(p.MaxOutputTokens, 0)),
		}
	}
	return a
}
