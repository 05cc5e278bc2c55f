// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
)

var noon = time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)

func chat(name string, phase v1alpha1.Phase, age time.Duration) *v1alpha1.ChatRun {
	run := &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{
		Namespace: "team", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(noon.Add(-age)),
	}}
	run.Spec.ProviderRef.Name, run.Status.Phase = "openai", phase
	return run
}

func finished(run *v1alpha1.ChatRun, reason string) *v1alpha1.ChatRun {
	run.Status.Conditions = []metav1.Condition{
		{Type: v1alpha1.ConditionFinished, Status: metav1.ConditionTrue, Reason: reason},
		{Type: v1alpha1.ConditionSucceeded, Status: metav1.ConditionFalse, Reason: reason},
	}
	return run
}

func retrying(run *v1alpha1.ChatRun, delay time.Duration) *v1alpha1.ChatRun {
	run.Status.Phase, run.Status.Attempt, run.Status.LastErrorReason = v1alpha1.PhaseRetrying, new(int32(2)), "Overloaded"
	run.Status.DelayMs = new(delay.Milliseconds())
	run.Status.RetryingAt = &metav1.MicroTime{Time: noon.Add(delay)}
	return run
}

func board(out, err *bytes.Buffer, now *time.Time, terminal bool, width, height int) *Board {
	return NewBoard(BoardOptions{
		Out: out, Err: err, Terminal: terminal, Now: func() time.Time { return *now }, Size: func() (int, int) { return width, height },
	})
}

func TestBoardTellsChangesInAPipe(t *testing.T) {
	var out, err bytes.Buffer
	now := noon
	b := board(&out, &err, &now, false, 0, 0)
	b.Set(finished(chat("old", v1alpha1.PhaseFailed, time.Hour), "Refused")) // over before anybody looked
	b.Set(chat("a", v1alpha1.PhasePending, 0))
	b.Set(chat("a", v1alpha1.PhasePending, 0))
	b.Set(retrying(chat("a", "", 0), 1500*time.Millisecond))
	now = now.Add(time.Second)
	b.Set(retrying(chat("a", "", 0), 1500*time.Millisecond)) // the same, read later
	b.Set(finished(chat("a", v1alpha1.PhaseFailed, 0), "Bad\x1b[2J"))
	b.Remove(chat("a", v1alpha1.PhaseFailed, 0))
	b.Note("no\x1b watch")
	b.Note("no\x1b watch")
	b.Draw()
	expect(t, "the output", out.String(), `2026-07-01T12:00:00Z team/a Pending
2026-07-01T12:00:00Z team/a Retrying in 2 s (attempt 2, Overloaded)
2026-07-01T12:00:01Z team/a Failed (Bad^[[2J)
2026-07-01T12:00:01Z team/a is gone
`)
	expect(t, "the rest", err.String(), "no^[ watch\n")
}

func TestBoardIsRedrawnInPlace(t *testing.T) {
	var out, err bytes.Buffer
	now := noon
	b := board(&out, &err, &now, true, 200, 24)
	b.Draw()
	expect(t, "the empty board", out.String(), "\r\x1b[JNo runs yet.\n")
	out.Reset()
	b.Set(retrying(chat("a", "", time.Minute), 2300*time.Millisecond))
	b.Set(finished(chat("b", v1alpha1.PhaseFailed, time.Second), "Refused"))
	next := b.Draw()
	expect(t, "when it changes", next.String(), "300ms")
	drawn := out.String()
	if !strings.HasPrefix(drawn, "\x1b[1A\r\x1b[JNAME") || !strings.Contains(drawn, "in 3 s") || strings.Index(drawn, "\na ") > strings.Index(drawn, "\nb ") {
		t.Errorf("the board is %q", drawn)
	}
	out.Reset()
	b.Draw()
	expect(t, "what is drawn without a change", out.String(), "")
	now = now.Add(next)
	if b.Draw(); !strings.HasPrefix(out.String(), "\x1b[3A\r\x1b[J") || !strings.Contains(out.String(), "in 2 s") {
		t.Errorf("the board is %q", out.String())
	}
}

func TestBoardFitsTheTerminal(t *testing.T) {
	var out, err bytes.Buffer
	now := noon
	const width, height = 60, 7
	b := board(&out, &err, &now, true, width, height)
	for i := range 9 {
		run := chat(fmt.Sprint("run-", i), v1alpha1.PhaseStreaming, time.Duration(i)*time.Second)
		run.Annotations = map[string]string{v1alpha1.AnnotationTitle: strings.Repeat("世界\x1b[1A\n", 30)}
		b.Set(run)
	}
	b.Note("the API server\nrests")
	b.Draw()
	table := strings.TrimPrefix(out.String(), "\r\x1b[J")
	lines := strings.Split(table, "\n")
	if len(lines) > height || !slices.Contains(lines, "… and 6 more") || !slices.Contains(lines, "the API server rests") {
		t.Errorf("the board is %q", lines)
	}
	for _, line := range lines {
		if columns(line) >= width || strings.ContainsAny(line, "\x1b\r") {
			t.Errorf("the line %q takes %d columns of %d", line, columns(line), width)
		}
	}
}

func TestRunCells(t *testing.T) {
	full := retrying(chat("a", "", 90*time.Second), 1200*time.Millisecond)
	full.Status.Model, full.Status.Usage = "m\x1b[0m", &v1alpha1.Usage{OutputTokens: new(int64(120))}
	full.Annotations = map[string]string{v1alpha1.AnnotationTitle: "A\ntitle"}
	late := retrying(chat("b", "", -time.Minute), -time.Second)
	rated := func(attempt int32, tokens int64) *v1alpha1.ChatRun {
		run := finished(chat("c", v1alpha1.PhaseSucceeded, 0), "Completed")
		run.Status.Attempt, run.Status.Usage = &attempt, &v1alpha1.Usage{OutputTokens: &tokens}
		run.Status.FirstTokenTime, run.Status.CompletionTime = &metav1.MicroTime{Time: noon}, &metav1.MicroTime{Time: noon.Add(4 * time.Second)}
		return run
	}
	for name, c := range map[string]struct {
		run  *v1alpha1.ChatRun
		live string
		want string
	}{
		"retrying":      {full, "", "a|openai|m^[[0m|Retrying|2|in 2 s|Overloaded|120||90s||A title"},
		"retrying late": {late, "", "b|openai||Retrying|2|now|Overloaded|||0s||"},
		"streams":       {chat("s", v1alpha1.PhaseStreaming, 0), "≈3.0/s", "s|openai||Streaming|||||≈3.0/s|0s||"},
		"ended":         {rated(1, 10), "", "c|openai||Succeeded|1|||10|2.5/s|0s|Completed|"},
		"ended later":   {rated(2, 400), "", "c|openai||Succeeded|2|||400|≈100/s|0s|Completed|"},
	} {
		t.Run(name, func(t *testing.T) {
			cells := RunCells(c.run, noon, c.live)
			if len(cells) != len(RunColumns()) {
				t.Errorf("%d cells are under %d columns", len(cells), len(RunColumns()))
			}
			expect(t, "the row", strings.Join(cells, "|"), c.want)
		})
	}
}

func TestProviderCells(t *testing.T) {
	p := &v1alpha1.ChatProvider{ObjectMeta: metav1.ObjectMeta{Name: "p", CreationTimestamp: metav1.NewTime(noon.Add(-time.Hour))}}
	p.Spec.Type, p.Spec.DefaultModel = "OpenAI", "m\n2"
	p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "NoKey"}}
	cells := ProviderCells(p, noon)
	if len(cells) != len(ProviderColumns()) {
		t.Errorf("%d cells are under %d columns", len(cells), len(ProviderColumns()))
	}
	expect(t, "the row", strings.Join(cells, "|"), "p|OpenAI|m 2|False|NoKey|60m")
}
