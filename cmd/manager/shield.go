// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/rs/cors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"chatrun.dev/operator/internal/access"
)

const (
	// streamURLBytes holds a path, a query and a ticket, which is of 8 KiB at most.
	streamURLBytes = 12 << 10
	// streamBodyBytes holds what a client of OpenAI's API sends along, and nobody
	// reads: the messages.
	streamBodyBytes = 1 << 20
	// streamBodyTime is how long a body may take.
	streamBodyTime = 10 * time.Second
	// streamPreflight is how long a browser may remember what a page may do.
	streamPreflight = 10 * time.Minute
)

// bound refuses what is too large, and ends bodies that take longer than
// bodyTime.
func bound(bodyTime time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		// Tickets stand in URLs: what is loaded from here tells nobody of them.
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		if len(r.RequestURI) > streamURLBytes {
			access.Refuse(w, http.StatusRequestURITooLong, "RequestURITooLong", "the path and the query are too long")
			return
		}
		if r.Body != nil && r.Body != http.NoBody {
			control := http.NewResponseController(w)
			// A connection that cannot have a deadline is one of a test.
			_ = control.SetReadDeadline(time.Now().Add(bodyTime))
			r.Body = &timedBody{ReadCloser: http.MaxBytesReader(w, r.Body, streamBodyBytes), control: control}
		}
		if r.Body != nil && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			// A body that nobody reads hides that the reader left.
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				access.Refuse(w, http.StatusBadRequest, metav1.StatusReasonBadRequest, "the body did not come")
				return
			}
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody takes the deadline away when the body was read: what follows is a
// stream that may last for hours, and whose reader may leave at any time.
type timedBody struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// ownHost refuses requests that were not meant for this machine: a page on the
// web can make its own name point to loopback, and would be taken for ours.
func ownHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]")
		}
		if !isLoopback(host) {
			access.Refuse(w, http.StatusForbidden, metav1.StatusReasonForbidden, "this endpoint serves its own machine alone: ask for localhost or 127.0.0.1")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// shared lets the pages of other origins read, if there are any. Whether they
// may is asked before anything else, and without credentials, as browsers do.
func shared(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodHead, http.MethodPost},
		AllowedHeaders: []string{"Authorization", "Last-Event-ID", "If-None-Match", "Content-Type", "Accept"},
		ExposedHeaders: []string{"Retry-After", "ETag"},
		MaxAge:         int(streamPreflight / time.Second),
	}).Handler(next)
}
