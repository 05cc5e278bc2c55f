// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// retryAfter is what readers are told who come in vain, in seconds.
const retryAfter = "5"

// writeHeader begins an answer.
func writeHeader(w http.ResponseWriter, f format) {
	header := w.Header()
	header.Set("Content-Type", f.contentType())
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cache-Control", "no-store")
	// Proxies that hold answers back to fill a buffer know this one.
	header.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
}

// refuse answers with the object that kubectl and client libraries understand.
func refuse(w http.ResponseWriter, code int, reason, message string) {
	// A deadline of what was written before may be over by now.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(DefaultWriteTimeout))
	header := w.Header()
	if code == http.StatusServiceUnavailable {
		header.Set("Retry-After", retryAfter)
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	// A reader that is gone already needs no answer.
	_ = json.NewEncoder(w).Encode(map[string]any{
		"apiVersion": "v1", "kind": "Status", "metadata": struct{}{},
		"status": "Failure", "code": code, "reason": reason, "message": message,
	})
}

// unavailable refuses what may be had in a moment.
func unavailable(w http.ResponseWriter, message string) {
	refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable", message)
}

// notThere is the refusal of a run that does not exist, in Kubernetes' words.
func notThere(run string) (code int, reason, message string) {
	return http.StatusNotFound, "NotFound", "chatruns.chatrun.dev \"" + run + "\" not found"
}

// unread is the refusal of a finished run whose answer could not be read.
func unread(run string, err error) (code int, reason, message string) {
	if errors.Is(err, ErrNotFound) {
		return notThere(run)
	}
	return http.StatusServiceUnavailable, "ServiceUnavailable", "the answer could not be read: try again"
}

// reasonOf is Kubernetes' word for the code of a bad request.
func reasonOf(code int) string {
	if code == http.StatusRequestEntityTooLarge {
		return "RequestEntityTooLarge"
	}
	return "BadRequest"
}
