// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"math/bits"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

const (
	// certain is after how many runs, none of which had to be dropped from a share of
	// three quarters at most, the API server is taken to filter. One that does not
	// sends that by chance once in a hundred million times.
	certain = 64
	// unfinished selects the runs whose phase is not the last.
	unfinished = "status.phase!=" + string(v1alpha1.PhaseSucceeded) +
		",status.phase!=" + string(v1alpha1.PhaseFailed) + ",status.phase!=" + string(v1alpha1.PhaseCancelled)
)

// Share is what of all runs a replica keeps in its cache.
type Share interface {
	// Share returns the buckets all of whose runs are kept, and a channel that is
	// closed when they change.
	Share() (members.Buckets, <-chan struct{})
	// Keep says whether a run of another bucket that is not finished is kept as well.
	// It must not hold the run longer than it takes, nor wait for what the cache of
	// runs has to tell.
	Keep(run *v1alpha1.ChatRun) bool
	// KeepChanged returns a channel that is closed when Keep may say otherwise than it
	// did of a run that is as it was.
	KeepChanged() <-chan struct{}
}

// Sharded makes a manager's cache hold a share of the runs. What it lacks has to be
// read past it, so Setup and the Source have to know. It goes with Slim.
func Sharded(o ctrl.Options, runs *ShardedRuns) ctrl.Options {
	o.Cache.NewInformer = runs.informer
	return o
}

// ShardedRuns lists and watches a share of the runs for one cache: the runs in the
// buckets of the share, and beside them the unfinished ones that are kept. The API
// server is asked for no more than that. One that does not know how to filter by
// shard sends all, and what is not asked for is dropped here.
type ShardedRuns struct {
	share Share
	log   logr.Logger
	// from lists and watches all runs.
	from toolscache.ListerWatcherWithContext
	// cached returns a run as the cache has it; nil if it does not.
	cached func(types.NamespacedName) *v1alpha1.ChatRun

	// scope and shown are of the last list, and the watches since: the reflector lists
	// or watches, one at a time. No scope means that it has to list.
	scope *scope
	shown *shown

	mu      sync.Mutex
	watched members.Buckets
	// listed is when the last list that went through was begun, shownAt when it was
	// passed on.
	listed, shownAt time.Time
	// told says what was logged of who filters.
	toldYes, toldNo bool
}

// NewShardedRuns returns what Sharded needs. The share may change at any time.
func NewShardedRuns(share Share, log logr.Logger) *ShardedRuns {
	return &ShardedRuns{share: share, log: log, cached: func(types.NamespacedName) *v1alpha1.ChatRun { return nil }}
}

// Watched returns the buckets that the cache covers: those of the last list that
// went through. Before the first it is empty. A replica that leaves a bucket to
// another must go on watching it until the other one's Watched has it.
func (s *ShardedRuns) Watched() members.Buckets {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watched
}

// informer makes the cache's informers: that of runs is ours.
func (s *ShardedRuns) informer(from toolscache.ListerWatcher, object runtime.Object, resync time.Duration, by toolscache.Indexers) toolscache.SharedIndexInformer {
	if _, ok := object.(*v1alpha1.ChatRun); !ok {
		return toolscache.NewSharedIndexInformer(from, object, resync, by)
	}
	s.from = toolscache.ToListerWatcherWithContext(from)
	informer := toolscache.NewSharedIndexInformer(s, object, resync, by)
	s.cached = func(key types.NamespacedName) *v1alpha1.ChatRun {
		object, _, err := informer.GetIndexer().GetByKey(key.String())
		if err != nil {
			return nil
		}
		run, _ := object.(*v1alpha1.ChatRun)
		return run
	}
	return informer
}

// IsWatchListSemanticsUnSupported makes the reflector list: a list that comes as
// events of one watch has one version, and we have two watches.
func (*ShardedRuns) IsWatchListSemanticsUnSupported() bool { return true }

// List implements cache.Lister, for those who know no contexts.
func (s *ShardedRuns) List(o metav1.ListOptions) (runtime.Object, error) {
	return s.ListWithContext(context.Background(), o)
}

// Watch implements cache.Watcher, likewise.
func (s *ShardedRuns) Watch(o metav1.ListOptions) (watch.Interface, error) {
	return s.WatchWithContext(context.Background(), o)
}

// ListWithContext lists the share as it is now, always the latest state of it and
// always whole: it pages by itself.
func (s *ShardedRuns) ListWithContext(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
	next, list, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	s.scope, s.shown = next, shownOf(list.Items)
	s.covers(next)
	return list, nil
}

// WatchWithContext goes on from where the last list, or the watch before this one,
// ended. The version in its options is of either half, so it is not looked at.
func (s *ShardedRuns) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	if s.scope == nil {
		return nil, expired("the share of the runs changed")
	}
	return startShareWatch(ctx, s, o.TimeoutSeconds)
}

// expired makes a reflector list again.
func expired(message string) *apierrors.StatusError { return apierrors.NewResourceExpired(message) }

func (s *ShardedRuns) covers(next *scope) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watched, s.listed, s.shownAt = next.buckets, next.listed, time.Now()
}

// since returns when the list was begun that the cache goes by, and when it was passed
// on to the cache, which takes it in a moment.
func (s *ShardedRuns) since() (listed, shown time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed, s.shownAt
}

// scope is what a list and the watches after it cover. A run belongs to one half by
// its UID, so all events of a run come by one watch.
type scope struct {
	buckets members.Buckets
	// moved and rekept are closed when another scope is due.
	moved, rekept <-chan struct{}
	halves        []*half
	// listed is when its list began.
	listed time.Time
}

// half is one list with its watch: the runs in the share, or those outside of it.
type half struct {
	buckets members.Buckets
	outside bool
	// version is up to where its runs are known.
	version string
}

// now returns the scope of the share as it is. What changes after it closes one of
// its channels.
func (s *ShardedRuns) now() *scope {
	sc := &scope{rekept: s.share.KeepChanged(), listed: time.Now()}
	sc.buckets, sc.moved = s.share.Share()
	if sc.buckets != 0 {
		sc.halves = append(sc.halves, &half{buckets: sc.buckets})
	}
	if sc.buckets != members.AllBuckets {
		sc.halves = append(sc.halves, &half{buckets: ^sc.buckets, outside: true})
	}
	return sc
}

// narrow asks for no more than the half.
func (h *half) narrow(o metav1.ListOptions) metav1.ListOptions {
	o.ShardSelector = h.buckets.Selector().String()
	if h.outside {
		o.FieldSelector = unfinished
	}
	return o
}

// list lists the share as it is now.
func (s *ShardedRuns) list(ctx context.Context) (*scope, *v1alpha1.ChatRunList, error) {
	sc, all := s.now(), &v1alpha1.ChatRunList{}
	at := map[types.NamespacedName]int{}
	for _, h := range sc.halves {
		if err := s.listHalf(ctx, h, func(run *v1alpha1.ChatRun) {
			key := client.ObjectKeyFromObject(run)
			switch i, twice := at[key]; {
			case !twice:
				at[key] = len(all.Items)
				all.Items = append(all.Items, *run)
			case version(all.Items[i].ResourceVersion) < version(run.ResourceVersion):
				// One was deleted, and another has its name, between the two lists.
				all.Items[i] = *run
			}
		}); err != nil {
			return nil, nil, err
		}
		all.ResourceVersion = h.version
	}
	return sc, all, nil
}

// listHalf passes the runs of a half on.
func (s *ShardedRuns) listHalf(ctx context.Context, h *half, pass func(*v1alpha1.ChatRun)) error {
	// No version asks for the latest. With the shares of former lists in mind, one
	// that is merely not older could leave a bucket behind.
	seen := 0
	return eachPage(ctx, s.from, h.narrow(metav1.ListOptions{}), func(page *v1alpha1.ChatRunList) error {
		h.version = page.ResourceVersion
		for i := range page.Items {
			run := &page.Items[i]
			if !s.belongs(h, run) || !s.keeps(h, run) {
				continue
			}
			if _, err := slim(run); err != nil {
				return err
			}
			pass(run)
		}
		seen += len(page.Items)
		s.noteFilter(h, seen, page.ShardInfo != nil)
		return nil
	})
}

// belongs says whether a run that came for a half is one of it.
func (s *ShardedRuns) belongs(h *half, run *v1alpha1.ChatRun) bool {
	if h.buckets.Has(members.BucketOf(string(run.UID))) {
		return true
	}
	s.noteDropped()
	return false
}

// keeps says whether a run of a half is to be in the cache.
func (s *ShardedRuns) keeps(h *half, run *v1alpha1.ChatRun) bool {
	return !h.outside || s.share.Keep(run)
}

// noteDropped tells, once, that the API server does not filter.
func (s *ShardedRuns) noteDropped() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.toldNo {
		s.toldNo = true
		s.log.Info("the API server does not filter runs by shard: this replica receives all, and drops those that it does not keep")
	}
}

// noteFilter tells, once, that the API server filters, if that can be seen.
func (s *ShardedRuns) noteFilter(h *half, seen int, says bool) {
	evident := seen >= certain && bits.OnesCount64(uint64(h.buckets)) <= members.NumBuckets*3/4
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.toldYes && !s.toldNo && (says || evident) {
		s.toldYes = true
		s.log.Info("the API server filters runs by shard")
	}
}

var _ toolscache.ListerWatcherWithContext = (*ShardedRuns)(nil)
