// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chaos runs the manager as a process of its own against a real control
// plane and a provider that fails all the time, and kills it, or lies to it
// about what the API server did. Whatever happens, every attempt must be
// accounted for, and every run must end with its answer.
//
// A seed draws all faults. It is printed, and CHATRUN_SEED sets it. The faults of
// the provider and the moments of the kills follow from it; how they fall
// together is up to the machine.
package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	// seedVariable sets the seed.
	seedVariable = "CHATRUN_SEED"
	// patience is for what should take a moment, on a machine that is busy.
	patience = 30 * time.Second
	// quiet is how long nobody may call the provider after the last run ended. It
	// is longer than any delay of the runs.
	quiet = time.Second
	// titleEvery is which runs have a title: every n-th.
	titleEvery = 5
	// logTail is how much of a manager's log a failed spec prints.
	logTail = 64 << 10
)

var (
	plane *harness.ControlPlane
	// binary is the manager's.
	binary string
	seed   uint64
)

func TestChaos(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Chaos")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(patience)
	EnforceDefaultTimeoutsWhenUsingContexts()
	seed = uint64(GinkgoRandomSeed())
	if s := os.Getenv(seedVariable); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		Expect(err).NotTo(HaveOccurred(), seedVariable)
	}
	var err error
	plane, err = harness.StartControlPlane(ctx)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
	dir, err := os.MkdirTemp("", "chatrun-manager-")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(os.RemoveAll(dir)).To(Succeed()) })
	binary, err = harness.BuildManager(ctx, dir)
	Expect(err).NotTo(HaveOccurred())
})

// report prints figures, also of a spec that passes.
func report(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	AddReportEntry(fmt.Sprintf("seed %d (%s sets it): %s", seed, seedVariable, line), ReportEntryVisibilityAlways)
}

// dice returns a source of chance of its own for a purpose.
func dice(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, purpose)) }

// world is a namespace with a provider in it that fails by script, and a
// witness to all that its runs go through.
type world struct {
	namespace string
	script    script
	fake      *chattest.Server
	witness   *witness
	logFile   string
}

func newWorld(ctx context.Context, change ...func(*script)) *world {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "chaos-"}}
	Expect(plane.Client.Create(ctx, ns)).To(Succeed())
	Expect(plane.AllowReplicas(ctx, ns.Name)).To(Succeed())
	w := &world{namespace: ns.Name, script: script{seed: seed}, logFile: filepath.Join(GinkgoT().TempDir(), "manager.log")}
	for _, c := range change {
		c(&w.script)
	}
	w.fake = chattest.Start(GinkgoT(), w.script.answer)
	w.witness = watchRuns(ctx, w)
	DeferCleanup(func(ctx SpecContext) {
		for _, kind := range []client.Object{&v1alpha1.ChatRun{}, &v1alpha1.ChatProvider{}} {
			Expect(plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(ns.Name))).To(Succeed())
		}
		if CurrentSpecReport().Failed() {
			w.printLog()
		}
	})
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: w.fake.URL() + "/v1", DefaultModel: "fake-1"},
	}
	Expect(plane.Client.Create(ctx, p)).To(Succeed())
	return w
}

func (w *world) printLog() {
	raw, err := os.ReadFile(w.logFile)
	if err != nil {
		return
	}
	GinkgoWriter.Printf("end of the managers' log:\n%s", raw[max(0, len(raw)-logTail):])
}

// manager runs one as a process, which the end of the spec kills.
func (w *world) manager(kubeconfig, name string, args ...string) *harness.Process {
	GinkgoHelper()
	p, err := harness.StartProcess(binary, kubeconfig, w.namespace, name, w.logFile, args...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(p.Kill()).To(Succeed()) })
	return p
}

// offer makes the n-th run.
func (w *world) offer(ctx context.Context, n int) {
	GinkgoHelper()
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: runName(n)},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef:              v1alpha1.ProviderReference{Name: "fake"},
			Prompt:                   question(n),
			StreamIdleTimeoutSeconds: new(int32(1)),
			RetryPolicy:              &v1alpha1.RetryPolicy{MaxAttempts: new(int32(0)), InitialDelayMs: new(int64(20)), MaxDelayMs: new(int64(200))},
		},
	}
	if n%titleEvery != 0 {
		// The others have a title, whose write meets those of the status.
		run.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone}
	}
	Expect(plane.Client.Create(ctx, run)).To(Succeed())
}

// offerAll makes runs [from, to), several at a time.
func (w *world) offerAll(ctx context.Context, from, to int) {
	GinkgoHelper()
	const hands = 4
	var work sync.WaitGroup
	for hand := range hands {
		work.Go(func() {
			defer GinkgoRecover()
			for n := from + hand; n < to; n += hands {
				w.offer(ctx, n)
			}
		})
	}
	work.Wait()
}

// account is what the runs of a world cost.
type account struct {
	// attempts are those that status counts, requests those that the provider saw.
	attempts, requests int
	// titled is how many runs have a title.
	titled int
}

func (a account) String() string {
	return fmt.Sprintf("%d attempts counted, %d requests seen, %d counted and never sent, %d titles",
		a.attempts, a.requests, a.attempts-a.requests, a.titled)
}

// settle checks the end that all chaos must come to: all of total runs succeeded
// with their own text, each request was counted before it was made, and no more
// are coming.
func (w *world) settle(ctx context.Context, total int) account {
	GinkgoHelper()
	ledger := w.fake.Ledger()
	before := ledger.Count(chattest.PurposeAnswer)
	noMore, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	Expect(ledger.WaitFor(noMore, func(l *chattest.Ledger) bool { return l.Count(chattest.PurposeAnswer) > before })).
		To(MatchError(context.DeadlineExceeded), "a call was made after the last run had ended")

	var list v1alpha1.ChatRunList
	Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
	Expect(list.Items).To(HaveLen(total))
	var sum account
	for i := range list.Items {
		run := &list.Items[i]
		attempts, requests := attemptOf(run), ledger.CountFor(run.Spec.Prompt, chattest.PurposeAnswer)
		sum.attempts += attempts
		sum.requests += requests
		if run.Annotations[v1alpha1.AnnotationTitle] != "" {
			sum.titled++
		}
		Expect(run.Status.Phase).To(Equal(v1alpha1.PhaseSucceeded), run.Name)
		Expect(meta.IsStatusConditionTrue(run.Status.Conditions, v1alpha1.ConditionSucceeded)).To(BeTrue(), run.Name)
		Expect(run.Status.Output).NotTo(BeNil(), run.Name)
		Expect(whole(ctx, run)).To(Equal(w.script.text(run.Spec.Prompt)), run.Name)
		Expect(requests).To(BeNumerically(">", 0), run.Name)
		Expect(requests).To(BeNumerically("<=", attempts), "%s: a request that no attempt counts", run.Name)
	}
	Expect(ledger.Count(chattest.PurposeAnswer)).To(Equal(sum.requests), "requests of nobody's")
	Expect(ledger.Strays()).To(BeZero())
	Expect(w.witness.violations()).To(BeEmpty())
	return sum
}

// whole is a run's answer, wherever it stands.
func whole(ctx context.Context, run *v1alpha1.ChatRun) string {
	GinkgoHelper()
	out := run.Status.Output
	if out.ConfigMapName == "" {
		return out.Text
	}
	object := &corev1.ConfigMap{}
	Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: run.Namespace, Name: out.ConfigMapName}, object)).To(Succeed())
	return object.Data[v1alpha1.StoredText]
}

func attemptOf(run *v1alpha1.ChatRun) int {
	if run.Status.Attempt == nil {
		return 0
	}
	return int(*run.Status.Attempt)
}
