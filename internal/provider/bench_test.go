// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"strings"
	"testing"
)

// repeat is a reader of the same text for ever.
type repeat struct {
	text string
	at   int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

const (
	openAIToken    = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"gpt-5","service_tier":"default","system_fingerprint":"fp_1","choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}],"usage":null,"obfuscation":"abcdef"}` + "\n\n"
	anthropicToken = "event: content_block_delta\n" + `data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" token"}}` + "\n\n"
)

func BenchmarkFraming(b *testing.B) {
	b.ReportAllocs()
	r := newEventReader(&repeat{text: openAIToken})
	for b.Loop() {
		if _, err := r.next(); err != nil {
			b.Fatal(err)
		}
	}
}

// decodeAllocations is the most that a part may allocate beyond the reading of its
// line: its text. The budget is 12.
const decodeAllocations = 1

// TestDecodeAllocates looks at allocations alone: times are the machine's.
func TestDecodeAllocates(t *testing.T) {
	for kind, token := range map[Type]string{OpenAI: openAIToken, Anthropic: anthropicToken} {
		c, failure := newCall(endpoint(kind, ""), question, true)
		if failure != nil {
			t.Fatal(failure)
		}
		answer, n := c.vendor.answer(c), 0
		e, err := newEventReader(&repeat{text: token}).next()
		if err != nil {
			t.Fatal(err)
		}
		part := func(p Part) { n += len(p.Text) }
		got := testing.AllocsPerRun(100, func() {
			if _, failure := answer.event(e, part); failure != nil {
				t.Fatal(failure)
			}
		})
		t.Logf("%s: %.0f allocations", kind, got)
		if n == 0 || got > decodeAllocations {
			t.Errorf("%s: %d bytes of text, %.0f allocations, of %.0f at most", kind, n, got, float64(decodeAllocations))
		}
	}
}

func benchmarkDecode(b *testing.B, kind Type, token string) {
	b.Helper()
	b.ReportAllocs()
	c, failure := newCall(endpoint(kind, ""), question, true)
	if failure != nil {
		b.Fatal(failure)
	}
	r, answer, n := newEventReader(&repeat{text: token}), c.vendor.answer(c), 0
	for b.Loop() {
		e, err := r.next()
		if err != nil {
			b.Fatal(err)
		}
		if _, failure := answer.event(e, func(p Part) { n += len(p.Text) }); failure != nil {
			b.Fatal(failure)
		}
	}
	if n == 0 {
		b.Fatal("nothing was read")
	}
}

func BenchmarkDecodeOpenAI(b *testing.B)    { benchmarkDecode(b, OpenAI, openAIToken) }
func BenchmarkDecodeAnthropic(b *testing.B) { benchmarkDecode(b, Anthropic, anthropicToken) }

func BenchmarkClassifyFault(b *testing.B) {
	b.ReportAllocs()
	body := []byte(`{"error":{"message":"` + strings.Repeat("The server had an error. ", 20) + `","type":"server_error","code":null}}`)
	for b.Loop() {
		f, _ := parseFault(body)
		f.status = 500
		_ = f.classify(openAICodes, anthropicCodes)
	}
}
