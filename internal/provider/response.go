// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"

	"chatrun.dev/operator/internal/chatretry"
)

const (
	// maxErrorBody and errorBodyTime bound what is read of an error, in which
	// the first few hundred bytes tell all.
	maxErrorBody  = 64 << 10
	errorBodyTime = 5 * time.Second
	// drainBytes and drainTime bound what is read after the terminal event, so
	// that the connection can be used again: a blank line and the last chunk.
	drainBytes = 4 << 10
	drainTime  = 100 * time.Millisecond
)

// drain reads the little that may follow the last event, within a bound.
func drain(body io.Reader, cancel context.CancelCauseFunc) {
	timer := time.AfterFunc(drainTime, func() { cancel(nil) })
	defer timer.Stop()
	_, _ = io.CopyN(io.Discard, body, drainBytes)
}

// readShort reads a body that should be short, within bounds. What came in the
// time is enough.
func readShort(body io.Reader, cancel context.CancelCauseFunc) ([]byte, error) {
	timer := time.AfterFunc(errorBodyTime, func() { cancel(nil) })
	got, err := io.ReadAll(io.LimitReader(body, maxErrorBody))
	if late := !timer.Stop(); late {
		err = nil
	}
	return got, err
}

// refused makes the failure of an answer that is not 200.
func (c *call) refused(response *http.Response, cancel context.CancelCauseFunc) *chatretry.Failure {
	body, _ := readShort(response.Body, cancel) // The status is known anyway.
	f, ok := parseFault(body)
	if !ok && !isPage(response, body) {
		f.text = string(body)
	}
	f.status = response.StatusCode
	failure := c.blame(f, body)
	failure.RetryAfter = chatretry.ParseRetryAfter(response.Header, time.Now())
	return failure
}

// isPage reports whether a body is a web page. Its words are nobody's error
// message: a page of any kind may tell of forbidden things.
func isPage(response *http.Response, body []byte) bool {
	return mediaType(response) == "text/html" || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<"))
}

func mediaType(response *http.Response) string {
	media, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	return media
}

// checkStream refuses a 200 that is no event stream. Such an answer is final,
// like every other HTTP answer that nobody foresaw: a web page comes from a
// wrong baseURL or a portal in between, and it will come again. An error
// object is what it says. A body without any event is left to the reader,
// which finds that the terminal event is missing.
func (c *call) checkStream(response *http.Response, events *eventReader, cancel context.CancelCauseFunc) *chatretry.Failure {
	if encoding := response.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
		failure := c.fail(chatretry.InvalidRequest, "%s compressed its answer unasked", "switch compression off there")
		failure.HTTPStatus = response.StatusCode
		return failure
	}
	start := events.peek()
	switch mediaType(response) {
	case "text/event-stream":
		// No field of an event begins so; an error object or a page does.
		if !bytes.ContainsAny(start[:min(len(start), 1)], "{[<") {
			return nil
		}
	case "text/plain", "": // Known sinners send events under these.
		if len(start) == 0 || looksLikeEvents(start) {
			return nil
		}
	}
	body, err := readShort(events.unread(), cancel)
	if err != nil {
		failure := c.interrupted(err)
		failure.HTTPStatus = response.StatusCode
		return failure
	}
	return c.odd(response, body, "%s answered with something that is no event stream")
}

// odd makes the failure of a 200 whose body is not what was asked for.
func (c *call) odd(response *http.Response, body []byte, what string) *chatretry.Failure {
	f, ok := parseFault(body)
	failure := c.blame(f, body)
	switch {
	case ok:
	case isPage(response, body):
		failure = c.failCause(chatretry.InvalidRequest, "%s answered with a web page", "check baseURL, and the gateways on the way", failure.Err)
	default:
		failure = c.failCause(chatretry.InvalidRequest, what, "check baseURL and type", failure.Err)
	}
	failure.HTTPStatus = response.StatusCode
	failure.RetryAfter = chatretry.ParseRetryAfter(response.Header, time.Now())
	return failure
}

// interrupted makes the failure of a body that broke off.
func (c *call) interrupted(err error) *chatretry.Failure {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF):
		return c.failCause(chatretry.StreamInterrupted, "", "", err)
	case errors.Is(err, errEventTooLong):
		return c.failCause(chatretry.InvalidRequest, "%s sent an event above 8 MiB", "check what answers at baseURL", err)
	default:
		return c.failCause(chatretry.ConnectionError, "the connection to %s broke during the answer", "another attempt may succeed", fmt.Errorf("reading the answer: %w", err))
	}
}
