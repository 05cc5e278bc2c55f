// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

const (
	// confirmRetry is when a Lease that could not be read is read again: until then
	// its replica counts as before.
	confirmRetry = 500 * time.Millisecond
	// forgottenAfter is how long a Lease that nobody renews is left lying, for people
	// who look for the reason.
	forgottenAfter = 10 * time.Minute
)

// follow sees what other replicas do from now on. It returns once those that there
// are have been seen, or false if ctx ends before.
func (m *Members) follow(ctx context.Context, beside *sync.WaitGroup) bool {
	all := m.o.Client.CoordinationV1().Leases(m.o.Namespace)
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = labelReplica
				return all.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = labelReplica
				return all.Watch(ctx, o)
			},
		},
		ObjectType: &coordinationv1.Lease{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { m.saw(o) },
			UpdateFunc: func(_, o any) { m.saw(o) },
			DeleteFunc: func(o any) { m.missed(o) },
		},
	})
	beside.Go(func() { informer.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return false
	}
	m.mu.Lock()
	m.synced = true
	m.mu.Unlock()
	beside.Go(func() { m.judge(ctx) })
	return true
}

// saw takes note of a Lease.
func (m *Members) saw(object any) {
	lease, ok := object.(*coordinationv1.Lease)
	if !ok || lease.Name == m.o.Name {
		return
	}
	now := look(lease, time.Now())
	m.mu.Lock()
	if before, known := m.seen[lease.Name]; known {
		now = now.after(before)
	}
	m.seen[lease.Name] = now
	m.mu.Unlock()
	m.refresh()
	m.wake()
}

// missed takes note of a Lease that is gone. Its replica gave it back before, or
// still counts until it cannot have been renewed: somebody may have deleted it by
// mistake, or with its pod.
func (m *Members) missed(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	lease, ok := object.(*coordinationv1.Lease)
	if !ok || lease.Name == m.o.Name {
		return
	}
	m.mu.Lock()
	if m.seen[lease.Name].state() == Gone {
		delete(m.seen, lease.Name)
	}
	m.mu.Unlock()
	m.refresh()
	m.wake()
}

func (m *Members) wake() {
	select {
	case m.nudge <- struct{}{}:
	default: // it looks already
	}
}

// judge finds out which Leases lapsed, until ctx ends.
func (m *Members) judge(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.nudge:
		case <-timer.C:
		}
		timer.Reset(m.judgeDue(ctx))
	}
}

// judgeDue reads the Leases that may have lapsed, and returns when the next one may.
func (m *Members) judgeDue(ctx context.Context) time.Duration {
	now, next := time.Now(), maxDuration
	m.mu.Lock()
	due := map[string]sighting{}
	var forgotten []string
	for name, s := range m.seen {
		switch at := s.due(); {
		case s.state() == Gone:
			if s.lapsed && now.Sub(s.since) > forgottenAfter {
				forgotten = append(forgotten, name)
			}
		case !now.Before(at):
			due[name] = s
		default:
			next = min(next, at.Sub(now))
		}
	}
	m.mu.Unlock()
	for name, s := range due {
		if !m.confirm(ctx, name, s) {
			next = min(next, confirmRetry)
		}
	}
	if m.Held() {
		for _, name := range forgotten {
			m.forget(ctx, name)
		}
	}
	m.refresh()
	return next
}

// confirm reads a Lease of which no renewal was seen for its whole duration. Our
// watch may be late, so the read decides: the Lease lapsed if it is as it was seen
// then, and not if it cannot be read. It reports whether that is settled.
func (m *Members) confirm(ctx context.Context, name string, before sighting) bool {
	ctx, cancel := context.WithTimeout(ctx, renewEvery(m.o.Duration))
	defer cancel()
	lease, err := m.o.Client.CoordinationV1().Leases(m.o.Namespace).Get(ctx, name, metav1.GetOptions{})
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case !m.seen[name].same(before):
		// The watch told more meanwhile.
	case apierrors.IsNotFound(err):
		// It was deleted, and nobody made it again for all that time.
		delete(m.seen, name)
	case err != nil:
		return false
	default:
		now := look(lease, time.Now()).after(before)
		now.lapsed = now.same(before)
		m.seen[name] = now
	}
	return true
}

// forget deletes a Lease that nobody renewed for long.
func (m *Members) forget(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery(m.o.Duration))
	defer cancel()
	all := m.o.Client.CoordinationV1().Leases(m.o.Namespace)
	lease, err := all.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return
	}
	m.mu.Lock()
	same := look(lease, time.Now()).same(m.seen[name])
	m.mu.Unlock()
	if same {
		// Whoever renewed it since has another version of it. What fails here is tried
		// at the next look.
		_ = all.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
	}
}
