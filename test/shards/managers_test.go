// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package shards_test

import (
	"context"
	"fmt"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// fleetOf is a namespace with managers that hold a share of the runs each.
type fleetOf struct {
	plane     *harness.ControlPlane
	namespace string
	fake      *chattest.Server
	managers  []*harness.Manager
}

func newManagers(ctx context.Context, n int, script chattest.Script) *fleetOf {
	GinkgoHelper()
	plane, err := startPlane(ctx, true)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
	f := &fleetOf{plane: plane, fake: chattest.Start(GinkgoT(), script)}
	f.namespace, err = newNamespace(ctx, plane.Client)
	Expect(err).NotTo(HaveOccurred())
	Expect(plane.AllowReplicas(ctx, f.namespace)).To(Succeed())
	for i := range n {
		f.start(ctx, fmt.Sprintf("manager-%d", i))
	}
	return f
}

func (f *fleetOf) start(ctx context.Context, name string) {
	GinkgoHelper()
	m, err := harness.StartSharded(context.WithoutCancel(ctx), f.plane.ManagerConfig, f.namespace, name)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(m.Stop()).To(Succeed()) })
	f.managers = append(f.managers, m)
	Eventually(ctx, func() ([]string, error) { return f.plane.Replicas(ctx, f.namespace) }).Should(ContainElement(name))
}

func (f *fleetOf) provider(ctx context.Context, name string, limit int32) {
	GinkgoHelper()
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: f.namespace, Name: name},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: f.fake.URL() + "/v1", DefaultModel: "fake-1"},
	}
	if limit > 0 {
		p.Spec.Limits = &v1alpha1.ProviderLimits{MaxConcurrentStreams: &limit}
	}
	Expect(f.plane.Client.Create(ctx, p)).To(Succeed())
}

func (f *fleetOf) run(ctx context.Context, name, provider string, change ...func(*v1alpha1.ChatRun)) {
	GinkgoHelper()
	run := newRun(f.namespace, name)
	run.Spec.ProviderRef.Name, run.Spec.Model, run.Spec.Prompt = provider, "", "question of "+name
	run.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone}
	for _, c := range change {
		c(run)
	}
	Expect(f.plane.Client.Create(ctx, run)).To(Succeed())
}

// succeed waits until all runs did, and returns how many each replica made.
func (f *fleetOf) succeed(ctx context.Context, total int) map[string]int {
	GinkgoHelper()
	workers := map[string]int{}
	Eventually(ctx, func(g Gomega) {
		var list v1alpha1.ChatRunList
		g.Expect(f.plane.Client.List(ctx, &list, client.InNamespace(f.namespace))).To(Succeed())
		g.Expect(list.Items).To(HaveLen(total))
		clear(workers)
		for i := range list.Items {
			run := &list.Items[i]
			g.Expect(run.Status.Phase).To(Equal(v1alpha1.PhaseSucceeded), run.Name)
			workers[run.Status.Worker]++
		}
	}).Should(Succeed())
	return workers
}

var _ = Describe("managers with a share each", func() {
	It("carry out all runs, each once, whatever falls to whom, and tell of those of the others", func(ctx SpecContext) {
		f := newManagers(ctx, 3, chattest.Always(chattest.Answer("Hello")))
		f.provider(ctx, "free", 0)
		f.provider(ctx, "limited", 2)
		const each = 24
		for i := range each {
			f.run(ctx, fmt.Sprintf("free-%d", i), "free")
			f.run(ctx, fmt.Sprintf("limited-%d", i), "limited")
			f.run(ctx, fmt.Sprintf("child-%d", i), "free", func(r *v1alpha1.ChatRun) {
				r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: fmt.Sprintf("free-%d", i)}
			})
		}
		workers := f.succeed(ctx, 3*each)
		Expect(workers).To(HaveLen(3))
		Expect(f.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(3 * each))
		By("read at each of them")
		for _, m := range f.managers {
			for i := range each {
				draft := &harness.Draft{}
				url := harness.StreamURL(m.Stream, f.namespace, fmt.Sprintf("limited-%d", i))
				Expect(harness.Read(ctx, url, "", func(f harness.Frame) { Expect(draft.Take(f)).To(Succeed()) })).To(Succeed())
				Expect(draft.Text).To(Equal("Hello"))
				Expect(draft.Done).NotTo(BeNil())
			}
		}
	})

	It("stay with what they stream while their shares move, and go on with what one leaves", func(ctx SpecContext) {
		gate := make(chan struct{})
		f := newManagers(ctx, 1, func(r chattest.Request) chattest.Response {
			if r.N > 1 {
				return chattest.Answer("again")
			}
			return chattest.Answer("at ", "length").HoldAfter(1, gate)
		})
		f.provider(ctx, "free", 0)
		const total = 24
		for i := range total {
			f.run(ctx, fmt.Sprintf("run-%d", i), "free")
		}
		Expect(f.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == total })).To(Succeed())
		f.start(ctx, "manager-1")
		f.start(ctx, "manager-2")
		By("until each watches a share")
		Eventually(ctx, func() (map[string]string, error) { return f.watches(ctx) }).Should(And(
			HaveLen(3), Not(ContainElement("ffffffffffffffff")), Not(ContainElement("0000000000000000"))))
		close(gate)
		Expect(f.succeed(ctx, total)).To(Equal(map[string]int{"manager-0": total}))
		Expect(f.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(total), "none was made again")
		By("and one leaves")
		Expect(f.managers[0].Stop()).To(Succeed())
		for i := range total {
			f.run(ctx, fmt.Sprintf("later-%d", i), "free")
		}
		workers := f.succeed(ctx, 2*total)
		Expect(workers).To(HaveLen(3))
		Expect(workers["manager-0"]).To(Equal(total))
		Expect(f.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2 * total))
	})

	It("keep to limits while providers' places go from one to another", func(ctx SpecContext) {
		const providers, limit, each = 4, 2, 6
		gate := make(chan struct{})
		f := newManagers(ctx, 1, func(chattest.Request) chattest.Response { return chattest.Answer("at ", "length").HoldAfter(1, gate) })
		for n := range providers {
			f.provider(ctx, fmt.Sprintf("limited-%d", n), limit)
			for i := range each {
				f.run(ctx, fmt.Sprintf("run-%d-%d", n, i), fmt.Sprintf("limited-%d", n))
			}
		}
		Expect(f.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == providers*limit })).To(Succeed())
		for n := range 2 {
			f.start(ctx, fmt.Sprintf("manager-%d", n+1))
			Eventually(ctx, func() (map[string]string, error) { return f.watches(ctx) }).Should(And(
				HaveLen(n+2), Not(ContainElement("0000000000000000"))))
		}
		Consistently(ctx, func() int { return f.fake.Ledger().Live() }).WithTimeout(3 * time.Second).Should(Equal(providers * limit))
		close(gate)
		Expect(len(f.succeed(ctx, providers*each))).To(BeNumerically(">", 1), "only one ever held places")
		Expect(f.fake.Ledger().Total(chattest.PurposeAnswer).MaxLive).To(Equal(providers * limit))
		Expect(f.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(providers * each))
	})
})

// watches returns what each replica says it watches.
func (f *fleetOf) watches(ctx context.Context) (map[string]string, error) {
	return f.plane.Watches(ctx, f.namespace)
}
