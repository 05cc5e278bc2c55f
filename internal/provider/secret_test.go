// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
)

// prints returns a value in every form that a log or a status may take.
func prints(t testing.TB, v any) string {
	t.Helper()
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d", "%T"} {
		_, _ = fmt.Fprintf(&b, verb+"\n", v)
	}
	if encoded, err := json.Marshal(v); err == nil {
		b.Write(encoded)
	}
	return b.String()
}

func TestKeyPrintsNothing(t *testing.T) {
	key := NewKey(" " + secret + "\n")
	if key.Reveal() != secret || key.IsZero() || !NewKey(" \n").IsZero() || (Key{}).Reveal() != "" || NewKey("").String() != "" {
		t.Error("the key is not what was given")
	}
	hidden := struct{ to Endpoint }{endpoint(OpenAI, "http://x")}
	call, _ := newCall(hidden.to, question, true)
	for _, v := range []any{
		key, &key, hidden, &hidden, hidden.to, &hidden.to, map[string]Key{"a": key}, []Key{key}, *call,
		struct{ key any }{key}, fmt.Errorf("bad %v", key),
	} {
		text := prints(t, v)
		if strings.Contains(text, secret) || strings.Contains(text, fmt.Sprintf("%x", secret)) {
			t.Errorf("%T prints the key: %s", v, text)
		}
	}
}

// No error holds the key, whatever a provider sends back.
func TestNoErrorHoldsTheKey(t *testing.T) {
	echo := func(w http.ResponseWriter, r *http.Request, status int, media, body string) {
		key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") + r.Header.Get("X-Api-Key")
		w.Header().Set("Content-Type", media)
		w.Header().Set("X-Echo", key)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(body, "KEY", key))
	}
	answers := map[string]http.HandlerFunc{
		"error": func(w http.ResponseWriter, r *http.Request) {
			echo(w, r, 401, "application/json", `{"error":{"message":"bad key KEY","type":"KEY","code":"KEY","param":"KEY"}}`)
		},
		"text": func(w http.ResponseWriter, r *http.Request) {
			echo(w, r, 500, "text/plain", "Authorization: Bearer KEY KEY-KEY")
		},
		"page": func(w http.ResponseWriter, r *http.Request) { echo(w, r, 200, "text/html", "<p>KEY</p>") },
		"in a stream": func(w http.ResponseWriter, r *http.Request) {
			echo(w, r, 200, "text/event-stream", `data: {"error":{"message":"KEY","code":"KEY"}}`+"\n\n")
		},
		"no JSON": func(w http.ResponseWriter, r *http.Request) { echo(w, r, 200, "text/event-stream", "data: {KEY\n\n") },
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/KEY")
			echo(w, r, 302, "", "KEY")
		},
		"broken": func(w http.ResponseWriter, r *http.Request) {
			echo(w, r, 200, "text/event-stream", "data: KEY")
			panic(http.ErrAbortHandler)
		},
	}
	for name, handler := range answers {
		server := serve(t, handler)
		c := client(t, Options{})
		for _, kind := range []Type{OpenAI, Anthropic} {
			to := endpoint(kind, server.URL)
			_, _, whole := c.Complete(t.Context(), to, question)
			for _, err := range []error{stream(t.Context(), c, to, question).err, whole} {
				f := failure(t, err)
				for e := error(f); e != nil; e = errors.Unwrap(e) {
					if text := prints(t, e); strings.Contains(text, secret) {
						t.Errorf("%s: %s", name, text)
					}
				}
			}
		}
	}
}

func TestExcerpt(t *testing.T) {
	c := &call{to: Endpoint{Key: NewKey("my-odd-secret")}}
	for _, body := range []string{
		"key my-odd-secret!", "sk-proj-abcdefghijkl", "Incorrect API key: abcd******wxyz", "Authorization: Bearer abc.def-ghi",
		"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "https://user:pass123@host/", "https://host/?api_key=topsecret&x=1",
		"AIzaSyA1234567890123456789", "xai-abcdefghijk", "AKIAIOSFODNN7EXAMPLE",
	} {
		got := c.excerpt([]byte(body))
		for _, s := range []string{"my-odd", "abcdefghijk", "abcd*", "wxyz", "abc.def", "eyJ", "pass123", "topsecret", "AIza", "AKIA"} {
			if strings.Contains(got, s) {
				t.Errorf("%q became %q", body, got)
			}
		}
	}
	if got := c.excerpt([]byte(" a\n\tb\x00\xff ")); !utf8.ValidString(got) || strings.ContainsAny(got, "\n\t") || !strings.HasPrefix(got, "a b") {
		t.Errorf("%q", got)
	}
	if got := c.excerpt([]byte(strings.Repeat("ä", maxErrorBody))); len(got) > maxExcerpt || !strings.HasSuffix(got, "ä…") {
		t.Errorf("%d bytes, ending %q", len(got), got[len(got)-6:])
	}
}

// Whatever a name or a model is called, a message is one bounded line.
func TestMessagesAreBounded(t *testing.T) {
	for class := range wordings {
		for _, name := range []string{"", "x", "%s%d%!", "a\nb\x00", strings.Repeat("ü", 400)} {
			c := &call{to: Endpoint{Name: name, Type: OpenAI}, ask: Request{Model: name}}
			f := c.fail(class, "", "")
			if what, todo := c.advice(class, fault{}); what != "" {
				f = c.fail(class, what, todo)
			}
			if len(f.Message) > maxMessage || strings.ContainsAny(f.Message, "\n\x00") || !strings.Contains(f.Message, ": ") {
				t.Errorf("%s: %d bytes: %q", class, len(f.Message), f.Message)
			}
		}
	}
}

// Nothing is read from the environment: no proxy, no key, no organisation.
func TestEnvironment(t *testing.T) {
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the environment decided") }))
	defer trap.Close()
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "OPENAI_BASE_URL", "ANTHROPIC_BASE_URL"} {
		t.Setenv(name, trap.URL)
	}
	t.Setenv("NO_PROXY", "")
	for _, name := range []string{
		"OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN",
		"ANTHROPIC_CUSTOM_HEADERS", "OPENAI_CUSTOM_HEADERS",
	} {
		t.Setenv(name, "from-the-environment")
	}
	server := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if text := fmt.Sprint(r.Header, r.URL, string(body)); strings.Contains(text, "environment") {
			t.Errorf("sent %s", text)
		}
		for _, name := range []string{"Authorization", "X-Api-Key", "Openai-Organization", "Openai-Project"} {
			if r.Header.Get(name) != "" {
				t.Errorf("sent %s", name)
			}
		}
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, map[bool]string{true: anthropicGood, false: openAIGood}[strings.HasSuffix(r.URL.Path, "/messages")])
	})
	c := client(t, Options{})
	// A name that the environment's own exemption for loopback does not cover.
	redirect(c, server.Listener.Addr().String())
	for _, kind := range []Type{OpenAI, Anthropic} {
		if h := stream(t.Context(), c, Endpoint{Name: "x", Type: kind, BaseURL: "http://models.example.com"}, question); h.err != nil {
			t.Error(h.err)
		}
	}
}

func TestKeylessEndpointIsTold(t *testing.T) {
	server := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	f := failure(t, stream(t.Context(), client(t, Options{}), Endpoint{Name: "x", Type: OpenAI, BaseURL: server.URL}, question).err)
	if f.Class != chatretry.AuthenticationFailed || !strings.Contains(f.Message, "demands a key") {
		t.Errorf("%v", f)
	}
}
