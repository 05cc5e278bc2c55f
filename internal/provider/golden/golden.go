// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package golden holds what providers really answer when something is wrong,
// and plays it to the real client: by a real server on loopback, TLS, HTTP/2
// and name resolution included. The tests compare each case with what it
// wants, and docs/failures.md is written from the same cases, so that a row
// without a test cannot exist. Nothing of the product imports it.
package golden

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// Key is the key that every case is played with, and Name the provider's name.
const (
	Key  = "golden/key+1234567890=="
	Name = "vendor"
)

// Ask is what every case is asked.
var Ask = provider.Request{
	Model:    "some-model",
	Messages: []provider.Message{{Role: provider.RoleUser, Content: "Why?"}},
}

// Group is a part of the table.
type Group struct {
	Title string
	// About says in a sentence what its cases have in common.
	About string
	Cases []Case
}

// Case is one thing that a provider may do.
type Case struct {
	Type provider.Type
	// From is who does it, and Name what it is.
	From, Name string
	// Status, Header and Body are the HTTP answer. Status is 0 where none
	// comes, or a stranger one than this can tell.
	Status int
	Header http.Header
	Body   string
	// keyless: the provider has no key.
	keyless bool
	// fault plays the case where Status is 0.
	fault func(*stage) reach
	Want  Want
}

// Want is how the attempt has to end.
type Want struct {
	// Class of the failure; empty if the answer is a good one.
	Class chatretry.Class
	// Finish is the reason of a good end.
	Finish provider.FinishReason
	// Status, Code and RetryAfter as in chatretry.Failure. Status is left out
	// where the case itself has one.
	Status     int
	Code       string
	RetryAfter time.Duration
	// Message is the whole message; empty means the one that is usual for the
	// class and the HTTP status.
	Message string
}

// Got is how an attempt ended.
type Got struct {
	Text   string
	Result provider.Result
	// Failure is nil if the answer is a good one.
	Failure *chatretry.Failure
}

// Groups returns all cases.
func Groups() []Group {
	return []Group{
		{"OpenAI", "Answers of api.openai.com.", slices.Concat(openAICases(), hintCases())},
		{"Servers and gateways of type OpenAI", "vLLM, Ollama, llama.cpp, LiteLLM, Azure, OpenRouter and others that speak OpenAI's protocol.", slices.Concat(serverCases(), gatewayCases(), cloudCases(), middleCases())},
		{"Anthropic", "Answers of api.anthropic.com, and of what stands in front of it.", anthropicCases()},
		{"Inside a stream of type OpenAI", "The answer began with status 200.", openAIStreamCases()},
		{"Inside a stream of type Anthropic", "The answer began with status 200.", anthropicStreamCases()},
		{"Words", "A code or a type tells more than words do; words count as whole words, and numbers in them never.", wordCases()},
		{"Connections", "No answer came, or it broke off. Both types share these.", slices.Concat(connectionCases(), tlsCases(), brokenCases(), silenceCases())},
	}
}

// answer is a case with an HTTP answer, whose content type is as it looks.
func answer(kind provider.Type, from, name string, status int, body string, want Want) Case {
	media := "text/plain; charset=utf-8"
	switch {
	case strings.HasPrefix(body, "{"), strings.HasPrefix(body, "["):
		media = "application/json"
	case strings.HasPrefix(body, "<"):
		media = "text/html"
	case strings.HasPrefix(body, "data:"), strings.HasPrefix(body, "event:"), strings.HasPrefix(body, ":"), status == 200 && body == "":
		media = "text/event-stream; charset=utf-8"
	case body == "":
		media = ""
	}
	return Case{Type: kind, From: from, Name: name, Status: status, Body: body, Want: want, Header: http.Header{"Content-Type": {media}}}
}

// with adds a header.
func (c Case) with(name, value string) Case {
	c.Header = c.Header.Clone()
	c.Header.Set(name, value)
	return c
}

// withoutKey plays the case to a provider that has no key.
func (c Case) withoutKey() Case {
	c.keyless = true
	return c
}

// is wants a failure.
func is(class chatretry.Class, code string) Want { return Want{Class: class, Code: code} }

// says adds the whole message.
func (w Want) says(message string) Want { w.Message = message; return w }

// after adds the hint.
func (w Want) after(hint time.Duration) Want { w.RetryAfter = hint; return w }

// at adds the HTTP status.
func (w Want) at(status int) Want { w.Status = status; return w }

// done wants a good answer.
func done(reason provider.FinishReason) Want { return Want{Finish: reason} }

// Play makes one attempt and says how it ended. net.DefaultResolver has to be
// Resolver() meanwhile.
func (c *Case) Play(ctx context.Context) (Got, error) {
	s := newStage()
	defer s.close()
	where := c.reach(s)
	client, err := provider.New(where.options)
	if err != nil {
		return Got{}, err
	}
	defer client.Close()
	to := provider.Endpoint{Name: Name, Type: c.Type, BaseURL: where.base, CABundle: where.bundle, Key: provider.NewKey(Key)}
	if c.keyless {
		to.Key = provider.Key{}
	}
	if where.idle > 0 {
		return s.guarded(ctx, client, to, where.idle)
	}
	var got Got
	var text strings.Builder
	got.Result, err = client.Stream(ctx, to, Ask, func(p provider.Part) {
		if p.Kind == provider.Text {
			text.WriteString(p.Text)
		}
		s.hear()
	})
	got.Text = text.String()
	if err != nil {
		failure, ok := errors.AsType[*chatretry.Failure](err)
		if !ok {
			return Got{}, err
		}
		got.Failure = failure
	}
	return got, nil
}

func (c *Case) reach(s *stage) reach {
	if c.fault != nil {
		return c.fault(s)
	}
	return reach{base: s.serve(func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), c.Header)
		w.WriteHeader(c.Status)
		_, _ = w.Write([]byte(c.Body))
	})}
}
