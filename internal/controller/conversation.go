// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"chatrun.dev/operator/api/v1alpha1"
)

// maxMessages bounds the messages that are read from a ConfigMap. They are at
// most 900 KiB together, so this is a bound on nonsense, not on memory.
const maxMessages = 1024

// conversation is what a model is asked with.
type conversation struct {
	System   string             `json:"system,omitempty"`
	Messages []v1alpha1.Message `json:"messages"`
}

// The keys of the copy of a run's messages.
const (
	// ownKey holds what messagesFrom named, byte by byte: encoded again it might
	// be longer, and not fit.
	ownKey = "messages.json"
	// formerKey holds the conversation that continueFrom named.
	formerKey = "conversation.json"
	// saltKey holds the salt.
	saltKey = "salt"
)

// material is what a question is made of beside the spec: all that is copied
// when the first attempt starts, and asked by each one alike.
type material struct {
	// own is the text of messagesFrom, former the encoded conversation of
	// continueFrom. Each is empty if the run has none.
	own, former string
	// salt keeps the digest, which stands in a status, from telling what stands in a
	// Secret: without it a short answer is found by trying. Empty for a ConfigMap.
	salt string
}

func (m material) size() int { return len(m.own) + len(m.former) }

// digest is the SHA-256 of the material. Each part is preceded by its length, so
// that none can pass for a piece of the other.
func (m material) digest() string {
	h := sha256.New()
	parts := []string{m.own, m.former}
	if m.salt != "" {
		parts = append(parts, m.salt)
	}
	for _, part := range parts {
		// A hash takes any write.
		_ = binary.Write(h, binary.BigEndian, uint64(len(part)))
		_, _ = io.WriteString(h, part)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

func (m material) data() map[string]string {
	data := map[string]string{}
	if m.own != "" {
		data[ownKey] = m.own
	}
	if m.former != "" {
		data[formerKey] = m.former
	}
	if m.salt != "" {
		data[saltKey] = m.salt
	}
	return data
}

func materialOf(s *sheet) material {
	return material{own: s.data[ownKey], former: s.data[formerKey], salt: s.data[saltKey]}
}

// ask puts a question together: the former conversation, then the run's own
// messages. The run's system instruction stands in for the former one.
func ask(spec *v1alpha1.ChatRunSpec, m material) (conversation, error) {
	var c conversation
	if m.former != "" {
		if err := json.Unmarshal([]byte(m.former), &c); err != nil {
			return c, errors.New("the copy of the former conversation cannot be read")
		}
	}
	if spec.System != "" {
		c.System = spec.System
	}
	own := spec.Messages
	switch {
	case spec.Prompt != "":
		own = []v1alpha1.Message{{Role: v1alpha1.RoleUser, Content: spec.Prompt}}
	case m.own != "":
		var err error
		if own, err = parseMessages(m.own); err != nil {
			return c, err
		}
	}
	c.Messages = append(c.Messages, own...)
	return c, nil
}

// encode writes a conversation down to be copied. Without the escapes for
// browsers, which are six bytes for one.
func (c conversation) encode() string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(c); err != nil {
		panic(fmt.Sprintf("encoding a conversation: %v", err)) // it holds strings alone
	}
	return b.String()
}

// parseMessages reads a JSON list of messages. Its errors say where, and never
// repeat what stands there: they go into a status, which more people may read.
func parseMessages(raw string) ([]v1alpha1.Message, error) {
	if len(raw) > v1alpha1.MaxStoredBytes {
		return nil, fmt.Errorf("it has %d bytes, and %d are allowed", len(raw), v1alpha1.MaxStoredBytes)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(raw)))
	d.DisallowUnknownFields()
	var messages []v1alpha1.Message
	if err := d.Decode(&messages); err != nil {
		return nil, fmt.Errorf("it is not a JSON list of objects with the members role and content alone (near byte %d)", d.InputOffset())
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("something follows the list (at byte %d)", d.InputOffset())
	}
	switch {
	case len(messages) == 0:
		return nil, errors.New("the list is empty")
	case len(messages) > maxMessages:
		return nil, fmt.Errorf("it has %d messages, and %d are allowed", len(messages), maxMessages)
	}
	for i, m := range messages {
		switch m.Role {
		case v1alpha1.RoleSystem, v1alpha1.RoleUser, v1alpha1.RoleAssistant:
		default:
			return nil, fmt.Errorf("message %d has a role other than system, user and assistant", i+1)
		}
		if m.Content == "" {
			return nil, fmt.Errorf("message %d has no content", i+1)
		}
	}
	if messages[len(messages)-1].Role != v1alpha1.RoleUser {
		return nil, errors.New("the last message is not the user's")
	}
	return messages, nil
}
