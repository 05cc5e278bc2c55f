// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// gatewayCases are those of gateways to the models of others.
func gatewayCases() []Case {
	gateway := func(from, name string, status int, body string, want Want) Case {
		return answer(provider.OpenAI, from, name, status, body, want)
	}
	return []Case{
		gateway("LiteLLM", "a wrong key of its own", 401, `{"error":{"message":"Authentication Error, Invalid proxy server token passed. Received API Key = sk-...cdef, Key Hash (Token) =88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b. Unable to find token in cache or database","type":"token_not_found_in_db","param":"key","code":"401"}}`,
			is(chatretry.AuthenticationFailed, "401")),
		gateway("LiteLLM", "a model that the key may not use, at 401", 401, `{"error":{"message":"key not allowed to access model. This key can only access models=['a']. Tried to access b","type":"key_model_access_denied","param":"model","code":"401"}}`,
			is(chatretry.PermissionDenied, "401")),
		gateway("LiteLLM", "a vendor's wrong key behind it, at 500", 500, `{"error":{"message":"litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided","type":null,"param":null,"code":"500"}}`,
			is(chatretry.AuthenticationFailed, "500")),
		gateway("LiteLLM", "the budget of a key, at 400", 400, `{"error":{"message":"Budget has been exceeded! Current cost: 1.02, Max budget: 1.0","type":"budget_exceeded","param":null,"code":"400"}}`,
			is(chatretry.QuotaExhausted, "400")),
		gateway("LiteLLM", "a question that is too long", 400, `{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: this is a test","type":null,"param":null,"code":"400"}}`,
			is(chatretry.ContextLengthExceeded, "400")),
		gateway("LiteLLM", "a vendor's limit behind it", 429, `{"error":{"message":"litellm.RateLimitError: RateLimitError: AzureException - Requests have exceeded token rate limit. Please retry after 86400 seconds.","type":"throttling_error","param":null,"code":"429"}}`,
			is(chatretry.RateLimited, "429").after(24*time.Hour)).with("Retry-After", "86400"),
		gateway("LiteLLM", "every deployment resting", 429, `{"error":{"message":"No deployments available for selected model, Try again in 5 seconds. Passed model=a","type":"None","param":"None","code":"429"}}`,
			is(chatretry.RateLimited, "429")),
		gateway("Azure", "too many tokens a minute", 429, `{"error":{"code":"429","message":"Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 20 seconds. Please go here: https://aka.ms/oai/quotaincrease if you would like to further increase the default rate limit."}}`,
			is(chatretry.RateLimited, "429").after(20*time.Second)).with("Retry-After", "20"),
		gateway("Azure", "a wrong key", 401, `{"error":{"code":"401","message":"Access denied due to invalid subscription key or wrong API endpoint. Make sure to provide a valid key for an active subscription and use a correct regional API endpoint for your resource."}}`,
			is(chatretry.AuthenticationFailed, "401")),
		gateway("Azure", "a network rule", 403, `{"error":{"code":"AccessDenied","message":"Access denied due to Virtual Network/Firewall rules."}}`,
			is(chatretry.PermissionDenied, "AccessDenied")),
		gateway("Azure", "a deployment that is not there", 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist. If you created the deployment within the last 5 minutes, please wait a moment and try again."}}`,
			is(chatretry.ModelNotFound, "DeploymentNotFound")),
		gateway("Azure", "an address that is not there", 404, `{"error":{"code":"404","message":"Resource not found"}}`,
			is(chatretry.InvalidRequest, "404").says(nothingHere)),
		gateway("Azure", "a prompt that the filter refuses", 400, `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}`,
			is(chatretry.ContentFiltered, "content_filter")),
		gateway("Azure", "a question that is too long", 400, `{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens. Please reduce the length of the messages.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`,
			is(chatretry.ContextLengthExceeded, "context_length_exceeded")),
		gateway("Azure API Management", "the quota of a subscription, at 403", 403, `{"statusCode":403,"message":"Out of call volume quota. Quota will be replenished in 00:24:43."}`,
			is(chatretry.QuotaExhausted, "")),
		gateway("Azure API Management", "no key", 401, `{"statusCode":401,"message":"Access denied due to missing subscription key. Make sure to include subscription key when making requests to an API."}`,
			is(chatretry.AuthenticationFailed, "")),
		gateway("Azure API Management", "too fast", 429, `{"statusCode":429,"message":"Rate limit is exceeded. Try again in 12 seconds."}`,
			is(chatretry.RateLimited, "").after(12*time.Second)).with("Retry-After", "12"),
		gateway("OpenRouter", "no credits", 402, `{"error":{"message":"Insufficient credits. Add more using https://openrouter.ai/settings/credits","code":402}}`,
			is(chatretry.QuotaExhausted, "402")),
		gateway("OpenRouter", "a prompt that the filter refuses, at 403", 403, `{"error":{"message":"x/y requires moderation on Z. Your input was flagged for \"violence\". No credits were charged.","code":403,"metadata":{"reasons":["violence"],"flagged_input":"…","provider_name":"Z","model_slug":"x/y"}}}`,
			is(chatretry.ContentFiltered, "403")),
		gateway("OpenRouter", "a model that nobody serves", 404, `{"error":{"message":"No endpoints found for nousresearch/hermes-3-llama-3.1-405b:free.","code":404}}`,
			is(chatretry.ModelNotFound, "404")),
		gateway("OpenRouter", "a model that is not there, at 400", 400, `{"error":{"message":"x/y is not a valid model ID","code":400},"user_id":"user_2"}`,
			is(chatretry.ModelNotFound, "400")),
		gateway("OpenRouter", "its own source is too busy", 429, `{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"x/y:free is temporarily rate-limited upstream. Please retry shortly","provider_name":"Z"}}}`,
			is(chatretry.RateLimited, "429")),
		gateway("OpenRouter", "its own source failed", 502, `{"error":{"message":"Provider returned error","code":502,"metadata":{"raw":"error code: 502","provider_name":"Z"}}}`,
			is(chatretry.ServerError, "502")),
		gateway("One API", "503, and a model that it does not know", 503, `{"error":{"code":"model_not_found","message":"No available channel for model gpt-9 under group default (distributor) (request id: 20251128223112878)","type":"new_api_error"}}`,
			is(chatretry.ModelNotFound, "model_not_found")),
		gateway("One API, older", "503, and a model that it does not know", 503, `{"error":{"message":"No available channels for model gpt-9 in group default (request id: 2025)","type":"one_api_error"}}`,
			is(chatretry.ModelNotFound, "one_api_error")),
		gateway("a gateway", "503, invalid model", 503, `upstream: invalid model`, is(chatretry.ModelNotFound, "")),
	}
}

// cloudCases are those of clouds that sell other models by this protocol.
func cloudCases() []Case {
	cloud := func(from, name string, status int, body string, want Want) Case {
		return answer(provider.OpenAI, from, name, status, body, want)
	}
	return []Case{
		cloud("Google", "a wrong key, at 400", 400, `[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}]`,
			is(chatretry.AuthenticationFailed, "400")),
		cloud("Google", "too fast, in words of money", 429, `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. Please retry in 38.2s.","status":"RESOURCE_EXHAUSTED"}}]`,
			is(chatretry.RateLimited, "429")),
		cloud("Google", "overloaded", 503, `[{"error":{"code":503,"message":"The model is overloaded. Please try again later.","status":"UNAVAILABLE"}}]`,
			is(chatretry.Overloaded, "503")),
		cloud("Google", "a question that is too long", 400, `[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]`,
			is(chatretry.ContextLengthExceeded, "400")),
		cloud("Bedrock", "a question that is too long", 400, `{"message":"Input is too long for requested model."}`,
			is(chatretry.ContextLengthExceeded, "")),
		cloud("Groq", "a request above the limit of a minute, at 413", 413, "{\"error\":{\"message\":\"Request too large for model `x` in organization `org` service tier `on_demand` on tokens per minute (TPM): Limit 6000, Requested 9000\",\"type\":\"tokens\",\"code\":\"rate_limit_exceeded\"}}",
			is(chatretry.ContextLengthExceeded, "rate_limit_exceeded")),
		cloud("Groq", "a model that was taken away", 400, "{\"error\":{\"message\":\"The model `x` has been decommissioned and is no longer supported.\",\"type\":\"invalid_request_error\",\"code\":\"model_decommissioned\"}}",
			is(chatretry.ModelNotFound, "model_decommissioned")),
		cloud("Mistral", "a wrong model", 400, `{"object":"error","message":"Invalid model: x","type":"invalid_model","param":null,"code":"1500"}`,
			is(chatretry.ModelNotFound, "1500")),
		cloud("Mistral", "no capacity for the tier", 429, `{"object":"error","message":"Service tier capacity exceeded for this model.","type":"service_tier_capacity_exceeded","param":null,"code":"3505"}`,
			is(chatretry.RateLimited, "3505")),
		cloud("DeepSeek", "no money", 402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`,
			is(chatretry.QuotaExhausted, "invalid_request_error")),
		cloud("SiliconFlow", "no money, at 403", 403, `{"code":30001,"message":"Sorry, your account balance is insufficient","data":null}`,
			is(chatretry.QuotaExhausted, "30001")),
		cloud("xAI", "a question that is too long", 400, `{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens."}`,
			is(chatretry.ContextLengthExceeded, "Client specified an invalid argument")),
		cloud("Moonshot", "a question that is too long", 400, `{"error":{"message":"Invalid request: Your request exceeded model token limit: 8192","type":"invalid_request_error"}}`,
			is(chatretry.ContextLengthExceeded, "invalid_request_error")),
	}
}

// middleCases are those of what stands between, and knows nothing of models.
func middleCases() []Case {
	middle := func(from, name string, status int, body string, want Want) Case {
		return answer(provider.OpenAI, from, name, status, body, want)
	}
	return []Case{
		middle("nginx", "a body that is too large", 413, "<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body></body>\r\n</html>\r\n",
			is(chatretry.ContextLengthExceeded, "")),
		middle("nginx", "a time-out in front of the server", 504, "<html>\r\n<head><title>504 Gateway Time-out</title></head>\r\n<body></body>\r\n</html>\r\n",
			is(chatretry.ServerError, "")),
		middle("nginx", "a redirect", 308, "<html><head><title>308 Permanent Redirect</title></head></html>",
			is(chatretry.InvalidRequest, "").says(`the address of provider "vendor" redirects, which is not followed (HTTP 308): set baseURL to where it leads`)).with("Location", "https://elsewhere.example/v1?token=secret"),
		middle("Envoy", "nobody behind it", 503, "no healthy upstream", is(chatretry.Overloaded, "")),
		middle("Envoy", "a reset behind it", 503, "upstream connect error or disconnect/reset before headers. reset reason: connection timeout", is(chatretry.Overloaded, "")),
		middle("Cloudflare", "a time-out behind it", 524, "error code: 524", is(chatretry.ServerError, "")),
		middle("a server", "a time-out of its own", 408, ``, is(chatretry.Timeout, "")),
		middle("a portal", "a web page with status 200", 200, "<!doctype html><title>Sign in</title>",
			is(chatretry.InvalidRequest, "").says(`provider "vendor" answered with a web page: check baseURL, and the gateways on the way`)),
		middle("a gateway", "an answer that is no stream", 200, `{"choices":[{"index":0,"message":{"role":"assistant","content":"Because."},"finish_reason":"stop"}]}`,
			is(chatretry.InvalidRequest, "").says(`provider "vendor" answered with something that is no event stream: check baseURL and type`)),
		middle("a gateway", "an error object with status 200", 200, `{"error":{"message":"…","type":"insufficient_quota","code":"insufficient_quota"}}`,
			is(chatretry.QuotaExhausted, "insufficient_quota")),
		middle("a gateway", "a compressed stream", 200, openAIPart,
			is(chatretry.InvalidRequest, "").says(`provider "vendor" compressed its answer unasked: switch compression off there`)).with("Content-Encoding", "gzip"),
		middle("a gateway", "a status that nobody foresaw", 418, `short and stout`, is(chatretry.InvalidRequest, "")),
	}
}
