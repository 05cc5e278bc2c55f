// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

const (
	crashRuns = 300
	// wantKills is how many managers die by SIGKILL, wantStops how many are asked
	// to end, which makes them hand over what they do.
	wantKills = 50
	wantStops = 8
	// longestLife bounds the wait for the event that a manager is to die at.
	longestLife = 4 * time.Second
)

// hasty makes a Lease lapse as soon as one may. One that does so because its replica
// got no time costs some attempts, which are counted like others.
var hasty = []string{"--lease-duration", "3s"}

var _ = Describe("8: A manager that is killed again and again", func() {
	It("loses no run, answers none twice, and makes no call that is not counted", func(ctx SpecContext) {
		began := time.Now()
		w := newWorld(ctx)
		d := dice(1)
		stops := map[int]bool{}
		for _, life := range d.Perm(wantKills + wantStops)[:wantStops] {
			stops[life] = true
		}
		offered := 0
		atDeath := map[v1alpha1.Phase]int{}
		for life := range wantKills + wantStops {
			// A container that is restarted keeps its name, a new pod has another.
			p := w.manager(plane.ManagerKubeconfig, fmt.Sprintf("pod-%d", life/3), hasty...)
			until := crashRuns * (life + 1) / (wantKills + wantStops)
			offering := make(chan struct{})
			from := offered
			go func() {
				defer GinkgoRecover()
				defer close(offering)
				w.offerAll(ctx, from, until)
			}()
			offered = until
			w.moment(ctx, d, longestLife)
			if stops[life] {
				Expect(p.Interrupt(patience)).To(Succeed())
			} else {
				Expect(p.Kill()).To(Succeed())
			}
			for phase, n := range w.witness.sight().phases {
				atDeath[phase] += n
			}
			Eventually(ctx, offering).Should(BeClosed())
		}
		chaos := time.Since(began)

		last := w.manager(plane.ManagerKubeconfig, "survivor", hasty...)
		w.untilAllEnd(ctx, crashRuns)
		sum := w.settle(ctx, crashRuns)
		Expect(last.Interrupt(patience)).To(Succeed())

		seen := w.witness.sight()
		report("%d runs, %d kills, %d stops; %v; %d attempts lost with their worker; runs by phase at the deaths: %v; %v of chaos, %v in all",
			crashRuns, wantKills, wantStops, sum, seen.lost, atDeath, chaos.Round(time.Second), time.Since(began).Round(time.Second))
		Expect(sum.attempts).To(BeNumerically(">", crashRuns), "nothing failed")
		Expect(seen.lost).To(BeNumerically(">", 0), "no kill hit a stream")
		for _, phase := range []v1alpha1.Phase{v1alpha1.PhasePending, v1alpha1.PhaseStreaming, v1alpha1.PhaseRetrying, v1alpha1.PhaseSucceeded} {
			Expect(atDeath[phase]).To(BeNumerically(">", 0), "no kill hit a run that was %s", phase)
		}
	}, SpecTimeout(5*time.Minute))
})

// moment waits for the moment that a manager is to die at: a while after its
// start, or when so many requests more were made, or writes seen.
func (w *world) moment(ctx context.Context, d *rand.Rand, longest time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	// That none of them comes in time is a moment like any other.
	switch d.IntN(5) {
	case 0:
		while, end := context.WithTimeout(ctx, time.Duration(d.Int64N(int64(2*time.Second))))
		defer end()
		<-while.Done()
	case 1, 2:
		ledger := w.fake.Ledger()
		at := ledger.Count(chattest.PurposeAnswer) + 1 + d.IntN(40)
		_ = ledger.WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Count(chattest.PurposeAnswer) >= at })
	default:
		at := w.witness.sight().events + 1 + d.IntN(120)
		_ = w.witness.waitFor(ctx, func(s sight) bool { return s.events >= at })
	}
}

// untilAllEnd waits for the end of all runs.
func (w *world) untilAllEnd(ctx context.Context, total int) {
	GinkgoHelper()
	err := w.witness.waitFor(ctx, func(s sight) bool { return s.ended == total })
	Expect(err).NotTo(HaveOccurred(), w.witness.unfinished)
}
