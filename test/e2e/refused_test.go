// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

func continuing(parent string) func(*v1alpha1.ChatRun) {
	return func(r *v1alpha1.ChatRun) { r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: parent} }
}

func on(provider string) func(*v1alpha1.ChatRun) {
	return func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = provider }
}

func remove(ctx context.Context, o client.Object) {
	GinkgoHelper()
	Expect(plane.Client.Delete(ctx, o)).To(Succeed())
}

var _ = Describe("A conversation that cannot go on", func() {
	It("says why, in one word and a sentence", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			switch r.Key {
			case "question of fails":
				return chattest.OpenAIErrorResponse(401, "invalid_request_error", "invalid_api_key", "no")
			case "question of longest":
				return chattest.Answer(strings.Repeat("x", 1<<20))
			case "question of replaced":
				return chattest.Answer("held ", "back").HoldAfter(1, gate)
			}
			return chattest.Answer("an answer")
		})
		startManager(ctx)
		w.readyProvider(ctx)
		w.run(ctx, "fails")
		w.run(ctx, "longest")
		w.run(ctx, "unkept", func(r *v1alpha1.ChatRun) { r.Spec.Output = &v1alpha1.OutputSpec{Storage: v1alpha1.StorageNone} })
		w.run(ctx, "hushed", func(r *v1alpha1.ChatRun) { r.Spec.Output = &v1alpha1.OutputSpec{Storage: v1alpha1.StorageSecret} })
		replaced := w.run(ctx, "replaced")
		stopped := w.run(ctx, "stopped", on("absent"))
		want := map[string]string{
			"after-fails": v1alpha1.ReasonParentFailed, "after-stopped": v1alpha1.ReasonParentFailed,
			"after-longest": v1alpha1.ReasonParentUnusable, "after-unkept": v1alpha1.ReasonParentUnusable, "after-hushed": v1alpha1.ReasonParentUnusable,
			"after-replaced": v1alpha1.ReasonParentNotFound,
			"ring-1":         v1alpha1.ReasonConversationCycle, "ring-2": v1alpha1.ReasonConversationCycle, "ring-3": v1alpha1.ReasonConversationCycle,
		}
		runs := map[string]*v1alpha1.ChatRun{}
		for name := range want {
			parent, _ := strings.CutPrefix(name, "after-")
			var n int
			if _, err := fmt.Sscanf(name, "ring-%d", &n); err == nil {
				parent = fmt.Sprintf("ring-%d", n%3+1)
			}
			runs[name] = w.run(ctx, name, continuing(parent))
		}
		cancelRun(ctx, stopped)
		untilReason(ctx, runs["after-replaced"], v1alpha1.ReasonWaitingForParent)
		until(ctx, runs["after-replaced"], "pinned", func(r *v1alpha1.ChatRun) bool { return r.Status.ParentUID == string(replaced.UID) })
		remove(ctx, replaced)
		w.run(ctx, "replaced", func(r *v1alpha1.ChatRun) { r.Spec.Prompt = "another" })
		for name, run := range runs {
			got := until(ctx, run, "finished", finished)
			// The first of a ring to be found is a cycle, and the others follow one that failed.
			if strings.HasPrefix(name, "ring-") {
				Expect(reasonOf(got)).To(Or(Equal(want[name]), Equal(v1alpha1.ReasonParentFailed)), name)
			} else {
				Expect(reasonOf(got)).To(Equal(want[name]), name)
			}
			Expect(messageOf(got)).NotTo(BeEmpty())
			Expect(w.fake.Ledger().CountFor(run.Spec.Prompt, chattest.PurposeAnswer)).To(BeZero(), name)
		}
	})

	It("or whose former part is gone, whatever it waits for", func(ctx SpecContext) {
		gate := make(chan struct{})
		defer close(gate)
		w := newWorld(ctx, func(r chattest.Request) chattest.Response {
			switch {
			case r.Key == "question of holder":
				return chattest.Answer("holds ", "on").HoldAfter(1, gate)
			case r.Key == "question of retrying" && r.N == 1:
				return chattest.OpenAIServerErrorResponse()
			}
			return chattest.Answer("an answer")
		})
		m := startManager(ctx)
		w.readyProvider(ctx)
		w.readyProvider(ctx, func(p *v1alpha1.ChatProvider) {
			p.Name, p.Spec.Limits = "full", &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(1))}
		})
		holder := w.run(ctx, "holder", on("full"))
		firstPart(ctx, m.Stream, holder)
		parent := w.run(ctx, "parent")
		untilPhase(ctx, parent, v1alpha1.PhaseSucceeded)
		suspended := w.run(ctx, "suspended", continuing("holder"))
		untilReason(ctx, suspended, v1alpha1.ReasonWaitingForParent)
		setDesired(ctx, suspended, v1alpha1.DesiredSuspended)
		queued := w.run(ctx, "queued", continuing("parent"), on("full"))
		early := w.run(ctx, "early", continuing("parent"), on("absent"))
		retrying := w.run(ctx, "retrying", continuing("parent"), delays(2500, 2500))
		untilPhase(ctx, suspended, v1alpha1.PhaseSuspended)
		untilReason(ctx, queued, v1alpha1.ReasonQueued)
		untilReason(ctx, early, v1alpha1.ReasonProviderNotReady)
		untilPhase(ctx, retrying, v1alpha1.PhaseRetrying)

		remove(ctx, parent)
		remove(ctx, holder)
		for _, run := range []*v1alpha1.ChatRun{queued, early} {
			Expect(reasonOf(untilPhase(ctx, run, v1alpha1.PhaseFailed))).To(Equal(v1alpha1.ReasonParentNotFound), run.Name)
		}
		By("one that has its copy going on")
		got := untilPhase(ctx, retrying, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(2))
		requests := w.fake.Ledger().Requests()
		last := requests[len(requests)-1].Request
		Expect(last.Messages).To(HaveLen(3))
		Expect(last.Messages[1].Content).To(Equal("an answer"))
		By("one that is suspended finding out when it is resumed")
		Expect(now(ctx, suspended).Status.Phase).To(Equal(v1alpha1.PhaseSuspended))
		setDesired(ctx, suspended, v1alpha1.DesiredRunning)
		Expect(reasonOf(untilPhase(ctx, suspended, v1alpha1.PhaseFailed))).To(Equal(v1alpha1.ReasonParentNotFound))
	})
})

var _ = Describe("What stands beside a run", func() {
	It("is not believed if another made it", func(ctx SpecContext) {
		gate := make(chan struct{})
		long := strings.Repeat("x", 20<<10)
		w := newWorld(ctx, chattest.Always(chattest.Answer("part ", long).HoldAfter(1, gate)))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "long")
		firstPart(ctx, m.Stream, run)
		foreign := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("chatrun-%s-1", run.UID)},
			Data:       map[string]string{v1alpha1.StoredText: "forged"},
		}
		Expect(plane.Client.Create(ctx, foreign)).To(Succeed())
		close(gate)
		got := untilPhase(ctx, run, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonOutputRefused))
		Expect(textOf(got)).To(HavePrefix("part xxx"))
		Expect(got.Status.Output.ConfigMapName).To(BeEmpty())
		Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(foreign), foreign)).To(Succeed())
		Expect(foreign.Data).To(HaveKeyWithValue(v1alpha1.StoredText, "forged"))
	})

	It("is missed if it goes: a retry asks the same, or says that it cannot", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.OpenAIServerErrorResponse()))
		startManager(ctx)
		w.readyProvider(ctx)
		source := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "messages"},
			Data:       map[string]string{"all": `[{"role":"user","content":"the question"}]`},
		}
		Expect(plane.Client.Create(ctx, source)).To(Succeed())
		run := w.run(ctx, "asks", delays(4000, 4000), func(r *v1alpha1.ChatRun) {
			r.Spec.Prompt = ""
			r.Spec.MessagesFrom = &v1alpha1.MessagesSource{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: "messages", Key: "all"}}
		})
		attempt := func(n int) {
			GinkgoHelper()
			until(ctx, run, fmt.Sprintf("waiting after attempt %d", n), func(r *v1alpha1.ChatRun) bool {
				return r.Status.Phase == v1alpha1.PhaseRetrying && attemptOf(r) == n
			})
		}
		attempt(1)
		kept := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("chatrun-%s-messages", run.UID)}}
		remove(ctx, kept)
		attempt(2)
		Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(kept), kept)).To(Succeed(), "it was made again of the same source")
		remove(ctx, &corev1.ConfigMap{ObjectMeta: kept.ObjectMeta})
		source.Data["all"] = `[{"role":"user","content":"another"}]`
		Expect(plane.Client.Update(ctx, source)).To(Succeed())
		got := untilPhase(ctx, run, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonMessagesChanged))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(Equal(2))
		for _, r := range w.fake.Ledger().Requests() {
			Expect(r.Request.LastUser).To(Equal("the question"))
		}
	})
})

var _ = Describe("A key", func() {
	It("that is rotated in a wait is the one that the next attempt shows", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("an answer")))
		startManager(ctx)
		key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "key"}, StringData: map[string]string{"key": "first"}}
		Expect(plane.Client.Create(ctx, key)).To(Succeed())
		w.readyProvider(ctx, withSecret("key", "key"))
		run := w.run(ctx, "rotated", delays(2000, 2000))
		untilPhase(ctx, run, v1alpha1.PhaseRetrying)
		key.StringData = map[string]string{"key": "second"}
		Expect(plane.Client.Update(ctx, key)).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		var shown []string
		for _, r := range w.fake.Ledger().Requests() {
			shown = append(shown, r.Request.Header.Get("Authorization"))
		}
		Expect(shown).To(Equal([]string{"Bearer first", "Bearer second"}))
	})
})
