// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// prepared is what an attempt needs beside its run.
type prepared struct {
	provider *v1alpha1.ChatProvider
	to       provider.Endpoint
	question conversation
	// digest is that of what was copied for the question; empty if nothing was.
	digest string
	// waited is how long it waited for its place.
	waited time.Duration
}

// prepare gathers what the next attempt needs, the cheap things first: what the
// cache knows, then a place, and what is read from the API server only with a
// place in hand. It returns nil, and f.wait says why, if something is missing.
func (r *ChatRunReconciler) prepare(ctx context.Context, f *facts) (*prepared, error) {
	run := f.run
	parent, wait, err := r.pinned(ctx, f)
	if f.wait = wait; wait != nil || err != nil {
		return nil, err
	}
	p, wait, err := r.provider(ctx, run)
	if f.wait = wait; wait != nil || err != nil {
		return nil, err
	}
	waited, wait := r.place(run, p, f.owed)
	if f.wait = wait; wait != nil {
		return nil, nil
	}
	ready := &prepared{provider: p, waited: waited}
	ready.to, wait, err = r.endpoint(ctx, p)
	if f.wait = wait; wait != nil || err != nil {
		return nil, err
	}
	ready.question, ready.digest, wait, err = r.question(ctx, run, parent)
	if f.wait = wait; wait != nil || err != nil {
		return nil, err
	}
	if parent != nil {
		if err := r.tie(ctx, run, parent); err != nil {
			return nil, err
		}
	}
	return ready, nil
}

// pinned returns the run to go on from, as long as its conversation is not copied,
// or why it cannot be gone on from. f tells which it is from then on.
func (r *ChatRunReconciler) pinned(ctx context.Context, f *facts) (*v1alpha1.ChatRun, *waitReason, error) {
	if !awaitsParent(f.run) {
		return nil, nil, nil
	}
	parent, wait, err := r.parent(ctx, f.run, r.clock.Now())
	if parent != nil {
		f.parentUID = string(parent.UID)
	}
	if err == nil && wait != nil && wait.reason == v1alpha1.ReasonParentNotFound {
		// What a manager before us copied is as good as the parent.
		stands, err := r.copyStands(ctx, f.run)
		if stands || err != nil {
			return nil, nil, err
		}
	}
	return parent, wait, err
}

// place asks for a place, or takes one for an attempt that is counted already. It
// returns how long the run waited for it.
func (r *ChatRunReconciler) place(run *v1alpha1.ChatRun, p *v1alpha1.ChatProvider, owed bool) (time.Duration, *waitReason) {
	claim := places.Claim{
		Key: placeOf(run.Namespace, run.Name), UID: string(run.UID),
		Provider: string(p.UID), Model: modelOf(run, p), Created: run.CreationTimestamp.Time,
	}
	if claim.Limit = limitOf(p); claim.Limit > 0 {
		if r.sharing != nil && !owed && !r.sharing.knows() {
			return 0, &waitReason{after: sharingLook, turn: true}
		}
		claim.Elsewhere = r.abroad.at(run.Namespace, p.Name)
	}
	if owed {
		r.places.Force(claim)
		return 0, nil
	}
	answer, waited := r.places.Ask(claim)
	switch {
	case answer == places.Granted, waited >= queuedGrace:
	case waited == 0 && run.Status.RetryingAt == nil && reasonOf(run) != v1alpha1.ReasonQueued:
		// One whose status promises a time that is over is told of sooner, and one of
		// which it is told already need not be.
		return 0, &waitReason{after: r.queuedTurns.wait(r.clock.Now()), queued: true}
	default:
		return 0, &waitReason{after: queuedGrace - waited, queued: true}
	}
	switch answer {
	case places.Granted:
		return waited, nil
	case places.ProviderFull:
		return 0, queued(providerFullMessage)
	case places.ProviderRefuses:
		return 0, queued(providerRefusesMessage)
	default:
		return 0, queued(managerFullMessage)
	}
}

// queued is a wait that the place itself ends, by waking the run.
func queued(message string) *waitReason {
	return &waitReason{reason: v1alpha1.ReasonQueued, message: message, queued: true}
}

const (
	// queuedGrace is how long a run waits for a place before its status says so. In
	// a burst all runs ask first, which takes microseconds each, and those that get
	// a place in a moment cost no write.
	queuedGrace = 250 * time.Millisecond
	// queuedEvery is the time between two such writes. An API server takes some
	// hundreds of writes a second, and those that start and end attempts must not
	// stand behind thousands that only say that nothing happens.
	queuedEvery = 10 * time.Millisecond
)

// sharingLook is when a run looks again whose provider's places we have just come to
// hold.
const sharingLook = time.Second

// turns spreads writes that can wait.
type turns struct {
	mu   sync.Mutex
	last time.Time
}

// wait returns how long to wait for the next turn, queuedGrace at least.
func (t *turns) wait(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = t.last.Add(queuedEvery)
	if first := now.Add(queuedGrace); t.last.Before(first) {
		t.last = first
	}
	return t.last.Sub(now)
}

// resultOf is what an attempt tells of its provider. pause is how long the run
// waits after it failed, if it makes another: for so long others leave a provider
// alone that refused it, also if it does not.
func resultOf(o *streamer.Outcome, pause time.Duration, now time.Time) places.Result {
	failure := o.Failure
	if failure == nil || failure.Class != chatretry.RateLimited && failure.Class != chatretry.Overloaded {
		return places.Result{Accepted: o.Good()}
	}
	return places.Result{Refused: true, Until: now.Add(max(pause, failure.RetryAfter))}
}

// leave gives back whatever place or turn a run has that it does not need. A
// place is kept by an attempt that is under way, or about to be made for all we
// know, a turn by a run that is queued.
func (r *ChatRunReconciler) leave(f facts, d decision, err error) {
	place := placeOf(f.key.Namespace, f.key.Name)
	switch {
	case waits(d, f) && f.wait.queued, d.verb == start && r.mayStart(f, err):
		return
	case waits(d, f) && f.wait.turn:
		r.places.Yield(place)
		return
	}
	if s, ok := r.pool.Look(f.key.Namespace, f.key.Name); ok && s.Running {
		return // it gives it back itself
	}
	r.places.Leave(place)
}

// waits says whether a run was found to wait for something that it lacks.
func waits(d decision, f facts) bool { return d.row == 15 && f.wait != nil }

// mayStart says whether an attempt that was not made will be in a moment: its
// count may stand, or what was read was too old. After any other error, such as
// one that comes back at each try, others may use the place meanwhile.
func (r *ChatRunReconciler) mayStart(f facts, err error) bool {
	owes, _ := r.doubts.of(f.key)
	return owes != owed{} || apierrors.IsConflict(err) || errors.Is(err, errTooOld)
}

func placeOf(namespace, name string) places.Key { return places.Key{Namespace: namespace, Name: name} }
