// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"chatrun.dev/operator/internal/chatretry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const secret = "sk-test-1234567890abcdef"

var question = Request{Model: "some-model", Messages: []Message{{RoleUser, "Why?"}}}

// client returns a client that is closed with the test.
func client(t testing.TB, options Options) *Client {
	t.Helper()
	c, err := New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// serve starts a server, and returns its address.
func serve(t testing.TB, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// flush sends what was written so far.
func flush(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() }

func endpoint(kind Type, base string) Endpoint {
	return Endpoint{Name: "vendor", Type: kind, BaseURL: base, Key: NewKey(secret)}
}

// heard is what a call brought.
type heard struct {
	text, reasoning string
	parts           int
	result          Result
	err             error
}

func (h *heard) part(p Part) {
	h.parts++
	if p.Kind == Reasoning {
		h.reasoning += p.Text
	} else {
		h.text += p.Text
	}
}

func stream(ctx context.Context, c Caller, to Endpoint, ask Request) heard {
	var h heard
	h.result, h.err = c.Stream(ctx, to, ask, h.part)
	return h
}

// read runs the body of a 200 through framing and decoder alone.
func read(kind Type, body io.Reader) heard {
	c, failure := newCall(endpoint(kind, "http://localhost"), question, true)
	if failure != nil {
		return heard{err: failure}
	}
	var h heard
	answer := c.vendor.answer(c)
	if failure := c.read(newEventReader(body), answer, h.part); failure != nil {
		h.err = failure
	}
	h.result = answer.result()
	return h
}

func readString(kind Type, body string) heard { return read(kind, strings.NewReader(body)) }

// class returns the class of a failure, "" for nil, and fails on other errors.
func class(t testing.TB, err error) chatretry.Class {
	t.Helper()
	if err == nil {
		return ""
	}
	f, ok := errors.AsType[*chatretry.Failure](err)
	if !ok {
		t.Fatalf("error is no failure: %v", err)
	}
	return f.Class
}

// failure returns err as a failure.
func failure(t testing.TB, err error) *chatretry.Failure {
	t.Helper()
	f, ok := errors.AsType[*chatretry.Failure](err)
	if !ok {
		t.Fatalf("error is no failure: %v", err)
	}
	return f
}
