// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

// looped is a run that is shown on a terminal, as far as its rest goes.
type looped struct {
	*following

	errs    bytes.Buffer
	view    *screen.View
	events  chan any
	ended   chan error
	signals chan os.Signal
	result  chan error
	outcome screen.Outcome
}

func loopOf(t *testing.T, live bool) *looped {
	l := &looped{events: make(chan any), ended: make(chan error, 1), signals: make(chan os.Signal, 2), result: make(chan error, 1)}
	l.following = &following{
		plugin: &plugin{IOStreams: genericiooptions.IOStreams{Out: &bytes.Buffer{}, ErrOut: &l.errs}},
		key:    follow.Key{Namespace: "team", Name: "hello"}, live: live,
	}
	l.view = screen.New(screen.Options{Out: l.Out, Err: &l.errs, ErrTerminal: true, Now: time.Now, Size: func() (int, int) { return 80, 24 }})
	go func() {
		outcome, err := l.loop(t.Context(), l.view, l.events, l.ended, l.signals)
		l.outcome = outcome
		l.result <- err
	}()
	return l
}

func TestLoopRedrawsTheCountdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := loopOf(t, true)
		l.events <- stream.Retry{Attempt: 1, DelayMs: 2000, Reason: "Overloaded", Error: "busy", RetryingAt: time.Now().Add(2 * time.Second)}
		<-time.After(3 * time.Second)
		l.events <- note("a\x1b[2J line")
		l.events <- stream.Done{Status: stream.Status{Phase: string(v1alpha1.PhaseSucceeded)}}
		l.ended <- nil
		if err := <-l.result; err != nil || l.outcome.Done == nil {
			t.Fatalf("it ends with %+v, %v", l.outcome, err)
		}
		at := 0
		for _, want := range []string{"Attempt 1 failed: busy\n", "Retrying in 2 s", "\r\x1b[2KRetrying in 1 s", "\r\x1b[2KRetrying any moment", "\r\x1b[2Ka^[[2J line\n"} {
			next := strings.Index(l.errs.String()[at:], want)
			if next < 0 {
				t.Fatalf("the screen is %q, without %q after %d", l.errs.String(), want, at)
			}
			at += next + len(want)
		}
	})
}

func TestLoopEndsWithTheErrorOfTheDoor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, closed := loopOf(t, true), errors.New("closed")
		l.ended <- closed
		if err := <-l.result; !errors.Is(err, closed) {
			t.Errorf("it ends with %v", err)
		}
	})
}

func TestInterruptLeavesTheRunAndSaysHowToComeBack(t *testing.T) {
	for live, want := range map[bool]string{true: "kubectl chatrun logs -f -n team hello", false: ""} {
		synctest.Test(t, func(t *testing.T) {
			l := loopOf(t, live)
			l.signals <- os.Interrupt
			var exit *exitError
			if err := <-l.result; !errors.As(err, &exit) || exit.code != ExitInterrupted {
				t.Errorf("it ends with %v", err)
			}
			if !strings.Contains(l.errs.String(), want) || (want == "" && l.errs.Len() > 0) {
				t.Errorf("it says %q", l.errs.String())
			}
		})
	}
}
