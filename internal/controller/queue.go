// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// queue lets the pool, which knows no Kubernetes, bring a run back to Reconcile.
type queue struct {
	ready chan struct{}
	to    workqueue.TypedRateLimitingInterface[reconcile.Request]
}

func newQueue() *queue { return &queue{ready: make(chan struct{})} }

// Start implements source.Source: it is handed the controller's queue.
func (q *queue) Start(_ context.Context, to workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
	q.to = to
	close(q.ready)
	return nil
}

// patient puts the looks that only tell a run that it is queued behind everything
// else, the runs that a start finds included: they may be thousands. An outcome,
// which frees a place, a place, which starts an attempt, and a person's wish come in
// the order in which they do, as the queue lets the least of what is more urgent
// pass before all of what is less.
const patient = handler.LowPriority - 1

// add enqueues a name. Nothing runs before the controller started, so there is
// nothing to lose before that.
func (q *queue) add(key types.NamespacedName) {
	select {
	case <-q.ready:
		item := reconcile.Request{NamespacedName: key}
		if p, ok := q.to.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
			// One that waits at a lower priority is raised.
			p.AddWithOpts(priorityqueue.AddOpts{Priority: new(0)}, item)
		} else {
			q.to.Add(item)
		}
	default:
	}
}
