// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package stream holds the events of a run's stream as plain Go types, for
// any client that reads the stream endpoint. It imports the standard library
// alone, and its JSON is the wire format.
//
// A frame of the stream is a server-sent event: `id:` is the cursor, `event:`
// one of the names below, `data:` one JSON object of the matching type.
package stream

import "time"

// Name is the name of an event, as it stands in the `event:` line.
type Name string

// The events of a stream. Done and Failed are the only ones that end a run;
// Done is always the last frame, also after Failed.
const (
	// EventStatus carries Status. It is the first frame that every reader gets.
	EventStatus Name = "status"
	// EventMessagePart carries MessagePart.
	EventMessagePart Name = "message_part"
	// EventRetry carries Retry. No part of the attempt it names follows it.
	EventRetry Name = "retry"
	// EventReset carries Reset: drop the draft, its text comes anew.
	EventReset Name = "reset"
	// EventTitle carries Title.
	EventTitle Name = "title"
	// EventUsage carries Usage.
	EventUsage Name = "usage"
	// EventFailed carries Failed. It is not named `error`, which a browser's
	// EventSource would mix with its own event of that name.
	EventFailed Name = "failed"
	// EventDone carries Done. The server closes the stream after it.
	EventDone Name = "done"
)

// Status says where a run stands.
type Status struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
	// Phase is the run's status.phase: Pending, Streaming, Retrying, Suspended,
	// Succeeded, Failed or Cancelled.
	Phase string `json:"phase"`
	// Reason is the reason of the run's Succeeded condition.
	Reason string `json:"reason,omitempty"`
	// Message is the message of the run's Succeeded condition.
	Message string `json:"message,omitempty"`
	// Attempt is the number of the attempt under way or last made; 0 before the first.
	Attempt int32 `json:"attempt"`
	// Model is the model that answers, once it is known.
	Model string `json:"model,omitempty"`
	// Title is the run's title, if one stands.
	Title string `json:"title,omitempty"`
}

// Role is who speaks in a MessagePart.
type Role string

// RoleAssistant is the model.
const RoleAssistant Role = "assistant"

// MessagePart is one streamed fragment. Exactly one of Text and Reasoning is set.
type MessagePart struct {
	Role Role `json:"role"`
	// Text is to be appended to the draft of the answer.
	Text string `json:"text,omitempty"`
	// Reasoning is the model's thinking, which is no part of the answer.
	Reasoning string `json:"reasoning,omitempty"`
}

// Retry says that an attempt failed and that another will be made.
type Retry struct {
	// Attempt is the number of the attempt that failed, from 1.
	Attempt int32 `json:"attempt"`
	// DelayMs is the wait before the next attempt, in milliseconds.
	DelayMs int64 `json:"delayMs"`
	// Error is a safe one-line text: what happened.
	Error string `json:"error"`
	// Reason is the class of the failure, as in status.lastErrorReason.
	Reason string `json:"reason,omitempty"`
	// RetryingAt is when the wait ends, as in status.retryingAt.
	RetryingAt time.Time `json:"retryingAt"`
}

// Reset says that the draft so far is to be dropped: a new attempt begins, or
// the reader fell behind and gets the whole text so far anew.
type Reset struct {
	// Attempt is the number of the attempt whose text follows.
	Attempt int32 `json:"attempt"`
}

// Title is the run's generated title.
type Title struct {
	Title string `json:"title"`
}

// Usage counts tokens over all attempts that reported them.
type Usage struct {
	InputTokens  int64 `json:"inputTokens"`
	OutputTokens int64 `json:"outputTokens"`
}

// Failed says why a run failed.
type Failed struct {
	// Reason is the reason of the run's Succeeded condition.
	Reason string `json:"reason"`
	// Message is a safe one-line text: what happened and what to do.
	Message string `json:"message"`
}

// Done is the final status.
type Done struct {
	Status
	// FinishReason is why the model stopped, if it did.
	FinishReason string `json:"finishReason,omitempty"`
	// Bytes is the size of the whole answer in bytes.
	Bytes int64 `json:"bytes"`
	// Truncated says that less than the whole answer is kept.
	Truncated bool `json:"truncated,omitempty"`
}
