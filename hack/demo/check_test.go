// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

var now = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// frame is an event as the endpoint sends it.
func frame(t *testing.T, name stream.Name, data any) event {
	t.Helper()
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	return event{name: name, data: text, at: now}
}

// good is a run that failed once and then said "a b".
func good(t *testing.T) (seen, expectation) {
	t.Helper()
	part := func(text string) event {
		return frame(t, stream.EventMessagePart, stream.MessagePart{Role: stream.RoleAssistant, Text: text})
	}
	attempt, next := int32(2), now.Add(time.Second)
	s := seen{
		asked: 2,
		lines: []watchLine{
			{phase: v1alpha1.PhasePending, at: now},
			{phase: v1alpha1.PhaseStreaming, attempt: 1, at: now},
			{phase: v1alpha1.PhaseRetrying, attempt: 1, at: now, retryingAt: next},
			{phase: v1alpha1.PhaseStreaming, attempt: 2, at: now},
			{phase: v1alpha1.PhaseStreaming, attempt: 2, at: now},
			{phase: v1alpha1.PhaseSucceeded, attempt: 2, at: now},
		},
		events: []event{
			part("stale"),
			frame(t, stream.EventRetry, stream.Retry{Attempt: 1, DelayMs: 1000, Error: "overloaded", Reason: "Overloaded", RetryingAt: next}),
			frame(t, stream.EventReset, stream.Reset{Attempt: 2}),
			part("a"), part(" b"),
			frame(t, stream.EventDone, stream.Done{Status: stream.Status{Phase: "Succeeded"}}),
		},
	}
	s.run.Annotations = map[string]string{v1alpha1.AnnotationTitle: "T"}
	s.run.Status = v1alpha1.ChatRunStatus{
		Phase: v1alpha1.PhaseSucceeded, Attempt: &attempt, Output: &v1alpha1.Output{Text: "a b"},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionTrue},
			{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue},
		},
	}
	return s, expectation{
		exact: true, title: "T", text: "a b",
		retries: []expectedRetry{{reason: "Overloaded", delay: time.Second}},
	}
}

func TestCheckAcceptsWhatIsRight(t *testing.T) {
	s, want := good(t)
	for _, f := range append(check(s, want), check(s, expectation{})...) {
		if f.err != nil {
			t.Errorf("%s: %v", f.what, f.err)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		name, what string // what is part of the finding that must fail
		spoil      func(*seen)
	}{
		{"another phase", "status: phase", func(s *seen) { s.run.Status.Phase = v1alpha1.PhaseFailed }},
		{"no Finished", "Finished", func(s *seen) { s.run.Status.Conditions = s.run.Status.Conditions[:1] }},
		{"no output", "output.text", func(s *seen) { s.run.Status.Output = nil }},
		{"glued text", "output.text", func(s *seen) { s.run.Status.Output.Text = "stalea b" }},
		{"no title", "title", func(s *seen) { s.run.Annotations = nil }},
		{"another title", "title", func(s *seen) { s.run.Annotations[v1alpha1.AnnotationTitle] = "U" }},
		{"a cut stream", "done", func(s *seen) { s.events = s.events[:len(s.events)-1] }},
		{"no Streaming at the end", "last Streaming", func(s *seen) { s.lines = slices.Delete(s.lines, 3, 5) }},
		{"no last line", "last Streaming", func(s *seen) { s.lines = s.lines[:5] }},
		{"no Retrying line", "kubectl: Retrying", func(s *seen) { s.lines = slices.Delete(s.lines, 2, 3) }},
		{"a wait that is over", "kubectl: Retrying", func(s *seen) { s.lines[2].retryingAt = now }},
		{"no wait", "kubectl: Retrying", func(s *seen) { s.lines[2].retryingAt = time.Time{} }},
		{"no retry frame", "stream: retry", func(s *seen) { s.events = slices.Delete(s.events, 1, 2) }},
		{"a field missing", "stream: retry", func(s *seen) {
			s.events[1].data = []byte(strings.Replace(string(s.events[1].data), `"delayMs":1000,`, "", 1))
		}},
		{"another delay", "stream: retry", func(s *seen) {
			s.events[1].data = []byte(strings.Replace(string(s.events[1].data), `1000`, "1500", 1))
		}},
		{"another reason", "stream: retry", func(s *seen) {
			s.events[1].data = []byte(strings.Replace(string(s.events[1].data), `Overloaded`, "Timeout", 1))
		}},
		{"a retry told late", "stream: retry", func(s *seen) { s.events[1].at = now.Add(time.Minute) }},
		{"another attempt", "status.attempt", func(s *seen) { *s.run.Status.Attempt = 3 }},
		{"an uncounted call", "status.attempt", func(s *seen) { s.asked = 3 }},
		{"all at once", "token by token", func(s *seen) {
			s.events = slices.Delete(s.events, 4, 5)
			s.events[3].data = []byte(`{"text":""}`)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, want := good(t)
			c.spoil(&s)
			for _, f := range check(s, want) {
				if f.err != nil && strings.Contains(f.what, c.what) {
					return
				}
			}
			t.Errorf("nothing about %q is found wrong", c.what)
		})
	}
}

func TestReportFailsWithWhatIsWrong(t *testing.T) {
	s, want := good(t)
	var b strings.Builder
	out := newScreen(&b, func() time.Time { return now })
	if err := report(out, s, want); err != nil {
		t.Errorf("a good run: %v", err)
	}
	s.asked = 7
	if err := report(out, s, want); err == nil || !strings.Contains(b.String(), "FAIL  status.attempt") {
		t.Errorf("a call that nobody counted: %v\n%s", err, b.String())
	}
}
