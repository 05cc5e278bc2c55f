// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package shards_test

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/test/harness"
)

var _ = Describe("managers with a share each", func() {
	It("carry out all runs, each once, and tell of those of the other", func(ctx SpecContext) {
		plane, err := startPlane(ctx, true)
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
		namespace, err := newNamespace(ctx, plane.Client)
		Expect(err).NotTo(HaveOccurred())
		fake := chattest.Start(GinkgoT(), chattest.Always(chattest.Answer("Hello")))
		var managers []*harness.Manager
		for i := range 2 {
			name := fmt.Sprintf("manager-%d", i)
			shares := controller.NewShares(name, nil)
			shares.Set(members.Buckets(0xffffffff) << (32 * i))
			m, err := harness.StartSharded(context.WithoutCancel(ctx), plane.ManagerConfig,
				controller.NewShardedRuns(shares, logr.Discard()), func(o *controller.Options) { o.Worker = name })
			Expect(err).NotTo(HaveOccurred())
			DeferCleanup(func() { Expect(m.Stop()).To(Succeed()) })
			managers = append(managers, m)
		}
		Expect(plane.Client.Create(ctx, &v1alpha1.ChatProvider{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "fake"},
			Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: fake.URL() + "/v1", DefaultModel: "fake-1"},
		})).To(Succeed())

		const stored = 24
		for i := range stored {
			run := newRun(namespace, fmt.Sprintf("run-%d", i))
			run.Spec.ProviderRef.Name, run.Spec.Model = "fake", ""
			run.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone}
			Expect(plane.Client.Create(ctx, run)).To(Succeed())
		}
		workers := map[string]int{}
		Eventually(func(g Gomega) {
			var list v1alpha1.ChatRunList
			g.Expect(plane.Client.List(ctx, &list, client.InNamespace(namespace))).To(Succeed())
			clear(workers)
			for i := range list.Items {
				run := &list.Items[i]
				g.Expect(run.Status.Phase).To(Equal(v1alpha1.PhaseSucceeded), run.Name)
				g.Expect(run.Status.Attempt).To(HaveValue(BeEquivalentTo(1)), run.Name)
				mine := members.BucketOf(string(run.UID)) / 32
				g.Expect(run.Status.Worker).To(Equal(fmt.Sprintf("manager-%d", mine)), run.Name)
				workers[run.Status.Worker]++
			}
		}).Should(Succeed())
		Expect(workers).To(HaveLen(2))
		Expect(fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(stored))

		for _, m := range managers {
			for i := range stored {
				draft := &harness.Draft{}
				url := fmt.Sprintf("%s/v1/namespaces/%s/chatruns/run-%d/stream", m.Stream, namespace, i)
				Expect(harness.Read(ctx, url, "", func(f harness.Frame) { Expect(draft.Take(f)).To(Succeed()) })).To(Succeed())
				Expect(draft.Text).To(Equal("Hello"))
				Expect(draft.Done).NotTo(BeNil())
			}
		}
	})
})
