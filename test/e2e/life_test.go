// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// maxReconciles bounds what a good run may cost, however many tokens it has:
// one for its creation, one for its outcome, one for its title, one for the
// echo of each of the three writes, and one to spare for the provider's event.
// Each write that is refused, for the cache was a moment behind, costs one more.
const maxReconciles = 7

var _ = Describe("A good run", func() {
	It("costs two status writes and one title write, however many tokens it has", func(ctx SpecContext) {
		parts := chattest.Words(strings.Repeat("word ", 3000))
		w := newWorld(ctx, chattest.Always(chattest.Answer(parts...)))
		startManager(ctx)
		w.readyProvider(ctx)
		// The provider's own event may still be under way to the runs' queue.
		warm := w.run(ctx, "warm")
		untilPhase(ctx, warm, v1alpha1.PhaseSucceeded)
		var before int
		Eventually(ctx, func(g Gomega) {
			before = reconciles()
			g.Consistently(ctx, reconciles, 500*time.Millisecond).Should(Equal(before), "the echoes of the warm run")
		}).Should(Succeed())

		run := w.run(ctx, "cost", withTitle)
		got := until(ctx, run, "titled", func(r *v1alpha1.ChatRun) bool {
			return r.Status.Phase == v1alpha1.PhaseSucceeded && r.Annotations[v1alpha1.AnnotationTitle] != ""
		})
		Expect(got.Annotations[v1alpha1.AnnotationTitle]).To(Equal(chattest.DefaultTitle))
		Expect(textOf(got)).To(Equal(strings.Join(parts, "")))

		var refused int
		count := func() map[string]int {
			requests, err := plane.Requests(w.namespace)
			Expect(err).NotTo(HaveOccurred())
			counts := map[string]int{}
			for _, r := range requests {
				if r.Name != run.Name && r.Resource != "events" && r.Resource != "secrets" {
					continue
				}
				what := strings.TrimSuffix(r.Resource+"/"+r.Subresource, "/") + " " + r.Verb
				if r.Code >= 400 {
					what += " refused"
				}
				counts[what]++
			}
			refused = counts["chatruns/status patch refused"] + counts["chatruns patch refused"]
			delete(counts, "chatruns/status patch refused")
			delete(counts, "chatruns patch refused")
			return counts
		}
		want := map[string]int{"chatruns/status patch": 2, "chatruns patch": 1}
		Eventually(ctx, count).Should(Equal(want))
		Consistently(ctx, count, time.Second).Should(Equal(want), "a quiet system stays quiet")
		Expect(refused).To(BeNumerically("<=", 6), "two for each write, and then it is read past the cache")
		Expect(reconciles() - before).To(BeNumerically("<=", maxReconciles+refused))
	})

	It("is cut at 16 KiB at the end of a character, and says so", func(ctx SpecContext) {
		whole := "x" + strings.Repeat("é", 16<<10)
		w := newWorld(ctx, chattest.Always(chattest.Answer(whole)))
		startManager(ctx)
		w.readyProvider(ctx)
		out := untilPhase(ctx, w.run(ctx, "long"), v1alpha1.PhaseSucceeded).Status.Output
		Expect(*out.Bytes).To(Equal(int64(len(whole))))
		Expect(*out.Truncated).To(BeTrue())
		Expect(out.Text).To(Equal(whole[:16<<10-1]))
	})
})

var _ = Describe("The name of a run", func() {
	It("goes to the next one while the first streams", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.LastUser == "first" {
				return chattest.Answer("never ", "read").HoldAfter(1, gate)
			}
			return chattest.Answer("second")
		})
		defer close(gate)
		m := startManager(ctx)
		w.readyProvider(ctx)
		first := w.run(ctx, "same", func(r *v1alpha1.ChatRun) { r.Spec.Prompt = "first" })
		untilPhase(ctx, first, v1alpha1.PhaseStreaming)
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.CountFor("first", chattest.PurposeAnswer) == 1 })).To(Succeed())
		cut := read(ctx, m.Stream, first)
		Expect(plane.Client.Delete(ctx, first)).To(Succeed())
		second := w.run(ctx, "same", func(r *v1alpha1.ChatRun) { r.Spec.Prompt = "second" })

		Expect(textOf(untilPhase(ctx, second, v1alpha1.PhaseSucceeded))).To(Equal("second"))
		By("the first one's worker and log are gone")
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.For("first", chattest.PurposeAnswer).Cancelled == 1 })).To(Succeed())
		Expect(cut().Text).NotTo(ContainSubstring("second"))
		Expect(w.fake.Ledger().CountFor("first", chattest.PurposeAnswer)).To(Equal(1))
		Expect(w.fake.Ledger().Live()).To(BeZero())
	})
})

var _ = Describe("A cancel", func() {
	DescribeTable("raced against a success ends in one clear state", func(ctx SpecContext, rest string) {
		const racers = 12
		gates := map[string]chan struct{}{}
		for i := range racers {
			gates[fmt.Sprintf("question of race-%d", i)] = make(chan struct{})
		}
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			return chattest.Answer("partial ", rest).HoldAfter(1, gates[r.Key])
		})
		m := startManager(ctx)
		w.readyProvider(ctx)
		runs := make([]*v1alpha1.ChatRun, racers)
		for i := range runs {
			runs[i] = w.run(ctx, fmt.Sprintf("race-%d", i))
		}
		for _, run := range runs {
			firstPart(ctx, m.Stream, run)
		}
		var all sync.WaitGroup
		for i, run := range runs {
			end := func() { close(gates[run.Spec.Prompt]) }
			all.Go(func() {
				defer GinkgoRecover()
				switch i % 3 {
				case 0: // both at once
					all.Go(end)
					cancelRun(ctx, run)
				case 1: // the answer ends while the manager is told of the cancel
					cancelRun(ctx, run)
					end()
				default: // the cancel comes first for sure
					cancelRun(ctx, run)
					untilPhase(ctx, run, v1alpha1.PhaseCancelled)
					end()
				}
			})
		}
		all.Wait()
		ends := map[v1alpha1.Phase]int{}
		for _, run := range runs {
			got := until(ctx, run, "finished", finished)
			ends[got.Status.Phase]++
			whole := "partial " + rest
			switch got.Status.Phase {
			case v1alpha1.PhaseSucceeded:
				Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonCompleted))
			case v1alpha1.PhaseCancelled:
				Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonCancelled))
				Expect(got.Status.FinishReason).To(Equal(v1alpha1.FinishCancelled))
				// The rest may have come, and its end not.
				whole = whole[:*got.Status.Output.Bytes]
				Expect(whole).To(Or(Equal("partial "), Equal("partial "+rest)))
			default:
				Fail("ended as " + string(got.Status.Phase))
			}
			Expect(*got.Status.Output.Bytes).To(Equal(int64(len(whole))))
			expectSame(read(ctx, m.Stream, run)().Text, whole, "read back")
			Expect(attemptOf(got)).To(Equal(1))
		}
		AddReportEntry("ended", fmt.Sprint(ends))
		Expect(ends[v1alpha1.PhaseCancelled]).To(BeNumerically(">=", racers/3))
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 0 })).To(Succeed(), "no worker is left")
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(racers))
	},
		Entry("with a short answer", "text"),
		Entry("with one that stands in an object of its own", strings.Repeat("text", 5<<10)),
	)

	It("7: keeps the partial text, and cuts a wait at once", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.Key == "question of streams" {
				return chattest.Answer("partial ", "text").HoldAfter(1, gate)
			}
			return chattest.OpenAIServerErrorResponse()
		})
		m := startManager(ctx)
		w.readyProvider(ctx)
		streams, waits := w.run(ctx, "streams"), w.run(ctx, "waits", delays(3600000, 3600000))
		pending := w.run(ctx, "pending", func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = "absent" })
		untilPhase(ctx, waits, v1alpha1.PhaseRetrying)
		untilReason(ctx, pending, v1alpha1.ReasonProviderNotReady)
		draft := read(ctx, m.Stream, streams)
		// The worker has the part once a reader has it.
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.CountFor(streams.Spec.Prompt, chattest.PurposeAnswer) == 1 })).To(Succeed())
		firstPart(ctx, m.Stream, streams)
		for _, run := range []*v1alpha1.ChatRun{streams, waits, pending} {
			cancelRun(ctx, run)
		}
		got := untilPhase(ctx, streams, v1alpha1.PhaseCancelled)
		Expect(textOf(got)).To(Equal("partial "))
		Expect(got.Status.FinishReason).To(Equal(v1alpha1.FinishCancelled))
		Expect(draft().Done.Phase).To(Equal("Cancelled"))
		Expect(textOf(untilPhase(ctx, waits, v1alpha1.PhaseCancelled))).To(BeEmpty())
		Expect(attemptOf(untilPhase(ctx, pending, v1alpha1.PhaseCancelled))).To(BeZero())
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2))

		By("being final")
		back := now(ctx, streams)
		back.Spec.DesiredState = v1alpha1.DesiredRunning
		err := plane.Client.Update(ctx, back)
		Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
	})
})

var _ = Describe("A suspension", func() {
	It("drops the attempt, stops the clock, and goes on", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, chattest.Sequence(chattest.Answer("dropped ", "text").HoldAfter(1, gate), chattest.Answer("whole")))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "pause")
		untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		firstPart(ctx, m.Stream, run)
		setDesired(ctx, run, v1alpha1.DesiredSuspended)
		got := untilPhase(ctx, run, v1alpha1.PhaseSuspended)
		Expect(got.Status.SuspendedAt).NotTo(BeNil())
		Expect(got.Status.Output).To(BeNil())
		setDesired(ctx, run, v1alpha1.DesiredRunning)
		got = untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(textOf(got)).To(Equal("whole"))
		Expect(attemptOf(got)).To(Equal(2), "the stopped attempt counts")
		Expect(got.Status.SuspendedAt).To(BeNil())
		Expect(*got.Status.SuspendedMs).To(BeNumerically(">", 0))
	})
})

var _ = Describe("A title", func() {
	It("12: slow, failing, empty or a person's never touches the run", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, chattest.Always(chattest.Answer("an answer")), chattest.Titles(func(r chattest.Request) chattest.Response {
			switch {
			case strings.HasSuffix(r.Key, "slow"):
				return chattest.Answer("A late title").HoldAfter(0, gate)
			case strings.HasSuffix(r.Key, "failing"):
				return chattest.OpenAIErrorResponse(401, "invalid_request_error", "invalid_api_key", "no")
			case strings.HasSuffix(r.Key, "empty"):
				return chattest.Answer(" ** ")
			default:
				return chattest.Answer("\"A generated title.\"")
			}
		}))
		startManager(ctx)
		w.readyProvider(ctx)
		runs := map[string]*v1alpha1.ChatRun{}
		for _, name := range []string{"slow", "failing", "empty", "good"} {
			runs[name] = w.run(ctx, name, withTitle)
		}
		runs["own"] = w.run(ctx, "own", withTitle, func(r *v1alpha1.ChatRun) {
			r.Annotations = map[string]string{v1alpha1.AnnotationTitle: "mine"}
		})
		for _, run := range runs {
			got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
			Expect(attemptOf(got)).To(Equal(1))
			Expect(textOf(got)).To(Equal("an answer"))
		}
		titled := func(name, title string) {
			until(ctx, runs[name], "titled "+title, func(r *v1alpha1.ChatRun) bool { return r.Annotations[v1alpha1.AnnotationTitle] == title })
		}
		titled("good", "A generated title")
		By("a person sets one before the slow title is there")
		Eventually(ctx, func() error {
			slow := now(ctx, runs["slow"])
			slow.Annotations = map[string]string{v1alpha1.AnnotationTitle: "a person's"}
			return plane.Client.Update(ctx, slow)
		}).Should(Succeed())
		close(gate)
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 0 })).To(Succeed())
		Consistently(ctx, func() string { return now(ctx, runs["slow"]).Annotations[v1alpha1.AnnotationTitle] }, time.Second).Should(Equal("a person's"))
		titled("own", "mine")
		titled("failing", "")
		titled("empty", "")
		Expect(w.fake.Ledger().CountFor(runs["own"].Spec.Prompt, chattest.PurposeTitle)).To(BeZero())
		Expect(w.fake.Ledger().CountFor(runs["failing"].Spec.Prompt, chattest.PurposeTitle)).To(Equal(1))
	})

	It("that comes late is written after the end", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, chattest.Always(chattest.Answer("an answer")), chattest.Titles(chattest.Always(chattest.Answer("Late").HoldAfter(0, gate))))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "late", withTitle)
		draft := read(ctx, m.Stream, run)
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(draft().Done).NotTo(BeNil(), "the stream does not wait for the title")
		close(gate)
		until(ctx, run, "titled", func(r *v1alpha1.ChatRun) bool { return r.Annotations[v1alpha1.AnnotationTitle] == "Late" })
	})
})

func finished(run *v1alpha1.ChatRun) bool {
	return meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionFinished)
}

func cancelRun(ctx context.Context, run *v1alpha1.ChatRun) {
	GinkgoHelper()
	setDesired(ctx, run, v1alpha1.DesiredCancelled)
}

func setDesired(ctx context.Context, run *v1alpha1.ChatRun, state v1alpha1.DesiredState) {
	GinkgoHelper()
	base := run.DeepCopy()
	changed := run.DeepCopy()
	changed.Spec.DesiredState = state
	base.Spec.DesiredState = ""
	Expect(plane.Client.Patch(ctx, changed, client.MergeFrom(base))).To(Succeed())
}

// reconciles counts those of runs in this process so far.
func reconciles() int {
	GinkgoHelper()
	families, err := metrics.Registry.Gather()
	Expect(err).NotTo(HaveOccurred())
	sum := 0.0
	for _, family := range families {
		if family.GetName() != "controller_runtime_reconcile_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, label := range m.GetLabel() {
				if label.GetName() == "controller" && label.GetValue() == "chatrun" {
					sum += m.GetCounter().GetValue()
				}
			}
		}
	}
	return int(sum)
}
