// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package screen shows a run to a person, or to a program at the other end of a pipe.
// What a model, a provider or a title says is untrusted: on a terminal it moves no
// cursor, sets no colour and turns no text around.
package screen

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxLine bounds what is said in one line: messages of the API have at most 1,024
// bytes, and a person reads no more.
const maxLine = 1200

// Clean is a text without what a terminal obeys: control characters but for the new
// line and the tab, and those that turn the direction of text. An escape is shown as
// kubectl shows it, ^[, and no carriage return stays to write over a line.
func Clean(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		return printable(r)
	}, strings.ReplaceAll(strings.ToValidUTF8(text, string(utf8.RuneError)), "\x1b", "^["))
}

// Line is a text in one line, bounded, without what a terminal obeys.
func Line(text string) string {
	text = strings.Join(strings.Fields(Clean(text)), " ")
	if len(text) <= maxLine {
		return text
	}
	cut := maxLine
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

// printable is a character, or -1 for one that is none. Those of the category Cf are
// told apart: joiners belong to words and to emoji, the others only hide or turn text.
func printable(r rune) rune {
	switch {
	case r == '\u200c', r == '\u200d':
		return r
	case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
		return -1
	default:
		return r
	}
}
