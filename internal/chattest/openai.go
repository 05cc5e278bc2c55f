// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// openAIRoles are the roles that OpenAI knows.
var openAIRoles = []string{"system", "assistant", "user", "function", "tool", "developer"}

// checkOpenAI returns what OpenAI would refuse the request with, or nil.
func checkOpenAI(r *Request) *apiError {
	refuse := func(param, code, format string, args ...any) *apiError {
		return &apiError{
			vendor: OpenAI, status: http.StatusBadRequest, kind: "invalid_request_error",
			param: param, code: code, message: fmt.Sprintf(format, args...),
		}
	}
	if r.Model == "" {
		return refuse("", "", "you must provide a model parameter")
	}
	if !r.has("messages") {
		return refuse("messages", "missing_required_parameter", "Missing required parameter: 'messages'.")
	}
	if len(r.Messages) == 0 {
		return refuse("messages", "empty_array", "Invalid 'messages': empty array. Expected an array with minimum "+
			"length 1, but got an empty array instead.")
	}
	for i, m := range r.Messages {
		if !slices.Contains(openAIRoles, m.Role) {
			param := fmt.Sprintf("messages[%d].role", i)
			return refuse(param, "invalid_value", "Invalid value: '%s'. Supported values are: '%s'.",
				m.Role, strings.Join(openAIRoles, "', '"))
		}
	}
	if r.has("stream_options") && !r.Stream {
		return refuse("stream_options", "", "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
	}
	if r.has("max_tokens") && r.has("max_completion_tokens") {
		return refuse("max_tokens", "invalid_parameter_combination",
			"Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
	}
	for _, bound := range []struct {
		name string
		max  float64
	}{{"temperature", 2}, {"top_p", 1}} {
		name, limit := bound.name, bound.max
		n, ok := r.number(name)
		switch {
		case r.has(name) && !ok:
			return refuse(name, "invalid_type", "Invalid type for '%s': expected a decimal.", name)
		case n > limit:
			return refuse(name, "decimal_above_max_value",
				"Invalid '%s': decimal above maximum value. Expected a value <= %g, but got %g instead.", name, limit, n)
		case n < 0:
			return refuse(name, "decimal_below_min_value",
				"Invalid '%s': decimal below minimum value. Expected a value >= 0, but got %g instead.", name, n)
		}
	}
	return nil
}

// openAIFinish gives a reason in OpenAI's words.
func openAIFinish(reason string) string {
	switch reason {
	case "end_turn", "stop_sequence":
		return "stop"
	case "max_tokens":
		return "length"
	case "refusal":
		return "content_filter"
	default:
		return reason
	}
}

// openAIForm renders an answer as OpenAI does.
type openAIForm struct {
	answer answer
	// head and tail stand around the delta of every chunk.
	head, tail string
	usage      bool // the client asked for it
}

func newOpenAIForm(a answer, created time.Time) *openAIForm {
	f := &openAIForm{answer: a}
	var options struct {
		IncludeUsage bool `json:"include_usage"`
	}
	// What does not decode was not asked for.
	_ = a.request.member("stream_options", &options)
	f.usage = options.IncludeUsage
	head := make([]byte, 0, 256)
	head = append(head, `data: {"id":"chatcmpl-`...)
	head = append(head, a.id...)
	head = append(head, `","object":"chat.completion.chunk","created":`...)
	head = strconv.AppendInt(head, created.Unix(), 10)
	head = append(head, `,"model":`...)
	head = appendString(head, a.request.Model)
	head = append(head, `,"service_tier":"default","system_fingerprint":"fp_chattest","choices":[`...)
	f.head = string(head)
	f.tail = "}\n\n"
	if f.usage {
		f.tail = `,"usage":null` + f.tail
	}
	return f
}

func (f *openAIForm) header(h http.Header) {
	h.Set("X-Request-Id", "req_"+f.answer.id)
	h.Set("Openai-Processing-Ms", "1")
	h.Set("Openai-Version", "2020-10-01")
}

func (f *openAIForm) begin(b []byte) []byte {
	return f.chunk(b, `"role":"assistant","content":"","refusal":null`, "null")
}

func (f *openAIForm) part(b []byte, p part) []byte {
	b = append(b, f.head...)
	b = append(b, `{"index":0,"delta":{"`...)
	switch p.kind {
	case partReasoning:
		b = append(b, f.answer.reasoningField...)
	case partRefusal:
		b = append(b, "refusal"...)
	case partText:
		b = append(b, "content"...)
	}
	b = append(b, `":`...)
	b = appendString(b, p.text)
	b = append(b, `},"logprobs":null,"finish_reason":null}]`...)
	return append(b, f.tail...)
}

// chunk renders a chunk with the members of a delta and a finish reason, both
// as JSON.
func (f *openAIForm) chunk(b []byte, delta, finish string) []byte {
	b = append(b, f.head...)
	b = append(b, `{"index":0,"delta":{`...)
	b = append(b, delta...)
	b = append(b, `},"logprobs":null,"finish_reason":`...)
	b = append(b, finish...)
	b = append(b, "}]"...)
	return append(b, f.tail...)
}

// finish is the finish reason as JSON.
func (f *openAIForm) finish() string {
	reason := openAIFinish(f.answer.finish)
	if f.answer.refused && f.answer.finish == finishRefused {
		// OpenAI's refusals are said, and then end like any answer.
		reason = "stop"
	}
	if reason == "" {
		return "null"
	}
	return string(appendString(nil, reason))
}

func (f *openAIForm) end(b []byte) []byte {
	b = f.chunk(b, "", f.finish())
	if f.usage {
		b = append(b, f.head...)
		b = append(b, `],"usage":`...)
		b = f.appendUsage(b)
		b = append(b, "}\n\n"...)
	}
	if !f.answer.unterminated {
		b = append(b, "data: [DONE]\n\n"...)
	}
	return b
}

func (f *openAIForm) appendUsage(b []byte) []byte {
	u := f.answer.usage
	return fmt.Appendf(b, `{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,`+
		`"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},`+
		`"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,`+
		`"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}`,
		u.input, u.output, u.input+u.output)
}

func (f *openAIForm) keepAlive(b []byte) []byte { return append(b, ": keep-alive\n\n"...) }

func (f *openAIForm) whole(b []byte) []byte {
	head := strings.Replace(strings.TrimPrefix(f.head, "data: "), "chat.completion.chunk", "chat.completion", 1)
	b = append(b, head...)
	b = append(b, `{"index":0,"message":{"role":"assistant","content":`...)
	text := f.answer.join(partText)
	if text == "" && f.answer.refused {
		b = append(b, "null"...)
	} else {
		b = appendString(b, text)
	}
	if reasoning := f.answer.join(partReasoning); reasoning != "" {
		b = append(b, `,"`...)
		b = append(b, f.answer.reasoningField...)
		b = append(b, `":`...)
		b = appendString(b, reasoning)
	}
	b = append(b, `,"refusal":`...)
	if f.answer.refused {
		b = appendString(b, f.answer.join(partRefusal))
	} else {
		b = append(b, "null"...)
	}
	b = append(b, `,"annotations":[]},"logprobs":null,"finish_reason":`...)
	b = append(b, f.finish()...)
	b = append(b, `}],"usage":`...)
	b = f.appendUsage(b)
	return append(b, '}')
}
