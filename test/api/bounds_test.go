// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package api_test

import (
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
)

// The bounds of the long texts, which no manifest in testdata should have to
// fill. They are counted in characters, so each is tried with characters of
// one byte and of four.
var _ = DescribeTable("a long text", func(ctx SpecContext, longest int, set func(text string) client.Object, refusal string) {
	for _, character := range []string{"a", "🌈"} {
		Expect(api.Create(ctx, set(strings.Repeat(character, longest)), client.DryRunAll)).To(Succeed())
		err := api.Create(ctx, set(strings.Repeat(character, longest+1)), client.DryRunAll)
		Expect(err).To(MatchError(ContainSubstring(refusal)))
	}
},
	Entry("in spec.prompt", 262144, func(text string) client.Object {
		run := newRun("default", "long")
		run.Spec.Prompt = text
		return run
	}, "spec.prompt: Too long: may not be more than 262144"),
	Entry("in spec.system", 131072, func(text string) client.Object {
		run := newRun("default", "long")
		run.Spec.System = text
		return run
	}, "spec.system: Too long: may not be more than 131072"),
	Entry("in one message", 131072, func(text string) client.Object {
		return conversation(text)
	}, "spec.messages[0].content: Too long: may not be more than 131072"),
	Entry("in all messages together", 131072, func(text string) client.Object {
		full := strings.Repeat("a", 131072)
		// What is over the bound of the fourth goes to a fifth, so that the sum
		// is broken and not the message's own bound.
		characters := []rune(text)
		fourth, rest := characters[:131071], characters[131071:]
		turns := []string{full, full, full, string(fourth)}
		for _, character := range rest {
			turns = append(turns, string(character))
		}
		return conversation(turns...)
	}, "spec.messages: Invalid value: the messages together must be at most 524288 characters"),
)

var _ = DescribeTable("a long CA bundle", func(ctx SpecContext, size int, accepted bool) {
	const begin, end = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----"
	provider := &v1alpha1.ChatProvider{Spec: v1alpha1.ChatProviderSpec{
		Type:     v1alpha1.ProviderOpenAI,
		CABundle: begin + strings.Repeat("A", size-len(begin)-len(end)) + end,
	}}
	provider.Namespace, provider.Name = "default", "long"
	err := api.Create(ctx, provider, client.DryRunAll)
	if accepted {
		Expect(err).NotTo(HaveOccurred())
		return
	}
	Expect(err).To(MatchError(ContainSubstring("spec.caBundle: Too long: may not be more than 131072")))
},
	Entry("at its bound", 131072, true),
	Entry("above it", 131073, false),
)

// conversation is a run that asks with messages, all the user's.
func conversation(contents ...string) *v1alpha1.ChatRun {
	run := newRun("default", "long")
	run.Spec.Prompt = ""
	for _, content := range contents {
		run.Spec.Messages = append(run.Spec.Messages, v1alpha1.Message{Role: v1alpha1.RoleUser, Content: content})
	}
	return run
}
