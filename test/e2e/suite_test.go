// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the operator against a real control plane and fake
// providers: in this process where a test looks at what it costs, and as a
// process of its own where a test kills it.
package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/internal/controller"
	"chatrun.dev/operator/test/harness"
)

// patience is for what should take a moment, on a machine that is busy.
const patience = 30 * time.Second

var plane *harness.ControlPlane

func TestE2E(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "Operator")
}

var _ = BeforeSuite(func(ctx SpecContext) {
	ctrl.SetLogger(GinkgoLogr)
	SetDefaultEventuallyTimeout(patience)
	// A context alone would let an Eventually wait for as long as the whole suite may.
	EnforceDefaultTimeoutsWhenUsingContexts()
	SetDefaultEventuallyPollingInterval(20 * time.Millisecond)
	var err error
	plane, err = harness.StartControlPlane(ctx)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(plane.Stop()).To(Succeed()) })
})

// world is a namespace with a fake provider in it.
type world struct {
	namespace string
	fake      *chattest.Server
}

// newWorld makes one; the provider answers by script.
func newWorld(ctx context.Context, script chattest.Script, options ...chattest.Option) *world {
	GinkgoHelper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "e2e-"}}
	Expect(plane.Client.Create(ctx, ns)).To(Succeed())
	Expect(plane.AllowReplicas(ctx, ns.Name)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) {
		// A run that is left would keep the managers of later specs busy.
		for _, kind := range []client.Object{&v1alpha1.ChatRun{}, &v1alpha1.ChatProvider{}} {
			Expect(plane.Client.DeleteAllOf(ctx, kind, client.InNamespace(ns.Name))).To(Succeed())
		}
	})
	return &world{namespace: ns.Name, fake: chattest.Start(GinkgoT(), script, options...)}
}

// startManager runs the operator in this process until the spec ends.
func startManager(ctx context.Context, change ...func(*controller.Options)) *harness.Manager {
	GinkgoHelper()
	m, err := harness.StartManager(context.WithoutCancel(ctx), plane.ManagerConfig, change...)
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(func() { Expect(m.Stop()).To(Succeed()) })
	return m
}

// provider makes the ChatProvider "fake" of the world.
func (w *world) provider(ctx context.Context, change ...func(*v1alpha1.ChatProvider)) *v1alpha1.ChatProvider {
	GinkgoHelper()
	p := &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: w.fake.URL() + "/v1", DefaultModel: "fake-1"},
	}
	for _, c := range change {
		c(p)
	}
	Expect(plane.Client.Create(ctx, p)).To(Succeed())
	return p
}

// readyProvider waits until it is Ready.
func (w *world) readyProvider(ctx context.Context, change ...func(*v1alpha1.ChatProvider)) *v1alpha1.ChatProvider {
	GinkgoHelper()
	p := w.provider(ctx, change...)
	Eventually(ctx, func(g Gomega) {
		g.Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
		g.Expect(meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue())
	}).Should(Succeed())
	return p
}

func anthropic(w *world) func(*v1alpha1.ChatProvider) {
	return func(p *v1alpha1.ChatProvider) {
		p.Spec.Type, p.Spec.BaseURL = v1alpha1.ProviderAnthropic, w.fake.URL()
	}
}

func withSecret(name, key string) func(*v1alpha1.ChatProvider) {
	return func(p *v1alpha1.ChatProvider) {
		p.Spec.Credentials = &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: name, Key: key}}
	}
}

// run makes a ChatRun that asks the world's provider, with short delays and no
// title unless changed.
func (w *world) run(ctx context.Context, name string, change ...func(*v1alpha1.ChatRun)) *v1alpha1.ChatRun {
	GinkgoHelper()
	run := newRun(w.namespace, name, change...)
	Expect(plane.Client.Create(ctx, run)).To(Succeed())
	return run
}

func newRun(namespace, name string, change ...func(*v1alpha1.ChatRun)) *v1alpha1.ChatRun {
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "fake"},
			Prompt:      "question of " + name,
			RetryPolicy: &v1alpha1.RetryPolicy{InitialDelayMs: new(int64(20)), MaxDelayMs: new(int64(200))},
			Title:       &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	}
	for _, c := range change {
		c(run)
	}
	return run
}

func withTitle(run *v1alpha1.ChatRun) { run.Spec.Title = nil }

func delays(initial, highest int64) func(*v1alpha1.ChatRun) {
	return func(run *v1alpha1.ChatRun) {
		run.Spec.RetryPolicy.InitialDelayMs, run.Spec.RetryPolicy.MaxDelayMs = &initial, &highest
	}
}

func maxAttempts(n int32) func(*v1alpha1.ChatRun) {
	return func(run *v1alpha1.ChatRun) { run.Spec.RetryPolicy.MaxAttempts = &n }
}

// now reads a run as it stands.
func now(ctx context.Context, run *v1alpha1.ChatRun) *v1alpha1.ChatRun {
	GinkgoHelper()
	read := &v1alpha1.ChatRun{}
	Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(run), read)).To(Succeed())
	return read
}

// until waits for a run to be as a condition says, and returns it.
func until(ctx context.Context, run *v1alpha1.ChatRun, what string, is func(*v1alpha1.ChatRun) bool) *v1alpha1.ChatRun {
	GinkgoHelper()
	var read *v1alpha1.ChatRun
	Eventually(ctx, func() bool {
		read = now(ctx, run)
		return is(read)
	}).Should(BeTrue(), func() string {
		return fmt.Sprintf("%s is not %s: %+v", run.Name, what, read.Status)
	})
	return read
}

func untilPhase(ctx context.Context, run *v1alpha1.ChatRun, phase v1alpha1.Phase) *v1alpha1.ChatRun {
	GinkgoHelper()
	return until(ctx, run, string(phase), func(r *v1alpha1.ChatRun) bool { return r.Status.Phase == phase })
}

func untilReason(ctx context.Context, run *v1alpha1.ChatRun, reason string) *v1alpha1.ChatRun {
	GinkgoHelper()
	return until(ctx, run, reason, func(r *v1alpha1.ChatRun) bool { return reasonOf(r) == reason })
}

func reasonOf(run *v1alpha1.ChatRun) string {
	if c := meta.FindStatusCondition(run.Status.Conditions, v1alpha1.ConditionSucceeded); c != nil {
		return c.Reason
	}
	return ""
}

func messageOf(run *v1alpha1.ChatRun) string {
	if c := meta.FindStatusCondition(run.Status.Conditions, v1alpha1.ConditionSucceeded); c != nil {
		return c.Message
	}
	return ""
}

func attemptOf(run *v1alpha1.ChatRun) int {
	if run.Status.Attempt == nil {
		return 0
	}
	return int(*run.Status.Attempt)
}

func textOf(run *v1alpha1.ChatRun) string {
	if run.Status.Output == nil {
		return ""
	}
	return run.Status.Output.Text
}

// history records every state of the runs of a namespace that a watch tells of.
type history struct {
	mu   sync.Mutex
	seen []*v1alpha1.ChatRun
}

func watchRuns(ctx context.Context, namespace string) *history {
	GinkgoHelper()
	w, err := plane.Client.Watch(ctx, &v1alpha1.ChatRunList{}, client.InNamespace(namespace))
	Expect(err).NotTo(HaveOccurred())
	h, done := &history{}, make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			if run, ok := e.Object.(*v1alpha1.ChatRun); ok && e.Type != watch.Deleted {
				h.mu.Lock()
				h.seen = append(h.seen, run)
				h.mu.Unlock()
			}
		}
	}()
	DeferCleanup(func() {
		w.Stop()
		<-done
	})
	return h
}

// line is what `kubectl get -w` prints of a state.
type line struct {
	Phase   v1alpha1.Phase
	Attempt int
	DelayMs int64
	Reason  string
}

// all returns every state that was seen.
func (h *history) all() []*v1alpha1.ChatRun {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.seen)
}

// lines returns the different states of one run, in order.
func (h *history) lines(name string) []line {
	h.mu.Lock()
	defer h.mu.Unlock()
	var lines []line
	for _, run := range h.seen {
		if run.Name != name {
			continue
		}
		l := line{Phase: run.Status.Phase, Attempt: attemptOf(run), Reason: run.Status.LastErrorReason}
		if run.Status.DelayMs != nil {
			l.DelayMs = *run.Status.DelayMs
		}
		if len(lines) == 0 || lines[len(lines)-1] != l {
			lines = append(lines, l)
		}
	}
	return lines
}

// read follows a stream to its end, in the background. What it returns waits
// for the end and gives the reader's draft.
func read(ctx context.Context, base string, run *v1alpha1.ChatRun) func() *harness.Draft {
	draft, done := &harness.Draft{}, make(chan error, 1)
	go func() {
		var bad error
		err := harness.Read(ctx, harness.StreamURL(base, run.Namespace, run.Name), "", func(f harness.Frame) {
			if e := draft.Take(f); e != nil && bad == nil {
				bad = e
			}
		})
		if err == nil {
			err = bad
		}
		done <- err
	}()
	return func() *harness.Draft {
		GinkgoHelper()
		var err error
		Eventually(ctx, done).Should(Receive(&err))
		Expect(err).NotTo(HaveOccurred())
		return draft
	}
}

// firstPart waits until a reader has the first part of a run's answer.
func firstPart(ctx context.Context, base string, run *v1alpha1.ChatRun) {
	GinkgoHelper()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	came := false
	// The error is that of our own cancel.
	_ = harness.Read(ctx, harness.StreamURL(base, run.Namespace, run.Name), "", func(f harness.Frame) {
		if f.Event == stream.EventMessagePart {
			came = true
			cancel()
		}
	})
	Expect(came).To(BeTrue(), "no part came")
}
