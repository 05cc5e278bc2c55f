// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
)

const (
	// maxMessage bounds a message that people are shown: a table cell and a log
	// line stay readable.
	maxMessage = 300
	// maxName bounds a name inside a message, so that the advice after it is not
	// the part that is cut.
	maxName = 63
)

// wording is how a class is told: what happened, and what to do. %s stands
// for the provider.
type wording struct{ what, todo string }

var wordings = map[chatretry.Class]wording{
	chatretry.RateLimited:           {"%s limits the rate of requests", "another attempt may succeed; if it persists, ask the provider for a higher limit, or start fewer runs at once"},
	chatretry.Overloaded:            {"%s is overloaded", "another attempt may succeed"},
	chatretry.ServerError:           {"%s failed", "another attempt may succeed"},
	chatretry.Timeout:               {"%s timed out", "another attempt may succeed"},
	chatretry.ConnectionError:       {"no connection to %s", "check baseURL and the network"},
	chatretry.StreamInterrupted:     {"the stream of %s ended before the answer was complete", "another attempt may succeed"},
	chatretry.AuthenticationFailed:  {"%s refused the key", "check the Secret that credentials.secretKeyRef names"},
	chatretry.PermissionDenied:      {"%s denies this request", "check what the key may do"},
	chatretry.QuotaExhausted:        {"the account at %s has no quota left", "check its plan and billing"},
	chatretry.ContextLengthExceeded: {"the question is longer than %s can read", "shorten it, or choose a model with a larger context"},
	chatretry.ModelNotFound:         {"%s has no such model, or not for this key", "check the run's model and the provider's defaultModel"},
	chatretry.InvalidRequest:        {"%s refuses the request", "check model, parameters and baseURL; the manager's log has the provider's words"},
	chatretry.ContentFiltered:       {"%s refused to answer, or filtered the answer", "change the question"},
	chatretry.EmptyAnswer:           {"%s ended its answer without any text", "change the question or the model"},
}

// fail makes the failure of a class in our own words. Where what or todo are
// empty, the class's own stand in.
func (c *call) fail(class chatretry.Class, what, todo string) *chatretry.Failure {
	w := wordings[class]
	if what == "" {
		what = w.what
	}
	if todo == "" {
		todo = w.todo
	}
	name := fmt.Sprintf("provider %q", cut(c.to.Name, maxName))
	return &chatretry.Failure{Class: class, Message: cut(strings.Replace(what, "%s", name, 1)+": "+todo, maxMessage)}
}

// failCause is fail with a cause for the log.
func (c *call) failCause(class chatretry.Class, what, todo string, cause error) *chatretry.Failure {
	f := c.fail(class, what, todo)
	f.Err = c.cause(cause)
	return f
}

// cause is err for the log. What transports say may repeat what the other side
// sent: a status line, a header, the names in a certificate.
func (c *call) cause(err error) error {
	if err == nil {
		return nil
	}
	return &loggedError{text: c.excerpt([]byte(err.Error())), cause: err}
}

// loggedError is an error whose text is redacted and bounded. What it stands
// for can be asked with errors.Is, and is not handed out.
type loggedError struct {
	text  string
	cause error
}

func (e *loggedError) Error() string { return e.text }

// GoString keeps %#v from showing the cause.
func (e *loggedError) GoString() string { return e.text }

// Is reports whether the cause is, or wraps, target.
func (e *loggedError) Is(target error) bool { return errors.Is(e.cause, target) }

// blame makes the failure of a provider's fault. The body is for the log.
func (c *call) blame(f fault, body []byte) *chatretry.Failure {
	class := f.classify(c.vendor.codes, openAICodes, anthropicCodes)
	what, todo := c.advice(class, f)
	if what == "" {
		what = wordings[class].what
	}
	if f.status > 0 && f.status != 200 {
		what += fmt.Sprintf(" (HTTP %d)", f.status)
	}
	failure := c.fail(class, what, todo)
	failure.HTTPStatus = f.status
	failure.Code = c.safeCode(f.code, f.kind)
	if excerpt := c.excerpt(body); excerpt != "" {
		failure.Err = errors.New("provider said: " + excerpt)
	}
	return failure
}

// ourParameters are those that we send, so that their names say nothing of
// the provider's.
var ourParameters = map[string]string{
	"model": "model", "messages": "messages", "system": "system",
	"temperature": "parameters.temperature", "top_p": "parameters.topP",
	"stop": "parameters.stop", "stop_sequences": "parameters.stop",
	"max_tokens": "parameters.maxOutputTokens", "max_completion_tokens": "parameters.maxOutputTokens",
}

// advice finds better words than the class's own, where more is known.
func (c *call) advice(class chatretry.Class, f fault) (what, todo string) {
	switch {
	case class == chatretry.AuthenticationFailed && c.to.Key.IsZero():
		return "%s demands a key", "name a Secret in credentials.secretKeyRef"
	case class == chatretry.ModelNotFound:
		return fmt.Sprintf("%%s has no model %q, or not for this key", cut(c.ask.Model, maxName)), ""
	case class == chatretry.ContextLengthExceeded:
		return fmt.Sprintf("the question to %%s is longer than model %q can read", cut(c.ask.Model, maxName)), ""
	case class != chatretry.InvalidRequest:
		return "", ""
	case f.status >= 300 && f.status < 400:
		return "the address of %s redirects, which is not followed", "set baseURL to where it leads"
	case f.status == 404 || f.status == 405:
		return "%s has nothing at this address", "check baseURL, which ends in /v1 for most servers of type OpenAI"
	case c.to.Type == OpenAI && f.param == "max_tokens" && strings.Contains(f.text, "max_completion_tokens"):
		return "%s does not know max_tokens", "set openAI.tokenLimitParameter to MaxCompletionTokens"
	case c.to.Type == OpenAI && f.param == "max_completion_tokens":
		return "%s does not know max_completion_tokens", "set openAI.tokenLimitParameter to MaxTokens"
	}
	if field, ok := ourParameters[f.param]; ok {
		return "%s refuses " + field, "change it; the manager's log has the provider's words"
	}
	return "", ""
}

// cut returns text in at most limit bytes, ending at a character.
func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	const ellipsis = "…"
	end := limit - len(ellipsis)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + ellipsis
}
