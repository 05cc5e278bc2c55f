// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netns

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

const (
	// longParts, each pause apart, make an answer that outlasts any cut.
	longParts = 200
	pause     = 100 * time.Millisecond
	// long is what a question asks for to be answered like that, the first time.
	long = "At length: "
	// idleTimeout is the silence that the runs allow, in seconds: many pauses.
	idleTimeout = 2
	// runsEach is how many runs each replica streams at least when a link is cut.
	runsEach = 3
	// manyRuns is more than it takes until each replica has some.
	manyRuns = 100
	// quiet is how long nobody may call the provider after the last run ended. It is
	// longer than any delay of the runs.
	quiet = 2 * time.Second
)

// world is a namespace whose runs are streamed by three replicas, which all see the
// same provider.
type world struct {
	namespace string
	fake      *chattest.Server
	runs      []*v1alpha1.ChatRun
}

func newWorld(ctx context.Context) *world {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "netns-"}}
	Expect(plane.Client.Create(ctx, ns)).To(Succeed())
	Expect(plane.AllowReplicas(ctx, ns.Name)).To(Succeed())
	w := &world{namespace: ns.Name, fake: chattest.New(func(r chattest.Request) chattest.Response {
		answer := chattest.Answer(partsOf(r.LastUser)...)
		if r.N == 1 && strings.HasPrefix(r.LastUser, long) {
			return answer.Pace(pause)
		}
		return answer
	})}
	Expect(w.fake.Listen(data.host() + ":0")).To(Succeed())
	DeferCleanup(w.fake.Close)
	DeferCleanup(func(ctx SpecContext) {
		for _, kind := range []client.Object{&v1alpha1.ChatRun{}, &v1alpha1.ChatProvider{}} {
			Expect(plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(ns.Name))).To(Succeed())
		}
	})
	Expect(plane.Client.Create(ctx, &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: w.fake.URL() + "/v1", DefaultModel: "fake-1"},
	})).To(Succeed())
	for _, name := range replicas {
		w.startReplica(ctx, name)
	}
	return w
}

// partsOf are those of the answer to a question, the same at every attempt.
func partsOf(question string) []string {
	parts := []string{"The answer to " + question}
	for n := range longParts {
		parts = append(parts, fmt.Sprintf(" word-%d", n))
	}
	return parts
}

// run makes one.
func (w *world) run(ctx context.Context, question string) *v1alpha1.ChatRun {
	GinkgoHelper()
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("run-%03d", len(w.runs))},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef:              v1alpha1.ProviderReference{Name: "fake"},
			Prompt:                   fmt.Sprintf("%s %d", question, len(w.runs)),
			StreamIdleTimeoutSeconds: new(int32(idleTimeout)),
			RetryPolicy:              &v1alpha1.RetryPolicy{MaxAttempts: new(int32(0)), InitialDelayMs: new(int64(50)), MaxDelayMs: new(int64(1000))},
			Title:                    &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	}
	Expect(plane.Client.Create(ctx, run)).To(Succeed())
	w.runs = append(w.runs, run)
	return run
}

// streamed makes runs until each replica streams some, and returns them by replica.
func (w *world) streamed(ctx context.Context) map[string][]*v1alpha1.ChatRun {
	GinkgoHelper()
	by := map[string][]*v1alpha1.ChatRun{}
	for slices.ContainsFunc(replicas, func(name string) bool { return len(by[name]) < runsEach }) {
		Expect(len(w.runs)).To(BeNumerically("<", manyRuns), "not all replicas take on runs")
		run := w.run(ctx, long+"question")
		worker := until(ctx, run, streaming).Status.Worker
		by[worker] = append(by[worker], run)
		Expect(w.untilAttempts(ctx, run, 1)).To(HaveLen(1))
	}
	return by
}

// takesOn makes runs until a replica takes one on.
func (w *world) takesOn(ctx context.Context, replica string) {
	GinkgoHelper()
	for range manyRuns {
		if until(ctx, w.run(ctx, "Question"), succeeded).Status.Worker == replica {
			return
		}
	}
	Fail("no run falls to " + replica)
}

// until waits for a run to be as a condition says, and returns it.
func until(ctx context.Context, run *v1alpha1.ChatRun, is func(*v1alpha1.ChatRun) bool) *v1alpha1.ChatRun {
	GinkgoHelper()
	read := &v1alpha1.ChatRun{}
	Eventually(ctx, func(g Gomega) {
		g.Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), read)).To(Succeed())
		g.Expect(is(read)).To(BeTrue(), "%s: %+v", run.Name, read.Status)
	}).Should(Succeed())
	return read
}

func streaming(run *v1alpha1.ChatRun) bool { return run.Status.Phase == v1alpha1.PhaseStreaming }
func succeeded(run *v1alpha1.ChatRun) bool { return run.Status.Phase == v1alpha1.PhaseSucceeded }

func attemptOf(run *v1alpha1.ChatRun) int {
	if run.Status.Attempt == nil {
		return 0
	}
	return int(*run.Status.Attempt)
}

// attempts are those of a run that the provider saw.
func (w *world) attempts(run *v1alpha1.ChatRun) []chattest.Entry {
	return slices.DeleteFunc(w.fake.Ledger().Requests(), func(e chattest.Entry) bool {
		return e.Request.Purpose != chattest.PurposeAnswer || e.Request.Key != run.Spec.Prompt
	})
}

// untilAttempts waits until the provider has seen so many of a run, and returns them.
func (w *world) untilAttempts(ctx context.Context, run *v1alpha1.ChatRun, n int) []chattest.Entry {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool {
		return l.CountFor(run.Spec.Prompt, chattest.PurposeAnswer) >= n
	})).To(Succeed(), "%s: the provider does not see attempt %d", run.Name, n)
	return w.attempts(run)
}

// lease reads a replica's.
func (w *world) lease(replica string) func(context.Context) (*coordinationv1.Lease, error) {
	return func(ctx context.Context) (*coordinationv1.Lease, error) {
		lease := &coordinationv1.Lease{}
		err := plane.Client.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: replica}, lease)
		return lease, err
	}
}

// untilRenewed waits until a replica renews its Lease after a moment, and returns
// when it did.
func (w *world) untilRenewed(ctx context.Context, replica string, after time.Time) time.Time {
	GinkgoHelper()
	var at time.Time
	Eventually(ctx, func(g Gomega) {
		lease, err := w.lease(replica)(ctx)
		g.Expect(err).NotTo(HaveOccurred())
		at = lease.Spec.RenewTime.Time
		g.Expect(at).To(BeTemporally(">", after))
	}).Should(Succeed(), "%s does not renew its Lease", replica)
	return at
}

// settle checks the end that all must come to: every run succeeded with its own text,
// each request was counted before it was made, one of them was answered whole, and no
// more are coming.
func (w *world) settle(ctx context.Context) {
	GinkgoHelper()
	ledger := w.fake.Ledger()
	attempts, requests := 0, 0
	for _, run := range w.runs {
		ended := until(ctx, run, succeeded)
		Expect(ended.Status.Output).NotTo(BeNil(), run.Name)
		Expect(ended.Status.Output.Text).To(Equal(strings.Join(partsOf(run.Spec.Prompt), "")), run.Name)
	}
	before := ledger.Count(chattest.PurposeAnswer)
	noMore, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	Expect(ledger.WaitFor(noMore, func(l *chattest.Ledger) bool { return l.Count(chattest.PurposeAnswer) > before })).
		To(MatchError(context.DeadlineExceeded), "a call was made after the last run had ended")
	for _, run := range w.runs {
		ended, seen := until(ctx, run, succeeded), ledger.For(run.Spec.Prompt, chattest.PurposeAnswer)
		Expect(seen.Count).To(BeNumerically("<=", attemptOf(ended)), "%s: a request that no attempt counts", run.Name)
		Expect(seen.Completed).To(Equal(1), "%s: %+v", run.Name, seen)
		attempts, requests = attempts+attemptOf(ended), requests+seen.Count
	}
	Expect(ledger.Count(chattest.PurposeAnswer)).To(Equal(requests), "requests of nobody's")
	report("%d runs: %d attempts counted, %d requests seen", len(w.runs), attempts, requests)
}
