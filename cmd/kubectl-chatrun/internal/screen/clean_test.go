// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package screen

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestCleanTakesOutWhatATerminalObeys(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"plain text":            {"Grüße, 世界 👋\n\tok", "Grüße, 世界 👋\n\tok"},
		"colour (CSI)":          {"a\x1b[31mb", "a^[[31mb"},
		"clipboard (OSC 52)":    {"\x1b]52;c;cm0gLXJm\x07x", "^[]52;c;cm0gLXJmx"},
		"link (OSC 8, ST)":      {"\x1b]8;;http://x\x1b\\y", "^[]8;;http://x^[\\y"},
		"CSI in UTF-8":          {"a\u009b31mb", "a31mb"},
		"OSC in UTF-8":          {"a\u009d0;t\u009cb", "a0;tb"},
		"raw CSI":               {"a\x9b31mb", "a\ufffd31mb"},
		"bell":                  {"a\x07b", "ab"},
		"carriage return":       {"secret\rpublic", "secretpublic"},
		"line end of Windows":   {"a\r\nb", "a\nb"},
		"backspace and delete":  {"a\b\x7fb", "ab"},
		"null, form feed, tab":  {"a\x00\v\f\tb", "a\tb"},
		"bidi override":         {"a\u202eb\u202cc", "abc"},
		"bidi isolates":         {"\u2066a\u2067b\u2068c\u2069", "abc"},
		"bidi marks":            {"\u200ea\u200f\u061cb", "ab"},
		"line separators":       {"a\u2028b\u2029c", "abc"},
		"hidden tags":           {"a\U000e0041\ufeff\u200bb", "ab"},
		"joiners of emoji stay": {"👩\u200d🚀", "👩\u200d🚀"},
		"cut rune":              {"a\xe4\xb8", "a\ufffd"},
		"overlong escape":       {"\xc0\x9b[2J", "\ufffd[2J"},
		"surrogate":             {"\xed\xa0\x80", "\ufffd"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Clean(c.in); got != c.want {
				t.Errorf("Clean(%q) = %q, want %q", c.in, got, c.want)
			}
		})
	}
}

func TestLineIsOneLineAndBounded(t *testing.T) {
	if got := Line(" a\n\tb\r\n\x1b[2Jc "); got != "a b ^[[2Jc" {
		t.Errorf("Line gives %q", got)
	}
	long := Line(strings.Repeat("世", maxLine))
	if !utf8.ValidString(long) || len(long) > maxLine+len("…") || !strings.HasSuffix(long, "世…") {
		t.Errorf("a long line becomes %d bytes, ending in %q", len(long), long[len(long)-6:])
	}
	exact := strings.Repeat("a", maxLine)
	if Line(exact) != exact {
		t.Error("a line of the longest size is cut")
	}
}

func FuzzClean(f *testing.F) {
	for _, seed := range []string{
		"plain\ttext\n", "\x1b[2J", "\x1b]0;t\x07", "\u009b1m", "\x9b1m", "a\rb", "\u202eabc", "\xff\xfe", "👩\u200d🚀", "\x7f\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, in string) {
		out := Clean(in)
		if !utf8.ValidString(out) {
			t.Fatalf("Clean(%q) = %q, which is no UTF-8", in, out)
		}
		clean := utf8.ValidString(in)
		for _, r := range out {
			if obeyed(r) {
				t.Fatalf("Clean(%q) = %q lets %U through", in, out, r)
			}
		}
		for _, r := range in {
			clean = clean && !obeyed(r)
		}
		if clean && out != in {
			t.Fatalf("clean text %q becomes %q", in, out)
		}
		if again := Clean(out); again != out {
			t.Fatalf("Clean(%q) = %q, which cleaned anew is %q", in, out, again)
		}
		if line := Line(in); strings.ContainsAny(line, "\n\t\r\x1b") || len(line) > maxLine+len("…") {
			t.Fatalf("Line(%q) = %q", in, line)
		}
	})
}

// obeyed says by the ranges themselves, and not by the code under test, what is not to
// reach a terminal.
func obeyed(r rune) bool {
	switch {
	case r == '\n' || r == '\t' || r == '\u200c' || r == '\u200d':
		return false
	case r < 0x20, r >= 0x7f && r <= 0x9f, r == '\u2028', r == '\u2029':
		return true
	default:
		return unicode.Is(unicode.Cf, r)
	}
}
