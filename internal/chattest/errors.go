// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"bytes"
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// statusOverloaded is Anthropic's, and no registered HTTP status.
const statusOverloaded = 529

// requestIDMark stands in a message for the id of the request, which OpenAI
// repeats in some of its messages.
const requestIDMark = "{request_id}"

// apiError is an error in the form of one vendor.
type apiError struct {
	vendor  Vendor
	status  int
	kind    string
	code    string // OpenAI alone; "" is null
	param   string // OpenAI alone; "" is null
	message string
}

// response makes the error a response of its own.
func (e apiError) response() Response { return Response{kind: kindError, failure: e} }

// AnthropicErrorResponse is any error of Anthropic: an HTTP status, a type such
// as invalid_request_error, and a message.
func AnthropicErrorResponse(status int, kind, message string) Response {
	return apiError{vendor: Anthropic, status: status, kind: kind, message: message}.response()
}

// AnthropicOverloadedResponse is Anthropic's 529, without a hint when to return.
func AnthropicOverloadedResponse() Response {
	return AnthropicErrorResponse(statusOverloaded, "overloaded_error", "Overloaded")
}

// AnthropicRateLimitResponse is Anthropic's 429. Response.RetryAfter adds the
// hint that most of them carry.
func AnthropicRateLimitResponse() Response {
	return AnthropicErrorResponse(http.StatusTooManyRequests, "rate_limit_error",
		"This request would exceed the rate limit for your organization of 50 requests per minute. "+
			"For details, refer to: https://docs.claude.com/en/api/rate-limits.")
}

// OpenAIErrorResponse is any error of OpenAI: an HTTP status, a type such as
// invalid_request_error, a code such as model_not_found, which is null if
// empty, and a message.
func OpenAIErrorResponse(status int, kind, code, message string) Response {
	return apiError{vendor: OpenAI, status: status, kind: kind, code: code, message: message}.response()
}

// OpenAIRateLimitResponse is OpenAI's 429 for too many requests a minute.
// Response.RetryAfter adds the hint that most of them carry.
func OpenAIRateLimitResponse() Response {
	return OpenAIErrorResponse(http.StatusTooManyRequests, "requests", "rate_limit_exceeded",
		"Rate limit reached for requests per min (RPM): Limit 500, Used 500, Requested 1. Please try again in 120ms. "+
			"Visit https://platform.openai.com/account/rate-limits to learn more.")
}

// OpenAIServerErrorResponse is OpenAI's 500. Its message holds the request's id.
func OpenAIServerErrorResponse() Response {
	return OpenAIErrorResponse(http.StatusInternalServerError, "server_error", "",
		"The server had an error while processing your request. Sorry about that! You can retry your request, or "+
			"contact us through our help center at help.openai.com if the error persists. (Please include the request ID "+
			requestIDMark+" in your message.)")
}

// WrongKey is the answer of the vendor that r asked to a key that is wrong
// or, if r has none, missing.
func WrongKey(r Request) Response {
	if r.Vendor == Anthropic {
		message := "invalid x-api-key"
		if r.APIKey == "" {
			message = "x-api-key header is required"
		}
		return AnthropicErrorResponse(http.StatusUnauthorized, "authentication_error", message)
	}
	if r.APIKey == "" {
		return OpenAIErrorResponse(http.StatusUnauthorized, "invalid_request_error", "",
			"You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer "+
				"auth (i.e. Authorization: Bearer YOUR_KEY).")
	}
	return OpenAIErrorResponse(http.StatusUnauthorized, "invalid_request_error", "invalid_api_key",
		"Incorrect API key provided: "+masked(r.APIKey)+". You can find your API key at "+
			"https://platform.openai.com/account/api-keys.")
}

// UnknownModel is the answer of the vendor that r asked to a model it has not.
func UnknownModel(r Request) Response {
	if r.Vendor == Anthropic {
		return AnthropicErrorResponse(http.StatusNotFound, "not_found_error", "model: "+r.Model)
	}
	return OpenAIErrorResponse(http.StatusNotFound, "invalid_request_error", "model_not_found",
		"The model `"+r.Model+"` does not exist or you do not have access to it.")
}

// masked shows of a key what OpenAI shows of it.
func masked(key string) string {
	const shown = 4
	if len(key) <= 2*shown {
		return strings.Repeat("*", len(key))
	}
	return key[:shown] + strings.Repeat("*", len(key)-2*shown) + key[len(key)-shown:]
}

// payload is the error as JSON, compact as it stands in a stream.
func (e apiError) payload(id string) []byte {
	message := strings.ReplaceAll(e.message, requestIDMark, id)
	if e.vendor == Anthropic {
		type body struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		return encode(struct {
			Type      string `json:"type"`
			Error     body   `json:"error"`
			RequestID string `json:"request_id"`
		}{"error", body{e.kind, message}, id})
	}
	type body struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	}
	return encode(struct {
		Error body `json:"error"`
	}{body{message, e.kind, orNull(e.param), orNull(e.code)}})
}

// body is the error as an HTTP body; OpenAI indents it.
func (e apiError) body(id string) []byte {
	payload := e.payload(id)
	if e.vendor == Anthropic {
		return payload
	}
	var out bytes.Buffer
	if err := json.Indent(&out, payload, "", "    "); err != nil {
		panic(err) // it was just encoded
	}
	return out.Bytes()
}

// header sets what the vendor sends beside an error.
func (e apiError) header(h http.Header, retryAfter time.Duration, now time.Time) {
	h.Set("Content-Type", "application/json")
	limited := e.status == http.StatusTooManyRequests
	seconds := strconv.Itoa(int(math.Ceil(retryAfter.Seconds())))
	if retryAfter > 0 {
		h.Set("Retry-After", seconds)
	}
	if e.vendor == Anthropic {
		h.Set("X-Should-Retry", strconv.FormatBool(limited || e.status >= http.StatusInternalServerError))
		if limited {
			h.Set("Anthropic-Ratelimit-Requests-Limit", "50")
			h.Set("Anthropic-Ratelimit-Requests-Remaining", "0")
			h.Set("Anthropic-Ratelimit-Requests-Reset", now.Add(retryAfter).UTC().Format(time.RFC3339))
		}
		return
	}
	if retryAfter > 0 {
		h.Set("Retry-After-Ms", strconv.FormatInt(retryAfter.Milliseconds(), 10))
	}
	if limited {
		h.Set("X-Ratelimit-Limit-Requests", "500")
		h.Set("X-Ratelimit-Remaining-Requests", "0")
		h.Set("X-Ratelimit-Reset-Requests", retryAfter.String())
	}
}

// encode is json.Marshal without its escapes for HTML, which no vendor sends.
func encode(v any) []byte {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		panic(err) // the types of this package encode
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n"))
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
