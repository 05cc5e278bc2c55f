// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
)

// seen is everything that the demo saw of the shown run.
type seen struct {
	lines  []watchLine
	events []event
	run    v1alpha1.ChatRun
	// asked is how many streaming requests the fake provider counted for it.
	asked int
}

// expectation is what the shown run has to come to. The zero value is for a real
// provider, of which nobody knows what it will say or how often it will fail.
type expectation struct {
	exact       bool // retries, title and text are known
	retries     []expectedRetry
	title, text string
}

type expectedRetry struct {
	reason string
	delay  time.Duration
}

// finding is one thing that was checked; a nil error is good.
type finding struct {
	what string
	err  error
}

// check judges what was seen. It is pure.
func check(s seen, want expectation) []finding {
	findings := []finding{
		{"status: phase Succeeded, conditions Succeeded and Finished", checkOutcome(s.run)},
		{"status.output.text is the text that was streamed", checkText(s)},
		{"the annotation " + v1alpha1.AnnotationTitle + " holds a title", checkTitle(s.run, want)},
		{"stream: it ends with done, phase Succeeded", checkDone(s.events)},
		{"kubectl: last Streaming, then Succeeded", checkEnd(s.lines)},
	}
	if !want.exact {
		return findings
	}
	for i, retry := range want.retries {
		n := i + 1
		findings = append(findings,
			finding{fmt.Sprintf("kubectl: Retrying, attempt %d, RETRYING-AT in the future", n), checkRetryLine(s.lines, n)},
			finding{fmt.Sprintf("stream: retry of attempt %d, %s, wait %s", n, retry.reason, retry.delay), checkRetryEvent(s.events, n, retry)},
		)
	}
	return append(findings,
		finding{fmt.Sprintf("status.attempt is %d, as often as the provider was asked", len(want.retries)+1), checkAttempts(s, want)},
		finding{"the answer is the provider's, token by token", checkAnswer(s, want)},
	)
}

func checkOutcome(run v1alpha1.ChatRun) error {
	var all []error
	if run.Status.Phase != v1alpha1.PhaseSucceeded {
		all = append(all, fmt.Errorf("phase is %s: %s", run.Status.Phase, run.Status.LastError))
	}
	for _, condition := range []string{v1alpha1.ConditionSucceeded, v1alpha1.ConditionFinished} {
		if !meta.IsStatusConditionPresentAndEqual(run.Status.Conditions, condition, metav1.ConditionTrue) {
			all = append(all, fmt.Errorf("condition %s is not True", condition))
		}
	}
	return errors.Join(all...)
}

// draft is the text that a reader of the stream holds at its end, and in how
// many parts it came.
func draft(events []event) (text string, parts int, err error) {
	var b strings.Builder
	for _, e := range events {
		switch e.name {
		case stream.EventReset:
			b.Reset()
			parts = 0
		case stream.EventMessagePart:
			var part stream.MessagePart
			if err := json.Unmarshal(e.data, &part); err != nil {
				return "", 0, err
			}
			b.WriteString(part.Text)
			parts++
		default:
		}
	}
	return b.String(), parts, nil
}

func checkText(s seen) error {
	text, _, err := draft(s.events)
	if err != nil {
		return err
	}
	if s.run.Status.Output == nil || text == "" {
		return errors.New("there is no text")
	}
	stored := s.run.Status.Output.Text
	if truncated := s.run.Status.Output.Truncated; truncated != nil && *truncated && strings.HasPrefix(text, stored) {
		return nil
	}
	if stored != text {
		return fmt.Errorf("stored %q, streamed %q", stored, text)
	}
	return nil
}

func checkTitle(run v1alpha1.ChatRun, want expectation) error {
	title := run.Annotations[v1alpha1.AnnotationTitle]
	if title == "" {
		return errors.New("it is missing")
	}
	if want.exact && title != want.title {
		return fmt.Errorf("it is %q, want %q", title, want.title)
	}
	return nil
}

func checkDone(events []event) error {
	if len(events) == 0 || events[len(events)-1].name != stream.EventDone {
		return errors.New("there is no done at the end")
	}
	var done stream.Done
	if err := json.Unmarshal(events[len(events)-1].data, &done); err != nil {
		return err
	}
	if done.Phase != string(v1alpha1.PhaseSucceeded) {
		return fmt.Errorf("its phase is %q", done.Phase)
	}
	return nil
}

// checkEnd wants Succeeded last, and before it Streaming as the last of the
// other phases. One phase may take several lines.
func checkEnd(lines []watchLine) error {
	var order []v1alpha1.Phase
	for _, l := range lines {
		order = append(order, l.phase)
	}
	order = slices.Compact(order)
	want := []v1alpha1.Phase{v1alpha1.PhaseStreaming, v1alpha1.PhaseSucceeded}
	if len(order) < len(want) || !slices.Equal(order[len(order)-len(want):], want) {
		return fmt.Errorf("the phases are %v", order)
	}
	return nil
}

func checkRetryLine(lines []watchLine, attempt int) error {
	for _, l := range lines {
		if l.phase == v1alpha1.PhaseRetrying && l.attempt == attempt {
			if !l.retryingAt.After(l.at) {
				return fmt.Errorf("printed at %s, it says %s", l.at.Format(time.RFC3339Nano), l.retryingAt.Format(time.RFC3339Nano))
			}
			return nil
		}
	}
	return errors.New("there is no such line")
}

// retryFields are those that every front end needs to say "retrying in X s".
var retryFields = []string{"attempt", "delayMs", "error", "retryingAt"}

func checkRetryEvent(events []event, attempt int, want expectedRetry) error {
	for _, e := range events {
		if e.name != stream.EventRetry {
			continue
		}
		var retry stream.Retry
		var fields map[string]json.RawMessage
		if err := errors.Join(json.Unmarshal(e.data, &retry), json.Unmarshal(e.data, &fields)); err != nil {
			return err
		}
		if int(retry.Attempt) != attempt {
			continue
		}
		for _, name := range retryFields {
			if fields[name] == nil {
				return fmt.Errorf("%s is missing", name)
			}
		}
		switch {
		case retry.Reason != want.reason || retry.Error == "":
			return fmt.Errorf("reason %q, error %q", retry.Reason, retry.Error)
		case retry.DelayMs != want.delay.Milliseconds():
			return fmt.Errorf("delayMs is %d", retry.DelayMs)
		case !retry.RetryingAt.After(e.at):
			return fmt.Errorf("it came at %s and says %s", e.at.Format(time.RFC3339Nano), retry.RetryingAt.Format(time.RFC3339Nano))
		}
		return nil
	}
	return errors.New("there is no such frame")
}

func checkAttempts(s seen, want expectation) error {
	attempts := len(want.retries) + 1
	if s.run.Status.Attempt == nil || int(*s.run.Status.Attempt) != attempts || s.asked != attempts {
		return fmt.Errorf("status.attempt is %d, the provider was asked %d times", value(s.run.Status.Attempt), s.asked)
	}
	return nil
}

func checkAnswer(s seen, want expectation) error {
	text, parts, err := draft(s.events)
	if err != nil {
		return err
	}
	// A word is a token here. Some may come joined, not all.
	if words := len(strings.Fields(want.text)); text != want.text || parts < words/2 {
		return fmt.Errorf("%d parts: %q", parts, text)
	}
	return nil
}

// value reads an optional number.
func value(n *int32) int32 {
	if n == nil {
		return 0
	}
	return *n
}
