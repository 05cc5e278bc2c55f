// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/go-logr/logr"
)

const (
	// maxLoggedPath is longer than any path of a run, maxLoggedMethod than any
	// method.
	maxLoggedPath, maxLoggedMethod = 512, 16
	// answerTimeout is how long an answer may take to be written.
	answerTimeout = 10 * time.Second
)

// Log writes a line for each request when it has ended: at level 1, or at level
// 0 if it was refused. Of what the caller sent only the method and the path are
// written. The query is not, as it may hold a ticket; nor is any header.
func Log(logger logr.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := &entry{ResponseWriter: w}
		// Before the request goes on, as handlers may rewrite it.
		method, path, started := r.Method, r.URL.Path, time.Now()
		method, path = method[:min(len(method), maxLoggedMethod)], loggable(path)
		defer func() {
			level := 1
			// Who left before the answer was not refused.
			if e.code >= http.StatusBadRequest && r.Context().Err() == nil {
				level = 0
			}
			logger.V(level).Info("request", "method", method, "path", path, "code", e.code, "user", e.user,
				"duration", time.Since(started).String(), "bytes", e.bytes, "aborted", !e.returned)
		}()
		next.ServeHTTP(e, r.WithContext(context.WithValue(r.Context(), entryKey{}, e)))
		e.returned = true
		if e.code == 0 {
			e.code = http.StatusOK
		}
	})
}

// loggable cuts a path, and what looks like a query in it: who encodes a URL
// twice sends a ticket there.
func loggable(path string) string {
	path, _, _ = strings.Cut(path, "?")
	return path[:min(len(path), maxLoggedPath)]
}

type entryKey struct{}

// note keeps the caller's name for the log.
func note(ctx context.Context, caller string) {
	if e, ok := ctx.Value(entryKey{}).(*entry); ok {
		e.user = caller
	}
}

// entry sees what is answered.
type entry struct {
	http.ResponseWriter
	user  string
	code  int
	bytes int64
	// returned is false if the handler gave up on the connection.
	returned bool
}

// WriteHeader implements http.ResponseWriter.
func (e *entry) WriteHeader(code int) {
	// Informational answers come before the one that counts.
	if e.code == 0 && code >= http.StatusOK {
		e.begin(code)
	}
	e.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (e *entry) Write(p []byte) (int, error) {
	if e.code == 0 {
		e.begin(http.StatusOK)
	}
	n, err := e.ResponseWriter.Write(p)
	e.bytes += int64(n)
	return n, err
}

// begin gives the answer a deadline, or who asks and never reads would keep it
// here for ever: refusals are for anybody. A stream sets its own as it goes.
func (e *entry) begin(code int) {
	e.code = code
	// A connection that cannot have one is of a test.
	_ = http.NewResponseController(e.ResponseWriter).SetWriteDeadline(time.Now().Add(answerTimeout))
}

// Unwrap lets an http.ResponseController flush and set deadlines.
func (e *entry) Unwrap() http.ResponseWriter { return e.ResponseWriter }
