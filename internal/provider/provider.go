// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package provider calls model endpoints: OpenAI chat completions, and
// everything that speaks it, and Anthropic messages. One call is one HTTP
// request; nothing here retries. Nothing is read from the environment.
package provider

import (
	"context"
	"errors"
	"time"
)

// Type is the protocol that an endpoint speaks.
type Type string

// The protocols.
const (
	OpenAI    Type = "OpenAI"
	Anthropic Type = "Anthropic"
)

// TokenLimitParameter is the name by which an OpenAI-like server knows the
// limit of output tokens.
type TokenLimitParameter string

// The names of the limit. The empty value means Auto.
const (
	// TokenLimitAuto sends max_completion_tokens to OpenAI's own host and to
	// Azure's, and max_tokens to every other.
	TokenLimitAuto TokenLimitParameter = "Auto"
	// TokenLimitMaxTokens sends max_tokens.
	TokenLimitMaxTokens TokenLimitParameter = "MaxTokens"
	// TokenLimitMaxCompletionTokens sends max_completion_tokens.
	TokenLimitMaxCompletionTokens TokenLimitParameter = "MaxCompletionTokens"
)

// Endpoint is who answers, with its credentials resolved.
type Endpoint struct {
	// Name is the ChatProvider's name, for messages.
	Name string
	Type Type
	// BaseURL is an absolute http or https URL, or empty for the vendor's own.
	BaseURL string
	// Key authenticates; the zero Key sends none.
	Key Key
	// Headers are sent with every request, after our own.
	Headers []Header
	// CABundle holds PEM certificates that are trusted beside the system's.
	CABundle string
	// TokenLimit applies to OpenAI alone.
	TokenLimit TokenLimitParameter
}

// Header is one HTTP header field.
type Header struct{ Name, Value string }

// Role is who speaks in a message.
type Role string

// The roles.
const (
	RoleSystem    Role = "system"
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
)

// Message is one turn of a conversation.
type Message struct {
	Role    Role
	Content string
}

// Request is what is asked. The zero value of an optional field sends nothing.
type Request struct {
	Model string
	// Messages holds the conversation, any system message first.
	Messages []Message
	// Temperature and TopP are decimal numbers as text.
	Temperature, TopP string
	// MaxOutputTokens bounds the answer; Anthropic demands a bound, and gets
	// DefaultMaxOutputTokens for 0.
	MaxOutputTokens int64
	Stop            []string
}

// DefaultMaxOutputTokens is sent to Anthropic, whose API demands a limit, for a
// request that names none. Every model that it serves today allows as much.
const DefaultMaxOutputTokens = 4096

// PartKind says what a Part holds.
type PartKind uint8

// The kinds of parts.
const (
	// Text belongs to the answer.
	Text PartKind = iota
	// Reasoning is the model's thinking, which is no part of the answer.
	Reasoning
)

// Part is one streamed fragment of an answer; its text is never empty.
type Part struct {
	Kind PartKind
	Text string
}

// FinishReason is why the model stopped.
type FinishReason string

// The reasons of a good end. A refusal or a filter is a failure, ContentFiltered.
const (
	// FinishStop: the answer is complete, or a stop sequence came.
	FinishStop FinishReason = "Stop"
	// FinishLength: the token limit or the context window cut the answer.
	FinishLength FinishReason = "Length"
	// FinishOther: a reason that this version does not know; the answer stands.
	FinishOther FinishReason = "Other"
)

// Usage counts tokens as the provider reported them.
type Usage struct {
	InputTokens, OutputTokens int64
}

// Add returns the sum.
func (u Usage) Add(v Usage) Usage {
	return Usage{u.InputTokens + v.InputTokens, u.OutputTokens + v.OutputTokens}
}

// Result is what a call reported beside its parts. It is meaningful also with
// an error: what was used before a failure was paid for.
type Result struct {
	FinishReason FinishReason
	// Usage is zero if the provider reported none.
	Usage Usage
}

// Caller calls a model. Client is the real one; tests pass their own.
type Caller interface {
	// Stream makes one streaming call and hands over each part as it comes, on
	// the caller's goroutine. It returns once the vendor's terminal event came,
	// or with an error: a *chatretry.Failure, or, if ctx ended, its cause,
	// unwrapped and unclassified.
	Stream(ctx context.Context, to Endpoint, ask Request, part func(Part)) (Result, error)
	// Complete makes one non-streaming call and returns the whole text. Its
	// errors are Stream's.
	Complete(ctx context.Context, to Endpoint, ask Request) (string, Result, error)
}

// Options configure a Client.
type Options struct {
	// EgressProxy is the http URL of a proxy for all calls, or empty. It may
	// hold a user and a password.
	EgressProxy string
	// NoProxy lists hosts, domains and CIDRs that are reached directly, in the
	// usual form of the variable of that name.
	NoProxy string
	// DenyCIDRs are refused as targets after name resolution, beside those that
	// always are: link-local, multicast and unspecified addresses, and the
	// metadata services of clouds. The proxy itself is exempt.
	DenyCIDRs []string
	// UserAgent is sent with every request; empty means DefaultUserAgent.
	UserAgent string
	// ConnectTimeout bounds the making of a connection, and its TLS handshake
	// once more; 0 means DefaultConnectTimeout.
	ConnectTimeout time.Duration
	// HeaderTimeout bounds the wait for the response header of a stream, a wait
	// for a connection included; 0 leaves it to the caller's context. Complete
	// has no such bound: its header comes when the whole answer is there.
	HeaderTimeout time.Duration
}

// DefaultConnectTimeout is long for any network, and short beside an attempt.
const DefaultConnectTimeout = 10 * time.Second

// DefaultUserAgent names the operator where Options name nobody.
const DefaultUserAgent = "chatrun-operator"

// ErrTargetRefused says that a provider's address is one that the operator
// never dials.
var ErrTargetRefused = errors.New("address is link-local, a cloud's metadata service or denied by the operator's flags")
