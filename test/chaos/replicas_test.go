// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	replicaRuns    = 600
	replicaReaders = 300
	// atOnce is how many runs are not finished at a time.
	atOnce = 120
	// minDoubled is how many runs are to have two attempts at a time, one of them of the
	// replica that is stopped, when it is continued: only some answers last so long.
	minDoubled = 3
	// leaseOf is the duration of the replicas' Leases.
	leaseOf = harness.ShortLease
	// slowAnswers makes answers of some seconds of the script's.
	slowAnswers = 8
)

var _ = Describe("Three replicas, of which one is killed, one stopped and continued, and one drained", func() {
	It("lose no run, make no call that is not counted, and no two at a time", func(ctx SpecContext) {
		began := time.Now()
		w := newWorld(ctx, func(s *script) { s.slow, s.lasting = slowAnswers, true })
		d := dice(2)
		account, err := plane.AddAccount(ctx, w.namespace, GinkgoT().TempDir())
		Expect(err).NotTo(HaveOccurred())
		args := []string{"--lease-duration", leaseOf.String(), "--drain-grace", "2s"}
		a, b, c := w.relaying(ctx, account, "pod-a", args...), w.relaying(ctx, account, "pod-b", args...), w.relaying(ctx, account, "pod-c", args...)
		readers := w.startReaders(ctx, replicaRuns, replicaRuns/replicaReaders, a, b, c)
		offered := w.offerSteadily(ctx, replicaRuns)

		w.busy(ctx, d, 60, "pod-a", "pod-b", "pod-c")
		killed := w.witness.streamingBy("pod-a")
		killedAt := time.Now()
		Expect(a.Kill()).To(Succeed())
		w.takenOver(ctx, "killed", killed, killedAt)

		w.busy(ctx, d, 40, "pod-b", "pod-c")
		stoppedAt := time.Now()
		Expect(b.Pause()).To(Succeed())
		// Whatever it has sent a request for was counted before: the API server knows
		// what the witness may not have seen yet.
		stopped := w.streamedBy(ctx, "pod-b")
		w.takenOver(ctx, "stopped", stopped, stoppedAt)
		// Its streams are open still, so now there are two of some runs.
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool {
			doubled := 0
			for name := range stopped {
				doubled += max(l.MaxLiveFor("question of "+name)-1, 0)
			}
			return doubled >= min(minDoubled, len(stopped)/5)
		})).To(Succeed(), "nothing of the replica that was stopped was left to end")
		continuedAt := time.Now()
		Expect(b.Continue()).To(Succeed())

		w.busy(ctx, d, 40, "pod-b", "pod-c")
		Expect(c.Terminate()).To(Succeed())
		left := func() map[string]int { return w.witness.streamingBy("pod-c") }
		Eventually(ctx, left).WithTimeout(harness.CancelWithin).Should(BeEmpty(), "a replica that drained hands over what it does not end")

		Eventually(ctx, offered).WithTimeout(2 * time.Minute).Should(BeClosed())
		w.untilAllEnd(ctx, replicaRuns)
		sum := w.settle(ctx, replicaRuns)
		read := readers.all()
		Expect(b.Terminate()).To(Succeed())

		overlaps := w.overlaps(stopped, stoppedAt, continuedAt.Add(harness.CancelWithin))
		report("%d runs: %v; %d streamed when their replica was killed, %d when it was stopped, which went on beside %d new attempts until it was continued; %s; %v in all",
			replicaRuns, sum, len(killed), len(stopped), overlaps, read, time.Since(began).Round(time.Second))
		Expect(len(killed)*len(stopped)).To(BeNumerically(">", 0), "no fault hit a stream")
		Expect(overlaps).To(BeNumerically(">", 0))
	}, SpecTimeout(5*time.Minute))
})

// relaying runs a manager as a process that reads from other replicas what its own
// readers want.
func (w *world) relaying(ctx context.Context, account *harness.Account, name string, args ...string) *harness.Process {
	GinkgoHelper()
	Expect(account.Pod(ctx, name)).To(Succeed())
	relay, err := account.RelayArgs()
	Expect(err).NotTo(HaveOccurred())
	return w.manager(account.Kubeconfig, name, append(relay, args...)...)
}

// offerSteadily makes runs, so that atOnce of them are not finished, and closes what
// it returns when all are made.
func (w *world) offerSteadily(ctx context.Context, total int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer GinkgoRecover()
		defer close(done)
		for n := range total {
			Expect(w.witness.waitFor(ctx, func(s sight) bool { return s.ended > n-atOnce })).To(Succeed())
			w.offer(ctx, n)
		}
	}()
	return done
}

// busy waits until some runs more have ended, each of the replicas streams, and for
// a random moment then.
func (w *world) busy(ctx context.Context, d *rand.Rand, more int, replicas ...string) {
	GinkgoHelper()
	until := w.witness.sight().ended + more
	err := w.witness.waitFor(ctx, func(s sight) bool {
		return s.ended >= until && !slices.ContainsFunc(replicas, func(name string) bool { return s.streaming[name] < 5 })
	})
	Expect(err).NotTo(HaveOccurred(), "not all of %v stream: %v", replicas, w.witness.unfinished)
	w.moment(ctx, d, longestLife)
}

// takenOver waits until none of the runs that a replica streamed at a moment is its
// own any more, and checks that each changed hands in time.
func (w *world) takenOver(ctx context.Context, what string, runs map[string]int, at time.Time) {
	GinkgoHelper()
	ctx, cancel := context.WithTimeout(ctx, leaseOf+patience)
	defer cancel()
	latest := time.Duration(0)
	for name, attempt := range runs {
		moved, err := w.witness.moved(ctx, streamed{name, attempt})
		Expect(err).NotTo(HaveOccurred(), "%s was streamed by the replica that was %s, and not taken over", name, what)
		latest = max(latest, moved.Sub(at))
	}
	report("%d runs of the replica that was %s were taken over, the last after %v; its Lease was good for %v", len(runs), what, latest.Round(time.Millisecond), leaseOf)
	Expect(latest).To(BeNumerically("<=", leaseOf+harness.TakeoverSlack))
}

// overlaps counts the attempts that began while another one of their run was under
// way, which no replica may make while it can know: the other one was stopped, and
// has ended its own by the end of this time.
func (w *world) overlaps(stopped map[string]int, from, to time.Time) int {
	GinkgoHelper()
	byRun := map[string][]chattest.Entry{}
	for _, e := range w.fake.Ledger().Requests() {
		if e.Request.Purpose == chattest.PurposeAnswer {
			byRun[e.Request.Key] = append(byRun[e.Request.Key], e)
		}
	}
	found := 0
	for key, entries := range byRun {
		for i, e := range entries {
			for _, later := range entries[i+1:] {
				if !later.At.Before(e.Over) {
					continue
				}
				_, paused := stopped[strings.TrimPrefix(key, "question of ")]
				if !paused && e.State == chattest.Cancelled && e.Over.Sub(later.At) < harness.NoticeWithin {
					continue // the one before was given up first, which the provider saw later
				}
				found++
				Expect(paused).To(BeTrue(), "%s: two attempts at a time of a run that was not stopped: %v to %v, %s; %v to %v, %s",
					key, e.At, e.Over, e.State, later.At, later.Over, later.State)
				Expect(e.At).To(BeTemporally("<", from), "%s: two attempts at a time, and the first began after the stop", key)
				Expect(later.At).To(BeTemporally(">", from), "%s: two attempts at a time before the stop", key)
				Expect(e.Over).To(BeTemporally("<=", to), "%s: its first attempt went on after the replica was continued, to %v", key, e.Over)
			}
		}
	}
	return found
}

// streamedBy returns the runs that a replica streams as the API server has them, with
// their attempts.
func (w *world) streamedBy(ctx context.Context, worker string) map[string]int {
	GinkgoHelper()
	var list v1alpha1.ChatRunList
	Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
	runs := map[string]int{}
	for i := range list.Items {
		if run := &list.Items[i]; run.Status.Phase == v1alpha1.PhaseStreaming && run.Status.Worker == worker {
			runs[run.Name] = attemptOf(run)
		}
	}
	return runs
}

// streamingBy returns the runs that a replica streams, with their attempts.
func (w *witness) streamingBy(worker string) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	runs := map[string]int{}
	for name, run := range w.latest {
		if run.Status.Phase == v1alpha1.PhaseStreaming && run.Status.Worker == worker {
			runs[name] = attemptOf(run)
		}
	}
	return runs
}

// moved waits until a run does not stream an attempt any more, and returns when that
// was first seen.
func (w *witness) moved(ctx context.Context, what streamed) (at time.Time, err error) {
	err = w.waitFor(ctx, func(sight) (left bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		at, left = w.leftAt[what]
		return left
	})
	return at, err
}
