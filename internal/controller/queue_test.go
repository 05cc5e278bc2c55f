// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/controller/priorityqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"chatrun.dev/operator/api/v1alpha1"
)

func item(name string) reconcile.Request {
	return reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "ns", Name: name}}
}

// TestQueueOrder: what the pool tells does not pass what a person wants, and both
// pass what only tells of a queue, until its place is there.
func TestQueueOrder(t *testing.T) {
	to := priorityqueue.New[reconcile.Request]("order")
	defer to.ShutDown()
	q := newQueue()
	if err := q.Start(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"queued", "granted"} {
		to.AddWithOpts(priorityqueue.AddOpts{Priority: new(patient)}, item(name))
	}
	q.add(item("outcome").NamespacedName)
	to.Add(item("wish"))
	q.add(item("granted").NamespacedName)
	q.add(item("outcome-2").NamespacedName)
	var got []string
	for range 5 {
		next, _, _ := to.GetWithPriority()
		got = append(got, next.Name)
		to.Done(next)
	}
	if want := []string{"outcome", "wish", "granted", "outcome-2", "queued"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestReplacedRelatives: a watch that tells of a deletion and of what follows it
// under the same name as one change wakes those whom the deletion concerns.
func TestReplacedRelatives(t *testing.T) {
	b := newBench(t, newRun(named("child"), after("hello"), held(v1alpha1.ReasonWaitingForParent)), newRun(named("other"), after("another")))
	for name, tc := range map[string]struct {
		old, now *v1alpha1.ChatRun
		want     []string
	}{
		"a parent":             {newRun(), newRun(named("x"), func(r *v1alpha1.ChatRun) { r.Name = "hello" }), []string{"child"}},
		"a child":              {newRun(named("c"), after("parent")), newRun(func(r *v1alpha1.ChatRun) { r.Name, r.UID = "c", "2" }), []string{"parent"}},
		"nothing but a label":  {newRun(), newRun(labelled("x")), nil},
		"the end of a parent":  {newRun(), newRun(ended(succeed, "")), []string{"child"}},
		"the start of a child": {newRun(named("c"), after("parent")), newRun(named("c"), after("parent"), func(r *v1alpha1.ChatRun) { r.Status.MessagesDigest = "sha256:0" }), []string{"parent"}},
	} {
		q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
		b.r.relatives().Update(t.Context(), event.UpdateEvent{ObjectOld: tc.old, ObjectNew: tc.now}, q)
		var woken []string
		for q.Len() > 0 {
			next, _ := q.Get()
			woken = append(woken, next.Name)
			q.Done(next)
		}
		q.ShutDown()
		if !slices.Equal(woken, tc.want) {
			t.Errorf("%s: woken %q, want %q", name, woken, tc.want)
		}
	}
}
