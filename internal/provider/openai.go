// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"chatrun.dev/operator/internal/chatretry"
)

var openAI = vendor{
	defaultBase: "https://api.openai.com/v1",
	path:        func(string) string { return "chat/completions" },
	body:        openAIBody,
	authorise: func(h http.Header, key Key) {
		if !key.IsZero() {
			h.Set("Authorization", "Bearer "+key.Reveal())
		}
	},
	answer: func(c *call) answer { return &openAIAnswer{call: c} },
	codes:  openAICodes,
}

// openAICodes are codes and types of OpenAI and of those that speak its
// protocol. Types that say no more than the status does (invalid_request_error,
// api_error, server_error) are not among them.
var openAICodes = map[string]chatretry.Class{
	"invalid_api_key":                      chatretry.AuthenticationFailed,
	"invalid_authentication":               chatretry.AuthenticationFailed,
	"invalid_issuer":                       chatretry.AuthenticationFailed,
	"account_deactivated":                  chatretry.AuthenticationFailed,
	"auth_error":                           chatretry.AuthenticationFailed, // LiteLLM
	"unauthenticated":                      chatretry.AuthenticationFailed, // Google
	"insufficient_quota":                   chatretry.QuotaExhausted,
	"billing_hard_limit_reached":           chatretry.QuotaExhausted,
	"billing_not_active":                   chatretry.QuotaExhausted,
	"budget_exceeded":                      chatretry.QuotaExhausted, // LiteLLM
	"access_terminated":                    chatretry.PermissionDenied,
	"unsupported_country_region_territory": chatretry.PermissionDenied,
	"permission_denied":                    chatretry.PermissionDenied, // Google
	"key_model_access_denied":              chatretry.PermissionDenied, // LiteLLM
	"model_not_found":                      chatretry.ModelNotFound,
	"model_decommissioned":                 chatretry.ModelNotFound, // Groq
	"invalid_model":                        chatretry.ModelNotFound, // Mistral
	"deploymentnotfound":                   chatretry.ModelNotFound, // Azure
	"context_length_exceeded":              chatretry.ContextLengthExceeded,
	"string_above_max_length":              chatretry.ContextLengthExceeded,
	"exceed_context_size_error":            chatretry.ContextLengthExceeded, // llama.cpp
	"content_filter":                       chatretry.ContentFiltered,
	"content_policy_violation":             chatretry.ContentFiltered,
	"invalid_prompt":                       chatretry.ContentFiltered,
	"responsibleaipolicyviolation":         chatretry.ContentFiltered, // Azure
	"rate_limit_exceeded":                  chatretry.RateLimited,
	"rate_limited":                         chatretry.RateLimited, // Mistral
	"throttling_error":                     chatretry.RateLimited, // LiteLLM
	"server_is_overloaded":                 chatretry.Overloaded,
	"engine_overloaded":                    chatretry.Overloaded,
	"slow_down":                            chatretry.Overloaded,
	"unavailable":                          chatretry.Overloaded, // Google
	"unavailable_error":                    chatretry.Overloaded, // llama.cpp, while it loads the model
	"timeout":                              chatretry.Timeout,
}

// openAIKnowsCompletionTokens reports whether a base is OpenAI's own or
// Azure's; most other servers know max_tokens alone.
func openAIKnowsCompletionTokens(base string) bool {
	if base == "" {
		return true
	}
	u, err := url.Parse(base)
	if err != nil {
		return false
	}
	host := strings.ToLower(u.Hostname())
	for _, suffix := range []string{"api.openai.com", ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com"} {
		if host == suffix || strings.HasSuffix(host, "."+strings.TrimPrefix(suffix, ".")) {
			return true
		}
	}
	return false
}

type openAIMessage struct {
	Role    Role   `json:"role"`
	Content string `json:"content"`
}

type openAIStreamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type openAIRequest struct {
	Model               string               `json:"model"`
	Messages            []openAIMessage      `json:"messages"`
	Temperature         json.Number          `json:"temperature,omitempty"`
	TopP                json.Number          `json:"top_p,omitempty"`
	MaxTokens           int64                `json:"max_tokens,omitempty"`
	MaxCompletionTokens int64                `json:"max_completion_tokens,omitempty"`
	Stop                []string             `json:"stop,omitempty"`
	Stream              bool                 `json:"stream"`
	StreamOptions       *openAIStreamOptions `json:"stream_options,omitempty"`
}

func openAIBody(to Endpoint, ask Request, stream bool) ([]byte, error) {
	temperature, err1 := decimal(ask.Temperature)
	topP, err2 := decimal(ask.TopP)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	request := openAIRequest{Model: ask.Model, Temperature: temperature, TopP: topP, Stop: ask.Stop, Stream: stream}
	for _, m := range ask.Messages {
		request.Messages = append(request.Messages, openAIMessage(m))
	}
	if to.TokenLimit == TokenLimitMaxCompletionTokens ||
		to.TokenLimit != TokenLimitMaxTokens && openAIKnowsCompletionTokens(to.BaseURL) {
		request.MaxCompletionTokens = ask.MaxOutputTokens
	} else {
		request.MaxTokens = ask.MaxOutputTokens
	}
	if stream {
		request.StreamOptions = &openAIStreamOptions{IncludeUsage: true}
	}
	return json.Marshal(request)
}

// openAIAnswer reads chat completions and their chunks. Of several choices,
// which are never asked for, only the first counts.
type openAIAnswer struct {
	call    *call
	got     Result
	some    bool // some text came
	refusal bool
}

type openAIChunk struct {
	Choices []openAIChoice  `json:"choices"`
	Usage   *openAIUsage    `json:"usage"`
	Error   json.RawMessage `json:"error"`
}

type openAIChoice struct {
	Index        int           `json:"index"`
	Delta        openAIContent `json:"delta"`
	Message      openAIContent `json:"message"`
	FinishReason string        `json:"finish_reason"`
}

type openAIContent struct {
	Content openAIText `json:"content"`
	Refusal string     `json:"refusal"`
	// Two names for one thing: DeepSeek's and vLLM's, and OpenRouter's and
	// Ollama's. Some send both.
	ReasoningContent string `json:"reasoning_content"`
	Reasoning        string `json:"reasoning"`
}

// openAIUsage counts cached tokens as input, and reasoning as output.
type openAIUsage struct {
	PromptTokens     int64 `json:"prompt_tokens"`
	CompletionTokens int64 `json:"completion_tokens"`
}

func (a *openAIAnswer) result() Result { return a.got }

func (a *openAIAnswer) event(e event, part func(Part)) (bool, *chatretry.Failure) {
	data := bytes.TrimSpace(e.data)
	if len(data) == 0 {
		return false, nil
	}
	if string(data) == "[DONE]" {
		return true, a.end()
	}
	if len(e.name) == 0 {
		if text, ok := plainOpenAI(data); ok {
			a.emit(openAIContent{Content: openAIText{text: text}}, part)
			return false, nil
		}
	}
	var chunk openAIChunk
	err := json.Unmarshal(data, &chunk)
	if err != nil || isSet(chunk.Error) || len(e.name) > 0 || len(chunk.Choices) == 0 && chunk.Usage == nil {
		if f, ok := parseEventFault(e); ok {
			return false, a.call.blame(f, data)
		}
	}
	if err != nil {
		return false, a.call.failCause(chatretry.StreamInterrupted, "", "", errNotJSON)
	}
	return false, a.take(chunk, part)
}

// take takes a chunk, or a whole completion, which looks much the same.
func (a *openAIAnswer) take(chunk openAIChunk, part func(Part)) *chatretry.Failure {
	if u := chunk.Usage; u != nil {
		a.got.Usage = Usage{max(u.PromptTokens, 0), max(u.CompletionTokens, 0)}
	}
	for _, choice := range chunk.Choices {
		if choice.Index != 0 {
			continue
		}
		a.emit(choice.Delta, part)
		a.emit(choice.Message, part)
		switch choice.FinishReason {
		case "":
		case "stop":
			a.got.FinishReason = FinishStop
		case "length":
			a.got.FinishReason = FinishLength
		case "content_filter":
			a.got.FinishReason, a.refusal = FinishOther, true
		case "error": // OpenRouter's, when its own source broke off.
			return a.call.fail(chatretry.ServerError, "%s broke its answer off", "")
		default:
			a.got.FinishReason = FinishOther
		}
	}
	return nil
}

func (a *openAIAnswer) emit(c openAIContent, part func(Part)) {
	reasoning := c.ReasoningContent
	if reasoning == "" {
		reasoning = c.Reasoning
	}
	if reasoning += c.Content.reasoning; reasoning != "" {
		part(Part{Reasoning, reasoning})
	}
	if c.Content.text != "" {
		a.some = true
		part(Part{Text, c.Content.text})
	}
	a.refusal = a.refusal || c.Refusal != ""
}

// end judges the answer once [DONE] or the end of the body came: the finish
// reason of the choice is what makes it whole.
func (a *openAIAnswer) end() *chatretry.Failure {
	reason := a.got.FinishReason
	if reason == "" {
		return a.call.fail(chatretry.StreamInterrupted, "", "")
	}
	if failure := a.call.judge(reason, a.refusal, a.some); failure != nil {
		a.got.FinishReason = ""
		return failure
	}
	return nil
}

func (a *openAIAnswer) whole(body []byte) (string, *chatretry.Failure) {
	var completion openAIChunk
	if json.Unmarshal(body, &completion) != nil || isSet(completion.Error) || len(completion.Choices) == 0 {
		return "", errNotAnAnswer
	}
	var text strings.Builder
	failure := a.take(completion, func(p Part) {
		if p.Kind == Text {
			text.WriteString(p.Text)
		}
	})
	if failure == nil {
		failure = a.end()
	}
	return text.String(), failure
}

// openAIText is content: a string, null, or a list of typed pieces, as Mistral
// sends for models that think.
type openAIText struct{ text, reasoning string }

type openAIPiece struct {
	Type     string        `json:"type"`
	Text     string        `json:"text"`
	Thinking []openAIPiece `json:"thinking"`
}

// UnmarshalJSON reads any of the forms; one that is not known is no text.
func (t *openAIText) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '[' {
		var pieces []openAIPiece
		if json.Unmarshal(raw, &pieces) == nil {
			for _, piece := range pieces {
				t.text += piece.Text
				for _, thought := range piece.Thinking {
					t.reasoning += thought.Text
				}
			}
		}
		return nil
	}
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &t.text)
	}
	return nil
}
