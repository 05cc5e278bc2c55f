// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// watchedEvery is how often we look whether what we watch has changed, which nothing
// tells. Others let go of a bucket so much later, and nobody waits for that.
const watchedEvery = 500 * time.Millisecond

// fallsTime bounds the wait for the providers to be known, at the start.
const fallsTime = 10 * time.Second

// Sharing keeps the share of the runs that a manager's cache holds as the members
// want it.
type Sharing struct {
	members *members.Members
	shares  *Shares
	runs    *ShardedRuns
	log     logr.Logger
	changed chan struct{}

	// providers reads providers.
	providers client.Reader

	mu sync.Mutex
	// limited are the providers whose runs fall to one replica.
	limited map[types.UID]bool
	// told is what others know that we watch.
	told members.Buckets
}

// NewSharing returns one that holds nothing yet.
func NewSharing(m *members.Members, log logr.Logger) *Sharing {
	s := &Sharing{members: m, log: log, changed: make(chan struct{}, 1), limited: map[types.UID]bool{}}
	s.shares = NewShares(m.Me(), s.falls)
	s.runs = NewShardedRuns(s.shares, log)
	return s
}

// Cache lets a manager's cache hold the share.
func (s *Sharing) Cache(o ctrl.Options) ctrl.Options { return Sharded(o, s.runs) }

// falls says whether a run falls to us whatever its bucket.
func (s *Sharing) falls(run *v1alpha1.ChatRun) bool {
	ctx, cancel := context.WithTimeout(context.Background(), fallsTime)
	defer cancel()
	name, limited := holder(ctx, s.providers, s.members, run)
	return limited && name == s.members.Me()
}

// takenIn is how long the cache may take to take in what it was passed.
const takenIn = 500 * time.Millisecond

// knows says whether the cache has, of the providers whose places we hold by now, all
// runs: those that others have under way count, and are outside of our share.
func (s *Sharing) knows() bool {
	listed, shown := s.runs.since()
	return listed.After(s.shares.rekeptAt()) && time.Since(shown) >= takenIn
}

// see takes note of a provider: when its limit comes or goes, its runs fall to others.
func (s *Sharing) see(o client.Object, gone bool) {
	p, ok := o.(*v1alpha1.ChatProvider)
	if !ok {
		return
	}
	s.mu.Lock()
	before, now := s.limited[p.UID], !gone && limitOf(p) > 0
	if now {
		s.limited[p.UID] = true
	} else {
		delete(s.limited, p.UID)
	}
	s.mu.Unlock()
	if now != before {
		s.shares.Rekeep()
	}
}

// handler is see, for a controller.
func (s *Sharing) handler() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ requests) { s.see(e.Object, false) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ requests) { s.see(e.ObjectNew, false) },
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, _ requests) { s.see(e.Object, true) },
	}
}

// signal says that the members, or what they watch, changed.
func (s *Sharing) signal() {
	select {
	case s.changed <- struct{}{}:
	default: // it was said, and nothing was done about it yet
	}
}

// Start implements manager.Runnable.
func (s *Sharing) Start(ctx context.Context) error {
	ticker := time.NewTicker(watchedEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
		case <-ticker.C:
		}
		s.move(ctx)
	}
}

// NeedLeaderElection implements manager.LeaderElectionRunnable: there is no leader.
func (*Sharing) NeedLeaderElection() bool { return false }

// move sets the share anew, and tells others what we watch.
func (s *Sharing) move(ctx context.Context) {
	watched := s.runs.Watched()
	s.shares.Set(members.Share(s.members.Me(), s.members.Owners(), watched, s.members.WatchedBy()))
	s.mu.Lock()
	news := watched != s.told
	s.mu.Unlock()
	if !news || !s.members.Held() {
		return
	}
	if err := s.members.Watching(ctx, watched); err != nil {
		s.log.Info("other replicas could not be told what we watch, which is tried again", "cause", err.Error())
		return
	}
	s.mu.Lock()
	s.told = watched
	s.mu.Unlock()
}
