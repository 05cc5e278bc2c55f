// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

// TestRefusals sends what the vendors refuse: the script is not asked, and the
// request is counted all the same.
func TestRefusals(t *testing.T) {
	tests := []struct {
		name, path, body string
		drop             string // a header that is left out
		status           int
		says             string
	}{
		{"not JSON", openAIPath, `{"model"`, "", 400, "could not parse the JSON body"},
		{"no model", openAIPath, `{"messages":[{"role":"user","content":"hello"}]}`, "", 400, "you must provide a model parameter"},
		{"no messages", openAIPath, `{"model":"m"}`, "", 400, "Missing required parameter: 'messages'."},
		{"empty messages", openAIPath, `{"model":"m","messages":[]}`, "", 400, "empty_array"},
		{"bad role", openAIPath, `{"model":"m","messages":[{"role":"bot","content":"x"}]}`, "", 400, "messages[0].role"},
		{"options without stream", openAIPath, `{"model":"m","stream_options":{"include_usage":true},"messages":[{"role":"user","content":"x"}]}`, "", 400, "'stream_options'"},
		{"two limits", openAIPath, `{"model":"m","max_tokens":1,"max_completion_tokens":1,"messages":[{"role":"user","content":"x"}]}`, "", 400, "at the same time"},
		{"hot", openAIPath, `{"model":"m","temperature":3,"messages":[{"role":"user","content":"x"}]}`, "", 400, "Expected a value <= 2, but got 3"},
		{"temperature as text", openAIPath, `{"model":"m","temperature":"1","messages":[{"role":"user","content":"x"}]}`, "", 400, "invalid_type"},
		{"negative", openAIPath, `{"model":"m","top_p":-1,"messages":[{"role":"user","content":"x"}]}`, "", 400, "decimal_below_min_value"},
		{"no key", openAIPath, openAIStream, "Authorization", 401, "You didn't provide an API key"},
		{"wrong key", openAIPath, openAIStream, "", 401, "sk-t**********6789"},
		{"no key", anthropicPath, anthropicStream, "X-Api-Key", 401, "x-api-key header is required"},
		{"wrong key", anthropicPath, anthropicStream, "", 401, "invalid x-api-key"},
		{"unknown model", openAIPath, openAIStream, "", 404, "model_not_found"},
		{"unknown model", anthropicPath, anthropicStream, "", 404, "not_found_error"},
		{"no version", anthropicPath, anthropicStream, "Anthropic-Version", 400, "anthropic-version: header is required"},
		{"not JSON", anthropicPath, `[]`, "", 400, "not valid JSON"},
		{"no model", anthropicPath, `{"max_tokens":1,"messages":[{"role":"user","content":"x"}]}`, "", 400, "model: Field required"},
		{"no limit", anthropicPath, `{"model":"m","messages":[{"role":"user","content":"x"}]}`, "", 400, "max_tokens: Field required"},
		{"bad limit", anthropicPath, `{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"x"}]}`, "", 400, "greater than or equal to 1"},
		{"no messages", anthropicPath, `{"model":"m","max_tokens":1,"messages":null}`, "", 400, "messages: Field required"},
		{"empty messages", anthropicPath, `{"model":"m","max_tokens":1,"messages":[]}`, "", 400, "at least one message"},
		{"system role", anthropicPath, `{"model":"m","max_tokens":1,"messages":[{"role":"system","content":"x"}]}`, "", 400, "top-level"},
		{"bad role", anthropicPath, `{"model":"m","max_tokens":1,"messages":[{"role":"tool","content":"x"}]}`, "", 400, "'user' or 'assistant'"},
		{"empty content", anthropicPath, `{"model":"m","max_tokens":1,"messages":[{"role":"user","content":""}]}`, "", 400, "non-empty content"},
		{"hot", anthropicPath, `{"model":"m","max_tokens":1,"temperature":1.5,"messages":[{"role":"user","content":"x"}]}`, "", 400, "temperature: range: 0..1"},
		{"too large", anthropicPath, `{"x":"` + strings.Repeat("x", 32<<20) + `"}`, "", 413, "request_too_large"},
	}
	for _, test := range tests {
		t.Run(test.path+"/"+test.name, func(t *testing.T) {
			var options []chattest.Option
			switch test.status {
			case http.StatusUnauthorized:
				options = append(options, chattest.RequireKey("sk-right"))
			case http.StatusNotFound:
				options = append(options, chattest.Models("another"))
			}
			server := chattest.New(func(chattest.Request) chattest.Response {
				t.Error("the script was asked")
				return chattest.Response{}
			}, options...)
			defer server.Close()
			request := ask(t, "", test.path, test.body)
			request.Header.Del(test.drop)
			recorder := httptest.NewRecorder()
			server.ServeHTTP(recorder, request)
			if recorder.Code != test.status || !strings.Contains(recorder.Body.String(), test.says) {
				t.Errorf("%d %s", recorder.Code, recorder.Body)
			}
			if entries := server.Ledger().Requests(); len(entries) != 1 || entries[0].State != chattest.Refused {
				t.Errorf("ledger: %+v", entries)
			}
		})
	}
}

// TestRequest shows a script what was asked.
func TestRequest(t *testing.T) {
	tests := []struct{ name, path, body string }{
		{"OpenAI", "/proxy/v1/chat/completions", `{"model":"m","stream":true,"temperature":0.5,"messages":[` +
			`{"role":"system","content":"Be brief."},{"role":"user","content":"one"},{"role":"assistant","content":"two"},` +
			`{"role":"user","content":[{"type":"text","text":"thr"},{"type":"text","text":"ee"}]}]}`},
		{"Anthropic", "/proxy/v1/messages", `{"model":"m","stream":true,"temperature":0.5,"max_tokens":9,"system":[{"text":"Be brief."}],"messages":[` +
			`{"role":"user","content":"one"},{"role":"assistant","content":"two"},` +
			`{"role":"user","content":[{"type":"text","text":"thr"},{"type":"text","text":"ee"}]}]}`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got chattest.Request
			server := chattest.New(func(r chattest.Request) chattest.Response {
				got = r
				return chattest.Answer("four")
			}, chattest.RequireKey("sk-1", "sk-2"))
			defer server.Close()
			request := ask(t, "", test.path, test.body)
			request.Header.Set("Anthropic-Version", "2023-06-01")
			request.Header.Set("X-Api-Key", "sk-2")
			request.Header.Set("Authorization", "Bearer sk-2")
			recorder := httptest.NewRecorder()
			server.ServeHTTP(recorder, request)
			messages := got.Messages
			if got.Vendor == chattest.OpenAI {
				messages = messages[1:]
			}
			want := []chattest.Message{{Role: "user", Content: "one"}, {Role: "assistant", Content: "two"}, {Role: "user", Content: "three"}}
			if !slices.Equal(messages, want) {
				t.Errorf("messages %v", got.Messages)
			}
			if string(got.Vendor) != test.name || got.Purpose != chattest.PurposeAnswer || !got.Stream || got.Model != "m" ||
				got.System != "Be brief." || got.LastUser != "three" || got.Key != "three" || got.N != 1 || got.Seq != 1 ||
				got.APIKey != "sk-2" || got.Path != test.path || string(got.Parameters["temperature"]) != "0.5" {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestSequence counts attempts by key and purpose, and leaves titles alone.
func TestSequence(t *testing.T) {
	script := chattest.Sequence(chattest.AnthropicOverloadedResponse(), chattest.AnthropicRateLimitResponse(), chattest.Answer("ok"))
	server := chattest.New(script)
	defer server.Close()
	send := func(prompt string, stream bool) int {
		body, err := json.Marshal(map[string]any{
			"model": "m", "max_tokens": 1, "stream": stream,
			"messages": []map[string]string{{"role": "user", "content": prompt}},
		})
		if err != nil {
			t.Fatal(err)
		}
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, ask(t, "", anthropicPath, string(body)))
		if !stream && !strings.Contains(recorder.Body.String(), chattest.DefaultTitle) {
			t.Errorf("the title is %s", recorder.Body)
		}
		return recorder.Code
	}
	for i, want := range []int{529, 429, 200, 200} {
		for _, prompt := range []string{"a", "b"} {
			if got := send(prompt, true); got != want {
				t.Errorf("attempt %d of %s: %d, want %d", i+1, prompt, got, want)
			}
			if got := send(prompt, false); got != 200 {
				t.Errorf("title of %s: %d", prompt, got)
			}
		}
	}
	got := server.Ledger().Snapshot()
	key := chattest.Tally{Count: 4, MaxLive: 1, Completed: 2, Refused: 2}
	title := chattest.Tally{Count: 4, MaxLive: 1, Completed: 4}
	if want := []chattest.KeyTally{
		{Key: "a", Purpose: chattest.PurposeAnswer, Tally: key}, {Key: "a", Purpose: chattest.PurposeTitle, Tally: title},
		{Key: "b", Purpose: chattest.PurposeAnswer, Tally: key}, {Key: "b", Purpose: chattest.PurposeTitle, Tally: title},
	}; !slices.Equal(got.Keys, want) {
		t.Errorf("keys %+v", got.Keys)
	}
}

// TestKeyAndTitles takes the key from elsewhere, and scripts the titles.
func TestKeyAndTitles(t *testing.T) {
	server := chattest.New(nil,
		chattest.Key(func(r chattest.Request) string { return r.Header.Get("X-Run") }),
		chattest.Titles(chattest.Sequence(chattest.OpenAIServerErrorResponse(), chattest.Answer("A", " title"))))
	defer server.Close()
	for i, want := range []string{"server_error", `"A title"`} {
		request := ask(t, "", openAIPath, openAIWhole)
		request.Header.Set("X-Run", "run-1")
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, request)
		if !strings.Contains(recorder.Body.String(), want) {
			t.Errorf("title %d: %s", i+1, recorder.Body)
		}
	}
	if n := server.Ledger().CountFor("run-1", chattest.PurposeTitle); n != 2 {
		t.Errorf("%d titles", n)
	}
}

// TestHeaders sets, replaces and removes fields.
func TestHeaders(t *testing.T) {
	server := chattest.New(chattest.Always(chattest.OpenAIRateLimitResponse().RetryAfter(1500*time.Millisecond).
		Header("Retry-After-Ms", "").Header("Retry-After", "Fri, 31 Dec 1999 23:59:59 GMT").Header("X-Mine", "yes")))
	defer server.Close()
	recorder := httptest.NewRecorder()
	server.ServeHTTP(recorder, ask(t, "", openAIPath, openAIStream))
	h := recorder.Header()
	if h.Get("Retry-After-Ms") != "" || h.Get("Retry-After") != "Fri, 31 Dec 1999 23:59:59 GMT" || h.Get("X-Mine") != "yes" {
		t.Errorf("header %v", h)
	}
}

// TestResponsesAreValues builds two responses upon one.
func TestResponsesAreValues(t *testing.T) {
	base := chattest.Answer("x").Header("A", "1").Reasoning("r")
	one, two := base.Header("B", "1").Reasoning("1"), base.Header("B", "2").Reasoning("2")
	for want, response := range map[string]chattest.Response{"1": one, "2": two} {
		server := chattest.New(chattest.Always(response))
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, ask(t, "", openAIPath, openAIStream))
		if got := recorder.Header().Get("B"); got != want || !strings.Contains(recorder.Body.String(), `"reasoning_content":"`+want+`"`) {
			t.Errorf("response %s has header %s and body\n%s", want, got, recorder.Body)
		}
		server.Close()
	}
}

// TestStamped lets two streams of one response end each part with a stamp of its own.
func TestStamped(t *testing.T) {
	n := 0
	server := chattest.New(chattest.Always(chattest.Answer("a", "b").Stamped(func() string {
		n++
		return "@" + strconv.Itoa(n)
	})))
	defer server.Close()
	for _, want := range [][]string{{"a@1", "b@2"}, {"a@3", "b@4"}} {
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, ask(t, "", openAIPath, openAIStream))
		for _, part := range want {
			if !strings.Contains(recorder.Body.String(), `"content":"`+part+`"`) {
				t.Errorf("no part %q in\n%s", part, recorder.Body)
			}
		}
	}
}

// TestStrays counts what nobody serves.
func TestStrays(t *testing.T) {
	server := chattest.New(nil)
	defer server.Close()
	for _, r := range []struct{ method, path string }{
		{"POST", "/v1/completions"}, {"GET", openAIPath}, {"POST", "/messages"}, {"GET", "/"}, {"POST", "/ledger"},
	} {
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), r.method, r.path, nil))
		if recorder.Code != http.StatusNotFound {
			t.Errorf("%s %s: %d", r.method, r.path, recorder.Code)
		}
	}
	if got := server.Ledger().Strays(); got != 5 {
		t.Errorf("%d strays", got)
	}
}

// TestWords cuts a text into what joins to it again.
func TestWords(t *testing.T) {
	for text, want := range map[string][]string{
		"": nil, " ": {" "}, "one": {"one"}, "one two three": {"one", " two", " three"}, "  a b ": {" ", " a", " b", " "},
	} {
		if got := chattest.Words(text); !slices.Equal(got, want) {
			t.Errorf("%q: %q", text, got)
		}
	}
}

// TestFinish gives every reason in the words of the vendor that is asked.
func TestFinish(t *testing.T) {
	tests := []struct{ word, openAI, anthropic string }{
		{"stop", "stop", "end_turn"}, {"end_turn", "stop", "end_turn"},
		{"length", "length", "max_tokens"}, {"max_tokens", "length", "max_tokens"},
		{"content_filter", "content_filter", "refusal"}, {"refusal", "content_filter", "refusal"},
		{"stop_sequence", "stop", "stop_sequence"}, {"odd", "odd", "odd"},
	}
	for _, test := range tests {
		for _, vendor := range vendors {
			server := chattest.New(chattest.Always(chattest.Answer("x").Finish(test.word)))
			recorder := httptest.NewRecorder()
			server.ServeHTTP(recorder, ask(t, "", vendor.path, vendor.body))
			want := `"finish_reason":"` + test.openAI + `"`
			if vendor.name == "Anthropic" {
				want = `"stop_reason":"` + test.anthropic + `"`
			}
			if !strings.Contains(recorder.Body.String(), want) {
				t.Errorf("%s at %s: no %s in\n%s", test.word, vendor.name, want, recorder.Body)
			}
			server.Close()
		}
	}
}

// TestTimes measures every delay on a virtual clock.
func TestTimes(t *testing.T) {
	tests := []struct {
		name     string
		response chattest.Response
		header   time.Duration
		total    time.Duration
	}{
		{"none", chattest.Answer("a", "b", "c"), 0, 0},
		{"slow header", chattest.Answer("a").SlowHeaders(3 * time.Second), 3 * time.Second, 3 * time.Second},
		{"slow error", chattest.AnthropicOverloadedResponse().SlowHeaders(time.Second), time.Second, time.Second},
		{"first part", chattest.Answer("a", "b").FirstDelay(2 * time.Second), 0, 2 * time.Second},
		{"pace", chattest.Answer("a", "b", "c").Pace(time.Second), 0, 2 * time.Second},
		{"all", chattest.Answer("a", "b", "c").SlowHeaders(time.Second).FirstDelay(time.Second).Pace(time.Minute), time.Second, 2*time.Second + 2*time.Minute},
		{"whole", chattest.Answer("a", "b").Unstreamed().FirstDelay(time.Second), time.Second, time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				listener := newPipes()
				server := chattest.New(chattest.Always(test.response))
				defer server.Close()
				if err := server.Serve(listener); err != nil {
					t.Fatal(err)
				}
				transport := &http.Transport{DialContext: listener.dial}
				defer transport.CloseIdleConnections()
				begin := time.Now()
				resp, err := transport.RoundTrip(ask(t, "http://pipe", openAIPath, openAIStream))
				if err != nil {
					t.Fatal(err)
				}
				defer shut(resp.Body)
				if got := time.Since(begin); got != test.header {
					t.Errorf("header after %s, want %s", got, test.header)
				}
				if dump(resp); time.Since(begin) != test.total {
					t.Errorf("end after %s, want %s", time.Since(begin), test.total)
				}
			})
		})
	}
}

// TestKeepAlives counts Anthropic's pings on a virtual clock.
func TestKeepAlives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := newPipes()
		server := chattest.New(chattest.Always(chattest.Answer("one").KeepAlivesAfter(0, 10*time.Second)))
		if err := server.Serve(listener); err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{DialContext: listener.dial}
		defer transport.CloseIdleConnections()
		resp, err := transport.RoundTrip(ask(t, "http://pipe", anthropicPath, anthropicStream))
		if err != nil {
			t.Fatal(err)
		}
		defer shut(resp.Body)
		time.AfterFunc(65*time.Second, server.Close)
		if got := strings.Count(string(dump(resp)), "event: ping"); got != 6 {
			t.Errorf("%d pings", got)
		}
		synctest.Wait()
	})
}
