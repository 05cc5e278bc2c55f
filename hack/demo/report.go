// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// settleTime bounds what may come after the end of the stream: the last line of
// the watch, and the title.
const settleTime = "45s"

// applySamples applies config/samples, adapted to the provider.
func (c *cluster) applySamples(ctx context.Context, out *screen, model provider) error {
	manifests, err := c.run(ctx, "", "kustomize", "config/samples")
	if err != nil {
		return err
	}
	samples, err := parseManifests(manifests)
	if err != nil {
		return err
	}
	objects, err := model.objects(samples)
	if err != nil {
		return err
	}
	if manifests, err = renderManifests(objects); err != nil {
		return err
	}
	if model.real() {
		out.say("demo", "applying config/samples for %s", model.vendor)
	} else {
		out.say("demo", "applying config/samples; their providers are a fake that is overloaded twice and rate-limited once")
	}
	_, err = c.run(ctx, manifests, "apply", "--server-side", "--namespace="+c.namespace, "--filename=-")
	return err
}

// collect gathers what is to be checked, once the stream is over.
func (c *cluster) collect(ctx context.Context, model provider, w *watch, events []event) (seen, error) {
	s := seen{events: events}
	if err := c.waitRun(ctx, "condition=Finished", &s.run); err != nil {
		return seen{}, err
	}
	if s.run.Status.Phase == v1alpha1.PhaseSucceeded {
		// The title may come after the answer.
		if err := c.waitRun(ctx, `jsonpath={.metadata.annotations.chatrun\.dev/title}`, &s.run); err != nil {
			return seen{}, err
		}
	}
	if err := w.waitFor(ctx, shownRun, s.run.Status.Phase); err != nil {
		return seen{}, err
	}
	s.lines, _ = w.of(shownRun)
	if !model.real() {
		s.asked = model.fake.Ledger().CountFor(s.run.Spec.Prompt, chattest.PurposeAnswer)
	}
	return s, nil
}

// waitRun waits until something is true of the shown run, and reads it.
func (c *cluster) waitRun(ctx context.Context, what string, run *v1alpha1.ChatRun) error {
	_, err := c.run(ctx, "", "wait", "--namespace="+c.namespace, "--for="+what, "--timeout="+settleTime, "chatrun/"+shownRun)
	if err != nil {
		return err
	}
	text, err := c.run(ctx, "", "get", "--namespace="+c.namespace, "--output=json", "chatrun/"+shownRun)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), run); err != nil {
		return fmt.Errorf("reading the run: %w", err)
	}
	return nil
}

// report prints the run and what was checked, and fails if anything is wrong.
func report(out *screen, s seen, want expectation) error {
	var b strings.Builder
	fmt.Fprintf(&b, "\nChatRun %s/%s\n", s.run.Namespace, s.run.Name)
	fmt.Fprintf(&b, "  title     %s\n", s.run.Annotations[v1alpha1.AnnotationTitle])
	fmt.Fprintf(&b, "  phase     %s\n", s.run.Status.Phase)
	fmt.Fprintf(&b, "  attempts  %d\n", value(s.run.Status.Attempt))
	if s.run.Status.Output != nil {
		fmt.Fprintf(&b, "  answer    %s\n", strings.Join(wrap(s.run.Status.Output.Text, textWidth), "\n            "))
	}
	b.WriteString("\n")
	var wrong []error
	for _, f := range check(s, want) {
		if f.err == nil {
			fmt.Fprintf(&b, "  ok    %s\n", f.what)
			continue
		}
		fmt.Fprintf(&b, "  FAIL  %s: %v\n", f.what, f.err)
		wrong = append(wrong, errors.New(f.what))
	}
	out.plain(b.String())
	return errors.Join(wrong...)
}

// wrap breaks a text into lines of at most width characters, if its words allow.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return append(lines, line)
}
