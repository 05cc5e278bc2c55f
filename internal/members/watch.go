// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
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
	if s := m.seen[lease.Name]; s.state() == Gone && !s.givenBack() {
		delete(m.seen, lease.Name)
	} // else it is remembered for a while what became of it
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
			if now.Sub(s.since) > forgottenAfter {
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

// confirm reads a Lease of which no renewal was seen for its whole duration. It
// reports whether that is settled.
func (m *Members) confirm(ctx context.Context, name string, before sighting) bool {
	ctx, cancel := context.WithTimeout(ctx, renewEvery(m.o.Duration))
	defer cancel()
	lease, err := m.find(ctx, name, before)
	m.mu.Lock()
	defer m.mu.Unlock()
	none := errors.Is(err, errNone)
	switch {
	case err != nil && !none:
		return false
	case !m.seen[name].same(before): // the watch told more meanwhile
	case none:
		delete(m.seen, name)
	default:
		m.seen[name] = before.read(lease, time.Now())
	}
	return true
}

// errNone says that there is no such replica, and that nobody took its Lease away.
var errNone = errors.New("there is no such replica")

// find reads a Lease. One that is not there may have been deleted by mistake, and
// its replica act until it would have lapsed, or make it again, and again lose it.
// So it is put back, for a replica that takes on nothing, and lapses like any other.
func (m *Members) find(ctx context.Context, name string, before sighting) (*coordinationv1.Lease, error) {
	all := m.o.Client.CoordinationV1().Leases(m.o.Namespace)
	lease, err := all.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil && lease.Labels[labelReplica] == "":
		return nil, errNone // it is for something else
	case !apierrors.IsNotFound(err):
		return lease, err
	case before.givenBack():
		return nil, errNone
	}
	lease, err = all.Create(ctx, m.substitute(name, before), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return all.Get(ctx, name, metav1.GetOptions{})
	}
	return lease, err
}

// substitute is what is put in the place of a Lease that is not there: nothing that
// was seen of it is the same.
func (m *Members) substitute(name string, before sighting) *coordinationv1.Lease {
	holder := before.holder
	if holder == "" {
		holder = name // no process is called so
	}
	transitions, seconds := before.transitions+1, int32(m.o.Duration/time.Second)
	return &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: m.o.Namespace, Name: name,
			Labels:      map[string]string{labelReplica: "true"},
			Annotations: map[string]string{annotationDraining: drainingYes},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, LeaseTransitions: &transitions,
			RenewTime: &metav1.MicroTime{Time: time.Now()},
		},
	}
}

// Gone reports whether a replica is gone to the runs of a namespace, by a read of its
// Lease: what State says may be older than what the replica did since. It is to be
// asked after that was read which is to be taken from the replica.
func (m *Members) Gone(ctx context.Context, namespace, name string) (bool, error) {
	if m.alone || len(validation.IsDNS1123Subdomain(name)) > 0 {
		return true, nil // there is no such Lease
	}
	ctx, cancel := context.WithTimeout(ctx, renewEvery(m.o.Duration))
	defer cancel()
	m.mu.Lock()
	before := m.seen[name]
	m.mu.Unlock()
	lease, err := m.find(ctx, name, before)
	none := errors.Is(err, errNone)
	if err != nil && !none {
		return false, fmt.Errorf("reading the Lease of %s: %w", name, err)
	}
	m.mu.Lock()
	told := !m.seen[name].same(before) // by the watch, meanwhile: nobody knows of what time
	if none {
		m.mu.Unlock()
		return !told, nil
	}
	now := before.read(lease, time.Now())
	if !told {
		m.seen[name] = now
	}
	m.mu.Unlock()
	m.refresh()
	m.wake()
	return !told && (now.state() == Gone || !now.scope.has(namespace)), nil
}

// forget deletes a Lease that nobody renewed for long.
func (m *Members) forget(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery(m.o.Duration))
	defer cancel()
	all := m.o.Client.CoordinationV1().Leases(m.o.Namespace)
	lease, err := all.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.seen[name].state() == Gone {
			delete(m.seen, name)
		}
		return
	}
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
