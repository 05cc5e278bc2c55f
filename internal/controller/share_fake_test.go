// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/sharding"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// shelfServer is an API server for runs: it has versions, lists in pages, and
// watches that are late by themselves.
type shelfServer struct {
	// filters says whether it knows shardSelector, and says that it does as CRDs do
	// not.
	filters, says bool
	// page bounds its pages, whatever is asked; 0 does not.
	page int
	// late returns how late the next event of a watch is, of runs that are not
	// finished alone or of all.
	late func(unfinished bool) time.Duration

	mu      sync.Mutex
	version int64
	// compacted is the version before which no watch starts.
	compacted int64
	runs      map[types.NamespacedName]*v1alpha1.ChatRun
	log       []logged
	changed   chan struct{}
	watches   []*shelfWatch
	// fault, if set, is what the next list answers, and then is called after it.
	fault error
	then  func()
	// listed counts the runs that were sent in lists, and lists the lists.
	listed, lists int
}

// logged is what became of one run at one version.
type logged struct {
	version       int64
	before, after *v1alpha1.ChatRun
}

func newShelfServer() *shelfServer {
	return &shelfServer{
		filters: true, late: func(bool) time.Duration { return 0 }, version: 100,
		runs: map[types.NamespacedName]*v1alpha1.ChatRun{}, changed: make(chan struct{}),
	}
}

// put creates or changes a run; delete deletes it.
func (s *shelfServer) put(run *v1alpha1.ChatRun) { s.write(client.ObjectKeyFromObject(run), run) }

func (s *shelfServer) delete(name string) {
	s.write(types.NamespacedName{Namespace: "ns", Name: name}, nil)
}

func (s *shelfServer) write(key types.NamespacedName, after *v1alpha1.ChatRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.runs[key]
	s.version++
	if after == nil {
		delete(s.runs, key)
	} else {
		after = after.DeepCopy()
		after.ResourceVersion = strconv.FormatInt(s.version, 10)
		s.runs[key] = after
	}
	s.log = append(s.log, logged{s.version, before, after})
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *shelfServer) get(name string) *v1alpha1.ChatRun {
	s.mu.Lock()
	defer s.mu.Unlock()
	if run := s.runs[types.NamespacedName{Namespace: "ns", Name: name}]; run != nil {
		return run.DeepCopy()
	}
	return nil
}

// fail has the next list fail.
func (s *shelfServer) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = err
}

// open returns the watches that are open: those of one scope, in order.
func (s *shelfServer) open() []*shelfWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.watches)
}

func (s *shelfServer) counts() (listed, lists int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listed, s.lists
}

var shardRange = regexp.MustCompile(`shardRange\(([a-z.]+), '(0x[0-9a-f]+)', '(0x[0-9a-f]+)'\)`)

// compact forgets what was before now: a watch that is behind cannot begin.
func (s *shelfServer) compact() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.compacted = s.version
}

// listWatch is the server as controller-runtime hands it to an informer.
func listWatch(s *shelfServer) *toolscache.ListWatch {
	return &toolscache.ListWatch{ListWithContextFunc: s.ListWithContext, WatchFuncWithContext: s.WatchWithContext}
}

// matcher says which runs a request selects.
func (s *shelfServer) matcher(o metav1.ListOptions) (func(*v1alpha1.ChatRun) bool, error) {
	byField, err := fields.ParseSelector(o.FieldSelector)
	if err != nil {
		return nil, err
	}
	// The suite in test/shards has the API server's own parser.
	var ranges []sharding.ShardRangeRequirement
	for _, m := range shardRange.FindAllStringSubmatch(o.ShardSelector, -1) {
		ranges = append(ranges, sharding.ShardRangeRequirement{Key: m[1], Start: m[2], End: m[3]})
	}
	byShard := sharding.NewSelector(ranges...)
	return func(run *v1alpha1.ChatRun) bool {
		if run == nil || !byField.Matches(fields.Set{"status.phase": string(run.Status.Phase)}) {
			return false
		}
		in, err := byShard.Matches(run)
		return err == nil && (in || !s.filters)
	}, nil
}

// ListWithContext implements cache.ListerWithContext.
func (s *shelfServer) ListWithContext(_ context.Context, o metav1.ListOptions) (runtime.Object, error) {
	matches, err := s.matcher(o)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer func() {
		then := s.then
		s.then = nil
		s.mu.Unlock()
		if then != nil {
			then()
		}
	}()
	s.lists++
	if err := s.fault; err != nil {
		s.fault = nil
		return nil, err
	}
	at, from := s.version, 0
	if o.Continue != "" {
		if _, err := fmt.Sscanf(o.Continue, "%d/%d", &at, &from); err != nil {
			return nil, err
		}
	}
	list := &v1alpha1.ChatRunList{ListMeta: metav1.ListMeta{ResourceVersion: strconv.FormatInt(at, 10)}}
	if s.says && o.ShardSelector != "" {
		list.ShardInfo = &metav1.ShardInfo{Selector: o.ShardSelector}
	}
	all := s.at(at)
	for i := from; i < len(all); i++ {
		if !matches(all[i]) {
			continue
		}
		if limit := int(o.Limit); limit > 0 && s.page > 0 && len(list.Items) == min(limit, s.page) {
			list.Continue = fmt.Sprintf("%d/%d", at, i)
			break
		}
		list.Items = append(list.Items, *all[i].DeepCopy())
	}
	s.listed += len(list.Items)
	return list, nil
}

// at returns the runs as they were at a version, in the order of their names.
func (s *shelfServer) at(v int64) []*v1alpha1.ChatRun {
	runs := map[types.NamespacedName]*v1alpha1.ChatRun{}
	for _, e := range s.log {
		switch {
		case e.version > v:
		case e.after == nil:
			delete(runs, client.ObjectKeyFromObject(e.before))
		default:
			runs[client.ObjectKeyFromObject(e.after)] = e.after
		}
	}
	var all []*v1alpha1.ChatRun
	for _, run := range runs {
		all = append(all, run)
	}
	slices.SortFunc(all, func(a, b *v1alpha1.ChatRun) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return all
}

// shelfWatch is one watch of the server.
type shelfWatch struct {
	result chan watch.Event
	cancel context.CancelFunc
	// more are events that the test sends by itself.
	more chan watch.Event
}

func (w *shelfWatch) ResultChan() <-chan watch.Event { return w.result }
func (w *shelfWatch) Stop()                          { w.cancel() }

// WatchWithContext implements cache.WatcherWithContext.
func (s *shelfServer) WatchWithContext(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	matches, err := s.matcher(o)
	if err != nil {
		return nil, err
	}
	from, err := strconv.ParseInt(o.ResourceVersion, 10, 64)
	if err != nil || !o.Watch || !o.AllowWatchBookmarks {
		return nil, errors.Join(errors.New("what watch is that"), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if from < s.compacted {
		return nil, apierrors.NewResourceExpired("too old")
	}
	ctx, cancel := context.WithCancel(ctx)
	w := &shelfWatch{result: make(chan watch.Event), cancel: cancel, more: make(chan watch.Event, 10)}
	s.watches = append(s.watches, w)
	go s.serve(ctx, w, from, o.FieldSelector != "", matches)
	return w, nil
}

// serve sends what became of the runs after a version, one after the other.
func (s *shelfServer) serve(ctx context.Context, w *shelfWatch, from int64, unfinished bool, matches func(*v1alpha1.ChatRun) bool) {
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.watches = slices.DeleteFunc(s.watches, func(other *shelfWatch) bool { return other == w })
		close(w.result)
	}()
	for {
		s.mu.Lock()
		i, _ := slices.BinarySearchFunc(s.log, from+1, func(e logged, v int64) int { return int(e.version - v) })
		rest, changed := s.log[i:], s.changed
		s.mu.Unlock()
		var event watch.Event
		if len(rest) > 0 {
			from = rest[0].version
			event = rest[0].as(matches)
			if event.Object == nil {
				continue
			}
			select {
			case <-time.After(s.late(unfinished)):
			case <-ctx.Done():
				return
			}
		} else {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				continue
			case event = <-w.more:
				if event.Type == watch.Bookmark {
					event.Object = &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{ResourceVersion: strconv.FormatInt(from, 10)}}
				}
			}
		}
		select {
		case w.result <- event:
			if event.Type == watch.Error {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// as is what a change is to a watch.
func (e logged) as(matches func(*v1alpha1.ChatRun) bool) watch.Event {
	was, is := matches(e.before), matches(e.after)
	switch {
	case is && was:
		return watch.Event{Type: watch.Modified, Object: e.after.DeepCopy()}
	case is:
		return watch.Event{Type: watch.Added, Object: e.after.DeepCopy()}
	case was:
		last := e.before.DeepCopy()
		last.ResourceVersion = strconv.FormatInt(e.version, 10)
		return watch.Event{Type: watch.Deleted, Object: last}
	}
	return watch.Event{}
}

// fails is a watch event that tells of an error.
func fails(err *apierrors.StatusError) watch.Event {
	return watch.Event{Type: watch.Error, Object: &err.ErrStatus}
}

// uidIn returns a UID of one of some buckets.
func uidIn(random *rand.Rand, has func(uid string) bool) types.UID {
	for {
		if uid := fmt.Sprintf("%016x-%016x", random.Uint64(), random.Uint64()); has(uid) {
			return types.UID(uid)
		}
	}
}
