// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Default delays of a policy that names none.
const (
	DefaultInitialDelay = time.Second
	DefaultMaxDelay     = time.Minute
)

// MaxRetryAfter is the longest hint that is waited for. A provider that asks
// for more has answered for today: the run ends with that reason rather than
// asking again too early.
const MaxRetryAfter = time.Hour

// Policy says how often and at what intervals a call is made. The zero value
// has the default delays and no limit.
type Policy struct {
	// MaxAttempts counts every call; 1 never retries, 0 has no limit.
	MaxAttempts int
	// Initial is the wait after the first attempt; 0 means DefaultInitialDelay.
	Initial time.Duration
	// Max is the longest wait that doubling reaches; 0 means DefaultMaxDelay.
	Max time.Duration
}

// Delay returns the wait after the given failed attempt, counted from 1:
// Initial doubled attempt−1 times, at most Max. It has no jitter, so that the
// time promised in a status can be kept, and does not overflow at any attempt.
// An attempt below 1 counts as the first.
func (p Policy) Delay(attempt int) time.Duration {
	delay, limit := p.Initial, p.Max
	if delay <= 0 {
		delay = DefaultInitialDelay
	}
	if limit <= 0 {
		limit = DefaultMaxDelay
	}
	for ; attempt > 1 && delay < limit; attempt-- {
		if delay > limit/2 {
			return limit
		}
		delay *= 2
	}
	return min(delay, limit)
}

// Delay returns the wait after the given failed attempt by the default policy:
// 1 s, 2 s, 4 s … 60 s.
func Delay(attempt int) time.Duration { return Policy{}.Delay(attempt) }

// Verdict is what to do after a failed attempt.
type Verdict int

const (
	// GiveUp: the failure is final; its class is the reason.
	GiveUp Verdict = iota
	// TryAgain: make another attempt after the delay.
	TryAgain
	// Exhausted: the failure is transient, and no attempt is left.
	Exhausted
	// HintTooLong: the provider asks for a wait beyond MaxRetryAfter.
	HintTooLong
)

// Next judges a failed attempt, counted from 1. The delay is meaningful for
// TryAgain, where it is the time to wait, and for HintTooLong, where it is the
// hint that was refused.
func (p Policy) Next(attempt int, f *Failure) (Verdict, time.Duration) {
	switch {
	case !f.Class.Retryable():
		return GiveUp, 0
	case p.MaxAttempts > 0 && attempt >= p.MaxAttempts:
		return Exhausted, 0
	case f.RetryAfter > MaxRetryAfter:
		return HintTooLong, f.RetryAfter
	default:
		return TryAgain, max(p.Delay(attempt), f.RetryAfter)
	}
}

// ParseRetryAfter reads a provider's hint from the header of its answer:
// Retry-After-Ms in milliseconds, or Retry-After in seconds, also fractional,
// or as an HTTP date, which now and the server's own Date are measured
// against. The finer form counts where both make sense. It returns 0 for a hint
// that is missing, malformed, not a number or not ahead.
func ParseRetryAfter(h http.Header, now time.Time) time.Duration {
	if ms, ok := number(h.Get("Retry-After-Ms")); ok && ms > 0 {
		return scale(ms, time.Millisecond)
	}
	value := strings.TrimSpace(h.Get("Retry-After"))
	if s, ok := number(value); ok {
		return scale(s, time.Second)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// The difference of two times by one clock is right even if that clock is
	// not ours.
	if date, err := http.ParseTime(h.Get("Date")); err == nil {
		now = date
	}
	return max(at.Sub(now), 0)
}

// number reads a plain decimal number; one too large to hold is infinite. The
// forms that ParseFloat knows beyond that (hexadecimal, underscores, words for
// infinity) are nobody's seconds.
func number(s string) (float64, bool) {
	s = strings.TrimSpace(s)
	if s == "" || strings.Trim(s, "+-.0123456789eE") != "" {
		return 0, false
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil || errors.Is(err, strconv.ErrRange)
}

// scale converts n units to a duration, 0 for what is not ahead, and the
// longest there is for what does not fit. Parts of a nanosecond round up.
func scale(n float64, unit time.Duration) time.Duration {
	ns := math.Ceil(n * float64(unit))
	switch {
	case math.IsNaN(ns) || ns <= 0:
		return 0
	case ns >= math.MaxInt64:
		return math.MaxInt64
	default:
		return time.Duration(ns)
	}
}
