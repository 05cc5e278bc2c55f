// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

var update = flag.Bool("update", false, "write the golden files anew")

const (
	openAIPath    = "/v1/chat/completions"
	anthropicPath = "/v1/messages"

	openAIStream = `{"model":"gpt-5","stream":true,"stream_options":{"include_usage":true},` +
		`"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"hello"}]}`
	openAIPlainStream = `{"model":"gpt-5","stream":true,"messages":[{"role":"user","content":"hello"}]}`
	openAIWhole       = `{"model":"gpt-5","messages":[{"role":"user","content":"hello"}]}`
	anthropicStream   = `{"model":"claude-sonnet-4-5","max_tokens":64,"stream":true,"system":"Be brief.",` +
		`"messages":[{"role":"user","content":[{"type":"text","text":"hello"}]}]}`
	anthropicWhole = `{"model":"claude-sonnet-4-5","max_tokens":64,"messages":[{"role":"user","content":"hello"}]}`
)

// ask makes a request as a client of that vendor would.
func ask(t testing.TB, base, path, body string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	if path == anthropicPath {
		r.Header.Set("Anthropic-Version", "2023-06-01")
		r.Header.Set("X-Api-Key", "sk-ant-test")
	} else {
		r.Header.Set("Authorization", "Bearer sk-test-0123456789")
	}
	return r
}

// TestGolden compares whole answers with what the vendors document.
func TestGolden(t *testing.T) {
	full := chattest.Answer("Hello", " \"world\"\n", "–<é>").Reasoning("Let me", " think").Usage(12, 5)
	tests := []struct {
		name, path, body string
		response         chattest.Response
	}{
		{"openai-stream", openAIPath, openAIStream, full},
		{"openai-stream-plain", openAIPath, openAIPlainStream, chattest.Answer("Hi").Finish("length")},
		{"openai-stream-reasoning-field", openAIPath, openAIPlainStream,
			chattest.Answer("Hi").Reasoning("Hm").ReasoningField("reasoning")},
		{"openai-stream-refusal", openAIPath, openAIPlainStream, chattest.Refusal("I can", "not")},
		{"openai-stream-filtered", openAIPath, openAIPlainStream, chattest.Answer("Hi").Finish("content_filter")},
		{"openai-stream-no-reason", openAIPath, openAIPlainStream, chattest.Answer("Hi").Finish("")},
		{"openai-stream-empty", openAIPath, openAIPlainStream, chattest.Answer()},
		{"openai-stream-unterminated", openAIPath, openAIPlainStream, chattest.Answer("Hi").Unterminated()},
		{"openai-stream-error", openAIPath, openAIPlainStream,
			chattest.Answer("Hi", "!").ErrorEventAfter(1, chattest.OpenAIServerErrorResponse())},
		{"openai-unstreamed", openAIPath, openAIStream, full.Unstreamed()},
		{"openai-whole-refusal", openAIPath, openAIWhole, chattest.Refusal("No.")},
		{"openai-error", openAIPath, openAIStream,
			chattest.OpenAIErrorResponse(429, "insufficient_quota", "insufficient_quota", "You exceeded your current quota")},
		{"openai-rate-limit", openAIPath, openAIStream, chattest.OpenAIRateLimitResponse().RetryAfter(6500 * time.Millisecond)},
		{"openai-server-error", openAIPath, openAIStream, chattest.OpenAIServerErrorResponse()},
		{"anthropic-stream", anthropicPath, anthropicStream, full},
		{"anthropic-stream-length", anthropicPath, anthropicStream, chattest.Answer("Hi").Finish("length")},
		{"anthropic-stream-refusal", anthropicPath, anthropicStream, chattest.Refusal("I can", "not")},
		{"anthropic-stream-no-reason", anthropicPath, anthropicStream, chattest.Answer("Hi").Finish("")},
		{"anthropic-stream-empty", anthropicPath, anthropicStream, chattest.Answer()},
		{"anthropic-stream-unterminated", anthropicPath, anthropicStream, chattest.Answer("Hi").Unterminated()},
		{"anthropic-stream-error", anthropicPath, anthropicStream,
			chattest.Answer("Hi", "!").ErrorEventAfter(1, chattest.AnthropicOverloadedResponse())},
		{"anthropic-unstreamed", anthropicPath, anthropicStream, full.Unstreamed()},
		{"anthropic-whole-refusal", anthropicPath, anthropicWhole, chattest.Refusal("No.")},
		{"anthropic-error", anthropicPath, anthropicStream,
			chattest.AnthropicErrorResponse(400, "invalid_request_error", "prompt is too long: 200001 tokens > 200000 maximum")},
		{"anthropic-overloaded", anthropicPath, anthropicStream, chattest.AnthropicOverloadedResponse()},
		{"anthropic-rate-limit", anthropicPath, anthropicStream, chattest.AnthropicRateLimitResponse().RetryAfter(7 * time.Second)},
		{"mismatch", openAIPath, openAIStream, chattest.AnthropicOverloadedResponse()},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			// The bubble's clock is what makes the times in the answers golden.
			synctest.Test(t, func(t *testing.T) {
				server := chattest.New(chattest.Always(test.response), chattest.Titles(chattest.Always(test.response)))
				defer server.Close()
				recorder := httptest.NewRecorder()
				server.ServeHTTP(recorder, ask(t, "", test.path, test.body))
				compare(t, test.name, dump(recorder.Result()))
			})
		})
	}
}

// dump writes a response as it would stand on the wire.
func dump(r *http.Response) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%d\n", r.StatusCode)
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&out, "%s: %s\n", name, r.Header.Get(name))
	}
	out.WriteString("\n")
	_, _ = out.ReadFrom(r.Body) // a recorder's body does not fail
	return out.Bytes()
}

func compare(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
