// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"fmt"
	"net/http"
)

// checkAnthropic returns what Anthropic would refuse the request with, or nil.
func checkAnthropic(r *Request) *apiError {
	refuse := func(format string, args ...any) *apiError {
		return &apiError{
			vendor: Anthropic, status: http.StatusBadRequest, kind: "invalid_request_error",
			message: fmt.Sprintf(format, args...),
		}
	}
	if r.Header.Get("Anthropic-Version") == "" {
		return refuse("anthropic-version: header is required")
	}
	for _, name := range []string{"model", "max_tokens", "messages"} {
		if !r.has(name) {
			return refuse("%s: Field required", name)
		}
	}
	if n, ok := r.number("max_tokens"); !ok || n != float64(int64(n)) {
		return refuse("max_tokens: Input should be a valid integer")
	} else if n < 1 {
		return refuse("max_tokens: Input should be greater than or equal to 1")
	}
	if r.Model == "" {
		return refuse("model: String should have at least 1 character")
	}
	if len(r.Messages) == 0 {
		return refuse("messages: at least one message is required")
	}
	for i, m := range r.Messages {
		switch {
		case m.Role == "system":
			return refuse(`messages: Unexpected role "system". The Messages API accepts a top-level ` +
				"`system` parameter, not \"system\" as an input message role.")
		case m.Role != "user" && m.Role != "assistant":
			return refuse("messages.%d.role: Input should be 'user' or 'assistant'", i)
		case m.Content == "" && m.Role == "user":
			return refuse("messages.%d: user messages must have non-empty content", i)
		}
	}
	for _, name := range []string{"temperature", "top_p"} {
		if n, ok := r.number(name); r.has(name) && (!ok || n < 0 || n > 1) {
			return refuse("%s: range: 0..1", name)
		}
	}
	return nil
}

// anthropicFinish gives a reason in Anthropic's words.
func anthropicFinish(reason string) string {
	switch reason {
	case "stop":
		return "end_turn"
	case "length":
		return "max_tokens"
	case "content_filter":
		return "refusal"
	default:
		return reason
	}
}

// noBlock is the kind of no content block.
const noBlock partKind = 0xff

// anthropicForm renders an answer as Anthropic does.
type anthropicForm struct {
	answer answer
	index  int      // of the content block that is open or comes next
	open   partKind // what the open block holds, or noBlock
	head   string   // of every delta of the open block, up to its text
	pinged bool
}

func newAnthropicForm(a answer) *anthropicForm { return &anthropicForm{answer: a, open: noBlock} }

func (f *anthropicForm) header(h http.Header) {
	h.Set("Request-Id", "req_"+f.answer.id)
	h.Set("Anthropic-Organization-Id", "00000000-0000-4000-8000-000000000000")
}

func (f *anthropicForm) begin(b []byte) []byte {
	b = append(b, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":"...)
	b = f.message(b, "[]", "null", min(1, f.answer.usage.output))
	return append(b, "}\n\n"...)
}

// message renders a message with its content and its stop reason, both as JSON.
func (f *anthropicForm) message(b []byte, content, stop string, output int) []byte {
	b = append(b, `{"model":`...)
	b = appendString(b, f.answer.request.Model)
	return fmt.Appendf(b, `,"id":"msg_%s","type":"message","role":"assistant","content":%s,"stop_reason":%s,`+
		`"stop_sequence":null,"usage":{"input_tokens":%d,"cache_creation_input_tokens":0,`+
		`"cache_read_input_tokens":0,"output_tokens":%d,"service_tier":"standard"}}`,
		f.answer.id, content, stop, f.answer.usage.input, output)
}

func (f *anthropicForm) part(b []byte, p part) []byte {
	kind := p.kind
	if kind == partRefusal {
		kind = partText // Anthropic refuses in plain text
	}
	if f.open != kind {
		b = f.start(f.stop(b), kind)
	}
	b = append(b, f.head...)
	b = appendString(b, p.text)
	return append(b, "}}\n\n"...)
}

// start opens a content block, and sends the one ping that follows the first.
func (f *anthropicForm) start(b []byte, kind partKind) []byte {
	f.open = kind
	name, block := "text", `{"type":"text","text":""}`
	if kind == partReasoning {
		name, block = "thinking", `{"type":"thinking","thinking":"","signature":""}`
	}
	f.head = fmt.Sprintf("event: content_block_delta\ndata: "+
		`{"type":"content_block_delta","index":%d,"delta":{"type":"%s_delta","%s":`, f.index, name, name)
	b = fmt.Appendf(b, "event: content_block_start\ndata: "+
		`{"type":"content_block_start","index":%d,"content_block":%s}`+"\n\n", f.index, block)
	if !f.pinged {
		f.pinged = true
		b = f.keepAlive(b)
	}
	return b
}

// stop closes the open content block, if one is.
func (f *anthropicForm) stop(b []byte) []byte {
	if f.open == noBlock {
		return b
	}
	if f.open == partReasoning {
		b = fmt.Appendf(b, "event: content_block_delta\ndata: "+
			`{"type":"content_block_delta","index":%d,"delta":{"type":"signature_delta","signature":"Y2hhdHRlc3Q="}}`+
			"\n\n", f.index)
	}
	b = fmt.Appendf(b, "event: content_block_stop\ndata: "+
		`{"type":"content_block_stop","index":%d}`+"\n\n", f.index)
	f.open = noBlock
	f.index++
	return b
}

// finish is the stop reason as JSON.
func (f *anthropicForm) finish() string {
	if reason := anthropicFinish(f.answer.finish); reason != "" {
		return string(appendString(nil, reason))
	}
	return "null"
}

func (f *anthropicForm) end(b []byte) []byte {
	b = f.stop(b)
	u := f.answer.usage
	b = fmt.Appendf(b, "event: message_delta\ndata: "+
		`{"type":"message_delta","delta":{"stop_reason":%s,"stop_sequence":null},"usage":{"input_tokens":%d,`+
		`"cache_creation_input_tokens":0,"cache_read_input_tokens":0,"output_tokens":%d}}`+"\n\n",
		f.finish(), u.input, u.output)
	if !f.answer.unterminated {
		b = append(b, "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"...)
	}
	return b
}

func (f *anthropicForm) keepAlive(b []byte) []byte {
	return append(b, "event: ping\ndata: {\"type\": \"ping\"}\n\n"...)
}

func (f *anthropicForm) whole(b []byte) []byte {
	content := []byte{'['}
	if reasoning := f.answer.join(partReasoning); reasoning != "" {
		content = append(content, `{"type":"thinking","thinking":`...)
		content = appendString(content, reasoning)
		content = append(content, `,"signature":"Y2hhdHRlc3Q="}`...)
	}
	if text := f.answer.join(partText) + f.answer.join(partRefusal); text != "" {
		if len(content) > 1 {
			content = append(content, ',')
		}
		content = append(content, `{"type":"text","text":`...)
		content = appendString(content, text)
		content = append(content, '}')
	}
	content = append(content, ']')
	return f.message(b, string(content), f.finish(), f.answer.usage.output)
}
