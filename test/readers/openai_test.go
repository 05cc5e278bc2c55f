// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/ssestream"

	"chatrun.dev/operator/internal/chattest"
)

// chunks is a stream as the official library gives it.
type chunks = ssestream.Stream[openai.ChatCompletionChunk]

// openAI is a way to read a run with the official library.
type openAI struct {
	name string
	open func(ctx context.Context, client openai.Client, query ...option.RequestOption) *chunks
}

var openAIs = []openAI{
	{"OpenAI's client, POST", func(ctx context.Context, client openai.Client, query ...option.RequestOption) *chunks {
		return client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
			Model:    "any",
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("What the run was asked stands in the run.")},
		}, query...)
	}},
	{"OpenAI's client, GET", func(ctx context.Context, client openai.Client, query ...option.RequestOption) *chunks {
		var resp *http.Response
		err := client.Get(ctx, "stream", nil, &resp, append(query, option.WithQuery("format", "openai"))...)
		return ssestream.NewStream[openai.ChatCompletionChunk](ssestream.NewDecoder(resp), err)
	}},
}

// read reads a run once. The library tells a whole answer from a broken one.
func (o openAI) read(t *testing.T, address, run string, query ...option.RequestOption) *reading {
	t.Helper()
	plain := httpClient(t)
	plain.Transport = plain.Transport.(bearer).next // the library has the token
	client := openai.NewClient(option.WithAPIKey(the.token), option.WithMaxRetries(0), option.WithHTTPClient(plain),
		option.WithBaseURL(strings.TrimSuffix(streamURL("https://"+address, run, ""), "/stream?")))
	r, ctx, ended := newReading(), t.Context(), make(chan struct{})
	go func() {
		defer close(ended)
		stream := o.open(ctx, client, query...)
		for stream.Next() {
			for _, choice := range stream.Current().Choices {
				r.part(choice.Delta.Content)
				r.finish(choice.FinishReason)
			}
		}
		err := stream.Err()
		_ = stream.Close() // it has no more to say
		r.end(err)
	}()
	t.Cleanup(func() { <-ended })
	return r
}

// held sends text only once the run has succeeded.
var held = option.WithQuery("hold", "true")

// isWhole fails the test unless the reading ended well with the stored text.
func isWhole(t *testing.T, r *reading, want string) {
	t.Helper()
	got, err := r.whole(t)
	if err != nil {
		t.Fatalf("the reading failed: %v", err)
	}
	equals(t, got, want)
}

// isBroken fails the test unless the reading ended with an error.
func isBroken(t *testing.T, r *reading) {
	t.Helper()
	got, err := r.whole(t)
	if err == nil {
		t.Fatalf("the reader takes %s for a whole answer", brief(got))
	}
	t.Logf("the reader says: %v", err)
}

// TestOpenAI: the official library reads a run live, and a finished one.
func TestOpenAI(t *testing.T) {
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			p := newPlay(t, "Grüße, ", words, "🌊", " end")
			run := beginRun(t, p.answer())
			r := how.read(t, the.stream, run.Name)
			for i := range p.parts {
				r.saw(t, p.text(i+1))
				p.goOn(i + 1)
			}
			want := stored(t, run)
			isWhole(t, r, want)
			late := how.read(t, the.stream, run.Name)
			isWhole(t, late, want)
			for _, r := range []*reading{r, late} {
				if r.finished != "stop" {
					t.Errorf("finish reason %q", r.finished)
				}
			}
		})
	}
}

// cutInText cuts a reading in the middle, which has to be seen as what it is;
// the next reading has all.
func cutInText(t *testing.T, how openAI, k *knife, address string) {
	p := newPlay(t, "one ", "two ", "three")
	run := beginRun(t, p.answer())
	r := how.read(t, address, run.Name)
	r.saw(t, p.text(1))
	p.goOn(1)
	r.saw(t, p.text(2))
	k.cut()
	isBroken(t, r)
	again := how.read(t, address, run.Name)
	again.saw(t, p.text(2))
	p.finish()
	isWhole(t, again, stored(t, run))
}

// TestOpenAICut: no cut passes for an end.
func TestOpenAICut(t *testing.T) {
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			k := newKnife(t, the.stream)
			cutInText(t, how, k, k.address())
		})
	}
}

// TestOpenAIRetry: an attempt fails after text of it was read. The reader is
// told, and reads again; one that asked to be spared sees nothing of it.
func TestOpenAIRetry(t *testing.T) {
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			lost, kept := newPlay(t, "lost ", "text"), newPlay(t, "kept ", "text")
			run := beginRun(t, lost.answer().ResetAfter(2), kept.answer())
			r, patient := how.read(t, the.stream, run.Name), how.read(t, the.stream, run.Name, held)
			r.saw(t, lost.text(1))
			lost.finish()
			isBroken(t, r)
			again := how.read(t, the.stream, run.Name)
			again.saw(t, kept.text(1))
			kept.finish()
			want := stored(t, run)
			isWhole(t, again, want)
			isWhole(t, patient, want)
		})
	}
}

// TestOpenAIEarlyRetry: an attempt that fails before its first part is nothing
// that a reader has to know of.
func TestOpenAIEarlyRetry(t *testing.T) {
	for _, how := range openAIs {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			score(t, how.name)
			kept := newPlay(t, "kept ", "text")
			r := how.read(t, the.stream, name(t), option.WithQuery("wait", "30s"))
			run := beginRun(t, chattest.OpenAIServerErrorResponse(), kept.answer())
			r.saw(t, kept.text(1))
			kept.finish()
			isWhole(t, r, stored(t, run))
		})
	}
}
