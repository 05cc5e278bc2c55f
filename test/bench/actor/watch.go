// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/test/bench/meter"
)

// terminal are the phases of runs that are finished.
var terminal = []v1alpha1.Phase{v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled}

// Seen is what a watch of a namespace has shown.
type Seen struct {
	// Events are all of the watch; the others count runs.
	Events, Runs, Streaming, Succeeded, Failed int
}

// watched is a namespace that is watched.
type watched struct {
	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at each event
	events   int
	phases   map[string]v1alpha1.Phase
	attempts map[string]int
	ends     map[string]time.Duration
	// sum counts the phases; those of runs that are deleted stay in it if they ended.
	sum   Seen
	error error
	// started and succeeded are statuses as the manager wrote them.
	started, succeeded *v1alpha1.ChatRunStatus
}

// Watch watches a namespace from now on, for good.
func (l *Load) Watch(namespace string, _ *None) error {
	ctx := context.Background()
	var none v1alpha1.ChatRunList
	if err := l.admin.List(ctx, &none, client.InNamespace(namespace)); err != nil {
		return err
	}
	// The API server cuts a watch that lags on a busy machine; it goes on where it was.
	events, err := watchtools.NewRetryWatcherWithContext(ctx, none.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return l.admin.Watch(ctx, &v1alpha1.ChatRunList{}, client.InNamespace(namespace), &client.ListOptions{Raw: &o})
		},
	})
	if err != nil {
		return err
	}
	w := &watched{
		changed: make(chan struct{}), phases: map[string]v1alpha1.Phase{},
		attempts: map[string]int{}, ends: map[string]time.Duration{},
	}
	l.mu.Lock()
	l.watches[namespace] = w
	l.mu.Unlock()
	go func() {
		for e := range events.ResultChan() {
			if run, ok := e.Object.(*v1alpha1.ChatRun); ok {
				w.see(e.Type, run)
			}
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.error = errors.New("the watch of " + namespace + " ended")
		w.tell()
	}()
	return nil
}

// tell wakes those who wait. The caller holds the mutex.
func (w *watched) tell() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *watched) see(kind watch.EventType, run *v1alpha1.ChatRun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.tell()
	if kind == watch.Deleted {
		// What ended stays in the sum, and what it counted; a soak deletes as it goes.
		w.count(w.phases[run.Name], -1)
		delete(w.phases, run.Name)
		return
	}
	w.events++
	if before := w.phases[run.Name]; before != run.Status.Phase {
		w.count(before, -1)
		w.count(run.Status.Phase, 1)
	}
	w.phases[run.Name] = run.Status.Phase
	w.learn(run)
	if run.Status.Attempt != nil {
		w.attempts[run.Spec.Prompt] = int(*run.Status.Attempt)
	}
	if run.Status.CompletionTime != nil {
		if _, known := w.ends[run.Name]; !known {
			w.ends[run.Name] = meter.Monotonic()
		}
	}
}

// count adds to the sum. Runs that ended and are then deleted have ended still.
func (w *watched) count(phase v1alpha1.Phase, n int) {
	switch phase {
	case v1alpha1.PhaseStreaming:
		w.sum.Streaming += n
	case v1alpha1.PhaseSucceeded:
		w.sum.Succeeded += max(n, 0)
	case v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled:
		w.sum.Failed += max(n, 0)
	}
}

// learn keeps the statuses of one attempt as the manager wrote them, for the floor.
func (w *watched) learn(run *v1alpha1.ChatRun) {
	switch run.Status.Phase {
	case v1alpha1.PhaseStreaming:
		if w.started == nil {
			w.started = run.Status.DeepCopy()
		}
	case v1alpha1.PhaseSucceeded:
		if w.succeeded == nil {
			w.succeeded = run.Status.DeepCopy()
		}
	}
}

func (l *Load) watch(namespace string) (*watched, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.watches[namespace]; w != nil {
		return w, nil
	}
	return nil, errors.New("namespace " + namespace + " is not watched")
}

// Look is what was seen so far.
func (l *Load) Look(namespace string, s *Seen) error {
	w, err := l.watch(namespace)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	*s = w.seen()
	return w.error
}

func (w *watched) seen() Seen {
	s := w.sum
	s.Events, s.Runs = w.events, len(w.phases)
	return s
}

// Wish is what is waited for: at least so many that stream, or that ended well, or
// none at all.
type Wish struct {
	Namespace            string
	Streaming, Succeeded int
	Gone                 bool
	Within               time.Duration
}

// Await returns when the wish is fulfilled, and at the first run that failed.
func (l *Load) Await(wish Wish, s *Seen) error {
	w, err := l.watch(wish.Namespace)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), wish.Within)
	defer cancel()
	return w.until(ctx, func() (bool, error) {
		*s = w.seen()
		if s.Failed > 0 && !wish.Gone {
			return false, fmt.Errorf("%d runs failed", s.Failed)
		}
		return s.Streaming >= wish.Streaming && s.Succeeded >= wish.Succeeded && (!wish.Gone || s.Runs == 0), nil
	}, func() error {
		return fmt.Errorf("after %s there are %+v: %q", wish.Within, w.seen(), w.unfinished())
	})
}

// until returns once done says so, which is asked at each event, with the mutex held.
func (w *watched) until(ctx context.Context, done func() (bool, error), late func() error) error {
	for {
		w.mu.Lock()
		changed := w.changed
		ok, err := done()
		if !ok && err == nil {
			err = w.error
		}
		if !ok && err == nil && ctx.Err() != nil {
			err = late()
		}
		w.mu.Unlock()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// endOf is when the watch told that a run has ended.
func (l *Load) endOf(ctx context.Context, namespace, name string) (at time.Duration, err error) {
	w, err := l.watch(namespace)
	if err != nil {
		return 0, err
	}
	err = w.until(ctx, func() (ok bool, _ error) {
		at, ok = w.ends[name]
		return ok, nil
	}, func() error { return fmt.Errorf("run %s did not end", name) })
	return at, err
}
