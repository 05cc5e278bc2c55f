// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
)

const (
	// randomNames are few, so that a name often goes to a run of the other half.
	randomNames = 8
	randomSteps = 300
	// calm is longer than any watch is late, and than a smaller share waits; with
	// the reflector's own waits, which go up to a minute.
	calm = 5 * time.Minute
)

// TestShareConverges: whatever happens to runs, watches and shares, and in whatever
// order it comes, the cache ends with exactly the runs that are in the share or
// kept; and on the way what it has under a name never goes back in time.
func TestShareConverges(t *testing.T) {
	for seed := range uint64(100) {
		for _, filters := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d filters %v", seed, filters), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { converges(t, rand.New(rand.NewPCG(seed, 1)), filters) })
			})
		}
	}
}

func converges(t *testing.T, random *rand.Rand, filters bool) {
	w := newWorld(t, random)
	w.server.filters, w.server.page = filters, 3
	w.start()
	for range randomSteps {
		w.act()
		if random.IntN(3) == 0 {
			<-time.After(time.Duration(random.IntN(2000)) * time.Millisecond)
		}
	}
	<-time.After(calm)
	synctest.Wait()
	w.check()
}

// world is a server, a share, and an informer that has it.
type world struct {
	t        *testing.T
	random   *rand.Rand
	server   *shelfServer
	shares   *Shares
	runs     *ShardedRuns
	informer toolscache.SharedIndexInformer
	// limited are the providers whose runs fall to us.
	limited chan map[string]bool
	// latest is what was shown under a name.
	latest map[string]uint64
}

func newWorld(t *testing.T, random *rand.Rand) *world {
	w := &world{t: t, random: random, server: newShelfServer(), latest: map[string]uint64{}, limited: make(chan map[string]bool, 1)}
	w.limited <- map[string]bool{}
	w.shares = NewShares("me", func(run *v1alpha1.ChatRun) bool {
		limited := <-w.limited
		defer func() { w.limited <- limited }()
		return limited[run.Spec.ProviderRef.Name]
	})
	w.runs = NewShardedRuns(w.shares, logr.Discard())
	late := rand.New(rand.NewPCG(random.Uint64(), 2))
	lock := make(chan struct{}, 1)
	w.server.late = func(bool) time.Duration {
		lock <- struct{}{}
		defer func() { <-lock }()
		return time.Duration(late.IntN(3)*late.IntN(1500)) * time.Millisecond
	}
	w.informer = w.runs.informer(listWatch(w.server), &v1alpha1.ChatRun{}, 0, toolscache.Indexers{})
	return w
}

// start runs the informer until the test ends.
func (w *world) start() {
	seen := func(object any, deleted bool) {
		if last, ok := object.(toolscache.DeletedFinalStateUnknown); ok {
			object = last.Obj
		}
		run, ok := object.(*v1alpha1.ChatRun)
		if !ok {
			w.t.Errorf("a %T", object)
			return
		}
		at := version(run.ResourceVersion)
		if !deleted && at < w.latest[run.Name] {
			w.t.Errorf("%s goes back from version %d to %d", run.Name, w.latest[run.Name], at)
		}
		w.latest[run.Name] = max(at, w.latest[run.Name])
	}
	if _, err := w.informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { seen(o, false) },
		UpdateFunc: func(_, o any) { seen(o, false) },
		DeleteFunc: func(o any) { seen(o, true) },
	}); err != nil {
		w.t.Fatal(err)
	}
	// The usual handler has a back-off of its own for the whole process, which knows
	// the time outside of the bubble.
	quiet := func(context.Context, *toolscache.Reflector, error) {}
	if err := errors.Join(w.informer.SetTransform(slim), w.informer.SetWatchErrorHandlerWithContext(quiet)); err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.informer.RunWithContext(w.t.Context())
	}()
	w.t.Cleanup(func() { <-done })
}

// act does one thing at random.
func (w *world) act() {
	name := fmt.Sprintf("run-%d", w.random.IntN(randomNames))
	run := w.server.get(name)
	switch n := w.random.IntN(100); {
	case n < 70 && run == nil:
		run = &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ns", Name: name, UID: uidIn(w.random, func(string) bool { return true }),
		}}
		run.Spec.ProviderRef.Name = []string{"wide", "narrow", "tight"}[w.random.IntN(3)]
		if w.random.IntN(5) == 0 {
			run.Spec.ContinueFrom = &v1alpha1.RunReference{Name: "run-0"}
		}
		run.Status.Phase = v1alpha1.PhasePending
		w.server.put(run)
	case n < 30:
		w.server.delete(name)
		if w.random.IntN(2) == 0 { // another has the name at once
			run.UID = uidIn(w.random, func(string) bool { return true })
			w.server.put(run)
		}
	case n < 70:
		run.Status.Worker = []string{"", "me", "other"}[w.random.IntN(3)]
		phases := []v1alpha1.Phase{v1alpha1.PhasePending, v1alpha1.PhaseStreaming, v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed}
		run.Status.Phase = phases[w.random.IntN(len(phases))]
		w.server.put(run)
	case n < 80:
		w.shares.Set([]members.Buckets{
			0, members.AllBuckets, members.Buckets(w.random.Uint64()), 0xffffffff, 0xffffffff << 32, 0xffff,
		}[w.random.IntN(6)])
	case n < 84:
		limited := <-w.limited
		for _, provider := range []string{"narrow", "tight"} {
			limited[provider] = w.random.IntN(2) == 0
		}
		w.limited <- limited
		w.shares.Rekeep()
	default:
		w.disturb(n)
	}
}

// disturb does something to the API server's answers.
func (w *world) disturb(n int) {
	open := w.server.open()
	if len(open) == 0 {
		return
	}
	one := open[w.random.IntN(len(open))]
	say := func(e watch.Event) {
		select {
		case one.more <- e:
		default:
		}
	}
	switch {
	case n < 90:
		say(watch.Event{Type: watch.Bookmark})
	case n < 94:
		one.Stop()
	case n < 95:
		say(fails(apierrors.NewResourceExpired("too old")))
	case n < 96:
		say(fails(apierrors.NewInternalError(fmt.Errorf("trouble"))))
	case n < 97:
		say(fails(apierrors.NewTooManyRequests("busy", 1)))
	case n < 98:
		w.server.fail(apierrors.NewServiceUnavailable("no list"))
	case n < 99:
		w.server.fail(apierrors.NewResourceExpired("a page is too old"))
	default:
		w.server.compact()
	}
}

// check compares the cache with what it has to have.
func (w *world) check() {
	w.t.Helper()
	buckets, _ := w.shares.Share()
	if got := w.runs.Watched(); got != buckets {
		w.t.Errorf("it watches %x, not %x", got, buckets)
	}
	want := map[string]*v1alpha1.ChatRun{}
	for i := range randomNames {
		run := w.server.get(fmt.Sprintf("run-%d", i))
		if run != nil && (buckets.Has(members.BucketOf(string(run.UID))) || !over(run) && w.shares.Keep(run)) {
			want[run.Name] = run
		}
	}
	for _, object := range w.informer.GetStore().List() {
		run, ok := object.(*v1alpha1.ChatRun)
		if !ok {
			w.t.Fatalf("a %T", object)
		}
		if wants := want[run.Name]; wants == nil || wants.UID != run.UID || wants.ResourceVersion != run.ResourceVersion {
			w.t.Errorf("%s is there at version %s, and should be %v", run.Name, run.ResourceVersion, wants)
		}
		delete(want, run.Name)
	}
	for name, run := range want {
		w.t.Errorf("%s at version %s is missing", name, run.ResourceVersion)
	}
}

// over says whether the phase of a run is a last one.
func over(run *v1alpha1.ChatRun) bool {
	switch run.Status.Phase {
	case v1alpha1.PhaseSucceeded, v1alpha1.PhaseFailed, v1alpha1.PhaseCancelled:
		return true
	}
	return false
}
