// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"chatrun.dev/operator/api/v1alpha1"
)

type requests = workqueue.TypedRateLimitingInterface[reconcile.Request]

// relatives wakes the runs whose turn the event of another brings: those that go
// on from a run when it appears, ends or goes, a run that outlived its TTL for
// them when they need it no more, and those that wait for a place at a provider
// that another replica still had an attempt at.
func (r *ChatRunReconciler) relatives() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q requests) {
			r.wakeChildren(ctx, e.Object, q)
			if run := asRun(e.Object); run != nil {
				r.abroad.see(run, r.worker)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q requests) {
			before, after := asRun(e.ObjectOld), asRun(e.ObjectNew)
			if before == nil || after == nil {
				return
			}
			if before.UID != after.UID && r.abroad.gone(before) || r.abroad.see(after, r.worker) {
				r.wakeWaiting(ctx, after, q)
			}
			if before.UID != after.UID {
				// One was deleted, and another has its name: a watch that was cut may tell
				// of both at once.
				r.wakeChildren(ctx, after, q)
				if awaitsParent(before) {
					wakeParent(before, q)
				}
				return
			}
			if !isFinished(before) && isFinished(after) {
				r.wakeChildren(ctx, after, q)
			}
			if awaitsParent(before) && !awaitsParent(after) {
				wakeParent(after, q)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q requests) {
			r.wakeChildren(ctx, e.Object, q)
			run := asRun(e.Object)
			if run == nil {
				return
			}
			if r.abroad.gone(run) {
				r.wakeWaiting(ctx, run, q)
			}
			// A share that does not hold it any more tells of it as it is by now.
			if run.Spec.ContinueFrom != nil {
				wakeParent(run, q)
			}
		},
	}
}

func (r *ChatRunReconciler) wakeChildren(ctx context.Context, run client.Object, q requests) {
	children, err := r.children(ctx, run)
	if err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "waking the runs that go on from one", "run", run.GetName())
		return
	}
	for i := range children {
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&children[i])})
	}
}

// wakeWaiting wakes the runs that wait for the provider of one, if we hold its places.
func (r *ChatRunReconciler) wakeWaiting(ctx context.Context, run *v1alpha1.ChatRun, q requests) {
	if name, limited := placesOf(ctx, r.client, r.members, run); !limited || name != r.worker {
		return
	}
	for _, waiting := range r.waitingAt(ctx, providerKey(run)) {
		q.Add(waiting)
	}
}

func wakeParent(run *v1alpha1.ChatRun, q requests) {
	q.Add(reconcile.Request{NamespacedName: parentKey(run)})
}

// indexByParent indexes a run as long as it has to copy its parent's
// conversation.
func indexByParent(o client.Object) []string {
	if run := asRun(o); run != nil && awaitsParent(run) {
		return []string{run.Spec.ContinueFrom.Name}
	}
	return nil
}

// asRun returns a run, or nil if it is something else.
func asRun(o client.Object) *v1alpha1.ChatRun {
	run, _ := o.(*v1alpha1.ChatRun)
	return run
}
