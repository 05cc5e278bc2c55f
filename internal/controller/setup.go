// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
	"chatrun.dev/operator/internal/traces"
)

const (
	// byProvider indexes unfinished runs by the name of their provider.
	byProvider = "unfinished.providerRef.name"
	// byParent indexes runs that wait for their first attempt by the name of the
	// run that they go on from.
	byParent = "waiting.continueFrom.name"
	// reportingController is who Events say they come from.
	reportingController = "chatrun.dev/operator"
	// minQueueDelay and maxQueueDelay bound the queue's back-off after errors of
	// the API server. The library's own goes up to a quarter of an hour, for
	// which an answer would lie unwritten.
	minQueueDelay = 5 * time.Millisecond
	maxQueueDelay = 30 * time.Second
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
	// Members are the replicas. Our name among them is the one in status.worker.
	Members *members.Members
	// Sharing keeps the share of the runs that the manager's cache holds; nil if it
	// holds all of them.
	Sharing *Sharing
	// Metrics count what happens; nil counts where nobody looks.
	Metrics *metrics.Metrics
	// Traces tell of runs and attempts as spans; nil tells nobody.
	Traces *traces.Traces
	// Clock is the real one if nil.
	Clock clock.PassiveClock
}

// complete fills in what was left out.
func (o *Options) complete() (err error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	if o.Metrics == nil {
		o.Metrics, err = metrics.New(prometheus.NewRegistry())
	}
	return err
}

// Setup adds both reconcilers, the pool that makes their attempts, and the members
// that they share the runs with, to a manager. What it returns ends the attempts in
// order, before the manager is stopped.
func Setup(ctx context.Context, mgr ctrl.Manager, o Options) (*Drain, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	runs, providers := newQueue(), newQueue()
	r := &ChatRunReconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(),
		caller: o.Caller, hub: o.Hub, providers: providers,
		recorder: mgr.GetEventRecorder(reportingController), metrics: o.Metrics, traces: o.Traces, clock: o.Clock, worker: o.Members.Me(), members: o.Members,
		sharded: o.Sharing != nil, sharing: o.Sharing,
	}
	r.pool = streamer.NewPool(o.Caller, o.Hub, func(run streamer.Run) {
		runs.add(types.NamespacedName{Namespace: run.Namespace, Name: run.Name})
	})
	r.places = places.New(o.MaxConcurrentStreams, func(k places.Key) {
		runs.add(types.NamespacedName{Namespace: k.Namespace, Name: k.Name})
	})
	for field, index := range map[string]client.IndexerFunc{byProvider: indexByProvider, byParent: indexByParent} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, &v1alpha1.ChatRun{}, field, index); err != nil {
			return nil, fmt.Errorf("indexing runs: %w", err)
		}
	}
	build := ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ChatRun{}).
		Watches(&v1alpha1.ChatProvider{}, handler.EnqueueRequestsFromMapFunc(r.waitingFor)).
		Watches(&v1alpha1.ChatRun{}, r.relatives())
	if o.Sharing != nil {
		o.Sharing.providers = mgr.GetClient()
		build = build.Watches(&v1alpha1.ChatProvider{}, o.Sharing.handler())
	}
	err := build.
		WatchesRawSource(runs).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: maxConcurrentReconciles,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](minQueueDelay, maxQueueDelay),
		}).
		Complete(r)
	if err != nil {
		return nil, fmt.Errorf("setting up the ChatRun controller: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&v1alpha1.ChatProvider{}).
		WatchesRawSource(providers).
		Complete(&ChatProviderReconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), clock: o.Clock, members: o.Members, asked: &r.asked, metrics: o.Metrics})
	if err != nil {
		return nil, fmt.Errorf("setting up the ChatProvider controller: %w", err)
	}
	if err := o.Metrics.Show(r.states(o)); err != nil {
		return nil, fmt.Errorf("registering metrics: %w", err)
	}
	return share(mgr, o, r, runs, providers)
}

// share adds what carries out a change of members, and the members last: nothing
// of theirs happens before all know of it.
func share(mgr ctrl.Manager, o Options, r *ChatRunReconciler, runs, providers *queue) (*Drain, error) {
	hands := &reassign{ChatRunReconciler: r, runs: runs, providers: providers, changed: make(chan struct{}, 1)}
	drain := &Drain{ChatRunReconciler: r, runs: runs}
	changed, moved, err := hands.signal, func() {}, errors.Join(mgr.Add(drain), mgr.Add(hands))
	if o.Sharing != nil {
		changed = func() {
			hands.signal()
			o.Sharing.shares.Rekeep()
			o.Sharing.signal()
		}
		moved = o.Sharing.signal
		err = errors.Join(err, mgr.Add(o.Sharing))
	}
	fence := func() {
		r.pool.Fence()
		r.metrics.Fenced()
	}
	o.Members.Observe(fence, changed, moved)
	return drain, errors.Join(err, mgr.Add(o.Members))
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
	return r.waitingAt(ctx, client.ObjectKeyFromObject(p))
}

func (r *ChatRunReconciler) waitingAt(ctx context.Context, provider types.NamespacedName) []reconcile.Request {
	var list v1alpha1.ChatRunList
	err := r.client.List(ctx, &list, client.InNamespace(provider.Namespace), client.MatchingFields{byProvider: provider.Name})
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "listing the runs of a provider", "provider", provider.Name)
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

func sameStatus(a, b v1alpha1.ChatRunStatus) bool { return equality.Semantic.DeepEqual(a, b) }

var (
	_ source.Source                  = (*queue)(nil)
	_ manager.LeaderElectionRunnable = (*Drain)(nil)
	_ streamer.Source                = (*Source)(nil)
)
