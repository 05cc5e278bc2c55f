// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"chatrun.dev/operator/internal/chatretry"
)

// anthropicVersion is the version of the API that is spoken here.
const anthropicVersion = "2023-06-01"

var anthropic = vendor{
	defaultBase: "https://api.anthropic.com",
	path: func(base string) string {
		// Both forms of a base are about, with the version and without.
		if strings.HasSuffix(strings.TrimRight(base, "/"), "/v1") {
			return "messages"
		}
		return "v1/messages"
	},
	body: anthropicBody,
	authorise: func(h http.Header, key Key) {
		h.Set("Anthropic-Version", anthropicVersion)
		if !key.IsZero() {
			h.Set("X-Api-Key", key.Reveal())
		}
	},
	answer: func(c *call) answer { return &anthropicAnswer{call: c} },
	codes:  anthropicCodes,
}

// anthropicCodes are the types of errors. invalid_request_error,
// not_found_error and api_error say no more than the status does.
var anthropicCodes = map[string]chatretry.Class{
	"authentication_error": chatretry.AuthenticationFailed,
	"permission_error":     chatretry.PermissionDenied,
	"billing_error":        chatretry.QuotaExhausted,
	"request_too_large":    chatretry.ContextLengthExceeded,
	"rate_limit_error":     chatretry.RateLimited,
	"overloaded_error":     chatretry.Overloaded,
	"timeout_error":        chatretry.Timeout,
}

type anthropicMessage struct {
	Role    Role   `json:"role"`
	Content string `json:"content"`
}

type anthropicRequest struct {
	Model         string             `json:"model"`
	MaxTokens     int64              `json:"max_tokens"`
	System        string             `json:"system,omitempty"`
	Messages      []anthropicMessage `json:"messages"`
	Temperature   json.Number        `json:"temperature,omitempty"`
	TopP          json.Number        `json:"top_p,omitempty"`
	StopSequences []string           `json:"stop_sequences,omitempty"`
	Stream        bool               `json:"stream"`
}

func anthropicBody(_ Endpoint, ask Request, stream bool) ([]byte, error) {
	temperature, err1 := decimal(ask.Temperature)
	topP, err2 := decimal(ask.TopP)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	request := anthropicRequest{
		Model: ask.Model, MaxTokens: ask.MaxOutputTokens, Temperature: temperature, TopP: topP,
		StopSequences: ask.Stop, Stream: stream,
	}
	if request.MaxTokens == 0 {
		request.MaxTokens = DefaultMaxOutputTokens
	}
	// A system message has no place among the others here.
	var system []string
	for _, m := range ask.Messages {
		if m.Role == RoleSystem {
			system = append(system, m.Content)
		} else {
			request.Messages = append(request.Messages, anthropicMessage(m))
		}
	}
	request.System = strings.Join(system, "\n\n")
	return json.Marshal(request)
}

// anthropicAnswer reads messages and their events.
type anthropicAnswer struct {
	call   *call
	usage  anthropicUsage
	reason string
	got    FinishReason
	some   bool // some text came
}

type anthropicEvent struct {
	Type    string          `json:"type"`
	Message anthropicWhole  `json:"message"`
	Block   anthropicBlock  `json:"content_block"`
	Delta   anthropicDelta  `json:"delta"`
	Usage   *anthropicUsage `json:"usage"`
}

type anthropicBlock struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Thinking string `json:"thinking"`
}

type anthropicDelta struct {
	anthropicBlock
	StopReason string `json:"stop_reason"`
}

// anthropicWhole is a message: an answer that was not streamed, or the empty
// one at the beginning of a stream.
type anthropicWhole struct {
	Type       string           `json:"type"`
	Content    []anthropicBlock `json:"content"`
	StopReason string           `json:"stop_reason"`
	Usage      *anthropicUsage  `json:"usage"`
}

type anthropicUsage struct {
	Input       int64 `json:"input_tokens"`
	CacheWrites int64 `json:"cache_creation_input_tokens"`
	CacheReads  int64 `json:"cache_read_input_tokens"`
	Output      int64 `json:"output_tokens"`
}

// result counts as input what was written to and read from the cache as well:
// all that the model read. OpenAI's count is the same.
func (a *anthropicAnswer) result() Result {
	u := a.usage
	return Result{a.got, Usage{u.Input + u.CacheWrites + u.CacheReads, u.Output}}
}

// count takes a report. Each is a total so far, and may leave out what did not
// change.
func (a *anthropicAnswer) count(u *anthropicUsage) {
	if u == nil {
		return
	}
	a.usage.Input = max(a.usage.Input, u.Input)
	a.usage.CacheWrites = max(a.usage.CacheWrites, u.CacheWrites)
	a.usage.CacheReads = max(a.usage.CacheReads, u.CacheReads)
	a.usage.Output = max(a.usage.Output, u.Output)
}

func (a *anthropicAnswer) event(e event, part func(Part)) (bool, *chatretry.Failure) {
	data := bytes.TrimSpace(e.data)
	if len(data) == 0 || string(data) == "[DONE]" { // A gateway's habit.
		return false, nil
	}
	if text, ok := plainAnthropic(data); ok {
		a.emit(anthropicBlock{Text: text}, part)
		return false, nil
	}
	var v anthropicEvent
	if err := json.Unmarshal(data, &v); err != nil {
		v.Type = ""
	}
	switch v.Type {
	case "message_start":
		a.count(v.Message.Usage)
	case "content_block_start":
		a.emit(v.Block, part)
	case "content_block_delta":
		a.emit(v.Delta.anthropicBlock, part)
	case "message_delta":
		a.count(v.Usage)
		if v.Delta.StopReason != "" {
			a.reason = v.Delta.StopReason
		}
	case "message_stop":
		return true, a.finish()
	case "ping":
	default:
		return false, a.odd(e, data)
	}
	return false, nil
}

// odd takes an event that is an error, in this vendor's shape or another's, or
// is not known yet, or is no event of the protocol at all.
func (a *anthropicAnswer) odd(e event, data []byte) *chatretry.Failure {
	if f, ok := parseEventFault(e); ok {
		return a.call.blame(f, data)
	}
	if json.Valid(data) {
		return nil
	}
	return a.call.failCause(chatretry.StreamInterrupted, "", "", errNotJSON)
}

func (a *anthropicAnswer) emit(b anthropicBlock, part func(Part)) {
	if b.Thinking != "" {
		part(Part{Reasoning, b.Thinking})
	}
	if b.Text != "" {
		a.some = true
		part(Part{Text, b.Text})
	}
}

// finish judges the answer once it ended properly.
func (a *anthropicAnswer) finish() *chatretry.Failure {
	reason := FinishOther
	switch a.reason {
	case "end_turn", "stop_sequence":
		reason = FinishStop
	case "max_tokens", "model_context_window_exceeded":
		reason = FinishLength
	}
	if failure := a.call.judge(reason, a.reason == "refusal", a.some); failure != nil {
		return failure
	}
	a.got = reason
	return nil
}

// end is a failure always: message_stop did not come.
func (a *anthropicAnswer) end() *chatretry.Failure {
	return a.call.fail(chatretry.StreamInterrupted, "", "")
}

func (a *anthropicAnswer) whole(body []byte) (string, *chatretry.Failure) {
	var message anthropicWhole
	if json.Unmarshal(body, &message) != nil || message.Type != "message" {
		return "", errNotAnAnswer
	}
	a.count(message.Usage)
	a.reason = message.StopReason
	var text strings.Builder
	for _, block := range message.Content {
		a.emit(block, func(p Part) {
			if p.Kind == Text {
				text.WriteString(p.Text)
			}
		})
	}
	return text.String(), a.finish()
}
