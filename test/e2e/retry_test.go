// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"net/http"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

var _ = Describe("Retrying", func() {
	for _, vendor := range []struct {
		name       string
		overloaded chattest.Response
		change     func(*world) func(*v1alpha1.ChatProvider)
	}{
		{"OpenAI", chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "", "overloaded"), func(*world) func(*v1alpha1.ChatProvider) { return func(*v1alpha1.ChatProvider) {} }},
		{"Anthropic", chattest.AnthropicOverloadedResponse(), anthropic},
	} {
		It("1: overloaded twice, then answers ("+vendor.name+")", func(ctx SpecContext) {
			w := newWorld(ctx, chattest.Sequence(vendor.overloaded, vendor.overloaded,
				chattest.Answer("Hello", ", ", "world").Usage(7, 3)))
			m := startManager(ctx)
			w.readyProvider(ctx, vendor.change(w))
			seen := watchRuns(ctx, w.namespace)
			run := w.run(ctx, "hello", delays(1000, 60000))
			draft := read(ctx, m.Stream, run)

			got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
			Expect(textOf(got)).To(Equal("Hello, world"))
			Expect(attemptOf(got)).To(Equal(3))
			Expect(got.Status.LastErrorReason).To(Equal("Overloaded"), "kept after success")
			Expect(got.Status.DelayMs).To(BeNil())
			Expect(got.Status.RetryingAt).To(BeNil())
			Expect(got.Status.FinishReason).To(Equal(v1alpha1.FinishStop))
			Expect(*got.Status.Usage).To(Equal(v1alpha1.Usage{InputTokens: new(int64(7)), OutputTokens: new(int64(3))}))
			Expect(got.Status.CompletionTime.Sub(got.Status.StartTime.Time)).To(BeNumerically(">=", 3*time.Second))
			Eventually(ctx, func() []line { return seen.lines("hello") }).Should(Equal([]line{
				{Phase: v1alpha1.PhasePending},
				{Phase: v1alpha1.PhaseStreaming, Attempt: 1},
				{Phase: v1alpha1.PhaseRetrying, Attempt: 1, DelayMs: 1000, Reason: "Overloaded"},
				{Phase: v1alpha1.PhaseStreaming, Attempt: 2, Reason: "Overloaded"},
				{Phase: v1alpha1.PhaseRetrying, Attempt: 2, DelayMs: 2000, Reason: "Overloaded"},
				{Phase: v1alpha1.PhaseStreaming, Attempt: 3, Reason: "Overloaded"},
				{Phase: v1alpha1.PhaseSucceeded, Attempt: 3, Reason: "Overloaded"},
			}))

			d := draft()
			Expect(d.Text).To(Equal("Hello, world"))
			Expect(d.Retries).To(HaveLen(2))
			for i, r := range d.Retries {
				Expect(int(r.Attempt)).To(Equal(i + 1))
				Expect(r.DelayMs).To(Equal(int64(1000 << i)))
				Expect(r.Error).NotTo(BeEmpty())
				Expect(r.Reason).To(Equal("Overloaded"))
				Expect(r.RetryingAt).NotTo(BeZero())
			}
			Expect(d.Done.Phase).To(Equal("Succeeded"))
			Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(3))
		})
	}

	DescribeTable("2: a final failure is asked once", func(ctx SpecContext, answer chattest.Response, reason string) {
		w := newWorld(ctx, chattest.Always(answer))
		startManager(ctx)
		w.readyProvider(ctx)
		got := untilPhase(ctx, w.run(ctx, "once"), v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(reason))
		Expect(got.Status.LastErrorReason).To(Equal(reason))
		Expect(attemptOf(got)).To(Equal(1))
		Expect(got.Status.CompletionTime).NotTo(BeNil())
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(1))
	},
		Entry("wrong key", chattest.OpenAIErrorResponse(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided"), "AuthenticationFailed"),
		Entry("no money", chattest.OpenAIErrorResponse(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota"), "QuotaExhausted"),
		Entry("unknown model at 503", chattest.OpenAIErrorResponse(503, "server_error", "", "invalid model"), "ModelNotFound"),
		Entry("too long", chattest.OpenAIErrorResponse(400, "invalid_request_error", "context_length_exceeded", "This model's maximum context length is 8192 tokens"), "ContextLengthExceeded"),
		Entry("refusal", chattest.Refusal("I can't help with that."), "ContentFiltered"),
		Entry("no text", chattest.Answer(), "EmptyAnswer"),
	)

	DescribeTable("3: Retry-After is a floor", func(ctx SpecContext, answer chattest.Response, delay int64) {
		w := newWorld(ctx, chattest.Sequence(answer, chattest.Answer("ok")))
		startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "hinted")
		Expect(*untilPhase(ctx, run, v1alpha1.PhaseRetrying).Status.DelayMs).To(Equal(delay))
	},
		Entry("seconds", chattest.OpenAIRateLimitResponse().Header("Retry-After", "7"), int64(7000)),
		Entry("milliseconds", chattest.OpenAIRateLimitResponse().Header("Retry-After-Ms", "7000"), int64(7000)),
		Entry("date", chattest.OpenAIRateLimitResponse().
			Header("Date", "Fri, 02 Jan 2026 03:04:05 GMT").Header("Retry-After", "Fri, 02 Jan 2026 03:04:12 GMT"), int64(7000)),
	)

	It("3: a hint of a day ends the run, a malformed one is none", func(ctx SpecContext) {
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if strings.HasSuffix(r.LastUser, "day") {
				return chattest.OpenAIRateLimitResponse().Header("Retry-After", "86400")
			}
			return chattest.Sequence(chattest.OpenAIRateLimitResponse().Header("Retry-After", "soon"), chattest.Answer("ok"))(r)
		})
		startManager(ctx)
		w.readyProvider(ctx)
		day, soon := w.run(ctx, "day"), w.run(ctx, "soon")
		Expect(reasonOf(untilPhase(ctx, day, v1alpha1.PhaseFailed))).To(Equal(v1alpha1.ReasonRetryAfterTooLong))
		Expect(attemptOf(untilPhase(ctx, soon, v1alpha1.PhaseSucceeded))).To(Equal(2))
	})

	It("4: a reset after some parts leaves no stale text with anyone", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(
			chattest.Answer("wrong ", "text ", "never ", "sent").ResetAfter(2),
			chattest.Answer("right ", "text")))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "reset", delays(500, 500))
		live := read(ctx, m.Stream, run)
		untilPhase(ctx, run, v1alpha1.PhaseRetrying)
		waiting := read(ctx, m.Stream, run)
		Expect(textOf(untilPhase(ctx, run, v1alpha1.PhaseSucceeded))).To(Equal("right text"))
		late := read(ctx, m.Stream, run)

		saw, waited, came := live(), waiting(), late()
		Expect([]string{saw.Text, waited.Text, came.Text}).To(HaveEach("right text"))
		Expect([]int{saw.Stale, waited.Stale, came.Stale}).To(HaveEach(0))
		Expect(saw.Retries).To(HaveLen(1))
		Expect(waited.Retries).To(HaveLen(1), "a reader who comes during the wait sees the pending retry")
		Expect(came.Retries).To(BeEmpty())
	})

	It("5: an error inside a 200, a clean end without the terminal event, an HTML page", func(ctx SpecContext) {
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			answer, broken := chattest.Answer("whole ", "text"), chattest.Answer("some ", "parts ", "more")
			switch r.Key {
			case "question of event":
				return chattest.Sequence(broken.ErrorEventAfter(2, chattest.OpenAIServerErrorResponse()), answer)(r)
			case "question of cut":
				return chattest.Sequence(broken.EndAfter(2), answer)(r)
			case "question of last":
				return broken.EndAfter(2)
			default:
				return chattest.HTMLPage()
			}
		})
		m := startManager(ctx)
		w.readyProvider(ctx)
		event, cut, page := w.run(ctx, "event"), w.run(ctx, "cut"), w.run(ctx, "page")
		last := w.run(ctx, "last", maxAttempts(2), delays(300, 300))
		draft := read(ctx, m.Stream, last)
		got := untilPhase(ctx, event, v1alpha1.PhaseSucceeded)
		Expect([]any{textOf(got), attemptOf(got), got.Status.LastErrorReason}).To(Equal([]any{"whole text", 2, "ServerError"}))
		got = untilPhase(ctx, cut, v1alpha1.PhaseSucceeded)
		Expect([]any{textOf(got), attemptOf(got), got.Status.LastErrorReason}).To(Equal([]any{"whole text", 2, "StreamInterrupted"}))
		got = untilPhase(ctx, page, v1alpha1.PhaseFailed)
		Expect([]any{attemptOf(got), got.Status.LastErrorReason}).To(Equal([]any{1, "InvalidRequest"}))

		By("what failed attempts wrote is no answer, to no reader")
		got = untilPhase(ctx, last, v1alpha1.PhaseFailed)
		Expect(got.Status.Output).To(BeNil())
		d := draft()
		Expect(d.Text).To(BeEmpty())
		Expect(d.Failed.Reason).To(Equal(v1alpha1.ReasonRetriesExhausted))
	})

	It("6: silence is a failure, a slow drip is not", func(ctx SpecContext) {
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			answer := chattest.Answer("drip ", "drop ", "drip ", "drop")
			switch {
			case r.Key == "question of drip":
				return answer.Pace(500 * time.Millisecond)
			case r.N > 1:
				return answer
			case r.Key == "question of mute":
				return chattest.Silent()
			case r.Key == "question of stall":
				return answer.StallAfter(2)
			default:
				return answer.KeepAlivesAfter(1, 100*time.Millisecond)
			}
		})
		startManager(ctx)
		w.readyProvider(ctx)
		idle := func(r *v1alpha1.ChatRun) { r.Spec.StreamIdleTimeoutSeconds = new(int32(1)) }
		drip := w.run(ctx, "drip", idle)
		silent := []*v1alpha1.ChatRun{w.run(ctx, "mute", idle), w.run(ctx, "stall", idle), w.run(ctx, "alive", idle)}
		for _, run := range silent {
			got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
			Expect([]any{attemptOf(got), got.Status.LastErrorReason}).To(Equal([]any{2, "Timeout"}), run.Name)
		}
		Expect(attemptOf(untilPhase(ctx, drip, v1alpha1.PhaseSucceeded))).To(Equal(1))
	})

	It("9: makes exactly as many calls as allowed", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.OpenAIServerErrorResponse()))
		startManager(ctx)
		w.readyProvider(ctx)
		one, two, five := w.run(ctx, "one", maxAttempts(1)), w.run(ctx, "two", maxAttempts(2)), w.run(ctx, "five", maxAttempts(5))
		for n, run := range map[int]*v1alpha1.ChatRun{1: one, 2: two, 5: five} {
			got := untilPhase(ctx, run, v1alpha1.PhaseFailed)
			Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonRetriesExhausted))
			Expect(got.Status.LastErrorReason).To(Equal("ServerError"))
			Expect(messageOf(got)).To(ContainSubstring(got.Status.LastError))
			Expect(attemptOf(got)).To(Equal(n))
			Expect(w.fake.Ledger().CountFor(run.Spec.Prompt, chattest.PurposeAnswer)).To(Equal(n))
		}
	})

	It("9: goes on past 25 without a limit", func(ctx SpecContext) {
		failing := make([]chattest.Response, 30)
		for i := range failing {
			failing[i] = chattest.OpenAIServerErrorResponse()
		}
		w := newWorld(ctx, chattest.Sequence(append(failing, chattest.Answer("at last"))...))
		startManager(ctx)
		w.readyProvider(ctx)
		got := untilPhase(ctx, w.run(ctx, "endless", maxAttempts(0), delays(1, 5)), v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(31))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(31))
	})

	It("tells Events of retries and failures, folded, and none of a success", func(ctx SpecContext) {
		failing := make([]chattest.Response, 20)
		for i := range failing {
			failing[i] = chattest.OpenAIServerErrorResponse()
		}
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			switch r.Key {
			case "question of quiet":
				return chattest.Answer("at once")
			case "question of final":
				return chattest.WrongKey(r)
			default:
				return chattest.Sequence(append(failing, chattest.Answer("at last"))...)(r)
			}
		})
		startManager(ctx)
		w.readyProvider(ctx)
		quiet, final, noisy := w.run(ctx, "quiet"), w.run(ctx, "final"), w.run(ctx, "noisy", delays(1, 5))
		untilPhase(ctx, quiet, v1alpha1.PhaseSucceeded)
		untilPhase(ctx, final, v1alpha1.PhaseFailed)
		Expect(attemptOf(untilPhase(ctx, noisy, v1alpha1.PhaseSucceeded))).To(Equal(21))
		events := func() map[string][]string {
			var list eventsv1.EventList
			Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			told := map[string][]string{}
			for _, e := range list.Items {
				told[e.Regarding.Name] = append(told[e.Regarding.Name], e.Type+" "+e.Reason)
				if e.Regarding.Name == "noisy" && e.Series == nil {
					return nil
				}
			}
			return told
		}
		want := map[string][]string{"final": {"Warning AuthenticationFailed"}, "noisy": {"Warning Retrying"}}
		Eventually(ctx, events).Should(Equal(want))
		Consistently(ctx, events, time.Second).Should(Equal(want))
	})

	It("14: a poke starts nothing early, and costs no answer", func(ctx SpecContext) {
		gate := make(chan struct{})
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("one ", "two").HoldAfter(1, gate)))
		startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "poked", delays(1500, 1500))
		waiting := untilPhase(ctx, run, v1alpha1.PhaseRetrying)
		for range 20 {
			poke(ctx, run)
		}
		got := untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		Expect(attemptOf(got)).To(Equal(2))
		// The status is written before the call is made.
		Eventually(ctx, func() int { return w.fake.Ledger().Count(chattest.PurposeAnswer) }).Should(Equal(2))
		first, second := w.fake.Ledger().Requests()[0], w.fake.Ledger().Requests()[1]
		Expect(second.At).To(BeTemporally(">=", waiting.Status.RetryingAt.Time))
		Expect(second.At.Sub(first.At)).To(BeNumerically(">=", 1500*time.Millisecond))
		for range 20 {
			poke(ctx, run)
		}
		close(gate)
		Expect(textOf(untilPhase(ctx, run, v1alpha1.PhaseSucceeded))).To(Equal("one two"))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2))
	})
})

// poke edits a label, an annotation and a mutable field.
func poke(ctx context.Context, run *v1alpha1.ChatRun) {
	GinkgoHelper()
	Eventually(ctx, func() error {
		read := now(ctx, run)
		if read.Labels == nil {
			read.Labels, read.Annotations = map[string]string{}, map[string]string{}
		}
		stamp := time.Now().UTC().Format("150405.000000000")
		read.Labels["poke"], read.Annotations["poke"] = stamp, stamp
		read.Spec.TTLSecondsAfterFinished = new(int32(3600 + time.Now().Nanosecond()%1000))
		return plane.Client.Update(ctx, read)
	}).Should(Succeed())
}
