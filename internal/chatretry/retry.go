// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"context"
	"errors"
	"time"
)

// Retry calls fn until it succeeds, fails for good, or ctx ends, with the
// default delays between the calls and the provider's hint as their floor. It
// has no limit of its own: ctx is the limit.
//
// Before each wait onRetry is told which attempt failed (from 1), how, and how
// long the wait will be; it may be nil. A final error is returned unchanged.
// When ctx ends, in a call or in a wait, Retry returns its cause at once.
func Retry(ctx context.Context, fn func(context.Context) error, onRetry func(attempt int, err error, delay time.Duration)) error {
	for attempt := 1; ; attempt++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !IsRetryable(err) {
			return err
		}
		delay := Delay(attempt)
		if f, ok := errors.AsType[*Failure](err); ok {
			var verdict Verdict
			if verdict, delay = (Policy{}).Next(attempt, f); verdict != TryAgain {
				return err
			}
		}
		if onRetry != nil {
			onRetry(attempt, err, delay)
		}
		if !wait(ctx, delay) {
			return context.Cause(ctx)
		}
	}
}

// wait waits, and reports whether the whole delay passed.
func wait(ctx context.Context, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
