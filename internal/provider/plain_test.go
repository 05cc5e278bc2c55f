// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

// plainly are the readers of what is plain, with what encoding/json makes of the same:
// the text, and whether there is anything beside it that counts.
var plainly = map[Type]struct {
	read func([]byte) (string, bool)
	slow func(data []byte) (text string, plain bool)
}{
	OpenAI: {plainOpenAI, func(data []byte) (string, bool) {
		var chunk openAIChunk
		if json.Unmarshal(data, &chunk) != nil || chunk.Usage != nil || isSet(chunk.Error) || len(chunk.Choices) != 1 {
			return "", false
		}
		text := chunk.Choices[0].Delta.Content.text
		return text, reflect.DeepEqual(chunk.Choices[0], openAIChoice{Delta: openAIContent{Content: openAIText{text: text}}})
	}},
	Anthropic: {plainAnthropic, func(data []byte) (string, bool) {
		var v anthropicEvent
		if json.Unmarshal(data, &v) != nil {
			return "", false
		}
		text := v.Delta.Text
		v.Delta.anthropicBlock.Type = ""
		return text, reflect.DeepEqual(v, anthropicEvent{Type: "content_block_delta", Delta: anthropicDelta{anthropicBlock: anthropicBlock{Text: text}}})
	}},
}

// plainEvents are what vendors and servers stream, almost all the time.
var plainEvents = map[Type][]string{
	OpenAI: {
		strings.TrimPrefix(strings.TrimSpace(openAIToken), "data: "),
		`{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1719,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`,
		`{ "choices" : [ { "delta" : { "content" : "a" } } ] }`,
		`{"id":"1","error":null,"usage":null,"choices":[{"index":0,"delta":{"content":"\"quoted\"\n\tand \/ \\ ünïcödé 🎉","role":null,"refusal":null,"tool_calls":null},"finish_reason":null,"stop_reason":null,"token_ids":null}]}`,
		`{"id":"gen-1","provider":"x","model":"m","object":"chat.completion.chunk","created":0,"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi","reasoning":null},"finish_reason":null,"native_finish_reason":null,"logprobs":null}]}`,
	},
	Anthropic: {
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" token"}}`,
		`{"type": "content_block_delta", "index": 12, "delta": {"type": "text_delta", "text": ""}}`,
		`{"delta":{"text":"a\\b","type":"text_delta"},"index":0,"type":"content_block_delta"}`,
	},
}

// oddEvents are near to those, and are none, or are not read that fast.
var oddEvents = map[Type][]string{
	OpenAI: {
		``, `{`, `{}`, `null`, `[]`, `{"choices":[]}`, `{"choices":null}`, `{"choices":[{}]}`, `{"choices":[{"delta":{}}]}`,
		`{"choices":[{"delta":{"content":"a"}},{"delta":{"content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a"}}],"choices":[{"delta":{"content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a"},"delta":{"content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a","content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a","Content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a"}}],"ERROR":{"message":"no"}}`,
		`{"choices":[{"delta":{"content":"a"}}],"error":{"message":"no"}}`,
		`{"choices":[{"delta":{"content":"a"}}],"error":""}`,
		`{"choices":[{"delta":{"content":"a"}}],"usage":{"prompt_tokens":1}}`,
		`{"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}`,
		`{"choices":[{"delta":{"content":"a"},"message":{"content":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a","reasoning":"b"}}]}`,
		`{"choices":[{"delta":{"content":"a","refusal":"b"}}]}`,
		`{"choices":[{"delta":{"content":null}}]}`,
		`{"choices":[{"delta":{"content":[{"type":"text","text":"a"}]}}]}`,
		`{"choices":[{"index":1,"delta":{"content":"a"}}]}`,
		`{"choices":[{"index":00,"delta":{"content":"a"}}]}`,
		`{"choices":[{"index":0.0,"delta":{"content":"a"}}]}`,
		`{"choices":[{"index":"0","delta":{"content":"a"}}]}`,
		`{"created":01,"choices":[{"delta":{"content":"a"}}]}`,
		`{"created":nul,"choices":[{"delta":{"content":"a"}}]}`,
		`{"created":,"choices":[{"delta":{"content":"a"}}]}`,
		`{"choices":[{"delta":{"content":"\u00e4"}}]}`,
		`{"choices":[{"delta":{"content":"\ud83c\udf89"}}]}`,
		`{"choices":[{"delta":{"content":"\x"}}]}`,
		`{"choices":[{"delta":{"content":"a` + "\n" + `"}}]}`,
		`{"choices":[{"delta":{"content":"` + "\xff" + `"}}]}`,
		`{"id":"` + "\xff" + `","choices":[{"delta":{"content":"a"}}]}`,
		`{"choices":[{"delta":{"content":"a\"}}]}`,
		`{"choices":[{"delta":{"content":"a"}}]}}`,
		`{"choices":[{"delta":{"content":"a"}}],}`,
		`{"choices":[{"delta":{"content":"a"}},]}`,
		`{"choices":[{"delta":{"content":"a"}}] {}`,
		`{"\u0063hoices":[{"delta":{"content":"a"}}]}`,
		`{choices:[{"delta":{"content":"a"}}]}`,
	},
	Anthropic: {
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"a"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a","thinking":"b"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"},"usage":{"output_tokens":1}}`,
		`{"type":"content_block_delta","type":"message_stop","delta":{"type":"text_delta","text":"a"}}`,
		`{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"},"delta":{"type":"text_delta","text":"b"}}`,
		`{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"},"Type":"error"}`,
		`{"type":"message_stop"}`, `{"delta":{"type":"text_delta","text":"a"}}`, `{"type":"content_block_delta"}`,
	},
}

// TestPlain: what is streamed all the time is read fast, and what is not exactly that is
// left to encoding/json.
func TestPlain(t *testing.T) {
	for kind, events := range plainEvents {
		for _, data := range events {
			want, plain := plainly[kind].slow([]byte(data))
			if got, ok := plainly[kind].read([]byte(data)); !ok || !plain || got != want {
				t.Errorf("%s: %q, %v of %s, want %q", kind, got, ok, data, want)
			}
		}
	}
	for kind, events := range oddEvents {
		for _, data := range events {
			if got, ok := plainly[kind].read([]byte(data)); ok {
				t.Errorf("%s: %q of %s", kind, got, data)
			}
		}
	}
}

// FuzzPlain: what is read fast is what encoding/json reads, and nothing beside the text
// counts.
func FuzzPlain(f *testing.F) {
	for _, all := range []map[Type][]string{plainEvents, oddEvents} {
		for kind, events := range all {
			for _, data := range events {
				f.Add(kind == OpenAI, data)
			}
		}
	}
	f.Fuzz(func(t *testing.T, openAI bool, data string) {
		kind := Anthropic
		if openAI {
			kind = OpenAI
		}
		got, ok := plainly[kind].read([]byte(data))
		if !ok {
			return
		}
		if want, plain := plainly[kind].slow([]byte(data)); !plain || got != want {
			t.Errorf("%s: %q, where encoding/json reads %q, %v", kind, got, want, plain)
		}
	})
}

// TestPlainCutAnywhere: no event that is cut, or has another byte somewhere, is read as
// something that it is not.
func TestPlainCutAnywhere(t *testing.T) {
	for kind, events := range plainEvents {
		for _, data := range events {
			for i := range len(data) {
				changed := []string{data[:i], data[:i] + data[i+1:]}
				for _, c := range []byte("\"\\{}[],:0n \x00\xff") {
					changed = append(changed, data[:i]+string([]byte{c})+data[i+1:], data[:i]+string([]byte{c})+data[i:])
				}
				for _, event := range changed {
					got, ok := plainly[kind].read([]byte(event))
					if want, plain := plainly[kind].slow([]byte(event)); ok && (!plain || got != want) {
						t.Fatalf("%s: %q of %s, want %q, %v", kind, got, event, want, plain)
					}
				}
			}
		}
	}
}
