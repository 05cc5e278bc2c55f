// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"chatrun.dev/operator/internal/chattest"
)

// The samples that the demo knows by name.
const (
	shownRun  = "hello"
	openAI    = "openai"
	anthropic = "anthropic"
	secretKey = "api-key"
)

// provider is who answers: the fake one, or a vendor.
type provider struct {
	fake *chattest.Server // nil if the provider is real

	vendor, key, baseURL, model string // of a real one
}

// real reports whether the answers cost money.
func (p provider) real() bool { return p.fake == nil }

func (p provider) close() {
	if p.fake != nil {
		p.fake.Close()
	}
}

// chooseProvider starts the fake provider, unless the environment holds a key
// for a real one.
func chooseProvider(getenv func(string) string) (provider, error) {
	model := getenv("CHATRUN_MODEL")
	if key := getenv("OPENAI_API_KEY"); key != "" {
		return provider{vendor: openAI, key: key, baseURL: getenv("OPENAI_BASE_URL"), model: model}, nil
	}
	if key := getenv("ANTHROPIC_API_KEY"); key != "" {
		return provider{vendor: anthropic, key: key, baseURL: getenv("ANTHROPIC_BASE_URL"), model: model}, nil
	}
	fake := chattest.New(script, chattest.Titles(chattest.Always(chattest.Answer(fakeTitle).FirstDelay(thinking))),
		chattest.RequireKey(fakeKey))
	if err := fake.Listen("127.0.0.1:0"); err != nil {
		return provider{}, errors.Join(errors.New("starting the fake provider"), err)
	}
	return provider{fake: fake}, nil
}

// What the fake provider says, and how fast: the pace is that of a usual model.
const (
	fakeKey    = "demo-key"
	fakeTitle  = "A Lighthouse Keeper's Day"
	fakeAnswer = "A lighthouse keeper's day begins at dusk, when the lamp is lit and its lenses are wiped free of salt. " +
		"Through the night the keeper winds the clockwork that turns the light, trims the wick, and writes wind, sea " +
		"and passing ships into the log. After sunrise the lamp is put out, the brass is polished, the glass is " +
		"cleaned again and the curtains are drawn, lest the sun set fire to the gallery. What is left of the day is " +
		"for paint, rope, a small garden and sleep."
	fakeLesson = "In the evening sunlight crosses far more air before it reaches you. On the way nearly all of the blue " +
		"is scattered aside, and what is left is red."

	thinking  = 300 * time.Millisecond
	pace      = 40 * time.Millisecond
	rateLimit = 2 * time.Second
)

// failures are what the shown run meets before its answer, with the wait that
// follows each: the default policy's 1, 2 and 4 s, of which the last is longer
// than the provider asks for.
var failures = []struct {
	response chattest.Response
	reason   string
	delay    time.Duration
}{
	{overloaded(), "Overloaded", time.Second},
	{overloaded(), "Overloaded", 2 * time.Second},
	{chattest.OpenAIRateLimitResponse().RetryAfter(rateLimit), "RateLimited", 4 * time.Second},
}

// overloaded is OpenAI's way to say it.
func overloaded() chattest.Response {
	return chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "",
		"The engine is currently overloaded, please try again later")
}

// script answers each question on the OpenAI path with the failures first, and
// on the Anthropic path with one, so that both vendors are seen.
func script(r chattest.Request) chattest.Response {
	if r.Vendor == chattest.Anthropic {
		return chattest.Sequence(chattest.AnthropicOverloadedResponse(), answer(fakeLesson))(r)
	}
	responses := make([]chattest.Response, 0, len(failures)+1)
	for _, f := range failures {
		responses = append(responses, f.response)
	}
	return chattest.Sequence(append(responses, answer(fakeAnswer))...)(r)
}

func answer(text string) chattest.Response {
	return chattest.Answer(chattest.Words(text)...).FirstDelay(thinking).Pace(pace)
}

// objects adapts config/samples to the provider, and adds the Secrets that they
// name. A real provider gets one question only, for each costs money.
func (p provider) objects(samples []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	if !p.real() {
		return p.fakeObjects(samples)
	}
	objects := []*unstructured.Unstructured{secret(p.vendor, secretKey, p.key)}
	for _, o := range samples {
		switch {
		case o.GetKind() == "ChatProvider" && o.GetName() == p.vendor:
			if err := errors.Join(set(o, p.baseURL, "spec", "baseURL"), set(o, p.model, "spec", "defaultModel")); err != nil {
				return nil, err
			}
		case o.GetKind() == "ChatRun" && o.GetName() == shownRun:
			if err := set(o, p.vendor, "spec", "providerRef", "name"); err != nil {
				return nil, err
			}
		default:
			continue
		}
		objects = append(objects, o)
	}
	return objects, nil
}

func (p provider) fakeObjects(samples []*unstructured.Unstructured) ([]*unstructured.Unstructured, error) {
	objects := []*unstructured.Unstructured{secret(openAI, secretKey, fakeKey), secret(anthropic, secretKey, fakeKey)}
	for _, o := range samples {
		if o.GetKind() == "ChatProvider" {
			baseURL := p.fake.URL()
			if o.GetName() == openAI {
				baseURL += "/v1"
			}
			if err := set(o, baseURL, "spec", "baseURL"); err != nil {
				return nil, err
			}
		}
		objects = append(objects, o)
	}
	return objects, nil
}

// set sets a field, unless the value is empty.
func set(o *unstructured.Unstructured, value string, path ...string) error {
	if value == "" {
		return nil
	}
	return unstructured.SetNestedField(o.Object, value, path...)
}

// expect is what the shown run has to come to.
func (p provider) expect() expectation {
	if p.real() {
		return expectation{}
	}
	e := expectation{exact: true, title: fakeTitle, text: fakeAnswer}
	for _, f := range failures {
		e.retries = append(e.retries, expectedRetry{reason: f.reason, delay: f.delay})
	}
	return e
}
