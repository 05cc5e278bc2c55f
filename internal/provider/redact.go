// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
)

const (
	// maxExcerpt bounds what the log gets of a provider's own words.
	maxExcerpt = 2 << 10
	// maxCode bounds a provider's error code.
	maxCode = 64
	// keyFragment is the length from which a piece of the key is hidden as well:
	// servers repeat the beginning or the end of a wrong key, or escape a
	// character in the middle of it. Shorter pieces are in ordinary words too.
	keyFragment = 8
)

// keyLike matches what looks like a credential: keys with the vendors'
// prefixes, also masked ones, bearer tokens, signed tokens, passwords in URLs.
var keyLike = regexp.MustCompile(`(?i)\b(?:sk|pk|rk|gsk|xai|key|ghp|gho|hf|nvapi|pplx|fw|r8)[-_][a-z0-9*_\-]{6,}` +
	`|\bAIza[a-z0-9_\-]{16,}|\bAKIA[a-z0-9]{12,}` +
	`|\b(?:bearer|basic)\s+[a-z0-9._~+/=\-]{6,}` +
	`|\beyJ[a-z0-9_\-]{8,}(?:\.[a-z0-9_\-]*)*` +
	`|://[^/@\s"]*@` +
	`|[^\s"']*[*]{3,}[^\s"']*` +
	`|[?&][^=\s"&]*(?:key|token|secret|signature|sig)=[^&\s"]+`)

// urlQuery matches an address that has a query: whatever stands there, it is
// not needed to find a fault.
var urlQuery = regexp.MustCompile(`(?i)(https?:\\?/\\?/[^\s"'<>?]*)\?[^\s"'<>]*`)

// excerpt returns one line of a body for the log, redacted and bounded.
func (c *call) excerpt(body []byte) string {
	// Four times what is kept is enough to find it in.
	body = body[:min(len(body), 4*maxExcerpt)]
	text := hideKey(string(bytes.ToValidUTF8(body, []byte("?"))), c.to.Key.Reveal())
	text = urlQuery.ReplaceAllString(text, "$1?"+redacted)
	text = keyLike.ReplaceAllString(text, redacted)
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	return cut(strings.Join(strings.Fields(text), " "), maxExcerpt)
}

// hideKey replaces the key, and every piece of it of keyFragment bytes.
func hideKey(text, key string) string {
	if key == "" {
		return text
	}
	size := min(len(key), keyFragment)
	pieces := make(map[string]bool, len(key))
	for i := range len(key) - size + 1 {
		pieces[key[i:i+size]] = true
	}
	var b strings.Builder
	kept := 0 // text[:kept] is written
	for i := 0; i+size <= len(text); i++ {
		if !pieces[text[i:i+size]] {
			continue
		}
		end := i + size
		for end < len(text) && pieces[text[end+1-size:end+1]] {
			end++
		}
		b.WriteString(text[kept:i])
		b.WriteString(redacted)
		kept, i = end, end-1
	}
	b.WriteString(text[kept:])
	return b.String()
}

// safeCode returns the first name that reads like an error code.
func (c *call) safeCode(names ...string) string {
	for _, name := range names {
		if name == "" || len(name) > maxCode || keyLike.MatchString(name) || hideKey(name, c.to.Key.Reveal()) != name {
			continue
		}
		if strings.IndexFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("_-. ", r)
		}) < 0 {
			return name
		}
	}
	return ""
}
