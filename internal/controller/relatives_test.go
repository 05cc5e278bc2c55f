// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"testing"
	"time"

	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// TestARoomElsewhereWakesWhoCounts: an attempt that ends at another replica wakes the
// runs that wait for its provider only where all its places are held.
func TestARoomElsewhereWakesWhoCounts(t *testing.T) {
	limited := ready()
	limited.UID, limited.Spec.Limits = "provider", &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
	both := map[string]members.State{"me": members.Live, "b": members.Live}
	holder := members.Fixed("me", both).HolderOf("", "provider")
	for _, tc := range []struct {
		name     string
		provider *v1alpha1.ChatProvider
		me       string
		want     int
	}{
		{"no limit", ready(), holder, 0},
		{"another holds its places", limited, map[string]string{"me": "b", "b": "me"}[holder], 0},
		{"we hold its places", limited, holder, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			waits := newRun()
			waits.Name, waits.UID = "waits", "uid-2"
			b := newBench(t, waits, tc.provider)
			b.r.members, b.r.worker = members.Fixed(tc.me, both), tc.me
			before, after := newRun(streaming(1)), newRun(waiting(1, time.Second))
			before.Status.Worker, after.Status.Worker = "c", "c"
			q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer q.ShutDown()
			h := b.r.relatives()
			h.Create(t.Context(), event.CreateEvent{Object: before}, q)
			h.Update(t.Context(), event.UpdateEvent{ObjectOld: before, ObjectNew: after}, q)
			if q.Len() != tc.want {
				t.Errorf("%d runs are looked at", q.Len())
			}
		})
	}
}
