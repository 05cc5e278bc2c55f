// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import "strings"

// Script decides what a request is answered with. It is called from many
// goroutines at once, and must return at once: waits belong into the Response.
// For the zero Response the server answers with its default.
type Script func(Request) Response

// Sequence answers the n-th request of a run with the n-th response, and every
// later one with the last. It holds no state: Request.N tells the number.
func Sequence(responses ...Response) Script {
	return func(r Request) Response {
		if len(responses) == 0 {
			return Response{}
		}
		return responses[min(r.N, len(responses))-1]
	}
}

// Always answers every request with the same response.
func Always(response Response) Script { return Sequence(response) }

// Words cuts a text before each of its words, as a model's tokens roughly are:
// joined again they are the text.
func Words(text string) []string {
	var words []string
	for text != "" {
		// The first byte is skipped so that a leading space opens no empty word.
		cut := strings.IndexByte(text[1:], ' ') + 1
		if cut == 0 {
			cut = len(text)
		}
		words = append(words, text[:cut])
		text = text[cut:]
	}
	return words
}
