// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/internal/title"
)

// defaultStreamIdle is the schema's default of streamIdleTimeoutSeconds.
const defaultStreamIdle = 600

// secretRetry is when a run whose provider lost its Secret after it was found
// Ready looks again. The provider's own reconcile, which is woken as well,
// comes first as a rule, and from then on the run waits for its event.
const secretRetry = 5 * time.Second

// observe gathers the facts. A run that is gone is a fact, not an error.
func (r *ChatRunReconciler) observe(ctx context.Context, key types.NamespacedName) (facts, error) {
	f := facts{key: key}
	debt, live := r.doubts.of(key)
	reader := client.Reader(r.client)
	if live {
		reader = r.live
	}
	// The pool first: an outcome that comes after this look nudges again, while
	// one that came before it is never met with an older status than its own.
	// Whether it stops comes after: an attempt that the stop ended tells of it.
	if snapshot, ok := r.pool.Look(key.Namespace, key.Name); ok {
		f.pool = &snapshot
	}
	f.stopping, f.closed = !r.pool.Accepting(), r.pool.Closed()
	f.pass = r.pool.Pass()
	run := &v1alpha1.ChatRun{}
	err := reader.Get(ctx, key, run)
	if f.pool != nil && !live && (apierrors.IsNotFound(err) || err == nil && string(run.UID) != f.pool.UID) {
		// The cache may only be late, or hold a share in which the run is no more. One
		// that has an attempt under way would lose its answer.
		run = &v1alpha1.ChatRun{}
		err = r.live.Get(ctx, key, run)
	}
	switch {
	case apierrors.IsNotFound(err):
		r.unowned.forget(key)
		return f, nil
	case err != nil:
		return f, fmt.Errorf("reading the run: %w", err)
	}
	f.run = run
	f.ownership = r.ownership(ctx, run, f.stopping)
	f.owed = debt == owed{uid: run.UID, attempt: attemptOf(run), pass: f.pass} && run.Status.Worker == r.worker
	if takesOver(run, f.ownership, r.worker) {
		if f.ownership, err = r.makeSure(ctx, run, f.ownership); err != nil {
			return f, err
		}
	}
	switch {
	case isFinished(run):
		if run.Spec.TTLSecondsAfterFinished != nil && f.lets() {
			f.awaited, err = r.awaited(ctx, run)
		}
	case isStreaming(run) && f.lets() && !f.owed && (f.pool == nil || f.pool.Attempt < attemptOf(run)):
		f.stored, f.kept, err = r.standing(ctx, run)
	}
	if f.stopping {
		f.wait = &waitReason{}
	}
	return f, err
}

// provider returns the provider of a run, or why it cannot be used.
func (r *ChatRunReconciler) provider(ctx context.Context, run *v1alpha1.ChatRun) (*v1alpha1.ChatProvider, *waitReason, error) {
	name := run.Spec.ProviderRef.Name
	p := &v1alpha1.ChatProvider{}
	switch err := r.client.Get(ctx, types.NamespacedName{Namespace: run.Namespace, Name: name}, p); {
	case apierrors.IsNotFound(err):
		return nil, notReady(providerMissingMessage(name)), nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading ChatProvider %s: %w", name, err)
	}
	ready := providerReady(p)
	switch {
	case ready == nil || ready.ObservedGeneration != p.Generation:
		// Nobody has judged this spec yet. That takes a moment, and writes. A run that
		// is queued keeps its turn for it.
		return nil, &waitReason{turn: true}, nil
	case !isTrue(ready):
		return nil, notReady(providerNotReadyMessage(name, ready.Message)), nil
	case modelOf(run, p) == "":
		return nil, notReady(noModelMessage(name)), nil
	}
	return p, nil, nil
}

func notReady(message string) *waitReason {
	return &waitReason{reason: v1alpha1.ReasonProviderNotReady, message: message}
}

// start counts an attempt, and makes it if the count stands. One that is owed
// is counted already.
func (r *ChatRunReconciler) start(ctx context.Context, f facts, d decision, ready *prepared) (time.Duration, error) {
	// Counted before it is asked, so that a drain sees it, or it sees the drain: what
	// is counted in status has to be made or handed over before we are gone.
	r.starts.Add(1)
	defer r.starts.Add(-1)
	if !r.pool.Accepting() {
		return 0, streamer.ErrNotAccepting
	}
	attempt := r.attempt(f.run, ready, d.attempt)
	if d.attempt != attemptOf(f.run) {
		by := actor{worker: r.worker, model: attempt.Request.Model, digest: ready.digest, parentUID: f.parentUID}
		next := nextStatus(f.run, d, by, r.clock.Now())
		if _, err := r.persist(ctx, f.run, next); err != nil {
			if !refused(err) {
				r.doubts.owe(f.key, owed{uid: f.run.UID, attempt: d.attempt, pass: f.pass})
			}
			return 0, err
		}
	}
	r.hub.Begin(attempt.Run, streamStatus(f.run))
	attempt.Pass = f.pass
	if err := r.begin(attempt); err != nil {
		r.doubts.owe(f.key, owed{uid: f.run.UID, attempt: d.attempt, pass: f.pass})
		return 0, fmt.Errorf("starting attempt %d: %w", d.attempt, err)
	}
	r.metrics.Begun(providerOf(f.run), ready.waited)
	log.FromContext(ctx).V(1).Info("attempt started", "attempt", d.attempt, "model", attempt.Request.Model)
	return untilDeadline(f.run, r.clock.Now()), nil
}

// begin starts an attempt, unless we may not any more: the process may have been
// stopped since that was asked, and others have taken over meanwhile. After this
// look a fence ends the attempt, or refuses it.
func (r *ChatRunReconciler) begin(a streamer.Attempt) error {
	if !r.members.Held() {
		return streamer.ErrFenced
	}
	return r.pool.Start(a)
}

// endpoint resolves a provider's credentials, or says why it cannot.
func (r *ChatRunReconciler) endpoint(ctx context.Context, p *v1alpha1.ChatProvider) (provider.Endpoint, *waitReason, error) {
	key, problem, err := readKey(ctx, r.live, p)
	if err != nil {
		return provider.Endpoint{}, nil, err
	}
	if problem != nil {
		wait := notReady(providerNotReadyMessage(p.Name, problem.message))
		wait.after = secretRetry
		r.asked.add(client.ObjectKeyFromObject(p))
		r.providers.add(client.ObjectKeyFromObject(p))
		return provider.Endpoint{}, wait, nil
	}
	return endpointOf(p, key), nil, nil
}

// refused says whether an error means that the API server did not write. A
// conflict does not: client-go sends a write again by itself after some
// answers, and the second try then meets the first.
func refused(err error) bool {
	status := apierrors.APIStatus(nil)
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && !apierrors.IsTimeout(err) && !apierrors.IsConflict(err)
}

// attempt is the call that a run asks for.
func (r *ChatRunReconciler) attempt(run *v1alpha1.ChatRun, ready *prepared, number int32) streamer.Attempt {
	to, place, uid := ready.to, placeOf(run.Namespace, run.Name), string(run.UID)
	pause := retryPolicy(run).Delay(int(number))
	a := streamer.Attempt{
		Run: runOf(run), Number: number, Endpoint: to,
		Request:     request(run, ready.question, modelOf(run, ready.provider)),
		IdleTimeout: seconds(valueOr(run.Spec.StreamIdleTimeoutSeconds, defaultStreamIdle)),
		Begun:       func() { r.places.Begun(place, uid) },
		Ended:       func(o *streamer.Outcome) { r.places.Ended(place, uid, resultOf(o, pause, r.clock.Now())) },
	}
	if prompt, ok := titlePrompt(run, ready.question.Messages); ok {
		model := a.Request.Model
		if t := run.Spec.Title; t != nil && t.Model != "" {
			model = t.Model
		}
		a.Title = func(ctx context.Context) (string, error) {
			text, err := title.Generate(ctx, r.caller, to, model, prompt)
			if err != nil {
				r.metrics.Title(metrics.TitleFailed)
			}
			return text, err
		}
	}
	return a
}

func modelOf(run *v1alpha1.ChatRun, p *v1alpha1.ChatProvider) string {
	if run.Spec.Model != "" {
		return run.Spec.Model
	}
	return p.Spec.DefaultModel
}

// request translates what a run asks, once and for all providers.
func request(run *v1alpha1.ChatRun, c conversation, model string) provider.Request {
	ask := provider.Request{Model: model}
	if c.System != "" {
		ask.Messages = append(ask.Messages, provider.Message{Role: provider.RoleSystem, Content: c.System})
	}
	for _, m := range c.Messages {
		ask.Messages = append(ask.Messages, provider.Message{Role: provider.Role(m.Role), Content: m.Content})
	}
	if p := run.Spec.Parameters; p != nil {
		ask.Temperature, ask.TopP, ask.Stop = p.Temperature, p.TopP, p.Stop
		ask.MaxOutputTokens = int64(valueOr(p.MaxOutputTokens, 0))
	}
	return ask
}
