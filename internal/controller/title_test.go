// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// talker speaks one part, and then waits for how the attempt ends. It has the
// title ready once it may.
type talker struct {
	end   chan error
	title chan string
}

func (c *talker) Stream(ctx context.Context, _ provider.Endpoint, _ provider.Request, part func(provider.Part)) (provider.Result, error) {
	part(provider.Part{Text: "Hello"})
	select {
	case <-ctx.Done():
		return provider.Result{}, context.Cause(ctx)
	case err := <-c.end:
		return provider.Result{FinishReason: provider.FinishStop}, err
	}
}

func (c *talker) Complete(ctx context.Context, _ provider.Endpoint, _ provider.Request) (string, provider.Result, error) {
	select {
	case <-ctx.Done():
		return "", provider.Result{}, context.Cause(ctx)
	case text := <-c.title:
		return text, provider.Result{}, nil
	}
}

// newTalk is a bench whose attempts talk.
func newTalk(t *testing.T, objects ...client.Object) (*bench, *talker) {
	t.Helper()
	b := newBench(t, objects...)
	c := &talker{end: make(chan error, 10), title: make(chan string, 10)}
	pool := streamer.NewPool(c, b.r.hub, func(run streamer.Run) { b.nudged <- run })
	t.Cleanup(func() { _ = pool.Shutdown(context.WithoutCancel(t.Context())) })
	b.r.pool, b.r.caller = pool, c
	return b, c
}

// TestRefusedTitle: a title that cannot be written touches nothing of the run:
// what is to be done at a time is done at that time, not when an error's
// back-off happens to end.
func TestRefusedTitle(t *testing.T) {
	for _, tc := range []struct {
		name    string
		run     *v1alpha1.ChatRun
		outcome error
		at      time.Duration
		want    time.Duration
	}{
		{"wait", newRun(), overloaded, 0, time.Second},
		{"time to live", newRun(ttl(60)), nil, 20 * time.Second, 40 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b, c := newTalk(t, tc.run, ready())
			b.r.client = interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
				Patch: func(context.Context, client.WithWatch, client.Object, client.Patch, ...client.PatchOption) error {
					return apierrors.NewForbidden(runs, "hello", errors.New("a policy allows no annotation"))
				},
			})
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			c.title <- "A title"
			<-b.nudged
			c.end <- tc.outcome
			<-b.nudged
			for range 3 {
				_, _ = b.reconcile(t)
			}
			b.clock.SetTime(t0.Add(tc.at))
			result, err := b.reconcile(t)
			if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > tc.want+time.Millisecond {
				t.Errorf("looks again after %v, want at most %v; error: %v", result.RequeueAfter, tc.want, err)
			}
		})
	}
}

// TestThrottledTitle: an API server that is busy costs no title.
func TestThrottledTitle(t *testing.T) {
	for name, fault := range map[string]error{"throttled": throttled, "broken": broken, "answer lost": lostAnswer} {
		t.Run(name, func(t *testing.T) {
			b, c := newTalk(t, newRun(), ready())
			faults := 1
			b.r.client = interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
				Patch: func(ctx context.Context, api client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
					if faults > 0 {
						faults--
						return fault
					}
					return api.Patch(ctx, o, p, opts...)
				},
			})
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			c.title <- "A title"
			<-b.nudged
			result, err := b.reconcile(t)
			if err != nil || result.RequeueAfter <= 0 || result.RequeueAfter > titleRetry {
				t.Errorf("looks again after %v, error %v", result.RequeueAfter, err)
			}
			if _, err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
			if got := b.run(t).Annotations[v1alpha1.AnnotationTitle]; got != "A title" {
				t.Errorf("the title is %q", got)
			}
		})
	}
}

// TestTitleBeforeTheEcho: a title that is there before the cache has the write of the
// attempt is written once that came, and not in vain before.
func TestTitleBeforeTheEcho(t *testing.T) {
	b, c := newTalk(t, newRun(), ready())
	old, writes := b.run(t), 0
	stale := true
	b.r.client = interceptor.NewClient(b.api.(client.WithWatch), interceptor.Funcs{
		Get: func(ctx context.Context, api client.WithWatch, key client.ObjectKey, o client.Object, opts ...client.GetOption) error {
			if run, ok := o.(*v1alpha1.ChatRun); ok && stale {
				old.DeepCopyInto(run)
				return nil
			}
			return api.Get(ctx, key, o, opts...)
		},
		Patch: func(ctx context.Context, api client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			writes++
			return api.Patch(ctx, o, p, opts...)
		},
	})
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	c.title <- "A title"
	<-b.nudged
	if result, err := b.reconcile(t); err != nil || result.RequeueAfter != 0 || writes != 0 {
		t.Errorf("before the echo: %d writes, again after %v, error %v", writes, result.RequeueAfter, err)
	}
	stale = false
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if got := b.run(t).Annotations[v1alpha1.AnnotationTitle]; got != "A title" || writes != 1 {
		t.Errorf("the title is %q after %d writes", got, writes)
	}
}

// TestLateTitleLeavesNothing: a title that comes after the end, where a person
// set one meanwhile, brings no further event, so it is forgotten at once.
func TestLateTitleLeavesNothing(t *testing.T) {
	b, c := newTalk(t, newRun(), ready())
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	c.end <- nil
	<-b.nudged
	if _, err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	run := b.run(t)
	run.Annotations = map[string]string{v1alpha1.AnnotationTitle: "a person's"}
	if err := b.api.Update(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	if _, err := b.reconcile(t); err != nil { // the echo of both writes
		t.Fatal(err)
	}
	c.title <- "A title"
	<-b.nudged
	result, err := b.reconcile(t)
	if err != nil {
		t.Fatal(err)
	}
	if s, known := b.r.pool.Look("ns", "hello"); known && result.RequeueAfter == 0 {
		t.Errorf("nobody will ever forget %+v", s)
	}
}
