// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"fmt"
	"path/filepath"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/test/harness"
)

const (
	// faultyRuns is how many runs go through an API server that fails.
	faultyRuns = 100
	// longestFaultyLife bounds a manager's life before such a one: cut watches
	// make it slow to start.
	longestFaultyLife = 6 * time.Second
)

// everyFault is every fault there is, each at a share that leaves a way through.
var everyFault = harness.Faults{
	Refuse: 0.12, Lose: 0.12, Delay: 0.2, MaxDelay: 300 * time.Millisecond, RefuseRead: 0.2, ConflictEvery: 7,
	Watch: harness.WatchFaults{Cut: 0.03, Double: 0.15, Swap: 0.2, Late: 0.1, MaxLate: 200 * time.Millisecond},
}

func metEveryFault(g Gomega, c harness.FaultCounts) {
	for what, n := range map[string]int{
		"refused": c.Refused, "lost, and stand": c.LostApplied, "conflicts": c.Conflicts, "delayed": c.Delayed,
		"watches cut": c.WatchCuts, "doubled": c.Doubled, "swapped": c.Swapped, "late": c.Late,
	} {
		g.Expect(n).To(BeNumerically(">", 0), what)
	}
}

// proxied puts the faults between the managers to come and the API server, and
// returns the kubeconfig that leads through them.
func proxied(purpose uint64, faults harness.Faults) (*harness.FaultProxy, string) {
	GinkgoHelper()
	proxy, err := harness.StartFaultProxy(plane.ManagerConfig, seed+purpose, faults)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(proxy.Close)
	kubeconfig := filepath.Join(GinkgoT().TempDir(), "faulty.kubeconfig")
	Expect(proxy.Kubeconfig(kubeconfig)).To(Succeed())
	return proxy, kubeconfig
}

var _ = Describe("11: An API server that fails", func() {
	for i, scene := range []struct {
		name   string
		kills  int
		faults harness.Faults
		check  func(Gomega, harness.FaultCounts)
	}{
		{
			"in every way at once", 0, everyFault, metEveryFault,
		},
		{
			"in every way at once, to managers that are killed", 12, everyFault, metEveryFault,
		},
		{
			"with a conflict at the first try of every status write", 0,
			harness.Faults{ConflictFirst: true},
			func(g Gomega, c harness.FaultCounts) {
				g.Expect(c.Conflicts).To(BeNumerically(">=", c.Applied))
			},
		},
		{
			"to tell in time: watches are cut, and their events lost, doubled, late and out of order", 0,
			harness.Faults{Watch: harness.WatchFaults{Cut: 0.06, Double: 0.3, Swap: 0.4, Late: 0.2, MaxLate: 500 * time.Millisecond}},
			func(g Gomega, c harness.FaultCounts) {
				g.Expect(c.WatchCuts).To(BeNumerically(">", 0))
				g.Expect(c.Doubled).To(BeNumerically(">", 0))
				g.Expect(c.Swapped).To(BeNumerically(">", 0))
				g.Expect(c.Late).To(BeNumerically(">", 0))
			},
		},
	} {
		It(scene.name+": the same final state", func(ctx SpecContext) {
			began := time.Now()
			proxy, kubeconfig := proxied(uint64(i), scene.faults)
			w := newWorld(ctx)
			w.offerAll(ctx, 0, faultyRuns)
			d := dice(uint64(i))
			for life := range scene.kills {
				p := w.manager(kubeconfig, fmt.Sprintf("pod-%d", life/3), hasty...)
				w.moment(ctx, d, longestFaultyLife)
				Expect(p.Kill()).To(Succeed())
			}
			manager := w.manager(kubeconfig, "survivor", hasty...)
			w.untilAllEnd(ctx, faultyRuns)
			if scene.kills == 0 {
				By("no title is lost either, unless with its manager")
				Expect(w.witness.waitFor(ctx, func(s sight) bool { return s.titled == faultyRuns/titleEvery })).To(Succeed())
			}
			sum := w.settle(ctx, faultyRuns)
			Expect(manager.Interrupt(patience)).To(Succeed())

			counts := proxy.Counts()
			report("%d runs, %d kills; %v; %v; %v in all", faultyRuns, scene.kills, sum, counts, time.Since(began).Round(time.Second))
			scene.check(NewWithT(GinkgoT()), counts)
			// What stands costs two writes an attempt, and one where it has to wait for
			// a place, and each try that does not stand was ours to refuse, or one that a
			// late event let us make in vain.
			Expect(counts.Applied).To(BeNumerically("<=", 2*sum.attempts+w.witness.sight().queued))
			Expect(counts.RealConflicts).To(BeNumerically("<=", 2*counts.Applied))
			if scene.faults.Lose == 0 && scene.kills == 0 {
				Expect(sum.requests).To(Equal(sum.attempts), "no answer of the API server was lost, and so no attempt")
			}
		}, SpecTimeout(3*time.Minute))
	}
})
