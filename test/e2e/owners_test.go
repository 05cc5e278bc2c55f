// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// managers tells who wrote an object, by which of its doors.
func managers(ctx context.Context, o client.Object) []string {
	GinkgoHelper()
	Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(o), o)).To(Succeed())
	var all []string
	for _, m := range o.GetManagedFields() {
		all = append(all, fmt.Sprintf("%s %s %s", m.Manager, m.Operation, m.Subresource))
	}
	return all
}

var _ = Describe("What the operator writes", func() {
	It("has a field manager a purpose, and whoever applies the manifest again meets none of it", func(ctx SpecContext) {
		gate := make(chan struct{})
		long := costly(20 << 10)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			if r.Key == "first" {
				return chattest.Answer("the first ", long).HoldAfter(1, gate)
			}
			return chattest.Answer("the second")
		}, chattest.Titles(chattest.Always(chattest.Answer("A title"))))
		m := startManager(ctx)
		p := w.readyProvider(ctx)
		manifest := func(name, prompt string, spec map[string]any) *unstructured.Unstructured {
			spec["providerRef"], spec["prompt"] = map[string]any{"name": "fake"}, prompt
			return &unstructured.Unstructured{Object: map[string]any{
				"apiVersion": v1alpha1.GroupVersion.String(), "kind": "ChatRun",
				"metadata": map[string]any{"namespace": w.namespace, "name": name}, "spec": spec,
			}}
		}
		apply := func(u *unstructured.Unstructured) {
			GinkgoHelper()
			Expect(plane.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u.DeepCopy()), client.FieldOwner("gitops"))).To(Succeed())
		}
		first := manifest("first", "first", map[string]any{})
		second := manifest("second", "second", map[string]any{"continueFrom": map[string]any{"name": "first"}})
		apply(second)
		apply(first)
		run := &v1alpha1.ChatRun{}
		run.Namespace, run.Name = w.namespace, "first"
		firstPart(ctx, m.Stream, run)
		By("applied again while it streams, without a conflict and without a change")
		before := now(ctx, run)
		apply(first)
		Expect(now(ctx, run).Generation).To(Equal(before.Generation))
		close(gate)
		child := &v1alpha1.ChatRun{}
		child.Namespace, child.Name = w.namespace, "second"
		untilPhase(ctx, child, v1alpha1.PhaseSucceeded)
		until(ctx, run, "titled", func(r *v1alpha1.ChatRun) bool { return r.Annotations[v1alpha1.AnnotationTitle] == "A title" })
		apply(first)
		apply(second)
		Expect(managers(ctx, run)).To(ConsistOf("gitops Apply ", "chatrun.dev/status Update status", "chatrun.dev/title Update ", "chatrun.dev/conversation Update "))
		Expect(managers(ctx, child)).To(ConsistOf("gitops Apply ", "chatrun.dev/status Update status", "chatrun.dev/conversation Update "))
		Expect(managers(ctx, p)).To(ContainElement("chatrun.dev/status Update status"))
		Expect(run.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationTitle, "A title"))
		Expect(run.Labels).To(HaveKey(v1alpha1.LabelConversation))
		Expect(attemptOf(run)).To(Equal(1))
		for _, name := range []string{run.Status.Output.ConfigMapName, "chatrun-" + string(child.UID) + "-messages"} {
			kept := &corev1.ConfigMap{}
			kept.Namespace, kept.Name = w.namespace, name
			Expect(managers(ctx, kept)).To(ConsistOf("chatrun.dev/status Update "))
			Expect(*kept.Immutable).To(BeTrue())
		}
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2))
	})
})
