// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package title

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

func TestClean(t *testing.T) {
	for _, row := range []struct{ name, in, want string }{
		{"plain", "Sorting lists in Go", "Sorting lists in Go"},
		{"quotes", "\"Sorting lists in Go\"\n", "Sorting lists in Go"},
		{"typographic quotes", "“Sorting lists”", "Sorting lists"},
		{"heading", "# Sorting lists", "Sorting lists"},
		{"bold", "**Sorting lists**", "Sorting lists"},
		{"code", "`sort` explained", "sort explained"},
		{"label", "Title: Sorting lists", "Sorting lists"},
		{"quoted label", "**Title:** \"Sorting lists\"", "Sorting lists"},
		{"bullet", "- Sorting lists", "Sorting lists"},
		{"full stop", "Sorting lists.", "Sorting lists"},
		{"question mark stays", "Why sort?", "Why sort?"},
		{"first line with words", "\n\n---\nSorting lists\nI hope this helps!", "Sorting lists"},
		{"white space folded", "Sorting \t  lists\u00a0now", "Sorting lists now"},
		{"control characters", "Sort\x00ing\x1b[31m lists", "Sorting[31m lists"},
		{"eight words", "one two three four five six seven eight nine", "one two three four five six seven eight"},
		{"long words", strings.Repeat("abcdefghi ", 8) + "x", strings.TrimSpace(strings.Repeat("abcdefghi ", 8))},
		{"cut at a word", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", strings.Repeat("a", 40)},
		{"one long word", strings.Repeat("é", 100), strings.Repeat("é", 80)},
		{"not valid text", "Sort\xff lists", "Sort lists"},
		{"empty", "", ""},
		{"marks alone", "\"**\"\n...", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if got := Clean(row.in); got != row.want {
				t.Errorf("Clean(%q) = %q, want %q", row.in, got, row.want)
			}
		})
	}
}

func FuzzClean(f *testing.F) {
	f.Add("Title: \"Sorting **lists**\"")
	f.Add(strings.Repeat("é", 100))
	f.Fuzz(func(t *testing.T, in string) {
		got := Clean(in)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > MaxRunes || len(strings.Fields(got)) > MaxWords ||
			strings.ContainsAny(got, "\n\r\t\x00*`") || strings.TrimSpace(got) != got {
			t.Errorf("Clean(%q) = %q", in, got)
		}
	})
}

// caller answers Complete from a list, the last entry for ever.
type caller struct {
	answers []answer
	asked   []provider.Request
}

type answer struct {
	text string
	err  error
}

func (c *caller) Complete(_ context.Context, _ provider.Endpoint, ask provider.Request) (string, provider.Result, error) {
	c.asked = append(c.asked, ask)
	a := c.answers[min(len(c.asked), len(c.answers))-1]
	return a.text, provider.Result{}, a.err
}

func (*caller) Stream(context.Context, provider.Endpoint, provider.Request, func(provider.Part)) (provider.Result, error) {
	return provider.Result{}, errors.New("a title is never streamed")
}

func TestGenerate(t *testing.T) {
	overloaded := &chatretry.Failure{Class: chatretry.Overloaded}
	refused := &chatretry.Failure{Class: chatretry.AuthenticationFailed}
	for _, row := range []struct {
		name    string
		answers []answer
		want    string
		err     error
		calls   int
		took    time.Duration
	}{
		{"at once", []answer{{"\"Hello\"", nil}}, "Hello", nil, 1, 0},
		{"after two refusals", []answer{{"", overloaded}, {"", overloaded}, {"Hello", nil}}, "Hello", nil, 3, 3 * time.Second},
		{"final", []answer{{"", refused}}, "", refused, 1, 0},
		{"empty is a failure", []answer{{" ** ", nil}}, "", ErrEmpty, 1, 0},
		{"never an end", []answer{{"", overloaded}}, "", context.DeadlineExceeded, 5, 30 * time.Second},
	} {
		t.Run(row.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				c, start := &caller{answers: row.answers}, time.Now()
				got, err := Generate(ctx, c, provider.Endpoint{}, "small", "How do I sort a list?")
				if got != row.want || !errors.Is(err, row.err) || len(c.asked) != row.calls || time.Since(start) != row.took {
					t.Errorf("Generate = %q, %v after %d calls and %v; want %q, %v after %d and %v",
						got, err, len(c.asked), time.Since(start), row.want, row.err, row.calls, row.took)
				}
			})
		})
	}
}

func TestGenerateSendsTheBeginningOfALongPrompt(t *testing.T) {
	c := &caller{answers: []answer{{"Hello", nil}}}
	if _, err := Generate(t.Context(), c, provider.Endpoint{}, "small", strings.Repeat("é", 1<<20)); err != nil {
		t.Fatal(err)
	}
	ask := c.asked[0]
	if last := ask.Messages[len(ask.Messages)-1].Content; ask.Model != "small" || utf8.RuneCountInString(last) != maxPromptRunes {
		t.Errorf("asked model %q with %d runes, want small with %d", ask.Model, utf8.RuneCountInString(last), maxPromptRunes)
	}
}
