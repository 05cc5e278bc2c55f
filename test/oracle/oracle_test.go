// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/anthropics/anthropic-sdk-go"
	anthropicoption "github.com/anthropics/anthropic-sdk-go/option"
	"github.com/openai/openai-go/v3"
	openaioption "github.com/openai/openai-go/v3/option"
	"go.uber.org/goleak"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/internal/provider"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	key    = "tenant-key"
	model  = "some-model"
	prompt = "Why?"
	system = "Be brief."
)

// outcome is what a call came to, in words that both sides share.
type outcome struct {
	text   string
	finish provider.FinishReason
	usage  provider.Usage
}

// caller makes one streaming call to a base URL that ends without a version.
type caller func(ctx context.Context, base string) (outcome, error)

var ask = provider.Request{
	Model:           model,
	Messages:        []provider.Message{{Role: provider.RoleSystem, Content: system}, {Role: provider.RoleUser, Content: prompt}},
	MaxOutputTokens: 64,
}

// ours is our client.
func ours(t *testing.T, kind provider.Type) caller {
	t.Helper()
	client, err := provider.New(provider.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return func(ctx context.Context, base string) (outcome, error) {
		if kind == provider.OpenAI {
			base += "/v1"
		}
		var text strings.Builder
		result, err := client.Stream(ctx, provider.Endpoint{Name: "fake", Type: kind, BaseURL: base, Key: provider.NewKey(key)}, ask,
			func(p provider.Part) {
				if p.Kind == provider.Text {
					text.WriteString(p.Text)
				}
			})
		return outcome{text.String(), result.FinishReason, result.Usage}, err
	}
}

// httpClient has connections of its own, for they are to be gone in the end.
func httpClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// theirs is the vendor's library, its own retries switched off.
func theirs(t *testing.T, kind provider.Type) caller {
	t.Helper()
	if kind == provider.OpenAI {
		return openAILibrary(httpClient(t))
	}
	return anthropicLibrary(httpClient(t))
}

func openAILibrary(client *http.Client) caller {
	return func(ctx context.Context, base string) (outcome, error) {
		library := openai.NewClient(openaioption.WithAPIKey(key), openaioption.WithBaseURL(base+"/v1"),
			openaioption.WithMaxRetries(0), openaioption.WithHTTPClient(client))
		stream := library.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model:         model,
			Messages:      []openai.ChatCompletionMessageParamUnion{openai.SystemMessage(system), openai.UserMessage(prompt)},
			MaxTokens:     openai.Int(ask.MaxOutputTokens),
			StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: openai.Bool(true)},
		})
		defer stream.Close()
		var got outcome
		for stream.Next() {
			chunk := stream.Current()
			for _, choice := range chunk.Choices {
				got.text += choice.Delta.Content
				got.finish = finish(choice.FinishReason, got.finish)
			}
			if chunk.JSON.Usage.Valid() {
				got.usage = provider.Usage{InputTokens: chunk.Usage.PromptTokens, OutputTokens: chunk.Usage.CompletionTokens}
			}
		}
		return got, stream.Err()
	}
}

func anthropicLibrary(client *http.Client) caller {
	return func(ctx context.Context, base string) (outcome, error) {
		library := anthropic.NewClient(anthropicoption.WithAPIKey(key), anthropicoption.WithBaseURL(base),
			anthropicoption.WithMaxRetries(0), anthropicoption.WithHTTPClient(client))
		stream := library.Messages.NewStreaming(ctx, anthropic.MessageNewParams{
			Model:     model,
			MaxTokens: ask.MaxOutputTokens,
			System:    []anthropic.TextBlockParam{{Text: system}},
			Messages:  []anthropic.MessageParam{anthropic.NewUserMessage(anthropic.NewTextBlock(prompt))},
		})
		defer stream.Close()
		var message anthropic.Message
		var failed error
		for stream.Next() {
			failed = errors.Join(failed, message.Accumulate(stream.Current()))
		}
		got := outcome{
			finish: finish(string(message.StopReason), ""),
			usage: provider.Usage{
				InputTokens:  message.Usage.InputTokens + message.Usage.CacheCreationInputTokens + message.Usage.CacheReadInputTokens,
				OutputTokens: message.Usage.OutputTokens,
			},
		}
		for _, block := range message.Content {
			got.text += block.Text
		}
		return got, errors.Join(stream.Err(), failed)
	}
}

// finish translates a vendor's finish reason, and keeps the old one for none.
func finish(reason string, old provider.FinishReason) provider.FinishReason {
	switch reason {
	case "":
		return old
	case "stop", "end_turn", "stop_sequence":
		return provider.FinishStop
	case "length", "max_tokens":
		return provider.FinishLength
	}
	return provider.FinishOther
}

// status returns the HTTP status of an error of theirs, 0 for any other.
func status(err error) int {
	if e, ok := errors.AsType[*openai.Error](err); ok {
		return e.StatusCode
	}
	if e, ok := errors.AsType[*anthropic.Error](err); ok {
		return e.StatusCode
	}
	return 0
}

var vendors = []provider.Type{provider.OpenAI, provider.Anthropic}

// each runs a test for both vendors.
func each(t *testing.T, run func(t *testing.T, kind provider.Type)) {
	t.Helper()
	for _, kind := range vendors {
		t.Run(string(kind), func(t *testing.T) { run(t, kind) })
	}
}

func failureOf(t *testing.T, err error) *chatretry.Failure {
	t.Helper()
	f, ok := errors.AsType[*chatretry.Failure](err)
	if !ok {
		t.Fatalf("ours gave no failure: %v", err)
	}
	return f
}

// Good answers: the same text, finish reason and usage on both sides.
func TestSameAnswers(t *testing.T) {
	tests := map[string]chattest.Response{
		"plain":           chattest.Answer("Hel", "lo").Usage(12, 2),
		"one part":        chattest.Answer("Hello").Usage(1, 1),
		"words":           chattest.Answer(chattest.Words(strings.Repeat("the quick brown fox ", 200))...).Usage(9, 800),
		"all kinds of it": chattest.Answer("Grüße, ", "🎈\n\t", "\"quoted\" \\ <b>&amp;</b>", "\u2028\u0000").Usage(3, 4),
		"long part":       chattest.Answer(strings.Repeat("x", 300_000)).Usage(3, 4),
		"keep-alives":     chattest.Answer("a", "b", "c").RawAfter(1, ": keep-alive\n\n").Usage(5, 3),
		"reasoning":       chattest.Answer("a", "b").Reasoning("hm", "so").Usage(5, 4),
		"slow header":     chattest.Answer("a").SlowHeaders(5*time.Millisecond).Usage(5, 1),
	}
	reasons := map[provider.Type][]string{
		provider.OpenAI:    {"stop", "length", "tool_calls"},
		provider.Anthropic: {"end_turn", "stop_sequence", "max_tokens", "tool_use", "pause_turn"},
	}
	each(t, func(t *testing.T, kind provider.Type) {
		same := func(t *testing.T, response chattest.Response) {
			t.Helper()
			server := chattest.Start(t, chattest.Always(response))
			want, err := theirs(t, kind)(t.Context(), server.URL())
			if err != nil {
				t.Fatalf("theirs failed: %v", err)
			}
			got, err := ours(t, kind)(t.Context(), server.URL())
			if err != nil || got != want {
				t.Errorf("ours %+v, %v\ntheirs %+v", got, err, want)
			}
		}
		for name, response := range tests {
			t.Run(name, func(t *testing.T) { same(t, response) })
		}
		for _, reason := range reasons[kind] {
			t.Run(reason, func(t *testing.T) { same(t, chattest.Answer("a", "b").Finish(reason).Usage(2, 2)) })
		}
	})
}

// What both sides send, as far as both send it, is the same.
func TestSameRequests(t *testing.T) {
	each(t, func(t *testing.T, kind provider.Type) {
		requests := make(chan chattest.Request, 2)
		server := chattest.Start(t, func(r chattest.Request) chattest.Response {
			requests <- r
			return chattest.Answer("a")
		})
		for _, call := range []caller{theirs(t, kind), ours(t, kind)} {
			if _, err := call(t.Context(), server.URL()); err != nil {
				t.Fatal(err)
			}
		}
		their, our := <-requests, <-requests
		for _, pair := range [][2]string{
			{their.Path, our.Path}, {their.Model, our.Model}, {their.System, our.System}, {their.LastUser, our.LastUser},
			{their.APIKey, our.APIKey}, {string(their.Parameters["max_tokens"]), string(our.Parameters["max_tokens"])},
			{string(their.Parameters["stream_options"]), string(our.Parameters["stream_options"])},
			{their.Header.Get("Content-Type"), our.Header.Get("Content-Type")},
			{their.Header.Get("Anthropic-Version"), our.Header.Get("Anthropic-Version")},
		} {
			if pair[0] != pair[1] {
				t.Errorf("theirs %q, ours %q", pair[0], pair[1])
			}
		}
	})
}

// HTTP errors: both sides fail, with the same status; ours has a class.
func TestSameErrors(t *testing.T) {
	tests := map[provider.Type]map[string]struct {
		response chattest.Response
		class    chatretry.Class
	}{
		provider.OpenAI: {
			"rate limit":   {chattest.OpenAIRateLimitResponse(), chatretry.RateLimited},
			"server error": {chattest.OpenAIServerErrorResponse(), chatretry.ServerError},
			"quota": {chattest.OpenAIErrorResponse(429, "insufficient_quota", "insufficient_quota",
				"You exceeded your current quota, please check your plan and billing details."), chatretry.QuotaExhausted},
			"model at 503": {chattest.OpenAIErrorResponse(503, "server_error", "", "invalid model"), chatretry.ModelNotFound},
			"bad request":  {chattest.OpenAIErrorResponse(400, "invalid_request_error", "", "Unrecognized request argument supplied: timeout"), chatretry.InvalidRequest},
		},
		provider.Anthropic: {
			"overloaded": {chattest.AnthropicOverloadedResponse(), chatretry.Overloaded},
			"rate limit": {chattest.AnthropicRateLimitResponse(), chatretry.RateLimited},
			"too long": {chattest.AnthropicErrorResponse(400, "invalid_request_error", "prompt is too long: 209513 tokens > 200000 maximum"),
				chatretry.ContextLengthExceeded},
			"server error": {chattest.AnthropicErrorResponse(500, "api_error", "Internal server error"), chatretry.ServerError},
		},
	}
	each(t, func(t *testing.T, kind provider.Type) {
		for name, test := range tests[kind] {
			t.Run(name, func(t *testing.T) {
				server := chattest.Start(t, chattest.Always(test.response.RetryAfter(7*time.Second)))
				_, want := theirs(t, kind)(t.Context(), server.URL())
				_, err := ours(t, kind)(t.Context(), server.URL())
				got := failureOf(t, err)
				if status(want) == 0 || got.HTTPStatus != status(want) {
					t.Errorf("ours HTTP %d, theirs %d", got.HTTPStatus, status(want))
				}
				if got.Class != test.class || got.RetryAfter != 7*time.Second {
					t.Errorf("%v, retry after %v", got, got.RetryAfter)
				}
				if n := server.Ledger().Count(chattest.PurposeAnswer); n != 2 {
					t.Errorf("%d requests for two calls", n)
				}
			})
		}
		t.Run("key", func(t *testing.T) {
			server := chattest.Start(t, chattest.Always(chattest.Answer("a")), chattest.RequireKey("another"))
			_, want := theirs(t, kind)(t.Context(), server.URL())
			_, err := ours(t, kind)(t.Context(), server.URL())
			if got := failureOf(t, err); got.Class != chatretry.AuthenticationFailed || got.HTTPStatus != status(want) {
				t.Errorf("ours %v, theirs %v", got, want)
			}
		})
		t.Run("model", func(t *testing.T) {
			server := chattest.Start(t, chattest.Always(chattest.Answer("a")), chattest.Models("another"))
			_, want := theirs(t, kind)(t.Context(), server.URL())
			_, err := ours(t, kind)(t.Context(), server.URL())
			if got := failureOf(t, err); got.Class != chatretry.ModelNotFound || got.HTTPStatus != status(want) {
				t.Errorf("ours %v, theirs %v", got, want)
			}
		})
	})
}

// Faults in a stream that both sides see.
func TestSameFaults(t *testing.T) {
	overloaded := map[provider.Type]chattest.Response{
		provider.OpenAI:    chattest.OpenAIErrorResponse(503, "server_error", "server_is_overloaded", "Overloaded"),
		provider.Anthropic: chattest.AnthropicOverloadedResponse(),
	}
	each(t, func(t *testing.T, kind provider.Type) {
		tests := map[string]struct {
			response chattest.Response
			class    chatretry.Class
		}{
			"reset":             {chattest.Reset(), chatretry.ConnectionError},
			"reset after parts": {chattest.Answer("a", "b", "c").ResetAfter(2), chatretry.ConnectionError},
			"error event":       {chattest.Answer("a", "b", "c").ErrorEventAfter(2, overloaded[kind]), chatretry.Overloaded},
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				server := chattest.Start(t, chattest.Always(test.response))
				if _, err := theirs(t, kind)(t.Context(), server.URL()); err == nil {
					t.Error("theirs did not fail")
				}
				_, err := ours(t, kind)(t.Context(), server.URL())
				if got := failureOf(t, err); got.Class != test.class {
					t.Errorf("%v: %v", got, got.Err)
				}
			})
		}
	})
}
