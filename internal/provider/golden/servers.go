// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// nothingHere is the message for an address that the server does not know.
const nothingHere = `provider "vendor" has nothing at this address (HTTP 404): check baseURL, which ends in /v1 for most servers of type OpenAI`

// serverCases are those of servers that run models.
func serverCases() []Case {
	server := func(from, name string, status int, body string, want Want) Case {
		return answer(provider.OpenAI, from, name, status, body, want)
	}
	return []Case{
		server("vLLM", "a wrong key", 401, `{"error":"Unauthorized"}`, is(chatretry.AuthenticationFailed, "")),
		server("vLLM", "a model that is not there", 404, "{\"error\":{\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":\"model\",\"code\":404}}",
			is(chatretry.ModelNotFound, "404")),
		server("vLLM, older", "a model that is not there", 404, "{\"object\":\"error\",\"message\":\"The model `x` does not exist.\",\"type\":\"NotFoundError\",\"param\":null,\"code\":404}",
			is(chatretry.ModelNotFound, "404")),
		server("vLLM", "a question that is too long", 400, `{"error":{"message":"This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens. Please reduce the length of the input messages.","type":"BadRequestError","param":"input_tokens","code":400}}`,
			is(chatretry.ContextLengthExceeded, "400")),
		server("vLLM", "a question that is too long, other words", 400, "{\"object\":\"error\",\"message\":\"The decoder prompt (length 21535) is longer than the maximum model length of 16384. Make sure that `max_model_len` is no smaller than the number of text tokens.\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}",
			is(chatretry.ContextLengthExceeded, "400")),
		server("vLLM", "an engine that died", 500, `{"error":{"message":"EngineCore encountered an issue. See stack trace (above) for the root cause.","type":"InternalServerError","param":null,"code":500}}`,
			is(chatretry.ServerError, "500")),
		server("vLLM", "a request that is malformed", 400, `{"error":{"message":"[{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required'}]","type":"Bad Request","param":null,"code":400}}`,
			is(chatretry.InvalidRequest, "400")),
		server("FastAPI", "an address that is not there", 404, `{"detail":"Not Found"}`, is(chatretry.InvalidRequest, "").says(nothingHere)),
		server("FastAPI", "a request that is malformed", 422, `{"detail":[{"type":"missing","loc":["body","messages"],"msg":"Field required","input":{}}]}`,
			is(chatretry.InvalidRequest, "")),
		server("Ollama", "a model that is not there", 404, `{"error":{"message":"model \"x\" not found, try pulling it first","type":"api_error","param":null,"code":null}}`,
			is(chatretry.ModelNotFound, "api_error")),
		server("Ollama", "too many requests at once", 503, `{"error":{"message":"server busy, please try again.  maximum pending requests exceeded","type":"api_error","param":null,"code":null}}`,
			is(chatretry.Overloaded, "api_error")),
		server("Ollama", "a model too large for memory now", 500, `{"error":{"message":"model requires more system memory (9.1 GiB) than is available (7.5 GiB)","type":"api_error","param":null,"code":null}}`,
			is(chatretry.ServerError, "api_error")),
		server("Ollama", "a question that is too long", 400, `{"error":{"message":"the input length exceeds the context length","type":"invalid_request_error","param":null,"code":null}}`,
			is(chatretry.ContextLengthExceeded, "invalid_request_error")),
		server("Ollama", "an address that is not there", 404, "404 page not found", is(chatretry.InvalidRequest, "").says(nothingHere)),
		server("llama.cpp", "a wrong key", 401, `{"error":{"code":401,"message":"Invalid API Key","type":"authentication_error"}}`,
			is(chatretry.AuthenticationFailed, "401")),
		server("llama.cpp", "a model that is loading", 503, `{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}`,
			is(chatretry.Overloaded, "503")),
		server("llama.cpp", "a question that is too long", 400, `{"error":{"code":400,"message":"request (14429 tokens) exceeds the available context size (8192 tokens), try increasing it","type":"exceed_context_size_error","n_prompt_tokens":14429,"n_ctx":8192}}`,
			is(chatretry.ContextLengthExceeded, "400")),
		server("llama.cpp, older", "a question that is too long, at 500", 500, `{"error":{"code":500,"message":"the request exceeds the available context size. try increasing the context size or enable context shift","type":"server_error"}}`,
			is(chatretry.ContextLengthExceeded, "500")),
		server("llama.cpp, older", "the same with status 200 and no stream", 200, `{"error":{"code":400,"message":"the request exceeds the available context size. try increasing the context size or enable context shift","type":"exceed_context_size_error","n_prompt_tokens":14429,"n_ctx":8192}}`,
			is(chatretry.ContextLengthExceeded, "400")),
		server("llama.cpp", "an address that is not there", 404, `{"error":{"code":404,"message":"File Not Found","type":"not_found_error"}}`,
			is(chatretry.InvalidRequest, "404").says(nothingHere)),
		server("llama.cpp", "what it was not built for", 501, `{"error":{"code":501,"message":"This server does not support this. Start it with --jinja","type":"not_supported_error"}}`,
			is(chatretry.InvalidRequest, "501")),
		server("LM Studio", "a question that is too long", 400, `{"error":"Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with context length of only 4096 tokens, which is not enough. Try to load the model with a larger context length, or provide a shorter input"}`,
			is(chatretry.ContextLengthExceeded, "")),
		server("SGLang", "a question that is too long", 400, `{"object":"error","message":"The input (5000 tokens) is longer than the model's context length (4096 tokens).","type":"BadRequestError","param":null,"code":400}`,
			is(chatretry.ContextLengthExceeded, "400")),
		server("Text Generation Inference", "a question that is too long", 422, "{\"error\":\"Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens and 20 `max_new_tokens`\",\"error_type\":\"validation\"}",
			is(chatretry.ContextLengthExceeded, "")),
		server("Text Generation Inference", "overloaded, at 429", 429, `{"error":"Model is overloaded","error_type":"overloaded"}`,
			is(chatretry.Overloaded, "")),
	}
}
