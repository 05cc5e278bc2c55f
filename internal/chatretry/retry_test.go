// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// told is what a callback was told.
type told struct {
	attempt int
	err     error
	delay   time.Duration
}

func TestScenario13DelayTableOnAVirtualClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 9
		begin := time.Now()
		var at []time.Duration
		var heard []told
		transient := errors.New("reset")
		err := Retry(t.Context(), func(context.Context) error {
			at = append(at, time.Since(begin))
			if len(at) == calls {
				return nil
			}
			return transient
		}, func(attempt int, err error, delay time.Duration) {
			heard = append(heard, told{attempt, err, delay})
			if since := time.Since(begin); since != at[len(at)-1] {
				t.Errorf("told %v after the call", since-at[len(at)-1])
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		const s = time.Second
		if want := []time.Duration{0, 1 * s, 3 * s, 7 * s, 15 * s, 31 * s, 63 * s, 123 * s, 183 * s}; !slices.Equal(at, want) {
			t.Errorf("calls at %v, want %v", at, want)
		}
		if want := []told{
			{1, transient, 1 * s}, {2, transient, 2 * s}, {3, transient, 4 * s}, {4, transient, 8 * s},
			{5, transient, 16 * s}, {6, transient, 32 * s}, {7, transient, 60 * s}, {8, transient, 60 * s},
		}; !slices.Equal(heard, want) {
			t.Errorf("told %v", heard)
		}
	})
}

func TestRetryGoesPastTheDefaultLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		err := Retry(t.Context(), func(context.Context) error {
			if calls++; calls > 40 {
				return nil
			}
			return &Failure{Class: Overloaded}
		}, nil)
		if err != nil || calls != 41 {
			t.Errorf("%d calls, %v", calls, err)
		}
	})
}

func TestRetryKeepsTheHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		failures := []error{
			fmt.Errorf("calling: %w", &Failure{Class: RateLimited, RetryAfter: 7 * time.Second}),
			&Failure{Class: RateLimited, RetryAfter: time.Second}, // below the delay
			nil,
		}
		n := 0
		err := Retry(t.Context(), func(context.Context) error { n++; return failures[n-1] }, nil)
		if err != nil || time.Since(begin) != 9*time.Second {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// What ends a retry is returned as it is, after one call and without a wait.
func TestRetryReturnsFinalErrorsUnchanged(t *testing.T) {
	final := &Failure{Class: AuthenticationFailed}
	tests := map[string]error{
		"final":             final,
		"wrapped":           fmt.Errorf("calling: %w", final),
		"hint too long":     &Failure{Class: RateLimited, RetryAfter: MaxRetryAfter + 1},
		"somebody's cancel": context.Canceled,
	}
	for name, want := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin, calls := time.Now(), 0
				err := Retry(t.Context(), func(context.Context) error { calls++; return want }, func(int, error, time.Duration) {
					t.Error("told of a retry")
				})
				if err != want || calls != 1 || time.Since(begin) != 0 { //nolint:errorlint // Unchanged means the same.
					t.Errorf("%v after %d calls and %v", err, calls, time.Since(begin))
				}
			})
		})
	}
}

func TestRetryEndsWithItsContext(t *testing.T) {
	cause := errors.New("stop asked")
	t.Run("before the first call", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		err := Retry(ctx, func(context.Context) error { t.Error("called"); return nil }, nil)
		if err != cause { //nolint:errorlint // Unchanged means the same.
			t.Error(err)
		}
	})
	t.Run("in a call", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		err := Retry(ctx, func(context.Context) error { cancel(cause); return errors.New("reset") }, func(int, error, time.Duration) {
			t.Error("told of a retry")
		})
		if err != cause { //nolint:errorlint // Unchanged means the same.
			t.Error(err)
		}
	})
	t.Run("in a call that succeeds", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		if err := Retry(ctx, func(context.Context) error { cancel(cause); return nil }, nil); err != nil {
			t.Error(err)
		}
	})
	t.Run("in a wait, at once", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			begin := time.Now()
			time.AfterFunc(300*time.Millisecond, func() { cancel(cause) })
			err := Retry(ctx, func(context.Context) error { return errors.New("reset") }, nil)
			if err != cause || time.Since(begin) != 300*time.Millisecond { //nolint:errorlint // Unchanged means the same.
				t.Errorf("%v after %v", err, time.Since(begin))
			}
		})
	})
	t.Run("by a deadline", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Second, cause)
			defer cancel()
			calls := 0
			err := Retry(ctx, func(context.Context) error { calls++; return errors.New("reset") }, nil)
			if err != cause || calls != 3 { //nolint:errorlint // Unchanged means the same.
				t.Errorf("%v after %d calls", err, calls)
			}
		})
	})
}
