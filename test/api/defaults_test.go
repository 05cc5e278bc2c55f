// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// wholeSpec is what the least spec becomes.
var wholeSpec = map[string]any{
	"providerRef":              map[string]any{"name": "main"},
	"prompt":                   "Why is the sky blue?",
	"retryPolicy":              map[string]any{"maxAttempts": int64(25), "initialDelayMs": int64(1000), "maxDelayMs": int64(60000)},
	"streamIdleTimeoutSeconds": int64(600),
	"desiredState":             "Running",
	"title":                    map[string]any{"policy": "Generate"},
	"output":                   map[string]any{"storage": "ConfigMap"},
}

// bareRun is the least run as a client without our types would send it.
func bareRun(namespace, name string) *unstructured.Unstructured {
	run := &unstructured.Unstructured{Object: map[string]any{
		"spec": map[string]any{"providerRef": map[string]any{"name": "main"}, "prompt": "Why is the sky blue?"},
	}}
	run.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("ChatRun"))
	run.SetNamespace(namespace)
	run.SetName(name)
	return run
}

var _ = Describe("the defaults", func() {
	It("stand in the answer to the create, in a read and in the watch", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("ChatRunList"))
		watcher, err := api.Watch(ctx, list, client.InNamespace(namespace))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(watcher.Stop)

		created := bareRun(namespace, "hello")
		Expect(api.Create(ctx, created)).To(Succeed())
		read := bareRun(namespace, "hello")
		Expect(api.Get(ctx, client.ObjectKeyFromObject(read), read)).To(Succeed())
		var event watch.Event
		Eventually(ctx, watcher.ResultChan()).Should(Receive(&event))
		Expect(event.Type).To(Equal(watch.Added))
		watched, ok := event.Object.(*unstructured.Unstructured)
		Expect(ok).To(BeTrue(), "%T", event.Object)

		for _, got := range []*unstructured.Unstructured{created, read, watched} {
			Expect(got.Object["spec"]).To(Equal(wholeSpec))
			Expect(got.Object["status"]).To(Equal(map[string]any{"phase": "Pending", "observedGeneration": int64(0)}))
		}
	})

	It("do not let a creator write the status", func(ctx SpecContext) {
		run := newRun(newNamespace(ctx), "hello")
		run.Status = v1alpha1.ChatRunStatus{Phase: v1alpha1.PhaseSucceeded, Attempt: new(int32(7))}
		Expect(api.Create(ctx, run)).To(Succeed())
		Expect(run.Status).To(Equal(v1alpha1.ChatRunStatus{Phase: v1alpha1.PhasePending, ObservedGeneration: new(int64(0))}))
	})

	It("fill what is missing from a retry policy", func(ctx SpecContext) {
		run := newRun("default", "hello")
		run.Spec.RetryPolicy = &v1alpha1.RetryPolicy{MaxAttempts: new(int32(0))}
		Expect(api.Create(ctx, run, client.DryRunAll)).To(Succeed())
		Expect(run.Spec.RetryPolicy).To(Equal(&v1alpha1.RetryPolicy{
			MaxAttempts: new(int32(0)), InitialDelayMs: new(int64(1000)), MaxDelayMs: new(int64(60000)),
		}))
	})

	It("name the token limit of OpenAI's kind where its options are given", func(ctx SpecContext) {
		provider := &v1alpha1.ChatProvider{Spec: v1alpha1.ChatProviderSpec{
			Type: v1alpha1.ProviderOpenAI, OpenAI: &v1alpha1.OpenAIOptions{},
		}}
		provider.Namespace, provider.Name = "default", "main"
		Expect(api.Create(ctx, provider, client.DryRunAll)).To(Succeed())
		Expect(provider.Spec.OpenAI.TokenLimitParameter).To(Equal(v1alpha1.TokenLimitAuto))
	})
})
