// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"math"
	"net/http"
	"testing"
	"time"
)

func TestScenario13DelayAtAnyAttempt(t *testing.T) {
	const s = time.Second
	table := []time.Duration{1 * s, 2 * s, 4 * s, 8 * s, 16 * s, 32 * s, 60 * s, 60 * s}
	for i, want := range table {
		if got := Delay(i + 1); got != want {
			t.Errorf("after attempt %d: %v, want %v", i+1, got, want)
		}
	}
	for _, attempt := range []int{25, 63, 64, 65, 1000, math.MaxInt32, math.MaxInt} {
		if got := Delay(attempt); got != time.Minute {
			t.Errorf("after attempt %d: %v", attempt, got)
		}
	}
	for _, attempt := range []int{0, -1, math.MinInt} {
		if got := Delay(attempt); got != time.Second {
			t.Errorf("after attempt %d: %v", attempt, got)
		}
	}
}

func TestPolicyDelay(t *testing.T) {
	tests := []struct {
		name    string
		policy  Policy
		attempt int
		want    time.Duration
	}{
		{"initial", Policy{Initial: 300 * time.Millisecond}, 1, 300 * time.Millisecond},
		{"doubled", Policy{Initial: 300 * time.Millisecond}, 4, 2400 * time.Millisecond},
		{"max", Policy{Initial: 300 * time.Millisecond, Max: time.Second}, 3, time.Second},
		{"max that is no power of two", Policy{Initial: 3 * time.Second, Max: 10 * time.Second}, 3, 10 * time.Second},
		{"max below initial", Policy{Initial: time.Minute, Max: time.Second}, 1, time.Second},
		{"equal", Policy{Initial: time.Second, Max: time.Second}, 9, time.Second},
		{"negative means default", Policy{Initial: -1, Max: -1}, 2, 2 * time.Second},
		{"no overflow", Policy{Initial: 1, Max: math.MaxInt64}, 1000, math.MaxInt64},
		{"no overflow, odd", Policy{Initial: 3, Max: math.MaxInt64}, math.MaxInt, math.MaxInt64},
	}
	for _, test := range tests {
		if got := test.policy.Delay(test.attempt); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// The wait never shrinks from one attempt to the next.
func TestDelayNeverShrinks(t *testing.T) {
	for _, p := range []Policy{{}, {Initial: 7, Max: math.MaxInt64}, {Initial: 7 * time.Millisecond, Max: time.Hour}} {
		last := time.Duration(0)
		for attempt := 1; attempt < 200; attempt++ {
			delay := p.Delay(attempt)
			if delay < last || delay <= 0 {
				t.Fatalf("%+v: %v after attempt %d, %v before", p, delay, attempt, last)
			}
			last = delay
		}
	}
}

func TestNext(t *testing.T) {
	limited := func(after time.Duration) *Failure { return &Failure{Class: RateLimited, RetryAfter: after} }
	tests := []struct {
		name    string
		policy  Policy
		attempt int
		failure *Failure
		verdict Verdict
		delay   time.Duration
	}{
		{"transient", Policy{}, 1, limited(0), TryAgain, time.Second},
		{"final", Policy{}, 1, &Failure{Class: AuthenticationFailed, RetryAfter: time.Second}, GiveUp, 0},
		{"unknown class", Policy{}, 1, &Failure{}, GiveUp, 0},
		{"hint above the delay", Policy{}, 1, limited(7 * time.Second), TryAgain, 7 * time.Second},
		{"hint below the delay", Policy{}, 4, limited(7 * time.Second), TryAgain, 8 * time.Second},
		{"hint above max", Policy{}, 1, limited(10 * time.Minute), TryAgain, 10 * time.Minute},
		{"longest hint", Policy{}, 1, limited(MaxRetryAfter), TryAgain, time.Hour},
		{"longer hint", Policy{}, 1, limited(MaxRetryAfter + 1), HintTooLong, time.Hour + 1},
		{"one attempt", Policy{MaxAttempts: 1}, 1, limited(0), Exhausted, 0},
		{"last but one of two", Policy{MaxAttempts: 2}, 1, limited(0), TryAgain, time.Second},
		{"last of two", Policy{MaxAttempts: 2}, 2, limited(0), Exhausted, 0},
		{"past the last", Policy{MaxAttempts: 2}, 3, limited(0), Exhausted, 0},
		{"spent beats hint", Policy{MaxAttempts: 1}, 1, limited(24 * time.Hour), Exhausted, 0},
		{"no limit", Policy{}, 1_000_000, limited(0), TryAgain, time.Minute},
	}
	for _, test := range tests {
		verdict, delay := test.policy.Next(test.attempt, test.failure)
		if verdict != test.verdict || delay != test.delay {
			t.Errorf("%s: %v %v, want %v %v", test.name, verdict, delay, test.verdict, test.delay)
		}
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)
	at := func(d time.Duration) string { return now.Add(d).Format(http.TimeFormat) }
	h := func(pairs ...string) http.Header {
		header := http.Header{}
		for i := 0; i < len(pairs); i += 2 {
			header.Set(pairs[i], pairs[i+1])
		}
		return header
	}
	tests := []struct {
		name   string
		header http.Header
		want   time.Duration
	}{
		{"none", nil, 0},
		{"empty", h("Retry-After", ""), 0},
		{"seconds", h("Retry-After", "7"), 7 * time.Second},
		{"space", h("Retry-After", " 7 "), 7 * time.Second},
		{"fraction", h("Retry-After", "0.25"), 250 * time.Millisecond},
		{"parts of a nanosecond round up", h("Retry-After", "1e-10"), 1},
		{"a day", h("Retry-After", "86400"), 24 * time.Hour},
		{"zero", h("Retry-After", "0"), 0},
		{"negative", h("Retry-After", "-5"), 0},
		{"not a number", h("Retry-After", "NaN"), 0},
		{"infinity", h("Retry-After", "Inf"), 0},
		{"huge", h("Retry-After", "1e300"), math.MaxInt64},
		{"too huge for a number", h("Retry-After", "1e400"), math.MaxInt64},
		{"hugely negative", h("Retry-After", "-1e400"), 0},
		{"just beyond", h("Retry-After", "9223372037"), math.MaxInt64},
		{"hexadecimal", h("Retry-After", "0x10"), 0},
		{"underscores", h("Retry-After", "1_000"), 0},
		{"unit", h("Retry-After", "7s"), 0},
		{"words", h("Retry-After", "soon"), 0},
		{"signs alone", h("Retry-After", "+-"), 0},
		{"date", h("Retry-After", at(7*time.Second)), 7 * time.Second},
		{"past date", h("Retry-After", at(-time.Minute)), 0},
		{"date by another clock", h("Retry-After", at(time.Hour+7*time.Second), "Date", at(time.Hour)), 7 * time.Second},
		{"date, broken clock", h("Retry-After", at(7*time.Second), "Date", "now"), 7 * time.Second},
		{"older form of date", h("Retry-After", now.Add(9*time.Second).Format(time.RFC850)), 9 * time.Second},
		{"broken date", h("Retry-After", "Sat, 99 Aug 2026 12:00:00 GMT"), 0},
		{"milliseconds", h("Retry-After-Ms", "1500"), 1500 * time.Millisecond},
		{"milliseconds with a fraction", h("Retry-After-Ms", "0.5"), 500 * time.Microsecond},
		{"milliseconds first", h("Retry-After-Ms", "1500", "Retry-After", "2"), 1500 * time.Millisecond},
		{"milliseconds malformed", h("Retry-After-Ms", "x", "Retry-After", "2"), 2 * time.Second},
		{"milliseconds negative", h("Retry-After-Ms", "-1", "Retry-After", "2"), 2 * time.Second},
		{"milliseconds huge", h("Retry-After-Ms", "1e300"), math.MaxInt64},
	}
	for _, test := range tests {
		if got := ParseRetryAfter(test.header, now); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

func FuzzParseRetryAfter(f *testing.F) {
	f.Add("7", "", "")
	f.Add("0.5", "1500", "Sat, 01 Aug 2026 12:00:00 GMT")
	f.Add("Sat, 01 Aug 2026 12:00:07 GMT", "-1", "Sat, 01 Aug 2026 12:00:00 GMT")
	f.Add("1e300", "NaN", "x")
	f.Fuzz(func(t *testing.T, after, ms, date string) {
		header := http.Header{"Retry-After": {after}, "Retry-After-Ms": {ms}, "Date": {date}}
		hint := ParseRetryAfter(header, time.Unix(1_800_000_000, 0))
		if hint < 0 {
			t.Errorf("%v for %q", hint, header)
		}
		verdict, delay := Policy{}.Next(1, &Failure{Class: RateLimited, RetryAfter: hint})
		if verdict == TryAgain && (delay < hint || delay < time.Second || delay > MaxRetryAfter) {
			t.Errorf("wait of %v for a hint of %v", delay, hint)
		}
	})
}
