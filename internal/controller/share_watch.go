// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

// shareWatch is one watch to the reflector, and the watches of both halves of the
// scope beneath. It ends when one of them does: the reflector comes back, and each
// goes on from where it was. When the share changes it lists anew by itself, and
// passes on what differs. The reflector's own way, which it takes if that fails,
// waits longer each time before it lists, and runs would wait for their replica.
type shareWatch struct {
	*ShardedRuns
	timeout *int64
	// open are the watches, in the order of the scope's halves.
	open []watch.Interface

	result chan watch.Event
	done   chan struct{}
	cancel context.CancelFunc

	// listed is when the scope began, as far as this watch knows.
	listed time.Time
	// to, moved, rekept and again tell what of the share changed since, and due when
	// that is acted on.
	to            members.Buckets
	moved, rekept <-chan struct{}
	again         bool
	due           *time.Timer
}

// startShareWatch starts one. It ends with ctx, or by Stop.
func startShareWatch(ctx context.Context, s *ShardedRuns, timeout *int64) (watch.Interface, error) {
	ctx, cancel := context.WithCancel(ctx)
	w := &shareWatch{
		ShardedRuns: s, timeout: timeout, cancel: cancel, listed: s.scope.listed,
		result: make(chan watch.Event), done: make(chan struct{}), due: time.NewTimer(0),
	}
	if err := w.openAll(ctx); err != nil {
		cancel()
		return nil, err
	}
	w.begin()
	go w.run(ctx)
	return w, nil
}

// ResultChan implements watch.Interface.
func (w *shareWatch) ResultChan() <-chan watch.Event { return w.result }

// Stop implements watch.Interface. What is shared with the next list or watch is
// not touched any more when it returns.
func (w *shareWatch) Stop() {
	w.cancel()
	<-w.done
}

// begin forgets what changed before the scope.
func (w *shareWatch) begin() {
	w.due.Stop()
	w.to, w.again = w.scope.buckets, false
	w.moved, w.rekept = w.scope.moved, w.scope.rekept
}

// openAll starts the watches of the scope.
func (w *shareWatch) openAll(ctx context.Context) error {
	for _, h := range w.scope.halves {
		from, err := w.from.WatchWithContext(ctx, h.narrow(metav1.ListOptions{
			Watch: true, AllowWatchBookmarks: true, ResourceVersion: h.version, TimeoutSeconds: w.timeout,
		}))
		if err != nil {
			w.closeAll()
			return fmt.Errorf("watching a share of the runs: %w", err)
		}
		w.open = append(w.open, from)
	}
	return nil
}

func (w *shareWatch) closeAll() {
	for _, from := range w.open {
		from.Stop()
	}
	w.open = nil
}

// run passes events on until one of the watches ends.
func (w *shareWatch) run(ctx context.Context) {
	defer close(w.done)
	defer close(w.result)
	defer w.cancel()
	defer w.due.Stop()
	defer func() { w.closeAll() }()
	for w.step(ctx) {
	}
}

// step waits for what comes next. It reports whether the watch goes on.
func (w *shareWatch) step(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case e, ok := <-w.events(0):
		return ok && w.take(ctx, w.scope.halves[0], e)
	case e, ok := <-w.events(1):
		return ok && w.take(ctx, w.scope.halves[1], e)
	case <-w.moved:
		w.to, w.moved = w.share.Share()
		w.arm()
	case <-w.rekept:
		w.again, w.rekept = true, nil
		w.arm()
	case <-w.due.C:
		return w.relist(ctx)
	}
	return true
}

// events returns the events of a half; nil, on which nothing comes, if there is none.
func (w *shareWatch) events(i int) <-chan watch.Event {
	if i >= len(w.open) {
		return nil
	}
	return w.open[i].ResultChan()
}

// arm sets when what changed is acted on.
func (w *shareWatch) arm() {
	after, never := pause(w.scope.buckets, w.to, w.again)
	if never {
		w.due.Stop()
		return
	}
	w.due.Reset(time.Until(w.listed.Add(after)))
}

// take passes on what an event of a half is to the cache.
func (w *shareWatch) take(ctx context.Context, h *half, e watch.Event) bool {
	if e.Type == watch.Error {
		w.send(ctx, e)
		return false // the reflector knows what follows from it
	}
	run, ok := e.Object.(*v1alpha1.ChatRun)
	if !ok {
		return w.send(ctx, e) // it complains
	}
	if e.Type != watch.Bookmark && w.belongs(h, run) {
		kind, passes := w.shown.judge(e.Type, run, w.keeps(h, run))
		if passes && !w.send(ctx, watch.Event{Type: kind, Object: run}) {
			return false
		}
	}
	h.version = run.ResourceVersion
	if e.Type == watch.Bookmark || len(w.shown.gone) > maxGone {
		w.forget()
	}
	return true
}

// forget forgets the runs that went before all that the watches have yet to tell.
// Bookmarks end here: to the reflector one would say that both have come so far.
func (w *shareWatch) forget() {
	low := version(slices.MinFunc(w.scope.halves, func(a, b *half) int {
		return int(min(max(int64(version(a.version))-int64(version(b.version)), -1), 1))
	}).version)
	w.shown.forget(low)
	if len(w.shown.gone) > maxGone {
		clear(w.shown.gone) // a name that was used twice may show its former run for a moment
	}
}

// relist lists the share as it is now, passes on what differs, and watches from
// there. What fails is left to the reflector.
func (w *shareWatch) relist(ctx context.Context) bool {
	w.closeAll()
	before := w.shown
	w.scope, w.shown = nil, nil
	next, list, err := w.list(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Error(err, "the share of the runs changed, and is listed again")
			status := expired("the share of the runs changed").Status()
			w.send(ctx, watch.Event{Type: watch.Error, Object: &status})
		}
		return false
	}
	changes := before.changes(list.Items)
	for _, c := range changes {
		run := w.changed(c, before, list)
		if !w.send(ctx, watch.Event{Type: c.kind, Object: run}) {
			return false
		}
	}
	w.scope, w.shown = next, shownOf(list.Items)
	w.listed = next.listed
	w.covers(next)
	w.begin()
	w.log.Info("the share of the runs changed", "buckets", bits.OnesCount64(uint64(next.buckets)), "runs", len(list.Items), "changes", len(changes))
	// If it cannot watch, the reflector tries from here.
	return w.openAll(ctx) == nil
}

// changed returns the run of a change: one that leaves as the cache has it, but not
// the cache's own, which others read while it is stripped again.
func (w *shareWatch) changed(c change, before *shown, list *v1alpha1.ChatRunList) *v1alpha1.ChatRun {
	if c.index >= 0 {
		run := list.Items[c.index] // not a pointer into the list, which would stay with it
		return &run
	}
	if run := w.cached(c.key); run != nil && run.UID == before.here[c.key].uid {
		return run.DeepCopy()
	}
	return &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{
		Namespace: c.key.Namespace, Name: c.key.Name, UID: before.here[c.key].uid,
	}}
}

// send passes an event on. It reports false if nobody takes it any more; what is
// shown is then more than what the cache has, so the next to come has to list.
func (w *shareWatch) send(ctx context.Context, e watch.Event) bool {
	select {
	case w.result <- e:
		return true
	case <-ctx.Done():
		w.scope = nil
		return false
	}
}
