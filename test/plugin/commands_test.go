// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package plugin

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// done has a run that has answered.
func (p *person) done(name, answer string) {
	p.t.Helper()
	p.chatrun("run", p.asks(name, chattest.Answer(chattest.Words(answer)...).Usage(3, 4)), "--name="+name, "--title=none").expect(p.t, 0, answer)
}

// TestLogs: what stands of a run, under way, finished and failed.
func TestLogs(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.done("over", "All of it.")
	p.chatrun("logs", "over").expect(t, 0, "All of it.", "Tokens: 3 in, 4 out")
	p.chatrun("logs", "-f", "over").expect(t, 0, "All of it.")
	p.chatrun("run", p.asks("slow", chattest.Answer("half ", "never").StallAfter(1)), "--name=slow", "--wait=false", "--title=none")
	g := NewWithT(t)
	g.Eventually(func() string { return p.chatrun("logs", "slow").out }).WithTimeout(patience).Should(Equal("half "))
	p.chatrun("logs", "slow").expect(t, 0, "half ", "Attempt 1 (gpt-5-mini, streaming)")
	p.chatrun("run", p.asks("bad", overloaded()), "--name=bad", "--max-attempts=1").expect(t, 2, "")
	p.chatrun("logs", "bad").expect(t, 0, "", "Failed (RetriesExhausted): ")
	p.chatrun("logs", "-f", "bad").expect(t, 2, "", "Failed (RetriesExhausted): ")
}

// TestList: columns, formats, labels, phases.
func TestList(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.chatrun("list").expect(t, 0, "", "There are none here")
	p.done("one", "yes")
	p.chatrun("run", p.asks("bad", overloaded()), "--name=bad", "--max-attempts=1").expect(t, 2, "")
	g := NewWithT(t)
	lines := strings.Split(p.chatrun("list").out, "\n")
	g.Expect(lines[0]).To(MatchRegexp(`^NAME +PROVIDER +MODEL +PHASE +ATTEMPT +RETRY +LAST-ERROR +TOKENS +RATE +AGE$`))
	g.Expect(lines[1]).To(MatchRegexp(`^bad +openai +gpt-5-mini +Failed +1 +Overloaded `))
	g.Expect(lines[2]).To(MatchRegexp(`^one +openai +gpt-5-mini +Succeeded +1 +4 `))
	g.Expect(p.chatrun("list", "-o", "wide").out).To(MatchRegexp(`(?m)REASON +TITLE$`))
	p.chatrun("list", "--phase=succeeded", "-o", "name").expect(t, 0, "chatrun.chatrun.dev/one\n")
	p.chatrun("list", "-l", "none=such", "-o", "name").expect(t, 0, "")
	p.chatrun("list", "--phase=done").expect(t, 1, "", "it is one of Pending, Streaming")
	var list v1alpha1.ChatRunList
	g.Expect(json.Unmarshal([]byte(p.chatrun("list", "-o", "json").out), &list)).To(Succeed())
	g.Expect(list.Items).To(HaveLen(2))
	g.Expect(list.Items[0].Kind).To(Equal("ChatRun"))
	p.chatrun("list", "-A").expect(t, 1, "", "chatrun-viewer")
	g.Expect(p.with("admin").chatrun("list").err).To(ContainSubstring("chatrun-viewer"))
}

// TestAgain: a new run of the same question, and one that goes on.
func TestAgain(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	question := p.asks("hello", chattest.OpenAIErrorResponse(401, "invalid_request_error", "invalid_api_key", "no"), chattest.Answer("Hello!"))
	p.chatrun("run", question, "--name=hello", "--title=none", "--temperature=0.5").expect(t, 2, "")
	p.chatrun("retry", "hello", "--name=again").expect(t, 0, "Hello!")
	g := NewWithT(t)
	again, former := p.run("again"), p.run("hello")
	g.Expect(again.Spec).To(Equal(former.Spec))
	the.scripts.Store("And now?", chattest.Always(chattest.Answer("More.")))
	p.chatrun("continue", "again", "And now?", "--name=more", "--title=none").expect(t, 0, "More.")
	more := p.run("more")
	g.Expect(more.Spec.ContinueFrom.Name).To(Equal("again"))
	g.Expect(more.Spec.ProviderRef.Name).To(Equal("openai"))
	last := p.chatrun("retry", "again", "-o", "name")
	g.Expect(last.out).To(MatchRegexp(`^chatrun\.chatrun\.dev/again-[a-z0-9]+\n$`), last.err)
	p.chatrun("retry", "nothing").expect(t, 1, "", "list -A")
}

// TestObjects: a run as an object, in place of its answer.
func TestObjects(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	question := p.asks("q", chattest.Answer("yes"))
	g := NewWithT(t)
	var run v1alpha1.ChatRun
	g.Expect(yaml.UnmarshalStrict([]byte(p.chatrun("run", question, "--title=none", "-o", "yaml").out), &run)).To(Succeed())
	g.Expect(run.Status.Output.Text).To(Equal("yes"))
	g.Expect(run.Name).To(HavePrefix("chat-"))
	s := p.chatrun("run", question, "--title=none", "--name=name", "-o", "name", "--wait=false")
	s.expect(t, 0, "chatrun.chatrun.dev/name\n")
	p.becomes("name", v1alpha1.PhaseSucceeded)
	s = p.chatrun("cancel", "name", "-o", "json")
	g.Expect(json.Unmarshal([]byte(s.out), &run)).To(Succeed(), s.err)
	g.Expect(run.Spec.DesiredState).To(Equal(v1alpha1.DesiredCancelled))
}

// TestSuspend holds a run, and lets it go on.
func TestSuspend(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.chatrun("run", p.asks("slow", chattest.Answer("half ", "never").StallAfter(1), chattest.Answer("whole")), "--name=slow", "--wait=false", "--title=none")
	p.becomes("slow", v1alpha1.PhaseStreaming)
	p.chatrun("suspend", "slow").expect(t, 0, "chatrun.chatrun.dev/slow suspended\n")
	p.becomes("slow", v1alpha1.PhaseSuspended)
	p.chatrun("logs", "slow").expect(t, 0, "", "kubectl chatrun resume -n "+p.namespace+" slow")
	p.chatrun("resume", "slow").expect(t, 0, "chatrun.chatrun.dev/slow resumed\n")
	p.chatrun("logs", "-f", "slow").expect(t, 0, "whole")
}

// TestWatchLines: in a pipe each change is a line.
func TestWatchLines(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	cmd := p.command("watch")
	var out bytes.Buffer
	lines := &locked{buffer: &out}
	cmd.Stdout = lines
	g := NewWithT(t)
	g.Expect(cmd.Start()).To(Succeed())
	p.chatrun("run", p.asks("one", overloaded(), chattest.Answer("yes").Usage(1, 2)), "--name=one", "--title=none").expect(t, 0, "yes")
	g.Eventually(lines.text).WithTimeout(patience).Should(MatchRegexp(`(?m)^\S+Z \S+/one Retrying in 1 s \(attempt 1, Overloaded\)\n(.*\n)*\S+Z \S+/one Succeeded, attempt 2`))
	g.Expect(cmd.Process.Signal(syscall.SIGTERM)).To(Succeed())
	g.Expect(cmd.Wait()).To(Succeed())
	g.Expect(lines.text()).NotTo(ContainSubstring("\x1b"))
}

// TestCompletion: kubectl asks, and names of runs and providers are there.
func TestCompletion(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	p.done("one", "yes")
	g := NewWithT(t)
	g.Expect(p.chatrun("__complete", "logs", "").out).To(HavePrefix("one\n"))
	g.Expect(p.chatrun("__complete", "run", "--provider", "").out).To(HavePrefix("openai"))
	g.Expect(p.chatrun("__complete", "list", "--phase", "").out).To(ContainSubstring("\nRetrying\n"))
	completer := p.command("cancel", "")
	completer.Path, completer.Args[0] = filepath.Join(the.bin, "kubectl_complete-chatrun"), "kubectl_complete-chatrun"
	g.Expect(p.finish(completer, nil).out).To(HavePrefix("one\n"))
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		g.Expect(p.chatrun("completion", shell).out).To(ContainSubstring("chatrun"))
	}
}

// TestByKubectl: the plugin is one of kubectl's.
func TestByKubectl(t *testing.T) {
	t.Parallel()
	p := newPerson(t, editor, streamReader)
	kubectl := p.command("chatrun", "version")
	kubectl.Path, kubectl.Args[0] = filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), "kubectl"
	p.finish(kubectl, nil).expect(t, 0, "v0.0.0-test\n")
	g := NewWithT(t)
	for _, name := range []string{"run", "logs", "list", "watch", "retry", "continue", "cancel", "suspend", "resume", "providers", "version"} {
		help := p.chatrun(name, "--help")
		g.Expect(help.code).To(Equal(0))
		g.Expect(help.out).To(ContainSubstring("Examples:\n  kubectl chatrun "), name)
	}
}
