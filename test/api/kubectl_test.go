// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"regexp"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/v1alpha1"
)

// openAPITimeout bounds the wait until the API server has published the schema
// of a new CRD, which kubectl explain reads.
const openAPITimeout = 30 * time.Second

// ragged is a word alone on its line within a paragraph, which kubectl explain
// makes of a comment whose lines are longer than its own.
var ragged = regexp.MustCompile(`\n    \S{1,12}\n    \S`)

// table splits what kubectl get prints into the cells of its lines.
func table(printed string) [][]string {
	var rows [][]string
	for line := range strings.Lines(printed) {
		rows = append(rows, regexp.MustCompile(`\s{2,}`).Split(strings.TrimSpace(line), -1))
	}
	return rows
}

var _ = Describe("kubectl get", Ordered, func() {
	var namespace string
	var retryingAt metav1.MicroTime

	BeforeAll(func(ctx SpecContext) {
		namespace = newNamespace(ctx)
		waiting := newRun(namespace, "waiting")
		waiting.Annotations = map[string]string{v1alpha1.AnnotationTitle: "Why the sky is blue"}
		Expect(api.Create(ctx, waiting)).To(Succeed())
		retryingAt = metav1.NewMicroTime(time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond))
		waiting.Status = v1alpha1.ChatRunStatus{
			Phase: v1alpha1.PhaseRetrying, Attempt: new(int32(2)), DelayMs: new(int64(2000)), RetryingAt: &retryingAt,
			LastError: "the provider is overloaded (529)", LastErrorReason: "Overloaded", Model: "small",
			Usage: &v1alpha1.Usage{OutputTokens: new(int64(42))},
			Conditions: []metav1.Condition{{
				Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionUnknown, Reason: v1alpha1.ReasonRetrying,
				LastTransitionTime: metav1.Now(),
			}},
		}
		Expect(api.Status().Update(ctx, waiting)).To(Succeed())

		other := newRun(namespace, "other")
		other.Spec.ProviderRef.Name = "spare"
		Expect(api.Create(ctx, other)).To(Succeed())
		other.Status.Phase, other.Status.ObservedGeneration = v1alpha1.PhaseSucceeded, &other.Generation
		other.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonCompleted,
			LastTransitionTime: metav1.Now(),
		}}
		Expect(api.Status().Update(ctx, other)).To(Succeed())

		provider := &v1alpha1.ChatProvider{Spec: v1alpha1.ChatProviderSpec{
			Type: v1alpha1.ProviderOpenAI, DefaultModel: "small", BaseURL: "http://ollama:11434/v1",
			Credentials: &v1alpha1.Credentials{SecretKeyRef: v1alpha1.SecretKeyReference{Name: "keys", Key: "openai"}},
		}}
		provider.Namespace, provider.Name = namespace, "main"
		Expect(api.Create(ctx, provider)).To(Succeed())
		provider.Status.Conditions = []metav1.Condition{{
			Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSecretNotFound,
			LastTransitionTime: metav1.Now(),
		}}
		Expect(api.Status().Update(ctx, provider)).To(Succeed())
	})

	It("prints where a run stands", func(ctx SpecContext) {
		rows := table(mustKubectl(ctx, namespace, "get", "chr", "waiting"))
		Expect(rows).To(HaveLen(2))
		Expect(rows[0]).To(Equal(strings.Fields("NAME PROVIDER MODEL PHASE ATTEMPT RETRYING-AT LAST-ERROR AGE")))
		at := retryingAt.Format(metav1.RFC3339Micro)
		Expect(rows[1][:7]).To(Equal([]string{"waiting", "main", "small", "Retrying", "2", at, "Overloaded"}))
	})

	It("prints the wait, the tokens and the title when asked for more", func(ctx SpecContext) {
		rows := table(mustKubectl(ctx, namespace, "get", "chatruns", "waiting", "--output", "wide"))
		Expect(rows[0]).To(Equal(strings.Fields("NAME PROVIDER MODEL PHASE ATTEMPT RETRYING-AT LAST-ERROR REASON DELAY-MS TOKENS TITLE AGE")))
		Expect(rows[1][6:11]).To(Equal([]string{"Overloaded", "Retrying", "2000", "42", "Why the sky is blue"}))
	})

	It("prints whether a provider can be used", func(ctx SpecContext) {
		rows := table(mustKubectl(ctx, namespace, "get", "chp"))
		Expect(rows[0]).To(Equal(strings.Fields("NAME TYPE MODEL READY REASON AGE")))
		Expect(rows[1][:5]).To(Equal([]string{"main", "OpenAI", "small", "False", "SecretNotFound"}))
		rows = table(mustKubectl(ctx, namespace, "get", "chp", "--output", "wide"))
		Expect(rows[1][5:7]).To(Equal([]string{"http://ollama:11434/v1", "keys"}))
	})

	DescribeTable("selects by field", func(ctx SpecContext, selector string, names ...string) {
		printed := mustKubectl(ctx, namespace, "get", "chr", "--field-selector", selector, "--output", "name")
		var got []string
		for line := range strings.Lines(printed) {
			got = append(got, strings.TrimPrefix(strings.TrimSpace(line), "chatrun.chatrun.dev/"))
		}
		Expect(got).To(ConsistOf(names))
	},
		Entry(nil, "status.phase=Succeeded", "other"),
		Entry(nil, "status.phase=Retrying", "waiting"),
		Entry(nil, "status.phase=Pending"),
		Entry(nil, "status.phase!=Succeeded", "waiting"),
		Entry(nil, "spec.providerRef.name=main", "waiting"),
		Entry(nil, "spec.providerRef.name=spare,status.phase=Succeeded", "other"),
	)

	It("finds both kinds by their category", func(ctx SpecContext) {
		printed := mustKubectl(ctx, namespace, "get", "chat", "--output", "name")
		Expect(strings.Fields(printed)).To(ConsistOf(
			"chatrun.chatrun.dev/waiting", "chatrun.chatrun.dev/other", "chatprovider.chatrun.dev/main"))
	})

	It("lets people wait for the end", func(ctx SpecContext) {
		Expect(mustKubectl(ctx, namespace, "wait", "--for=condition=Finished", "chr/other", "--timeout=10s")).To(ContainSubstring("condition met"))
	})

	It("describes a run", func(ctx SpecContext) {
		Expect(mustKubectl(ctx, namespace, "describe", "chr", "waiting")).To(And(
			MatchRegexp(`chatrun.dev/title: Why the sky is blue`),
			MatchRegexp(`Last Error:\s+the provider is overloaded \(529\)`),
			MatchRegexp(`Phase:\s+Retrying`)))
	})
})

var _ = Describe("kubectl explain", Ordered, ContinueOnFailure, func() {
	BeforeAll(func(ctx SpecContext) {
		for _, kind := range []string{"chatrun", "chatprovider"} {
			Eventually(ctx, func() error { return kubectl(ctx, "default", "", "explain", kind).err }).
				WithTimeout(openAPITimeout).Should(Succeed())
		}
	})

	DescribeTable("reads well", func(ctx SpecContext, field string, texts ...string) {
		printed := mustKubectl(ctx, "default", "explain", field)
		for _, text := range texts {
			// Where the lines break is kubectl's affair.
			Expect(strings.Join(strings.Fields(printed), " ")).To(ContainSubstring(text))
		}
		_, description, _ := strings.Cut(printed, "DESCRIPTION:")
		Expect(ragged.FindString(description)).To(BeEmpty())
	},
		Entry(nil, "chatrun", "ChatRun is one chat with a model"),
		Entry(nil, "chatrun.spec", "immutable: for another question create another run",
			"Exactly one of prompt, messages and messagesFrom is set", "Default 600", "no other value is accepted afterwards", "may only be raised or removed"),
		Entry(nil, "chatrun.spec.retryPolicy", "Default 25", "Default 1000", "Default 60000", "0 has no limit"),
		Entry(nil, "chatrun.spec.title.policy", "Generate (the default)", "never touches the run"),
		Entry(nil, "chatrun.status", "kubectl wait --for=condition=Finished"),
		Entry(nil, "chatrun.spec.messagesFrom.configMapKeyRef", "a JSON list of messages", "A Secret cannot be named"),
		Entry(nil, "chatrun.spec.continueFrom", "ParentFailed or ParentNotFound"),
		Entry(nil, "chatrun.spec.output.storage", "ConfigMap (the default)", "None: it is streamed, and not kept"),
		Entry(nil, "chatrun.status.output", "up to 16 KiB", "absent if spec.output.storage is Secret or None", "holds an answer above 16 KiB"),
		Entry(nil, "chatprovider", "that right is worth as much as reading the Secrets"),
		Entry(nil, "chatprovider.spec", "No secret belongs here", "with no user name, query or fragment"),
		Entry(nil, "chatprovider.spec.limits", "Runs above it wait as Pending with the reason Queued"),
	)

	It("has a description for every field of ours", func(ctx SpecContext) {
		for _, kind := range []string{"chatrun", "chatprovider"} {
			for _, part := range []string{"spec", "status"} {
				printed := mustKubectl(ctx, "default", "explain", kind+"."+part)
				Expect(printed).NotTo(ContainSubstring("<no description>"))
			}
		}
	})
})
