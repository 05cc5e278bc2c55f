// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
)

// checkMessage checks what every message promises.
func checkMessage(t testing.TB, f *chatretry.Failure) {
	t.Helper()
	switch {
	case f.Message == "" || len(f.Message) > maxMessage || !utf8.ValidString(f.Message):
		t.Errorf("message %q of %d bytes", f.Message, len(f.Message))
	case strings.IndexFunc(f.Message, unicode.IsControl) >= 0:
		t.Errorf("message %q is no line", f.Message)
	case strings.Contains(f.Message, secret), f.Err != nil && strings.Contains(f.Err.Error(), secret), strings.Contains(f.Code, secret):
		t.Errorf("the key is in %#v", f)
	case strings.Contains(f.Message, "%!"), strings.Contains(f.Message, "%s"):
		t.Errorf("message %q is not finished", f.Message)
	case f.Err != nil && len(f.Err.Error()) > maxExcerpt+100:
		t.Errorf("excerpt of %d bytes", len(f.Err.Error()))
	}
}

// HTTP errors as they are really sent.
func TestHTTPErrors(t *testing.T) {
	tests := []struct {
		name   string
		kind   Type
		status int
		body   string
		class  chatretry.Class
		words  string // in the message
	}{
		{"wrong key", OpenAI, 401, `{"error":{"message":"Incorrect API key provided: sk-t****cdef. You can find your API key at https://platform.openai.com/account/api-keys.","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`, chatretry.AuthenticationFailed, `provider "vendor" refused the key (HTTP 401): check the Secret`},
		{"no key", OpenAI, 401, `{"error":{"message":"You didn't provide an API key.","type":"invalid_request_error","param":null,"code":null}}`, chatretry.AuthenticationFailed, "refused the key"},
		{"wrong key", Anthropic, 401, `{"type":"error","error":{"type":"authentication_error","message":"invalid x-api-key"},"request_id":"req_1"}`, chatretry.AuthenticationFailed, "check the Secret"},
		{"wrong key, Google", OpenAI, 400, `[{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}]`, chatretry.AuthenticationFailed, ""},
		{"wrong key, FastAPI", OpenAI, 401, `{"error":"Unauthorized"}`, chatretry.AuthenticationFailed, ""},
		{"wrong key, LiteLLM", OpenAI, 401, `{"error":{"message":"Authentication Error, Invalid proxy server token passed.","type":"auth_error","param":"None","code":"401"}}`, chatretry.AuthenticationFailed, ""},
		{"no money", OpenAI, 429, `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`, chatretry.QuotaExhausted, "no quota left (HTTP 429): check its plan"},
		{"no money", Anthropic, 400, `{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."}}`, chatretry.QuotaExhausted, ""},
		{"no money", Anthropic, 402, `{"type":"error","error":{"type":"billing_error","message":"…"}}`, chatretry.QuotaExhausted, ""},
		{"no money, DeepSeek", OpenAI, 402, `{"error":{"message":"Insufficient Balance","type":"unknown_error","param":null,"code":"invalid_request_error"}}`, chatretry.QuotaExhausted, ""},
		{"budget, LiteLLM", OpenAI, 400, `{"error":{"message":"Budget has been exceeded! Current cost: 1.0, Max budget: 0.5","type":"budget_exceeded","param":null,"code":"400"}}`, chatretry.QuotaExhausted, ""},
		{"too fast", OpenAI, 429, `{"error":{"message":"Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 29500, Requested 900. Please try again in 800ms.","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`, chatretry.RateLimited, "limits the rate"},
		{"too fast", Anthropic, 429, `{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed your organization's rate limit of 40,000 input tokens per minute."}}`, chatretry.RateLimited, ""},
		{"too fast, Google", OpenAI, 429, `[{"error":{"code":429,"message":"You exceeded your current quota, please check your plan and billing details. Please retry in 38.2s.","status":"RESOURCE_EXHAUSTED"}}]`, chatretry.RateLimited, ""},
		{"too fast, no body", OpenAI, 429, ``, chatretry.RateLimited, ""},
		{"too much at once, Groq", OpenAI, 413, `{"error":{"message":"Request too large for model x on tokens per minute (TPM): Limit 6000, Requested 9000","type":"tokens","code":"rate_limit_exceeded"}}`, chatretry.ContextLengthExceeded, ""},
		{"overloaded", Anthropic, 529, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, chatretry.Overloaded, "(HTTP 529)"},
		{"overloaded", OpenAI, 503, `{"error":{"message":"The server is overloaded or not ready yet.","type":"server_error","code":null}}`, chatretry.Overloaded, ""},
		{"loading, llama.cpp", OpenAI, 503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`, chatretry.Overloaded, ""},
		{"broke", OpenAI, 500, `{"error":{"message":"The server had an error while processing your request.","type":"server_error","param":null,"code":null}}`, chatretry.ServerError, ""},
		{"broke", Anthropic, 500, `{"type":"error","error":{"type":"api_error","message":"Internal server error"}}`, chatretry.ServerError, ""},
		{"a gateway's page", OpenAI, 502, "<html><head><title>502 Bad Gateway</title></head><body>forbidden invalid api key</body></html>", chatretry.ServerError, ""},
		{"too slow", Anthropic, 504, `{"type":"error","error":{"type":"timeout_error","message":"Request timed out"}}`, chatretry.Timeout, ""},
		{"Cloudflare", OpenAI, 520, "error code: 520", chatretry.ServerError, ""},
		{"no such model", OpenAI, 404, "{\"error\":{\"message\":\"The model `gpt-9` does not exist or you do not have access to it.\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"model_not_found\"}}", chatretry.ModelNotFound, `no model "some-model"`},
		{"no such model", Anthropic, 404, `{"type":"error","error":{"type":"not_found_error","message":"model: claude-9"}}`, chatretry.ModelNotFound, ""},
		{"no such model, vLLM", OpenAI, 404, "{\"object\":\"error\",\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}", chatretry.ModelNotFound, ""},
		{"no such model, Ollama", OpenAI, 404, `{"error":{"message":"model \"x\" not found, try pulling it first","type":"api_error","param":null,"code":null}}`, chatretry.ModelNotFound, ""},
		{"no such model at 503", OpenAI, 503, `{"error":{"message":"no available channel: invalid model x","type":"server_error"}}`, chatretry.ModelNotFound, ""},
		{"no such model at 503, as text", OpenAI, 503, "upstream: invalid model", chatretry.ModelNotFound, ""},
		{"no such deployment, Azure", OpenAI, 404, `{"error":{"code":"DeploymentNotFound","message":"The API deployment for this resource does not exist."}}`, chatretry.ModelNotFound, ""},
		{"no such path, llama.cpp", OpenAI, 404, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`, chatretry.InvalidRequest, "check baseURL"},
		{"no such path, FastAPI", OpenAI, 404, `{"detail":"Not Found"}`, chatretry.InvalidRequest, "check baseURL"},
		{"no such path, page", OpenAI, 404, "404 page not found\n", chatretry.InvalidRequest, "check baseURL"},
		{"wrong method", OpenAI, 405, ``, chatretry.InvalidRequest, "check baseURL"},
		{"too long", OpenAI, 400, `{"error":{"message":"This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}`, chatretry.ContextLengthExceeded, "shorten it"},
		{"too long", Anthropic, 400, `{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 209513 tokens > 200000 maximum"}}`, chatretry.ContextLengthExceeded, ""},
		{"too long with the answer", Anthropic, 400, "{\"type\":\"error\",\"error\":{\"type\":\"invalid_request_error\",\"message\":\"input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000\"}}", chatretry.ContextLengthExceeded, ""},
		{"too large", Anthropic, 413, `{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}`, chatretry.ContextLengthExceeded, ""},
		{"too long, llama.cpp", OpenAI, 400, `{"error":{"code":400,"message":"the request exceeds the available context size. try increasing the context size or enable context shift","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":4}}`, chatretry.ContextLengthExceeded, ""},
		{"too long, Bedrock behind a gateway", OpenAI, 400, `{"message":"Input is too long for requested model."}`, chatretry.ContextLengthExceeded, ""},
		{"too long, Google", OpenAI, 400, `[{"error":{"code":400,"message":"The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).","status":"INVALID_ARGUMENT"}}]`, chatretry.ContextLengthExceeded, ""},
		{"too long, LiteLLM", OpenAI, 400, `{"error":{"message":"litellm.ContextWindowExceededError: litellm.BadRequestError: …","type":null,"param":null,"code":"400"}}`, chatretry.ContextLengthExceeded, ""},
		{"forbidden", Anthropic, 403, `{"type":"error","error":{"type":"permission_error","message":"Your API key does not have permission to use the specified resource."}}`, chatretry.PermissionDenied, "what the key may do"},
		{"forbidden country", OpenAI, 403, `{"error":{"code":"unsupported_country_region_territory","message":"Country, region, or territory not supported","param":null,"type":"request_forbidden"}}`, chatretry.PermissionDenied, ""},
		{"forbidden page", OpenAI, 403, `<html>403 Forbidden</html>`, chatretry.PermissionDenied, ""},
		{"filtered, Azure", OpenAI, 400, `{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation"}}}`, chatretry.ContentFiltered, "change the question"},
		{"a parameter named timeout", OpenAI, 400, `{"error":{"message":"Unrecognized request argument supplied: timeout","type":"invalid_request_error","param":null,"code":null}}`, chatretry.InvalidRequest, "check model, parameters"},
		{"a parameter of ours", OpenAI, 400, `{"error":{"message":"Unsupported value: 'temperature' does not support 0.2 with this model.","type":"invalid_request_error","param":"temperature","code":"unsupported_value"}}`, chatretry.InvalidRequest, "refuses parameters.temperature"},
		{"the limit's new name", OpenAI, 400, `{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","type":"invalid_request_error","param":"max_tokens","code":"unsupported_parameter"}}`, chatretry.InvalidRequest, "tokenLimitParameter to MaxCompletionTokens"},
		{"words of haste at 400", OpenAI, 400, `{"error":{"message":"rate limit must be a number","type":"invalid_request_error"}}`, chatretry.InvalidRequest, ""},
		{"unprocessable, FastAPI", OpenAI, 422, `{"detail":[{"loc":["body","messages"],"msg":"field required","type":"value_error.missing"}]}`, chatretry.InvalidRequest, ""},
		{"redirect", OpenAI, 301, ``, chatretry.InvalidRequest, "redirects"},
		{"redirect", OpenAI, 307, ``, chatretry.InvalidRequest, "redirects"},
		{"no content", OpenAI, 204, ``, chatretry.InvalidRequest, "(HTTP 204)"},
		{"nobody knows", OpenAI, 418, `short and stout`, chatretry.InvalidRequest, "(HTTP 418)"},
		{"a gateway that repeats another's code", OpenAI, 500, `{"error":{"message":"…","type":"None","param":"None","code":"401"}}`, chatretry.AuthenticationFailed, ""},
		{"not implemented", OpenAI, 501, `{"error":{"code":501,"message":"no","type":"not_supported_error"}}`, chatretry.InvalidRequest, ""},
		{"hostile", OpenAI, 500, `{"error":{"message":"` + secret + `\u0000\n` + strings.Repeat("Bearer abcdefghijk ", 9000) + `","code":"` + secret + `"}}`, chatretry.ServerError, ""},
	}
	for _, test := range tests {
		t.Run(test.name+"/"+string(test.kind), func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "/elsewhere?token="+secret)
				w.Header().Set("Retry-After", "7")
				w.WriteHeader(test.status)
				if test.status != http.StatusNoContent {
					_, _ = io.WriteString(w, test.body)
				}
			})
			c := client(t, Options{})
			_, _, whole := c.Complete(t.Context(), endpoint(test.kind, server.URL), question)
			for _, err := range []error{stream(t.Context(), c, endpoint(test.kind, server.URL), question).err, whole} {
				f := failure(t, err)
				if f.Class != test.class || f.HTTPStatus != test.status || f.RetryAfter != 7*time.Second {
					t.Errorf("%s, HTTP %d, retry after %v; want %s: %v, %v", f.Class, f.HTTPStatus, f.RetryAfter, test.class, f, f.Err)
				}
				if !strings.Contains(f.Message, test.words) {
					t.Errorf("message %q lacks %q", f.Message, test.words)
				}
				checkMessage(t, f)
			}
		})
	}
}

// Answers with status 200 that are no stream.
func TestOddAnswers(t *testing.T) {
	tests := []struct {
		name, media, body string
		class             chatretry.Class
		words             string
	}{
		{"page", "text/html; charset=utf-8", "<!doctype html><title>Sign in</title>", chatretry.InvalidRequest, "web page"},
		{"page as text", "text/plain", "<html></html>", chatretry.InvalidRequest, "web page"},
		{"error object", "application/json", `{"error":{"message":"x","code":"insufficient_quota"}}`, chatretry.QuotaExhausted, ""},
		{"error object as text", "text/plain", `{"error":{"message":"Overloaded"}}`, chatretry.Overloaded, ""},
		{"error object without error", "application/json", `{"message":"Unauthorized"}`, chatretry.AuthenticationFailed, ""},
		{"error object as a stream", "text/event-stream", `{"error":{"message":"Rate limit reached","code":"rate_limit_exceeded"}}`, chatretry.RateLimited, ""},
		{"page as a stream", "text/event-stream", "\n<html>", chatretry.InvalidRequest, "web page"},
		{"answer that is no stream", "application/json", `{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}]}`, chatretry.InvalidRequest, "no event stream"},
		{"events as text", "text/plain; charset=utf-8", "\xef\xbb\xbf\n: hi\n\n" + openAIGood, "", ""},
		{"events as nothing", "", openAIGood, "", ""},
		{"nothing", "text/event-stream", "", chatretry.StreamInterrupted, ""},
		{"nothing as nothing", "", "", chatretry.StreamInterrupted, ""},
		{"bytes", "application/octet-stream", "\x00\x01", chatretry.InvalidRequest, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()["Content-Type"] = nil
				if test.media != "" {
					w.Header().Set("Content-Type", test.media)
				}
				_, _ = io.WriteString(w, test.body)
			})
			h := stream(t.Context(), client(t, Options{}), endpoint(OpenAI, server.URL), question)
			if c := class(t, h.err); c != test.class {
				t.Fatalf("class %q, want %q: %v", c, test.class, h.err)
			}
			if h.err == nil {
				if h.text != openAIText1 {
					t.Errorf("text %q", h.text)
				}
				return
			}
			f := failure(t, h.err)
			if !strings.Contains(f.Message, test.words) {
				t.Errorf("message %q", f.Message)
			}
			checkMessage(t, f)
		})
	}
}

func TestCompressed(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" {
			t.Error("compression was asked for")
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write([]byte{0x1f, 0x8b})
	})
	h := stream(t.Context(), client(t, Options{}), endpoint(OpenAI, server.URL), question)
	if f := failure(t, h.err); f.Class != chatretry.InvalidRequest || !strings.Contains(f.Message, "compressed") {
		t.Errorf("%v", f)
	}
}

// What can be told without asking anybody.
func TestUnusableEndpoints(t *testing.T) {
	tests := map[string]struct {
		change func(*Endpoint, *Request)
		class  chatretry.Class
	}{
		"type":      {func(e *Endpoint, _ *Request) { e.Type = "Other" }, chatretry.InvalidRequest},
		"scheme":    {func(e *Endpoint, _ *Request) { e.BaseURL = "ftp://x" }, chatretry.InvalidRequest},
		"relative":  {func(e *Endpoint, _ *Request) { e.BaseURL = "/v1" }, chatretry.InvalidRequest},
		"userinfo":  {func(e *Endpoint, _ *Request) { e.BaseURL = "http://a:" + secret + "@x" }, chatretry.InvalidRequest},
		"query":     {func(e *Endpoint, _ *Request) { e.BaseURL = "http://x/?key=" + secret }, chatretry.InvalidRequest},
		"not a URL": {func(e *Endpoint, _ *Request) { e.BaseURL = "http://x\n" + secret }, chatretry.InvalidRequest},
		"bundle":    {func(e *Endpoint, _ *Request) { e.CABundle = "nonsense" }, chatretry.InvalidRequest},
		"key":       {func(e *Endpoint, _ *Request) { e.Key = NewKey("a\nb") }, chatretry.AuthenticationFailed},
		"number":    {func(_ *Endpoint, a *Request) { a.Temperature = "warm" }, chatretry.InvalidRequest},
		"infinity":  {func(_ *Endpoint, a *Request) { a.TopP = "Inf" }, chatretry.InvalidRequest},
		"header":    {func(e *Endpoint, _ *Request) { e.Headers = []Header{{"bad name", "x"}} }, chatretry.InvalidRequest},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			to, ask := endpoint(OpenAI, "http://127.0.0.1:1"), question
			test.change(&to, &ask)
			f := failure(t, stream(t.Context(), client(t, Options{}), to, ask).err)
			if f.Class != test.class {
				t.Errorf("%v", f)
			}
			checkMessage(t, f)
		})
	}
}
