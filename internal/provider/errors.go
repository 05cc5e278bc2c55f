// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"chatrun.dev/operator/internal/chatretry"
)

// fault is what a provider said of an error, in the words of any vendor.
type fault struct {
	// status is the HTTP answer, 0 inside a stream that began well.
	status int
	// code and kind are the provider's own error code and error type.
	code, kind string
	// param names the parameter at fault.
	param string
	// text is the provider's message. It is read, never shown.
	text string
	// explicit: the object says of itself that it is an error.
	explicit bool
}

// faultBody is the union of the error objects that vendors, servers and
// gateways send. Raw members come as a string here and a number there.
type faultBody struct {
	Error   json.RawMessage `json:"error"`
	Message json.RawMessage `json:"message"`
	Detail  json.RawMessage `json:"detail"`
	Type    json.RawMessage `json:"type"`
	Code    json.RawMessage `json:"code"`
	Param   json.RawMessage `json:"param"`
	Status  json.RawMessage `json:"status"`
	Object  json.RawMessage `json:"object"`
}

// parseFault reads an error out of a JSON body or event: {"error":{…}},
// {"error":"…"}, {"message":…}, {"detail":…}, or a list that holds one of them.
// It reports false if body is not JSON or tells of no error.
func parseFault(body []byte) (fault, bool) {
	body = bytes.TrimSpace(body)
	if list := []json.RawMessage(nil); bytes.HasPrefix(body, []byte("[")) {
		if json.Unmarshal(body, &list) != nil || len(list) == 0 {
			return fault{}, false
		}
		body = list[0]
	}
	var outer faultBody
	if json.Unmarshal(body, &outer) != nil {
		return fault{}, false
	}
	if isSet(outer.Error) {
		var inner faultBody
		f := outer.fault()
		if json.Unmarshal(outer.Error, &inner) == nil {
			f = inner.fault()
		} else {
			f.text = scalar(outer.Error) + " " + f.text
		}
		f.explicit = true
		return f, true
	}
	f := outer.fault()
	f.explicit = scalar(outer.Object) == "error" // vLLM
	return f, f.text != ""
}

// parseEventFault is parseFault for an event of a stream, where an object that
// only has a message may be something else.
func parseEventFault(e event) (fault, bool) {
	f, ok := parseFault(e.data)
	if string(e.name) == "error" && !ok {
		return fault{text: string(e.data)}, true
	}
	return f, ok && (f.explicit || string(e.name) == "error")
}

func (b faultBody) fault() fault {
	f := fault{code: scalar(b.Code), kind: scalar(b.Type), param: scalar(b.Param), text: scalar(b.Message)}
	if f.text == "" && isSet(b.Detail) {
		f.text = scalar(b.Detail)
		if f.text == "" {
			f.text = string(b.Detail)
		}
	}
	if f.kind == "" {
		f.kind = scalar(b.Status) // Google's, beside a numeric code.
	}
	return f
}

// isSet reports whether a member is there and not null.
func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// scalar returns a string's value or a number's digits, "" for anything else.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String()
	}
	return ""
}

// classify gives the class of a fault. What the vendor's tables know of its
// code or type comes first, unless the text holds a permanent word, for that
// beats everything transient; then the HTTP status; then transient words.
func (f fault) classify(tables ...map[string]chatretry.Class) chatretry.Class {
	named, known := lookUp(tables, f.code, f.kind)
	if known && !named.Retryable() {
		return named
	}
	class, status := f.byStatus()
	worded, ok := chatretry.ClassifyText(f.text)
	switch {
	// "Access denied due to invalid key": where the status knows more than the
	// words for a denial, it counts.
	case ok && worded == chatretry.PermissionDenied && class == chatretry.AuthenticationFailed:
		return class
	case ok && !worded.Retryable():
		return worded
	case known:
		return named
	case status == http.StatusNotFound && namesModel.MatchString(f.text):
		return chatretry.ModelNotFound
	case ok && class.Retryable():
		return worded
	}
	return class
}

// namesModel tells a model that is missing from a path that is.
var namesModel = regexp.MustCompile(`(?i)\bmodel\b`)

// kindStatus gives the HTTP status that a generic type of error comes with,
// for errors inside a stream, which have none.
var kindStatus = map[string]int{
	"invalid_request_error": http.StatusBadRequest,
	"badrequesterror":       http.StatusBadRequest, // vLLM
	"invalid_argument":      http.StatusBadRequest, // Google
	"bad request":           http.StatusBadRequest,
	"not_found_error":       http.StatusNotFound,
	"notfounderror":         http.StatusNotFound, // vLLM
	"not_found":             http.StatusNotFound, // Google
}

// byStatus gives the class by the HTTP status, or by a status that stands in
// the body as the error's code. Without either the type tells a refusal from a
// fault of the server; an error of which nothing is known is the server's.
func (f fault) byStatus() (chatretry.Class, int) {
	status := f.status
	if code, err := strconv.Atoi(f.code); err == nil && code >= 400 && code <= 599 && chatretry.ClassifyStatus(status) != chatretry.ClassifyStatus(code) {
		// The body's is the nearer one: a gateway that answers 200 or 500 in its
		// own name repeats there what it was told.
		if status < 400 || status >= 500 {
			status = code
		}
	}
	if status > http.StatusOK {
		return chatretry.ClassifyStatus(status), status
	}
	if status, ok := kindStatus[strings.ToLower(f.kind)]; ok {
		return chatretry.ClassifyStatus(status), status
	}
	return chatretry.ServerError, 0
}

// Codes returns the error codes and types, in lower case, that decide the class
// of a failure at a provider of this type whatever its HTTP status, unless a
// permanent word stands beside a transient code. Those of the other type are
// known as well, after these: gateways mix them.
func Codes(kind Type) map[string]chatretry.Class {
	if kind == Anthropic {
		return maps.Clone(anthropicCodes)
	}
	return maps.Clone(openAICodes)
}

// lookUp finds the first name that a table knows.
func lookUp(tables []map[string]chatretry.Class, names ...string) (chatretry.Class, bool) {
	for _, name := range names {
		name = strings.ToLower(name)
		for _, table := range tables {
			if class, ok := table[name]; ok {
				return class, true
			}
		}
	}
	return "", false
}
