// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package members

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
)

// hold keeps our Lease until ctx ends, and then gives it back. client-go's elector
// does it, each replica the only candidate of an election of its own: it waits for
// a former holder of our name to lapse, renews, and gives up in time.
func (m *Members) hold(ctx context.Context) {
	// What it says is about leaders. What matters of it we say ourselves.
	quiet := logr.NewContext(ctx, logr.Discard())
	for ctx.Err() == nil {
		elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
			Name: m.o.Name,
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Namespace: m.o.Namespace, Name: m.o.Name},
				Client:     leases{m},
				LockConfig: resourcelock.ResourceLockConfig{Identity: m.identity},
				Labels:     map[string]string{labelReplica: "true"},
			},
			LeaseDuration: m.o.Duration, RenewDeadline: renewWithin(m.o.Duration), RetryPeriod: renewEvery(m.o.Duration),
			Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) {}, OnStoppedLeading: func() {}},
		})
		if err != nil {
			m.o.Log.Error(err, "keeping our Lease")
			return
		}
		elector.Run(quiet)
		m.lapse()
	}
	m.giveBack(context.WithoutCancel(ctx))
}

// renewed says that a renewal which was begun at start stands.
func (m *Members) renewed(start time.Time) {
	m.mu.Lock()
	// We may have been stopped, and others have taken over meanwhile: what was begun
	// before has to end before we count as held again.
	late := m.over(time.Now())
	if late {
		m.fenceLocked()
	}
	select {
	case <-m.left:
	default:
		m.tenure, m.problem = m.tenure.renewed(start, renewWithin(m.o.Duration)), nil
	}
	if m.fence == nil {
		m.fence = time.AfterFunc(time.Until(m.until), m.lapse)
	} else {
		m.fence.Reset(time.Until(m.until))
	}
	m.mu.Unlock()
	m.refresh()
	if late && m.changed != nil {
		// Whoever looked meanwhile was told that we are not held, and of no end to it.
		m.changed()
	}
}

// lapse fences us if nothing renewed our Lease in time.
func (m *Members) lapse() {
	m.mu.Lock()
	if m.over(time.Now()) {
		m.fenceLocked()
	}
	m.mu.Unlock()
	m.refresh()
}

func (m *Members) fenceLocked() {
	m.fenced = true
	if m.end != nil {
		m.end()
	}
	select {
	case <-m.left:
		return // we meant to
	default:
	}
	cause := "no request failed: the API server gave no answer, or this process got no time"
	if m.problem != nil {
		cause = m.problem.Error()
	}
	m.o.Log.Info("our Lease was not renewed in time: all attempts are ended, as other replicas may make them from now on", "lease", m.o.Name, "cause", cause)
}

// failed keeps why a renewal failed, and says so if that is news.
func (m *Members) failed(err error) {
	m.mu.Lock()
	news := m.problem == nil || m.problem.Error() != err.Error()
	m.problem = err
	m.mu.Unlock()
	if news {
		m.o.Log.Info("our Lease could not be renewed, which is tried again", "lease", m.o.Name, "cause", err.Error())
	}
}

// giveBack lets others take over at once.
func (m *Members) giveBack(ctx context.Context) {
	m.mu.Lock()
	leaves := m.leaves
	m.mu.Unlock()
	if leaves {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, renewWithin(m.o.Duration))
	defer cancel()
	own := m.o.Client.CoordinationV1().Leases(m.o.Namespace)
	// A renewal that was under way may have stood meanwhile.
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		lease, err := own.Get(ctx, m.o.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil
		case err != nil:
			return err
		case lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != m.identity:
			return nil // it is not ours to give
		}
		// A Lease that is deleted while it is held may be so by mistake, so others wait
		// for it to lapse. Hence first the one, then the other.
		lease.Spec.HolderIdentity = nil
		if lease, err = own.Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
			return err
		}
		return own.Delete(ctx, m.o.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
	})
	if err != nil {
		m.o.Log.Info("our Lease could not be given back, and lapses by itself", "lease", m.o.Name, "cause", err.Error())
	}
}

// annotate writes what our Lease says beside its spec, at once. It is no renewal.
func (m *Members) annotate(ctx context.Context, annotations map[string]string) error {
	ctx, cancel := context.WithTimeout(ctx, renewWithin(m.o.Duration))
	defer cancel()
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = m.o.Client.CoordinationV1().Leases(m.o.Namespace).Patch(ctx, m.o.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("writing our Lease: %w", err)
	}
	return nil
}

// leases let the elector write our Lease: what it does not know of is added, and
// the time of each renewal is taken where it is sure, before the request.
type leases struct{ m *Members }

// Leases implements coordinationclient.LeasesGetter.
func (l leases) Leases(namespace string) coordinationclient.LeaseInterface {
	return &ownLease{LeaseInterface: l.m.o.Client.CoordinationV1().Leases(namespace), m: l.m}
}

type ownLease struct {
	coordinationclient.LeaseInterface
	m *Members
}

// request bounds one request: what hangs must leave time for another try. Whatever
// time passed unseen, as in a machine that slept, shows here first.
func (m *Members) request(ctx context.Context) (context.Context, context.CancelFunc) {
	m.lapse()
	return context.WithTimeout(ctx, m.o.Duration/3)
}

// Get implements coordinationclient.LeaseInterface.
func (l *ownLease) Get(ctx context.Context, name string, o metav1.GetOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := l.m.request(ctx)
	defer cancel()
	lease, err := l.LeaseInterface.Get(ctx, name, o)
	switch {
	case err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil:
		l.m.failed(err)
	case err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" && *lease.Spec.HolderIdentity != l.m.identity:
		l.m.failed(fmt.Errorf("another process holds it, %s, and has to end, or its Lease to lapse", *lease.Spec.HolderIdentity))
	}
	return lease, err
}

// Create implements coordinationclient.LeaseInterface.
func (l *ownLease) Create(ctx context.Context, lease *coordinationv1.Lease, o metav1.CreateOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := l.m.request(ctx)
	defer cancel()
	if l.m.o.Owners != nil {
		lease.OwnerReferences = l.m.o.Owners(ctx, lease.Namespace)
	}
	return l.write(lease, func() (*coordinationv1.Lease, error) { return l.LeaseInterface.Create(ctx, lease, o) })
}

// Update implements coordinationclient.LeaseInterface.
func (l *ownLease) Update(ctx context.Context, lease *coordinationv1.Lease, o metav1.UpdateOptions) (*coordinationv1.Lease, error) {
	ctx, cancel := l.m.request(ctx)
	defer cancel()
	return l.write(lease, func() (*coordinationv1.Lease, error) { return l.LeaseInterface.Update(ctx, lease, o) })
}

func (l *ownLease) write(lease *coordinationv1.Lease, write func() (*coordinationv1.Lease, error)) (*coordinationv1.Lease, error) {
	start := time.Now()
	lease.Spec.RenewTime = &metav1.MicroTime{Time: l.m.o.Clock.Now()}
	l.m.describe(lease)
	written, err := write()
	if err != nil {
		if !apierrors.IsConflict(err) {
			l.m.failed(err)
		}
		return nil, err
	}
	l.m.renewed(start)
	return written, nil
}

// describe sets what our Lease says beside its spec.
func (m *Members) describe(lease *coordinationv1.Lease) {
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	set := func(key, value string) {
		if value == "" {
			delete(lease.Annotations, key)
		} else {
			lease.Annotations[key] = value
		}
	}
	set(annotationAddress, m.o.RelayAddress)
	set(annotationScope, scopeOf(m.o.Namespaces).String())
	set(annotationDraining, map[bool]string{true: drainingYes}[m.draining])
	if m.watches != nil {
		set(annotationWatches, m.watches.String())
	} else {
		set(annotationWatches, "")
	}
}
