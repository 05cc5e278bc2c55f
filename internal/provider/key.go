// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"fmt"
	"io"
	"strings"
)

// redacted stands for a key wherever one is printed.
const redacted = "[redacted]"

// Key is a secret. It prints as a placeholder by every verb of fmt, and as
// JSON or text; Reveal is the one way to its value.
type Key struct {
	// A pointer, since fmt calls no method on a field that is not exported: a
	// Key deep inside somebody's struct then prints an address, not the secret.
	value *string
}

// NewKey wraps a secret, trimmed of white space around it: a Secret made from
// a file ends in a line break.
func NewKey(value string) Key {
	value = strings.TrimSpace(value)
	if value == "" {
		return Key{}
	}
	return Key{&value}
}

// Reveal returns the secret, "" for the zero Key.
func (k Key) Reveal() string {
	if k.value == nil {
		return ""
	}
	return *k.value
}

// IsZero reports whether there is no secret.
func (k Key) IsZero() bool { return k.value == nil }

// String returns a placeholder.
func (k Key) String() string {
	if k.IsZero() {
		return ""
	}
	return redacted
}

// Format prints a placeholder, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// MarshalText returns a placeholder; encoding/json uses it too.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }
