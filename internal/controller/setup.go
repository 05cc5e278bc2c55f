// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

const (
	// byProvider indexes unfinished runs by the name of their provider.
	byProvider = "unfinished.providerRef.name"
	// byParent indexes runs that wait for their first attempt by the name of the
	// run that they go on from.
	byParent = "waiting.continueFrom.name"
	// reportingController is who Events say they come from.
	reportingController = "chatrun.dev/operator"
	// drainTimeout bounds the hand-over at shutdown: the last status writes of
	// the attempts that were under way. It stays below the manager's own 30 s.
	drainTimeout = 20 * time.Second
	// minQueueDelay and maxQueueDelay bound the queue's back-off after errors of
	// the API server. The library's own goes up to a quarter of an hour, for
	// which an answer would lie unwritten.
	minQueueDelay = 5 * time.Millisecond
	maxQueueDelay = 30 * time.Second
	// drainPoll is how often the hand-over looks whether it is through.
	drainPoll = 20 * time.Millisecond
)

// Options configure Setup.
type Options struct {
	// Caller calls the models.
	Caller provider.Caller
	// Hub takes what they stream.
	Hub *streamer.Hub
	// MaxConcurrentStreams bounds the attempts that are under way at the same time,
	// over all providers; 0 does not.
	MaxConcurrentStreams int
	// Worker is our name in status.worker: unique among the replicas that live
	// at the same time.
	Worker string
	// Sharded says that the manager's cache holds a share of the runs (see Sharded).
	Sharded bool
	// Clock is the real one if nil.
	Clock clock.PassiveClock
}

// Setup adds both reconcilers, and the pool that makes their attempts, to a
// manager.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) error {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	runs, providers := newQueue(), newQueue()
	r := &ChatRunReconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(),
		caller: o.Caller, hub: o.Hub, providers: providers,
		recorder: mgr.GetEventRecorder(reportingController), clock: o.Clock, worker: o.Worker,
		sharded: o.Sharded,
	}
	r.pool = streamer.NewPool(o.Caller, o.Hub, func(run streamer.Run) {
		runs.add(types.NamespacedName{Namespace: run.Namespace, Name: run.Name})
	})
	r.places = places.New(o.MaxConcurrentStreams, func(k places.Key) {
		runs.add(types.NamespacedName{Namespace: k.Namespace, Name: k.Name})
	})
	for field, index := range map[string]client.IndexerFunc{byProvider: indexByProvider, byParent: indexByParent} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.ChatRun{}, field, index); err != nil {
			return fmt.Errorf("indexing runs: %w", err)
		}
	}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ChatRun{}).
		Watches(&v1alpha1.ChatProvider{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor)).
		Watches(&v1alpha1.ChatRun{}, r.relatives()).
		WatchesRawSource(runs).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: maxConcurrentReconciles,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minQueueDelay, maxQueueDelay),
		}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("setting up the ChatRun controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ChatProvider{}).
		WatchesRawSource(providers).
		Complete(&ChatProviderReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), clock: o.Clock})
	if err != nil {
		return fmt.Errorf("setting up the ChatProvider controller: %w", err)
	}
	return mgr.Add(drain{r.pool, runs})
}

func indexByProvider(o client.Object) []string {
	run, ok := o.(*v1alpha1.ChatRun)
	if !ok || isFinished(run) {
		return nil
	}
	return []string{run.Spec.ProviderRef.Name}
}

// waitingFor maps a provider to the runs that may wait for it.
func (r *ChatRunReconciler) waitingFor(ctx context.Context, p client.Object) []reconcile.Request {
	var list v1alpha1.ChatRunList
	err := r.client.List(ctx, &list, client.InNamespace(p.GetNamespace()), client.MatchingFields{byProvider: p.GetName()})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the runs of a provider", "provider", p.GetName())
		return nil
	}
	var requests []reconcile.Request
	for i := range list.Items {
		if !isStreaming(&list.Items[i]) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return requests
}

// drain ends the attempts at shutdown, and waits until what became of them is
// written. The manager stops it before the reconcilers, which do the writing.
type drain struct {
	pool *streamer.Pool
	runs *queue
}

// Start implements manager.Runnable.
func (d drain) Start(ctx context.Context) error {
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
	defer cancel()
	if err := d.pool.Shutdown(ctx); err != nil {
		return fmt.Errorf("ending the attempts: %w", err)
	}
	for _, run := range d.pool.Runs() {
		// One whose last write failed sleeps in the queue's back-off otherwise.
		d.runs.add(types.NamespacedName{Namespace: run.Namespace, Name: run.Name})
	}
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for d.unsettled() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("handing over: %w", context.Cause(ctx))
		case <-ticker.C:
		}
	}
	return nil
}

// NeedLeaderElection implements manager.LeaderElectionRunnable. It puts the
// drain among the runnables that are stopped first.
func (drain) NeedLeaderElection() bool { return false }

func (d drain) unsettled() bool {
	for _, run := range d.pool.Runs() {
		if s, ok := d.pool.Look(run.Namespace, run.Name); ok && (s.Running || s.Outcome != nil) {
			return true
		}
	}
	return false
}

func sameStatus(a, b v1alpha1.ChatRunStatus) bool { return equality.Semantic.DeepEqual(a, b) }

var (
	_ source.Source                  = (*queue)(nil)
	_ manager.LeaderElectionRunnable = drain{}
	_ streamer.Source                = (*Source)(nil)
)
