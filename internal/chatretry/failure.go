// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package chatretry decides whether a failed attempt may be retried, and when.
// It is pure: it reads no clock, no environment and no network. The only
// waiting it does is in Retry, on a timer that its context can cut short.
package chatretry

import "time"

// Class says how an attempt failed. The names are API: they stand in
// status.lastErrorReason, in condition reasons and in the stream.
type Class string

// Classes of failures that another attempt may mend.
const (
	// RateLimited: too many requests or tokens a minute (429).
	RateLimited Class = "RateLimited"
	// Overloaded: the provider has no capacity just now (503, 529).
	Overloaded Class = "Overloaded"
	// ServerError: the provider broke (500, 502, 504 and kin).
	ServerError Class = "ServerError"
	// Timeout: silence for longer than allowed, or the provider's own time-out (408).
	Timeout Class = "Timeout"
	// ConnectionError: no answer came at all: refused, reset, DNS, TLS, an HTTP/2 reset.
	ConnectionError Class = "ConnectionError"
	// StreamInterrupted: the stream ended without the vendor's terminal event.
	StreamInterrupted Class = "StreamInterrupted"
	// WorkerLost: the manager that made the attempt is gone, and its outcome with it.
	WorkerLost Class = "WorkerLost"
)

// Classes of failures that end a run, for asking again would fail again.
const (
	// AuthenticationFailed: the key is missing, wrong or revoked.
	AuthenticationFailed Class = "AuthenticationFailed"
	// PermissionDenied: the key is valid, and may not do this.
	PermissionDenied Class = "PermissionDenied"
	// QuotaExhausted: no money left; also when it comes as 429.
	QuotaExhausted Class = "QuotaExhausted"
	// ContextLengthExceeded: the question is longer than the model can read.
	ContextLengthExceeded Class = "ContextLengthExceeded"
	// ModelNotFound: the provider has no such model, or not for this key.
	ModelNotFound Class = "ModelNotFound"
	// InvalidRequest: the provider refuses the request as it is.
	InvalidRequest Class = "InvalidRequest"
	// ContentFiltered: the model or a filter refused to answer.
	ContentFiltered Class = "ContentFiltered"
	// EmptyAnswer: the model ended its answer properly and said nothing. Asking
	// again buys the same silence.
	EmptyAnswer Class = "EmptyAnswer"
	// Cancelled: the run was stopped on request.
	Cancelled Class = "Cancelled"
	// DeadlineExceeded: the run's own time is over.
	DeadlineExceeded Class = "DeadlineExceeded"
)

// Retryable reports whether another attempt may succeed. A class that is not
// in the table above is final.
func (c Class) Retryable() bool {
	switch c {
	case RateLimited, Overloaded, ServerError, Timeout, ConnectionError, StreamInterrupted, WorkerLost:
		return true
	default:
		return false
	}
}

// Failure is how an attempt failed. It is the only error that crosses package
// borders on the way from a provider to the run's status.
type Failure struct {
	// Class decides what happens next.
	Class Class
	// HTTPStatus is the provider's answer, 0 if none came.
	HTTPStatus int
	// Code is the provider's own error code or type, "" if it gave none.
	// It is for the log; Message holds what people are shown.
	Code string
	// RetryAfter is the provider's hint, a floor for the wait; 0 if it gave
	// none that makes sense. It is as the provider said, not bounded.
	RetryAfter time.Duration
	// Message is safe to show: one bounded line made by us, with no raw text of
	// the provider, no URL, no header and no key.
	Message string
	// Err is the cause, for the log and for errors.Is; nil if there is none.
	// It must not hold a key.
	Err error
}

// Error returns the class and the safe message.
func (f *Failure) Error() string {
	if f.Message == "" {
		return string(f.Class)
	}
	return string(f.Class) + ": " + f.Message
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
