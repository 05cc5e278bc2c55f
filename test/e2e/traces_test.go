// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// inTrace has a run created in somebody's trace.
func inTrace(run *v1alpha1.ChatRun) {
	run.Annotations = map[string]string{v1alpha1.AnnotationTraceParent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
}

var _ = Describe("Traces", func() {
	It("tell of a run and each of its attempts, in the trace that it was created in, and of nothing that was said", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.OpenAIRateLimitResponse(),
			chattest.Answer("xyzzy-answer").Usage(7, 3)))
		collector := harness.StartCollector(nil)
		DeferCleanup(collector.Close)
		headers := filepath.Join(GinkgoT().TempDir(), "headers")
		Expect(os.WriteFile(headers, []byte("X-Key: collectors-key\n"), 0o600)).To(Succeed())
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "credentials"}, StringData: map[string]string{"apiKey": "providers-key"}}
		Expect(plane.Client.Create(ctx, secret)).To(Succeed())
		m := w.startProcess("traced", "--traces-endpoint", collector.URL, "--traces-headers-file", headers, "--zap-log-level", "debug")
		w.readyProvider(ctx, withSecret("credentials", "apiKey"))
		got := untilPhase(ctx, w.run(ctx, "hello", delays(100, 200), inTrace, func(run *v1alpha1.ChatRun) { run.Spec.Prompt = "xyzzy-question" }), v1alpha1.PhaseSucceeded)
		Expect(m.Terminate()).To(Succeed())

		spans := collector.Spans()
		Expect(spans).To(HaveLen(4), "an end in order gives away what is left")
		run := spans[3]
		Expect(hex.EncodeToString(run.GetTraceId())).To(Equal("0af7651916cd43dd8448eb211c80319c"))
		Expect(hex.EncodeToString(run.GetParentSpanId())).To(Equal("b7ad6b7169203331"))
		Expect(run.GetStartTimeUnixNano()).To(Equal(uint64(got.CreationTimestamp.UnixNano())))
		Expect(run.GetEndTimeUnixNano()).To(Equal(uint64(got.Status.CompletionTime.UnixNano())))
		for i, outcome := range []string{"ServerError", "RateLimited", "Succeeded"} {
			s := spans[i]
			Expect(s.GetTraceId()).To(Equal(run.GetTraceId()))
			Expect(s.GetParentSpanId()).To(Equal(run.GetSpanId()))
			Expect(harness.SpanAttributes(s)).To(And(HaveKeyWithValue("chatrun.attempt", int64(i+1)), HaveKeyWithValue("chatrun.attempt.outcome", outcome)))
			want := tracepb.Status_STATUS_CODE_ERROR
			if outcome == "Succeeded" {
				want = tracepb.Status_STATUS_CODE_UNSET
			}
			Expect(s.GetStatus().GetCode()).To(Equal(want))
		}
		Expect(harness.SpanAttributes(spans[2])).To(HaveKeyWithValue("gen_ai.usage.output_tokens", int64(3)))
		Expect(collector.Resources()).To(ContainElements("service.name=chatrun-operator", "service.instance.id=traced"))
		requests, bodies := collector.Requests()
		Expect(requests[0].Header.Get("X-Key")).To(Equal("collectors-key"))
		log, err := os.ReadFile(m.LogFile)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(log)).To(ContainSubstring(`"trace":"0af7651916cd43dd8448eb211c80319c"`))
		for _, body := range append(bodies, log) {
			for _, word := range []string{"xyzzy", "providers-key", "collectors-key"} {
				Expect(string(body)).NotTo(ContainSubstring(word))
			}
		}
	})

	It("hold up neither runs nor the end of a manager, whose collector hangs", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("Hello")))
		collector := harness.StartCollector(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		DeferCleanup(collector.Close)
		m := w.startProcess("traced", "--traces-endpoint", collector.URL)
		w.readyProvider(ctx)
		run := w.run(ctx, "hello", delays(100, 100))
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		began := time.Now()
		Expect(m.Interrupt(10 * time.Second)).To(Succeed())
		Expect(time.Since(began)).To(BeNumerically("<", 8*time.Second), "5 s for the collector")
		log, err := os.ReadFile(m.LogFile)
		Expect(err).NotTo(HaveOccurred())
		Expect(strings.Count(string(log), "the last spans are lost")).To(Equal(1))
	})
})
