// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// claimGrace is how long the replica whose turn it is has for a run that nobody
// owns, until the next one in the order takes it, and so on. A replica that renews
// its Lease and claims nothing is one with a backlog, or with a fault that we do not
// know of: no run waits for it for ever.
const claimGrace = 30 * time.Second

// ownership is whose a run is.
type ownership struct {
	// unheld says that we may not act at all: others may take us for gone.
	unheld bool
	// otherOwnerLive says that status.worker is another replica, which lives. Where
	// that is not what our watch told, turnAfter is when to look again.
	otherOwnerLive bool
	// othersTurn says that nobody owns the run, and that it falls to another
	// replica; turnAfter is when it is ours if that one lets it lie, 0 if never.
	othersTurn bool
	turnAfter  time.Duration
	// misplaced says that the run is ours, and its next attempt to be made by the
	// replica that holds all places of its provider.
	misplaced bool
}

// lets says whether we may do more than look.
func (o ownership) lets() bool { return !o.unheld && !o.otherOwnerLive && !o.othersTurn }

// position is what whose-turn-it-is depends on.
type position struct {
	me             string
	held, stopping bool
	// owner is status.worker, and state what it is to us.
	owner string
	state members.State
	// streaming and finished are the run's, and told says that its status tells why it
	// waits: then the replica whose turn it is knows of it.
	streaming, finished, told bool
	// holder is the replica that the run falls to if nobody owns it, empty if there
	// is none. limited says that it holds all places of the run's provider.
	holder  string
	limited bool
	// until is for how long the run waits yet, as its status promises.
	until time.Duration
	// rank is our place in the order of replicas for the run, from 0; below 0 if we
	// have none.
	rank int
}

// ownership decides whose the run is, a pure function. lies is for how long the run
// is known to lie unowned while it is another's turn; it is asked for only then.
func (p position) ownership(lies func() time.Duration) ownership {
	if !p.held {
		return ownership{unheld: true}
	}
	if p.owner != "" && !p.finished {
		switch {
		case p.owner == p.me && (p.streaming || !p.stopping):
			elsewhere := p.holder != "" && p.holder != p.me
			return ownership{misplaced: !p.streaming && p.limited && elsewhere}
		case p.owner != p.me && (p.state == members.Live || p.state == members.Draining && p.streaming):
			return ownership{otherOwnerLive: true}
		}
	}
	// Nobody owns it: it is new, or was handed over, or its owner is gone, or drains
	// and leaves to others what waits. Where nobody takes on anything, whoever comes
	// may see to what needs no attempt.
	if p.holder == p.me || p.holder == "" {
		return ownership{}
	}
	if p.finished || p.limited || p.told || p.rank < 0 {
		return ownership{othersTurn: true}
	}
	if p.until > 0 {
		return ownership{othersTurn: true, turnAfter: p.until + time.Duration(p.rank)*claimGrace}
	}
	if after := time.Duration(p.rank)*claimGrace - lies(); after > 0 {
		return ownership{othersTurn: true, turnAfter: after}
	}
	return ownership{}
}

// ownership finds out whose a run is.
func (r *ChatRunReconciler) ownership(ctx context.Context, run *v1alpha1.ChatRun, stopping bool) ownership {
	p := position{
		me: r.worker, held: r.members.Held(), stopping: stopping,
		owner: run.Status.Worker, state: r.members.State(run.Namespace, run.Status.Worker),
		streaming: isStreaming(run), finished: isFinished(run), told: tellsWhy(run), rank: -1,
	}
	if at := run.Status.RetryingAt; at != nil {
		p.until = at.Sub(r.clock.Now())
	}
	p.holder, p.limited = holder(ctx, r.client, r.members, run)
	if p.holder != p.me {
		if rank, ok := r.members.Rank(run.Namespace, string(run.UID)); ok {
			p.rank = rank
		}
	}
	key := client.ObjectKeyFromObject(run)
	o := p.ownership(func() time.Duration { return r.unowned.since(key, run.UID, r.clock.Now()) })
	if !o.othersTurn {
		r.unowned.forget(key)
	}
	return o
}

// goneRetry is when a run is looked at again whose owner's Lease said something else
// than our watch told, if no event comes before.
const goneRetry = time.Second

// takesOver says whether an attempt of another owner, which may be under way, is to
// be written off. Whatever else is taken over needs no more than a locked write.
func takesOver(run *v1alpha1.ChatRun, o ownership, worker string) bool {
	return o.lets() && isStreaming(run) && run.Status.Worker != "" && run.Status.Worker != worker
}

// makeSure reads the Lease of a run's owner that is gone, for all we know. The run
// and the Leases come by different watches, so that a replica may be new, or back,
// and have claimed the run before we hear of it. This read is younger than that of
// the run, and the write that follows is refused if the run has changed since.
func (r *ChatRunReconciler) makeSure(ctx context.Context, run *v1alpha1.ChatRun, o ownership) (ownership, error) {
	gone, err := r.members.Gone(ctx, run.Namespace, run.Status.Worker)
	if err != nil {
		return o, err
	}
	if !gone {
		return ownership{otherOwnerLive: true, turnAfter: goneRetry}, nil
	}
	return o, nil
}

// holder returns the replica that a run falls to if nobody owns it, and whether
// that one holds all places of its provider.
func holder(ctx context.Context, c client.Reader, m *members.Members, run *v1alpha1.ChatRun) (name string, limited bool) {
	if !isFinished(run) {
		if name, limited := placesOf(ctx, c, m, run); limited {
			return name, true
		}
	}
	return m.OwnerOf(run.Namespace, string(run.UID)), false
}

// placesOf returns the replica that holds all places of a run's provider, and whether
// that has a limit.
func placesOf(ctx context.Context, c client.Reader, m *members.Members, run *v1alpha1.ChatRun) (name string, limited bool) {
	p := &v1alpha1.ChatProvider{}
	if err := c.Get(ctx, providerKey(run), p); err != nil || limitOf(p) == 0 {
		return "", false
	}
	return m.HolderOf(p.Namespace, string(p.UID)), true
}

// toRead returns the replica at which the stream of a run that is not finished is
// read: its owner, or who it falls to; empty if that is this one.
func toRead(ctx context.Context, c client.Reader, m *members.Members, run *v1alpha1.ChatRun) string {
	name := run.Status.Worker
	switch state := m.State(run.Namespace, name); {
	case name == "", state == members.Gone && name != m.Me(), state == members.Draining && !isStreaming(run):
		name, _ = holder(ctx, c, m, run)
	}
	if name == m.Me() {
		return ""
	}
	return name
}

func limitOf(p *v1alpha1.ChatProvider) int {
	if p.Spec.Limits == nil {
		return 0
	}
	return int(valueOr(p.Spec.Limits.MaxConcurrentStreams, 0))
}

// tellsWhy says whether the status tells why a run waits.
func tellsWhy(run *v1alpha1.ChatRun) bool {
	switch reasonOf(run) {
	case "", v1alpha1.ReasonPending, v1alpha1.ReasonStreaming, v1alpha1.ReasonRetrying:
		return false
	}
	return true
}

// unowned remembers since when runs are known to lie unowned while it is another
// replica's turn.
type unowned struct {
	mu    sync.Mutex
	first map[types.NamespacedName]lying
}

type lying struct {
	uid   types.UID
	since time.Time
}

// since returns for how long that is known.
func (u *unowned) since(key types.NamespacedName, uid types.UID, now time.Time) time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	if l, known := u.first[key]; known && l.uid == uid {
		return now.Sub(l.since)
	}
	if u.first == nil {
		u.first = map[types.NamespacedName]lying{}
	}
	u.first[key] = lying{uid, now}
	return 0
}

// forget is for a run that is in somebody's hands, or gone.
func (u *unowned) forget(key types.NamespacedName) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.first, key)
}

// reassign looks at all runs that may be somebody else's by now, after the members
// changed, and at providers, which one replica looks after.
type reassign struct {
	*ChatRunReconciler
	runs, providers *queue
	changed         chan struct{}
}

// signal says that the members changed.
func (r *reassign) signal() {
	select {
	case r.changed <- struct{}{}:
	default: // it was said, and nothing was done about it yet
	}
}

// Start implements manager.Runnable.
func (r *reassign) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.changed:
			if err := r.all(ctx); err != nil {
				ctrl.LoggerFrom(ctx).Error(err, "looking at what changes hands with the members")
			}
		}
	}
}

func (r *reassign) all(ctx context.Context) error {
	var runs v1alpha1.ChatRunList
	var providers v1alpha1.ChatProviderList
	// Nothing of what is listed is changed.
	if err := errors.Join(r.client.List(ctx, &runs, client.UnsafeDisableDeepCopy), r.client.List(ctx, &providers, client.UnsafeDisableDeepCopy)); err != nil {
		return err
	}
	for i := range runs.Items {
		if run := &runs.Items[i]; !isFinished(run) || run.Spec.TTLSecondsAfterFinished != nil {
			r.runs.add(client.ObjectKeyFromObject(run))
		}
	}
	for _, run := range r.pool.Runs() {
		r.runs.add(types.NamespacedName{Namespace: run.Namespace, Name: run.Name})
	}
	for i := range providers.Items {
		r.providers.add(client.ObjectKeyFromObject(&providers.Items[i]))
	}
	return nil
}
