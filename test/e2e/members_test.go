// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	coordinationv1 "k8s.io/api/coordination/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// relaying starts replicas as processes that relay to each other.
func (w *world) relaying(ctx context.Context, names ...string) map[string]*harness.Process {
	GinkgoHelper()
	account, err := plane.AddAccount(ctx, w.namespace, GinkgoT().TempDir())
	Expect(err).NotTo(HaveOccurred())
	processes := map[string]*harness.Process{}
	for _, name := range names {
		Expect(account.Pod(ctx, name)).To(Succeed())
		args, err := account.RelayArgs()
		Expect(err).NotTo(HaveOccurred())
		processes[name] = w.startProcessOn(account.Kubeconfig, name, append(args, short...)...)
	}
	w.replicas(ctx, names...)
	return processes
}

// watched reads a stream to its end, and tells of each part when it comes.
func watched(ctx context.Context, base string, run *v1alpha1.ChatRun) (parts <-chan string, draft func() harness.Draft) {
	came, ended := make(chan string, 100), make(chan harness.Draft, 1)
	go func() {
		defer GinkgoRecover()
		var d harness.Draft
		err := harness.Read(ctx, harness.StreamURL(base, run.Namespace, run.Name), "", func(f harness.Frame) {
			Expect(d.Take(f)).To(Succeed())
			if f.Event == stream.EventMessagePart {
				came <- f.ID
			}
		})
		Expect(err).NotTo(HaveOccurred())
		ended <- d
	}()
	return came, func() harness.Draft {
		GinkgoHelper()
		var d harness.Draft
		Eventually(ctx, ended).Should(Receive(&d))
		return d
	}
}

var _ = Describe("A reader at a replica that does not have the run", func() {
	It("follows it live, with the frames of the one that has it, and gets the whole answer", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(chattest.Request) chattest.Response {
			return chattest.Answer("while ", "it ", "lasts").HoldAfter(2, gate)
		})
		p := w.relaying(ctx, "a", "b")
		w.readyProvider(ctx)
		for _, owner := range []string{"a", "b"} {
			run := w.streamedBy(ctx, owner)
			at := map[string]func() harness.Draft{}
			var ids [2][]string
			for n, door := range []string{"a", "b"} {
				parts, draft := watched(ctx, p[door].Stream, run)
				at[door] = draft
				for range 2 {
					var id string
					Eventually(ctx, parts).Should(Receive(&id), "at %s, while the provider holds the rest back", door)
					ids[n] = append(ids[n], id)
				}
			}
			Expect(ids[0]).To(Equal(ids[1]), "the same frames at both")
			defer func() {
				for door, draft := range at {
					d := draft()
					Expect(d.Text).To(Equal("while it lasts"), door)
					Expect(d.Resets).To(BeZero(), door)
					Expect(d.Done).NotTo(BeNil(), door)
				}
			}()
		}
		close(gate)
	}, SpecTimeout(2*time.Minute))

	It("is switched to the one that takes over, also where it was attached to the one that was stopped", func(ctx SpecContext) {
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.N == 1 {
				return chattest.Answer("lost ", "text").StallAfter(1)
			}
			return chattest.Answer("the ", "whole")
		})
		p := w.relaying(ctx, "a", "b")
		w.readyProvider(ctx)
		run := w.streamedBy(ctx, "a")
		var drafts []func() harness.Draft
		for _, door := range []string{"a", "b"} {
			parts, draft := watched(ctx, p[door].Stream, run)
			Eventually(ctx, parts).Should(Receive(), door)
			drafts = append(drafts, draft)
		}
		Expect(p["a"].Pause()).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(p["a"].Continue()).To(Succeed())
		for n, draft := range drafts {
			d := draft()
			Expect(d.Text).To(Equal("the whole"), "reader %d", n)
			Expect(d.Stale).To(BeZero(), "reader %d", n)
		}
	}, SpecTimeout(2*time.Minute))
})

var _ = Describe("A replica that is told to end", func() {
	It("says so, leaves what waits to others at once, and lets an attempt end that is the last", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.Key == "question of waits" && r.N == 1 {
				return chattest.OpenAIServerErrorResponse()
			}
			if r.Key == "question of waits" {
				return chattest.Answer("waited")
			}
			return chattest.Answer("the ", "last").HoldAfter(1, gate)
		})
		first := w.startProcess("first", "--drain-grace", "1m")
		w.readyProvider(ctx)
		last := w.run(ctx, "last", func(r *v1alpha1.ChatRun) { r.Spec.RetryPolicy.MaxAttempts = new(int32(1)) })
		untilPhase(ctx, last, v1alpha1.PhaseStreaming)
		waits := w.run(ctx, "waits", delays(3000, 3000))
		promised := untilPhase(ctx, waits, v1alpha1.PhaseRetrying)
		w.startProcess("second")
		w.replicas(ctx, "first", "second")
		ended := make(chan error, 1)
		go func() { ended <- first.Terminate() }()
		Eventually(ctx, func() (map[string]string, error) {
			lease := &coordinationv1.Lease{}
			err := plane.Client.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: "first"}, lease)
			return lease.Annotations, err
		}).Should(HaveKeyWithValue("chatrun.dev/draining", "true"))

		By("what waits goes on elsewhere, when it was promised")
		got := untilPhase(ctx, waits, v1alpha1.PhaseSucceeded)
		Expect(got.Status.Worker).To(Equal("second"))
		Expect(attemptOf(got)).To(Equal(2))
		requests := w.fake.Ledger().Requests()
		late := requests[len(requests)-1].At.Sub(promised.Status.RetryingAt.Time)
		Expect(late).To(And(BeNumerically(">=", 0), BeNumerically("<", harness.LeaseDuration)), "not after a time-out")
		By("new runs, too")
		Expect(w.streamedBy(ctx, "second").Name).NotTo(BeEmpty())
		Expect(now(ctx, last).Status.Phase).To(Equal(v1alpha1.PhaseStreaming))
		Consistently(ended).WithTimeout(time.Second).ShouldNot(Receive())

		By("and the last attempt comes to its own end, and the process with it")
		close(gate)
		got = untilPhase(ctx, last, v1alpha1.PhaseSucceeded)
		Expect(got.Status.Worker).To(Equal("first"))
		Expect(attemptOf(got)).To(Equal(1))
		Eventually(ctx, ended).Should(Receive(Succeed()))
		w.replicas(ctx, "second")
	}, SpecTimeout(2*time.Minute))

	It("hands over what is left when the grace is over, at once", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.N > 1 {
				return chattest.Answer("elsewhere")
			}
			return chattest.Answer("too ", "long").HoldAfter(1, gate)
		})
		first := w.startProcess("first", "--drain-grace", "1s")
		w.readyProvider(ctx)
		run := w.run(ctx, "long", delays(3600000, 3600000))
		untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		w.startProcess("second")
		w.replicas(ctx, "first", "second")
		began := time.Now()
		Expect(first.Terminate()).To(Succeed())
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(time.Since(began)).To(BeNumerically("<", harness.LeaseDuration), "not after a time-out")
		Expect(got.Status.Worker).To(Equal("second"))
		Expect(got.Status.LastError).To(BeEmpty())
		Expect(attemptOf(got)).To(Equal(2))
	}, SpecTimeout(2*time.Minute))
})
