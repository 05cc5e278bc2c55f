// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"cmp"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// form renders one answer as a vendor does. All but header append to b.
type form interface {
	header(h http.Header)
	// begin is what comes before the first part, end what comes after the last.
	begin(b []byte) []byte
	part(b []byte, p part) []byte
	end(b []byte) []byte
	keepAlive(b []byte) []byte
	// whole is the body of an answer that is not streamed.
	whole(b []byte) []byte
}

func newForm(a answer, now time.Time) form {
	if a.request.Vendor == Anthropic {
		return newAnthropicForm(a)
	}
	return newOpenAIForm(a, now)
}

// part is one fragment of an answer.
type part struct {
	kind partKind
	text string
}

type partKind uint8

const (
	partText partKind = iota
	partReasoning
	partRefusal
)

// finishRefused is the reason of a refusal that was given no other.
const finishRefused = "refusal"

// charsPerToken is the usual rule of thumb for English.
const charsPerToken = 4

// answer is a Response to one Request with every default filled in.
type answer struct {
	request        *Request
	id             string // without the vendor's prefix
	parts          []part
	reasoningField string
	refused        bool
	finish         string
	usage          usage
	unterminated   bool
}

func newAnswer(r *Request, id string, resp Response) answer {
	a := answer{
		request:        r,
		id:             id,
		parts:          make([]part, 0, len(resp.reasoning)+len(resp.text)),
		reasoningField: cmp.Or(resp.reasoningField, "reasoning_content"),
		refused:        resp.refused,
		finish:         "stop",
		unterminated:   resp.unterminated,
	}
	for _, text := range resp.reasoning {
		a.parts = append(a.parts, part{partReasoning, text})
	}
	kind := partText
	if resp.refused {
		kind, a.finish = partRefusal, finishRefused
	}
	for _, text := range resp.text {
		a.parts = append(a.parts, part{kind, text})
	}
	if resp.finish != nil {
		a.finish = *resp.finish
	}
	if resp.usage != nil {
		a.usage = *resp.usage
		return a
	}
	chars := len(r.System)
	for _, m := range r.Messages {
		chars += len(m.Content)
	}
	a.usage = usage{input: max(1, chars/charsPerToken), output: len(a.parts)}
	return a
}

// join returns the whole text of one kind.
func (a *answer) join(kind partKind) string {
	var text strings.Builder
	for _, p := range a.parts {
		if p.kind == kind {
			text.WriteString(p.text)
		}
	}
	return text.String()
}

// appendString appends s as a JSON string. Most tokens need no escape.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' {
			return append(b, encode(s)...)
		}
	}
	if !utf8.ValidString(s) {
		return append(b, encode(s)...)
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}
