// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package chattest

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"
)

// Vendor is whose API a request spoke.
type Vendor string

// The vendors.
const (
	OpenAI    Vendor = "OpenAI"
	Anthropic Vendor = "Anthropic"
)

// Purpose is what a request is for, as told by whether it streams.
type Purpose string

// The purposes.
const (
	// PurposeAnswer is a request that streams.
	PurposeAnswer Purpose = "Answer"
	// PurposeTitle is a request that does not.
	PurposeTitle Purpose = "Title"
)

// Message is one turn of the conversation that a request sent.
type Message struct{ Role, Content string }

// Request is what a client asked.
type Request struct {
	Vendor  Vendor
	Purpose Purpose
	// Key tells the runs apart. It is LastUser unless the option Key says otherwise.
	Key string
	// N is the number of this request among those with its key and purpose, from 1:
	// the attempt as the provider sees it.
	N int
	// Seq is the number of this request among all, from 1.
	Seq    int
	Stream bool
	Model  string
	// System holds the system prompt, wherever the vendor puts it.
	System string
	// Messages holds the conversation, without Anthropic's system prompt.
	Messages []Message
	// LastUser is the content of the last message of the user.
	LastUser string
	// Parameters holds every member of the body as it came.
	Parameters map[string]json.RawMessage
	// Header is the request's header, the API key in it included.
	Header http.Header
	// APIKey is the key of the vendor's own header, "" if there is none.
	APIKey string
	// Path is the path of the URL.
	Path string
}

// parse reads a body into r. The error says only that the vendors would call
// it unparsable; what is missing is for the vendors' rules to find.
func (r *Request) parse(body []byte) error {
	if err := json.Unmarshal(body, &r.Parameters); err != nil {
		return err
	}
	var messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	err := errors.Join(
		r.member("model", &r.Model),
		r.member("stream", &r.Stream),
		r.member("messages", &messages),
	)
	for _, m := range messages {
		text, textErr := flatten(m.Content)
		err = errors.Join(err, textErr)
		r.Messages = append(r.Messages, Message{m.Role, text})
	}
	system, systemErr := flatten(r.Parameters["system"])
	r.System = system
	for _, m := range r.Messages {
		switch m.Role {
		case "user":
			r.LastUser = m.Content
		case "system", "developer":
			r.System += m.Content
		}
	}
	if !r.Stream {
		r.Purpose = PurposeTitle
	}
	return errors.Join(err, systemErr)
}

// has reports whether the body has a member that is not null.
func (r *Request) has(name string) bool {
	raw, ok := r.Parameters[name]
	return ok && string(raw) != "null"
}

// member decodes one member of the body; a missing one leaves v as it is.
func (r *Request) member(name string, v any) error {
	if !r.has(name) {
		return nil
	}
	return json.Unmarshal(r.Parameters[name], v)
}

// number returns a member that is a number, and whether there is one.
func (r *Request) number(name string) (float64, bool) {
	var n float64
	err := r.member(name, &n)
	return n, err == nil && r.has(name)
}

// flatten reads a content, which both vendors take as a string or as a list of
// blocks.
func flatten(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	if raw[0] == '"' {
		var text string
		err := json.Unmarshal(raw, &text)
		return text, err
	}
	var blocks []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &blocks); err != nil {
		return "", err
	}
	var text strings.Builder
	for _, b := range blocks {
		text.WriteString(b.Text)
	}
	return text.String(), nil
}
