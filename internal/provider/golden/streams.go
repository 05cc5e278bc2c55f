// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package golden

import (
	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// Pieces of good streams.
const (
	openAIPart = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"Because"},"finish_reason":null}]}` + "\n\n"
	openAIDone = "data: [DONE]\n\n"

	anthropicStart = "event: message_start\ndata: " + `{"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant","model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":9,"output_tokens":1}}}` + "\n\n"
	anthropicPart  = anthropicStart + "event: content_block_start\ndata: " + `{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}` + "\n\n" +
		"event: content_block_delta\ndata: " + `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Because"}}` + "\n\n"
	anthropicStop = "event: message_stop\ndata: " + `{"type":"message_stop"}` + "\n\n"
)

func openAIFinish(reason string) string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"` + reason + `"}]}` + "\n\n"
}

func anthropicFinish(reason string) string {
	return "event: message_delta\ndata: " + `{"type":"message_delta","delta":{"stop_reason":"` + reason + `","stop_sequence":null},"usage":{"output_tokens":5}}` + "\n\n"
}

// The messages for what a model did.
const (
	filtered    = `provider "vendor" refused to answer, or filtered the answer: change the question`
	nothingSaid = `provider "vendor" ended its answer without any text: change the question or the model`
	limitSpent  = `provider "vendor" spent its token limit before any text of the answer: raise parameters.maxOutputTokens`
	interrupted = `the stream of provider "vendor" ended before the answer was complete: another attempt may succeed`
)

func openAIStreamCases() []Case {
	stream := func(from, name, body string, want Want) Case {
		return answer(provider.OpenAI, from, name, 200, body, want)
	}
	after := func(from, name, event string, want Want) Case {
		return stream(from, name, openAIPart+"data: "+event+"\n\n", want)
	}
	return []Case{
		stream("OpenAI", "a stop by the token limit: a good end", openAIPart+openAIFinish("length")+openAIDone, done(provider.FinishLength)),
		stream("OpenAI", "a reason to stop that nobody knows: a good end", openAIPart+openAIFinish("pause")+openAIDone, done(provider.FinishOther)),
		stream("LiteLLM", "no [DONE], but the finish reason: a good end", openAIPart+openAIFinish("stop"), done(provider.FinishStop)),
		after("OpenAI", "a fault of the server", `{"error":{"message":"The server had an error while processing your request. Sorry about that!","type":"server_error","param":null,"code":null}}`,
			is(chatretry.ServerError, "server_error")),
		after("OpenAI", "too fast", `{"error":{"message":"Rate limit reached for gpt-5","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`,
			is(chatretry.RateLimited, "rate_limit_exceeded")),
		after("OpenAI", "no money", `{"error":{"message":"You exceeded your current quota, please check your plan and billing details.","type":"insufficient_quota","param":null,"code":"insufficient_quota"}}`,
			is(chatretry.QuotaExhausted, "insufficient_quota")),
		after("vLLM", "an engine that died, with a number as code", `{"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": null, "code": 500}}`,
			is(chatretry.ServerError, "500")),
		stream("vLLM, older", "a question that is too long, without an error member", `data: {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "type": "BadRequestError", "param": null, "code": 400}`+"\n\n"+openAIDone,
			is(chatretry.ContextLengthExceeded, "400")),
		after("vLLM", "a refusal, with its type alone", `{"error":{"message":"cannot do that","type":"BadRequestError","param":null}}`,
			is(chatretry.InvalidRequest, "BadRequestError")),
		after("llama.cpp", "the context is full", `{"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}`,
			is(chatretry.ContextLengthExceeded, "500")),
		stream("llama.cpp, older", "an error in a field of its own", openAIPart+`error: {"code":500,"message":"Context size has been exceeded.","type":"server_error"}`+"\n\n",
			is(chatretry.ContextLengthExceeded, "500")),
		after("Ollama", "a runner that died, as text", `{"error":"an error was encountered while running the model: unexpected EOF"}`,
			is(chatretry.ServerError, "")),
		after("Ollama", "an error that is null: no error", `{"choices":[{"index":0,"delta":{"content":"."},"finish_reason":"stop"}],"error":null}`, done(provider.FinishStop)),
		after("LiteLLM", "a vendor's limit, with a number as text", `{"error": {"message": "litellm.MidStreamFallbackError: no more", "type": "None", "param": "None", "code": "429"}}`,
			is(chatretry.RateLimited, "429")),
		after("OpenRouter", "no credits, with a number as code", `{"error":{"code":402,"message":"More credits are needed"}}`,
			is(chatretry.QuotaExhausted, "402")),
		after("OpenRouter", "its own source broke off", `{"id":"g","error":{"code":"server_error","message":"Provider disconnected unexpectedly"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}`,
			is(chatretry.ServerError, "server_error")),
		stream("OpenRouter", "the same without an error", openAIPart+openAIFinish("error")+openAIDone,
			is(chatretry.ServerError, "").says(`provider "vendor" broke its answer off: another attempt may succeed`)),
		stream("a gateway", "an event named error, not JSON", openAIPart+"event: error\ndata: upstream broke\n\n", is(chatretry.ServerError, "")),
		stream("a gateway", "Anthropic's error", openAIPart+"event: error\ndata: "+anthropicError("overloaded_error", "Overloaded")+"\n\n", is(chatretry.Overloaded, "overloaded_error")),
		stream("a gateway", "an error without the empty line after it", openAIPart+`data: {"error":{"message":"Overloaded","type":"overloaded_error"}}`, is(chatretry.Overloaded, "overloaded_error")),
		stream("OpenAI", "a refusal", openAIRefusal+openAIFinish("stop")+openAIDone, is(chatretry.ContentFiltered, "").says(filtered)),
		stream("Azure", "a filter in the middle", openAIPart+openAIFinish("content_filter")+openAIDone, is(chatretry.ContentFiltered, "").says(filtered)),
		stream("OpenAI", "an empty answer", openAIFinish("stop")+openAIDone, is(chatretry.EmptyAnswer, "").says(nothingSaid)),
		stream("vLLM", "a token limit spent on reasoning", openAIThought+openAIFinish("length")+openAIDone, is(chatretry.EmptyAnswer, "").says(limitSpent)),
		stream("anyone", "an end without the finish reason", openAIPart, is(chatretry.StreamInterrupted, "").says(interrupted)),
		stream("anyone", "[DONE] without the finish reason", openAIPart+openAIDone, is(chatretry.StreamInterrupted, "").says(interrupted)),
		stream("anyone", "an event that was cut", openAIPart+"data: {\"choices\":[{\"ind\n\n", is(chatretry.StreamInterrupted, "").says(interrupted)),
		stream("anyone", "no event at all", "", is(chatretry.StreamInterrupted, "").says(interrupted)),
	}
}

const (
	openAIRefusal = `data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":"I'm sorry, I can't help with that."},"finish_reason":null}]}` + "\n\n"
	openAIThought = `data: {"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"Hm."},"finish_reason":null}]}` + "\n\n"
)

func anthropicStreamCases() []Case {
	stream := func(name, body string, want Want) Case {
		return answer(provider.Anthropic, "Anthropic", name, 200, body, want)
	}
	event := func(name, kind, message string, want Want) Case {
		want.Code = kind
		return stream(name, anthropicPart+"event: error\ndata: "+anthropicError(kind, message)+"\n\n", want)
	}
	return []Case{
		stream("a stop by the token limit: a good end", anthropicPart+anthropicFinish("max_tokens")+anthropicStop, done(provider.FinishLength)),
		stream("a full context window: a good end", anthropicPart+anthropicFinish("model_context_window_exceeded")+anthropicStop, done(provider.FinishLength)),
		stream("a reason to stop that nobody knows: a good end", anthropicPart+anthropicFinish("pause_turn")+anthropicStop, done(provider.FinishOther)),
		event("overloaded", "overloaded_error", "Overloaded", is(chatretry.Overloaded, "")),
		event("a fault of the server", "api_error", "Internal server error", is(chatretry.ServerError, "")),
		event("too fast", "rate_limit_error", "This request would exceed your account's rate limit. Please try again later.", is(chatretry.RateLimited, "")),
		event("a time-out of the server", "timeout_error", "Request timed out", is(chatretry.Timeout, "")),
		event("a refusal of the request", "invalid_request_error", "messages: at least one message is required", is(chatretry.InvalidRequest, "")),
		event("a question that is too long", "invalid_request_error", "prompt is too long: 209513 tokens > 200000 maximum", is(chatretry.ContextLengthExceeded, "")),
		event("an answer that the filter refuses", "invalid_request_error", "Output blocked by content filtering policy", is(chatretry.ContentFiltered, "")),
		event("a model that is not there", "not_found_error", "model: claude-9", is(chatretry.ModelNotFound, "")),
		event("a wrong key", "authentication_error", "invalid x-api-key", is(chatretry.AuthenticationFailed, "")),
		event("what the key may not do", "permission_error", "Not for you.", is(chatretry.PermissionDenied, "")),
		event("no money", "billing_error", "Pay first.", is(chatretry.QuotaExhausted, "")),
		event("a type that nobody knows", "brand_new_error", "Something new.", is(chatretry.ServerError, "")),
		answer(provider.Anthropic, "LiteLLM", "an error in OpenAI's shape", 200, anthropicPart+`data: {"error":{"message":"no more","type":"None","param":"None","code":"429"}}`+"\n\n", is(chatretry.RateLimited, "429")),
		stream("a refusal", anthropicPart+anthropicFinish("refusal")+anthropicStop, is(chatretry.ContentFiltered, "").says(filtered)),
		stream("an empty answer", anthropicStart+anthropicFinish("end_turn")+anthropicStop, is(chatretry.EmptyAnswer, "").says(nothingSaid)),
		stream("a token limit spent on thinking", anthropicStart+anthropicFinish("max_tokens")+anthropicStop, is(chatretry.EmptyAnswer, "").says(limitSpent)),
		stream("an end without message_stop", anthropicPart+anthropicFinish("end_turn"), is(chatretry.StreamInterrupted, "").says(interrupted)),
		stream("an event that was cut", anthropicPart+"event: content_block_delta\ndata: {\"type\":\"content_bl\n\n", is(chatretry.StreamInterrupted, "").says(interrupted)),
		stream("no event at all", "", is(chatretry.StreamInterrupted, "").says(interrupted)),
	}
}

// wordCases show what words do where type and code say nothing.
func wordCases() []Case {
	said := func(name string, status int, words string, want Want) Case {
		return answer(provider.OpenAI, "a server", name, status, words, want)
	}
	return []Case{
		said("a permanent word beats a transient status", 500, "Incorrect API key provided", is(chatretry.AuthenticationFailed, "")),
		said("a permanent word beats a transient one", 429, "Rate limit: insufficient quota", is(chatretry.QuotaExhausted, "")),
		said("a transient word beats no final status", 400, "rate limit must be a number; overloaded; too many requests", is(chatretry.InvalidRequest, "")),
		said("a transient word mends a transient status", 500, "Overloaded", is(chatretry.Overloaded, "")),
		said("a permanent word inside another word", 503, "invalid modelling step in the unauthorizedness of an insufficient quotation", is(chatretry.Overloaded, "")),
		said("transient words inside other words", 400, "geofence unoverloaded by timeoutless accurate limits", is(chatretry.InvalidRequest, "")),
		said("eof inside another word", 500, "typeof geofence", is(chatretry.ServerError, "")),
		said("numbers", 500, "dial 10.0.0.1:401: stream 403 of 429 tokens, port 404", is(chatretry.ServerError, "")),
		said("a model inside another word", 404, "no remodelling here", is(chatretry.InvalidRequest, "").says(nothingHere)),
		answer(provider.OpenAI, "a gateway", "the status that another server gave, in the body", 500, `{"error":{"message":"…","type":"None","param":"None","code":"401"}}`, is(chatretry.AuthenticationFailed, "401")),
	}
}
