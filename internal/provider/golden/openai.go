// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

func openAICases() []Case {
	openAI := func(name string, status int, body string, want Want) Case {
		return answer(provider.OpenAI, "OpenAI", name, status, body, want)
	}
	return []Case{
		openAI("a wrong key", 401, `{"error":{"message":"Incorrect API key provided: sk-proj-********************cdef. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`,
			is(chatretry.AuthenticationFailed, "invalid_api_key")),
		openAI("no key", 401, `{"error":{"message":"You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).","type":"invalid_request_error","param":null,"code":null}}`,
			is(chatretry.AuthenticationFailed, "invalid_request_error").says(`provider "vendor" demands a key (HTTP 401): name a Secret in credentials.secretKeyRef`)).withoutKey(),
		openAI("no money: the other meaning of 429", 429, `{"error":{"message":"You exceeded your current quota, please check your plan and billing details. For more information on this error, read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`,
			is(chatretry.QuotaExhausted, "insufficient_quota")),
		openAI("an account that is not active, at 429", 429, `{"error":{"message":"Your account is not active, please check your billing details on our website.","type":"billing_not_active","param":null,"code":"billing_not_active"}}`,
			is(chatretry.QuotaExhausted, "billing_not_active")),
		openAI("the hard limit on spending, at 400", 400, `{"error":{"message":"Billing hard limit has been reached","type":"invalid_request_error","param":null,"code":"billing_hard_limit_reached"}}`,
			is(chatretry.QuotaExhausted, "billing_hard_limit_reached")),
		openAI("too many requests a minute", 429, `{"error":{"message":"Rate limit reached for gpt-5 in organization org-abc on requests per min (RPM): Limit 500, Used 500, Requested 1. Please try again in 120ms. Visit https://platform.openai.com/account/rate-limits to learn more.","type":"requests","param":null,"code":"rate_limit_exceeded"}}`,
			is(chatretry.RateLimited, "rate_limit_exceeded").after(120*time.Millisecond)).with("Retry-After", "1").with("Retry-After-Ms", "120"),
		openAI("too many tokens a minute", 429, `{"error":{"message":"Rate limit reached for gpt-5 in organization org-abc on tokens per min (TPM): Limit 30000, Used 29500, Requested 900. Please try again in 800ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`,
			is(chatretry.RateLimited, "rate_limit_exceeded").after(7*time.Second)).with("Retry-After", "7"),
		openAI("one request above the limit of a minute", 429, `{"error":{"message":"Request too large for gpt-5 in organization org-abc on tokens per min (TPM): Limit 30000, Requested 40000. The input or output tokens must be reduced in order to run successfully.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`,
			is(chatretry.ContextLengthExceeded, "rate_limit_exceeded")),
		openAI("overloaded", 503, `{"error":{"message":"The server is currently overloaded with other requests. Sorry about that! You can retry your request, or contact us through our help center at help.openai.com if the error persists.","type":"server_error","param":null,"code":null}}`,
			is(chatretry.Overloaded, "server_error")),
		openAI("slow down", 503, `{"error":{"message":"Slow Down: please reduce your request rate to its original level.","type":"server_error","param":null,"code":"slow_down"}}`,
			is(chatretry.Overloaded, "slow_down")),
		openAI("a fault of the server", 500, `{"error":{"message":"The server had an error while processing your request. Sorry about that! (Please include the request ID req_401 in your message.)","type":"server_error","param":null,"code":null}}`,
			is(chatretry.ServerError, "server_error")),
		openAI("a fault of the server, without a body", 500, ``, is(chatretry.ServerError, "")),
		openAI("a gateway's page", 502, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>cloudflare</center>\r\n</body>\r\n</html>\r\n",
			is(chatretry.ServerError, "")),
		openAI("a model that is not there", 404, "{\"error\":{\"message\":\"The model `gpt-9` does not exist or you do not have access to it.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}",
			is(chatretry.ModelNotFound, "model_not_found")),
		openAI("a model that the project may not use", 403, "{\"error\":{\"message\":\"Project `proj_abc` does not have access to model `gpt-5`\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}",
			is(chatretry.ModelNotFound, "model_not_found")),
		openAI("an address that is not there", 404, `{"error":{"message":"Invalid URL (POST /chat/completions)","type":"invalid_request_error","param":null,"code":null}}`,
			is(chatretry.InvalidRequest, "invalid_request_error").says(`provider "vendor" has nothing at this address (HTTP 404): check baseURL, which ends in /v1 for most servers of type OpenAI`)),
		openAI("a country that is not served", 403, `{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}`,
			is(chatretry.PermissionDenied, "unsupported_country_region_territory")),
		openAI("a page of the firewall", 403, "<!DOCTYPE html><html lang=\"en-US\"><head><title>Just a moment...</title></head><body>Unauthorized? Invalid API key? Rate limit? No: enable JavaScript</body></html>",
			is(chatretry.PermissionDenied, "")),
		openAI("an organization that is not verified", 400, `{"error":{"message":"Your organization must be verified to stream this model. Please go to: https://platform.openai.com/settings/organization/general and click on Verify Organization.","type":"invalid_request_error","param":"stream","code":"unsupported_value"}}`,
			is(chatretry.PermissionDenied, "unsupported_value")),
		openAI("a question that is too long", 400, `{"error":{"message":"This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`,
			is(chatretry.ContextLengthExceeded, "context_length_exceeded")),
		openAI("a question that is too long, newer words", 400, `{"error":{"message":"Your input exceeds the context window of this model. Please adjust your input and try again.","type":"invalid_request_error","param":"input","code":"context_length_exceeded"}}`,
			is(chatretry.ContextLengthExceeded, "context_length_exceeded")),
		openAI("a message that is too long", 400, `{"error":{"message":"Invalid 'messages[0].content': string too long. Expected a string with maximum length 10485760, but got a string with length 10485761 instead.","type":"invalid_request_error","param":"messages[0].content","code":"string_above_max_length"}}`,
			is(chatretry.ContextLengthExceeded, "string_above_max_length")),
		openAI("a prompt that the filter refuses", 400, `{"error":{"message":"Invalid prompt: your prompt was flagged as potentially violating our usage policy. Please try again with a different prompt.","type":"invalid_request_error","param":null,"code":"invalid_prompt"}}`,
			is(chatretry.ContentFiltered, "invalid_prompt")),
		openAI("the old name of the token limit", 400, `{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}`,
			is(chatretry.InvalidRequest, "unsupported_parameter").says(`provider "vendor" does not know max_tokens (HTTP 400): set openAI.tokenLimitParameter to MaxCompletionTokens`)),
		openAI("a temperature that the model does not take", 400, `{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) value is supported.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}`,
			is(chatretry.InvalidRequest, "unsupported_value").says(`provider "vendor" refuses parameters.temperature (HTTP 400): change it; the manager's log has the provider's words`)),
		openAI("a parameter named timeout", 400, `{"error":{"message":"Unrecognized request argument supplied: timeout","type":"invalid_request_error","param":null,"code":null}}`,
			is(chatretry.InvalidRequest, "invalid_request_error")),
		openAI("two requests that meet", 409, `{"error":{"message":"The resource was updated by another request.","type":"invalid_request_error","param":null,"code":null}}`,
			is(chatretry.InvalidRequest, "invalid_request_error")),
	}
}

// hintCases are hints when to come back, in the forms that the others lack.
func hintCases() []Case {
	limited := func(name string, want Want) Case { return answer(provider.OpenAI, "a server", name, 429, "", want) }
	return []Case{
		limited("a hint as a date", is(chatretry.RateLimited, "").after(20*time.Second)).
			with("Date", "Mon, 02 Jan 2006 15:04:05 GMT").with("Retry-After", "Mon, 02 Jan 2006 15:04:25 GMT"),
		limited("a hint that is none", is(chatretry.RateLimited, "")).with("Retry-After", "soon"),
	}
}
