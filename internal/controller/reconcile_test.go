// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/events"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/places"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// caller answers each attempt with what the test sends.
type caller struct {
	asked  chan provider.Request
	answer chan error
	// text is the answer; Hello if empty.
	text string
}

func (c *caller) Stream(ctx context.Context, _ provider.Endpoint, ask provider.Request, part func(provider.Part)) (provider.Result, error) {
	c.asked <- ask
	select {
	case <-ctx.Done():
		return provider.Result{}, context.Cause(ctx)
	case err := <-c.answer:
		if err == nil {
			part(provider.Part{Text: cmp.Or(c.text, "Hello")})
		}
		return provider.Result{FinishReason: provider.FinishStop, Usage: provider.Usage{InputTokens: 3, OutputTokens: 2}}, err
	}
}

func (*caller) Complete(context.Context, provider.Endpoint, provider.Request) (string, provider.Result, error) {
	return "", provider.Result{}, errors.New("no title is asked for here")
}

// bench is a reconciler on a fake API server whose status writes a test can
// fail, before or after they took effect.
type bench struct {
	r      *ChatRunReconciler
	api    client.Client
	caller *caller
	nudged chan streamer.Run
	// name is the run that is looked at; hello if empty.
	name  string
	clock *testclock.FakePassiveClock
	// fault, if set, is what the next status write answers; stands says whether
	// it takes effect all the same.
	fault  error
	stands bool
	writes int
	// createFault, if set, is what every create answers; createStands says
	// whether it takes effect all the same.
	createFault  error
	createStands bool
	// registry has what was counted.
	registry *prometheus.Registry
	// deletes are the options of all deletes.
	deletes []client.DeleteOptions
}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(v1alpha1.AddToScheme(scheme), corev1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	b := &bench{
		caller: &caller{asked: make(chan provider.Request, 10), answer: make(chan error, 10)},
		nudged: make(chan streamer.Run, 10), clock: testclock.NewFakePassiveClock(t0),
	}
	b.api = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithStatusSubresource(&v1alpha1.ChatRun{}, &v1alpha1.ChatProvider{}).
		WithIndex(&v1alpha1.ChatRun{}, byParent, indexByParent).
		WithIndex(&v1alpha1.ChatRun{}, byProvider, indexByProvider).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: b.patch, Create: b.create, Delete: b.delete}).Build()
	b.begin(t)
	return b
}

// restarted is the same API server with another manager, that knows nothing.
func (b *bench) restarted(t *testing.T) *bench {
	t.Helper()
	next := &bench{
		api: b.api, clock: b.clock, nudged: make(chan streamer.Run, 10),
		caller: &caller{asked: make(chan provider.Request, 10), answer: make(chan error, 10)},
	}
	next.begin(t)
	return next
}

// begin makes the reconciler.
func (b *bench) begin(t *testing.T) {
	t.Helper()
	hub := streamer.NewHub()
	pool := streamer.NewPool(b.caller, hub, func(run streamer.Run) { b.nudged <- run })
	t.Cleanup(func() {
		if err := pool.Shutdown(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	b.registry = prometheus.NewRegistry()
	counted, err := metrics.New(b.registry)
	if err != nil {
		t.Fatal(err)
	}
	b.r = &ChatRunReconciler{
		client: b.api, live: b.api, caller: b.caller, hub: hub, pool: pool, providers: newQueue(),
		places:   places.New(0, func(places.Key) {}),
		recorder: events.NewFakeRecorder(100), metrics: counted, clock: b.clock, worker: "me", members: members.Alone("me"),
	}
}

func (b *bench) create(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	if b.createFault != nil && !b.createStands {
		return b.createFault
	}
	if err := c.Create(ctx, o, opts...); err != nil {
		return err
	}
	return b.createFault
}

func (b *bench) delete(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	b.deletes = append(b.deletes, *(&client.DeleteOptions{}).ApplyOptions(opts))
	return c.Delete(ctx, o, opts...)
}

func (b *bench) patch(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
	b.writes++
	fault := b.fault
	b.fault = nil
	if fault == nil || b.stands {
		// A client that never saw the answer has the object as it sent it.
		written := o.DeepCopyObject().(client.Object)
		if err := c.SubResource(sub).Patch(ctx, written, p, opts...); err != nil {
			return err
		}
		if fault == nil {
			if run, ok := o.(*v1alpha1.ChatRun); ok {
				written.(*v1alpha1.ChatRun).DeepCopyInto(run)
			}
		}
	}
	return fault
}

func (b *bench) reconcile(t *testing.T) (ctrl.Result, error) {
	t.Helper()
	return b.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "ns", Name: cmp.Or(b.name, "hello")}})
}

func (b *bench) run(t *testing.T) *v1alpha1.ChatRun {
	t.Helper()
	run := &v1alpha1.ChatRun{}
	if err := b.api.Get(t.Context(), client.ObjectKey{Namespace: "ns", Name: cmp.Or(b.name, "hello")}, run); err != nil {
		t.Fatal(err)
	}
	return run
}

func ready() *v1alpha1.ChatProvider {
	p := &v1alpha1.ChatProvider{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "fake"}}
	p.Spec = v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, DefaultModel: "m"}
	p.Status = providerStatus(p, nil, t0)
	return p
}

func untitled(run *v1alpha1.ChatRun) { run.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone} }

var (
	lostAnswer = &url.Error{Op: "Patch", URL: "https://api", Err: context.DeadlineExceeded}
	timeout    = apierrors.NewTimeoutError("the request did not complete", 1)
	conflict   = apierrors.NewConflict(schema.GroupResource{Group: "chatrun.dev", Resource: "chatruns"}, "hello", errors.New("changed"))
	broken     = apierrors.NewInternalError(errors.New("etcd has no leader"))
	throttled  = apierrors.NewTooManyRequests("slow down", 1)
)

// TestStartAfterAWriteOfUnknownResult: an attempt is made if and only if its
// count stands, by the next look at the latest, and is counted once.
func TestStartAfterAWriteOfUnknownResult(t *testing.T) {
	for _, tc := range []struct {
		name   string
		fault  error
		stands bool
	}{
		{"written", nil, true},
		{"answer lost, written", lostAnswer, true},
		{"answer lost, not written", lostAnswer, false},
		{"timed out, written", timeout, true},
		{"timed out, not written", timeout, false},
		{"server broken, written", broken, true},
		{"server broken, not written", broken, false},
		{"conflict with its own first try", conflict, true},
		{"conflict with another's", conflict, false},
		{"throttled", throttled, false},
	} {
		for attempt, run := range map[int32]*v1alpha1.ChatRun{1: newRun(untitled, maxAttempts(1)), 2: newRun(untitled, maxAttempts(2), waiting(1, 0))} {
			t.Run(fmt.Sprintf("%s, attempt %d", tc.name, attempt), func(t *testing.T) {
				startWithFault(t, run, attempt, tc.fault, tc.stands)
			})
		}
	}
}

func startWithFault(t *testing.T, run *v1alpha1.ChatRun, attempt int32, fault error, stands bool) {
	t.Helper()
	b := newBench(t, run, ready())
	b.fault, b.stands = fault, stands
	result, err := b.reconcile(t)
	conflicted := errors.Is(fault, conflict)
	if (err == nil) != (fault == nil || conflicted) {
		t.Fatalf("error %v", err)
	}
	if conflicted && result.RequeueAfter != firstConflictDelay {
		t.Errorf("a conflict looks again after %v", result.RequeueAfter)
	}
	snapshot, known := b.r.pool.Look("ns", "hello")
	if started := fault == nil; known != started || started && (!snapshot.Running || snapshot.Attempt != attempt) {
		t.Errorf("pool: %v %+v", known, snapshot)
	}
	if counted := attemptOf(b.run(t)) == attempt; counted != stands {
		t.Errorf("counted: %v", counted)
	}
	for range 2 {
		if _, err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	<-b.caller.asked
	run = b.run(t)
	if attemptOf(run) != attempt || !isStreaming(run) || len(b.caller.asked) != 0 {
		t.Errorf("%s, attempt %d, %d more calls", reasonOf(run), attemptOf(run), len(b.caller.asked))
	}
}

// TestOutcomeAfterAWriteOfUnknownResult: an outcome is recorded once, whether
// or not we saw the answer to the write, and the pool forgets it then.
func TestOutcomeAfterAWriteOfUnknownResult(t *testing.T) {
	for _, tc := range []struct {
		name    string
		outcome error
		fault   error
		stands  bool
		phase   v1alpha1.Phase
		writes  int // of the outcome, the one that failed included
	}{
		{"good, lost, written", nil, lostAnswer, true, v1alpha1.PhaseSucceeded, 1},
		{"good, lost, not written", nil, lostAnswer, false, v1alpha1.PhaseSucceeded, 2},
		{"good, conflict", nil, conflict, false, v1alpha1.PhaseSucceeded, 2},
		{"failed, lost, written", overloaded, lostAnswer, true, v1alpha1.PhaseRetrying, 1},
		{"failed, lost, not written", overloaded, lostAnswer, false, v1alpha1.PhaseRetrying, 2},
		{"final, lost, written", wrongKey, lostAnswer, true, v1alpha1.PhaseFailed, 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, newRun(untitled), ready())
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			<-b.caller.asked
			b.caller.answer <- tc.outcome
			<-b.nudged
			b.writes, b.fault, b.stands = 0, tc.fault, tc.stands
			_, first := b.reconcile(t)
			if conflicted := errors.Is(tc.fault, conflict); (first == nil) != conflicted {
				t.Fatalf("first look: %v", first)
			}
			promised := b.run(t).Status.RetryingAt
			b.clock.SetTime(t0.Add(300 * time.Millisecond))
			result, err := b.reconcile(t)
			if err != nil {
				t.Fatal(err)
			}
			run := b.run(t)
			if run.Status.Phase != tc.phase || b.writes != tc.writes || attemptOf(run) != 1 {
				t.Errorf("%s after %d writes and attempt %d, want %s after %d", run.Status.Phase, b.writes, attemptOf(run), tc.phase, tc.writes)
			}
			if promised != nil && !promised.Equal(run.Status.RetryingAt) {
				t.Errorf("a promised time moved from %v to %v", promised, run.Status.RetryingAt)
			}
			if snapshot, known := b.r.pool.Look("ns", "hello"); known && snapshot.Outcome != nil {
				t.Errorf("the outcome is still there: %+v, look again after %v", snapshot.Outcome, result.RequeueAfter)
			}
			if len(b.caller.asked) != 0 {
				t.Error("asked again")
			}
			b.accounts(t, tc.outcome)
		})
	}
}

// accounts: one attempt was begun, and its end is counted once, whatever became of
// the write that tells of it.
func (b *bench) accounts(t *testing.T, outcome error) {
	t.Helper()
	want := map[string]float64{"chatrun_attempts_total": 1, "chatrun_attempt_outcomes_total": 1, "chatrun_runs_finished_total": 1, "chatrun_retries_total": 0}
	if errors.Is(outcome, overloaded) {
		want["chatrun_runs_finished_total"], want["chatrun_retries_total"] = 0, 1
	}
	for name, n := range want {
		if got := b.counted(t, name); got != n {
			t.Errorf("%s is %v, want %v", name, got, n)
		}
	}
}

// counted returns the sum of a counter, over all series with these values of labels.
func (b *bench) counted(t *testing.T, name string, values ...string) (sum float64) {
	t.Helper()
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var of []string
			for _, l := range m.GetLabel() {
				of = append(of, l.GetValue())
			}
			if f.GetName() == name && !slices.ContainsFunc(values, func(v string) bool { return !slices.Contains(of, v) }) {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestRefused(t *testing.T) {
	for err, want := range map[error]bool{
		conflict: false, throttled: true, timeout: false, broken: false, lostAnswer: false,
		apierrors.NewNotFound(schema.GroupResource{}, "x"):                                                          true,
		apierrors.NewServerTimeout(schema.GroupResource{}, "patch", 1):                                              false,
		apierrors.NewGenericServerResponse(http.StatusGatewayTimeout, "", schema.GroupResource{}, "", "", 0, false): false,
	} {
		if got := refused(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
