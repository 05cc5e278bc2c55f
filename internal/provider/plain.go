// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

// The two events that a stream is made of. Both read what they know as encoding/json
// would, and report false for anything else, an error of any kind included.

// plainOpenAI reads a chunk that brings text for the first choice, and nothing else
// that means anything to us.
func plainOpenAI(data []byte) (text string, ok bool) {
	w := walker{data: data}
	choices := 0
	w.members(func(key []byte) {
		switch string(key) {
		case "id", "object", "created", "model", "service_tier", "system_fingerprint", "obfuscation", "provider":
			w.skip()
		case "usage", "error":
			w.word("null")
		case "choices":
			choices++
			w.want('[')
			text = w.openAIChoice()
			w.want(']')
		default:
			// encoding/json does not mind the case of a key: it may be one that counts.
			w.odd = true
		}
	})
	return text, w.end() && choices == 1
}

func (w *walker) openAIChoice() (text string) {
	deltas := 0
	w.members(func(key []byte) {
		switch string(key) {
		case "index":
			w.word("0")
		case "logprobs", "finish_reason", "native_finish_reason", "stop_reason", "matched_stop", "token_ids":
			w.word("null")
		case "delta":
			deltas++
			text = w.openAIDelta()
		default:
			w.odd = true
		}
	})
	w.odd = w.odd || deltas != 1
	return text
}

func (w *walker) openAIDelta() (text string) {
	contents := 0
	w.members(func(key []byte) {
		switch string(key) {
		case "role":
			w.skip()
		case "refusal", "reasoning_content", "reasoning", "tool_calls", "function_call":
			w.word("null")
		case "content":
			contents++
			text = w.text()
		default:
			w.odd = true
		}
	})
	w.odd = w.odd || contents != 1
	return text
}

// plainAnthropic reads a content_block_delta that brings text.
func plainAnthropic(data []byte) (text string, ok bool) {
	w := walker{data: data}
	types, deltas := 0, 0
	w.members(func(key []byte) {
		switch string(key) {
		case "type":
			types++
			w.word(`"content_block_delta"`)
		case "index":
			w.skip()
		case "delta":
			deltas++
			text = w.anthropicDelta()
		default:
			w.odd = true
		}
	})
	return text, w.end() && types == 1 && deltas == 1
}

func (w *walker) anthropicDelta() (text string) {
	texts := 0
	w.members(func(key []byte) {
		switch string(key) {
		case "type":
			w.word(`"text_delta"`)
		case "text":
			texts++
			text = w.text()
		default:
			w.odd = true
		}
	})
	w.odd = w.odd || texts != 1
	return text
}
