// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"net/http"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	// claimed is how many runs come at once, maxConflicts how many conflicts there may
	// be to a run that is claimed, and minShare the least part that a replica has of
	// all runs: a third, as far as 64 buckets can be divided evenly by chance.
	claimed      = 1000
	maxConflicts = 0.1
	minShare     = 0.12
	// rolledRuns come while replicas are replaced one by one.
	rolledRuns = 300
	// limit is how many attempts a provider allows that is called by one replica after
	// another.
	limit       = 4
	limitedRuns = 120
)

var _ = Describe("A thousand runs at once", func() {
	It("are claimed by three replicas without a storm", func(ctx SpecContext) {
		w := newWorld(ctx, quickly)
		var all []*harness.Process
		for _, name := range []string{"pod-a", "pod-b", "pod-c"} {
			all = append(all, w.manager(plane.ManagerKubeconfig, name))
		}
		w.members(ctx, 3)
		began := time.Now()
		w.offerAll(ctx, 0, claimed)
		w.untilAllEnd(ctx, claimed)
		took := time.Since(began)
		for _, p := range all {
			Expect(p.Terminate()).To(Succeed())
		}
		conflicts, titles, writes := w.conflicts()
		shares := w.shares(ctx)
		report("%d runs in %v by %v: %d conflicts of a status and %d of a title among %d writes", claimed, took.Round(time.Millisecond), shares, conflicts, titles, writes)
		Expect(writes).To(BeNumerically(">=", 2*claimed), "the audit log is not whole")
		Expect(float64(conflicts) / claimed).To(BeNumerically("<", maxConflicts))
		for _, name := range []string{"pod-a", "pod-b", "pod-c"} {
			Expect(float64(shares[name])/claimed).To(BeNumerically(">", minShare), "%v", shares)
		}
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(claimed))
	}, SpecTimeout(3*time.Minute))
})

var _ = Describe("Replicas that are replaced one by one under load", func() {
	It("lose nothing, and no attempt with its worker", func(ctx SpecContext) {
		w := newWorld(ctx, func(s *script) { s.slow = slowAnswers })
		d := dice(3)
		// Their shares move with them.
		args := []string{"--drain-grace", "1s", "--shard-runs"}
		var old []*harness.Process
		for n := range 3 {
			old = append(old, w.manager(plane.ManagerKubeconfig, fmt.Sprintf("old-%d", n), args...))
		}
		offered := w.offerSteadily(ctx, rolledRuns)
		for n, p := range old {
			w.busy(ctx, d, 20, fmt.Sprintf("old-%d", n))
			// As a Deployment does with maxSurge: the new one is there first.
			w.manager(plane.ManagerKubeconfig, fmt.Sprintf("new-%d", n), args...)
			Expect(p.Terminate()).To(Succeed())
		}
		Eventually(ctx, offered).WithTimeout(2 * time.Minute).Should(BeClosed())
		w.untilAllEnd(ctx, rolledRuns)
		sum := w.settle(ctx, rolledRuns)
		report("%d runs over a rolling update: %v", rolledRuns, sum)
		Expect(w.witness.sight().lost).To(BeZero(), "attempts lost with their worker: %v", w.witness.losses())
		Expect(w.overlaps(nil, time.Now(), time.Now())).To(BeZero())
	}, SpecTimeout(4*time.Minute))
})

var _ = Describe("A provider with a limit, and replicas that come and go", func() {
	It("never gets more at a time than it allows", func(ctx SpecContext) {
		w := newWorld(ctx, func(s *script) { s.slow = 2 })
		p := &v1alpha1.ChatProvider{}
		Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: "fake"}, p)).To(Succeed())
		p.Spec.Limits = &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(limit))}
		Expect(plane.Client.Update(ctx, p)).To(Succeed())
		d := dice(4)
		args := []string{"--drain-grace", "1s"}
		var alive []*harness.Process
		for n := range 2 {
			alive = append(alive, w.manager(plane.ManagerKubeconfig, fmt.Sprintf("pod-%d", n), args...))
		}
		w.members(ctx, 2)
		w.offerAll(ctx, 0, limitedRuns)
		// Names come and go, so that the place where all is counted does, too.
		for n := range 6 {
			until := w.witness.sight().ended + 10
			Expect(w.witness.waitFor(ctx, func(s sight) bool { return s.ended >= until || s.ended == limitedRuns })).To(Succeed())
			alive = append(alive, w.manager(plane.ManagerKubeconfig, fmt.Sprintf("pod-%d", n+2), args...))
			w.moment(ctx, d, time.Second)
			Expect(alive[0].Terminate()).To(Succeed())
			alive = alive[1:]
		}
		w.untilAllEnd(ctx, limitedRuns)
		sum := w.settle(ctx, limitedRuns)
		most := w.fake.Ledger().Total(chattest.PurposeAnswer).MaxLive
		report("%d runs of a provider that allows %d, by %v: %v; at most %d at a time", limitedRuns, limit, w.shares(ctx), sum, most)
		Expect(most).To(BeNumerically("<=", limit))
		Expect(len(w.shares(ctx))).To(BeNumerically(">", 1), "only one replica ever held its places")
	}, SpecTimeout(4*time.Minute))
})

// quickly makes the provider answer at once, and well.
func quickly(s *script) { s.good = true }

// members waits until so many replicas are known to each other.
func (w *world) members(ctx context.Context, n int) {
	GinkgoHelper()
	Eventually(ctx, func() (int, error) {
		names, err := plane.Replicas(ctx, w.namespace)
		return len(names), err
	}).Should(Equal(n))
}

// conflicts counts the writes to runs that met another one, and all, those of titles
// apart: they meet the writes of the same replica.
func (w *world) conflicts() (conflicts, titles, all int) {
	GinkgoHelper()
	requests, err := plane.Requests(w.namespace)
	Expect(err).NotTo(HaveOccurred())
	for _, r := range requests {
		if r.Resource != "chatruns" || r.Verb != "patch" {
			continue
		}
		all++
		switch {
		case r.Code != http.StatusConflict:
		case r.Subresource == "":
			titles++
		default:
			conflicts++
		}
	}
	return conflicts, titles, all
}

// shares counts the runs by the replica that ended them.
func (w *world) shares(ctx context.Context) map[string]int {
	GinkgoHelper()
	var list v1alpha1.ChatRunList
	Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
	by := map[string]int{}
	for i := range list.Items {
		by[list.Items[i].Status.Worker]++
	}
	return by
}
