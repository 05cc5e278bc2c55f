// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"slices"
	"strings"
	"testing"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/internal/provider"
)

// Both libraries take the end of the body for the end of the answer: each of
// these is a success to them. A failing test here is good news: a library
// learned it, and the row moves to the tests of what is the same.
func TestTheyCallItSuccess(t *testing.T) {
	each(t, func(t *testing.T, kind provider.Type) {
		tests := map[string]struct {
			response chattest.Response
			class    chatretry.Class
		}{
			"an end without the terminal event": {chattest.Answer("a", "b", "c").EndAfter(2), chatretry.StreamInterrupted},
			"an empty body":                     {chattest.Empty(), chatretry.StreamInterrupted},
			"a web page":                        {chattest.HTMLPage(), chatretry.InvalidRequest},
			"a JSON body":                       {chattest.Answer("a", "b").Unstreamed(), chatretry.InvalidRequest},
			"a refusal":                         {chattest.Refusal("I'm", " sorry"), chatretry.ContentFiltered},
			"an answer without text":            {chattest.Answer(), chatretry.EmptyAnswer},
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				server := chattest.Start(t, chattest.Always(test.response))
				if _, err := theirs(t, kind)(t.Context(), server.URL()); err != nil {
					t.Errorf("theirs failed, as it should: %v", err)
				}
				_, err := ours(t, kind)(t.Context(), server.URL())
				if got := failureOf(t, err); got.Class != test.class {
					t.Errorf("ours: %v: %v", got, got.Err)
				}
			})
		}
	})
}

// openai-go takes the member error for an error also where it is null, as
// Ollama and others send it.
func TestTheyFailOnErrorNull(t *testing.T) {
	server := chattest.Start(t, chattest.Always(chattest.Answer("a", "b").
		RawAfter(1, `data: {"choices":[{"index":0,"delta":{"content":"!"},"finish_reason":null}],"error":null}`+"\n\n")))
	if _, err := theirs(t, provider.OpenAI)(t.Context(), server.URL()); err == nil {
		t.Error("theirs did not fail")
	}
	if got, err := ours(t, provider.OpenAI)(t.Context(), server.URL()); err != nil || got.text != "a!b" {
		t.Errorf("ours: %+v, %v", got, err)
	}
}

// openai-go has no field for a model's reasoning, under either of its names.
func TestTheyHaveNoReasoning(t *testing.T) {
	for _, field := range []string{"reasoning_content", "reasoning"} {
		server := chattest.Start(t, chattest.Always(chattest.Answer("b").Reasoning("a").ReasoningField(field)))
		if got, err := theirs(t, provider.OpenAI)(t.Context(), server.URL()); err != nil || got.text != "b" {
			t.Errorf("theirs: %+v, %v", got, err)
		}
		client, err := provider.New(provider.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		var parts []provider.Part
		to := provider.Endpoint{Name: "fake", Type: provider.OpenAI, BaseURL: server.URL() + "/v1"}
		_, err = client.Stream(t.Context(), to, ask, func(p provider.Part) { parts = append(parts, p) })
		want := []provider.Part{{Kind: provider.Reasoning, Text: "a"}, {Kind: provider.Text, Text: "b"}}
		if err != nil || !slices.Equal(parts, want) {
			t.Errorf("ours: %+v, %v", parts, err)
		}
	}
}

// anthropic-sdk-go drops events whose event line a proxy dropped, although
// their data say what they are.
func TestTheyDropEventsWithoutName(t *testing.T) {
	server := chattest.Start(t, chattest.Always(chattest.Answer("a", "b").
		RawAfter(1, `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"!"}}`+"\n\n")))
	if got, err := theirs(t, provider.Anthropic)(t.Context(), server.URL()); err != nil || got.text != "ab" {
		t.Errorf("theirs: %+v, %v", got, err)
	}
	if got, err := ours(t, provider.Anthropic)(t.Context(), server.URL()); err != nil || got.text != "a!b" {
		t.Errorf("ours: %+v, %v", got, err)
	}
}

// Both libraries read the environment: what is the operator's own goes out
// beside a tenant's key.
func TestTheySendTheEnvironment(t *testing.T) {
	const operators = "operators-own"
	for _, name := range []string{
		"OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "ANTHROPIC_AUTH_TOKEN",
	} {
		t.Setenv(name, operators)
	}
	t.Setenv("ANTHROPIC_API_KEY", "") // It would hide the token.
	each(t, func(t *testing.T, kind provider.Type) {
		requests := make(chan chattest.Request, 2)
		server := chattest.Start(t, func(r chattest.Request) chattest.Response {
			requests <- r
			return chattest.Answer("a")
		})
		leaks := func(call caller) bool {
			if _, err := call(t.Context(), server.URL()); err != nil {
				t.Fatal(err)
			}
			for _, values := range (<-requests).Header {
				if strings.Contains(strings.Join(values, " "), operators) {
					return true
				}
			}
			return false
		}
		if !leaks(theirs(t, kind)) {
			t.Error("theirs sent nothing of the environment")
		}
		if leaks(ours(t, kind)) {
			t.Error("ours sent the environment")
		}
	})
}
