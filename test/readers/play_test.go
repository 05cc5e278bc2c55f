// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
)

// play is an answer whose parts go out when the test allows them, so that
// nothing here depends on how fast anything is.
type play struct {
	parts []string
	gates []chan struct{}
	open  []func()
}

// newPlay makes one. Its first part goes out by itself.
func newPlay(t *testing.T, parts ...string) *play {
	t.Helper()
	p := &play{parts: parts}
	for range parts {
		gate := make(chan struct{})
		allow := sync.OnceFunc(func() { close(gate) })
		p.gates, p.open = append(p.gates, gate), append(p.open, allow)
		t.Cleanup(allow)
	}
	return p
}

// answer is what the provider is to play. Behind the last part it waits as well.
func (p *play) answer() chattest.Response {
	r := chattest.Answer(p.parts...)
	for i, gate := range p.gates {
		r = r.HoldAfter(i+1, gate)
	}
	return r
}

// goOn allows what comes after the first n parts.
func (p *play) goOn(n int) { p.open[n-1]() }

// finish allows all.
func (p *play) finish() {
	for i := range p.parts {
		p.goOn(i + 1)
	}
}

// text is that of the first n parts.
func (p *play) text(n int) string { return strings.Join(p.parts[:n], "") }

func (p *play) all() string { return p.text(len(p.parts)) }

// name makes a run's name of the test's.
func name(t *testing.T) string {
	clean := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}
	return strings.Trim(strings.Map(clean, strings.ToLower(t.Name())), "-")
}

// begin makes the run of a test, which the provider answers as given, one
// response an attempt.
func beginRun(t *testing.T, answers ...chattest.Response) *v1alpha1.ChatRun {
	t.Helper()
	prompt := "question of " + name(t)
	the.scripts.Store(prompt, chattest.Sequence(answers...))
	run := &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: the.namespace, Name: name(t)},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "fake"},
			Prompt:      prompt,
			RetryPolicy: &v1alpha1.RetryPolicy{InitialDelayMs: new(int64(20)), MaxDelayMs: new(int64(200))},
			Title:       &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	}
	if err := the.plane.Client.Create(t.Context(), run); err != nil {
		t.Fatal(err)
	}
	return run
}

// attempted waits until the provider was asked so often for a run.
func attempted(t *testing.T, run *v1alpha1.ChatRun, times int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	asked := func(l *chattest.Ledger) bool { return l.CountFor(run.Spec.Prompt, chattest.PurposeAnswer) >= times }
	if err := the.fake.Ledger().WaitFor(ctx, asked); err != nil {
		t.Fatalf("attempt %d of %s was not made: %v", times, run.Name, err)
	}
}

// stored waits until a run has succeeded, and returns the text that is kept of it.
func stored(t *testing.T, run *v1alpha1.ChatRun) string {
	t.Helper()
	over := time.After(patience)
	every := time.NewTicker(50 * time.Millisecond)
	defer every.Stop()
	for {
		if err := the.plane.Client.Get(t.Context(), client.ObjectKeyFromObject(run), run); err != nil {
			t.Fatal(err)
		}
		if run.Status.Phase == v1alpha1.PhaseSucceeded {
			return run.Status.Output.Text
		}
		select {
		case <-every.C:
		case <-over:
			t.Fatalf("%s is %s", run.Name, run.Status.Phase)
		}
	}
}

// equals fails the test unless a reader has the stored text.
func equals(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("the reader has %s, stored is %s", brief(got), brief(want))
	}
}

// board counts readings by their readers.
var board = struct {
	sync.Mutex
	passed, all map[string]int
}{passed: map[string]int{}, all: map[string]int{}}

// score counts the test as a reading.
func score(t *testing.T, reader string) {
	t.Helper()
	t.Cleanup(func() {
		board.Lock()
		defer board.Unlock()
		board.all[reader]++
		if !t.Failed() {
			board.passed[reader]++
		}
	})
}

// summary says what was read.
func summary() {
	board.Lock()
	defer board.Unlock()
	passed, all := 0, 0
	for _, reader := range slices.Sorted(maps.Keys(board.all)) {
		fmt.Fprintf(os.Stderr, "  %-25s %2d of %2d\n", reader, board.passed[reader], board.all[reader])
		passed, all = passed+board.passed[reader], all+board.all[reader]
	}
	fmt.Fprintf(os.Stderr, "%d readers, %d of %d readings equal the stored text\n", len(board.all), passed, all)
}
