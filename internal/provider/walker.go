// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"unicode/utf8"
)

// walker reads a JSON text from left to right, and gives up at anything that it does
// not expect. Almost all events of a stream are alike, and hold a few letters: what
// encoding/json does for each is the largest part of what a token costs. Whoever uses
// a walker falls back to encoding/json where it gives up, and a fuzz test holds the two
// against each other.
type walker struct {
	data []byte
	at   int
	// odd says that it gave up.
	odd bool
}

// space passes over white space.
func (w *walker) space() {
	for w.at < len(w.data) {
		switch w.data[w.at] {
		case ' ', '\t', '\n', '\r':
			w.at++
		default:
			return
		}
	}
}

// is passes over a byte, with the white space before it, if that is what comes.
func (w *walker) is(c byte) bool {
	w.space()
	if w.at < len(w.data) && w.data[w.at] == c {
		w.at++
		return true
	}
	return false
}

// want passes over a byte that has to come.
func (w *walker) want(c byte) {
	if !w.is(c) {
		w.odd = true
	}
}

// word passes over a word that has to come.
func (w *walker) word(word string) {
	w.space()
	if len(w.data)-w.at < len(word) || string(w.data[w.at:w.at+len(word)]) != word {
		w.odd = true
		return
	}
	w.at += len(word)
}

// end reports whether all was read, and was as expected.
func (w *walker) end() bool {
	w.space()
	return !w.odd && w.at == len(w.data)
}

// members calls a function with the key of each member of an object, to read its value.
// No key has an escape.
func (w *walker) members(value func(key []byte)) {
	if w.want('{'); w.odd || w.is('}') {
		return
	}
	for {
		key, plain := w.raw()
		if !plain {
			w.odd = true
		}
		if w.want(':'); w.odd {
			return
		}
		if value(key); w.odd {
			return
		}
		if w.is(',') {
			continue
		}
		w.want('}')
		return
	}
}

// raw reads a string, without its quotes. It is plain if what stands there is what is
// meant: ASCII or UTF-8, and no escapes.
func (w *walker) raw() (text []byte, plain bool) {
	if w.want('"'); w.odd {
		return nil, false
	}
	start, ascii := w.at, true
	plain = true
	for w.at < len(w.data) {
		switch c := w.data[w.at]; {
		case c == '"':
			text = w.data[start:w.at]
			w.at++
			return text, plain && (ascii || utf8.Valid(text))
		case c < ' ':
			w.odd = true
			return nil, false
		case c == '\\':
			plain = false
			// Which ones there are is encoding/json's to know; that this one does not
			// end the string is enough, as what is not plain is not taken.
			w.at++
		case c >= utf8.RuneSelf:
			ascii = false
		}
		w.at++
	}
	w.odd = true
	return nil, false
}

// text reads a string. Its escapes are the common ones: for others it gives up.
func (w *walker) text() string {
	raw, plain := w.raw()
	switch {
	case w.odd:
		return ""
	case plain:
		return string(raw)
	}
	return w.unescape(raw)
}

// escapes are what stands behind a backslash, and what it means.
var escapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

func (w *walker) unescape(raw []byte) string {
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		c := raw[i]
		if c == '\\' {
			// raw ends in no backslash: the one before its quote would be an escape.
			i++
			if c = escapes[raw[i]]; c == 0 {
				w.odd = true // a rune by its number
				return ""
			}
		}
		out = append(out, c)
	}
	if !utf8.Valid(out) {
		w.odd = true
	}
	return string(out)
}

// skip passes over a value that means nothing here: null, true, false, a whole number
// or a plain string.
func (w *walker) skip() {
	w.space()
	if w.at == len(w.data) {
		w.odd = true
		return
	}
	switch c := w.data[w.at]; {
	case c == '"':
		if _, plain := w.raw(); !plain {
			w.odd = true
		}
	case c == 'n':
		w.word("null")
	case c == 't':
		w.word("true")
	case c == 'f':
		w.word("false")
	case c == '0':
		w.at++ // none that goes on is valid, and 0.5 is no whole number
	case c >= '1' && c <= '9':
		for w.at < len(w.data) && w.data[w.at] >= '0' && w.data[w.at] <= '9' {
			w.at++
		}
	default:
		w.odd = true
	}
}
