// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

//go:build netns

package netns

import (
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

const (
	// takeoverSlack is how much later than a Lease's duration its runs are taken over
	// at the latest.
	takeoverSlack = 2 * time.Second
	// specTime bounds a spec: its answers at length, and a cut that heals slowly.
	specTime = 3 * time.Minute
)

var _ = Describe("A replica whose link to the API server is cut", func() {
	DescribeTable("streams until it is fenced, and no longer; others go on, and it heals by itself", func(ctx SpecContext, c cut) {
		w := newWorld(ctx)
		by := w.streamed(ctx)
		cutOff := by["a"]
		heal := c.of(ctx, "a", control)
		cutAt := time.Now()
		parts := map[string]int{}
		for _, run := range cutOff {
			parts[run.Name] = w.attempts(run)[0].Parts
		}

		var fenced, taken span
		for _, run := range cutOff {
			seen := w.untilAttempts(ctx, run, 2)
			first, second := seen[0], seen[1]
			Expect(first.State).To(Equal(chattest.Cancelled), "%s: two attempts at a time, or an end of its own", run.Name)
			Expect(first.Parts).To(BeNumerically(">", parts[run.Name]), "%s: it streams what it may", run.Name)
			Expect(second.At).To(BeTemporally(">", first.Over), "%s: two attempts at a time", run.Name)
			fenced.add(first.Over.Sub(cutAt))
			taken.add(second.At.Sub(cutAt))
		}
		report("Leases of %v, %d runs of the replica that was cut off: ended %v after the cut, and taken over %v after it", leaseOf, len(cutOff), fenced, taken)
		Expect(fenced.least).To(BeNumerically(">", leaseOf/3), "it went on as long as nobody could take it for gone")
		Expect(taken.most).To(BeNumerically("<", leaseOf+takeoverSlack), "taken over in time")
		for _, run := range cutOff {
			ended := until(ctx, run, succeeded)
			Expect(ended.Status.Worker).NotTo(Equal("a"), run.Name)
			Expect(ended.Status.LastErrorReason).To(Equal("WorkerLost"), run.Name)
			Expect(attemptOf(ended)).To(Equal(2), run.Name)
		}

		healedAt := time.Now()
		heal(ctx)
		renewed := w.untilRenewed(ctx, "a", healedAt)
		w.takesOn(ctx, "a")
		report("its Lease was renewed %v after its link was back, and it took on a run within %v",
			renewed.Sub(healedAt).Round(time.Millisecond), time.Since(healedAt).Round(time.Millisecond))
		w.untouched(ctx, by["b"], by["c"])
		w.settle(ctx)
		for _, run := range w.runs {
			Expect(w.fake.Ledger().MaxLiveFor(run.Spec.Prompt)).To(Equal(1), "%s: two attempts at a time", run.Name)
		}
	},
		Entry("and it sees that", SpecTimeout(specTime), goesDown),
		Entry("and it sees nothing", SpecTimeout(specTime), goesSilent),
	)
})

var _ = Describe("A replica whose link to the provider is cut", func() {
	DescribeTable("keeps its runs, whose attempts fail and are counted until the link is back", func(ctx SpecContext, c cut) {
		w := newWorld(ctx)
		by := w.streamed(ctx)
		heal := c.of(ctx, "a", data)
		cutAt := time.Now()
		var failed span
		for _, run := range by["a"] {
			again := until(ctx, run, func(r *v1alpha1.ChatRun) bool { return attemptOf(r) >= 2 })
			failed.add(time.Since(cutAt))
			Expect(again.Status.LastErrorReason).To(Equal("Timeout"), run.Name)
		}
		for _, run := range by["a"] {
			again := until(ctx, run, func(r *v1alpha1.ChatRun) bool { return attemptOf(r) >= 3 })
			Expect(again.Status.LastErrorReason).To(BeElementOf("Timeout", "ConnectionError"), run.Name)
			Expect(again.Status.Worker).To(Equal("a"), run.Name)
			Expect(w.attempts(run)).To(HaveLen(1), "%s: the provider cannot see more", run.Name)
		}

		healedAt := time.Now()
		heal(ctx)
		var whole span
		for _, run := range by["a"] {
			ended := until(ctx, run, succeeded)
			whole.add(time.Since(healedAt))
			Expect(ended.Status.Worker).To(Equal("a"), run.Name)
			seen := w.attempts(run)
			for n, e := range seen[1:] {
				Expect(e.At).To(BeTemporally(">", healedAt), "%s: request %d", run.Name, n+2)
			}
		}
		report("%d runs of the replica that was cut off: made again %v after the cut, and whole %v after its link was back", len(by["a"]), failed, whole)
		w.takesOn(ctx, "a")
		w.untouched(ctx, by["b"], by["c"])
		w.settle(ctx)
		// The provider learns late that nobody wants what it sent into the cut.
		Eventually(ctx, w.fake.Ledger().Live).Should(BeZero())
	},
		Entry("and it sees that", SpecTimeout(specTime), goesDown),
		Entry("and it sees nothing", SpecTimeout(specTime), goesSilent),
	)
})

// untouched checks that runs of other replicas end as if nothing had been.
func (w *world) untouched(ctx SpecContext, others ...[]*v1alpha1.ChatRun) {
	GinkgoHelper()
	for _, runs := range others {
		for _, run := range runs {
			Expect(attemptOf(until(ctx, run, succeeded))).To(Equal(1), run.Name)
			Expect(w.attempts(run)).To(HaveLen(1), run.Name)
		}
	}
}

// span is how long something took, of several.
type span struct {
	least, most time.Duration
	some        bool
}

func (s *span) add(d time.Duration) {
	if !s.some || d < s.least {
		s.least = d
	}
	s.most, s.some = max(s.most, d), true
}

func (s span) String() string {
	return fmt.Sprintf("%v to %v", s.least.Round(time.Millisecond), s.most.Round(time.Millisecond))
}
