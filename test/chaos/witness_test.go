// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// witness sees every state of every run, by a watch of its own past any fault,
// and holds each against what went before.
type witness struct {
	world *world

	mu     sync.Mutex
	latest map[string]*v1alpha1.ChatRun
	// leftAt is when a run was first seen not to stream an attempt any more.
	leftAt map[streamed]time.Time
	wrong  []string
	events int
	lost   int
	// losing tells of each attempt that was lost with its worker.
	losing []string
	ended  int
	// queued counts how often a run was told that it waits for a place, also anew
	// with another message.
	queued  int
	changed chan struct{} // closed and replaced at every event
}

func watchRuns(ctx context.Context, world *world) *witness {
	GinkgoHelper()
	var none v1alpha1.ChatRunList
	Expect(plane.Client.List(ctx, &none, client.InNamespace(world.namespace))).To(Succeed())
	// The API server cuts a watch that lags on a busy machine; it goes on where it was.
	events, err := watchtools.NewRetryWatcherWithContext(context.WithoutCancel(ctx), none.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return plane.Client.Watch(ctx, &v1alpha1.ChatRunList{}, client.InNamespace(world.namespace), &client.ListOptions{Raw: &o})
		},
	})
	Expect(err).NotTo(HaveOccurred())
	w, done, stopped := &witness{world: world, latest: map[string]*v1alpha1.ChatRun{}, leftAt: map[streamed]time.Time{}, changed: make(chan struct{})}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for e := range events.ResultChan() {
			if run, ok := e.Object.(*v1alpha1.ChatRun); ok && e.Type != watch.Deleted {
				w.see(run)
			}
		}
		select {
		case <-stopped:
		default:
			w.violated("the witness's watch ended")
		}
	}()
	DeferCleanup(func() {
		close(stopped)
		events.Stop()
		<-done
	})
	return w
}

// streamed is an attempt of a run.
type streamed struct {
	run     string
	attempt int
}

// see takes in one state.
func (w *witness) see(run *v1alpha1.ChatRun) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.latest[run.Name]
	w.latest[run.Name] = run
	w.events++
	close(w.changed)
	w.changed = make(chan struct{})

	if out := run.Status.Output; out != nil {
		whole := w.world.script.text(run.Spec.Prompt)
		inline := whole[:min(len(whole), v1alpha1.MaxInlineOutputBytes)]
		if out.Text != inline || (out.ConfigMapName != "") != (len(inline) < len(whole)) {
			w.violate("%s: an output that is not the answer: %q, and more in %q", run.Name, out.Text, out.ConfigMapName)
		}
	}
	if before == nil {
		return
	}
	if attemptOf(run) < attemptOf(before) || attemptOf(run) > attemptOf(before)+1 {
		w.violate("%s: attempt %d follows attempt %d", run.Name, attemptOf(run), attemptOf(before))
	}
	if before.Status.Phase == v1alpha1.PhaseStreaming && (run.Status.Phase != v1alpha1.PhaseStreaming || attemptOf(run) != attemptOf(before)) {
		w.leftAt[streamed{run.Name, attemptOf(before)}] = time.Now()
	}
	if run.Status.LastErrorReason == "WorkerLost" && run.Status.Phase == v1alpha1.PhaseRetrying && before.Status.Phase == v1alpha1.PhaseStreaming {
		w.lost++
		w.losing = append(w.losing, fmt.Sprintf("%s, attempt %d of %s, found by %s: %s", run.Name, attemptOf(run), before.Status.Worker, run.Status.Worker, run.Status.LastError))
	}
	if c := queuedCondition(run); c != nil && !equality.Semantic.DeepEqual(c, queuedCondition(before)) {
		w.queued++
	}
	switch {
	case finished(before) && !equality.Semantic.DeepEqual(before.Status, run.Status):
		w.violate("%s: its status changed after its end: %+v, then %+v", run.Name, before.Status, run.Status)
	case finished(run) && !finished(before):
		w.ended++
	}
}

// queuedCondition is the condition of a run that waits for a place; nil of any
// other.
func queuedCondition(run *v1alpha1.ChatRun) *metav1.Condition {
	c := meta.FindStatusCondition(run.Status.Conditions, v1alpha1.ConditionSucceeded)
	if c == nil || c.Reason != v1alpha1.ReasonQueued {
		return nil
	}
	return c
}

func (w *witness) violated(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.violate(format, args...)
}

func (w *witness) violate(format string, args ...any) {
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

func (w *witness) losses() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.losing)
}

func (w *witness) violations() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.wrong)
}

// sight is what a witness has seen.
type sight struct {
	// events, attempts by which a worker was lost, runs that ended, runs that have
	// a title, and how often one was told that it is queued.
	events, lost, ended, titled, queued int
	// phases counts the runs that stand in each.
	phases map[v1alpha1.Phase]int
	// streaming counts the runs that each replica streams.
	streaming map[string]int
}

func (w *witness) sight() sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sightLocked()
}

func (w *witness) sightLocked() sight {
	s := sight{events: w.events, lost: w.lost, ended: w.ended, queued: w.queued, phases: map[v1alpha1.Phase]int{}, streaming: map[string]int{}}
	for _, run := range w.latest {
		s.phases[run.Status.Phase]++
		if run.Status.Phase == v1alpha1.PhaseStreaming {
			s.streaming[run.Status.Worker]++
		}
		if run.Annotations[v1alpha1.AnnotationTitle] != "" {
			s.titled++
		}
	}
	return s
}

// waitFor returns once done reports true, which it is asked at every event, or
// with the cause of ctx's end.
func (w *witness) waitFor(ctx context.Context, done func(sight) bool) error {
	for {
		w.mu.Lock()
		changed, s := w.changed, w.sightLocked()
		w.mu.Unlock()
		if done(s) {
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-changed:
		}
	}
}

// unfinished names the runs that are not at their end, for a message.
func (w *witness) unfinished() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name, run := range w.latest {
		if !finished(run) {
			names = append(names, fmt.Sprintf("%s: %s, attempt %d, %s, retrying at %v", name, run.Status.Phase, attemptOf(run), run.Status.LastErrorReason, run.Status.RetryingAt))
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("%d runs are not finished: %q", len(names), names)
}

func finished(run *v1alpha1.ChatRun) bool {
	return meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionFinished)
}
