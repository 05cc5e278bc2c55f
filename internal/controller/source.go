// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	lru "k8s.io/apimachinery/pkg/util/cache"
	toolscache "k8s.io/client-go/tools/cache"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/streamer"
)

const (
	// missingTTL is how long a name is taken for missing after the API server said
	// so, unless the watch knows better. Whoever asks again and again for a run that
	// is not there costs it one request in that time.
	missingTTL = time.Second
	// maxMissing bounds the names that are remembered.
	maxMissing = 4096
	// createdLook is how often those who wait for a run look for it where the cache
	// holds a share of the runs, and no event may come.
	createdLook = time.Second
)

// Source tells the stream endpoint what stands in a run's object.
type Source struct {
	// cache answers as a rule. live is asked for what the cache does not know: a
	// reader often comes right behind the apply, and before the watch event.
	cache, live client.Reader
	members     *members.Members

	// missing are names that no run had a moment ago.
	missing *lru.LRUExpireCache
	texts   *texts
	// sharded says that the cache holds a share of the runs.
	sharded bool
	// only are the namespaces that the cache holds; none is all.
	only []string

	mu sync.Mutex
	// waiting are those who wait for a run to be created.
	waiting map[types.NamespacedName]map[chan struct{}]struct{}
}

// NewSource returns a source that reads by a manager's clients, and knows the other
// replicas.
func NewSource(ctx context.Context, mgr ctrl.Manager, m *members.Members) (*Source, error) {
	s := newSource(mgr.GetClient(), mgr.GetAPIReader(), m)
	informer, err := mgr.GetCache().GetInformer(ctx, &v1alpha1.ChatRun{}, cache.BlockUntilSynced(false))
	if err != nil {
		return nil, fmt.Errorf("watching runs for the stream: %w", err)
	}
	_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{AddFunc: s.created})
	if err != nil {
		return nil, fmt.Errorf("watching runs for the stream: %w", err)
	}
	return s, nil
}

func newSource(cached, live client.Reader, m *members.Members) *Source {
	return &Source{
		cache: cached, live: live, members: m, texts: newTexts(live),
		missing: lru.NewLRUExpireCache(maxMissing), waiting: map[types.NamespacedName]map[chan struct{}]struct{}{},
	}
}

// Sharded tells the source that the cache holds a share of the runs. It is called
// before anybody reads.
func (s *Source) Sharded() { s.sharded = true }

// Only tells the source which namespaces the cache holds; none is all. It is called
// before anybody reads.
func (s *Source) Only(namespaces []string) { s.only = namespaces }

// created wakes those who wait for a run.
func (s *Source) created(object any) {
	run, ok := object.(*v1alpha1.ChatRun)
	if !ok {
		return
	}
	key := client.ObjectKeyFromObject(run)
	s.missing.Remove(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.waiting[key] {
		wake(c)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it was woken already
	}
}

// Created implements streamer.Source.
func (s *Source) Created(namespace, name string) (<-chan struct{}, func()) {
	key, c := types.NamespacedName{Namespace: namespace, Name: name}, make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[key] == nil {
		s.waiting[key] = map[chan struct{}]struct{}{}
	}
	s.waiting[key][c] = struct{}{}
	var look *time.Timer
	if s.sharded {
		look = time.AfterFunc(createdLook, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, waits := s.waiting[key][c]; waits {
				wake(c)
				look.Reset(createdLook)
			}
		})
	}
	return c, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if look != nil {
			look.Stop()
		}
		if delete(s.waiting[key], c); len(s.waiting[key]) == 0 {
			delete(s.waiting, key)
		}
	}
}

// Find implements streamer.Source.
func (s *Source) Find(ctx context.Context, namespace, name string) (streamer.View, error) {
	if len(s.only) > 0 && !slices.Contains(s.only, namespace) {
		return streamer.View{}, streamer.ErrNotWatched
	}
	run := &v1alpha1.ChatRun{}
	key := types.NamespacedName{Namespace: namespace, Name: name}
	err := s.cache.Get(ctx, key, run)
	if apierrors.IsNotFound(err) {
		if _, known := s.missing.Get(key); known {
			return streamer.View{}, streamer.ErrNotFound
		}
		if err = s.live.Get(ctx, key, run); apierrors.IsNotFound(err) {
			s.missing.Add(key, nil, missingTTL)
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return streamer.View{}, streamer.ErrNotFound
	case err != nil:
		// Readers are told no more than that it did not work.
		log.FromContext(ctx).WithName("stream").Error(err, "reading a run for the stream", "namespace", namespace, "name", name)
		return streamer.View{}, fmt.Errorf("reading the run: %w", err)
	}
	view := streamer.View{
		Run: runOf(run), Status: streamStatus(run), Finished: isFinished(run),
		Title: run.Annotations[v1alpha1.AnnotationTitle],
	}
	if !view.Finished {
		view.Owner = toRead(ctx, s.cache, s.members, run)
	}
	switch {
	case view.Finished:
		view.End = endOf(run)
		if keepsSome(run) {
			bytes := keptBytes(run.Status.Output)
			view.Load = func(ctx context.Context) (string, func(), error) {
				text, release, err := s.texts.load(ctx, view.Run, bytes)
				if err != nil && ctx.Err() == nil && !errors.Is(err, streamer.ErrNotFound) {
					log.FromContext(ctx).WithName("stream").Error(err, "reading an answer for the stream", "namespace", namespace, "name", name)
				}
				return text, release, err
			}
		}
	case reasonOf(run) == v1alpha1.ReasonRetrying && run.Status.RetryingAt != nil:
		pending := streamRetry(run)
		view.Retry = &pending
	}
	return view, nil
}
