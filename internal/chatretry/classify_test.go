// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chatretry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestClasses(t *testing.T) {
	tests := map[Class]bool{
		RateLimited: true, Overloaded: true, ServerError: true, Timeout: true, ConnectionError: true,
		StreamInterrupted: true, WorkerLost: true,
		AuthenticationFailed: false, PermissionDenied: false, QuotaExhausted: false, ContextLengthExceeded: false,
		ModelNotFound: false, InvalidRequest: false, ContentFiltered: false, EmptyAnswer: false, Cancelled: false,
		DeadlineExceeded: false, "": false, "SomethingNew": false,
	}
	for class, want := range tests {
		if class.Retryable() != want {
			t.Errorf("%q: retryable %v", class, !want)
		}
	}
}

func TestIsRetryable(t *testing.T) {
	limited, denied := &Failure{Class: RateLimited}, &Failure{Class: PermissionDenied}
	tests := []struct {
		name string
		err  error
		want bool
	}{
		{"nil", nil, false},
		{"transient", limited, true},
		{"final", denied, false},
		{"wrapped transient", fmt.Errorf("calling: %w", limited), true},
		{"wrapped final", fmt.Errorf("calling: %w", denied), false},
		{"joined", errors.Join(io.EOF, denied), false},
		{"cancelled", context.Canceled, false},
		{"deadline", fmt.Errorf("calling: %w", context.DeadlineExceeded), false},
		{"a failure caused by somebody's cancel", &Failure{Class: ConnectionError, Err: context.Canceled}, true},
		{"a final failure with a transient cause", &Failure{Class: QuotaExhausted, Err: limited}, false},
		{"transport", io.ErrUnexpectedEOF, true},
		{"unknown", errors.New("what?"), true},
	}
	for _, test := range tests {
		if got := IsRetryable(test.err); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}

func TestStatusCodes(t *testing.T) {
	tests := map[int]Class{
		400: InvalidRequest, 401: AuthenticationFailed, 402: QuotaExhausted, 403: PermissionDenied, 404: InvalidRequest,
		405: InvalidRequest, 408: Timeout, 409: InvalidRequest, 413: ContextLengthExceeded, 418: InvalidRequest,
		422: InvalidRequest, 425: ServerError, 429: RateLimited, 499: InvalidRequest,
		500: ServerError, 501: InvalidRequest, 502: ServerError, 503: Overloaded, 504: ServerError, 505: InvalidRequest,
		507: ServerError, 520: ServerError, 522: ServerError, 524: ServerError, 529: Overloaded, 599: ServerError,
		600: InvalidRequest, 999: InvalidRequest, 0: InvalidRequest, -1: InvalidRequest, 100: InvalidRequest,
		200: InvalidRequest, 204: InvalidRequest, 301: InvalidRequest, 307: InvalidRequest,
	}
	for code, want := range tests {
		if got := ClassifyStatus(code); got != want {
			t.Errorf("%d: %s, want %s", code, got, want)
		}
		if StatusCodeRetryable(code) != want.Retryable() {
			t.Errorf("%d: retryable %v", code, !want.Retryable())
		}
	}
}

func TestClassifyText(t *testing.T) {
	tests := []struct {
		text string
		want Class
	}{
		{"prompt is too long: 209513 tokens > 200000 maximum", ContextLengthExceeded},
		{"context_length_exceeded", ContextLengthExceeded},
		{"This model's maximum context length is 4096 tokens", ContextLengthExceeded},
		{"Input is too long for requested model.", ContextLengthExceeded},
		{"input length and `max_tokens` exceed context limit: 1 + 2 > 3", ContextLengthExceeded},
		{"The input token count (2) exceeds the maximum number of tokens allowed (1).", ContextLengthExceeded},
		{"Rate limit: Request too large for gpt-5", ContextLengthExceeded},
		{"INSUFFICIENT_QUOTA", QuotaExhausted},
		{"You exceeded your current quota, please check your plan and billing details.", QuotaExhausted},
		{"You exceeded your current quota. Please retry in 38.2s.", RateLimited},
		{"Your credit balance is too low to access the Anthropic API.", QuotaExhausted},
		{"Incorrect API key provided: sk-a***b.", AuthenticationFailed},
		{"invalid x-api-key", AuthenticationFailed},
		{"You didn't provide an API key.", AuthenticationFailed},
		{"litellm.AuthenticationError: no", AuthenticationFailed},
		{"no available channel, invalid model", ModelNotFound},
		{"The model `x` does not exist or you do not have access to it.", ModelNotFound},
		{`model "x" not found, try pulling it first`, ModelNotFound},
		{"Access denied", PermissionDenied},
		{"filtered due to Azure OpenAI's content management policy", ContentFiltered},
		{"Rate limit reached. Please try again in 20s.", RateLimited},
		{"Too Many Requests", RateLimited},
		{"Overloaded", Overloaded},
		{"The service is temporarily unavailable", Overloaded},
		// Words inside words, numbers and names mean nothing.
		{"", ""},
		{"Unrecognized request argument supplied: timeout", ""},
		{"timeout must be a number", ""},
		{"geofence broke", ""},
		{"port 429, stream 503, 401 tokens", ""},
		{"unoverloaded", ""},
		{"the unratelimited model", ""},
		{"accurate limits", ""},
		{"file not found", ""},
		{"remodel not found", ""},
		{"\xff\xfe", ""},
	}
	for _, test := range tests {
		got, ok := ClassifyText(test.text)
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%q: %q %v, want %q", test.text, got, ok, test.want)
		}
	}
}

// Every phrase is written as it is matched, and is found in its own class.
func TestPhrases(t *testing.T) {
	for _, p := range phrases {
		for _, text := range p.texts {
			got, ok := ClassifyText("Error: " + strings.ToUpper(text) + ".")
			if !ok || got.Retryable() && !p.class.Retryable() {
				t.Errorf("%q of %s: %q", text, p.class, got)
			}
		}
	}
}

func FuzzClassifyText(f *testing.F) {
	f.Add("The model `x` does not exist")
	f.Add("rate_limit_exceeded: please try again in 5s")
	f.Add("\x00\xff")
	f.Fuzz(func(t *testing.T, text string) {
		class, ok := ClassifyText(text)
		if ok != (class != "") {
			t.Errorf("%q: %q %v", text, class, ok)
		}
		if spaced, _ := ClassifyText(" \n" + text + "\t."); spaced != class {
			t.Errorf("%q: %q, with space around it %q", text, class, spaced)
		}
	})
}

func TestFailure(t *testing.T) {
	f := &Failure{Class: RateLimited, Message: "slow down", Err: io.EOF}
	if f.Error() != "RateLimited: slow down" || (&Failure{Class: Timeout}).Error() != "Timeout" {
		t.Error(f.Error())
	}
	if !errors.Is(f, io.EOF) {
		t.Error("the cause is lost")
	}
}
