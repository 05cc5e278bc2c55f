// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// rightKey looks like a real one, so that whatever redacts keys sees it.
const rightKey = "sk-test-0123456789abcdefghijklmnop"

var _ = Describe("What is missing", func() {
	It("heals by itself: the provider, its Secret, the key in it, a model", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("healed")), chattest.RequireKey(rightKey))
		startManager(ctx)

		By("the provider")
		run := w.run(ctx, "waits")
		got := untilReason(ctx, run, v1alpha1.ReasonProviderNotReady)
		Expect(got.Status.Phase).To(Equal(v1alpha1.PhasePending))
		Expect(messageOf(got)).To(And(ContainSubstring(`ChatProvider "fake"`), ContainSubstring("create it")))

		By("the Secret")
		p := w.provider(ctx, withSecret("credentials", "apiKey"))
		until(ctx, run, "waiting for the Secret", func(r *v1alpha1.ChatRun) bool {
			return strings.Contains(messageOf(r), `Secret "credentials" does not exist`)
		})
		Eventually(ctx, func(g Gomega) {
			g.Expect(plane.Client.Get(ctx, client.ObjectKeyFromObject(p), p)).To(Succeed())
			ready := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
			g.Expect(ready).NotTo(BeNil())
			g.Expect(ready.Reason).To(Equal(v1alpha1.ReasonSecretNotFound))
			g.Expect(ready.Message).To(ContainSubstring("create it"))
		}).Should(Succeed())

		By("the key in it")
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "credentials"}, StringData: map[string]string{"other": "x"}}
		Expect(plane.Client.Create(ctx, secret)).To(Succeed())
		until(ctx, run, "waiting for the key", func(r *v1alpha1.ChatRun) bool {
			return strings.Contains(messageOf(r), `has no key "apiKey"`)
		})
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(BeZero())
		secret.StringData = map[string]string{"apiKey": rightKey + "\n"}
		Expect(plane.Client.Update(ctx, secret)).To(Succeed())

		got = untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(1))

		By("the model")
		p.Spec.DefaultModel = ""
		Expect(plane.Client.Patch(ctx, p, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"defaultModel":null}}`)))).To(Succeed())
		run = w.run(ctx, "no-model")
		Expect(messageOf(untilReason(ctx, run, v1alpha1.ReasonProviderNotReady))).To(ContainSubstring("spec.defaultModel"))
		Expect(plane.Client.Patch(ctx, p, client.RawPatch("application/merge-patch+json", []byte(`{"spec":{"defaultModel":"fake-2"}}`)))).To(Succeed())
		Expect(untilPhase(ctx, run, v1alpha1.PhaseSucceeded).Status.Model).To(Equal("fake-2"))
	}, SpecTimeout(2*time.Minute))

	It("heals also when the Secret goes after the provider was found Ready", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("healed")), chattest.RequireKey(rightKey))
		startManager(ctx)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "credentials"}, StringData: map[string]string{"apiKey": rightKey}}
		Expect(plane.Client.Create(ctx, secret.DeepCopy())).To(Succeed())
		w.readyProvider(ctx, withSecret("credentials", "apiKey"))
		Expect(plane.Client.Delete(ctx, secret.DeepCopy())).To(Succeed())
		run := w.run(ctx, "late")
		Expect(messageOf(untilReason(ctx, run, v1alpha1.ReasonProviderNotReady))).To(ContainSubstring("does not exist"))
		Expect(attemptOf(now(ctx, run))).To(BeZero(), "nothing is counted that was not asked")
		Expect(plane.Client.Create(ctx, secret.DeepCopy())).To(Succeed())
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
	}, SpecTimeout(2*time.Minute))
})

var _ = Describe("What is wrong", func() {
	It("says what to do: the key, the model, the host", func(ctx SpecContext) {
		const wrong = "sk-test-wrong-9876543210zyxwvuts"
		w := newWorld(ctx, nil, chattest.RequireKey(rightKey), chattest.Models("fake-1"))
		startManager(ctx)
		for name, key := range map[string]string{"wrong": wrong, "right": rightKey} {
			Expect(plane.Client.Create(ctx, &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, StringData: map[string]string{"apiKey": key},
			})).To(Succeed())
		}
		w.provider(ctx, withSecret("right", "apiKey"))
		w.provider(ctx, withSecret("wrong", "apiKey"), func(p *v1alpha1.ChatProvider) { p.Name = "wrong-key" })
		w.provider(ctx, func(p *v1alpha1.ChatProvider) {
			// Nobody listens on the port of discard here, and the kernel says so at once.
			p.Name, p.Spec.BaseURL = "unreachable", "http://127.0.0.1:9/v1"
		})
		by := func(name string) func(*v1alpha1.ChatRun) {
			return func(r *v1alpha1.ChatRun) { r.Spec.ProviderRef.Name = name }
		}
		key := w.run(ctx, "key", by("wrong-key"))
		model := w.run(ctx, "model", func(r *v1alpha1.ChatRun) { r.Spec.Model = "no-such-model" })
		host := w.run(ctx, "host", by("unreachable"), maxAttempts(3))

		got := untilPhase(ctx, key, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonAuthenticationFailed))
		Expect(messageOf(got)).To(ContainSubstring("Secret"))
		got = untilPhase(ctx, model, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonModelNotFound))
		Expect(messageOf(got)).To(ContainSubstring("model"))
		got = untilPhase(ctx, host, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonRetriesExhausted))
		Expect(got.Status.LastErrorReason).To(Equal("ConnectionError"))
		Expect(messageOf(got)).To(ContainSubstring("baseURL"))

		By("the key stands nowhere")
		var runs v1alpha1.ChatRunList
		var providers v1alpha1.ChatProviderList
		var events corev1.EventList
		for _, list := range []client.ObjectList{&runs, &providers, &events} {
			Expect(plane.Client.List(ctx, list, client.InNamespace(w.namespace))).To(Succeed())
		}
		Expect(events.Items).NotTo(BeEmpty(), "a failure has an Event")
		for _, object := range []any{runs, providers, events} {
			Expect(object).To(WithTransform(asJSON, Not(Or(ContainSubstring(wrong), ContainSubstring(rightKey)))))
		}
	})
})
