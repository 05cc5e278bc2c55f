// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
	"chatrun.dev/operator/internal/streamer"
)

// told is what a status says at a glance.
type told struct {
	phase                  v1alpha1.Phase
	succeeded              metav1.ConditionStatus
	reason                 string
	finished               bool
	attempt                int32
	delayMs, suspendedMs   int64
	retryingAt             time.Duration // since t0, 0 if unset
	lastError, worker      string
	text                   string
	finishReason           v1alpha1.FinishReason
	started, completed     time.Duration // since t0, -1 if unset
	inputTokens, outTokens int64
	isSuspended            bool
}

func tell(run *v1alpha1.ChatRun, s v1alpha1.ChatRunStatus) told {
	since := func(t *metav1.MicroTime) time.Duration {
		if t == nil {
			return -1
		}
		return t.Sub(t0)
	}
	run = run.DeepCopy()
	run.Status = s
	out := told{
		phase: s.Phase, reason: reasonOf(run), finished: isFinished(run), attempt: attemptOf(run),
		delayMs: valueOr(s.DelayMs, 0), suspendedMs: valueOr(s.SuspendedMs, 0), retryingAt: max(since(s.RetryingAt), 0),
		lastError: s.LastErrorReason, worker: s.Worker, finishReason: s.FinishReason,
		started: since(s.StartTime), completed: since(s.CompletionTime), isSuspended: s.SuspendedAt != nil,
	}
	if c := condition(run, v1alpha1.ConditionSucceeded); c != nil {
		out.succeeded = c.Status
	}
	if s.Output != nil {
		out.text = s.Output.Text
	}
	if s.Usage != nil {
		out.inputTokens, out.outTokens = *s.Usage.InputTokens, *s.Usage.OutputTokens
	}
	return out
}

func TestNextStatus(t *testing.T) {
	me := actor{worker: "me", model: "m"}
	for _, tc := range []struct {
		name string
		run  *v1alpha1.ChatRun
		d    decision
		at   time.Duration
		want told
	}{
		{"start", newRun(), decision{verb: start, attempt: 1}, 0, told{
			phase: "Streaming", succeeded: "Unknown", reason: "Streaming", attempt: 1, worker: "me", completed: -1}},
		{"start again clears the wait, keeps the start and the error", newRun(waiting(1, time.Second)), decision{verb: start, attempt: 2}, time.Second, told{
			phase: "Streaming", succeeded: "Unknown", reason: "Streaming", attempt: 2, worker: "me", lastError: "Overloaded", completed: -1}},
		{"retry", newRun(streaming(1)), decision{verb: retry, delay: 1500 * time.Millisecond, failure: overloaded, outcome: failed(1, overloaded)}, time.Second, told{
			phase: "Retrying", succeeded: "Unknown", reason: "Retrying", attempt: 1, worker: "me", lastError: "Overloaded",
			delayMs: 1500, retryingAt: 2500 * time.Millisecond, completed: -1, inputTokens: 3, outTokens: 1}},
		{"retry rounds up", newRun(streaming(1)), decision{verb: retry, delay: time.Millisecond + 1, failure: overloaded}, 0, told{
			phase: "Retrying", succeeded: "Unknown", reason: "Retrying", attempt: 1, worker: "me", lastError: "Overloaded",
			delayMs: 2, retryingAt: time.Millisecond + time.Microsecond, completed: -1}},
		{"succeed", newRun(streaming(2)), decision{verb: succeed, outcome: good(2)}, time.Minute, told{
			phase: "Succeeded", succeeded: "True", reason: "Completed", finished: true, attempt: 2, worker: "me", text: "Hello",
			finishReason: "Stop", completed: time.Minute, inputTokens: 3, outTokens: 2}},
		{"usage of all attempts adds up", newRun(streaming(1), func(r *v1alpha1.ChatRun) {
			r.Status.Usage = &v1alpha1.Usage{InputTokens: new(int64(10)), OutputTokens: new(int64(20))}
		}), decision{verb: succeed, outcome: good(1)}, 0, told{
			phase: "Succeeded", succeeded: "True", reason: "Completed", finished: true, attempt: 1, worker: "me", text: "Hello",
			finishReason: "Stop", inputTokens: 13, outTokens: 22}},
		{"cancel keeps the text", newRun(streaming(1)), decision{verb: cancel, outcome: stopped(1, streamer.ErrStopped)}, time.Minute, told{
			phase: "Cancelled", succeeded: "False", reason: "Cancelled", finished: true, attempt: 1, worker: "me", text: "Hel",
			finishReason: "Cancelled", completed: time.Minute}},
		{"cancel of a wait", newRun(waiting(1, time.Hour)), decision{verb: cancel}, time.Minute, told{
			phase: "Cancelled", succeeded: "False", reason: "Cancelled", finished: true, attempt: 1, worker: "me", lastError: "Overloaded", completed: time.Minute}},
		{"cancel before the start", newRun(), decision{verb: cancel}, 0, told{
			phase: "Cancelled", succeeded: "False", reason: "Cancelled", finished: true, started: -1}},
		{"fail drops the text", newRun(streaming(1)), decision{verb: fail, reason: "AuthenticationFailed", failure: wrongKey, outcome: failed(1, wrongKey)}, time.Minute, told{
			phase: "Failed", succeeded: "False", reason: "AuthenticationFailed", finished: true, attempt: 1, worker: "me",
			lastError: "AuthenticationFailed", completed: time.Minute, inputTokens: 3, outTokens: 1}},
		{"deadline keeps the text", newRun(streaming(1)), decision{verb: fail, reason: "DeadlineExceeded", outcome: stopped(1, streamer.ErrDeadline)}, time.Minute, told{
			phase: "Failed", succeeded: "False", reason: "DeadlineExceeded", finished: true, attempt: 1, worker: "me", text: "Hel",
			finishReason: "DeadlineExceeded", completed: time.Minute}},
		{"suspend drops the text", newRun(streaming(1)), decision{verb: suspend, outcome: stopped(1, streamer.ErrSuspended)}, time.Minute, told{
			phase: "Suspended", succeeded: "Unknown", reason: "Suspended", attempt: 1, worker: "me", completed: -1, isSuspended: true}},
		{"suspend twice changes nothing", newRun(streaming(1), suspendedAt(t0)), decision{verb: suspend}, time.Minute, told{
			phase: "Suspended", succeeded: "Unknown", reason: "Suspended", attempt: 1, worker: "me", completed: -1, isSuspended: true}},
		{"resume by a start adds up", newRun(streaming(1), suspendedAt(t0.Add(time.Second)), func(r *v1alpha1.ChatRun) { r.Status.SuspendedMs = new(int64(500)) }),
			decision{verb: start, attempt: 2}, 3 * time.Second, told{
				phase: "Streaming", succeeded: "Unknown", reason: "Streaming", attempt: 2, worker: "me", completed: -1, suspendedMs: 2500}},
		{"resume before the first attempt counts nothing", newRun(suspendedAt(t0)), decision{verb: start, attempt: 1}, time.Minute, told{
			phase: "Streaming", succeeded: "Unknown", reason: "Streaming", attempt: 1, worker: "me", started: time.Minute, completed: -1}},
		{"resume into the rest of a wait", newRun(waiting(1, time.Hour), suspendedAt(t0)), decision{verb: hold, reason: "Retrying", message: "x"}, time.Second, told{
			phase: "Retrying", succeeded: "Unknown", reason: "Retrying", attempt: 1, worker: "me", lastError: "Overloaded",
			delayMs: 3600000, retryingAt: time.Hour, completed: -1, suspendedMs: 1000}},
		{"hold", newRun(), decision{verb: hold, reason: "ProviderNotReady", message: "make it"}, 0, told{
			phase: "Pending", succeeded: "Unknown", reason: "ProviderNotReady", started: -1, completed: -1}},
		{"hand over", newRun(streaming(1)), decision{verb: handOver, outcome: stopped(1, streamer.ErrShutdown)}, 0, told{
			phase: "Pending", succeeded: "Unknown", reason: "Pending", attempt: 1, completed: -1}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := tc.run.DeepCopy()
			next := nextStatus(tc.run, tc.d, me, t0.Add(tc.at))
			if got := tell(tc.run, next); got != tc.want {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
			if !sameStatus(before.Status, tc.run.Status) {
				t.Error("the run that was read has changed")
			}
			if again := nextStatus(tc.run, tc.d, me, t0.Add(tc.at)); !sameStatus(next, again) {
				t.Error("the same decision gave another status")
			}
		})
	}
}

func TestNextStatusWritesNothing(t *testing.T) {
	for _, v := range []verb{ignore, drop, forget, expire, stop, settle} {
		run := newRun(waiting(1, time.Hour))
		if next := nextStatus(run, decision{verb: v}, actor{worker: "other"}, t0.Add(time.Minute)); !sameStatus(next, run.Status) {
			t.Errorf("%s would write %+v", v, next)
		}
	}
}

// TestHoldIsStable holds a run twice: telling what is told already is no write.
func TestHoldIsStable(t *testing.T) {
	run := newRun()
	d := decision{verb: hold, reason: "ProviderNotReady", message: "make it"}
	run.Status = nextStatus(run, d, actor{}, t0)
	if again := nextStatus(run, d, actor{}, t0.Add(time.Hour)); !sameStatus(again, run.Status) {
		t.Errorf("held again it would write %+v", again)
	}
}

func TestConditionsTellTheGeneration(t *testing.T) {
	run := newRun(streaming(1))
	run.Generation = 7
	s := nextStatus(run, decision{verb: succeed, outcome: good(1)}, actor{}, t0)
	for _, c := range s.Conditions {
		if c.ObservedGeneration != 7 {
			t.Errorf("%s tells of generation %d", c.Type, c.ObservedGeneration)
		}
	}
	if *s.ObservedGeneration != 7 || len(s.Conditions) != 2 {
		t.Errorf("status of generation %d with conditions %v", *s.ObservedGeneration, s.Conditions)
	}
}

func TestInlineOutput(t *testing.T) {
	limit := v1alpha1.MaxInlineOutputBytes
	for _, tc := range []struct {
		name      string
		text      string
		bytes     int64
		want      int
		truncated bool
	}{
		{"short", "Hello", 5, 5, false},
		{"just fits", strings.Repeat("x", limit), int64(limit), limit, false},
		{"one too many", strings.Repeat("x", limit+1), int64(limit + 1), limit, true},
		{"cut before a character", strings.Repeat("x", limit-1) + "é", int64(limit + 1), limit - 1, true},
		{"more than was kept", "Hello", 50, 5, true},
	} {
		out := outputOf(newRun(), decision{outcome: &streamer.Outcome{Text: tc.text, Bytes: tc.bytes}})
		if len(out.Text) != tc.want || valueOr(out.Truncated, false) != tc.truncated || *out.Bytes != tc.bytes || !utf8.ValidString(out.Text) {
			t.Errorf("%s: %d bytes of %d, truncated %v", tc.name, len(out.Text), *out.Bytes, valueOr(out.Truncated, false))
		}
	}
}

func TestFinishReasons(t *testing.T) {
	for from, want := range map[provider.FinishReason]v1alpha1.FinishReason{
		provider.FinishStop: "Stop", provider.FinishLength: "Length", provider.FinishOther: "Other", "new": "Other",
	} {
		if got := finishOf(decision{verb: succeed, outcome: &streamer.Outcome{FinishReason: from}}); got != want {
			t.Errorf("%s gives %s, want %s", from, got, want)
		}
	}
}

func TestLastErrorIsBounded(t *testing.T) {
	if got := lastError(&chatretry.Failure{Class: chatretry.Timeout}); got != "Timeout" {
		t.Errorf("without a message: %q", got)
	}
	long := lastError(&chatretry.Failure{Message: strings.Repeat("é", 2000)})
	if len(long) > maxMessageBytes || !utf8.ValidString(long) || !strings.HasSuffix(long, "…") {
		t.Errorf("%d bytes, ends with %q", len(long), long[len(long)-4:])
	}
}

// TestEveryFinalClassIsAReason holds the classes of chatretry, which become
// reasons, against the reasons that the API documents.
func TestEveryFinalClassIsAReason(t *testing.T) {
	documented := []string{
		v1alpha1.ReasonAuthenticationFailed, v1alpha1.ReasonPermissionDenied, v1alpha1.ReasonQuotaExhausted,
		v1alpha1.ReasonContextLengthExceeded, v1alpha1.ReasonModelNotFound, v1alpha1.ReasonInvalidRequest,
		v1alpha1.ReasonContentFiltered, v1alpha1.ReasonEmptyAnswer, v1alpha1.ReasonCancelled, v1alpha1.ReasonDeadlineExceeded,
	}
	for _, class := range []chatretry.Class{
		chatretry.AuthenticationFailed, chatretry.PermissionDenied, chatretry.QuotaExhausted, chatretry.ContextLengthExceeded,
		chatretry.ModelNotFound, chatretry.InvalidRequest, chatretry.ContentFiltered, chatretry.EmptyAnswer,
		chatretry.Cancelled, chatretry.DeadlineExceeded,
	} {
		if class.Retryable() || !slices.Contains(documented, string(class)) {
			t.Errorf("%s is no documented reason", class)
		}
	}
}

func TestProviderStatus(t *testing.T) {
	p := &v1alpha1.ChatProvider{}
	p.Generation = 3
	p.Spec.Limits = &v1alpha1.ProviderLimits{MaxConcurrentStreams: new(int32(2))}
	p.Status = providerStatus(p, &providerProblem{v1alpha1.ReasonSecretNotFound, "make it"}, t0)
	ready := providerReady(p)
	if isTrue(ready) || ready.Reason != "SecretNotFound" || ready.ObservedGeneration != 3 {
		t.Errorf("Ready is %+v", ready)
	}
	for at, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, 4 * time.Second: 5 * time.Second, 7 * time.Second: 7 * time.Second,
		40 * time.Second: 40 * time.Second, time.Hour: time.Minute, -time.Hour: 5 * time.Second,
	} {
		if got := lookAgain(p, t0.Add(at)); got != want {
			t.Errorf("missing for %v: look again after %v, want %v", at, got, want)
		}
	}
	p.Spec.Limits = nil
	p.Status = providerStatus(p, nil, t0.Add(time.Minute))
	if !isTrue(providerReady(p)) || len(p.Status.Conditions) != 1 || lookAgain(p, t0) != 0 {
		t.Errorf("healed: %+v", p.Status.Conditions)
	}
}

func TestTitlePrompt(t *testing.T) {
	said := func(roles ...v1alpha1.MessageRole) runOption {
		return func(run *v1alpha1.ChatRun) {
			run.Spec.Prompt = ""
			for _, role := range roles {
				run.Spec.Messages = append(run.Spec.Messages, v1alpha1.Message{Role: role, Content: "by " + string(role)})
			}
		}
	}
	for _, tc := range []struct {
		name string
		run  *v1alpha1.ChatRun
		want string
		ok   bool
	}{
		{"prompt", newRun(), "Hi", true},
		{"policy None", newRun(func(r *v1alpha1.ChatRun) { r.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleNone} }), "", false},
		{"policy Generate", newRun(func(r *v1alpha1.ChatRun) { r.Spec.Title = &v1alpha1.Title{Policy: v1alpha1.TitleGenerate} }), "Hi", true},
		{"a title stands", newRun(func(r *v1alpha1.ChatRun) { r.Annotations = map[string]string{v1alpha1.AnnotationTitle: "x"} }), "", false},
		{"an empty one stands as well", newRun(func(r *v1alpha1.ChatRun) { r.Annotations = map[string]string{v1alpha1.AnnotationTitle: ""} }), "", false},
		{"one message", newRun(said("system", "user")), "by user", true},
		{"two of the user", newRun(said("user", "user")), "", false},
		{"with an assistant", newRun(said("user", "assistant", "user")), "", false},
	} {
		asked, err := ask(&tc.run.Spec, material{})
		if err != nil {
			t.Fatal(err)
		}
		prompt, ok := titlePrompt(tc.run, asked.Messages)
		if ok != tc.ok || ok && prompt != tc.want {
			t.Errorf("%s: %q, %v", tc.name, prompt, ok)
		}
	}
}

func TestRequestTranslation(t *testing.T) {
	run := newRun(func(r *v1alpha1.ChatRun) {
		r.Spec.System = "be brief"
		r.Spec.Parameters = &v1alpha1.Parameters{Temperature: "0.7", TopP: "0.9", MaxOutputTokens: new(int32(9)), Stop: []string{"END"}}
	})
	asked, err := ask(&run.Spec, material{})
	if err != nil {
		t.Fatal(err)
	}
	got := request(run, asked, "m")
	if got.Model != "m" || got.Temperature != "0.7" || got.TopP != "0.9" || got.MaxOutputTokens != 9 || !slices.Equal(got.Stop, []string{"END"}) ||
		!slices.Equal(got.Messages, []provider.Message{{Role: provider.RoleSystem, Content: "be brief"}, {Role: provider.RoleUser, Content: "Hi"}}) {
		t.Errorf("%+v", got)
	}
}

func TestConflicts(t *testing.T) {
	var c doubts
	name := types.NamespacedName{Namespace: "ns", Name: "a"}
	for i, ms := range []int{10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		want := time.Duration(ms) * time.Millisecond
		if _, live := c.of(name); live != (i >= liveAfterConflicts) {
			t.Errorf("after %d conflicts live is %v", i, live)
		}
		if got := c.conflict(name); got != want {
			t.Errorf("conflict %d waits %v, want %v", i+1, got, want)
		}
	}
	c.clear(name)
	if _, live := c.of(name); live || c.conflict(name) != firstConflictDelay {
		t.Error("a row of conflicts outlives its end")
	}
	c.owe(name, owed{uid: "uid-1", attempt: 3})
	if debt, live := c.of(name); !live || debt != (owed{uid: "uid-1", attempt: 3}) {
		t.Errorf("owes %+v, reads live: %v", debt, live)
	}
	if debt, live := c.of(types.NamespacedName{Namespace: "ns", Name: "b"}); live || debt != (owed{}) {
		t.Error("a doubt about one run is one about another")
	}
}
