// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// binary builds the manager once for all specs.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chatrun-manager-")
	if err != nil {
		return "", err
	}
	return harness.BuildManager(context.Background(), dir)
})

var _ = AfterSuite(func() {
	if path, err := binary(); err == nil {
		Expect(os.RemoveAll(filepath.Dir(path))).To(Succeed())
	}
})

// startProcess runs the manager as a process, which the end of the spec kills.
func (w *world) startProcess(worker string, args ...string) *harness.Process {
	GinkgoHelper()
	return w.startProcessOn(plane.ManagerKubeconfig, worker, args...)
}

func (w *world) startProcessOn(kubeconfig, worker string, args ...string) *harness.Process {
	GinkgoHelper()
	path, err := binary()
	Expect(err).NotTo(HaveOccurred())
	logFile := filepath.Join(GinkgoT().TempDir(), worker+".log")
	p, err := harness.StartProcess(path, kubeconfig, w.namespace, worker, logFile, args...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() {
		Expect(p.Kill()).To(Succeed())
		if raw, err := os.ReadFile(logFile); err == nil {
			GinkgoWriter.Printf("log of %s:\n%s", worker, raw)
		}
	})
	return p
}

// short makes a Lease lapse soon.
var short = []string{"--lease-duration", harness.ShortLease.String()}

var _ = Describe("8: A manager that is killed", func() {
	It("while a run waits: the remaining time is waited, the number goes on", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.OpenAIServerErrorResponse(), chattest.Answer("at last")))
		first := w.startProcess("first", short...)
		w.readyProvider(ctx)
		run := w.run(ctx, "waits", delays(2500, 5000))
		before := until(ctx, run, "waiting for its third attempt", func(r *v1alpha1.ChatRun) bool {
			return r.Status.Phase == v1alpha1.PhaseRetrying && attemptOf(r) == 2
		})
		Expect(first.Kill()).To(Succeed())
		w.startProcess("second", short...)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(3))
		Expect(got.Status.Worker).To(Equal("second"))
		requests := w.fake.Ledger().Requests()
		Expect(requests).To(HaveLen(3))
		late := requests[2].At.Sub(before.Status.RetryingAt.Time)
		Expect(late).To(BeNumerically(">=", 0), "never early")
		// The new process needs its time to start; the wait itself is not begun anew.
		Expect(late).To(BeNumerically("<", harness.ShortLease+4*time.Second), "the whole wait was not repeated")
	})

	It("while a run streams: WorkerLost, then a new attempt", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, chattest.Sequence(chattest.Answer("lost ", "text").HoldAfter(1, gate), chattest.Answer("whole")))
		first := w.startProcess("first", short...)
		w.readyProvider(ctx)
		run := w.run(ctx, "streams")
		untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 1 })).To(Succeed())
		seen := watchRuns(ctx, w.namespace)
		Expect(first.Kill()).To(Succeed())
		w.startProcess("second", short...)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(textOf(got)).To(Equal("whole"))
		Expect(attemptOf(got)).To(Equal(2))
		Expect(got.Status.LastErrorReason).To(Equal("WorkerLost"))
		Eventually(ctx, func() []line { return seen.lines("streams") }).Should(ContainElement(
			line{Phase: v1alpha1.PhaseRetrying, Attempt: 1, DelayMs: 20, Reason: "WorkerLost"}))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2))
	})

	It("between the output and the last status: no second call, no double output", func(ctx SpecContext) {
		whole := costly(2 * v1alpha1.MaxStoredBytes)
		w := newWorld(ctx, chattest.Sequence(chattest.Answer(pieces(whole, 64<<10)...).Usage(7, 9), chattest.Answer("asked again")))
		proxy, err := harness.StartFaultProxy(plane.ManagerConfig, 0, harness.Faults{HoldAfterCreate: true})
		Expect(err).NotTo(HaveOccurred())
		DeferCleanup(proxy.Close)
		kubeconfig := filepath.Join(GinkgoT().TempDir(), "held.kubeconfig")
		Expect(proxy.Kubeconfig(kubeconfig)).To(Succeed())
		first := w.startProcessOn(kubeconfig, "first", short...)
		w.readyProvider(ctx)
		run := w.run(ctx, "long")
		Eventually(ctx, func() int { return proxy.Counts().Held }).Should(BeNumerically(">", 0))
		Expect(now(ctx, run).Status.Phase).To(Equal(v1alpha1.PhaseStreaming))
		Expect(first.Kill()).To(Succeed())

		second := w.startProcess("second", short...)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(1))
		Expect(got.Status.FinishReason).To(Equal(v1alpha1.FinishStop))
		Expect(*got.Status.Usage.OutputTokens).To(Equal(int64(9)))
		Expect(*got.Status.Output.Bytes).To(Equal(int64(len(whole))))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(1))
		draft := read(ctx, second.Stream, run)()
		expectSame(draft.Text, whole[:*got.Status.Output.StoredBytes], "read back")
		Expect(draft.Done.Truncated).To(BeTrue())
		var kept corev1.ConfigMapList
		Expect(plane.Client.List(ctx, &kept, client.InNamespace(w.namespace))).To(Succeed())
		Expect(kept.Items).To(HaveLen(1))
		Expect(kept.Items[0].Name).To(Equal(got.Status.Output.ConfigMapName))
	})

	It("by a signal it can obey: hands over without a wait and without a failure", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, chattest.Sequence(chattest.Answer("handed ", "over").HoldAfter(1, gate), chattest.Answer("whole")))
		first := w.startProcess("first", short...)
		w.readyProvider(ctx)
		run := w.run(ctx, "streams", delays(3600000, 3600000))
		untilPhase(ctx, run, v1alpha1.PhaseStreaming)
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Live() == 1 })).To(Succeed())
		Expect(first.Interrupt(patience)).To(Succeed())
		got := now(ctx, run)
		Expect(got.Status.Phase).To(Equal(v1alpha1.PhasePending))
		Expect(got.Status.Worker).To(BeEmpty())
		w.startProcess("second", short...)
		got = untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(2))
		Expect(got.Status.LastError).To(BeEmpty(), "a shutdown is no failure")
	})
})

var _ = Describe("Five hundred runs at once", func() {
	It("all succeed while something keeps editing them, and no call is uncounted", func(ctx SpecContext) {
		const total = 500
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			// Every fourth run fails once, and every eighth is reset in the middle.
			var n int
			if _, err := fmt.Sscanf(r.LastUser, "question of run-%d", &n); err != nil {
				return chattest.OpenAIErrorResponse(400, "invalid_request_error", "", "unknown question")
			}
			answer := chattest.Answer("an ", "answer ", "of ", "some ", "parts").Pace(5 * time.Millisecond)
			switch {
			case r.N > 1:
				return answer
			case n%8 == 0:
				return answer.ResetAfter(3)
			case n%4 == 0:
				return chattest.OpenAIServerErrorResponse()
			default:
				return answer
			}
		})
		w.startProcess("busy")
		w.readyProvider(ctx)

		editing, stop := context.WithCancel(ctx)
		defer stop()
		var work sync.WaitGroup
		seed := uint64(GinkgoRandomSeed())
		for editor := range 4 {
			dice := rand.New(rand.NewPCG(seed, uint64(editor)))
			work.Go(func() { edit(editing, w.namespace, total, dice) })
		}
		var creators sync.WaitGroup
		for c := range 8 {
			creators.Go(func() {
				defer GinkgoRecover()
				for i := c; i < total; i += 8 {
					run := newRun(w.namespace, fmt.Sprintf("run-%d", i))
					Expect(plane.Client.Create(ctx, run)).To(Succeed())
				}
			})
		}
		creators.Wait()

		var list v1alpha1.ChatRunList
		Eventually(ctx, func(g Gomega) {
			g.Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			g.Expect(list.Items).To(HaveLen(total))
			for i := range list.Items {
				g.Expect(list.Items[i].Status.Phase).To(Equal(v1alpha1.PhaseSucceeded), list.Items[i].Name)
			}
		}, 3*time.Minute, 200*time.Millisecond).Should(Succeed())
		stop()
		work.Wait()

		sum := 0
		for i := range list.Items {
			sum += attemptOf(&list.Items[i])
			Expect(textOf(&list.Items[i])).To(Equal("an answer of some parts"))
		}
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(sum))
		Expect(sum).To(Equal(total + total/4))
	}, SpecTimeout(5*time.Minute))
})

// edit changes labels and annotations of runs until ctx ends.
func edit(ctx context.Context, namespace string, total int, dice *rand.Rand) {
	defer GinkgoRecover()
	for i := 0; ctx.Err() == nil; i++ {
		run := &v1alpha1.ChatRun{}
		run.Namespace, run.Name = namespace, fmt.Sprintf("run-%d", dice.IntN(total))
		patch := fmt.Sprintf(`{"metadata":{"labels":{"edited":"%d"},"annotations":{"edited":"%d"}}}`, i, i)
		err := plane.Client.Patch(ctx, run, client.RawPatch(types.MergePatchType, []byte(patch)))
		if ctx.Err() == nil && !apierrors.IsNotFound(err) {
			Expect(err).NotTo(HaveOccurred())
		}
	}
}

func asJSON(v any) string {
	raw, err := json.Marshal(v)
	Expect(err).NotTo(HaveOccurred())
	return string(raw)
}
