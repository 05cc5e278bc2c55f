// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"chatrun.dev/operator/api/v1alpha1"
)

func TestParseMessages(t *testing.T) {
	many := "[" + strings.Repeat(`{"role":"user","content":"x"},`, maxMessages) + `{"role":"user","content":"x"}]`
	for _, tc := range []struct{ name, raw, problem string }{
		{"one", `[{"role":"user","content":"Hi"}]`, ""},
		{"all roles", ` [{"role":"system","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"}] ` + "\n", ""},
		{"as many as may be", "[" + strings.Repeat(`{"role":"user","content":"x"},`, maxMessages-1) + `{"role":"user","content":"x"}]`, ""},
		{"nothing", "", "not a JSON list"},
		{"null", "null", "empty"},
		{"empty", "[]", "empty"},
		{"an object", `{"messages":[]}`, "not a JSON list"},
		{"a string", `"secret"`, "not a JSON list"},
		{"cut", `[{"role":"user","content":"secret`, "not a JSON list"},
		{"another member", `[{"role":"user","content":"secret","name":"x"}]`, "not a JSON list"},
		{"parts", `[{"role":"user","content":[{"type":"text","text":"secret"}]}]`, "not a JSON list"},
		{"a number", `[{"role":"user","content":42}]`, "not a JSON list"},
		{"two lists", `[{"role":"user","content":"Hi"}] []`, "follows the list"},
		{"rubbish behind", `[{"role":"user","content":"Hi"}] secret`, "follows the list"},
		{"role", `[{"role":"secret","content":"Hi"}]`, "message 1 has a role"},
		{"no role", `[{"content":"Hi"}]`, "message 1 has a role"},
		{"no content", `[{"role":"user","content":"Hi"},{"role":"user"}]`, "message 2 has no content"},
		{"last is not the user's", `[{"role":"assistant","content":"Hi"}]`, "not the user's"},
		{"too many", many, "1025 messages"},
		{"too long", `[{"role":"user","content":"` + strings.Repeat("x", v1alpha1.MaxStoredBytes) + `"}]`, "bytes"},
		{"deep", strings.Repeat("[", 100_000), "not a JSON list"},
	} {
		messages, err := parseMessages(tc.raw)
		switch {
		case tc.problem == "" && (err != nil || len(messages) == 0):
			t.Errorf("%s: %v", tc.name, err)
		case tc.problem != "" && (err == nil || !strings.Contains(err.Error(), tc.problem)):
			t.Errorf("%s: %v, want %q", tc.name, err, tc.problem)
		case err != nil && (strings.Contains(err.Error(), "secret") || len(err.Error()) > 200):
			t.Errorf("%s: the error repeats what stands there: %v", tc.name, err)
		}
	}
}

func FuzzParseMessages(f *testing.F) {
	f.Add(`[{"role":"user","content":"Hi"}]`)
	f.Add(`[{"ROLE":"user","content":"\u0000"}]x`)
	f.Add("[null]")
	f.Fuzz(func(t *testing.T, raw string) {
		messages, err := parseMessages(raw)
		if err != nil {
			return
		}
		if n := len(messages); n == 0 || n > maxMessages || messages[n-1].Role != v1alpha1.RoleUser {
			t.Fatalf("%q was taken for %+v", raw, messages)
		}
		if slices.ContainsFunc(messages, func(m v1alpha1.Message) bool { return m.Content == "" }) {
			t.Fatalf("%q holds an empty message", raw)
		}
		// What is read once is copied, and must read the same again.
		again, err := parseMessages(raw)
		if err != nil || !slices.Equal(again, messages) {
			t.Fatalf("read again: %v", err)
		}
	})
}

func TestDigest(t *testing.T) {
	seen := map[string]material{}
	for _, m := range []material{{}, {own: "ab"}, {former: "ab"}, {own: "a", former: "b"}, {own: "", former: "ab "}, {own: "b", former: "a"}} {
		d := m.digest()
		if other, double := seen[d]; double || !strings.HasPrefix(d, "sha256:") || len(d) != len("sha256:")+64 {
			t.Errorf("%+v has the digest %s of %+v", m, d, other)
		}
		seen[d] = m
	}
}

func TestAsk(t *testing.T) {
	former := conversation{System: "old", Messages: []v1alpha1.Message{
		{Role: v1alpha1.RoleUser, Content: "<1>" + inflating}, {Role: v1alpha1.RoleAssistant, Content: "2"},
	}}
	own := material{own: `[{"role":"user","content":"3"}]`}
	both := material{own: own.own, former: former.encode()}
	for _, tc := range []struct {
		name   string
		spec   v1alpha1.ChatRunSpec
		m      material
		system string
		said   string
	}{
		{"prompt", v1alpha1.ChatRunSpec{Prompt: "Hi", System: "new"}, material{}, "new", "Hi"},
		{"messages", v1alpha1.ChatRunSpec{Messages: former.Messages}, material{}, "", "<1>" + inflating + "|2"},
		{"from a ConfigMap", v1alpha1.ChatRunSpec{}, own, "", "3"},
		{"going on", v1alpha1.ChatRunSpec{Prompt: "Hi"}, material{former: former.encode()}, "old", "<1>" + inflating + "|2|Hi"},
		{"going on with another system", v1alpha1.ChatRunSpec{Prompt: "Hi", System: "new"}, material{former: former.encode()}, "new", "<1>" + inflating + "|2|Hi"},
		{"going on from a ConfigMap", v1alpha1.ChatRunSpec{}, both, "old", "<1>" + inflating + "|2|3"},
	} {
		c, err := ask(&tc.spec, tc.m)
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		for _, m := range c.Messages {
			said = append(said, m.Content)
		}
		if got := strings.Join(said, "|"); got != tc.said || c.System != tc.system {
			t.Errorf("%s: %q and %q", tc.name, c.System, got)
		}
	}
	if _, err := ask(&v1alpha1.ChatRunSpec{Prompt: "Hi"}, material{former: "{"}); err == nil {
		t.Error("a broken copy was taken")
	}
	if raw := former.encode(); strings.Contains(raw, `\u003c`) || !json.Valid([]byte(raw)) {
		t.Errorf("encoded as %s", raw)
	}
}
