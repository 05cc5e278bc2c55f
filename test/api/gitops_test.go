// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"fmt"

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
