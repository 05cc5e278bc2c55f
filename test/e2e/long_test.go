// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// costly is a text of some n bytes, nearly all of them characters that JSON
// inflates most: six bytes for one. 900 KiB of it are more than the API server
// takes, unless they come as protobuf.
func costly(n int) string {
	unit := strings.Repeat("\x00\x01<>&", 9) + "\u2028é𝄞"
	return strings.Repeat(unit, n/len(unit))
}

// expectSame compares texts that nobody wants to see printed.
func expectSame(got, want, what string) {
	GinkgoHelper()
	if got != want {
		Fail(fmt.Sprintf("%s: %d bytes that are not the %d expected", what, len(got), len(want)))
	}
}

// pieces cuts a text into parts of whole characters.
func pieces(text string, size int) []string {
	var parts []string
	for len(text) > size {
		n := size
		for !utf8.RuneStart(text[n]) {
			n--
		}
		parts = append(parts, text[:n])
		text = text[n:]
	}
	return append(parts, text)
}

var _ = Describe("A long answer", func() {
	DescribeTable("stands whole beside the status, or as much of it as may", func(ctx SpecContext, size int, storage v1alpha1.OutputStorage) {
		whole := costly(size)
		w := newWorld(ctx, chattest.Always(chattest.Answer(pieces(whole, 64<<10)...).Usage(7, 9)))
		m := startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "long", func(r *v1alpha1.ChatRun) { r.Spec.Output = &v1alpha1.OutputSpec{Storage: storage} })
		live := read(ctx, m.Stream, run)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		out := got.Status.Output
		Expect(*out.Bytes).To(Equal(int64(len(whole))))
		Expect(*got.Status.Usage.OutputTokens).To(Equal(int64(9)))
		expectSame(live().Text, whole, "read live")

		kept := whole[:min(len(whole), v1alpha1.MaxStoredBytes)]
		for !utf8.ValidString(kept) {
			kept = kept[:len(kept)-1]
		}
		var stands string
		switch storage {
		case v1alpha1.StorageConfigMap:
			object := &corev1.ConfigMap{}
			Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: out.ConfigMapName}, object)).To(Succeed())
			Expect(metav1.IsControlledBy(object, got)).To(BeTrue())
			stands = object.Data[v1alpha1.StoredText]
			Expect(strings.HasPrefix(whole, out.Text)).To(BeTrue())
			Expect(len(out.Text)).To(BeNumerically("~", v1alpha1.MaxInlineOutputBytes, 4))
		case v1alpha1.StorageSecret:
			object := &corev1.Secret{}
			Expect(plane.Client.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: out.SecretName}, object)).To(Succeed())
			stands = string(object.Data[v1alpha1.StoredText])
			Expect(out.Text).To(BeEmpty())
		case v1alpha1.StorageNone:
			kept = ""
			Expect(out.Text + out.ConfigMapName + out.SecretName).To(BeEmpty())
		}
		expectSame(stands, kept, "in its object")

		By("being read back from a manager that never saw it")
		Expect(m.Stop()).To(Succeed())
		next := startManager(ctx)
		draft := read(ctx, next.Stream, run)()
		expectSame(draft.Text, kept, "read back")
		Expect(draft.Done.Bytes).To(Equal(int64(len(whole))))
		Expect(draft.Done.Truncated).To(Equal(len(kept) < len(whole)))
		code, text, err := plain(ctx, next, run)
		switch {
		case len(kept) == len(whole):
			Expect(code).To(Equal(http.StatusOK))
			Expect(err).NotTo(HaveOccurred())
		case kept == "":
			Expect(code).To(Equal(http.StatusInsufficientStorage))
			return
		default:
			Expect(err).To(HaveOccurred(), "an answer that is cut does not end properly")
		}
		expectSame(text, kept, "read back as text")
	},
		Entry("20 KiB", 20<<10, v1alpha1.StorageConfigMap),
		Entry("5 MiB", 5<<20, v1alpha1.StorageConfigMap),
		Entry("5 MiB in a Secret", 5<<20, v1alpha1.StorageSecret),
		Entry("5 MiB, not kept", 5<<20, v1alpha1.StorageNone),
	)
})

// One that a manager wrote down, and was killed before it said so in the status.
var _ = Describe("An answer that stands", func() {
	It("finishes its run without another call", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("asked again")))
		w.provider(ctx)
		run := w.run(ctx, "killed")
		base := run.DeepCopy()
		at := metav1.NewMicroTime(time.Now().Add(-time.Minute).Truncate(time.Microsecond))
		run.Status.Attempt, run.Status.Worker, run.Status.StartTime = new(int32(1)), "killed", &at
		run.Status.Phase, run.Status.ObservedGeneration = v1alpha1.PhaseStreaming, &run.Generation
		meta.SetStatusCondition(&run.Status.Conditions, metav1.Condition{
			Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonStreaming, Message: "x",
		})
		Expect(plane.Client.Status().Patch(ctx, run, client.MergeFrom(base))).To(Succeed())
		whole := costly(100 << 10)
		Expect(plane.Client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: w.namespace, Name: fmt.Sprintf("chatrun-%s-1", run.UID),
				Annotations:     map[string]string{"chatrun.dev/outcome": fmt.Sprintf(`{"attempt":1,"finishReason":"Length","bytes":%d,"outputTokens":7}`, len(whole))},
				OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(run, v1alpha1.GroupVersion.WithKind("ChatRun"))},
			},
			Immutable: new(true), Data: map[string]string{v1alpha1.StoredText: whole},
		})).To(Succeed())
		m := startManager(ctx)
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(got.Status.FinishReason).To(Equal(v1alpha1.FinishLength))
		Expect(*got.Status.Usage.OutputTokens).To(Equal(int64(7)))
		Expect(attemptOf(got)).To(Equal(1))
		expectSame(read(ctx, m.Stream, run)().Text, whole, "read back")
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(BeZero())
	})
})

// plain reads a run's stream as text.
func plain(ctx SpecContext, m *harness.Manager, run *v1alpha1.ChatRun) (int, string, error) {
	GinkgoHelper()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, harness.StreamURL(m.Stream, run.Namespace, run.Name)+"?format=text", http.NoBody)
	Expect(err).NotTo(HaveOccurred())
	answer, err := http.DefaultClient.Do(ask)
	Expect(err).NotTo(HaveOccurred())
	defer func() { _ = answer.Body.Close() }()
	text, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(text), err
}

var _ = Describe("A long question", func() {
	// source is a ConfigMap with messages.
	source := func(ctx SpecContext, w *world, raw string) *corev1.ConfigMap {
		GinkgoHelper()
		m := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "long"}, Data: map[string]string{"messages.json": raw}}
		Expect(plane.Client.Create(ctx, m)).To(Succeed())
		return m
	}
	from := func(r *v1alpha1.ChatRun) {
		r.Spec.Prompt = ""
		r.Spec.MessagesFrom = &v1alpha1.MessagesSource{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: "long", Key: "messages.json"}}
	}
	said := func(content string) string {
		raw, err := json.Marshal([]v1alpha1.Message{{Role: v1alpha1.RoleUser, Content: content}})
		Expect(err).NotTo(HaveOccurred())
		return string(raw)
	}

	It("of 900 KiB is asked whole, and asked again though its source changed", func(ctx SpecContext) {
		const word = `word "quoted" é `
		each := len(said(word+word)) - len(said(word))
		content := strings.Repeat(word, (v1alpha1.MaxStoredBytes-len(said(word)))/each)
		Expect(len(said(content))).To(BeNumerically("~", v1alpha1.MaxStoredBytes, 2*each))
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("read it all")),
			chattest.Key(func(chattest.Request) string { return "all" }))
		m := startManager(ctx)
		w.readyProvider(ctx)
		its := source(ctx, w, said(content))
		run := w.run(ctx, "long", from, delays(1500, 1500))
		untilPhase(ctx, run, v1alpha1.PhaseRetrying)
		its.Data["messages.json"] = said("another")
		Expect(plane.Client.Update(ctx, its)).To(Succeed())
		got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(attemptOf(got)).To(Equal(2))
		Expect(got.Status.MessagesDigest).To(HavePrefix("sha256:"))
		for _, r := range w.fake.Ledger().Requests() {
			expectSame(r.Request.LastUser, content, "asked")
		}
		expectSame(read(ctx, m.Stream, run)().Text, "read it all", "read back")
	})

	It("that is not there yet is waited for, and one that is none is refused", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("an answer")))
		startManager(ctx)
		w.readyProvider(ctx)
		run := w.run(ctx, "early", from)
		untilReason(ctx, run, v1alpha1.ReasonMessagesNotFound)
		source(ctx, w, "[]")
		got := untilPhase(ctx, run, v1alpha1.PhaseFailed)
		Expect(reasonOf(got)).To(Equal(v1alpha1.ReasonMessagesInvalid))
		Expect(w.fake.Ledger().Count(chattest.PurposeAnswer)).To(BeZero())
	})

	It("in the object itself is not cached, and asked whole", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("an answer")))
		startManager(ctx)
		w.readyProvider(ctx)
		prompt := strings.Repeat("long ", 50_000)
		run := w.run(ctx, "inline", func(r *v1alpha1.ChatRun) { r.Spec.Prompt = prompt })
		untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
		Expect(w.fake.Ledger().CountFor(prompt, chattest.PurposeAnswer)).To(Equal(2))
		expectSame(now(ctx, run).Spec.Prompt, prompt, "in the object")
	})
})

var _ = Describe("A conversation", func() {
	It("of twenty turns, applied last turn first, is asked turn by turn", func(ctx SpecContext) {
		const turns, longTurn = 20, 7
		answer := func(to string) string {
			if to == fmt.Sprintf("question of turn-%d", longTurn) {
				return "answer to " + to + costly(30<<10)
			}
			return "answer to " + to
		}
		w := newWorld(ctx, func(r chattest.Request) chattest.Response { return chattest.Answer(answer(r.LastUser)) })
		manager := startManager(ctx)
		w.readyProvider(ctx)
		runs := make([]*v1alpha1.ChatRun, turns)
		for i := turns - 1; i >= 0; i-- {
			runs[i] = w.run(ctx, fmt.Sprintf("turn-%d", i), func(r *v1alpha1.ChatRun) {
				r.Spec.System = map[bool]string{true: "be brief"}[i == 0]
				if i%2 == 0 {
					// The answer is needed as long as the next turn has not copied it.
					r.Spec.TTLSecondsAfterFinished = new(int32(1))
				}
				if i > 0 {
					r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: fmt.Sprintf("turn-%d", i-1)}
				}
			})
		}
		Expect(w.fake.Ledger().WaitFor(ctx, func(l *chattest.Ledger) bool { return l.Total(chattest.PurposeAnswer).Count == turns })).To(Succeed())
		for i, r := range w.fake.Ledger().Requests() {
			Expect(r.Request.System).To(Equal("be brief"))
			Expect(r.Request.Messages).To(HaveLen(2*i + 2))
			for j, m := range r.Request.Messages[1:] {
				want := fmt.Sprintf("question of turn-%d", j/2)
				if j%2 == 1 {
					want = answer(want)
				}
				expectSame(m.Content, want, "asked")
			}
		}
		By("each being read back")
		for i := 1; i < turns; i += 2 {
			untilPhase(ctx, runs[i], v1alpha1.PhaseSucceeded)
			expectSame(read(ctx, manager.Stream, runs[i])().Text, answer(runs[i].Spec.Prompt), runs[i].Name)
		}
		By("the parents' TTL running as soon as nobody needs them")
		Eventually(ctx, func() int {
			var list v1alpha1.ChatRunList
			Expect(plane.Client.List(ctx, &list, client.InNamespace(w.namespace))).To(Succeed())
			return len(list.Items)
		}).Should(Equal(turns / 2))
	}, SpecTimeout(2*time.Minute))

	It("has one label on all its runs", func(ctx SpecContext) {
		w := newWorld(ctx, chattest.Always(chattest.Answer("an answer")))
		startManager(ctx)
		w.readyProvider(ctx)
		first := w.run(ctx, "first")
		second := w.run(ctx, "second", func(r *v1alpha1.ChatRun) { r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: "first"} })
		third := w.run(ctx, "third", func(r *v1alpha1.ChatRun) { r.Spec.ContinueFrom = &v1alpha1.RunReference{Name: "second"} })
		for _, run := range []*v1alpha1.ChatRun{third, second, first} {
			got := untilPhase(ctx, run, v1alpha1.PhaseSucceeded)
			Expect(got.Labels).To(HaveKeyWithValue(v1alpha1.LabelConversation, string(first.UID)))
		}
	})
})
