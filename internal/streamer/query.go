// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// MaxWait bounds `?wait=`: longer than an apply and its admission take, shorter
// than what a proxy lets a request be silent.
const MaxWait = 5 * time.Minute

// format is how a stream is written.
type format uint8

const (
	formatEvents format = iota
	formatOpenAI
	formatText
)

func (f format) contentType() string {
	if f == formatText {
		return "text/plain; charset=utf-8"
	}
	return "text/event-stream"
}

// query is what a request asks for.
type query struct {
	format format
	// follow goes on until the run ends; without it the answer ends with what is
	// there now.
	follow bool
	// hold sends no text before the run has succeeded.
	hold bool
	// wait is how long a run that does not exist is waited for.
	wait time.Duration
	// after is the id of the last frame that the reader has; empty if it has none.
	after string
	// usage sends a chunk with the usage, in OpenAI's format.
	usage bool
}

// parseQuery reads the parameters of a stream. Its errors are for the reader.
func parseQuery(r *http.Request, follow bool) (query, error) {
	q := query{follow: follow, usage: true}
	// Not URL.Query, which swallows what it cannot read.
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, errors.New("the query is malformed")
	}
	switch s := values.Get("format"); s {
	case "", "events":
	case "openai":
		q.format = formatOpenAI
	case "text":
		q.format = formatText
	default:
		return q, errors.New("format must be events, openai or text")
	}
	if q.format != formatEvents {
		q.follow = true // there is no proper end but that of the run
	}
	for name, value := range map[string]*bool{"follow": &q.follow, "hold": &q.hold} {
		if !values.Has(name) {
			continue
		}
		// A parameter without a value is one that is set.
		if *value, err = strconv.ParseBool(cmp.Or(values.Get(name), "true")); err != nil {
			return q, fmt.Errorf("%s must be true or false", name)
		}
	}
	if s := values.Get("wait"); s != "" {
		if q.wait, err = time.ParseDuration(s); err != nil || q.wait < 0 || q.wait > MaxWait {
			return q, fmt.Errorf("wait must be a duration from 0s to %s, such as 30s", MaxWait)
		}
	}
	if q.format != formatEvents && !q.follow {
		return q, errors.New("follow=false is for format=events: the end of any other is that of the run")
	}
	// An EventSource that comes back sends its newest id in the header, and the
	// first one still in the URL.
	q.after = cmp.Or(r.Header.Get("Last-Event-ID"), values.Get("after"))
	return q, nil
}

// The bounds of names in Kubernetes.
const (
	maxLabel     = 63
	maxSubdomain = 253
)

// isLabel reports whether s can name a namespace.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return isNameBytes(s)
}

// isSubdomain reports whether s can name an object.
func isSubdomain(s string) bool {
	if len(s) > maxSubdomain {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' || !isNameBytes(part) {
			return false
		}
	}
	return true
}

func isNameBytes(s string) bool {
	for _, c := range []byte(s) {
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}
