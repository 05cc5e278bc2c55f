// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"net/http"
	"slices"
	"time"
)

// DefaultTitle is what a title request is answered with unless scripted.
const DefaultTitle = "A friendly first greeting"

// Response is what a request is answered with. It is an immutable value: every
// method returns a changed copy, so responses can be shared and built upon. The
// zero Response is the server's default.
type Response struct {
	kind kind

	text, reasoning []string
	reasoningField  string
	refused         bool
	finish          *string
	usage           *usage
	unterminated    bool
	unstreamed      bool

	failure     apiError
	status      int
	contentType string
	body        string
	headers     []headerField

	stamp func() string

	slowHeaders, firstDelay, pace time.Duration
	retryAfter                    time.Duration

	fault    fault
	inserts  []insert
	truncate int // bytes of the body that are sent, plus one; 0 for all
}

type kind uint8

const (
	kindDefault kind = iota
	kindAnswer
	kindError
	kindRaw
	kindReset
	kindSilent
)

type usage struct{ input, output int }

type headerField struct{ name, value string }

// fault is how an answer goes wrong, and after how many parts.
type fault struct {
	kind  faultKind
	after int
	every time.Duration
	err   apiError
}

type faultKind uint8

const (
	noFault faultKind = iota
	faultReset
	faultEnd
	faultStall
	faultKeepAlives
	faultError
)

// insert is what happens between two parts: raw bytes, a wait for a gate, or both.
type insert struct {
	after int
	raw   string
	gate  <-chan struct{}
}

// Answer is a good answer, streamed as the given parts, or whole if the request
// does not stream. Without parts it is an answer that says nothing.
func Answer(parts ...string) Response { return Response{kind: kindAnswer, text: parts} }

// Refusal is an answer in which the model declines: OpenAI streams it as a
// refusal instead of content, Anthropic as text with that stop reason.
func Refusal(parts ...string) Response {
	return Response{kind: kindAnswer, text: parts, refused: true}
}

// Raw is any answer at all: a status, a content type and a body, sent as they
// are, of which nothing is in a vendor's form.
func Raw(status int, contentType, body string) Response {
	return Response{kind: kindRaw, status: status, contentType: contentType, body: body}
}

// HTMLPage is what a captive portal or a misled gateway answers: a page, with
// status 200.
func HTMLPage() Response {
	return Raw(http.StatusOK, "text/html; charset=utf-8",
		"<!DOCTYPE html>\n<html><head><title>Sign in</title></head><body><h1>Sign in</h1></body></html>\n")
}

// Empty is an event stream with status 200 that ends without one byte.
func Empty() Response { return Raw(http.StatusOK, eventStream, "") }

// Reset cuts the connection before any byte of an answer: a TCP RST, or an
// RST_STREAM on HTTP/2.
func Reset() Response { return Response{kind: kindReset} }

// Silent accepts the request and never answers, not even with a header, until
// the client goes away or the server closes.
func Silent() Response { return Response{kind: kindSilent} }

// SlowHeaders waits before the header is sent.
func (r Response) SlowHeaders(d time.Duration) Response { r.slowHeaders = d; return r }

// FirstDelay waits between the header and the first part.
func (r Response) FirstDelay(d time.Duration) Response { r.firstDelay = d; return r }

// Pace waits between any two parts.
func (r Response) Pace(d time.Duration) Response { r.pace = d; return r }

// Stamped ends each part with what stamp returns when the part is sent, such as the
// time: who reads it then knows how long it was under way. It is for answers that
// stream.
func (r Response) Stamped(stamp func() string) Response { r.stamp = stamp; return r }

// Reasoning streams the model's thinking before the text.
func (r Response) Reasoning(parts ...string) Response {
	r.reasoning = append(slices.Clip(r.reasoning), parts...)
	return r
}

// ReasoningField names the member that holds the thinking in an OpenAI chunk:
// reasoning_content, the default, or reasoning. Servers use both.
func (r Response) ReasoningField(name string) Response { r.reasoningField = name; return r }

// Usage reports these numbers of tokens. Without it the input is estimated and
// the output is the number of parts.
func (r Response) Usage(input, output int) Response {
	r.usage = &usage{input, output}
	return r
}

// Finish gives the reason for the end in the words of either vendor ("stop",
// "length", "content_filter", "end_turn", "max_tokens", "refusal"), which the
// other's form translates; any other word is sent as it is. The empty one
// leaves the reason null.
func (r Response) Finish(reason string) Response { r.finish = &reason; return r }

// Unterminated leaves out the last event: OpenAI's [DONE], Anthropic's
// message_stop.
func (r Response) Unterminated() Response { r.unterminated = true; return r }

// Unstreamed answers a streaming request with the JSON body of one that is not.
func (r Response) Unstreamed() Response { r.unstreamed = true; return r }

// Header sets a header of the response after all others; an empty value
// removes it.
func (r Response) Header(name, value string) Response {
	r.headers = append(slices.Clip(r.headers), headerField{name, value})
	return r
}

// RetryAfter adds the vendor's hint to an error, in the vendor's headers: whole
// seconds, rounded up, and OpenAI's milliseconds beside them.
func (r Response) RetryAfter(d time.Duration) Response { r.retryAfter = d; return r }

// The faults. Each strikes after k parts, thinking included, or after the last
// part if there are fewer, and always before the terminal event. An answer that
// is not streamed is struck between its header and its body. The last fault
// given counts.

// ResetAfter cuts the connection after k parts: a TCP RST, or an RST_STREAM on
// HTTP/2.
func (r Response) ResetAfter(k int) Response {
	r.fault = fault{kind: faultReset, after: k}
	return r
}

// EndAfter ends the body properly after k parts.
func (r Response) EndAfter(k int) Response {
	r.fault = fault{kind: faultEnd, after: k}
	return r
}

// StallAfter falls silent after k parts, until the client goes away or the
// server closes.
func (r Response) StallAfter(k int) Response {
	r.fault = fault{kind: faultStall, after: k}
	return r
}

// KeepAlivesAfter sends nothing but keep-alives after k parts, until the client
// goes away or the server closes: SSE comments, or Anthropic's pings.
func (r Response) KeepAlivesAfter(k int, every time.Duration) Response {
	r.fault = fault{kind: faultKeepAlives, after: k, every: every}
	return r
}

// ErrorEventAfter sends an error inside the stream after k parts, in the form
// of the vendor of err, and ends the body. It panics unless err comes from one
// of the functions that build error responses.
func (r Response) ErrorEventAfter(k int, err Response) Response {
	if err.kind != kindError {
		panic("chattest: ErrorEventAfter needs an error response")
	}
	r.fault = fault{kind: faultError, after: k, err: err.failure}
	return r
}

// TruncateAt ends the body properly after n bytes, in the middle of a line or a
// character if it so happens. A shorter body is not touched.
func (r Response) TruncateAt(n int) Response { r.truncate = n + 1; return r }

// RawAfter sends raw bytes after k parts, and goes on.
func (r Response) RawAfter(k int, raw string) Response {
	r.inserts = append(slices.Clip(r.inserts), insert{after: k, raw: raw})
	return r
}

// HoldAfter waits after k parts until gate is closed, and goes on: for tests
// that must look at a stream while it stands at a known place.
func (r Response) HoldAfter(k int, gate <-chan struct{}) Response {
	r.inserts = append(slices.Clip(r.inserts), insert{after: k, gate: gate})
	return r
}
