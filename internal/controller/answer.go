// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// kept says where an answer stands beside the status.
type kept struct {
	storage v1alpha1.OutputStorage
	name    string
	// bytes is how much of it stands there.
	bytes int64
}

// outcomeNote is what the object that keeps an answer tells beside the text.
type outcomeNote struct {
	Attempt        int32                 `json:"attempt"`
	FinishReason   v1alpha1.FinishReason `json:"finishReason"`
	Bytes          int64                 `json:"bytes"`
	InputTokens    int64                 `json:"inputTokens,omitempty"`
	OutputTokens   int64                 `json:"outputTokens,omitempty"`
	FirstTokenTime *metav1.MicroTime     `json:"firstTokenTime,omitempty"`
}

// postponed says that the API server refuses to keep an answer for now.
type postponed struct {
	after time.Duration
	err   error
}

func (p *postponed) Error() string { return p.err.Error() }
func (p *postponed) Unwrap() error { return p.err }

// keep writes the answer that a decision records into an object of its own, if
// it belongs there, and returns the decision that says so. The object stands
// before the status tells of it, so a manager that is killed between the two
// leaves an answer that the next one finds.
func (r *ChatRunReconciler) keep(ctx context.Context, f facts, d decision) (decision, error) {
	d.kept = f.kept
	if d.kept != nil || !belongsBeside(f.run, d) {
		return d, nil
	}
	s := answerSheet(f.run, d)
	stands, err := s.write(ctx, r.client, r.live, f.run)
	if err == nil && !stands.same(s) {
		err = errForeign
	}
	switch {
	case err == nil:
		d.kept = &kept{storage: s.storage, name: s.name, bytes: int64(len(s.data[v1alpha1.StoredText]))}
		return d, nil
	case refusedForGood(err):
	case apierrors.IsForbidden(err):
		if d.verb != succeed || f.stopping || endIsDue(f.run, r.clock.Now()) {
			break // an end that was asked for is not put off
		}
		// A quota may have room again in a moment, and a right be given.
		if after, again := r.doubts.refusal(f.key, r.clock.Now()); again {
			return d, &postponed{after: after, err: err}
		}
	default:
		return d, err
	}
	log.FromContext(ctx).Error(err, "the API server refuses to keep the answer")
	switch d.verb {
	case succeed:
		d.verb, d.reason, d.message = fail, v1alpha1.ReasonOutputRefused, outputRefusedMessage(s, err)
	case cancel:
		d.message = partRefusedMessage(cancelledMessage, s, err)
	default:
		d.message = partRefusedMessage(d.message, s, err)
	}
	return d, nil
}

// endIsDue says whether a run would be at its end without an answer, too.
func endIsDue(run *v1alpha1.ChatRun, now time.Time) bool {
	at, _ := deadline(run, now)
	return run.Spec.DesiredState == v1alpha1.DesiredCancelled || !at.IsZero() && !now.Before(at)
}

// belongsBeside says whether a decision records an answer that is kept in an
// object of its own.
func belongsBeside(run *v1alpha1.ChatRun, d decision) bool {
	if d.outcome == nil || d.outcome.Bytes == 0 || !keepsText(d) {
		return false
	}
	switch storageOf(run) {
	case v1alpha1.StorageSecret:
		return true
	case v1alpha1.StorageNone:
		return false
	default:
		return d.outcome.Bytes > v1alpha1.MaxInlineOutputBytes
	}
}

// answerSheet is the object that keeps the answer which d records.
func answerSheet(run *v1alpha1.ChatRun, d decision) *sheet {
	o := d.outcome
	note := outcomeNote{
		Attempt: attemptOf(run), FinishReason: finishOf(d), Bytes: o.Bytes,
		InputTokens: o.Usage.InputTokens, OutputTokens: o.Usage.OutputTokens,
	}
	if !o.FirstPart.IsZero() {
		note.FirstTokenTime = microTime(o.FirstPart)
	}
	raw, err := json.Marshal(note)
	if err != nil {
		panic(fmt.Sprintf("encoding %+v: %v", note, err)) // it holds numbers, names and a time
	}
	return &sheet{
		storage: storageOf(run), name: answerName(run, attemptOf(run)), outcome: string(raw),
		data: map[string]string{v1alpha1.StoredText: cut(o.Text, v1alpha1.MaxStoredBytes)},
	}
}

// standing reads the outcome of the attempt that status tells of from the
// object that keeps its answer. It returns nil if there is none.
func (r *ChatRunReconciler) standing(ctx context.Context, run *v1alpha1.ChatRun) (*streamer.Outcome, *kept, error) {
	storage := storageOf(run)
	if storage == v1alpha1.StorageNone {
		return nil, nil, nil
	}
	s, err := readSheet(ctx, r.live, run, storage, answerName(run, attemptOf(run)))
	switch {
	case errors.Is(err, errForeign), apierrors.IsForbidden(err):
		return nil, nil, nil
	case err != nil || s == nil:
		return nil, nil, err
	}
	var note outcomeNote
	if json.Unmarshal([]byte(s.outcome), &note) != nil || note.Attempt != attemptOf(run) {
		return nil, nil, nil //nolint:nilerr // then it is no answer of ours, and there is none
	}
	text := s.data[v1alpha1.StoredText]
	o := &streamer.Outcome{
		Attempt: note.Attempt, Text: text, Bytes: max(note.Bytes, int64(len(text))),
		Usage: provider.Usage{InputTokens: note.InputTokens, OutputTokens: note.OutputTokens},
	}
	if note.FirstTokenTime != nil {
		o.FirstPart = note.FirstTokenTime.Time
	}
	switch note.FinishReason {
	case v1alpha1.FinishCancelled:
		o.Cause = streamer.ErrStopped
	case v1alpha1.FinishDeadlineExceeded:
		o.Cause = streamer.ErrDeadline
	case v1alpha1.FinishStop, v1alpha1.FinishLength, v1alpha1.FinishOther:
		o.FinishReason = provider.FinishReason(note.FinishReason)
	default:
		return nil, nil, nil
	}
	return o, &kept{storage: storage, name: s.name, bytes: int64(len(text))}, nil
}

// outputOf is the answer as status tells of it.
func outputOf(run *v1alpha1.ChatRun, d decision) *v1alpha1.Output {
	out := &v1alpha1.Output{Bytes: &d.outcome.Bytes}
	if storageOf(run) == v1alpha1.StorageConfigMap {
		out.Text = cut(d.outcome.Text, v1alpha1.MaxInlineOutputBytes)
	}
	if int64(len(out.Text)) < d.outcome.Bytes {
		out.Truncated = new(true)
	}
	switch k := d.kept; {
	case k == nil:
	case k.storage == v1alpha1.StorageConfigMap:
		out.StoredBytes, out.ConfigMapName = &k.bytes, k.name
	default:
		out.StoredBytes, out.SecretName = &k.bytes, k.name
	}
	return out
}

// finishOf is why the answer that d records ended.
func finishOf(d decision) v1alpha1.FinishReason {
	switch {
	case d.verb == cancel:
		return v1alpha1.FinishCancelled
	case d.verb == fail && d.reason == v1alpha1.ReasonDeadlineExceeded:
		return v1alpha1.FinishDeadlineExceeded
	case d.outcome.FinishReason == provider.FinishStop:
		return v1alpha1.FinishStop
	case d.outcome.FinishReason == provider.FinishLength:
		return v1alpha1.FinishLength
	default:
		return v1alpha1.FinishOther
	}
}
