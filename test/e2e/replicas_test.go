// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// streamedBy makes runs until one is streamed by the replica of that name.
func (w *world) streamedBy(ctx context.Context, replica string) *v1alpha1.ChatRun {
	GinkgoHelper()
	for n := range 50 {
		run := w.run(ctx, fmt.Sprintf("%s-%d", replica, n))
		if untilPhase(ctx, run, v1alpha1.PhaseStreaming).Status.Worker == replica {
			return run
		}
	}
	Fail("no run falls to " + replica)
	return nil
}

func (w *world) replicas(ctx context.Context, names ...string) {
	GinkgoHelper()
	Eventually(ctx, func() ([]string, error) { return plane.Replicas(ctx, w.namespace) }).Should(ConsistOf(names))
}

var _ = Describe("8: A replica that is cut off from the API server", func() {
	It("streams until its Lease is about to lapse, and no longer; others go on, and it heals by itself", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.N == 1 {
				return chattest.Answer("a ", "draft").HoldAfter(1, gate)
			}
			return chattest.Answer("the whole")
		})
		proxy, err := harness.StartFaultProxy(plane.ManagerConfig, 0, harness.Faults{})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(proxy.Close)
		a, err := harness.StartManager(context.WithoutCancel(ctx), proxy.Config(), harness.Shares(proxy.Config(), w.namespace, "a", 10*time.Second))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(a.Stop()).To(Succeed()) })
		startManager(ctx, harness.Shares(plane.ManagerConfig, w.namespace, "b", -10*time.Second))
		w.replicas(ctx, "a", "b")
		w.readyProvider(ctx)
		run := w.streamedBy(ctx, "a")
		heal := proxy.Cut()
		DeferCleanup(heal)
		cut := time.Now()
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(got.Status.Worker).To(Equal("b"))
		Expect(attemptOf(got)).To(Equal(2))
		Expect(got.Status.LastErrorReason).To(Equal("WorkerLost"))
		Expect(textOf(got)).To(Equal("the whole"))

		var first, second chattest.Entry
		for _, e := range w.fake.Ledger().Requests() {
			switch {
			case e.Request.Key != run.Spec.Prompt:
			case e.Request.N == 1:
				first = e
			default:
				second = e
			}
		}
		Expect(first.State).To(Equal(chattest.Cancelled))
		Expect(first.Over.Sub(cut)).To(BeNumerically(">", harness.ShortLease/3), "it went on as long as nobody could take it for gone")
		Expect(second.At).To(BeTemporally(">", first.Over), "two attempts at a time")
		Expect(second.At.Sub(cut)).To(BeNumerically("<", harness.ShortLease+harness.TakeoverSlack), "taken over in time")

		By("healed")
		heal()
		close(gate)
		w.replicas(ctx, "a", "b")
		after := w.run(ctx, "after")
		untilPhase(ctx, after, v1alpha1.PhaseSucceeded)
		Eventually(ctx, func() string {
			next := w.run(ctx, fmt.Sprintf("next-%d", time.Now().UnixNano()))
			return untilPhase(ctx, next, v1alpha1.PhaseSucceeded).Status.Worker
		}).Should(Equal("a"), "it takes on runs again")
	}, SpecTimeout(2*time.Minute))
})

var _ = Describe("Replicas whose clocks differ by twenty seconds", func() {
	It("take no run from each other, and wait by their own clock for what another promised", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.N == 1 && r.Key != "question of waits" {
				return chattest.Answer("at ", "length").HoldAfter(1, gate)
			}
			if r.Key == "question of waits" && r.N == 1 {
				return chattest.OpenAIServerErrorResponse()
			}
			return chattest.Answer("soon")
		})
		fast := startManager(ctx, harness.Shares(plane.ManagerConfig, w.namespace, "fast", 10*time.Second))
		w.readyProvider(ctx)
		waits := w.run(ctx, "waits", delays(1000, 1000))
		promised := untilPhase(ctx, waits, v1alpha1.PhaseRetrying)
		wrote := time.Now()
		Expect(promised.Status.Worker).To(Equal("fast"))
		Expect(fast.Stop()).To(Succeed())
		startManager(ctx, harness.Shares(plane.ManagerConfig, w.namespace, "slow", -10*time.Second))
		startManager(ctx, harness.Shares(plane.ManagerConfig, w.namespace, "quick", 10*time.Second))
		w.replicas(ctx, "slow", "quick")
		slow, quick := w.streamedBy(ctx, "slow"), w.streamedBy(ctx, "quick")
		got := untilPhase(ctx, waits, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(2))
		waited := time.Since(wrote)
		if got.Status.Worker == "slow" {
			Expect(waited).To(BeNumerically(">", 20*time.Second), "a second by its own clock, which is twenty behind")
		}
		Expect(waited).To(BeNumerically("<", 35*time.Second), "a second, twenty of skew, and a moment")
		By("meanwhile nobody took anything, for much longer than a Lease")
		Consistently(ctx, func() int { return w.fake.Ledger().Total(chattest.PurposeAnswer).Cancelled }).
			WithTimeout(2 * harness.ShortLease).Should(BeZero())
		close(gate)
		for _, run := range []*v1alpha1.ChatRun{slow, quick} {
			Expect(attemptOf(untilPhase(ctx, run, v1alpha1.PhaseSucceeded))).To(Equal(1))
		}
	}, SpecTimeout(2*time.Minute))
})
