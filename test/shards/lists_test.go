// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package shards_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// listed reads the list of a namespace from a stream endpoint.
func listed(ctx context.Context, base, namespace string) (stream.RunList, error) {
	var list stream.RunList
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/v1/namespaces/"+namespace+"/chatruns", nil)
	if err != nil {
		return list, err
	}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return list, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return list, fmt.Errorf("status %d", answer.StatusCode)
	}
	return list, json.NewDecoder(answer.Body).Decode(&list)
}

var _ = Describe("Lists", func() {
	It("show all runs at each replica, whatever its share, as one that holds all shows them", func(ctx context.Context) {
		f := newManagers(ctx, 2, func(r chattest.Request) chattest.Response {
			if r.LastUser == "question of run-3" {
				return chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "overloaded_error", "", "busy")
			}
			return chattest.Answer("Yes.")
		})
		f.provider(ctx, "fake", 0)
		for i := range 8 {
			f.run(ctx, fmt.Sprintf("run-%d", i), "fake", func(run *v1alpha1.ChatRun) {
				run.Spec.RetryPolicy = &v1alpha1.RetryPolicy{InitialDelayMs: new(int64(3_600_000)), MaxDelayMs: new(int64(3_600_000))}
				run.Annotations = map[string]string{v1alpha1.AnnotationTitle: "Title of " + run.Name}
			})
		}
		var waits v1alpha1.ChatRun
		Eventually(ctx, func(g Gomega) {
			g.Expect(f.plane.Client.Get(ctx, client.ObjectKey{Namespace: f.namespace, Name: "run-3"}, &waits)).To(Succeed())
			g.Expect(waits.Status.RetryingAt).NotTo(BeNil())
		}).Should(Succeed())
		settled := func(g Gomega, list stream.RunList) {
			g.Expect(list.Runs).To(HaveLen(8))
			g.Expect(slices.IsSortedFunc(list.Runs, func(a, b stream.Summary) int { return b.CreatedAt.Compare(a.CreatedAt) })).To(BeTrue())
			for _, s := range list.Runs {
				g.Expect(s.Title).To(Equal("Title of " + s.Name))
				g.Expect(s.Attempt).To(BeEquivalentTo(1))
				if s.Name == "run-3" {
					g.Expect(s.Phase).To(Equal("Retrying"))
					g.Expect(s.LastErrorReason).To(Equal("Overloaded"))
					g.Expect(s.DelayMs).To(BeEquivalentTo(time.Hour / time.Millisecond))
					g.Expect(s.RetryingAt).To(BeTemporally("==", waits.Status.RetryingAt.Time))
				} else {
					g.Expect(s.Phase).To(Equal("Succeeded"))
				}
			}
		}
		lists := make([]stream.RunList, 2)
		for i := range lists {
			Eventually(ctx, func(g Gomega) {
				var err error
				lists[i], err = listed(ctx, f.managers[i].Stream, f.namespace)
				g.Expect(err).NotTo(HaveOccurred())
				settled(g, lists[i])
			}).Should(Succeed())
		}
		Expect(lists[1]).To(Equal(lists[0]))

		// One that holds all runs in its cache says the same, each field.
		all, err := harness.StartManager(context.WithoutCancel(ctx), f.plane.ManagerConfig, harness.Shares(f.plane.ManagerConfig, f.namespace, "all", 0))
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(func() { Expect(all.Stop()).To(Succeed()) })
		Eventually(ctx, func() (stream.RunList, error) { return listed(ctx, all.Stream, f.namespace) }).Should(Equal(lists[0]))
	})
})
