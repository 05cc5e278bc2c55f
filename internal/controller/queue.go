// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
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

// add enqueues a name. Nothing runs before the controller started, so there is
// nothing to lose before that.
func (q *queue) add(key types.NamespacedName) {
	select {
	case <-q.ready:
		q.to.Add(reconcile.Request{NamespacedName: key})
	default:
	}
}
