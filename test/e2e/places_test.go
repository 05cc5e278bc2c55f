// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/internal/controller"
)

// apply creates runs, some at a time as a tool would, and returns when all are
// there.
func (w *world) apply(ctx context.Context, n int, change ...func(*v1alpha1.ChatRun)) {
	GinkgoHelper()
	var all sync.WaitGroup
	turns := make(chan struct{}, 8)
	var failed atomic.Int32
	for i := range n {
		turns <- struct{}{}
		all.Go(func() {
			defer func() { <-turns }()
			if plane.Client.Create(ctx, newRun(w.namespace, fmt.Sprintf("run-%04d", i), change...)) != nil {
				failed.Add(1)
			}
		})
	}
	all.Wait()
	Expect(failed.Load()).To(BeZero())
}

// succeeded counts the runs of a namespace that did.
func (w *world) succeeded(ctx context.Context) int {
	var list v1alpha1.ChatRunList
	if plane.Client.List(ctx, &list, client.InNamespace(w.namespace), client.MatchingFields{"status.phase": string(v1alpha1.PhaseSucceeded)}) != nil {
		return -1
	}
	return len(list.Items)
}

// slowedDown says that the race detector is on: the manager and the test then
// take some ten times the CPU, and the machine is what is measured.
var slowedDown bool

func manyAttempts(r *v1alpha1.ChatRun) { r.Spec.RetryPolicy = nil }

var _ = Describe("Places", func() {
	It("go to the namespace that has fewest: B's 10 runs are done before A's fiftieth of 1,000", func(ctx SpecContext) {
		var done, before atomic.Int32
		answer := func(chattest.Request) chattest.Response {
			return chattest.Answer("an answer").FirstDelay(300 * time.Millisecond)
		}
		a := newWorld(ctx, func(r chattest.Request) chattest.Response { done.Add(1); return answer(r) })
		b := newWorld(ctx, func(r chattest.Request) chattest.Response { before.Store(done.Load()); return answer(r) })
		for _, w := range []*world{a, b} {
			w.provider(ctx)
		}
		a.apply(ctx, 1000)
		b.apply(ctx, 10)
		began := time.Now()
		startManager(ctx, func(o *controller.Options) { o.MaxConcurrentStreams = 20 })
		Eventually(ctx, func() int { return b.succeeded(ctx) }).WithTimeout(time.Minute).Should(Equal(10))
		ofA := a.succeeded(ctx)
		AddReportEntry("fairness", fmt.Sprintf("B's 10 runs were done %.1f s after the start, with %d of A's 1,000; A had asked %d times when B's last attempt began",
			time.Since(began).Seconds(), ofA, before.Load()))
		Expect(ofA).To(BeNumerically("<", 50))
		Expect(a.fake.Ledger().Total(chattest.PurposeAnswer).MaxLive).To(BeNumerically("<=", 20))
		By("the rest being done as well, and no place being lost")
		Eventually(ctx, func() int { return a.succeeded(ctx) }).WithTimeout(2 * time.Minute).WithPolling(time.Second).Should(Equal(1000))
		Expect(a.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(1000))
	}, SpecTimeout(4*time.Minute))

	It("hold a provider's own limit, and start the next at once", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(chattest.Request) chattest.Response { return chattest.Answer("an ", "answer").HoldAfter(1, gate) })
		startManager(ctx)
		p := w.readyProvider(ctx, func(p *v1alpha1.ChatProvider) {
			p.Spec.Limits = &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(3))}
		})
		w.apply(ctx, 10)
		phases := func() map[string]int {
			var list v1alpha1.ChatRunList
			Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			counts := map[string]int{}
			for i := range list.Items {
				counts[string(list.Items[i].Status.Phase)+" "+reasonOf(&list.Items[i])]++
			}
			return counts
		}
		Eventually(ctx, phases).Should(Equal(map[string]int{"Streaming Streaming": 3, "Pending Queued": 7}))
		By("a raised limit letting more in")
		base := p.DeepCopy()
		p.Spec.Limits.MaxConcurrentStreams = new(int32(5))
		Expect(plane.Client.Patch(ctx, p, client.MergeFrom(base))).To(Succeed())
		Eventually(ctx, phases).Should(Equal(map[string]int{"Streaming Streaming": 5, "Pending Queued": 5}))
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 5 })).To(Succeed())
		close(gate)
		Eventually(ctx, phases).Should(Equal(map[string]int{"Succeeded Completed": 10}))
		Expect(w.fake.Ledger().Total(chattest.PurposeAnswer).MaxLive).To(Equal(5))
	})

	It("do not storm a provider that takes 20 at a time and answers 529 to the rest", func(ctx SpecContext) {
		const runs, capacity, answer = 500, 20, 300 * time.Millisecond
		var active atomic.Int32
		w := newWorld(ctx, func(chattest.Request) chattest.Response {
			if active.Add(1) > capacity {
				active.Add(-1)
				return chattest.AnthropicOverloadedResponse()
			}
			// The place is free a moment before the last byte is read, as it is with a
			// server that counts what it works on.
			time.AfterFunc(answer-answer/100, func() { active.Add(-1) })
			return chattest.Answer("an ", "answer").FirstDelay(answer / 10).Pace(answer - answer/10)
		})
		w.provider(ctx, anthropic(w))
		seen := watchRuns(ctx, w.namespace)
		w.apply(ctx, runs, manyAttempts)
		began := time.Now()
		startManager(ctx)
		// Asking the API server again and again would cost what is measured.
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool {
			return l.Total(chattest.PurposeAnswer).Completed == runs
		})).To(Succeed())
		took, ideal := time.Since(began), answer*runs/capacity
		Eventually(ctx, func() int { return w.succeeded(ctx) }).Should(Equal(runs))
		answers := w.fake.Ledger().Total(chattest.PurposeAnswer)
		AddReportEntry("overload", fmt.Sprintf("%d runs took %.1f s, %.2f of the ideal %v; %d requests were refused, %.2f a run",
			runs, took.Seconds(), took.Seconds()/ideal.Seconds(), ideal, answers.Refused, float64(answers.Refused)/runs))
		Expect(float64(answers.Refused) / runs).To(BeNumerically("<=", 3))
		Expect(answers.Count).To(Equal(runs + answers.Refused))
		By("each request having been counted, and no wait cut short")
		requests := map[string][]chattest.Entry{}
		for _, r := range w.fake.Ledger().Requests() {
			requests[r.Request.LastUser] = append(requests[r.Request.LastUser], r)
		}
		for _, state := range seen.all() {
			n := attemptOf(state)
			asked := requests[state.Spec.Prompt]
			if finished(state) {
				Expect(asked).To(HaveLen(n), state.Name)
			}
			if at := state.Status.RetryingAt; at != nil {
				Expect(asked[n].At).To(BeTemporally(">=", at.Time), "attempt %d of %s", n+1, state.Name)
			}
		}
		// The same holds on a virtual clock, for the algorithm alone and more cases,
		// in internal/places.
		most := 1.3
		if slowedDown {
			most = 3
		}
		Expect(took.Seconds() / ideal.Seconds()).To(BeNumerically("<=", most))
	}, SpecTimeout(2*time.Minute))
})
