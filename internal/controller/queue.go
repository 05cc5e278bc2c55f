// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
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

// urgent puts what the pool and the places tell before everything else: an
// outcome frees a place, and a place starts an attempt, while the runs that are
// only to be told where they stand may be thousands.
const urgent = 100

// add enqueues a name. Nothing runs before the controller started, so there is
// nothing to lose before that.
func (q *queue) add(key types.NamespacedName) {
	select {
	case <-q.ready:
		item := reconcile.Request{NamespacedName: key}
		if p, ok := q.to.(priorityqueue.PriorityQueue[reconcile.Request]); ok {
			p.AddWithOpts(priorityqueue.AddOpts{Priority: new(urgent)}, item)
		} else {
			q.to.Add(item)
		}
	default:
	}
}
