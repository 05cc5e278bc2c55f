// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

const (
	attemptRule    = "status.attempt must not decrease or be removed"
	completionRule = "status.completionTime must not change or be removed once it is set"
)

// finishedAt is the end of the runs that these specs finish. Its fraction shows
// that none is lost.
var finishedAt = metav1.NewMicroTime(time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC))

// finish writes a status of the third attempt's success to a new run.
func finish(ctx SpecContext) *v1alpha1.ChatRun {
	GinkgoHelper()
	run := newRun(newNamespace(ctx), "hello")
	Expect(api.Create(ctx, run)).To(Succeed())
	run.Status.Phase = v1alpha1.PhaseSucceeded
	run.Status.Attempt = new(int32(3))
	run.Status.CompletionTime = &finishedAt
	run.Status.Output = &v1alpha1.Output{Text: "Scattering.", Bytes: new(int64(11))}
	Expect(api.Status().Update(ctx, run)).To(Succeed())
	return run
}

var _ = Describe("a status", func() {
	DescribeTable("cannot go backwards",
		func(ctx SpecContext, write func(SpecContext, *v1alpha1.ChatRun) error, rules ...string) {
			run := finish(ctx)
			before := run.Status.DeepCopy()
			err := write(ctx, run)
			Expect(apierrors.IsInvalid(err)).To(BeTrue(), "%v", err)
			for _, rule := range rules {
				Expect(err).To(MatchError(ContainSubstring(rule)))
			}
			Expect(api.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
			Expect(run.Status).To(Equal(*before))
		},
		Entry("with a lower attempt", changing(func(s *v1alpha1.ChatRunStatus) { s.Attempt = new(int32(2)) }), attemptRule),
		Entry("with attempt 0", changing(func(s *v1alpha1.ChatRunStatus) { s.Attempt = new(int32(0)) }), attemptRule),
		Entry("without an attempt", changing(func(s *v1alpha1.ChatRunStatus) { s.Attempt = nil }), attemptRule),
		Entry("with another completionTime", changing(func(s *v1alpha1.ChatRunStatus) {
			s.CompletionTime = new(metav1.NewMicroTime(finishedAt.Add(time.Microsecond)))
		}), completionRule),
		Entry("without a completionTime", changing(func(s *v1alpha1.ChatRunStatus) { s.CompletionTime = nil }), completionRule),
		Entry("that is empty", changing(func(s *v1alpha1.ChatRunStatus) { *s = v1alpha1.ChatRunStatus{} }), attemptRule, completionRule),
		Entry("that is left out", func(ctx SpecContext, run *v1alpha1.ChatRun) error {
			bare := bareRun(run.Namespace, run.Name)
			bare.SetResourceVersion(run.ResourceVersion)
			return api.Status().Update(ctx, bare)
		}, attemptRule, completionRule),
		Entry("that a patch removes", patching(`{"status":null}`), attemptRule, completionRule),
		Entry("of which a patch removes the attempt", patching(`{"status":{"attempt":null}}`), attemptRule),
		Entry("of which a patch removes the completionTime", patching(`{"status":{"completionTime":null}}`), completionRule),
	)

	It("can go on", func(ctx SpecContext) {
		run := newRun(newNamespace(ctx), "hello")
		Expect(api.Create(ctx, run)).To(Succeed())
		for attempt := range int32(3) {
			run.Status.Attempt = &attempt
			Expect(api.Status().Update(ctx, run)).To(Succeed())
		}
		run.Status.CompletionTime = &finishedAt
		Expect(api.Status().Update(ctx, run)).To(Succeed())
		Expect(run.Status.CompletionTime.Time).To(BeTemporally("==", finishedAt.Time))
	})

	It("can be written again once it is final, as long as it says the same", func(ctx SpecContext) {
		run := finish(ctx)
		run.Status.Usage = &v1alpha1.Usage{OutputTokens: new(int64(2))}
		Expect(api.Status().Update(ctx, run)).To(Succeed())
	})

	It("leaves the labels, the annotations and the TTL of a finished run to its owner", func(ctx SpecContext) {
		run := finish(ctx)
		run.Labels = map[string]string{"team": "search"}
		run.Annotations = map[string]string{v1alpha1.AnnotationTitle: "Of skies"}
		run.Spec.TTLSecondsAfterFinished = new(int32(60))
		Expect(api.Update(ctx, run)).To(Succeed())
		Expect(api.Patch(ctx, run, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":null}}`)))).To(Succeed())
		Expect(run.Labels).To(BeEmpty())
		Expect(*run.Status.Attempt).To(Equal(int32(3)))
	})

	It("is not touched by a write of the main resource", func(ctx SpecContext) {
		run := finish(ctx)
		before := run.Status.DeepCopy()
		run.Status = v1alpha1.ChatRunStatus{Phase: v1alpha1.PhaseFailed, Attempt: new(int32(1))}
		Expect(api.Update(ctx, run)).To(Succeed())
		Expect(run.Status).To(Equal(*before))

		bare := bareRun(run.Namespace, run.Name)
		bare.SetResourceVersion(run.ResourceVersion)
		Expect(api.Update(ctx, bare)).To(Succeed())
		Expect(api.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
		Expect(run.Status).To(Equal(*before))
	})

	It("cannot change what is asked", func(ctx SpecContext) {
		run := finish(ctx)
		run.Spec.Prompt = "Why is it green?"
		Expect(api.Status().Update(ctx, run)).To(Succeed())
		Expect(run.Spec.Prompt).To(Equal("Why is the sky blue?"))
	})

	DescribeTable("knows its values and bounds", func(ctx SpecContext, patch, refusal string) {
		run := newRun(newNamespace(ctx), "hello")
		Expect(api.Create(ctx, run)).To(Succeed())
		Expect(patching(patch)(ctx, run)).To(MatchError(ContainSubstring(refusal)))
	},
		Entry("of phase", `{"status":{"phase":"Done"}}`, `status.phase: Unsupported value: "Done"`),
		Entry("of finishReason", `{"status":{"finishReason":"stop"}}`, `status.finishReason: Unsupported value: "stop"`),
		Entry("of attempt", `{"status":{"attempt":-1}}`, "status.attempt: Invalid value: -1"),
		Entry("of delayMs", `{"status":{"delayMs":-1}}`, "status.delayMs: Invalid value: -1"),
		Entry("of retryingAt", `{"status":{"retryingAt":"soon"}}`, "status.retryingAt: Invalid value"),
		Entry("of lastError", `{"status":{"lastError":""}}`, "status.lastError: Invalid value: \"\": lastError in body should be at least 1 chars long"),
		Entry("of usage", `{"status":{"usage":{}}}`, "status.usage: Invalid value: 0: usage in body should have at least 1 properties"),
	)

	It("holds an answer of 16 KiB whose characters take four bytes", func(ctx SpecContext) {
		run := finish(ctx)
		run.Status.Output.Text = ""
		for len(run.Status.Output.Text) < v1alpha1.MaxInlineOutputBytes {
			run.Status.Output.Text += "🌈"
		}
		Expect(api.Status().Update(ctx, run)).To(Succeed())
	})
})

// changing writes a status through the subresource, changed by mend.
func changing(mend func(*v1alpha1.ChatRunStatus)) func(SpecContext, *v1alpha1.ChatRun) error {
	return func(ctx SpecContext, run *v1alpha1.ChatRun) error {
		changed := run.DeepCopy()
		mend(&changed.Status)
		return api.Status().Update(ctx, changed)
	}
}

// patching merges a patch into the status subresource.
func patching(patch string) func(SpecContext, *v1alpha1.ChatRun) error {
	return func(ctx SpecContext, run *v1alpha1.ChatRun) error {
		return api.Status().Patch(ctx, run.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch)))
	}
}
