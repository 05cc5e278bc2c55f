// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package controller is the only writer of status. A reconcile observes,
// decides (a pure function), persists, acts and tells, always in this order.
package controller

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/internal/traces"
)

// maxConcurrentReconciles bounds the API writes under way at once. A reconcile
// waits for nothing else, and most write nothing: those should not wait for such as
// do. Sixteen carry a fifth fewer runs a second, when the API server is busy.
const maxConcurrentReconciles = 64

// +kubebuilder:rbac:groups=chatrun.dev,resources=chatruns,verbs=get;list;watch;patch;delete
// +kubebuilder:rbac:groups=chatrun.dev,resources=chatruns/status,verbs=patch
// +kubebuilder:rbac:groups=chatrun.dev,resources=chatproviders,verbs=get;list;watch
// +kubebuilder:rbac:groups=chatrun.dev,resources=chatproviders/status,verbs=patch
// +kubebuilder:rbac:groups="",resources=configmaps;secrets,verbs=get;create
// +kubebuilder:rbac:groups=events.k8s.io,resources=events,verbs=create;patch

// ChatRunReconciler carries ChatRuns from manifest to answer.
type ChatRunReconciler struct {
	// client reads from the cache, live reads from the API server itself. Secrets
	// and ConfigMaps are only ever read live, by name. What the cache has of a run
	// lacks long texts.
	client client.Client
	live   client.Reader

	caller provider.Caller
	hub    *streamer.Hub
	pool   *streamer.Pool
	places *places.Places
	// providers is the queue of the other reconciler, and asked what is wanted of it.
	providers *queue
	asked     asked

	recorder events.EventRecorder
	metrics  *metrics.Metrics
	traces   *traces.Traces
	clock    clock.PassiveClock
	// worker is our name, as it stands in status.worker.
	worker  string
	members *members.Members
	// sharded says that the cache holds a share of the runs, which sharing keeps.
	sharded bool
	sharing *Sharing

	// starts counts the attempts that are between their count and their call.
	starts      atomic.Int32
	unowned     unowned
	abroad      abroad
	doubts      doubts
	queuedTurns turns
}

// errTooOld says that the cache shows less than we know to be there.
var errTooOld = errors.New("the cache is older than what was read past it")

// Reconcile brings one run a step further.
func (r *ChatRunReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// What follows a look does not have its priority, unless that is said.
	result := ctrl.Result{Priority: new(0)}
	f, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return result, err
	}
	if f.run != nil {
		// Whatever is said of this look, also of its title, says which attempt.
		logger := log.FromContext(ctx).WithValues("attempt", attemptOf(f.run))
		if r.traces != nil {
			logger = logger.WithValues("trace", r.traces.ID(tracedRun(f.run)))
		}
		ctx = log.IntoContext(ctx, logger)
	}
	d, ready, err := r.decide(ctx, &f)
	after := d.after
	if err == nil {
		after, err = r.carryOut(ctx, f, d, ready)
	}
	r.leave(f, d, err)
	if err == nil && d.verb != drop && d.verb != expire {
		after, err = r.handTitle(ctx, f, d, after)
	}
	if p, ok := errors.AsType[*postponed](err); ok {
		log.FromContext(ctx).Info("the API server refuses to keep the answer, which is tried again", "cause", refusal(p), "after", p.after)
		result.RequeueAfter = p.after
		return result, nil
	}
	switch {
	case apierrors.IsConflict(err), errors.Is(err, errTooOld):
		// We read too early. Nothing was started: read again and decide again.
		result.RequeueAfter = r.doubts.conflict(req.NamespacedName)
		return result, nil
	case errors.Is(err, streamer.ErrNotAccepting), errors.Is(err, streamer.ErrFenced):
		// We shut down, or were fenced, since we looked. The attempt is counted: it is
		// handed over, or lost.
		result.RequeueAfter = time.Nanosecond
		return result, nil
	case apierrors.IsNotFound(err):
		// The object went between the read and the write; its event follows.
		r.doubts.clear(req.NamespacedName)
		return ctrl.Result{}, nil
	case err != nil:
		return result, err
	}
	r.doubts.clear(req.NamespacedName)
	result.RequeueAfter = after
	if waits(d, f) && d.verb == ignore && f.wait.queued && after == f.wait.after {
		result.Priority = new(patient)
	}
	return result, nil
}

// decide decides, and prepares the attempt if one is to be made. What is missing
// for it is a fact, to decide by again.
func (r *ChatRunReconciler) decide(ctx context.Context, f *facts) (decision, *prepared, error) {
	d := decide(*f, r.clock.Now())
	if d.verb != start {
		return d, nil, nil
	}
	ready, err := r.prepare(ctx, f)
	if err != nil || ready != nil {
		return d, ready, err
	}
	f.owed = false
	return decide(*f, r.clock.Now()), nil, nil
}

// carryOut persists, acts and tells. It returns when to look again.
func (r *ChatRunReconciler) carryOut(ctx context.Context, f facts, d decision, ready *prepared) (time.Duration, error) {
	logger := log.FromContext(ctx).WithValues("row", d.row, "verb", d.verb)
	logger.V(1).Info("decided")
	if d.row == 3 && f.otherOwnerLive {
		r.hub.Elsewhere(runOf(f.run))
	}
	ctx = log.IntoContext(ctx, logger)

	switch d.verb {
	case start:
		return r.start(ctx, f, d, ready)
	case drop:
		return r.drop(f), nil
	case stop:
		r.pool.Stop(f.pool.UID, d.cause)
		return d.after, nil
	case settle:
		r.catchUp(f)
		r.settled(f.run)
		return time.Nanosecond, nil
	case forget:
		r.catchUp(f)
		r.forget(f)
		if !f.lets() {
			return d.after, nil
		}
		return d.after, r.record(ctx, f, d)
	case expire:
		r.catchUp(f)
		r.forget(f)
		return 0, r.client.Delete(ctx, f.run, client.Preconditions{UID: &f.run.UID, ResourceVersion: &f.run.ResourceVersion})
	case ignore:
		if d.row == 3 && f.otherOwnerLive && f.pool != nil {
			// What became of our own attempt is nobody's concern any more.
			r.pool.Settle(f.pool.UID)
			if r.sharded {
				// No event may follow, and what was read of it past the cache is not late.
				r.pool.Forget(f.pool.UID)
			}
		}
		if d.row != 11 && d.row != 15 {
			return d.after, nil
		}
		return d.after, r.record(ctx, f, d)
	case succeed, fail, cancel, suspend, retry, handOver, hold:
		return d.after, r.record(ctx, f, d)
	}
	return d.after, nil
}

// drop is for a run that is gone, as the API server itself says.
func (r *ChatRunReconciler) drop(f facts) time.Duration {
	r.pool.Drop(f.pool.UID)
	if f.run != nil && f.run.DeletionTimestamp.IsZero() {
		// Another object holds the name now: its own turn comes at once.
		return time.Nanosecond
	}
	return 0
}

// record writes a status that starts nothing, and tells of it.
func (r *ChatRunReconciler) record(ctx context.Context, f facts, d decision) error {
	d, err := r.keep(ctx, f, d)
	if err != nil {
		return err
	}
	before := f.run.DeepCopy()
	wrote, err := r.persist(ctx, f.run, nextStatus(f.run, d, actor{worker: r.worker, parentUID: f.parentUID}, r.clock.Now()))
	if err != nil || !wrote {
		return err
	}
	if reasonOf(before) == reasonOf(f.run) && messageOf(before) == messageOf(f.run) && attemptOf(before) == attemptOf(f.run) {
		// Only the generation moved on, and that is nobody's news.
		return nil
	}
	logFailure(ctx, d)
	r.tell(f.run, d)
	r.account(f.run, newsOf(before, f.run), d.outcome, d.failure)
	r.settled(f.run)
	return nil
}

// settled brings pool and hub up to what stands in status: the outcome is
// written down, and readers are told.
func (r *ChatRunReconciler) settled(run *v1alpha1.ChatRun) {
	uid := string(run.UID)
	switch {
	case isFinished(run):
		if run.Status.Phase != v1alpha1.PhaseSucceeded {
			// No attempt runs any more; a title might, and nobody waits for it.
			r.pool.Stop(uid, streamer.ErrStopped)
		}
		r.hub.Finish(runOf(run), endOf(run))
	case reasonOf(run) == v1alpha1.ReasonRetrying && run.Status.RetryingAt != nil:
		r.hub.Retry(runOf(run), streamStatus(run), streamRetry(run))
	default:
		r.hub.Tell(runOf(run), streamStatus(run))
	}
	r.pool.Settle(uid)
}

// forget is for a run that is finished, whoever wrote that.
func (r *ChatRunReconciler) forget(f facts) {
	if f.pool != nil && f.pool.Running {
		r.pool.Stop(f.pool.UID, streamer.ErrStopped)
	}
	r.hub.Finish(runOf(f.run), endOf(f.run))
	r.pool.Settle(string(f.run.UID))
	r.pool.Forget(string(f.run.UID))
}

// persist writes a status if it differs, and only onto the object that was
// read. It reports whether it wrote; run is then the object as it stands.
func (r *ChatRunReconciler) persist(ctx context.Context, run *v1alpha1.ChatRun, next v1alpha1.ChatRunStatus) (bool, error) {
	if sameStatus(run.Status, next) {
		return false, nil
	}
	base := run.DeepCopy()
	run.Status = next
	if err := r.client.Status().Patch(ctx, run, locked(base), statusOwner); err != nil {
		return false, err
	}
	if tookOver(base, run, r.worker) {
		r.metrics.TakenOver()
	}
	return true, nil
}

// locked is a patch that the API server refuses if the object changed since
// base was read.
func locked(base client.Object) client.Patch {
	return client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})
}

func runOf(run *v1alpha1.ChatRun) streamer.Run {
	return streamer.Run{UID: string(run.UID), Namespace: run.Namespace, Name: run.Name}
}
