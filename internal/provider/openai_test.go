// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"chatrun.dev/operator/internal/chatretry"
)

const openAIGood = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"x1"}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"content":"Grüße"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{"content":", \"Welt\"\n"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}

data: [DONE]

`

const openAIText1 = "Grüße, \"Welt\"\n"

func TestOpenAIStreams(t *testing.T) {
	good := func(text string, reason FinishReason, usage Usage) heard {
		return heard{text: text, result: Result{reason, usage}}
	}
	tests := []struct {
		name  string
		body  string
		want  heard
		class chatretry.Class
	}{
		{name: "OpenAI", body: openAIGood, want: good(openAIText1, FinishStop, Usage{19, 10})},
		{
			name: "vLLM: role in every chunk, both names of reasoning, usage in every chunk, no obfuscation",
			body: `data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":{"prompt_tokens":5,"total_tokens":5,"completion_tokens":0}}

data: {"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"hm","reasoning":"hm"},"finish_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":1}}

data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Yes"},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":5,"completion_tokens":2}}

data: [DONE]

`, want: heard{text: "Yes", reasoning: "hm", result: Result{FinishStop, Usage{5, 2}}},
		},
		{
			name: "Ollama: error null, reasoning, no empty line after [DONE]",
			body: `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","model":"x","system_fingerprint":"fp_ollama","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning":"so"},"finish_reason":null}],"error":null}

data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null}],"error":null}

data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"length"}]}

data: [DONE]`, want: heard{text: "Hi", reasoning: "so", result: Result{FinishReason: FinishLength}},
		},
		{
			name: "llama.cpp: content null first, timings, usage after finish",
			body: `data: {"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"created":1,"model":"m","object":"chat.completion.chunk"}

data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"ok"}}]}

data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}

data: {"choices":[],"usage":{"completion_tokens":1,"prompt_tokens":9,"total_tokens":10},"timings":{"prompt_n":9}}

data: [DONE]

`, want: good("ok", FinishStop, Usage{9, 1}),
		},
		{
			name: "LiteLLM and gateways: no [DONE], end of the body",
			body: "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"},\"finish_reason\":\"\"}]}\n\n" +
				"data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
			want: good("a", FinishStop, Usage{}),
		},
		{
			name: "OpenRouter: comments as keep-alives",
			body: ": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n" + openAIGood,
			want: good(openAIText1, FinishStop, Usage{19, 10}),
		},
		{
			name: "Azure: filter results first",
			body: `data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}}}]}` + "\n\n" + openAIGood,
			want: good(openAIText1, FinishStop, Usage{19, 10}),
		},
		{
			name: "Mistral: content as a list of pieces",
			body: `data: {"choices":[{"index":0,"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"well"}]}]}}]}

data: {"choices":[{"index":0,"delta":{"content":[{"type":"text","text":"So"}]}}]}

data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}

data: [DONE]

`, want: heard{text: "So", reasoning: "well", result: Result{FinishStop, Usage{1, 2}}},
		},
		{
			name: "only the first choice counts",
			body: `data: {"choices":[{"index":1,"delta":{"content":"no"},"finish_reason":"stop"},{"index":0,"delta":{"content":"yes"}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}

data: [DONE]

`, want: good("yes", FinishOther, Usage{}),
		},
		{
			name: "the finish reason of another choice is not ours",
			body: `data: {"choices":[{"index":0,"delta":{"content":"half"}},{"index":1,"delta":{},"finish_reason":"stop"}]}` + "\n\ndata: [DONE]\n\n",
			want: heard{text: "half"}, class: chatretry.StreamInterrupted,
		},
		{name: "nothing", body: "", class: chatretry.StreamInterrupted},
		{name: "only [DONE]", body: "data: [DONE]\n\n", class: chatretry.StreamInterrupted},
		{name: "a web page", body: "<html><body>Welcome</body></html>\n", class: chatretry.StreamInterrupted},
		{name: "a cut event", body: "data: {\"choices\":[{\"index\":0,\"de\n\n", class: chatretry.StreamInterrupted},
		{
			name: "an answer without text",
			body: `data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1}}` + "\n\ndata: [DONE]\n\n",
			want: heard{result: Result{Usage: Usage{3, 1}}}, class: chatretry.EmptyAnswer,
		},
		{
			name: "the limit spent on reasoning",
			body: `data: {"choices":[{"index":0,"delta":{"reasoning_content":"hmm"},"finish_reason":"length"}]}` + "\n\ndata: [DONE]\n\n",
			want: heard{reasoning: "hmm"}, class: chatretry.EmptyAnswer,
		},
		{
			name: "a refusal, with its usage",
			body: `data: {"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":"I'm"}}]}

data: {"choices":[{"index":0,"delta":{"refusal":" sorry"}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}

data: [DONE]

`, want: heard{result: Result{Usage: Usage{3, 2}}}, class: chatretry.ContentFiltered,
		},
		{
			name: "a filter in the middle",
			body: `data: {"choices":[{"index":0,"delta":{"content":"He took"}}]}

data: {"choices":[{"index":0,"delta":{},"finish_reason":"content_filter"}]}

data: [DONE]

`, want: heard{text: "He took"}, class: chatretry.ContentFiltered,
		},
		{
			name:  "OpenRouter: its own source broke off",
			body:  `data: {"id":"g","error":{"code":"server_error","message":"Provider disconnected unexpectedly"},"choices":[{"index":0,"delta":{"content":""},"finish_reason":"error"}]}` + "\n\n",
			class: chatretry.ServerError,
		},
		{
			name: "OpenRouter: no money, with a number as code",
			body: `data: {"error":{"code":402,"message":"Insufficient credits"}}` + "\n\n", class: chatretry.QuotaExhausted,
		},
		{
			name: "vLLM: an error in the middle",
			body: `data: {"choices":[{"index":0,"delta":{"content":"a"}}]}

data: {"error": {"object": "error", "message": "", "type": "InternalServerError", "param": null, "code": 500}}

data: [DONE]

`, want: heard{text: "a"}, class: chatretry.ServerError,
		},
		{
			name:  "older vLLM: an error without an error member",
			body:  `data: {"object": "error", "message": "This model's maximum context length is 4096 tokens.", "type": "BadRequestError", "param": null, "code": 400}` + "\n\n",
			class: chatretry.ContextLengthExceeded,
		},
		{
			name: "a gateway's error without the empty line",
			body: `data: {"error":{"message":"Overloaded","type":"overloaded_error"}}`, class: chatretry.Overloaded,
		},
		{name: "an error as text", body: `data: {"error":"model is overloaded"}` + "\n\n", class: chatretry.Overloaded},
		{name: "an event named error", body: "event: error\ndata: upstream broke\n\n", class: chatretry.ServerError},
		{
			name: "Anthropic's error on an OpenAI path",
			body: "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n", class: chatretry.Overloaded,
		},
		{
			name: "too fast, inside a stream",
			body: `data: {"error":{"message":"Rate limit reached","type":"tokens","code":"rate_limit_exceeded"}}` + "\n\n", class: chatretry.RateLimited,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, readString(OpenAI, test.body), test.want, test.class)
		})
	}
}

// check compares what was heard, by text and outcome.
func check(t *testing.T, got, want heard, wantClass chatretry.Class) {
	t.Helper()
	if c := class(t, got.err); c != wantClass {
		t.Fatalf("class %q, want %q (%v)", c, wantClass, got.err)
	}
	if got.text != want.text || got.reasoning != want.reasoning {
		t.Errorf("text %q reasoning %q, want %q %q", got.text, got.reasoning, want.text, want.reasoning)
	}
	if got.result != want.result {
		t.Errorf("result %+v, want %+v", got.result, want.result)
	}
}

// A cut anywhere is a failure, unless the finish reason has come by then; and
// what came before the cut is a prefix of the text.
func TestOpenAITruncation(t *testing.T) {
	whole := strings.Index(openAIGood, `"finish_reason":"stop"`)
	whole += strings.Index(openAIGood[whole:], "\n\n") + len("\n\n")
	for n := range len(openAIGood) {
		for _, ending := range []error{io.EOF, io.ErrUnexpectedEOF} {
			got := read(OpenAI, io.MultiReader(strings.NewReader(openAIGood[:n]), failing{ending}))
			if !strings.HasPrefix(openAIText1, got.text) {
				t.Fatalf("cut at %d: text %q", n, got.text)
			}
			want := chatretry.StreamInterrupted
			if n >= whole {
				want = ""
			}
			if c := class(t, got.err); c != want {
				t.Fatalf("cut at %d by %v: class %q, want %q", n, ending, c, want)
			}
		}
	}
}

// failing is a reader that fails.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestOpenAIRequest(t *testing.T) {
	type sent struct {
		path, auth, accept, body string
	}
	var got sent
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = sent{r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Accept"), string(body)}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, openAIGood)
	})
	full := Request{
		Model:       "m",
		Messages:    []Message{{RoleSystem, "Be brief."}, {RoleUser, "Hi"}, {RoleAssistant, "Hi!"}, {RoleUser, "Why <b>?"}},
		Temperature: "0.70", TopP: ".5", MaxOutputTokens: 12, Stop: []string{"END"},
	}
	tests := []struct {
		name  string
		base  string
		limit TokenLimitParameter
		ask   Request
		want  string
	}{
		{"least", "/v1", "", question, `{"model":"some-model","messages":[{"role":"user","content":"Why?"}],"stream":true,"stream_options":{"include_usage":true}}`},
		{"all", "/v1/", TokenLimitMaxCompletionTokens, full, `{"model":"m","messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Hi"},{"role":"assistant","content":"Hi!"},{"role":"user","content":"Why \u003cb\u003e?"}],` +
			`"temperature":0.70,"top_p":0.5,"max_completion_tokens":12,"stop":["END"],"stream":true,"stream_options":{"include_usage":true}}`},
		{"auto", "/v1", TokenLimitAuto, Request{Model: "m", MaxOutputTokens: 3}, `{"model":"m","messages":null,"max_tokens":3,"stream":true,"stream_options":{"include_usage":true}}`},
	}
	c := client(t, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			to := endpoint(OpenAI, server.URL+test.base)
			to.TokenLimit = test.limit
			h := stream(t.Context(), c, to, test.ask)
			check(t, h, heard{text: openAIText1, result: Result{FinishStop, Usage{19, 10}}}, "")
			want := sent{"/v1/chat/completions", "Bearer " + secret, "text/event-stream", test.want}
			if got != want {
				t.Errorf("sent %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestTokenLimitAuto(t *testing.T) {
	tests := map[string]bool{
		"":                                          true,
		"https://api.openai.com/v1":                 true,
		"https://eu.api.openai.com/v1":              true,
		"https://x.openai.azure.com/openai/v1":      true,
		"https://x.services.ai.azure.com/openai":    true,
		"http://vllm.default.svc:8000/v1":           false,
		"https://notapi.openai.com.evil.example/v1": false,
		"https://api.mistral.ai/v1":                 false,
	}
	for base, want := range tests {
		if got := openAIKnowsCompletionTokens(base); got != want {
			t.Errorf("%q: %v", base, got)
		}
	}
}

func TestOpenAIComplete(t *testing.T) {
	tests := []struct {
		name, body string
		want       heard
		class      chatretry.Class
	}{
		{
			name: "good",
			body: `{"id":"c","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"A title","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5},"service_tier":"default"}`,
			want: heard{text: "A title", result: Result{FinishStop, Usage{3, 2}}},
		},
		{name: "empty", body: `{"choices":[{"index":0,"message":{"content":null},"finish_reason":"length"}]}`, class: chatretry.EmptyAnswer},
		{name: "filtered", body: `{"choices":[{"index":0,"message":{"content":"x"},"finish_reason":"content_filter"}]}`, class: chatretry.ContentFiltered},
		{name: "no finish reason", body: `{"choices":[{"index":0,"message":{"content":"x"}}]}`, class: chatretry.StreamInterrupted},
		{name: "an error with 200", body: `{"error":{"message":"no","type":"invalid_request_error","code":"model_not_found"}}`, class: chatretry.ModelNotFound},
		{name: "a web page", body: `<!doctype html><html></html>`, class: chatretry.InvalidRequest},
		{name: "other JSON", body: `{"hello":"world"}`, class: chatretry.InvalidRequest},
		{name: "nothing", body: ``, class: chatretry.InvalidRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if body, _ := io.ReadAll(r.Body); !strings.Contains(string(body), `"stream":false`) || strings.Contains(string(body), "stream_options") {
					t.Errorf("sent %s", body)
				}
				_, _ = io.WriteString(w, test.body)
			})
			var h heard
			h.text, h.result, h.err = client(t, Options{}).Complete(t.Context(), endpoint(OpenAI, server.URL), question)
			check(t, h, test.want, test.class)
		})
	}
}
