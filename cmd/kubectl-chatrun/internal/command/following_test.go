// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"errors"
	"testing"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

func TestExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		phase     v1alpha1.Phase
		reason    string
		truncated bool
		inexact   bool
		want      int
	}{
		"succeeded":             {phase: v1alpha1.PhaseSucceeded, want: 0},
		"truncated":             {phase: v1alpha1.PhaseSucceeded, truncated: true, want: 5},
		"inexact":               {phase: v1alpha1.PhaseSucceeded, inexact: true, want: 5},
		"failed":                {phase: v1alpha1.PhaseFailed, reason: "Refused", want: 2},
		"failed and inexact":    {phase: v1alpha1.PhaseFailed, inexact: true, want: 2},
		"cancelled":             {phase: v1alpha1.PhaseCancelled, truncated: true, want: 3},
		"deadline":              {phase: v1alpha1.PhaseFailed, reason: v1alpha1.ReasonDeadlineExceeded, want: 4},
		"deadline of the queue": {phase: v1alpha1.PhaseFailed, reason: v1alpha1.ReasonPendingDeadlineExceeded, want: 4},
	} {
		t.Run(name, func(t *testing.T) {
			o := screen.Outcome{Exact: !c.inexact, Done: &stream.Done{
				Status: stream.Status{Phase: string(c.phase), Reason: c.reason}, Truncated: c.truncated,
			}}
			err := finish(o)
			var exit *exitError
			switch {
			case c.want == 0:
				if err != nil {
					t.Errorf("the error is %v", err)
				}
			case !errors.As(err, &exit) || exit.code != c.want:
				t.Errorf("the error is %v, want %d", err, c.want)
			}
		})
	}
	if code := exitCode(screen.Outcome{Exact: true}); code != ExitError {
		t.Errorf("a run of which no end is known gives %d", code)
	}
}
