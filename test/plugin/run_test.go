// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"net/http"
	"os"
	"strings"
	"testing"

	. "github.com/onsi/gomega"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

const sky = "The sky is blue since air scatters short waves most.\nThat is all."

func overloaded() chattest.Response {
	return chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "", "overloaded")
}

// TestRun is the first thing that anybody does, with two failures on the way: the first
// attempt is refused, the second breaks in the midst of its text.
func TestRun(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	question := p.asks("sky", overloaded(), chattest.Answer("The sea ", "is ", "green").EndAfter(2).Unterminated(),
		chattest.Answer(chattest.Words(sky)...).Usage(9, 14))
	answer := p.chatrun("run", question, "--name=sky", "--model=gpt-5", "--system=Be short.", "--temperature=0.5", "--max-output-tokens=100",
		"--max-attempts=4", "--deadline=5m", "--ttl=1h")
	answer.expect(t, 0, sky,
		"chatrun/sky created in "+p.namespace, "Retrying in 1 s (attempt 1, Overloaded)", "Retrying in 2 s (attempt 2, StreamInterrupted)",
		"Attempt 3 (gpt-5, streaming)", "Title: Light And Air", "Tokens: 9 in, 14 out")
	g, spec := NewWithT(t), p.run("sky").Spec
	g.Expect(answer.err).NotTo(ContainSubstring("\x1b"))
	g.Expect(spec.Prompt).To(Equal(question))
	g.Expect(spec.System).To(Equal("Be short."))
	g.Expect(spec.Model).To(Equal("gpt-5"))
	g.Expect(spec.ProviderRef.Name).To(Equal("openai"))
	g.Expect(spec.Parameters.Temperature).To(Equal("0.5"))
	g.Expect(*spec.Parameters.MaxOutputTokens).To(BeEquivalentTo(100))
	g.Expect(*spec.RetryPolicy.MaxAttempts).To(BeEquivalentTo(4))
	g.Expect(*spec.ActiveDeadlineSeconds).To(BeEquivalentTo(300))
	g.Expect(*spec.TTLSecondsAfterFinished).To(BeEquivalentTo(3600))
}

// TestExitCodes has an exit code for each end.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	hold := chattest.Answer("never").FirstDelay(patience)
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
	}{
		{"refused", []string{"run", p.asks("refused", chattest.OpenAIErrorResponse(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "no"))},
			2, "Failed (AuthenticationFailed): "},
		{"exhausted", []string{"run", p.asks("exhausted", overloaded()), "--max-attempts=1"}, 2, "Failed (RetriesExhausted): "},
		{"deadline", []string{"run", p.asks("deadline", hold), "--deadline=1s"}, 4, "Failed (DeadlineExceeded): "},
		{"no provider", []string{"run", "q", "--provider=nobody"}, 1, `there is no ChatProvider "nobody": in the namespace ` + p.namespace + " there is openai"},
		{"no question", []string{"run"}, 1, "there is nothing to ask"},
		{"two arguments", []string{"run", "Why", "me"}, 1, `put it in quotes, as in "Why me"`},
		{"no such flag", []string{"run", "--nothing"}, 1, "See 'kubectl chatrun run --help'"},
		{"no such run", []string{"logs", "nothing"}, 1, "kubectl chatrun list -A"},
		{"invalid", []string{"run", "q", "--temperature=hot"}, 1, "spec.parameters.temperature"},
		{"part of a second", []string{"run", "q", "--deadline=1500ms"}, 1, "whole seconds"},
		{"no such door", []string{"logs", "x", "--via=window"}, 1, "auto, api, port-forward or object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p.chatrun(c.args...).expect(t, c.code, "", c.says)
		})
	}
}

// TestCancelled cancels a run that somebody follows.
func TestCancelled(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	cmd := p.command("run", p.asks("slow", chattest.Answer("a ", "b").StallAfter(1)), "--name=slow")
	ended := make(chan said)
	go func() { ended <- p.finish(cmd, nil) }()
	g := NewWithT(t)
	g.Eventually(func() error { return exists(p, "slow") }).WithTimeout(patience).Should(Succeed())
	p.becomes("slow", v1alpha1.PhaseStreaming)
	p.chatrun("cancel", "slow").expect(t, 0, "chatrun.chatrun.dev/slow cancelled\n")
	var s said
	g.Eventually(ended).WithTimeout(patience).Should(Receive(&s))
	g.Expect(s.code).To(Equal(3), s.err)
	g.Expect(s.err).To(ContainSubstring("Cancelled; the text is what came until then"))
	p.chatrun("cancel", "slow", "nothing").expect(t, 1, "chatrun.chatrun.dev/slow cancelled\n", `chatruns.chatrun.dev "nothing" not found`)
}

// TestQuestions come as an argument, by a pipe, or both.
func TestQuestions(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	hard := "\"$HOME\" `date`\t'*' \\n – 日本\x1b[31m"
	for _, question := range []string{"from a pipe", "argument\n\nfrom a pipe", "two\nlines", hard} {
		the.scripts.Store(question, chattest.Always(chattest.Answer("answer to "+question)))
	}
	file := t.TempDir() + "/question"
	NewWithT(t).Expect(os.WriteFile(file, []byte("two\nlines\n"), 0o600)).To(Succeed())
	lines, err := os.Open(file)
	NewWithT(t).Expect(err).NotTo(HaveOccurred())
	defer lines.Close()
	pipe := func() *strings.Reader { return strings.NewReader("from a pipe\n") }
	p.piped(pipe(), "run", "--title=none").expect(t, 0, "answer to from a pipe")
	p.piped(pipe(), "run", "-", "--title=none").expect(t, 0, "answer to from a pipe")
	p.piped(pipe(), "run", "argument", "--title=none").expect(t, 0, "answer to argument\n\nfrom a pipe")
	p.piped(lines, "run", "--title=none").expect(t, 0, "answer to two\nlines")
	// A model's own bytes stay as they are where no terminal is.
	p.piped(pipe(), "run", hard, "--stdin=false", "--title=none").expect(t, 0, "answer to "+hard)
	p.piped(strings.NewReader("\xff"), "run").expect(t, 1, "", "no text in UTF-8")
}

// TestProviders are chosen where there is no choice.
func TestProviders(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.create(p.provider("second"))
	p.chatrun("run", "q").expect(t, 1, "", "more than one ChatProvider", "openai, second", "--provider")
	question := p.asks("q", chattest.Answer("yes"))
	p.chatrun("run", question, "--provider=second", "--name=q").expect(t, 0, "yes")
	NewWithT(t).Expect(p.run("q").Spec.ProviderRef.Name).To(Equal("second"))
	s := p.chatrun("providers")
	NewWithT(t).Expect(s.out).To(MatchRegexp(`(?m)^NAME +TYPE +DEFAULT-MODEL +READY +REASON +AGE\n` +
		`openai +OpenAI +gpt-5-mini +True +Accepted +\d+s\nsecond +OpenAI +gpt-5-mini +True +Accepted +\d+s\n$`))
}
