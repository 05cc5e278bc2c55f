// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// The ways in which a manifest from a repository reaches the API server.
var (
	apply      = []string{"apply", "--filename", "-"}
	serverSide = append(apply, "--server-side")
	forced     = append(apply, "--server-side", "--force-conflicts")
	replace    = []string{"replace", "--filename", "-"}
)

// What a manifest in a repository meets after someone cancelled its run by
// hand. docs/chatrun.md promises these outcomes.
var _ = DescribeTable("after a cancel by hand", func(ctx SpecContext, desiredState string, create, again []string, refusal string) {
	namespace := newNamespace(ctx)
	manifest := fmt.Sprintf(`
apiVersion: chatrun.dev/v1alpha1
kind: ChatRun
metadata: {name: hello}
spec:
  providerRef: {name: main}
  prompt: Why is the sky blue?
%s`, desiredState)
	got := kubectl(ctx, namespace, manifest, create...)
	Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	mustKubectl(ctx, namespace, "patch", "chr", "hello", "--type", "merge", "--patch", `{"spec":{"desiredState":"Cancelled"}}`)

	got = kubectl(ctx, namespace, manifest, again...)
	if refusal == "" {
		Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	} else {
		Expect(got.err).To(HaveOccurred())
		Expect(got.stderr).To(ContainSubstring(refusal))
	}
	run := newRun(namespace, "hello")
	Expect(api.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
	Expect(run.Spec.DesiredState).To(Equal(v1alpha1.DesiredCancelled))
},
	Entry("a manifest that leaves desiredState out is accepted, and the run stays cancelled",
		"", apply, apply, ""),
	Entry("a manifest that says Running is refused",
		"  desiredState: Running", apply, apply, "is final once it is Cancelled: create a new ChatRun to ask again"),
	Entry("server-side apply without desiredState is accepted, and the run stays cancelled",
		"", serverSide, serverSide, ""),
	Entry("server-side apply of Running meets a conflict",
		"  desiredState: Running", serverSide, serverSide, "conflict"),
	Entry("server-side apply of Running is refused also when it forces conflicts",
		"  desiredState: Running", serverSide, forced, "is final once it is Cancelled"),
	Entry("kubectl replace without desiredState is refused, for it means the default",
		"", apply, replace, "is final once it is Cancelled"),
)

// What we write lies with one field manager a purpose, so that whoever applies
// the manifest again neither meets a conflict nor takes anything away.
var _ = DescribeTable("a manifest that is applied again", func(ctx SpecContext, how []string) {
	namespace := newNamespace(ctx)
	const manifest = `
apiVersion: chatrun.dev/v1alpha1
kind: ChatRun
metadata: {name: hello, labels: {team: a}}
spec:
  providerRef: {name: main}
  prompt: Why is the sky blue?
`
	got := kubectl(ctx, namespace, manifest, how...)
	Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	run := newRun(namespace, "hello")
	Expect(api.Get(ctx, client.ObjectKeyFromObject(run), run)).To(Succeed())
	locked := func() client.Patch {
		return client.MergeFromWithOptions(run.DeepCopy(), client.MergeFromWithOptimisticLock{})
	}
	patch := locked()
	if run.Annotations == nil {
		run.Annotations = map[string]string{}
	}
	run.Annotations[v1alpha1.AnnotationTitle] = "A title"
	Expect(api.Patch(ctx, run, patch, client.FieldOwner("chatrun.dev/title"))).To(Succeed())
	patch = locked()
	run.Labels[v1alpha1.LabelConversation] = "talk"
	Expect(api.Patch(ctx, run, patch, client.FieldOwner("chatrun.dev/conversation"))).To(Succeed())
	patch = locked()
	run.Status.Phase, run.Status.Attempt, run.Status.ObservedGeneration = v1alpha1.PhaseStreaming, new(int32(1)), &run.Generation
	Expect(api.Status().Patch(ctx, run, patch, client.FieldOwner("chatrun.dev/status"))).To(Succeed())

	got = kubectl(ctx, namespace, manifest, how...)
	Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	again := newRun(namespace, "hello")
	Expect(api.Get(ctx, client.ObjectKeyFromObject(again), again)).To(Succeed())
	Expect(again.ResourceVersion).To(Equal(run.ResourceVersion), "nothing was written")
	Expect(again.Status.Phase).To(Equal(v1alpha1.PhaseStreaming))
	Expect(again.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationTitle, "A title"))
	Expect(again.Labels).To(Equal(map[string]string{"team": "a", v1alpha1.LabelConversation: "talk"}))
	var ours []string
	for _, m := range again.ManagedFields {
		if strings.HasPrefix(m.Manager, "chatrun.dev/") {
			ours = append(ours, m.Manager+" "+m.Subresource)
		}
	}
	Expect(ours).To(ConsistOf("chatrun.dev/title ", "chatrun.dev/conversation ", "chatrun.dev/status status"))

	By("and with a change of its own")
	got = kubectl(ctx, namespace, manifest+"  ttlSecondsAfterFinished: 60\n", how...)
	Expect(got.err).NotTo(HaveOccurred(), got.stderr)
	Expect(api.Get(ctx, client.ObjectKeyFromObject(again), again)).To(Succeed())
	Expect(again.Annotations).To(HaveKeyWithValue(v1alpha1.AnnotationTitle, "A title"))
	Expect(again.Labels).To(HaveKeyWithValue(v1alpha1.LabelConversation, "talk"))
	Expect(again.Generation).To(Equal(run.Generation + 1))
},
	Entry("from the client's side", apply),
	Entry("from the server's side", serverSide),
	Entry("from the server's side by force", forced),
)
