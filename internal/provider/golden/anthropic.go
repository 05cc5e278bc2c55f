// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// anthropicError is an error as Anthropic sends it.
func anthropicError(kind, message string) string {
	return `{"type":"error","error":{"type":"` + kind + `","message":"` + message + `"},"request_id":"req_011CSHoEeqs5C35K2UUqR7Fy"}`
}

func anthropicCases() []Case {
	anthropic := func(name string, status int, kind, message string, want Want) Case {
		want.Code = kind
		return answer(provider.Anthropic, "Anthropic", name, status, anthropicError(kind, message), want)
	}
	gateway := func(from, name string, status int, body string, want Want) Case {
		return answer(provider.Anthropic, from, name, status, body, want)
	}
	const refused = "invalid_request_error"
	return []Case{
		anthropic("a wrong key", 401, "authentication_error", "invalid x-api-key", is(chatretry.AuthenticationFailed, "")),
		anthropic("no key", 401, "authentication_error", "x-api-key header is required", is(chatretry.AuthenticationFailed, "").
			says(`provider "vendor" demands a key (HTTP 401): name a Secret in credentials.secretKeyRef`)).withoutKey(),
		anthropic("what the key may not do", 403, "permission_error", "Your API key does not have permission to use the specified resource.", is(chatretry.PermissionDenied, "")),
		anthropic("an organization that was disabled", 400, refused, "This organization has been disabled.", is(chatretry.PermissionDenied, "")),
		anthropic("no money, at 400", 400, refused, "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits.", is(chatretry.QuotaExhausted, "")),
		anthropic("no money", 402, "billing_error", "Your organization has a payment problem.", is(chatretry.QuotaExhausted, "")),
		anthropic("the customer's own limit on spending", 400, refused, "You have reached your specified API usage limits. You will regain access on 2026-12-01 at 00:00 UTC.", is(chatretry.QuotaExhausted, "")),
		anthropic("a plan without long questions: the other meaning of 429", 429, "rate_limit_error", "Extra usage is required for long context requests.", is(chatretry.QuotaExhausted, "")),
		anthropic("too fast", 429, "rate_limit_error", "This request would exceed the rate limit for your organization of 40,000 input tokens per minute. For details, refer to: https://docs.claude.com/en/api/rate-limits.",
			is(chatretry.RateLimited, "").after(17*time.Second)).with("Retry-After", "17").with("X-Should-Retry", "true"),
		anthropic("overloaded", 529, "overloaded_error", "Overloaded", is(chatretry.Overloaded, "")),
		anthropic("a fault of the server", 500, "api_error", "Internal server error", is(chatretry.ServerError, "")),
		anthropic("a time-out of the server", 504, "timeout_error", "Request timed out", is(chatretry.Timeout, "")),
		anthropic("a model that is not there", 404, "not_found_error", "model: claude-9", is(chatretry.ModelNotFound, "")),
		anthropic("an address that is not there", 404, "not_found_error", "Not Found", is(chatretry.InvalidRequest, "").says(nothingHere)),
		anthropic("a question that is too long", 400, refused, "prompt is too long: 209513 tokens > 200000 maximum", is(chatretry.ContextLengthExceeded, "")),
		anthropic("a question and an answer that are too long together", 400, refused, "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000, decrease input length or `max_tokens` and try again", is(chatretry.ContextLengthExceeded, "")),
		anthropic("a request that is too large", 413, "request_too_large", "Request exceeds the maximum size", is(chatretry.ContextLengthExceeded, "")),
		anthropic("an answer that the filter refuses", 400, refused, "Output blocked by content filtering policy", is(chatretry.ContentFiltered, "")),
		anthropic("a token limit above the model's", 400, refused, "max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku", is(chatretry.InvalidRequest, "")),
		anthropic("a temperature out of range", 400, refused, "temperature: range: 0..1", is(chatretry.InvalidRequest, "")),
		anthropic("a parameter named timeout", 400, refused, "timeout: Extra inputs are not permitted", is(chatretry.InvalidRequest, "")),
		gateway("Cloudflare", "a page at 502", 502, "<html><head><title>api.anthropic.com | 502: Bad gateway</title></head></html>", is(chatretry.ServerError, "")),
		gateway("Cloudflare", "a page at 403", 403, "<html><head><title>403 Forbidden</title></head></html>", is(chatretry.PermissionDenied, "")),
		gateway("Cloudflare", "nothing at 520", 520, "", is(chatretry.ServerError, "")),
		gateway("Bedrock", "too fast", 429, `{"message":"Too many tokens, please wait before trying again."}`, is(chatretry.RateLimited, "")),
		gateway("Bedrock", "a model that the account may not use", 403, `{"message":"You don't have access to the model with the specified model ID."}`, is(chatretry.PermissionDenied, "")),
		gateway("LiteLLM", "an error in OpenAI's shape", 400, `{"error":{"message":"litellm.BadRequestError: AnthropicException - prompt is too long: 209513 tokens > 200000 maximum","type":"None","param":"None","code":"400"}}`,
			is(chatretry.ContextLengthExceeded, "400")),
		gateway("a server of type OpenAI", "an address that is not there", 404, `{"detail":"Not Found"}`, is(chatretry.InvalidRequest, "").says(nothingHere)),
		gateway("a portal", "a web page with status 200", 200, "<!doctype html><title>Sign in</title>",
			is(chatretry.InvalidRequest, "").says(`provider "vendor" answered with a web page: check baseURL, and the gateways on the way`)),
		gateway("a gateway", "an answer that is no stream", 200, `{"type":"message","role":"assistant","content":[{"type":"text","text":"Because."}],"stop_reason":"end_turn"}`,
			is(chatretry.InvalidRequest, "").says(`provider "vendor" answered with something that is no event stream: check baseURL and type`)),
	}
}
