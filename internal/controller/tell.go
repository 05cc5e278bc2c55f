// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// tell emits the Event of a write that stands: for retries, failures and what
// somebody has to mend before a run can go on; none for a clean success, nor for
// waits that end by themselves.
func (r *ChatRunReconciler) tell(run *v1alpha1.ChatRun, d decision) {
	kind, note := corev1.EventTypeWarning, messageOf(run)
	switch {
	case d.verb == retry:
		note = retryNote(run)
	case d.verb == hold && !slices.Contains(mendable, d.reason):
		return
	case d.verb == fail, d.verb == hold:
	case d.verb == cancel, d.verb == suspend, d.verb == handOver:
		kind = corev1.EventTypeNormal
	default:
		return
	}
	r.recorder.Eventf(referenceTo(run), nil, kind, reasonOf(run), string(d.verb), "%s", bounded(note))
}

// mendable are the reasons to wait that no turn of the queue and no end of another
// run takes away.
var mendable = []string{v1alpha1.ReasonProviderNotReady, v1alpha1.ReasonMessagesNotFound, v1alpha1.ReasonMessagesNotKept}

// referenceTo names a run without its resourceVersion: with it no two Events
// are alike, and nothing folds a run's hundred retries into one with a count.
func referenceTo(run *v1alpha1.ChatRun) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		APIVersion: v1alpha1.GroupVersion.String(), Kind: "ChatRun",
		Namespace: run.Namespace, Name: run.Name, UID: run.UID,
	}
}

// logFailure is the one place where the raw cause of a failure is kept. The
// provider client has taken keys out of it.
func logFailure(ctx context.Context, d decision) {
	f := d.failure
	if f == nil {
		return
	}
	log.FromContext(ctx).Info("attempt failed", "class", f.Class, "status", f.HTTPStatus, "code", f.Code,
		"message", f.Message, "cause", f.Err)
}

// streamStatus is what readers of the stream are told of a status.
func streamStatus(run *v1alpha1.ChatRun) stream.Status {
	return stream.Status{
		Namespace: run.Namespace, Name: run.Name, UID: string(run.UID),
		Phase: string(run.Status.Phase), Reason: reasonOf(run), Message: messageOf(run),
		Attempt: attemptOf(run), Model: run.Status.Model, Title: run.Annotations[v1alpha1.AnnotationTitle],
	}
}

// streamRetry is the wait that stands in status.
func streamRetry(run *v1alpha1.ChatRun) stream.Retry {
	s := &run.Status
	return stream.Retry{
		Attempt: attemptOf(run), DelayMs: valueOr(s.DelayMs, 0),
		Error: s.LastError, Reason: s.LastErrorReason, RetryingAt: s.RetryingAt.UTC(),
	}
}

// endOf is how the stream of a finished run ends.
func endOf(run *v1alpha1.ChatRun) streamer.End {
	s := &run.Status
	end := streamer.End{
		Done: stream.Done{Status: streamStatus(run), FinishReason: string(s.FinishReason)},
		Void: s.Output == nil,
	}
	if out := s.Output; out != nil {
		end.Done.Bytes, end.Done.Truncated = valueOr(out.Bytes, 0), valueOr(out.Truncated, false)
		if out.StoredBytes != nil {
			end.Done.Truncated = *out.StoredBytes < end.Done.Bytes
		}
	}
	if u := s.Usage; u != nil {
		end.Usage = &stream.Usage{InputTokens: valueOr(u.InputTokens, 0), OutputTokens: valueOr(u.OutputTokens, 0)}
	}
	if s.Phase == v1alpha1.PhaseFailed {
		end.Failed = &stream.Failed{Reason: reasonOf(run), Message: messageOf(run)}
	}
	return end
}

// endpointOf translates a provider, with its key.
func endpointOf(p *v1alpha1.ChatProvider, key provider.Key) provider.Endpoint {
	to := provider.Endpoint{
		Name: p.Name, Type: provider.Type(p.Spec.Type), BaseURL: p.Spec.BaseURL,
		Key: key, CABundle: p.Spec.CABundle,
	}
	for _, h := range p.Spec.Headers {
		to.Headers = append(to.Headers, provider.Header{Name: h.Name, Value: h.Value})
	}
	if o := p.Spec.OpenAI; o != nil {
		to.TokenLimit = provider.TokenLimitParameter(o.TokenLimitParameter)
	}
	return to
}
