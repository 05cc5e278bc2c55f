// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// get reads an answer to its end.
func get(ctx context.Context, url string) (code int, body string) {
	GinkgoHelper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	Expect(err).NotTo(HaveOccurred())
	answer, err := http.DefaultClient.Do(r)
	Expect(err).NotTo(HaveOccurred())
	defer answer.Body.Close()
	raw, err := io.ReadAll(answer.Body)
	Expect(err).NotTo(HaveOccurred())
	return answer.StatusCode, string(raw)
}

var _ = Describe("The stream", func() {
	It("4: gives whoever joins, at every frame of three attempts, the stored text", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(
			chattest.Answer("wrong ", "text ", "never sent").Pace(5*time.Millisecond).ResetAfter(2),
			chattest.Answer("also ", "wrong ", "never sent").Pace(5*time.Millisecond).EndAfter(2),
			chattest.Answer(chattest.Words("The text that stands in the end, «zwölf» words and a line\nbreak.")...).Pace(5*time.Millisecond)))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "joined", delays(200, 200))
		joiners := make(chan func() *harness.Draft, 1000)
		frames := 0
		Expect(harness.Read(ctx, harness.StreamURL(m.Stream, run.Namespace, run.Name), "", func(harness.Frame) {
			frames++
			joiners <- read(ctx, m.Stream, run)
		})).To(Succeed())
		close(joiners)
		stored := textOf(untilPhase(ctx, run, v1alpha1.PhaseSucceeded))
		Expect(frames).To(BeNumerically(">", 20))
		for joiner := range joiners {
			draft := joiner()
			Expect(draft.Text).To(Equal(stored))
			Expect(draft.Stale).To(Equal(0))
			Expect(draft.Done).NotTo(BeNil())
		}
	})

	It("waits for a run that is not there yet, and tells all of it", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("Hello", ", ", "world").Usage(7, 3)))
		m := startManager(ctx)
		w.readyProvider(ctx)
		url := harness.StreamURL(m.Stream, w.namespace, "early")
		code, body := get(ctx, url)
		Expect(code).To(Equal(http.StatusNotFound), body)
		code, body = get(ctx, url+"?wait=1ms")
		Expect(code).To(Equal(http.StatusNotFound), body)

		draft, done := &harness.Draft{}, make(chan error, 1)
		go func() {
			done <- harness.Read(ctx, url+"?wait=1m", "", func(f harness.Frame) { _ = draft.Take(f) })
		}()
		plain := make(chan string, 1)
		go func() {
			defer GinkgoRecover()
			_, body := get(ctx, url+"?wait=1m&format=text")
			plain <- body
		}()
		untilPhase(ctx, w.run(ctx, "early"), v1alpha1.PhaseSucceeded)
		Eventually(ctx, done).Should(Receive(BeNil()))
		Expect(draft.Text).To(Equal("Hello, world"))
		Expect(draft.Done.Phase).To(Equal("Succeeded"))
		Eventually(ctx, plain).Should(Receive(Equal("Hello, world")))
	})

	It("tells the same of a finished run from its log, and after a restart from its object", func(ctx SpecContext) {
		titled := make(chan struct{})
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.Purpose == chattest.PurposeTitle {
				return chattest.Answer("A title")
			}
			return chattest.Answer("Hello", ", ", "world").Usage(7, 3).HoldAfter(1, titled)
		})
		first := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "told", withTitle)
		// The log of a run ends with its answer, and waits for no title.
		until(ctx, run, "a title", func(run *v1alpha1.ChatRun) bool { return run.Annotations[v1alpha1.AnnotationTitle] != "" })
		close(titled)
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		events := func(base string) (text string, names []stream.Name) {
			draft := &harness.Draft{}
			Expect(harness.Read(ctx, harness.StreamURL(base, run.Namespace, run.Name), "", func(f harness.Frame) {
				Expect(draft.Take(f)).To(Succeed())
				names = append(names, f.Event)
			})).To(Succeed())
			return draft.Text, slices.Compact(names) // parts may come as one
		}
		want := []stream.Name{stream.EventStatus, stream.EventMessagePart, stream.EventTitle, stream.EventUsage, stream.EventDone}
		text, names := events(first.Stream)
		Expect(text).To(Equal("Hello, world"))
		Expect(names).To(Equal(want))
		Expect(first.Stop()).To(Succeed())

		second := startManager(ctx)
		Eventually(ctx, func() int {
			code, _ := get(ctx, harness.StreamURL(second.Stream, run.Namespace, run.Name))
			return code
		}).Should(Equal(200))
		text, names = events(second.Stream)
		Expect(text).To(Equal("Hello, world"))
		Expect(names).To(Equal(want))
		code, body := get(ctx, harness.StreamURL(second.Stream, run.Namespace, run.Name)+"?format=text")
		Expect(code).To(Equal(200))
		Expect(body).To(Equal("Hello, world"))
		_, body = get(ctx, harness.StreamURL(second.Stream, run.Namespace, run.Name)+"?format=openai")
		Expect(strings.TrimSpace(body)).To(HaveSuffix("data: [DONE]"))
	})

	It("answers a run that failed with its reason where a format has no events", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.OpenAIErrorResponse(401, "invalid_request_error", "invalid_api_key", "Incorrect API key provided")))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "failed")
		untilPhase(ctx, run, v1alpha1.PhaseFailed)
		code, body := get(ctx, harness.StreamURL(m.Stream, run.Namespace, run.Name)+"?format=text")
		Expect(code).To(Equal(http.StatusFailedDependency))
		Expect(body).To(ContainSubstring(v1alpha1.ReasonAuthenticationFailed))
	})
})
