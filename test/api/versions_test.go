// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"context"
	"os"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// otherGroup keeps this suite's own CRDs as they are.
const otherGroup = "versions.chatrun.dev"

// twoVersions is a CRD of ours in another group, with a v1beta1 beside its v1alpha1
// that is the same.
func twoVersions(plural string) *unstructured.Unstructured {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join("..", "..", "config", "crd", "bases", "chatrun.dev_"+plural+".yaml"))
	Expect(err).NotTo(HaveOccurred())
	crd := &unstructured.Unstructured{}
	Expect(yaml.Unmarshal(raw, &crd.Object)).To(Succeed())
	crd.SetName(plural + "." + otherGroup)
	Expect(unstructured.SetNestedField(crd.Object, otherGroup, "spec", "group")).To(Succeed())
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	Expect(err).NotTo(HaveOccurred())
	Expect(versions).To(HaveLen(1))
	next, ok := runtime.DeepCopyJSONValue(versions[0]).(map[string]any)
	Expect(ok).To(BeTrue())
	next["name"], next["storage"] = "v1beta1", false
	Expect(unstructured.SetNestedSlice(crd.Object, append(versions, next), "spec", "versions")).To(Succeed())
	return crd
}

// storeAs makes a version the one that objects are stored as.
func storeAs(ctx context.Context, crd *unstructured.Unstructured, version string) {
	GinkgoHelper()
	Expect(api.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
	versions, _, err := unstructured.NestedSlice(crd.Object, "spec", "versions")
	Expect(err).NotTo(HaveOccurred())
	for _, v := range versions {
		fields, ok := v.(map[string]any)
		Expect(ok).To(BeTrue())
		fields["storage"] = fields["name"] == version
	}
	Expect(unstructured.SetNestedSlice(crd.Object, versions, "spec", "versions")).To(Succeed())
	Expect(api.Update(ctx, crd)).To(Succeed())
}

func storedAs(ctx context.Context, crd *unstructured.Unstructured) []string {
	GinkgoHelper()
	Expect(api.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
	stored, _, err := unstructured.NestedStringSlice(crd.Object, "status", "storedVersions")
	Expect(err).NotTo(HaveOccurred())
	return stored
}

// as is a run of the other group in a version.
func as(version, namespace, name string) *unstructured.Unstructured {
	run := &unstructured.Unstructured{}
	run.SetAPIVersion(otherGroup + "/" + version)
	run.SetKind("ChatRun")
	run.SetNamespace(namespace)
	run.SetName(name)
	return run
}

var _ = Describe("A second version of the kinds", func() {
	It("needs no webhook: what one wrote the other reads, and the stored one can be left", func(ctx SpecContext) {
		namespace := newNamespace(ctx)
		crd := twoVersions("chatruns")
		Expect(api.Create(ctx, crd)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(api.Delete(ctx, crd)).To(Succeed()) })

		spec := map[string]any{
			"providerRef": map[string]any{"name": "p"}, "system": "Be short.", "prompt": "Why?", "model": "m",
			"parameters":  map[string]any{"temperature": "0.7", "stop": []any{"END"}},
			"retryPolicy": map[string]any{"maxAttempts": int64(3)}, "desiredState": "Running",
		}
		old := as("v1alpha1", namespace, "old")
		old.Object["spec"] = runtime.DeepCopyJSONValue(spec)
		Eventually(ctx, func() error { return api.Create(ctx, old) }).WithTimeout(openAPITimeout).Should(Succeed())
		status := map[string]any{"phase": "Retrying", "attempt": int64(2), "delayMs": int64(2000), "retryingAt": "2030-01-02T03:04:05.678901Z"}
		old.Object["status"] = runtime.DeepCopyJSONValue(status)
		Expect(api.Status().Update(ctx, old)).To(Succeed())

		By("what the old one wrote, the new one reads")
		read := as("v1beta1", namespace, "old")
		Expect(api.Get(ctx, client.ObjectKeyFromObject(read), read)).To(Succeed())
		Expect(read.Object["spec"]).To(Equal(old.Object["spec"]))
		Expect(read.Object["status"]).To(Equal(old.Object["status"]))
		Expect(read.Object["spec"]).To(HaveKeyWithValue("parameters", spec["parameters"]))

		By("what the new one is stored as, the old one reads")
		storeAs(ctx, crd, "v1beta1")
		Expect(storedAs(ctx, crd)).To(ConsistOf("v1alpha1", "v1beta1"))
		fresh := as("v1beta1", namespace, "fresh")
		fresh.Object["spec"] = runtime.DeepCopyJSONValue(spec)
		Expect(api.Create(ctx, fresh)).To(Succeed())
		back := as("v1alpha1", namespace, "fresh")
		Expect(api.Get(ctx, client.ObjectKeyFromObject(back), back)).To(Succeed())
		Expect(back.Object["spec"]).To(Equal(fresh.Object["spec"]))

		By("the rules of both hold, whichever an object came by")
		changed := back.DeepCopy()
		Expect(unstructured.SetNestedField(changed.Object, "another", "spec", "prompt")).To(Succeed())
		Expect(api.Update(ctx, changed)).To(MatchError(ContainSubstring("immutable")))

		By("once all is written anew, nothing is stored as the old one")
		for _, name := range []string{"old", "fresh"} {
			run := as("v1beta1", namespace, name)
			Expect(api.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
			Expect(api.Update(ctx, run)).To(Succeed())
		}
		Expect(api.Get(ctx, client.ObjectKeyFromObject(crd), crd)).To(Succeed())
		Expect(unstructured.SetNestedStringSlice(crd.Object, []string{"v1beta1"}, "status", "storedVersions")).To(Succeed())
		Expect(api.Status().Update(ctx, crd)).To(Succeed())
		Expect(storedAs(ctx, crd)).To(ConsistOf("v1beta1"))
		Expect(api.Get(ctx, client.ObjectKeyFromObject(old), old)).To(Succeed())
		Expect(old.Object["status"]).To(Equal(status))
	})
})
