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

const anthropicGood = `event: message_start
data: {"type":"message_start","message":{"model":"claude-sonnet-4-5","id":"msg_1","type":"message","role":"assistant","content":[],"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":10,"cache_creation_input_tokens":3,"cache_read_input_tokens":4,"cache_creation":{"ephemeral_5m_input_tokens":3},"output_tokens":1,"service_tier":"standard"}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Let me see."}}

event: content_block_delta
data: {"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"EqQBCg=="}}

event: content_block_stop
data: {"type":"content_block_stop","index":0}

event: content_block_start
data: {"type":"content_block_start","index":1,"content_block":{"type":"text","text":""}}

event: ping
data: {"type": "ping"}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":"Grüße"}}

event: content_block_delta
data: {"type":"content_block_delta","index":1,"delta":{"type":"text_delta","text":", Welt"}}

event: content_block_stop
data: {"type":"content_block_stop","index":1}

event: message_delta
data: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":15}}

event: message_stop
data: {"type":"message_stop"}

`

const anthropicGoodText = "Grüße, Welt"

// anthropicStream is a stream with the given events' data.
func anthropicStream(data ...string) string {
	var b strings.Builder
	for _, d := range data {
		b.WriteString("data: " + d + "\n\n")
	}
	return b.String()
}

func TestAnthropicStreams(t *testing.T) {
	const (
		start = `{"type":"message_start","message":{"usage":{"input_tokens":7,"output_tokens":1}}}`
		hello = `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hello"}}`
		stop  = `{"type":"message_stop"}`
	)
	end := func(reason string) string {
		return `{"type":"message_delta","delta":{"stop_reason":"` + reason + `"},"usage":{"output_tokens":4}}`
	}
	used := Usage{7, 4}
	tests := []struct {
		name  string
		body  string
		want  heard
		class chatretry.Class
	}{
		{
			name: "thinking, text, usage with the cache", body: anthropicGood,
			want: heard{text: anthropicGoodText, reasoning: "Let me see.", result: Result{FinishStop, Usage{17, 15}}},
		},
		{
			name: "a proxy that drops event lines", body: anthropicStream(start, hello, end("stop_sequence"), stop),
			want: heard{text: "Hello", result: Result{FinishStop, used}},
		},
		{
			name: "the limit", body: anthropicStream(start, hello, end("max_tokens"), stop),
			want: heard{text: "Hello", result: Result{FinishLength, used}},
		},
		{
			name: "the context window", body: anthropicStream(start, hello, end("model_context_window_exceeded"), stop),
			want: heard{text: "Hello", result: Result{FinishLength, used}},
		},
		{
			name: "another reason", body: anthropicStream(start, hello, end("pause_turn"), stop),
			want: heard{text: "Hello", result: Result{FinishOther, used}},
		},
		{
			name: "unknown events, blocks and deltas",
			body: anthropicStream(start, `{"type":"from_the_future","message":"hi"}`, `{"type":"content_block_start","content_block":{"type":"server_tool_use"}}`,
				`{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}`, hello, end("end_turn"), "[DONE]", stop),
			want: heard{text: "Hello", result: Result{FinishStop, used}},
		},
		{
			name: "text in the beginning of a block",
			body: anthropicStream(start, `{"type":"content_block_start","content_block":{"type":"text","text":"Hello"}}`, end("end_turn"), stop),
			want: heard{text: "Hello", result: Result{FinishStop, used}},
		},
		{
			name: "usage in full at the end",
			body: anthropicStream(start, hello, `{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":9,"cache_read_input_tokens":2,"output_tokens":4}}`, stop),
			want: heard{text: "Hello", result: Result{FinishStop, Usage{11, 4}}},
		},
		{
			name: "a refusal", body: anthropicStream(start, hello, end("refusal"), stop),
			want: heard{text: "Hello", result: Result{Usage: used}}, class: chatretry.ContentFiltered,
		},
		{
			name: "an answer without text", body: anthropicStream(start, end("end_turn"), stop),
			want: heard{result: Result{Usage: used}}, class: chatretry.EmptyAnswer,
		},
		{
			name: "no terminal event", body: anthropicStream(start, hello, end("end_turn")),
			want: heard{text: "Hello", result: Result{Usage: used}}, class: chatretry.StreamInterrupted,
		},
		{
			name: "overloaded in the middle", body: anthropicStream(start, hello) +
				"event: error\ndata: {\"type\":\"error\",\"error\":{\"details\":null,\"type\":\"overloaded_error\",\"message\":\"Overloaded\"},\"request_id\":\"req_1\"}\n\n",
			want: heard{text: "Hello", result: Result{Usage: Usage{7, 1}}}, class: chatretry.Overloaded,
		},
		{
			name: "a fault of the server", body: anthropicStream(`{"type":"error","error":{"type":"api_error","message":"Internal server error"}}`),
			class: chatretry.ServerError,
		},
		{
			name: "a refused request inside a stream", body: anthropicStream(`{"type":"error","error":{"type":"invalid_request_error","message":"stop_sequences: bad"}}`),
			class: chatretry.InvalidRequest,
		},
		{
			name: "too long, inside a stream", body: anthropicStream(`{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 209513 tokens > 200000 maximum"}}`),
			class: chatretry.ContextLengthExceeded,
		},
		{
			name: "OpenAI's error on an Anthropic path", body: anthropicStream(`{"error":{"message":"Rate limit","type":"tokens","param":null,"code":"rate_limit_exceeded"}}`),
			class: chatretry.RateLimited,
		},
		{
			name: "vLLM's error on an Anthropic path", body: anthropicStream(`{"object":"error","message":"boom","type":"InternalServerError","code":500}`),
			class: chatretry.ServerError,
		},
		{name: "an event named error", body: "event: error\ndata: Overloaded\n\n", class: chatretry.Overloaded},
		{name: "nothing", body: "", class: chatretry.StreamInterrupted},
		{name: "a web page", body: "<html></html>\n\n", class: chatretry.StreamInterrupted},
		{name: "no JSON", body: "data: what\n\n", class: chatretry.StreamInterrupted},
		{name: "OpenAI's stream", body: openAIGood, class: chatretry.StreamInterrupted},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			check(t, readString(Anthropic, test.body), test.want, test.class)
		})
	}
}

// A cut anywhere is a failure.
func TestAnthropicTruncation(t *testing.T) {
	for n := range len(anthropicGood) {
		for _, ending := range []error{io.EOF, io.ErrUnexpectedEOF} {
			got := read(Anthropic, io.MultiReader(strings.NewReader(anthropicGood[:n]), failing{ending}))
			if !strings.HasPrefix(anthropicGoodText, got.text) {
				t.Fatalf("cut at %d: text %q", n, got.text)
			}
			if c := class(t, got.err); c != chatretry.StreamInterrupted {
				t.Fatalf("cut at %d by %v: class %q", n, ending, c)
			}
		}
	}
}

func TestAnthropicRequest(t *testing.T) {
	type sent struct{ path, key, version, auth, body string }
	var got sent
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = sent{r.URL.Path, r.Header.Get("X-Api-Key"), r.Header.Get("Anthropic-Version"), r.Header.Get("Authorization"), string(body)}
		w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		_, _ = io.WriteString(w, anthropicGood)
	})
	tests := []struct {
		name, base string
		ask        Request
		want       sent
	}{
		{"least", "", question, sent{"/v1/messages", secret, "2023-06-01", "", `{"model":"some-model","max_tokens":4096,"messages":[{"role":"user","content":"Why?"}],"stream":true}`}},
		{"all", "/proxy/v1/", Request{
			Model:       "m",
			Messages:    []Message{{RoleSystem, "Be brief."}, {RoleSystem, "Be kind."}, {RoleUser, "Hi"}, {RoleAssistant, "Hi!"}, {RoleUser, "Why?"}},
			Temperature: "1", TopP: "0.25", MaxOutputTokens: 12, Stop: []string{"END"},
		}, sent{"/proxy/v1/messages", secret, "2023-06-01", "", `{"model":"m","max_tokens":12,"system":"Be brief.\n\nBe kind.",` +
			`"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hi!"},{"role":"user","content":"Why?"}],` +
			`"temperature":1,"top_p":0.25,"stop_sequences":["END"],"stream":true}`}},
		{"gateway", "/anthropic", question, sent{"/anthropic/v1/messages", secret, "2023-06-01", "", `{"model":"some-model","max_tokens":4096,"messages":[{"role":"user","content":"Why?"}],"stream":true}`}},
	}
	c := client(t, Options{})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := stream(t.Context(), c, endpoint(Anthropic, server.URL+test.base), test.ask)
			check(t, h, heard{text: anthropicGoodText, reasoning: "Let me see.", result: Result{FinishStop, Usage{17, 15}}}, "")
			if got != test.want {
				t.Errorf("sent %+v\nwant %+v", got, test.want)
			}
		})
	}
}

func TestAnthropicComplete(t *testing.T) {
	tests := []struct {
		name, body string
		want       heard
		class      chatretry.Class
	}{
		{
			name: "good",
			body: `{"model":"m","id":"msg","type":"message","role":"assistant","content":[{"type":"thinking","thinking":"hm"},{"type":"text","text":"A "},{"type":"text","text":"title"}],"stop_reason":"end_turn","usage":{"input_tokens":3,"cache_read_input_tokens":1,"output_tokens":2}}`,
			want: heard{text: "A title", result: Result{FinishStop, Usage{4, 2}}},
		},
		{name: "refused", body: `{"type":"message","content":[],"stop_reason":"refusal"}`, class: chatretry.ContentFiltered},
		{name: "empty", body: `{"type":"message","content":[],"stop_reason":"end_turn"}`, class: chatretry.EmptyAnswer},
		{name: "an error with 200", body: `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, class: chatretry.Overloaded},
		{name: "other JSON", body: `{"hello":"world"}`, class: chatretry.InvalidRequest},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			server := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, test.body) })
			var h heard
			h.text, h.result, h.err = client(t, Options{}).Complete(t.Context(), endpoint(Anthropic, server.URL), question)
			check(t, h, test.want, test.class)
		})
	}
}
