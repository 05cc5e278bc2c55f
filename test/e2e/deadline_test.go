// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

var _ = Describe("A deadline", func() {
	It("is outlived by a run that is suspended meanwhile", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, chattest.Sequence(chattest.Answer("dropped ", "text").HoldAfter(1, gate), chattest.Answer("whole")))
		m := startManager(ctx)
		w.readyProvider(ctx)
		const seconds = 8
		run := w.run(ctx, "pause", func(r *v1alpha1.ChatRun) { r.Spec.ActiveDeadlineSeconds = new(int64(seconds)) })
		firstPart(ctx, m.Stream, run)
		setDesired(ctx, run, v1alpha1.DesiredSuspended)
		began := untilPhase(ctx, run, v1alpha1.PhaseSuspended).Status.StartTime
		Eventually(ctx, func() time.Duration { return time.Since(began.Time) }).Should(BeNumerically(">", (seconds+1)*time.Second))
		setDesired(ctx, run, v1alpha1.DesiredRunning)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(textOf(got)).To(Equal("whole"))
		Expect(got.Status.CompletionTime.Sub(began.Time)).To(BeNumerically(">", seconds*time.Second))
	})

	It("runs on while a run is queued for its second attempt", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.Key == "question of holder" {
				return chattest.Answer("holds ", "on").HoldAfter(1, gate)
			}
			return chattest.OpenAIServerErrorResponse()
		})
		m := startManager(ctx)
		w.readyProvider(ctx, func(p *v1alpha1.ChatProvider) {
			p.Spec.Limits = &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
		})
		run := w.run(ctx, "late", delays(4000, 4000), func(r *v1alpha1.ChatRun) { r.Spec.ActiveDeadlineSeconds = new(int64(8)) })
		untilPhase(ctx, run, v1alpha1.PhaseRetrying)
		By("another taking the place, which a run in its wait does not hold")
		firstPart(ctx, m.Stream, w.run(ctx, "holder"))
		queued := untilReason(ctx, run, v1alpha1.ReasonQueued)
		Expect(queued.Status.RetryingAt).To(BeNil(), "the promised time is over")
		got := untilPhase(ctx, run, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonDeadlineExceeded))
		Expect(attemptOf(got)).To(Equal(1))
		Expect(got.Status.CompletionTime.Sub(got.Status.StartTime.Time)).To(BeNumerically(">=", 8*time.Second))
	})
})

var _ = Describe("A TTL", func() {
	It("deletes the run after its completion", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("short")))
		startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "gone", func(r *v1alpha1.ChatRun) { r.Spec.TTLSecondsAfterFinished = new(int32(1)) })
		Eventually(ctx, func() bool {
			return apierrors.IsNotFound(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), &v1alpha1.ChatRun{}))
		}).Should(BeTrue())
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(1))
	})
})
