// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package follow

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/runs"
)

// Object tells of a run by its object: phases and retries as they come, and the text
// at the end, as far as it is kept where one may read it.
type Object struct {
	Client *runs.Client
}

// follow watches a run until it is finished.
func (o *Object) follow(ctx context.Context, run Key, follow bool, take func(Event)) error {
	seen := &seen{}
	pause := pauses()
	for failures := 0; ; {
		finished, told, err := o.watch(ctx, run, follow, seen, take)
		switch {
		case finished || ctx.Err() != nil:
			return ctx.Err()
		case err == nil && !follow, apierrors.IsNotFound(err), apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
			return err
		case told:
			failures, pause = 0, pauses()
		}
		if failures++; err != nil && failures >= maxFailures {
			return fmt.Errorf("watching the run failed %d times in a row: %w", failures, err)
		}
		select {
		case <-time.After(pause.Step()):
		case <-ctx.Done():
		}
	}
}

// watch reads the run, and follows it for as long as one watch lasts. A watch that
// fails before it told anything counts as a failure, though the run could be read.
func (o *Object) watch(ctx context.Context, key Key, follow bool, seen *seen, take func(Event)) (finished, told bool, err error) {
	client := o.Client.Runs(key.Namespace)
	run, err := client.Get(ctx, key.Name, metav1.GetOptions{})
	if err != nil {
		return false, false, err
	}
	if o.tell(ctx, run, seen, take) || !follow {
		return isFinished(run), true, nil
	}
	changes, err := client.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", key.Name).String(), ResourceVersion: run.ResourceVersion,
	})
	if err != nil {
		return false, false, err
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		run, is := change.Object.(*v1alpha1.ChatRun)
		switch {
		case !is:
			return false, told, apierrors.FromObject(change.Object)
		case change.Type == watch.Deleted:
			return false, true, apierrors.NewNotFound(resource, key.Name)
		case o.tell(ctx, run, seen, take):
			return true, true, nil
		}
		told = true
	}
	// One that ended at once told nothing: the next is not made as fast.
	return false, told, nil
}

// tell hands over what is new of a run, and says whether it is finished.
func (o *Object) tell(ctx context.Context, run *v1alpha1.ChatRun, seen *seen, take func(Event)) bool {
	for _, event := range seen.news(run) {
		take(event)
	}
	if !isFinished(run) {
		return false
	}
	text, whole, err := o.Client.Answer(ctx, run)
	if err != nil {
		// What stands in the status is told, and that it is not the whole.
		whole = false
	}
	for _, event := range ending(run, text, whole) {
		take(event)
	}
	return true
}

func isFinished(run *v1alpha1.ChatRun) bool {
	return meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionFinished)
}

// seen is what a reader of an object was told.
type seen struct {
	status stream.Status
	retry  time.Time
}

// news are the events that a change of a run amounts to, its end apart.
func (s *seen) news(run *v1alpha1.ChatRun) []Event {
	var events []Event
	if now := status(run); now != s.status {
		s.status = now
		events = append(events, now)
	}
	at := run.Status.RetryingAt
	if at == nil || at.Equal(&metav1.MicroTime{Time: s.retry}) || run.Status.Phase != v1alpha1.PhaseRetrying {
		return events
	}
	s.retry = at.Time
	return append(events, stream.Retry{
		Attempt: s.status.Attempt, DelayMs: value(run.Status.DelayMs), RetryingAt: at.Time,
		Error: run.Status.LastError, Reason: run.Status.LastErrorReason,
	})
}

// status is where a run stands, as the stream would say it.
func status(run *v1alpha1.ChatRun) stream.Status {
	s := stream.Status{
		Namespace: run.Namespace, Name: run.Name, UID: string(run.UID), Phase: string(run.Status.Phase),
		Attempt: value(run.Status.Attempt), Model: run.Status.Model, Title: run.Annotations[v1alpha1.AnnotationTitle],
	}
	if c := meta.FindStatusCondition(run.Status.Conditions, v1alpha1.ConditionSucceeded); c != nil {
		s.Reason, s.Message = c.Reason, c.Message
	}
	return s
}

// ending are the last events of a finished run.
func ending(run *v1alpha1.ChatRun, text string, whole bool) []Event {
	var events []Event
	if text != "" {
		events = append(events, stream.MessagePart{Role: stream.RoleAssistant, Text: text})
	}
	s := status(run)
	if u := run.Status.Usage; u != nil {
		events = append(events, stream.Usage{InputTokens: value(u.InputTokens), OutputTokens: value(u.OutputTokens)})
	}
	if run.Status.Phase == v1alpha1.PhaseFailed {
		events = append(events, stream.Failed{Reason: s.Reason, Message: s.Message})
	}
	done := stream.Done{Status: s, FinishReason: string(run.Status.FinishReason), Truncated: !whole}
	if out := run.Status.Output; out != nil {
		done.Bytes = value(out.Bytes)
	}
	return append(events, done)
}

// value is what a pointer leads to, or nothing.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
