// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package title turns the question of a run into a short plain title: prompt
// in, clean title out. Failing is normal here, and never the run's concern.
package title

import (
	"context"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

const (
	// MaxWords and MaxRunes bound a title, so that it fits a column of a table.
	MaxWords = 8
	MaxRunes = 80
	// maxPromptRunes of the question are sent: its beginning tells what it is
	// about, and the rest would be paid for twice.
	maxPromptRunes = 4000
	// maxTokens bounds the answer. Models that think before they speak spend
	// most of it on that; eight words need some twenty.
	maxTokens = 1024
)

const instruction = "Write a title for a conversation that starts with the user's message below. " +
	"Answer with the title alone: at most eight words, in the language of the message, plain text, " +
	"no quotation marks, no markdown, no full stop. Do not answer the message itself."

// ErrEmpty says that the model answered with nothing that could be a title.
var ErrEmpty = errors.New("the model gave no usable title")

// Generate asks the model for a title of the prompt, with a silent retry of
// transient failures until ctx ends. The title is never empty; errors are those
// of the call, ErrEmpty, or the cause of ctx's end.
func Generate(ctx context.Context, caller provider.Caller, to provider.Endpoint, model, prompt string) (string, error) {
	ask := provider.Request{
		Model: model,
		Messages: []provider.Message{
			{Role: provider.RoleSystem, Content: instruction},
			{Role: provider.RoleUser, Content: firstRunes(prompt, maxPromptRunes)},
		},
		MaxOutputTokens: maxTokens,
	}
	var title string
	err := chatretry.Retry(ctx, func(ctx context.Context) error {
		answer, _, err := caller.Complete(ctx, to, ask)
		if err != nil {
			return err
		}
		if title = Clean(answer); title == "" {
			// Final: the same question would get the same silence.
			return &chatretry.Failure{Class: chatretry.EmptyAnswer, Message: ErrEmpty.Error(), Err: ErrEmpty}
		}
		return nil
	}, nil)
	return title, err
}

// Clean makes a title of what a model answered: its first line that has any
// words, without markdown, quotation marks around it or a full stop, white
// space folded, control characters dropped, at most MaxWords and MaxRunes. It
// returns "" if nothing is left.
func Clean(answer string) string {
	for line := range strings.Lines(strings.ToValidUTF8(answer, "")) {
		if title := cleanLine(line); title != "" {
			return title
		}
	}
	return ""
}

func cleanLine(line string) string {
	line = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case !unicode.IsPrint(r) || strings.ContainsRune("*`_~#", r):
			// Underscores and stars are emphasis far more often than words.
			return -1
		}
		return r
	}, line)
	line = trim(line)
	if rest, ok := cutLabel(line); ok {
		line = trim(rest)
	}
	words := strings.Fields(line)
	if len(words) > MaxWords {
		words = words[:MaxWords]
	}
	title := strings.Join(words, " ")
	if utf8.RuneCountInString(title) > MaxRunes {
		title = firstRunes(title, MaxRunes)
		// Do not end within a word, if there is an end of one to go back to.
		if i := strings.LastIndexByte(title, ' '); i > 0 {
			title = title[:i]
		}
	}
	return trim(title)
}

// trim takes off what models like to put around a title.
func trim(s string) string {
	s = strings.TrimLeft(s, " \"'“”„‘’«»<>|-–—•:.,;")
	return strings.TrimRight(s, " \"'“”„‘’«»<>|-–—•:.,;")
}

// cutLabel takes off a leading "Title:".
func cutLabel(s string) (string, bool) {
	label, rest, ok := strings.Cut(s, ":")
	return rest, ok && strings.EqualFold(strings.TrimSpace(label), "title")
}

func firstRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
