// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"unicode"
)

// statusOverloaded is Anthropic's, and no registered HTTP status.
const statusOverloaded = 529

// IsRetryable reports whether another attempt may mend err. A Failure anywhere
// in the chain decides by its class. Without one, nil and the end of the
// caller's own context are final, and everything else is a transport error,
// which is worth another try within the limit.
func IsRetryable(err error) bool {
	if err == nil {
		return false
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return f.Class.Retryable()
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// StatusCodeRetryable reports whether an HTTP answer with this status, and
// nothing else known about it, is worth another attempt.
func StatusCodeRetryable(code int) bool {
	return ClassifyStatus(code).Retryable()
}

// ClassifyStatus gives the class of an HTTP answer of which only the status is
// known. A status that nobody foresaw is InvalidRequest, so it ends the run.
func ClassifyStatus(code int) Class {
	switch code {
	case http.StatusUnauthorized:
		return AuthenticationFailed
	case http.StatusPaymentRequired:
		return QuotaExhausted
	case http.StatusForbidden:
		return PermissionDenied
	case http.StatusRequestEntityTooLarge:
		return ContextLengthExceeded
	case http.StatusRequestTimeout:
		return Timeout
	case http.StatusTooManyRequests:
		return RateLimited
	case http.StatusServiceUnavailable, statusOverloaded:
		return Overloaded
	case http.StatusTooEarly:
		return ServerError
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		// The server will not learn it between two attempts.
		return InvalidRequest
	}
	if code >= 500 && code <= 599 {
		return ServerError
	}
	return InvalidRequest
}

// phrases that vendors and gateways use where type and code tell too little,
// by class; permanent ones first, for a permanent word beats a transient one.
// Each is matched as whole words in lower case, in which everything but letters
// and digits is a space: "model_not_found" is "model not found".
var phrases = []struct {
	class Class
	texts []string
}{
	{ContextLengthExceeded, []string{
		"prompt is too long", "prompt too long", "context length exceeded", "maximum context length", "input is too long",
		"exceeds the context window", "exceed context window", "context window exceeded", "exceeds the context length",
		"exceeds the available context size", "exceed context limit", "too many tokens in the prompt",
		"exceeds the maximum number of tokens", "reduce the length of the messages", "reduce the length of your prompt",
		"request too large", "request is too large", "contextwindowexceedederror",
		"exceeds the maximum context length", "longer than the maximum model length", "longer than the model s context length", // vLLM, SGLang
		"context size has been exceeded", "when context the overflows", "when context overflows", "greater than the context length", // llama.cpp, LM Studio
		"inputs tokens max new tokens must be",                // Text Generation Inference
		"maximum prompt length", "exceeded model token limit", // xAI, Moonshot
	}},
	{QuotaExhausted, []string{
		"insufficient quota", "exceeded your current quota", "credit balance is too low", "billing hard limit",
		"out of credits", "insufficient credits", "insufficient balance", "insufficient funds", "budget has been exceeded",
		"check your plan and billing", "check your billing details", "spending limit reached",
		"reached your specified api usage limits", "extra usage is required", // Anthropic
		"account balance is insufficient", "out of call volume quota", // SiliconFlow, Azure API Management
	}},
	{AuthenticationFailed, []string{
		"invalid api key", "incorrect api key", "invalid x api key", "no api key", "api key not valid", "api key is invalid",
		"api key expired", "api key has expired", "didn t provide an api key", "invalid authentication", "invalid bearer token",
		"authentication error", "authentication failed", "authenticationerror", "unauthorized",
		"invalid subscription key", "missing subscription key", // Azure
	}},
	{ModelNotFound, []string{
		"invalid model", "unknown model", "model not found", "no such model", "model does not exist",
		"unsupported model", "model is not supported", "model has been decommissioned",
		"not a valid model", "no endpoints found", // OpenRouter
		"no available channel for model", "no available channels for model", // One API and its kin
	}},
	{PermissionDenied, []string{
		"permission denied", "permission error", "permissiondeniederror", "access denied", "forbidden",
		"organization must be verified", "organization has been disabled", "not allowed to access model",
	}},
	{ContentFiltered, []string{
		"content filter", "content management policy", "content policy violation", "contentpolicyviolationerror",
		"safety system", "content filtering policy", "prompt was flagged", "input was flagged",
	}},
	{RateLimited, []string{"rate limit", "rate limited", "rate limits", "ratelimit", "ratelimiterror", "too many requests"}},
	{Overloaded, []string{
		"overloaded", "at capacity", "over capacity", "no capacity", "server is busy", "temporarily unavailable",
		"no healthy upstream",
	}},
}

// hastes say that a little patience mends it. Google tells of a limit by the
// minute in the same words as of a spent quota, and of the wait after them.
var hastes = []string{"please retry in", "please retry after", "please try again in"}

// ClassifyText is the last resort: it looks for a known phrase in the words of
// a provider's message, never in parts of words, and reports false when there
// is none. The text may be anything; it is not kept.
func ClassifyText(text string) (Class, bool) {
	words := " " + strings.Join(strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}), " ") + " "
	for _, p := range phrases {
		if !containsAny(words, p.texts) {
			continue
		}
		if p.class == QuotaExhausted && containsAny(words, hastes) {
			return RateLimited, true
		}
		return p.class, true
	}
	// "The model `x` does not exist or you do not have access to it."
	if containsAny(words, []string{"model"}) && containsAny(words, []string{"does not exist", "not found"}) {
		return ModelNotFound, true
	}
	return "", false
}

// containsAny reports whether one of the phrases stands in words, which begin
// and end with a space.
func containsAny(words string, phrases []string) bool {
	for _, p := range phrases {
		if strings.Contains(words, " "+p+" ") {
			return true
		}
	}
	return false
}
